"""imgsubset estimate: what results on a subset say of the whole."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import click

from imgsubset.cli import options as opt
from imgsubset.cli.check import open_source_and_subset
from imgsubset.cli.output import Command, Output
from imgsubset.cli.shown import ReportFiles, check_outside
from imgsubset.errors import UsageError
from imgsubset.options import Options
from imgsubset.results.as_json import RECORD_KEYS, describe_estimate_result
from imgsubset.results.estimate_lines import estimate_summary
from imgsubset.tasks.estimate import estimate


@click.command("estimate", cls=Command, short_help="Say what results on a subset tell of the whole.")
@click.argument("source", metavar="SRC", type=opt.PATH)
@click.argument("subset", metavar="SUBSET", type=opt.PATH)
@click.argument("results", metavar="RESULTS", type=opt.PATH)
@click.option("--columns", metavar="A,B", help="Which columns of RESULTS count.  [default: all of numbers]")
@opt.add_options(opt.FEATURES, opt.MATCH, opt.SAMPLE_DESIGN, opt.FILTERS, opt.EMBEDDINGS)
@click.option("--skip-foreign", is_flag=True, help="Leave out files of SUBSET that are not in SRC, not fail (exit 3).")
@opt.add_options(opt.REPORT, opt.output_options(*RECORD_KEYS["estimated"]))
def estimate_command(
    source: Path,
    subset: Path,
    results: Path,
    columns: str | None,
    options: Options,
    shown: ReportFiles,
    out: Output,
    **more: Any,
) -> None:
    """Estimate what a model would do on all images of SRC from its RESULTS on those of SUBSET.

    \b
    imgsubset estimate photos subset results.csv
    imgsubset estimate photos subset results.csv --columns correct_a,correct_b
    imgsubset estimate photos drawn.txt results.csv --stratify --match scores.csv

    RESULTS is a table (.csv, .tsv, .jsonl, .parquet) with a row an image: its path, in the first column or one called
    path, file or image, and numbers such as correct (0 or 1), loss or IoU. SUBSET is as in `score`; a manifest says
    how it was chosen, of others --stratify and --group-by say how they were drawn at random. For each column comes the
    mean over all of SRC, estimated with the help of what --match knows of each image, with an interval that holds it in
    95 of 100 cases; and the difference of each two columns, and whether the subset decides it.
    """
    listing, members, given, words = open_source_and_subset(source, subset, options)
    check_outside(shown.files, listing)
    with out.bars() as bars:
        estimated = estimate(
            listing, members, results, given, columns=_parse_column_names(columns), progress=bars, **more, **words
        )
    shown.write(estimated)
    out.show(describe_estimate_result(estimated), estimate_summary(estimated, out.verbose))


def _parse_column_names(columns: str | None) -> tuple[str, ...]:
    """The names in a line of CSV."""
    if columns is None:
        return ()
    names = tuple(name.strip() for row in csv.reader([columns], skipinitialspace=True) for name in row)
    if not names or not all(names):
        raise UsageError(f"--columns '{columns}' are not names separated by commas")
    return names
