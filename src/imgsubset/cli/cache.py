"""imgsubset embed and cache: fill the feature cache, list it, delete from it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click
from platformdirs import user_cache_path

from imgsubset.cli import options as opt
from imgsubset.cli.help import HelpGroup
from imgsubset.cli.output import Command, Output
from imgsubset.errors import UsageError
from imgsubset.options import Options
from imgsubset.results.as_json import RECORD_KEYS, describe_cache, describe_embed_result
from imgsubset.results.as_text import cache_summary, embed_summary
from imgsubset.results.text import printable
from imgsubset.tasks.embed import embed, parse_shard


@click.command("embed", cls=Command, short_help="Decode a source, or a piece of it, into the cache.")
@click.argument("source", metavar="SRC", type=opt.PATH)
@click.option("--shard", metavar="i/K", default="1/1", show_default=True,
              help="Which piece, and of how many: 3/8 is the third of eight.")  # fmt: skip
@opt.add_options(opt.MATCH_TERM, opt.FILTERS, opt.EXTRACTION, opt.CACHE, opt.STRICT)
@opt.add_options(opt.output_options(*RECORD_KEYS["embedded"]))
def embed_command(source: Path, shard: str, options: Options, out: Output) -> None:
    """Decode the images of SRC, or a piece of them, and keep their moments in the cache.

    \b
    imgsubset embed photos --shard 3/8
    imgsubset embed photos --shard $SLURM_ARRAY_TASK_ID/100 --cache /shared/cache

    A later `select` with the same options about features, on the same kind of device, takes them from there and decodes
    nothing. Pieces may be done at once, on machines that share the folder of the cache; what is there already is not
    done again, so that a piece that was cut off is started again by the same command.
    """
    parse_shard(shard)
    listing = opt.open_source(source)
    with out.bars() as bars:
        embedded = embed(listing, options, shard=shard, progress=bars)
    out.show(describe_embed_result(embedded), embed_summary(embedded, out.verbose))


CACHE_OPTIONS = [
    click.option("--cache", "folder", type=opt.PATH, metavar="DIR", default=lambda: user_cache_path("imgsubset"),
                 help="Another folder than the user's cache folder."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object."),
]  # fmt: skip


class _CacheGroup(HelpGroup):
    """`imgsubset cache` alone is `imgsubset cache info`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and find a command where there is none."""
        alone = not args or args[0].partition("=")[0] in ("--json", "--cache")
        return super().parse_args(ctx, ["info", *args] if alone else args)


@click.group("cache", cls=_CacheGroup)
def cache_group() -> None:
    """Show or empty the cache of images' moments."""


@cache_group.command("info", cls=Command)
@opt.add_options(CACHE_OPTIONS)
def info_command(folder: Path, out: Output) -> None:
    """Show what is kept, one line for each network and decoding policy, the last used first."""
    from imgsubset.features.cache import list_entries

    kept = list_entries(folder)
    out.show(describe_cache(folder, kept), cache_summary(folder, kept))


@cache_group.command("clear", cls=Command)
@click.option("--older-than", metavar="TIME", help="Only what was not used for so long, as in '30d' or '12h'.")
@click.option("--max-size", metavar="BYTES", help="Only what was used longest ago, until this is left: '500M', '2G'.")
@opt.add_options(CACHE_OPTIONS)
def clear_command(folder: Path, older_than: str | None, max_size: str | None, out: Output) -> None:
    """Delete what is kept; other files in the folder stay."""
    from imgsubset.features.cache import delete_entries

    before = None if older_than is None else time.time() - _parse_amount("older-than", older_than, SECONDS_PER_UNIT)
    largest = None if max_size is None else int(_parse_amount("max-size", max_size, BYTES_PER_UNIT))
    freed = delete_entries(folder, before, largest)
    out.show({"folder": str(folder), "freed_bytes": freed}, f"freed {freed:,} bytes in {printable(str(folder))}")


SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
BYTES_PER_UNIT = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def _parse_amount(name: str, text: str, units: dict[str, int]) -> float:
    """A number and a unit, in whole units."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([a-z]?)b?", text.strip().lower(), re.ASCII)
    if not found or found[2] not in units:
        raise UsageError(f"--{name} '{text}' is not a number with one of the units {', '.join(filter(None, units))}")
    return float(found[1]) * units[found[2]]
