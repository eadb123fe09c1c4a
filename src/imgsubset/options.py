"""What a user can choose, checked on construction; imports nothing heavy, so that a wrong word is answered at once.

Options are sorted into records, one for each stage that reads them. What an option decides is said where it is
declared: LOSS, what the loss of a given subset is; CHOICE, which subset comes out, or what is written beside it; or
NOTHING but how long it takes. Each level includes those before it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imgsubset.errors import UsageError
from imgsubset.files import identity
from imgsubset.weights import Weights

if TYPE_CHECKING:
    import numpy as np

LOSS, CHOICE, NOTHING = range(3)
DEVICES = ("auto", "cpu", "cuda")
STRATIFY = ("share", "equal")
REMOVED = {  # what became of options of earlier versions
    "resume": "a search takes seconds, and the cache keeps what is expensive: run the same command again",
    "cache_verify": "an image is known by its path, size and modification time; --no-cache decodes all of them anew",
}


def _option(default: Any, decides: int) -> Any:
    return field(default=default, metadata={"decides": decides})


def _check(record: object, good: bool, name: str, wanted: str) -> None:
    if not good:
        raise UsageError(f"{name} {getattr(record, name)!r} is not {wanted}")


def _make_tuples(record: object, *names: str) -> None:
    """Let these fields, which users give as any sequence but a text, be tuples."""
    for name in names:
        value = getattr(record, name)
        _check(record, not isinstance(value, str), name, "a list, but a text")
        object.__setattr__(record, name, tuple(value))


@dataclass(frozen=True)
class Reading:
    """Which images there are, and what belongs to them.

    include   gitignore patterns of the images that count at all; () is all
    exclude   gitignore patterns of images that do not count, as if they were not there
    sidecars  files that travel with their images: auto, none, or templates as in 'labels/{dir}/{stem}.txt'
    coco      a COCO instances file of which the part about the chosen images is written
    strict    whether a file that cannot be decoded is an error rather than skipped
    """

    include: tuple[str, ...] = _option((), LOSS)
    exclude: tuple[str, ...] = _option((), LOSS)
    sidecars: str = _option("auto", LOSS)
    coco: str | None = _option(None, CHOICE)
    strict: bool = _option(False, CHOICE)

    def __post_init__(self) -> None:
        _make_tuples(self, "include", "exclude")


@dataclass(frozen=True)
class Features:
    """What is measured of an image.

    size         side of the square that images are resized to, in pixels, at least 8
    channels     output channels of each layer of the random CNN
    kernel_size  of its convolutions, odd, in pixels
    """

    size: int = _option(64, LOSS)
    channels: tuple[int, ...] = _option((16, 32, 64), LOSS)
    kernel_size: int = _option(3, LOSS)

    def __post_init__(self) -> None:
        _make_tuples(self, "channels")
        _check(self, 8 <= self.size <= 4096, "size", "between 8 and 4096 pixels")
        good = bool(self.channels) and min(self.channels) >= 1
        _check(self, good, "channels", "a list of numbers of at least 1")
        good = self.kernel_size >= 1 and self.kernel_size % 2 == 1
        _check(self, good, "kernel_size", "an odd number of at least 1")


@dataclass(frozen=True)
class Mix:
    """What closeness is.

    weights  of the divergences; a mapping by name will do
    """

    weights: Weights = _option(Weights(), LOSS)  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if isinstance(self.weights, Mapping):
            object.__setattr__(self, "weights", Weights.of(self.weights))


@dataclass(frozen=True)
class Constraints:
    """Which images may be chosen.

    stratify  'share': every class keeps its share of n; 'equal': all get as many; None: classes do not matter
    labels    a CSV file with columns path and label, of the classes; None takes the first folder in a path
    group_by  'parent' or a regular expression that captures the group in a path: all of a group or none of it
    keep      paths of images that must be chosen
    drop      paths of images that must not; they belong to the source all the same
    dedupe    whether of images that are copies of each other, exact or near, at most one is chosen
    """

    stratify: str | None = _option(None, CHOICE)
    labels: str | None = _option(None, CHOICE)
    group_by: str | None = _option(None, CHOICE)
    keep: tuple[str, ...] = _option((), CHOICE)
    drop: tuple[str, ...] = _option((), CHOICE)
    dedupe: bool = _option(False, CHOICE)

    def __post_init__(self) -> None:
        _make_tuples(self, "keep", "drop")
        _check(self, self.stratify in (None, *STRATIFY), "stratify", f"one of {', '.join(STRATIFY)}")
        _check(self, self.labels is None or self.stratify is not None, "labels", "of use without stratify")
        _check(self, not (self.dedupe and self.group_by), "dedupe", "possible with group_by, which takes groups whole")


@dataclass(frozen=True)
class Search:
    """How the subset is looked for.

    seed           of the search and of the network's weights; 0 to 2^63 - 1
    candidates     random subsets that are drawn and scored, at least 1
    chains         how many of the best of these are improved by exchanges, side by side, at least 1
    steps          of the annealed exchanges, each a few dozen exchanges a chain; 0 leaves it at the best draw
    time_limit     in seconds; the search then cools faster, and results depend on the machine's speed
    temperature    kT of the Langevin noise at the start, in units of the source's variance, at least 0
    friction       gamma of the noise, per unit of time, at least 0
    langevin_time  how long the noise acts, at least 0; the default is one step of the chain with dt = 0.1
    target_loss    of `n="auto"`: the smallest n whose loss is at most this, above 0
    target_size    of `n="auto"`: the smallest n with at least this effective size
    """

    seed: int = _option(0, LOSS)
    candidates: int = _option(4096, CHOICE)
    chains: int = _option(2, CHOICE)
    steps: int = _option(600, CHOICE)
    time_limit: float | None = _option(None, CHOICE)
    temperature: float = _option(1.0, CHOICE)
    friction: float = _option(1.0, CHOICE)
    langevin_time: float = _option(0.1, CHOICE)
    target_loss: float | None = _option(None, CHOICE)
    target_size: float | None = _option(None, CHOICE)

    def __post_init__(self) -> None:
        _check(self, 0 <= self.seed < 1 << 63, "seed", "between 0 and 2^63 - 1")
        for name, least in (("candidates", 1), ("chains", 1), ("steps", 0)):
            _check(self, getattr(self, name) >= least, name, f"a number of at least {least}")
        limit = self.time_limit
        good = limit is None or (math.isfinite(limit) and limit > 0)
        _check(self, good, "time_limit", "a finite number of seconds above 0")
        for name in ("temperature", "friction", "langevin_time"):
            value = getattr(self, name)
            _check(self, math.isfinite(value) and value >= 0, name, "a finite number of at least 0")
        for name in ("target_loss", "target_size"):
            value = getattr(self, name)
            _check(self, value is None or (math.isfinite(value) and value > 0), name, "a finite number above 0")
        both = self.target_loss is not None and self.target_size is not None
        _check(self, not both, "target_size", "to be given together with a target_loss; choose one of them")

    @property
    def has_target(self) -> bool:
        """Whether the number of images follows from a target."""
        return self.target_loss is not None or self.target_size is not None


@dataclass(frozen=True)
class Running:
    """Where the work is done.

    device   auto (CUDA if there is one), cpu or cuda
    workers  decoding processes; None is one a core; 0 is none but this one, without a time limit for a file
    cache    folder that keeps the moments of images between runs; None is none
    """

    device: str = _option("auto", CHOICE)  # other processors round otherwise, and draw other random numbers
    workers: int | None = _option(None, NOTHING)
    cache: str | None = _option(None, NOTHING)

    def __post_init__(self) -> None:
        _check(self, self.device in DEVICES, "device", f"one of {', '.join(DEVICES)}")
        _check(self, self.workers is None or self.workers >= 0, "workers", "a number of at least 0")


@dataclass(frozen=True, init=False)
class Options:
    """Everything that decides which images are chosen, but for the source and n.

    Given by name, whichever record an option belongs to: `Options(steps=100, weights={"kl": 1})`; a whole record may
    be given by its own name. They are read either way: `options.search.steps`, `options.steps`.

    Raises UsageError that names the value at fault, or the word that is none of the options.
    """

    reading: Reading
    features: Features
    mix: Mix
    constraints: Constraints
    search: Search
    running: Running

    def __init__(self, **given: Any) -> None:
        for name, kind in RECORDS.items():
            own = {option: given.pop(option) for option in kind.__dataclass_fields__ if option in given}
            record = given.pop(name, None) or kind()
            object.__setattr__(self, name, dataclasses.replace(record, **own) if own else record)
        for name in given:
            raise UsageError(unknown(name, f"unknown option '{name}'", OPTION_NAMES))

    if not TYPE_CHECKING:  # a checker should tell of a misspelt option in this package

        def __getattr__(self, name: str) -> Any:
            owner = OPTION_NAMES.get(name)
            if owner is None:
                raise AttributeError(f"Options have no '{name}'")
            return getattr(getattr(self, owner), name)

    def that_decide(self, level: int = NOTHING) -> dict[str, Any]:
        """The options of this level and of those before it, by name."""
        return {
            option.name: getattr(record, option.name)
            for record in (getattr(self, name) for name in RECORDS)
            for option in dataclasses.fields(record)
            if option.metadata["decides"] <= level
        }


RECORDS: dict[str, type[Any]] = {
    "reading": Reading,
    "features": Features,
    "mix": Mix,
    "constraints": Constraints,
    "search": Search,
    "running": Running,
}
OPTION_NAMES = {option: name for name, kind in RECORDS.items() for option in kind.__dataclass_fields__}


def merged(options: Options | None, words: Mapping[str, Any]) -> Options:
    """Options with some of them replaced."""
    return dataclasses.replace(options or Options(), **words)


def unknown(name: str, complaint: str, known: Mapping[str, object] | set[str]) -> str:
    """A message about a word that is not known: what became of it, or what may have been meant."""
    if fate := REMOVED.get(name.replace("-", "_")):
        return f"{complaint}: it was taken out, since {fate}"
    near = difflib.get_close_matches(name, list(known), 1)
    return f"{complaint}; did you mean '{near[0]}'?" if near else f"{complaint}; known: {', '.join(known)}"


@dataclass(frozen=True)
class Embeddings:
    """Where features that were computed elsewhere are.

    values  a .npy file, or an array, (N, D) of real numbers: integers, booleans or floats
    paths   of the N images, relative to the source or absolute: a text file with one a line, or separated by NUL
            bytes if it holds any; or a sequence
    pca     how many principal components to keep, at most D; 0 keeps the dimensions as they are; None is 64 where
            there are more than 256 dimensions, else 0

    Raises UsageError if `pca` is negative.
    """

    values: str | os.PathLike[str] | np.ndarray
    paths: str | os.PathLike[str] | Sequence[str]
    pca: int | None = None

    def __post_init__(self) -> None:
        if self.pca is not None and self.pca < 0:
            raise UsageError(f"pca {self.pca} is not a number of at least 0")

    def describe(self) -> dict[str, object]:
        """What they are, for a manifest: of files the absolute path, size and modification time."""
        return {"values": identity(self.values), "paths": identity(self.paths), "pca": self.pca}
