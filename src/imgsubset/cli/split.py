"""imgsubset split: several disjoint subsets, each matching the whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from imgsubset.cli import options as opt
from imgsubset.cli.output import Command, Output
from imgsubset.cli.report_files import ReportFiles, check_outside
from imgsubset.cli.signals import interruptible
from imgsubset.errors import UsageError
from imgsubset.results.as_json import describe_export_result
from imgsubset.results.as_text import split_summary
from imgsubset.results.text import printable
from imgsubset.tasks.inputs import UNLIMITED_IMAGES, resolve_part_sizes
from imgsubset.tasks.split import split_into
from imgsubset.writing.export import EXPORT_MODES


@click.command("split", cls=Command, short_help="Cut a source into disjoint subsets that all match it.")
@click.argument("source", metavar="SRC", type=opt.PATH)
@click.argument("destination", metavar="DST", type=opt.PATH)
@click.argument("parts", metavar="NAME=SIZE...", nargs=-1, required=True)
@opt.add_options(opt.CLASSES, opt.MATCH, opt.FILTERS, opt.FEATURES, opt.SEARCH, opt.EMBEDDINGS)
@click.option("--mode", type=click.Choice(EXPORT_MODES), metavar="MODE", default="copy", show_default=True,
              help=f"How the images come to DST: {', '.join(EXPORT_MODES)}.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an earlier split in DST; foreign files there stay.")
@click.option("--dry-run", is_flag=True, help="Choose and report, but write nothing to DST.")
@opt.add_options(opt.REPORT, opt.output_options("parts", "done"))
def split_command(
    source: Path, destination: Path, parts: tuple[str, ...], dry_run: bool, shown: ReportFiles, out: Output, **more: Any
) -> None:
    """Cut SRC into disjoint subsets, each as close to the whole as can be, in folders of DST, or in archives there.

    \b
    imgsubset split photos sets train=80% val=10% test=10%
    imgsubset split photos sets train=80% test=20% --stratify
    imgsubset split photos sets train=80% test=20% --group-by '(patient[0-9]+)_'
    imgsubset split photos sets train.tar=80% test.tar=20%
    imgsubset split photos sets pilot=200 --dry-run

    Sizes are numbers or percentages of the images that may be chosen, with --dedupe of those that it leaves; 100% in
    all take every one.
    """
    sizes = parse_parts(parts)
    resolve_part_sizes(sizes, UNLIMITED_IMAGES)
    folder = None if dry_run else destination
    listing = opt.open_source(source)
    check_outside(shown.files, listing)
    more |= {"evidence": bool(shown)}
    with interruptible(out) as interrupt:
        placed = split_into(listing, sizes, folder, stop=interrupt, progress=interrupt.progress, **more)
    record = {name: describe_export_result(part) for name, part in placed.items()}
    found = {name: part.selection for name, part in placed.items() if part.selection is not None}
    shown.write_parts(f"{printable(listing.name)} in {len(placed)} parts", record, found)
    done = all(part.done for part in placed.values())
    out.show({"parts": record, "done": done}, split_summary(placed, out.verbose))
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
