"""imgsubset score, compare and verify: how good is what is there?"""

from __future__ import annotations

from pathlib import Path

import click

from imgsubset.cli.options import (
    FEATURE_OPTIONS,
    GATE,
    PATH,
    WHICH_OPTIONS,
    embeddings_record,
    given,
    open_source,
    options_record,
    output_options,
)
from imgsubset.cli.output import Bars, Command, show
from imgsubset.errors import UsageError, VerifyError
from imgsubset.options import Embeddings, Options, merged
from imgsubset.reading.listing import Listing
from imgsubset.results.as_json import describe_comparison, describe_scored, describe_verification
from imgsubset.results.as_text import comparison_summary, scored_summary, verification_summary
from imgsubset.tasks.compare import compare
from imgsubset.tasks.score import check_gate, recorded_options, score
from imgsubset.tasks.verify import verify


@click.command("score", cls=Command, short_help="Say how close a subset is to its source.")
@click.argument("source", metavar="SRC", type=PATH)
@click.argument("subset", metavar="SUBSET", type=PATH)
@options_record(FEATURE_OPTIONS, WHICH_OPTIONS)
@embeddings_record
@GATE
@click.option("--skip-foreign", is_flag=True, help="Leave out files of SUBSET that are not in SRC, not fail (exit 3).")
@output_options
def score_command(
    source: Path,
    subset: Path,
    options: Options,
    embeddings: Embeddings | None,
    max_loss: float | None,
    skip_foreign: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Say how close the images of SUBSET are to those of SRC.

    SUBSET is a folder, a text file of paths, '-' for paths on stdin, or the manifest.json of a selection; its images
    are found in SRC by content. Where it is or holds a manifest, the options in that are the defaults here.
    """
    _one_stdin(source, subset)
    members: Path | Listing = open_source(subset) if str(subset) == "-" else subset
    recorded = recorded_options(subset) if isinstance(members, Path) else None
    if recorded is not None:
        options = merged(recorded, given(options, embeddings is not None))
    with Bars(quiet) as bars:
        scored = score(
            open_source(source), members, options, skip_foreign=skip_foreign, embeddings=embeddings, progress=bars
        )
    show(describe_scored(scored), scored_summary(scored, verbose), as_json, quiet)
    check_gate(scored.score.loss, max_loss)


@click.command("compare", cls=Command, short_help="Say how far apart two folders are.")
@click.argument("first", metavar="A", type=PATH)
@click.argument("second", metavar="B", type=PATH)
@options_record(FEATURE_OPTIONS, WHICH_OPTIONS)
@GATE
@output_options
def compare_command(
    first: Path,
    second: Path,
    options: Options,
    max_loss: float | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compare the images of B with those of A, which need not have an image in common.

    A and B are folders, text files of paths, or '-' for paths on stdin; A is the reference. Beside each divergence
    stands what two random samples of these sizes from one distribution would show.
    """
    _one_stdin(first, second)
    with Bars(quiet) as bars:
        comparison = compare(open_source(first), open_source(second), options, progress=bars)
    show(describe_comparison(comparison), comparison_summary(comparison, verbose), as_json, quiet)
    check_gate(comparison.loss.value, max_loss)


@click.command("verify", cls=Command, short_help="Check a subset against its manifest.")
@click.argument("destination", metavar="DST", type=PATH)
@output_options
def verify_command(destination: Path, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Check the files in DST against its manifest: missing, changed and extra ones make exit code 7."""
    with Bars(quiet) as bars:
        found = verify(destination, bars)
    show(describe_verification(found), verification_summary(found, verbose), as_json, quiet)
    if not found.good:
        counts = f"{len(found.missing):,} missing, {len(found.changed):,} changed, {len(found.extra):,} extra"
        raise VerifyError(f"'{destination}' is not what its manifest says: {counts}")


def _one_stdin(one: Path, other: Path) -> None:
    if str(one) == str(other) == "-":
        raise UsageError("only one of the two can be '-': there is one stdin")
