"""imgsubset cache: what is in it, and away with it."""

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
from imgsubset.results.as_json import describe_cache
from imgsubset.results.as_text import cache_summary
from imgsubset.results.lines import printable

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
