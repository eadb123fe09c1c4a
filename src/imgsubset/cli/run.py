"""One selection from the command line: choose, copy, list."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imgsubset.cli.options import open_source
from imgsubset.cli.output import Bars, say
from imgsubset.cli.signals import Interrupt
from imgsubset.errors import OutputError, UsageError
from imgsubset.files import write_whole
from imgsubset.options import Embeddings, Options
from imgsubset.reading.filters import list_candidates
from imgsubset.reading.listing import Listing
from imgsubset.results.records import Placed
from imgsubset.tasks.select import select_into
from imgsubset.tasks.sizes import check_size


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

    def __post_init__(self) -> None:
        check_size(self.n, self.options.search)
        if self.destination is None and self.mode != "none" and not self.dry_run:
            raise UsageError(f"--mode {self.mode} needs a destination DST; '--mode none' does without")
        if self.null and self.list_file is None:
            raise UsageError("-0 goes with --list")

    @property
    def copies(self) -> bool:
        """Whether anything is to be written to the destination."""
        return self.mode != "none" and not self.dry_run


def run(job: Job, quiet: bool) -> Placed:
    """Do a job. Raises any ImgsubsetError; a GateError holds the result."""
    listing = list_candidates(open_source(job.source), job.options.reading)
    _check_list(job, listing)
    with Bars(quiet) as bars, Interrupt(bars) as interrupt:
        placed = select_into(
            listing,
            job.n,
            job.destination if job.copies else None,
            job.options,
            mode=job.mode if job.copies else "copy",
            overwrite=job.overwrite,
            ranked=job.ranked,
            max_loss=job.max_loss,
            embeddings=job.embeddings,
            stop=interrupt,
            progress=interrupt.progress,
        )
    _write_list(job, listing, placed.ranked if job.ranked else placed.chosen)
    return placed


def _check_list(job: Job, listing: Listing) -> None:
    """Refuse a list that could not be written, or would hurt the source, before any work."""
    file = job.list_file
    if file is None:
        return
    odd = next((path for path in listing.paths if "\n" in listing.locate(path)), None)
    if odd is not None and not job.null:
        raise UsageError(f"'{odd}' has a newline in its path, which --list cannot hold without -0")
    if str(file) == "-":
        return
    real = Path(os.path.realpath(file))
    if os.path.isdir(file) or not os.path.isdir(real.parent):  # noqa: PTH112 (never raises)
        raise UsageError(f"--list '{file}' is a folder, or lies in none")
    inside = not listing.listed and Path(os.path.realpath(listing.root)) in real.parents
    if inside or any(real == Path(os.path.realpath(listing.locate(path))) for path in listing.paths):
        raise UsageError(f"--list '{file}' would change the source '{listing.name}'")


def _write_list(job: Job, listing: Listing, chosen: tuple[str, ...]) -> None:
    """The chosen images, by paths that open from the current folder."""
    if job.list_file is None:
        return
    end = b"\0" if job.null else b"\n"
    content = b"".join(os.fsencode(listing.root / path) + end for path in chosen)
    if str(job.list_file) == "-":
        say(content)
        return
    try:
        if job.list_file.exists() and not job.list_file.is_file():
            job.list_file.write_bytes(content)  # a FIFO or a device takes it as it comes
        else:
            write_whole(Path(os.path.realpath(job.list_file)), content)
    except OSError as error:
        raise OutputError(f"cannot write --list '{job.list_file}': {error.strerror or error}") from None
