"""imgsubset split: several disjoint subsets, each matching the whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from imgsubset.cli.common import (
    CLASS_OPTIONS,
    FEATURE_OPTIONS,
    PATH,
    SEARCH_OPTIONS,
    WHICH_OPTIONS,
    Bars,
    Command,
    embeddings_record,
    open_source,
    options_record,
    output_options,
    show,
)
from imgsubset.cli.signals import Interrupt
from imgsubset.errors import UsageError
from imgsubset.options import Embeddings, Options
from imgsubset.reading.filters import candidates
from imgsubset.results.as_json import describe, describe_files, request
from imgsubset.results.as_text import printable, summary
from imgsubset.tasks.split import ANY, asked_for, part_sizes, split
from imgsubset.writing.destination import check_destination, finished
from imgsubset.writing.export import MODES, export


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
    listing = candidates(open_source(source), options)
    ready: set[str] = set()
    if not dry_run:
        described = embeddings.describe() if embeddings else None
        folders = {name: destination / name for name in sizes}
        wanted = {name: request(asked_for(name, sizes), options, described, mode, False) for name in sizes}
        if not overwrite:
            ready = {name for name, folder in folders.items() if finished(listing, wanted[name], options, folder)}
        if ready == set(sizes):
            done = {"parts": {name: {"destination": str(folder)} for name, folder in folders.items()}, "done": True}
            show(done, f"{printable(str(destination))} already holds this split; nothing to do", as_json, quiet)
            return
        for name in set(sizes) - ready:
            check_destination(listing, folders[name], overwrite)
    records, texts = {}, []
    with Bars(quiet) as bars:
        with Interrupt() as interrupt:
            selections = split(listing, sizes, options, embeddings=embeddings, stop=interrupt, progress=bars)
        for name, selection in selections.items():
            exported = None
            records[name] = describe(selection, "none" if dry_run else mode)
            records[name]["destination"] = None if dry_run else str(destination / name)
            if not dry_run and name not in ready:
                exported = export(selection, destination / name, mode=mode, overwrite=overwrite, progress=bars)
                records[name] |= describe_files(selection, exported.hashes, exported.extras)
            texts.append(f"{printable(name)}: {summary(selection, exported, verbose)}")
    show({"parts": records, "done": False}, "\n\n".join(texts), as_json, quiet)
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
