"""imgsubset select, and demo, which selects from pictures that it draws."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import click

from imgsubset.annotations.filters import list_candidates
from imgsubset.cli import options as opt
from imgsubset.cli.output import Command, Output, print_text
from imgsubset.cli.report_files import ReportFiles, check_outside
from imgsubset.cli.signals import interruptible
from imgsubset.errors import GateError, OutputError, UsageError
from imgsubset.files import write_output
from imgsubset.inputs import Embeddings
from imgsubset.options import Options
from imgsubset.results.as_json import RECORD_KEYS, describe_export_result
from imgsubset.results.as_text import export_summary
from imgsubset.results.records import Placed
from imgsubset.results.text import printable
from imgsubset.sources.images import Listing
from imgsubset.tasks.inputs import check_n
from imgsubset.tasks.score import score
from imgsubset.tasks.select import select_into
from imgsubset.writing.export import EXPORT_MODES


@dataclass(frozen=True)
class Job:
    """What `select` is asked to do; the fields are its options."""

    source: Path
    destination: Path | None
    n: str
    options: Options
    embeddings: Embeddings | None = None
    mode: str = "copy"
    overwrite: bool = False
    ranked: bool = False
    dry_run: bool = False
    list_file: Path | None = None
    null: bool = False
    max_loss: float | None = None
    min_size: float | None = None
    shown: ReportFiles = ReportFiles()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        check_n(self.n, self.options)
        if self.destination is None and self.mode != "none" and not self.dry_run:
            raise UsageError(f"--mode {self.mode} needs a destination DST; '--mode none' does without")
        if self.null and self.list_file is None:
            raise UsageError("-0 goes with --list")


@click.command("select", cls=Command, short_help="Choose n images and copy them.")
@click.argument("source", metavar="SRC", type=opt.PATH)
@click.argument("destination", metavar="[DST]", type=opt.PATH, required=False)
@click.option("-n", "n", required=True, metavar="N|P%|auto",
              help="How many images to choose: a number, a percentage, or 'auto' with a target.")  # fmt: skip
@opt.add_options(opt.REQUIRED_IMAGES, opt.CLASSES, opt.MATCH, opt.FILTERS, opt.TARGET, opt.FEATURES, opt.SEARCH)
@opt.add_options(opt.EMBEDDINGS)
@opt.add_options(opt.MAX_LOSS, opt.MIN_ESS)
@click.option("--mode", type=click.Choice([*EXPORT_MODES, "none"]), metavar="MODE", default="copy", show_default=True,
              help=f"How the images come to DST: {', '.join(EXPORT_MODES)}; or none: not at all, without "
              "DST.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an earlier selection in DST; foreign files there stay.")
@click.option("--list", "list_file", type=opt.PATH, metavar="FILE|-", help="Write the paths of the chosen images, one "
              "a line; '-' is stdout, and the summary then goes to stderr.")  # fmt: skip
@click.option("-0", "--null", is_flag=True, help="End each path in the list by a NUL byte, not a newline.")
@click.option("--ranked", is_flag=True, help="Order --list so that every beginning of it is close, and write the same "
              "order to DST/ranked.txt.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Choose and report, but write nothing to DST.")
@opt.add_options(opt.REPORT_FILES)
@opt.add_options(opt.output_options(*RECORD_KEYS["placed"]))
def select_command(out: Output, **arguments: Any) -> None:
    """Choose N images of SRC whose distribution is closest to that of all, and copy them to DST.

    \b
    imgsubset select photos subset -n 500
    imgsubset select photos subset.tar -n 500
    imgsubset select photos subset -n 10% --stratify
    imgsubset select photos subset -n auto --target-loss 0.1
    imgsubset select photos -n 20 --mode none --list chosen.txt

    SRC is a folder; a zip, tar or tar.gz archive, 'shard-{000..127}.tar', a Parquet table of pictures, or a URL of any
    of these; a text file of paths, or '-' for paths on stdin (one a line, or NUL-separated). DST is a folder, or a tar
    archive if its name ends in .tar. An identical run into its own finished destination does nothing.
    """
    job = Job(**arguments)
    listing_to_stdout = str(job.list_file) == "-"
    if listing_to_stdout and out.as_json:
        raise UsageError("--list - and --json would both write to stdout; write the list to a file")
    run_and_print(job, out, err=listing_to_stdout)


@click.command("demo", cls=Command, short_help="Try it on 2,000 pictures that it draws.")
@click.argument("folder", metavar="DIR", type=opt.PATH)
@click.option("-n", "n", default="100", show_default=True, metavar="N|P%|auto", help="How many images to choose.")
@opt.add_options(opt.TARGET, opt.FEATURES, opt.SEARCH, opt.output_options(*RECORD_KEYS["placed"]))
def demo_command(folder: Path, n: str, options: Options, out: Output) -> None:
    """Draw 2,000 small pictures into DIR/source, choose some of them, and copy these to DIR/subset.

    \b
    imgsubset demo trial
    imgsubset demo trial -n 5%
    """
    from imgsubset.cli.demo import draw_pictures

    pages = find_spec("jinja2") is not None
    shown = ReportFiles(report=folder / "report.html") if pages else ReportFiles()
    job = Job(folder / "source", folder / "subset", n, options, shown=shown)
    with out.bars() as bars:
        draw_pictures(job.source, progress=bars)
    run_and_print(job, out)
    if not (out.quiet or out.as_json):
        hint = "pip install 'imgsubset[report]' lets a report be written too"
        print_text(f"look at it: {printable(str(shown.report))}" if pages else hint)


def run_and_print(job: Job, out: Output, err: bool = False) -> None:
    """Do a job, print what came out, and end as that has it."""
    placed, verdict = run_job(job, out)
    out.show(describe_export_result(placed), export_summary(placed, out.verbose), err)
    if verdict:
        raise verdict
    if placed.interrupted:
        raise click.exceptions.Exit(130)


def run_job(job: Job, out: Output) -> tuple[Placed, GateError | None]:
    """Do a job; what came out, and whether that has too high a loss. Raises any other ImgsubsetError."""
    listing = list_candidates(opt.open_source(job.source), job.options)
    _check_list_file(job, listing)
    check_outside(job.shown.files, listing)
    copies = job.mode != "none" and not job.dry_run
    with interruptible(out) as interrupt:
        try:
            placed = select_into(
                listing,
                job.n,
                job.destination if copies else None,
                job.options,
                mode=job.mode if copies else "copy",
                overwrite=job.overwrite,
                ranked=job.ranked,
                max_loss=job.max_loss,
                min_size=job.min_size,
                embeddings=job.embeddings,
                evidence=bool(job.shown),
                stop=interrupt,
                progress=interrupt.progress,
            )
        except GateError as error:
            return cast("Placed", error.result), error
        if placed.done and job.shown:
            assert placed.destination is not None
            job.shown.write(score(listing, placed.destination, evidence=True, progress=interrupt.progress))
    if placed.selection is not None:
        job.shown.write(placed.selection, placed.export)
    _write_list_file(job, listing, placed.ranked if job.ranked else placed.chosen)
    return placed, None


def _check_list_file(job: Job, listing: Listing) -> None:
    """Refuse a list that could not be written, or would hurt the source, before any work."""
    file = job.list_file
    if file is None:
        return
    odd = next((path for path in listing.paths if "\n" in listing.locate(path)), None)
    if odd is not None and not job.null:
        raise UsageError(f"'{odd}' has a newline in its path, which --list cannot hold without -0")
    check_outside({"list": file}, listing)


def _write_list_file(job: Job, listing: Listing, chosen: tuple[str, ...]) -> None:
    """The chosen images, by paths that open from the current folder or, of an archive, by those in it."""
    if job.list_file is None:
        return
    end = b"\0" if job.null else b"\n"
    content = b"".join(os.fsencode(listing.root / path if listing.members is None else path) + end for path in chosen)
    if str(job.list_file) == "-":
        print_text(content)
        return
    try:
        write_output(job.list_file, content)
    except OSError as error:
        raise OutputError(f"cannot write --list '{job.list_file}': {error.strerror or error}") from None
