"""imgsubset cache: what is in it, and away with it."""

from __future__ import annotations

from pathlib import Path

import click
from platformdirs import user_cache_path

from imgsubset.cli import options as opt
from imgsubset.cli.help import WithHelpGroup
from imgsubset.cli.output import Command, Output
from imgsubset.results.as_json import describe_cache
from imgsubset.results.as_text import cache_summary, printable

CACHE_OPTIONS = [
    click.option("--cache", "folder", type=opt.PATH, metavar="DIR", default=lambda: user_cache_path("imgsubset"),
                 help="Another folder than the user's cache folder."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object."),
]  # fmt: skip


@click.group("cache", cls=WithHelpGroup)
def cache_group() -> None:
    """Show or empty the cache of images' moments."""


@cache_group.command("info", cls=Command)
@opt.add(CACHE_OPTIONS)
def info_command(folder: Path, out: Output) -> None:
    """Show what is kept, one line for each network and decoding policy."""
    from imgsubset.features.cache import contents

    files = contents(folder)
    out.show(describe_cache(folder, files), cache_summary(folder, files))


@cache_group.command("clear", cls=Command)
@opt.add(CACHE_OPTIONS)
def clear_command(folder: Path, out: Output) -> None:
    """Delete what is kept; other files in the folder stay."""
    from imgsubset.features.cache import clear

    freed = clear(folder)
    out.show({"folder": str(folder), "freed_bytes": freed}, f"freed {freed:,} bytes in {printable(str(folder))}")
