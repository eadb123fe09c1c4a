"""imgsubset split: several disjoint subsets, each matching the whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from imgsubset.cli.options import (
    CLASS_OPTIONS,
    FEATURE_OPTIONS,
    PATH,
    SEARCH_OPTIONS,
    WHICH_OPTIONS,
    embeddings_record,
    open_source,
    options_record,
    output_options,
)
from imgsubset.cli.output import Bars, Command, show
from imgsubset.cli.signals import Interrupt
from imgsubset.errors import UsageError
from imgsubset.options import Embeddings, Options
from imgsubset.results.as_json import describe_placed
from imgsubset.results.as_text import placed_summary, printable
from imgsubset.tasks.sizes import ANY, part_sizes
from imgsubset.tasks.split import split_into
from imgsubset.writing.export import MODES


@click.command("split", cls=Command, short_help="Cut a source into disjoint subsets that all match it.")
@click.argument("source", metavar="SRC", type=PATH)
@click.argument("destination", metavar="DST", type=PATH)
@click.argument("parts", metavar="NAME=SIZE...", nargs=-1, required=True)
@options_record(CLASS_OPTIONS, WHICH_OPTIONS, FEATURE_OPTIONS, SEARCH_OPTIONS)
@embeddings_record
@click.option("--mode", type=click.Choice(MODES), default="copy", show_default=True,
              help="How the images come to DST.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an earlier split in DST; foreign files there stay.")
@click.option("--dry-run", is_flag=True, help="Choose and report, but write nothing to DST.")
@output_options
def split_command(
    source: Path,
    destination: Path,
    parts: tuple[str, ...],
    options: Options,
    embeddings: Embeddings | None,
    mode: str,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Cut SRC into disjoint subsets, each as close to the whole as can be, in folders of DST.

    \b
    imgsubset split photos sets train=80% val=10% test=10%

    Sizes are numbers or percentages; 100% in all take every image.
    """
    sizes = parse_parts(parts)
    part_sizes(sizes, ANY)
    with Bars(quiet) as bars, Interrupt(bars) as interrupt:
        placed = split_into(
            open_source(source),
            sizes,
            None if dry_run else destination,
            options,
            mode=mode,
            overwrite=overwrite,
            embeddings=embeddings,
            stop=interrupt,
            progress=interrupt.progress,
        )
    done = all(part.done for part in placed.values())
    if done:
        text = f"{printable(str(destination))} already holds this split; nothing to do"
    else:
        text = "\n\n".join(f"{printable(name)}: {placed_summary(part, verbose)}" for name, part in placed.items())
    show({"parts": {name: describe_placed(part) for name, part in placed.items()}, "done": done}, text, as_json, quiet)
    if interrupt.asked:
        raise click.exceptions.Exit(130)


def parse_parts(words: Sequence[str]) -> dict[str, str]:
    """Sizes by name from words such as train=80%."""
    sizes: dict[str, str] = {}
    for word in words:
        name, equals, size = word.partition("=")
        if not (name and equals and size):
            raise UsageError(f"part '{word}' is not of the form NAME=SIZE, as in train=80%")
        if name in sizes:
            raise UsageError(f"part '{name}' is named twice")
        sizes[name] = size
    return sizes
