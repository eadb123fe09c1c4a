"""imgsubset cache: what is in it, and away with it."""

from __future__ import annotations

from pathlib import Path

import click
from platformdirs import user_cache_path

from imgsubset.cli.options import PATH
from imgsubset.cli.output import Group, show
from imgsubset.results.as_json import describe_cache
from imgsubset.results.as_text import cache_summary, printable

CACHE = click.option("--cache", "folder", type=PATH, metavar="DIR", help="Another folder than the user's cache folder.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")


@click.group("cache", cls=Group)
def cache_group() -> None:
    """Show or empty the cache of images' moments."""


@cache_group.command("info")
@CACHE
@JSON
def info_command(folder: Path | None, as_json: bool) -> None:
    """Show what is kept, one line for each network and decoding policy."""
    from imgsubset.features.cache import contents

    folder = folder or user_cache_path("imgsubset")
    files = contents(folder)
    show(describe_cache(folder, files), cache_summary(folder, files), as_json, quiet=False)


@cache_group.command("clear")
@CACHE
@JSON
def clear_command(folder: Path | None, as_json: bool) -> None:
    """Delete what is kept; other files in the folder stay."""
    from imgsubset.features.cache import clear

    folder = folder or user_cache_path("imgsubset")
    freed = clear(folder)
    text = f"freed {freed:,} bytes in {printable(str(folder))}"
    show({"folder": str(folder), "freed_bytes": freed}, text, as_json, quiet=False)
