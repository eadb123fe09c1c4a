"""imgsubset score, compare, verify and estimate: how close an existing subset or folder is."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import click

from imgsubset.cli import options as opt
from imgsubset.cli.output import Command, Output
from imgsubset.cli.report_files import ReportFiles, check_outside
from imgsubset.errors import UsageError, VerifyError
from imgsubset.options import Options
from imgsubset.results.as_json import (
    RECORD_KEYS,
    describe_comparison,
    describe_estimate_result,
    describe_score_result,
    describe_verification,
)
from imgsubset.results.as_text import comparison_summary, estimate_summary, score_summary, verification_summary
from imgsubset.sources.images import Listing
from imgsubset.tasks.compare import compare
from imgsubset.tasks.estimate import estimate
from imgsubset.tasks.existing_subset import has_manifest
from imgsubset.tasks.score import check_gates, score
from imgsubset.tasks.verify import verify


@click.command("score", cls=Command, short_help="Say how close a subset is to its source.")
@click.argument("source", metavar="SRC", type=opt.PATH)
@click.argument("subset", metavar="SUBSET", type=opt.PATH)
@opt.add_options(opt.FEATURES, opt.MATCH, opt.CLASS_LABELS, opt.FILTERS, opt.EMBEDDINGS)
@opt.add_options(opt.MAX_LOSS, opt.MIN_ESS)
@click.option("--skip-foreign", is_flag=True, help="Leave out files of SUBSET that are not in SRC, not fail (exit 3).")
@opt.add_options(opt.REPORT_FILES)
@opt.add_options(opt.output_options(*RECORD_KEYS["scored"]))
def score_command(
    source: Path,
    subset: Path,
    options: Options,
    max_loss: float | None,
    min_size: float | None,
    shown: ReportFiles,
    out: Output,
    **more: Any,
) -> None:
    """Say how close the images of SUBSET are to those of SRC.

    \b
    imgsubset score photos subset
    imgsubset score photos chosen.txt
    imgsubset score photos subset --max-loss 0.5    exit code 6 if it is worse
    find subset -name '*.jpg' | imgsubset score photos -

    SUBSET is a folder, a text file of paths, '-' for paths on stdin, or the manifest.json of a selection; its images
    are found in SRC by content. Where it is or holds a manifest, the options in that are the defaults here.
    """
    listing, members, given, words = open_source_and_subset(source, subset, options)
    check_outside(shown.files, listing)
    with out.bars() as bars:
        scored = score(listing, members, given, evidence=bool(shown), progress=bars, **more, **words)
    shown.write(scored)
    out.show(describe_score_result(scored), score_summary(scored, out.verbose))
    check_gates(scored.score.loss, scored.score.effective_size, max_loss, min_size)


@click.command("compare", cls=Command, short_help="Say how far apart two folders are.")
@click.argument("first", metavar="A", type=opt.PATH)
@click.argument("second", metavar="B", type=opt.PATH)
@opt.add_options(opt.FEATURES, opt.FILTERS)
@opt.add_options(opt.MAX_LOSS, opt.REPORT, opt.output_options(*RECORD_KEYS["comparison"]))
def compare_command(
    first: Path, second: Path, options: Options, max_loss: float | None, shown: ReportFiles, out: Output
) -> None:
    """Compare the images of B with those of A, which need not have an image in common.

    \b
    imgsubset compare real generated
    imgsubset compare last-year this-year --weights frechet=1
    imgsubset compare train test --max-loss 2    exit code 6 if they differ more

    A and B are folders, archives, text files of paths, or '-' for paths on stdin; A is the reference. Beside each
    figure stands what two random samples of these sizes from one distribution would show. Precision and density are
    low where B has images unlike any of A, recall and coverage where it lacks some.
    """
    _check_single_stdin(first, second)
    one, other = opt.open_source(first), opt.open_source(second)
    for listing in (one, other):
        check_outside(shown.files, listing)
    with out.bars() as bars:
        comparison = compare(one, other, options, evidence=bool(shown), progress=bars)
    shown.write(comparison)
    out.show(describe_comparison(comparison), comparison_summary(comparison, out.verbose))
    check_gates(comparison.loss.value, None, max_loss, None)


@click.command("verify", cls=Command, short_help="Check a subset against its manifest.")
@click.argument("destination", metavar="DST", type=opt.PATH)
@opt.add_options(opt.output_options(*RECORD_KEYS["verification"]))
def verify_command(destination: Path, out: Output) -> None:
    """Check the files in DST against its manifest: missing, changed and extra ones make exit code 7.

    Caches that ultralytics leaves beside folders of label files, as in labels/train.cache, are not extra.

    \b
    imgsubset verify subset
    """
    with out.bars() as bars:
        found = verify(destination, bars)
    out.show(describe_verification(found), verification_summary(found, out.verbose))
    if not found.good:
        counts = f"{len(found.missing):,} missing, {len(found.changed):,} changed, {len(found.extra):,} extra"
        raise VerifyError(f"'{destination}' is not what its manifest says: {counts}")


def open_source_and_subset(
    source: Path, subset: Path, options: Options
) -> tuple[Listing, Path | Listing, Options | None, dict[str, Any]]:
    """A source and a subset of it; the options to look at them with, None where the manifest of the subset says them;
    and those that go before these."""
    _check_single_stdin(source, subset)
    members: Path | Listing = opt.open_source(subset) if str(subset) == "-" else subset
    recorded = isinstance(members, Path) and has_manifest(subset)
    words = opt.explicit_options(options) if recorded else {}
    return opt.open_source(source), members, None if recorded else options, words


def _check_single_stdin(one: Path, other: Path) -> None:
    if str(one) == str(other) == "-":
        raise UsageError("only one of the two can be '-': there is one stdin")


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
