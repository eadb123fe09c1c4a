"""One selection from the command line: choose, copy, list, report."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imgsubset.cli.common import Bars, gate, open_source, say
from imgsubset.cli.signals import Interrupt
from imgsubset.errors import GateError, OutputError, UsageError
from imgsubset.files import write_whole
from imgsubset.options import Embeddings, Options, check_size
from imgsubset.reading.filters import candidates
from imgsubset.reading.listing import Listing
from imgsubset.results.as_json import describe, describe_files, request
from imgsubset.results.as_text import printable, summary
from imgsubset.tasks.select import select
from imgsubset.writing.destination import check_destination, finished, interrupted
from imgsubset.writing.export import MODES, export
from imgsubset.writing.manifest import Manifest


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
        check_size(self.n, self.options)
        if self.destination is None and self.mode != "none" and not self.dry_run:
            raise UsageError(f"--mode {self.mode} needs a destination DST; '--mode none' does without")
        if self.null and self.list_file is None:
            raise UsageError("-0 goes with --list")

    @property
    def copies(self) -> bool:
        """Whether anything is to be written to the destination."""
        return self.mode in MODES and not self.dry_run


@dataclass(frozen=True)
class Outcome:
    """What a job came to: its record for JSON, the text of its summary, and the error that ends it, if any.

    done  whether an earlier run had done all of it
    """

    record: dict[str, Any]
    text: str
    loss: float
    n: int
    done: bool = False
    interrupted: bool = False
    verdict: GateError | None = None


def run(job: Job, quiet: bool, verbose: bool = False) -> Outcome:
    """Do a job. Raises any ImgsubsetError but GateError, which the outcome holds beside the results."""
    listing = candidates(open_source(job.source), job.options)
    _check_list(job, listing)
    destination = job.destination
    if job.copies and destination is not None:
        if not job.overwrite:
            embeddings = job.embeddings.describe() if job.embeddings else None
            wanted = request(job.n, job.options, embeddings, job.mode, job.ranked)
            if earlier := finished(listing, wanted, job.options, destination):
                return _already_done(job, listing, earlier)
            if job.options.resume is not None and interrupted(wanted, destination):
                job = replace(job, overwrite=True)  # by what the search comes to now
        check_destination(listing, destination, job.overwrite)
    with Bars(quiet) as bars:
        with Interrupt() as interrupt:
            selection = select(listing, job.n, job.options, embeddings=job.embeddings, stop=interrupt, progress=bars)
        verdict = gate(selection.score.loss, job.max_loss)
        exported = None
        if job.copies and job.destination is not None and verdict is None:
            exported = export(
                selection, job.destination, mode=job.mode, overwrite=job.overwrite, ranked=job.ranked, progress=bars
            )
    if verdict is None:
        _write_list(job, listing, selection.ranked if job.ranked else selection.chosen)
    if job.options.resume is not None and not selection.interrupted:
        with contextlib.suppress(OSError):  # it is whole, and the next run says whose it is
            Path(job.options.resume).unlink()
    record = describe(selection, job.mode if exported else "none", job.ranked)
    if exported:
        record |= describe_files(selection, exported.hashes, exported.extras)
    record["destination"] = str(exported.destination) if exported else None
    return Outcome(
        record=record,
        text=summary(selection, exported, verbose),
        loss=selection.score.loss,
        n=len(selection.indices),
        interrupted=selection.interrupted,
        verdict=verdict,
    )


def _already_done(job: Job, listing: Listing, manifest: Manifest) -> Outcome:
    files = manifest.record["files"]
    loss = float(manifest.record["score"]["loss"])
    verdict = gate(loss, job.max_loss)
    if verdict is None:
        _write_list(job, listing, [file["path"] for file in sorted(files, key=lambda file: file["rank"] * job.ranked)])
    where = printable(str(job.destination))
    return Outcome(
        record=manifest.record | {"destination": str(job.destination)},
        text=f"{where} already holds these {len(files):,} images, with loss {loss:.3f}; nothing to do",
        loss=loss,
        n=len(files),
        done=True,
        verdict=verdict,
    )


def _check_list(job: Job, listing: Listing) -> None:
    """Refuse a list that could not be written, or would hurt the source, before any work."""
    file = job.list_file
    if file is None:
        return
    odd = next((path for path in listing.paths if "\n" in str(listing.root / path)), None)
    if odd is not None and not job.null:
        raise UsageError(f"'{odd}' has a newline in its path, which --list cannot hold without -0")
    if str(file) == "-":
        return
    real = Path(os.path.realpath(file))
    if os.path.isdir(file) or not os.path.isdir(real.parent):  # noqa: PTH112 (never raises)
        raise UsageError(f"--list '{file}' is a folder, or lies in none")
    inside = not listing.listed and Path(os.path.realpath(listing.root)) in real.parents
    if inside or any(real == Path(os.path.realpath(listing.root / path)) for path in listing.paths):
        raise UsageError(f"--list '{file}' would change the source '{listing.name}'")


def _write_list(job: Job, listing: Listing, chosen: tuple[str, ...] | list[str]) -> None:
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
