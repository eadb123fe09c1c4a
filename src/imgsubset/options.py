"""What a user can choose, checked on construction; imports nothing heavy, so that a wrong word is answered at once.

Options are sorted into records, one for each stage that reads them. All that is to be said of one is said where it is
declared: its default; what it decides; what it means, for the help of the command line too; which values make sense.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imgsubset.errors import UsageError
from imgsubset.files import identity
from imgsubset.weights import DIVERGENCE_NAMES, Weights

if TYPE_CHECKING:
    import numpy as np

# What an option decides: what the loss of a given subset is; or which subset comes out, or what is written beside it;
# or nothing but how long it takes. Each level includes those before it.
LOSS, CHOICE, NOTHING = range(3)
DEVICES = ("auto", "cpu", "cuda")
STRATIFY = ("share", "equal")
REMOVED = {  # what became of options of earlier versions
    "resume": "a search takes seconds, and the cache keeps what is expensive: run the same command again",
    "cache_verify": "an image is known by its path, size and modification time; --no-cache decodes all of them anew",
}
Check = tuple[Callable[[Any], bool], str]
"""Whether a value makes sense, and what does."""


def _at_least(least: float) -> Check:
    return lambda value: value >= least, f"a number of at least {least}"


def _one_of(*words: str) -> Check:
    return lambda value: value in words, f"one of {', '.join(words)}"


ABOVE_0: Check = (lambda value: math.isfinite(value) and value > 0, "a finite number above 0")
FROM_0: Check = (lambda value: math.isfinite(value) and value >= 0, "a finite number of at least 0")
SIDE: Check = (lambda value: 8 <= value <= 4096, "between 8 and 4096 pixels")
SEED: Check = (lambda value: 0 <= value < 1 << 63, "between 0 and 2^63 - 1")
ODD: Check = (lambda value: value >= 1 and value % 2 == 1, "an odd number of at least 1")
CHANNELS: Check = (lambda value: bool(value) and min(value) >= 1, "a list of numbers of at least 1")


def _opt(default: Any, decides: int, meaning: str, check: Check | None = None) -> Any:
    return field(default=default, metadata={"decides": decides, "meaning": meaning, "check": check})


class _Record:
    """Options, each checked; None makes sense where it is the default."""

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):  # type: ignore[arg-type]  # what derives from this is a dataclass
            value = getattr(self, option.name)
            if value is None and option.default is None:
                continue
            if isinstance(option.default, tuple):
                self._check(not isinstance(value, str), option.name, "a list, but a text")
                self._check(isinstance(value, Iterable), option.name, "a list")
                object.__setattr__(self, option.name, tuple(value))
            if check := option.metadata["check"]:
                makes_sense, wanted = check
                try:
                    self._check(makes_sense(value), option.name, wanted)
                except TypeError:  # a text where a number is wanted
                    self._check(False, option.name, wanted)

    def _check(self, good: bool, name: str, wanted: str) -> None:
        if not good:
            raise UsageError(f"{name} {getattr(self, name)!r} is not {wanted}")


@dataclass(frozen=True)
class Reading(_Record):
    """Which images there are, and what belongs to them."""

    include: tuple[str, ...] = _opt((), LOSS, "Only images that match count, by the rules of .gitignore")
    exclude: tuple[str, ...] = _opt((), LOSS, "Images that match do not count, as if they were not there")
    sidecars: str = _opt("auto", LOSS, "Label files that travel with their image: of the same name beside it, or in "
        "the trees of YOLO and VOC; or templates as in 'labels/{dir}/{stem}.txt', separated by commas")  # fmt: skip
    follow_labels: bool = _opt(False, CHOICE, "Take label files along too that are links out of the source")
    coco: str | None = _opt(None, CHOICE, "Write the part of this COCO instances file that is about the chosen images")
    strict: bool = _opt(False, CHOICE, "Fail (exit 4) if any image cannot be decoded, not skip it")


@dataclass(frozen=True)
class Features(_Record):
    """What is measured of an image."""

    size: int = _opt(64, LOSS, "Side of the square that images are resized to", SIDE)
    channels: tuple[int, ...] = _opt((16, 32, 64), LOSS, "Output channels of each layer of the random CNN", CHANNELS)
    kernel_size: int = _opt(3, LOSS, "Of its convolutions; odd", ODD)


@dataclass(frozen=True)
class Mix(_Record):
    """What closeness is."""

    weights: Weights = _opt(Weights(), LOSS,  # noqa: RUF009 (frozen)
        "How much each divergence counts: by name, as in 'kl=1,frechet=0.5' (the unnamed are 0), or five numbers in "
        f"the order {','.join(DIVERGENCE_NAMES)}")  # fmt: skip

    def __post_init__(self) -> None:
        if isinstance(self.weights, Mapping):
            object.__setattr__(self, "weights", Weights.of(self.weights))
        self._check(isinstance(self.weights, Weights), "weights", "a number for each divergence, by name")


@dataclass(frozen=True)
class Constraints(_Record):
    """Which images may be chosen."""

    stratify: str | None = _opt(None, CHOICE, "Every class keeps its share of n; with =equal all get as many. The "
        "class is the first folder", _one_of(*STRATIFY))  # fmt: skip
    labels: str | None = _opt(None, CHOICE, "The classes of --stratify, with columns path,label")
    group_by: str | None = _opt(None, CHOICE, "Take all of a group or none of it: a folder, or what the expression "
        "captures in the path")  # fmt: skip
    keep: tuple[str, ...] = _opt((), CHOICE, "Images that must be chosen, one path a line")
    drop: tuple[str, ...] = _opt((), CHOICE, "Images that must not be chosen, one path a line")
    dedupe: bool = _opt(False, CHOICE, "Choose at most one of images that are copies, exact or near")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.labels is None or self.stratify is not None, "labels", "of use without stratify")
        self._check(not (self.dedupe and self.group_by), "dedupe", "possible with group_by, which takes groups whole")


@dataclass(frozen=True)
class Search(_Record):
    """How the subset is looked for."""

    seed: int = _opt(0, LOSS, "Of the network and the search: the same seed chooses the same images", SEED)
    candidates: int = _opt(4096, CHOICE, "Random subsets to score", _at_least(1))
    chains: int = _opt(2, CHOICE, "How many of the best draws are improved side by side", _at_least(1))
    steps: int = _opt(600, CHOICE, "Steps of annealed exchanges; 0 keeps the best draw", _at_least(0))
    time_limit: float | None = _opt(None, CHOICE, "End the search after this long, as in '30s' or '5m', with the best "
        "found by then", (ABOVE_0[0], "a finite number of seconds above 0"))  # fmt: skip
    temperature: float = _opt(1.0, CHOICE, "kT of the Langevin noise at the start, in units of the source's variance",
        FROM_0)  # fmt: skip
    friction: float = _opt(1.0, CHOICE, "gamma of the Langevin noise", FROM_0)
    langevin_time: float = _opt(0.1, CHOICE, "How long the noise acts", FROM_0)
    target_loss: float | None = _opt(None, CHOICE, "Of '-n auto': the smallest n with at most this loss", ABOVE_0)
    target_size: float | None = _opt(None, CHOICE, "Of '-n auto': the smallest n that is as close as M random images",
        ABOVE_0)  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        both = self.target_loss is not None and self.target_size is not None
        self._check(not both, "target_size", "to be given together with a target_loss; choose one of them")

    @property
    def has_target(self) -> bool:
        """Whether the number of images follows from a target."""
        return self.target_loss is not None or self.target_size is not None


@dataclass(frozen=True)
class Running(_Record):
    """Where the work is done. Other processors round otherwise, and draw other random numbers."""

    device: str = _opt("auto", CHOICE, "Where the network and the search run; auto is a CUDA GPU if there is one",
        _one_of(*DEVICES))  # fmt: skip
    workers: int | None = _opt(None, NOTHING, "Decoding processes; 0 decodes in this one", _at_least(0))
    cache: str | None = _opt(None, NOTHING, "Where the moments of images are kept between runs")


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
            object.__setattr__(self, name, dataclasses.replace(given.pop(name, None) or kind(), **own))
        for name in given:
            raise UsageError(unknown(name, f"unknown option '{name}'", FIELDS))

    if not TYPE_CHECKING:  # a checker should tell of a misspelt option in this package

        def __getattr__(self, name: str) -> Any:
            for record, kind in RECORDS.items():
                if name in kind.__dataclass_fields__:
                    return getattr(getattr(self, record), name)
            raise AttributeError(f"Options have no '{name}'")

    def that_decide(self, level: int = NOTHING) -> dict[str, Any]:
        """The options of this level and of those before it, by name."""
        return {name: getattr(self, name) for name, option in FIELDS.items() if option.metadata["decides"] <= level}


_KINDS: tuple[type[Any], ...] = (Reading, Features, Mix, Constraints, Search, Running)
RECORDS = {kind.__name__.lower(): kind for kind in _KINDS}
FIELDS = {name: option for kind in _KINDS for name, option in kind.__dataclass_fields__.items()}
for _kind in _KINDS:  # for readers of docstrings
    _lines = [f"    {option.name}  {option.metadata['meaning']}" for option in dataclasses.fields(_kind)]
    _kind.__doc__ = "\n".join([f"{_kind.__doc__}", "", *_lines])


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
