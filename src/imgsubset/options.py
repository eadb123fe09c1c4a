"""What a user can choose, checked on construction; imports nothing heavy, so that a wrong word is answered at once."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgsubset.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Weights:
    """How much each divergence counts; only the proportions matter.

    Raises UsageError for a weight that is negative or not finite, and if all are 0.
    """

    kl: float = 1.0
    js: float = 1.0
    wasserstein: float = 1.0
    hellinger: float = 1.0
    frechet: float = 1.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"weight {name}={value:g} is not a finite number of at least 0")
        if not any(dataclasses.astuple(self)):
            raise UsageError("all weights are 0; at least one divergence must count")

    @classmethod
    def parse(cls, text: str) -> Weights:
        """Weights from `kl=1,frechet=0.5`, where the unnamed are 0, or five numbers in the order of the fields.

        Raises UsageError naming what it does not understand.
        """
        parts = [part.strip() for part in text.split(",")]
        if not any("=" in part for part in parts):
            if len(parts) != len(DIVERGENCE_NAMES):
                raise UsageError(
                    f"weights '{text}' are {len(parts)} numbers, not {len(DIVERGENCE_NAMES)}; "
                    f"give {','.join(DIVERGENCE_NAMES)} in this order, or by name as in 'kl=1,frechet=0.5'"
                )
            parts = [f"{name}={part}" for name, part in zip(DIVERGENCE_NAMES, parts, strict=True)]
        values = dict.fromkeys(DIVERGENCE_NAMES, 0.0)
        seen = set()
        for part in parts:
            name, _, number = (piece.strip() for piece in part.partition("="))
            if name not in values:
                raise UsageError(
                    f"unknown divergence '{name}' in weights '{text}'; known: {', '.join(DIVERGENCE_NAMES)}"
                )
            if name in seen:
                raise UsageError(f"divergence '{name}' is named twice in weights '{text}'")
            seen.add(name)
            try:
                values[name] = float(number)
            except ValueError:
                raise UsageError(f"weight '{part}' is not a number") from None
        return cls(**values)

    def shares(self) -> dict[str, float]:
        """The divergences that count, with weights that sum to 1."""
        values = dataclasses.asdict(self)
        largest = max(values.values())  # divided out first: the sum of huge weights would overflow
        total = sum(value / largest for value in values.values())
        return {name: value / largest / total for name, value in values.items() if value > 0}


DIVERGENCE_NAMES = tuple(field.name for field in dataclasses.fields(Weights))
DEVICES = ("auto", "cpu", "cuda")
STRATIFY = ("share", "equal")


@dataclass(frozen=True)
class Options:
    """Everything that decides which images are chosen, but for the source and n.

    weights        of the divergences
    candidates     random subsets that are drawn and scored, at least 1
    chains         how many of the best of these are improved by exchanges, side by side, at least 1
    steps          of the annealed exchanges, each a few dozen exchanges a chain; 0 leaves it at the best draw
    time_limit     for the search, in seconds; it then cools faster, and results depend on the machine's speed
    seed           of the search and of the network's weights; 0 to 2^63 - 1
    device         auto (CUDA if there is one), cpu or cuda
    size           side of the square that images are resized to, in pixels, at least 8
    channels       output channels of each layer of the random CNN
    kernel_size    of its convolutions, odd, in pixels
    temperature    kT of the Langevin noise at the start, in units of the source's variance, at least 0
    friction       gamma of the noise, per unit of time, at least 0
    langevin_time  how long the noise acts, at least 0; the default is one step of the chain with dt = 0.1
    target_loss    of `n="auto"`: the smallest n whose loss is at most this, above 0
    target_size    of `n="auto"`: the smallest n with at least this effective size
    stratify       'share': every class keeps its share of n; 'equal': all get as many; None: classes do not matter
    labels         a CSV file with columns path and label, of the classes; None takes the first folder in a path
    group_by       'parent' or a regular expression that captures the group in a path: all of a group or none of it
    include        gitignore patterns of the images that count at all; () is all
    exclude        gitignore patterns of images that do not count, as if they were not there
    keep           paths of images that must be chosen
    drop           paths of images that must not; they belong to the source all the same
    dedupe         whether of images that are copies of each other, exact or near, at most one is chosen
    sidecars       files that travel with their images: auto, none, or templates as in 'labels/{dir}/{stem}.txt'
    coco           a COCO instances file of which the part about the chosen images is written
    resume         file that keeps the state of the search, which goes on from it if it was cut off; changes no result
    workers        decoding processes; None is one a core; 0 is none but this one, without a time limit for a file
    cache          folder that keeps the moments of images between runs; None is none; changes no result
    cache_verify   whether a cached image counts as the same by its content, not its path, size and time
    strict         whether a file that cannot be decoded is an error rather than skipped

    Raises UsageError that names the value at fault.
    """

    weights: Weights = Weights()
    candidates: int = 4096
    chains: int = 2
    steps: int = 600
    time_limit: float | None = None
    seed: int = 0
    device: str = "auto"
    size: int = 64
    channels: tuple[int, ...] = (16, 32, 64)
    kernel_size: int = 3
    temperature: float = 1.0
    friction: float = 1.0
    langevin_time: float = 0.1
    target_loss: float | None = None
    target_size: float | None = None
    stratify: str | None = None
    labels: str | None = None
    group_by: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    dedupe: bool = False
    sidecars: str = "auto"
    coco: str | None = None
    resume: str | None = None
    workers: int | None = None
    cache: str | None = None
    cache_verify: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        def check(good: bool, name: str, wanted: str) -> None:
            if not good:
                raise UsageError(f"{name} {getattr(self, name)!r} is not {wanted}")

        check(self.candidates >= 1, "candidates", "a number of at least 1")
        check(self.chains >= 1, "chains", "a number of at least 1")
        check(self.steps >= 0, "steps", "a number of at least 0")
        limit = self.time_limit
        check(limit is None or (math.isfinite(limit) and limit > 0), "time_limit", "a finite number of seconds above 0")
        check(0 <= self.seed < 1 << 63, "seed", "between 0 and 2^63 - 1")
        check(self.device in DEVICES, "device", f"one of {', '.join(DEVICES)}")
        check(8 <= self.size <= 4096, "size", "between 8 and 4096 pixels")
        check(bool(self.channels) and min(self.channels) >= 1, "channels", "a list of numbers of at least 1")
        check(self.kernel_size >= 1 and self.kernel_size % 2 == 1, "kernel_size", "an odd number of at least 1")
        for name in ("temperature", "friction", "langevin_time"):
            value = getattr(self, name)
            check(math.isfinite(value) and value >= 0, name, "a finite number of at least 0")
        for name in ("target_loss", "target_size"):
            value = getattr(self, name)
            check(value is None or (math.isfinite(value) and value > 0), name, "a finite number above 0")
        for name in ("include", "exclude", "keep", "drop"):
            check(not isinstance(getattr(self, name), str), name, "a list, but a text")
        both = self.target_loss is not None and self.target_size is not None
        check(not both, "target_size", "to be given together with a target_loss; choose one of them")
        check(self.stratify in (None, *STRATIFY), "stratify", f"one of {', '.join(STRATIFY)}")
        check(self.labels is None or self.stratify is not None, "labels", "of use without stratify")
        check(not (self.dedupe and self.group_by), "dedupe", "possible with group_by, which takes groups whole")
        check(self.workers is None or self.workers >= 0, "workers", "a number of at least 0")

    @property
    def has_target(self) -> bool:
        """Whether the number of images follows from a target."""
        return self.target_loss is not None or self.target_size is not None


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


def identity(file: object) -> dict[str, object] | None:
    """A file's absolute path, size and modification time; None for what is no path."""
    if not isinstance(file, (str, os.PathLike)):
        return None
    try:
        status = Path(file).stat()
    except OSError:
        return {"path": str(file)}
    return {"path": str(Path(file).absolute()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


AUTO = "auto"


def check_size(n: int | str, options: Options) -> None:
    """Raise UsageError if n makes no sense for any source, or not with these options."""
    subset_size(n, 1 << 200)
    if str(n).strip() == AUTO and not options.has_target:
        raise UsageError("n 'auto' needs a target loss or a target size to aim at")
    if options.resume is not None and options.has_target:
        raise UsageError("resume goes with a number of images, not with n 'auto'")
    if str(n).strip() != AUTO and options.has_target:
        raise UsageError(f"a target loss or size goes with n 'auto', not with n '{n}'")


def subset_size(n: int | str, usable: int) -> int:
    """How many images to choose: a number, or a percentage of the usable ones such as '10%', at least one.

    'auto' is at most all of them.
    Raises UsageError if n makes no sense, InputError if there are fewer usable images.
    """
    text = str(n).strip()
    if text == AUTO:
        return usable
    try:
        if text.endswith("%"):
            percentage = float(text[:-1])
            if not 0 < percentage <= 100:
                raise ValueError
            count = max(1, math.floor(usable * percentage / 100 + 0.5))
        else:
            count = int(text)
            if count < 1:
                raise ValueError
    except ValueError:
        raise UsageError(
            f"n '{text}' is neither a whole number of at least 1, nor a percentage above 0% and up to 100%, nor 'auto'"
        ) from None
    if count > usable:
        raise InputError(f"n = {count:,} images are asked for, but the source has only {usable:,} usable ones")
    return count
