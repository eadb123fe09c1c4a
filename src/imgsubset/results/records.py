"""What came out of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsubset.files import Stamp
from imgsubset.options import Options
from imgsubset.reading.listing import Listing, RejectedFile

if TYPE_CHECKING:  # torch takes two seconds to import
    from imgsubset.search.loop import TracePoint

ROUNDING = 1e-9  # relative: two sets dealt out again as they are may sum up otherwise


@dataclass(frozen=True)
class Score:
    """How close a subset is to its source.

    divergences    raw values, float64, noise-free, by name
    random_mean    the mean of each over random subsets of this size
    random_std     the standard deviation of each over random subsets
    loss           calibrated: the weighted mix in units of the random means; 1 is an average random subset
    percentile     how many of 100 random subsets of this size are closer, in [0, 100]
    effective_size how many random images would be as close
    """

    divergences: dict[str, float]
    random_mean: dict[str, float]
    random_std: dict[str, float]
    loss: float
    percentile: float
    effective_size: float

    def ratios(self) -> dict[str, float]:
        """Each divergence in units of its random mean; 0 where that is 0."""
        means = self.random_mean
        return {name: value / means[name] if means[name] else 0.0 for name, value in self.divergences.items()}


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
    indices     the chosen ones: positions in `paths`, ascending; for torch.utils.data.Subset
    ranking     the same positions in an order of which every beginning represents the source well too
    score       how close the subset is to the source
    rejected    the files with an image's name that are not usable, with reasons
    classes     how many images each class has in the source and in the subset; {} without stratify
    copies      how many images of the source are exact copies of earlier ones
    trace       the search, round by round; with n = 'auto' at one size after another
    interrupted whether the search was stopped before its end
    asked       n as it was asked for
    embeddings  what the embeddings were, if there were any
    cached      how many images came from the cache
    """

    source: Listing
    paths: tuple[str, ...] = field(repr=False)
    stamps: tuple[Stamp, ...] = field(repr=False)
    indices: tuple[int, ...] = field(repr=False)
    ranking: tuple[int, ...] = field(repr=False)
    score: Score
    rejected: tuple[RejectedFile, ...]
    classes: dict[str, tuple[int, int]]
    copies: int
    trace: tuple[TracePoint, ...] = field(repr=False)
    interrupted: bool
    asked: str
    embeddings: dict[str, object] | None
    cached: int

    @property
    def ranked(self) -> tuple[str, ...]:
        """Relative paths of the chosen images in the order of `ranking`."""
        return tuple(self.paths[index] for index in self.ranking)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Relative paths of the chosen images."""
        return tuple(self.paths[index] for index in self.indices)


@dataclass(frozen=True)
class Export:
    """A finished export.

    destination  the folder
    mode         how the files came there
    hashes       SHA-256 of each chosen file, by relative path
    extras       SHA-256 of the files written beside them, by relative path
    seconds      wall time
    warnings     what the user should know
    """

    destination: Path
    mode: str
    hashes: dict[str, str]
    extras: dict[str, str]
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placed:
    """A selection, and what became of it in its destination.

    record       what manifest.json says, or would say
    destination  the folder; None where nothing was to be written
    selection    None where an earlier run had done all of it
    export       None where nothing was written
    """

    record: Mapping[str, Any] = field(repr=False)
    destination: Path | None
    selection: Selection | None
    export: Export | None

    @property
    def done(self) -> bool:
        """Whether an earlier run had done all of it."""
        return self.selection is None

    @property
    def interrupted(self) -> bool:
        """Whether the search was stopped before its end."""
        return bool(self.record["interrupted"])

    @property
    def loss(self) -> float:
        """The calibrated loss."""
        return float(self.record["score"]["loss"])

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
    foreign   files of the subset that are no image of the source, left out, with reasons
    rejected  the files of the source that are not usable
    """

    source: Listing
    subset: str
    paths: tuple[str, ...] = field(repr=False)
    total: int
    score: Score
    foreign: tuple[RejectedFile, ...]
    rejected: tuple[RejectedFile, ...]


@dataclass(frozen=True)
class Distance:
    """One divergence between two folders.

    value        of the second from the first, float64
    floor_mean   the mean between two random folders of these sizes from one distribution
    floor_limit  what 99 of 100 such pairs stay below
    p_value      how probable a value this high is for such a pair: at least 1 / 1,001
    """

    value: float
    floor_mean: float
    floor_limit: float
    p_value: float

    @property
    def differs(self) -> bool:
        """Whether the value lies outside the noise floor."""
        return self.value > self.floor_limit * (1 + ROUNDING)

    @property
    def ratio(self) -> float:
        """The value in units of the floor's mean; 0 where that is 0."""
        return self.value / self.floor_mean if self.floor_mean else 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Two folders compared. It also tells what every `Result` does.

    first        the reference, whose variance is the unit
    second       the other one
    sizes        how many usable images they have
    divergences  each divergence of the second from the first, by name
    loss         the weighted mix, each divergence in units of its floor's mean: 1 is two samples of one distribution
    rejected     files of the one and of the other that are not usable, with reasons
    """

    first: Listing
    second: Listing
    sizes: tuple[int, int]
    divergences: dict[str, Distance]
    loss: Distance
    rejected: tuple[tuple[RejectedFile, ...], tuple[RejectedFile, ...]]


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

    @property
    def good(self) -> bool:
        """Whether every listed file is there and unchanged, and no other."""
        return not (self.missing or self.changed or self.extra)
