"""imgsubset select, and demo, which selects from pictures that it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from imgsubset.cli.options import (
    CLASS_OPTIONS,
    FEATURE_OPTIONS,
    GATE,
    ONE_SUBSET_OPTIONS,
    PATH,
    SEARCH_OPTIONS,
    TARGET_OPTIONS,
    WHICH_OPTIONS,
    embeddings_record,
    options_record,
    output_options,
)
from imgsubset.cli.output import Bars, Command, show
from imgsubset.cli.run import Job, run
from imgsubset.errors import GateError, UsageError
from imgsubset.options import Options
from imgsubset.results.as_json import describe_placed
from imgsubset.results.as_text import placed_summary
from imgsubset.results.records import Placed
from imgsubset.writing.export import MODES


@click.command("select", cls=Command, short_help="Choose n images and copy them.")
@click.argument("source", metavar="SRC", type=PATH)
@click.argument("destination", metavar="[DST]", type=PATH, required=False)
@click.option("-n", "n", required=True, metavar="N|P%|auto",
              help="How many images to choose: a number, a percentage, or 'auto' with a target.")  # fmt: skip
@options_record(ONE_SUBSET_OPTIONS, CLASS_OPTIONS, WHICH_OPTIONS, TARGET_OPTIONS, FEATURE_OPTIONS, SEARCH_OPTIONS)
@embeddings_record
@GATE
@click.option("--mode", type=click.Choice([*MODES, "none"]), default="copy", show_default=True,
              help="How the chosen images come to DST; none: not at all, and DST is not needed.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an earlier selection in DST; foreign files there stay.")
@click.option("--list", "list_file", type=PATH, metavar="FILE|-", help="Write the paths of the chosen images, one a "
              "line; '-' is stdout, and the summary then goes to stderr.")  # fmt: skip
@click.option("-0", "--null", is_flag=True, help="End each path in the list by a NUL byte, not a newline.")
@click.option("--ranked", is_flag=True, help="Order --list so that every beginning of it is close, and write the same "
              "order to DST/ranked.txt.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Choose and report, but write nothing to DST.")
@output_options
def select_command(as_json: bool, quiet: bool, verbose: bool, **arguments: Any) -> None:
    """Choose N images of SRC and copy them to the folder DST.

    SRC is a folder, or a text file of paths, or '-' for paths on stdin (one a line, or NUL-separated). An identical
    run into its own finished destination does nothing.
    """
    job = Job(**arguments)
    listing_to_stdout = str(job.list_file) == "-"
    if listing_to_stdout and as_json:
        raise UsageError("--list - and --json would both write to stdout; write the list to a file")
    report(job, as_json, quiet, verbose, err=listing_to_stdout)


def report(job: Job, as_json: bool, quiet: bool, verbose: bool, err: bool = False) -> None:
    """Do a job, print what came out, and end as that has it."""
    verdict = None
    try:
        placed = run(job, quiet)
    except GateError as error:
        placed, verdict = cast("Placed", error.result), error
    show(describe_placed(placed), placed_summary(placed, verbose), as_json, quiet, err)
    if verdict:
        raise verdict
    if placed.interrupted:
        raise click.exceptions.Exit(130)


@click.command("demo", cls=Command, short_help="Try it on 2,000 pictures that it draws.")
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("-n", "n", default="100", show_default=True, metavar="N|P%|auto", help="How many images to choose.")
@options_record(TARGET_OPTIONS, FEATURE_OPTIONS, SEARCH_OPTIONS)
@output_options
def demo_command(folder: Path, n: str, options: Options, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Draw 2,000 small pictures into DIR/source, choose some of them, and copy these to DIR/subset."""
    from imgsubset.cli.demo import draw_pictures

    job = Job(folder / "source", folder / "subset", n, options)
    with Bars(quiet) as bars:
        draw_pictures(job.source, progress=bars)
    report(job, as_json, quiet, verbose)
