"""The records that tasks return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsubset.files import Stamp
from imgsubset.options import Options
from imgsubset.results.report_data import ReportData
from imgsubset.results.scores import Score
from imgsubset.results.text import format_random_count
from imgsubset.sources.images import Listing, RejectedFile

if TYPE_CHECKING:
    from imgsubset.search.loop import TracePoint


def _format_loss(score: Score) -> str:
    size = "" if score.effective_size is None else f", like {format_random_count(score.effective_size)}"
    return f"loss {score.loss:.3g}{size}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every result tells.

    warnings  what a user should know about the figures
    options   that it was made with
    device    what the moments were made on
    seconds   wall time of each stage
    """

    warnings: tuple[str, ...]
    options: Options
    device: str
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Selection(Result):
    """A subset of the images of a source, and how it was found. It also tells what every `Result` does.

    source      the listing of the source: its name, its folder
    paths       the usable images in it, relative, in the order of their bytes
    stamps      what each of them was when it was read
    rows        the chosen ones: positions in `paths`, ascending
    ranked_rows the same in an order of which every beginning represents the source well too
    score       how close the subset is to the source
    rejected    the files with an image's name that are not usable, with reasons
    classes     how many images each class has in the source and in the subset; {} without stratify
    copies      how many images of the source are exact copies of earlier ones
    trace       the search, round by round; with n = 'auto' at one size after another
    interrupted whether the search was stopped before its end
    asked       n as it was asked for
    size        resolution at which pixels reached the networks, in pixels; None where none did
    embeddings  what the embeddings were, if there were any
    tables      of each table that was matched its name, absolute path, SHA-256 and columns
    cached      how many images came from the cache
    evidence    what a report shows, where that was asked for
    """

    source: Listing
    paths: tuple[str, ...]
    stamps: Sequence[Stamp]
    rows: tuple[int, ...]
    ranked_rows: tuple[int, ...]
    score: Score
    rejected: tuple[RejectedFile, ...]
    classes: dict[str, tuple[int, int]]
    copies: int
    trace: tuple[TracePoint, ...]
    interrupted: bool
    asked: str
    size: int | None
    embeddings: dict[str, object] | None
    tables: tuple[dict[str, object], ...] = ()
    cached: int
    evidence: ReportData | None = None

    def __repr__(self) -> str:
        cut_off = ", interrupted" if self.interrupted else ""
        n, total = len(self.rows), len(self.paths)
        return f"Selection({n:,} of {total:,} images of {self.source.name!r}, {_format_loss(self.score)}{cut_off})"

    @property
    def chosen(self) -> tuple[str, ...]:
        """Relative paths of the chosen images, in the order of their bytes."""
        return tuple(self.paths[row] for row in self.rows)

    @property
    def ranked(self) -> tuple[str, ...]:
        """The same in an order of which every beginning represents the source well too."""
        return tuple(self.paths[row] for row in self.ranked_rows)

    @property
    def indices(self) -> tuple[int, ...]:
        """Where each of `chosen` is in the list or data set that was the source; of a folder, in `paths`.

        For torch.utils.data.Subset(dataset, selection.indices). Of an image that is listed twice, its first place.
        """
        return self._places(self.rows)

    @property
    def ranking(self) -> tuple[int, ...]:
        """The same of `ranked`."""
        return self._places(self.ranked_rows)

    def _places(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        return rows if self.source.order is None else tuple(self.source.places[self.paths[row]] for row in rows)


@dataclass(frozen=True)
class Export:
    """A finished export.

    destination  the folder
    mode         how the files came there
    hashes       SHA-256 of each chosen file, by relative path
    extras       SHA-256 of the files written beside them, by relative path
    seconds      wall time
    labels       how many of these files are label files of single images
    unlabelled   how many of the images have neither a label file nor an entry in one that is shared
    warnings     what the user should know
    shared       paths of label files that are about several images or the classes
    """

    destination: Path
    mode: str
    hashes: dict[str, str]
    extras: dict[str, str]
    seconds: float
    labels: int = 0
    unlabelled: int = 0
    warnings: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    def __repr__(self) -> str:
        files = f"{len(self.hashes):,} images and {len(self.extras):,} other files"
        return f"Export({files}, mode {self.mode!r}, in {str(self.destination)!r})"


@dataclass(frozen=True)
class Placed:
    """A selection, and what became of it in its destination.

    record       what manifest.json says, or would say
    destination  the folder or archive; None where nothing was to be written
    selection    None where an earlier run had done all of it
    export       None where nothing was written
    """

    record: Mapping[str, Any]
    destination: Path | None
    selection: Selection | None
    export: Export | None

    def __repr__(self) -> str:
        where = "nowhere" if self.destination is None else f"in {str(self.destination)!r}"
        return f"Placed({len(self.chosen):,} images {where}, loss {self.loss:.3g}{', done before' * self.done})"

    @property
    def done(self) -> bool:
        """Whether an earlier run had done all of it."""
        return self.selection is None

    @property
    def interrupted(self) -> bool:
        """Whether the search was stopped before its end."""
        return bool(self.record["interrupted"])

    @property
    def version(self) -> str:
        """Of the program that did it."""
        return str(self.record["program"]["version"])

    @property
    def loss(self) -> float:
        """The calibrated loss, see `Score`."""
        return float(self.record["score"]["loss"])

    @property
    def effective_size(self) -> float | None:
        """How many random images would be as close, see `Score`."""
        size = self.record["score"]["effective_size"]
        return None if size is None else float(size)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Relative paths of the chosen images."""
        return tuple(file["path"] for file in self.record["files"])

    @property
    def ranked(self) -> tuple[str, ...]:
        """The same in an order of which every beginning represents the source well too."""
        return tuple(file["path"] for file in sorted(self.record["files"], key=lambda file: file["rank"]))


@dataclass(frozen=True, kw_only=True)
class Scored(Result):
    """A subset that was scored. It also tells what every `Result` does.

    source    the listing of the source
    subset    its name
    paths     of its images in the source, relative, in the order of their bytes
    total     how many usable images the source has
    score     how close it is
    size      resolution at which pixels reached the networks, in pixels; None where none did
    foreign   files of the subset that are no image of the source, left out, with reasons
    rejected  the files of the source that are not usable
    evidence  what a report shows, where that was asked for
    """

    source: Listing
    subset: str
    paths: tuple[str, ...]
    total: int
    score: Score
    size: int | None
    foreign: tuple[RejectedFile, ...]
    rejected: tuple[RejectedFile, ...]
    evidence: ReportData | None = None

    def __repr__(self) -> str:
        n = len(self.paths)
        return f"Scored({n:,} of {self.total:,} images of {self.source.name!r}, {_format_loss(self.score)})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Embedded(Result):
    """A piece of a source that is in the cache. It also tells what every `Result` does.

    source    the listing of the whole source
    shard     which piece, counted from 1, and of how many
    images    how many images it has
    decoded   how many of them were decoded
    cached    how many the cache held already
    rejected  the files of the piece that are not usable, with reasons; those that listing found out, in the first piece
    cache     the folder
    size      resolution at which pixels reached the networks, in pixels
    """

    source: Listing
    shard: tuple[int, int]
    images: int
    decoded: int
    cached: int
    rejected: tuple[RejectedFile, ...]
    cache: str
    size: int | None

    def __repr__(self) -> str:
        piece = f"piece {self.shard[0]:,} of {self.shard[1]:,} of {self.source.name!r}"
        return f"Embedded({piece}: {self.images:,} images, {self.decoded:,} decoded, {self.cached:,} cached)"


@dataclass(frozen=True)
class Verification:
    """What was found in a folder.

    folder   that was checked
    checked  how many files its manifest lists
    missing  of these
    changed  of these: with the reason
    extra    files that the manifest does not list
    """

    folder: Path
    checked: int
    missing: tuple[str, ...]
    changed: tuple[RejectedFile, ...]
    extra: tuple[str, ...]

    def __repr__(self) -> str:
        faults = f"{len(self.missing):,} missing, {len(self.changed):,} changed, {len(self.extra):,} extra"
        return f"Verification({self.checked:,} files of {str(self.folder)!r}: {'all good' if self.good else faults})"

    @property
    def good(self) -> bool:
        """Whether every listed file is there and unchanged, and no other."""
        return not (self.missing or self.changed or self.extra)


@dataclass(frozen=True)
class Estimate:
    """The mean of one result over all images of a source, estimated from a subset.

    name        of the result
    subset      its mean over the subset
    value       its mean over all images, estimated
    error       standard error of that
    low, high   the interval that holds the mean over all images in 95 of 100 cases
    equivalent  how many images drawn at random would tell it as exactly; None where the error is 0
    """

    name: str
    subset: float
    value: float
    error: float
    low: float
    high: float
    equivalent: float | None


@dataclass(frozen=True)
class Difference(Estimate):
    """The same of a difference between two results, of the same images; `first` and `second` are their names."""

    first: str
    second: str

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0, so that one of the two is the higher one for the whole source too."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Estimated(Result):
    """What results on a subset say of its source. It also tells what every `Result` does.

    source       the listing of the source
    subset       its name
    paths        of its images in the source, relative, in the order of their bytes
    total        how many usable images the source has
    chosen       whether this program chose the subset; of others intervals are right if they were drawn at random
    estimates    one a result
    differences  between results of a kind, each with each
    foreign      files of the subset that are no image of the source, left out, with reasons
    rejected     the files of the source that are not usable
    """

    source: Listing
    subset: str
    paths: tuple[str, ...]
    total: int
    chosen: bool
    estimates: tuple[Estimate, ...]
    differences: tuple[Difference, ...]
    foreign: tuple[RejectedFile, ...]
    rejected: tuple[RejectedFile, ...]

    def __repr__(self) -> str:
        told = ", ".join(f"{one.name} {one.value:.4g} +- {one.high - one.value:.2g}" for one in self.estimates)
        return f"Estimated({told}; from {len(self.paths):,} of {self.total:,} images of {self.source.name!r})"
