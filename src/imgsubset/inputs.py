"""Arguments of Python callers, checked for type and range and converted: numbers, lists, embeddings, labels.

Checks are pairs of a predicate and the words in which a message says what is expected.
"""

from __future__ import annotations

import hashlib
import math
import numbers
import operator
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from imgsubset.errors import UsageError, short_repr
from imgsubset.files import describe_file

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Check = tuple[Callable[[Any], bool], str]
"""Whether a value makes sense, and what does."""


def as_float(value: Any) -> float:
    """Return the value as a float: infinity for a whole number that is too large. Raises what `float` does else."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def int_range(least: int, most: int) -> Check:
    """A whole number between these."""
    return lambda value: least <= value <= most, f"a whole number from {least:,} to {most:,}"


def int_list(least: int, most: int, count: int, odd: bool = False) -> Check:
    """At least one and at most `count` whole numbers between these."""

    def makes_sense(value: tuple[Any, ...]) -> bool:
        good = all(least <= one <= most and (one % 2 or not odd) for one in value)
        return good and 1 <= len(value) <= count

    return makes_sense, f"1 to {count} {'odd' if odd else 'whole'} numbers from {least:,} to {most:,}"


def float_up_to(most: float) -> Check:
    """A number from 0 to this."""
    return lambda value: 0 <= value <= most, f"a number from 0 to {most:g}"


def one_of(*words: str) -> Check:
    """One of these words."""
    return lambda value: value in words, f"one of {', '.join(words)}"


RESOLUTION: Check = (
    lambda value: value == "auto" or 8 <= value <= 4096,
    "'auto' or between 8 and 4096 pixels",
)
CANDIDATES: Check = (
    lambda value: value == "all" or (not isinstance(value, str) and 1 <= value <= 1_000_000),
    "'all' or a whole number from 1 to 1,000,000",
)
DEVICE: Check = (
    lambda value: bool(re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value)),
    "one of auto, cpu, cuda, or a certain GPU as in cuda:1",
)
SEED: Check = (lambda value: 0 <= value < 1 << 63, "between 0 and 2^63 - 1")
INT_PAIR: Check = (
    lambda value: not value or (len(value) == 2 and all(1 <= one <= 4096 for one in value)),
    "two whole numbers from 1 to 4,096",
)
BOOLEAN: Check = (lambda value: isinstance(value, bool), "True or False; how is said by stratify_as")
POSITIVE: Check = (lambda value: 0 < value <= sys.float_info.max, "a finite number above 0")
SECONDS: Check = (POSITIVE[0], "a finite number of seconds above 0")


def _as_int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _as_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    return value if isinstance(value, int) else float(value)


def _as_bool(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # numpy's too
        raise TypeError
    return bool(value)


def _as_text(value: Any) -> str:
    text = str(os.fsdecode(value))
    os.fsencode(text)
    return text


def _as_text_without_nul(value: Any) -> str:  # which no path has
    if "\0" in (text := _as_text(value)):
        raise TypeError
    return text


def _as_int_or_text(value: Any) -> int | str:
    return _as_text(value) if isinstance(value, str) else _as_int(value)


def _as_ints(value: Any) -> tuple[int, ...]:
    return tuple(map(_as_int, value)) if isinstance(value, Iterable) else (_as_int(value),)


def _as_texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)):
        raise TypeError
    return tuple(map(_as_text, value))


def _as_file_or_texts(value: Any) -> str | tuple[str, ...]:
    return _as_text_without_nul(value) if isinstance(value, (str, os.PathLike)) else _as_texts(value)


CONVERTERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "int": (_as_int, "a whole number"),
    "float": (_as_number, "a number"),
    "bool": (_as_bool, "True or False"),
    "str": (_as_text_without_nul, "a text"),
    "int | str": (_as_int_or_text, "a whole number or a text"),
    "tuple[int, ...]": (_as_ints, "a list of whole numbers"),
    "tuple[str, ...]": (_as_texts, "a list of texts"),
    "str | tuple[str, ...]": (_as_file_or_texts, "a list of paths, nor the path of a file that lists them"),
}
"""By how a kind is written in a record of options: what makes a value of it, or raises TypeError; and its name."""


def convert_value(name: str, kind: str, value: Any, wanted: str = "") -> Any:
    """A value made plain, such as an int of numpy's.

    Raises UsageError, which says what is wanted, if it is of another kind than `name` is.
    """
    if kind not in CONVERTERS:
        return value
    made, usual = CONVERTERS[kind]
    try:
        return made(value)
    except (TypeError, UnicodeError):
        raise UsageError(f"{name} {short_repr(value)} is not {wanted or usual}") from None


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Features that were computed elsewhere, or where they are.

    values  a .npy file, or an array or a tensor on any device, (N, D) of real numbers: integers, booleans or floats
    paths   of the N images, relative to the source or absolute: a text file with one a line, or separated by NUL
            bytes if it holds any; or a sequence. None: the rows are in the order of the list or data set that is the
            source
    pca     how many principal components to keep, at most D and 512; 0 keeps the dimensions as they are; None is 64
            where there are more than 64 dimensions, else 0

    Raises UsageError for what is of another kind, and if `pca` is negative.
    """

    values: str | os.PathLike[str] | np.ndarray
    paths: str | os.PathLike[str] | Sequence[str] | None = None
    pca: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.values, (str, os.PathLike)):
            object.__setattr__(self, "values", _as_array(self.values))
        if self.paths is not None and not isinstance(self.paths, (str, os.PathLike)):
            object.__setattr__(self, "paths", convert_value("paths of embeddings", "tuple[str, ...]", self.paths))
        if self.pca is not None:
            object.__setattr__(self, "pca", convert_value("pca", "int", self.pca))
            if self.pca < 0:
                raise UsageError(f"pca {self.pca} is not a number of at least 0")

    @classmethod
    def of(cls, given: Any) -> Embeddings | None:
        """What a caller gave as embeddings: these, or None, or their values alone."""
        return given if given is None or isinstance(given, cls) else cls(given)

    def describe(self) -> dict[str, object]:
        """What they are, for a manifest: of files the absolute path, size and modification time, of others a digest."""
        return self._described

    @cached_property
    def _described(self) -> dict[str, object]:
        values, paths = describe_file(self.values), describe_file(self.paths)
        if values is None:
            array: Any = self.values
            content = array.copy(order="C") if not array.flags.c_contiguous else array
            digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
            digest.update(content.reshape(-1).view("u1") if array.size else b"")
            values = {"shape": [*array.shape], "sha256": digest.hexdigest()}
        if paths is None and self.paths is not None:
            paths = _digest_lines(map(os.fsdecode, self.paths))  # type: ignore[arg-type]  # it is no file
        return {"values": values, "paths": paths, "pca": self.pca}


EmbeddingsLike: TypeAlias = "Embeddings | np.ndarray | Tensor | str | os.PathLike[str] | None"


def _as_array(values: Any) -> np.ndarray:
    """Values in memory as an array of numpy's."""
    import numpy as np

    wanted = "embeddings {} are not an array or a tensor (images, dimensions) of numbers, nor a .npy file"
    try:
        if hasattr(values, "cpu"):  # a tensor of torch's, wherever it is; numpy knows fewer kinds of floats
            values = values.detach().cpu()
            values = values.to_dense() if values.is_sparse else values
            small = values.is_floating_point() and values.element_size() < 4
            values = (values.float() if small else values).numpy()
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(wanted.format(short_repr(values))) from None
    if not isinstance(values, np.ndarray) and (array.ndim == 0 or array.dtype.kind not in "biufc"):
        raise UsageError(wanted.format(short_repr(values)))
    return array


@dataclass(frozen=True, repr=False)
class Labels:
    """Classes of images that are given in memory.

    names  of the classes, one an image
    paths  of the images; None: they are in the order of the list or data set that is the source
    """

    names: tuple[str, ...]
    paths: tuple[str, ...] | None = None

    @classmethod
    def of(cls, given: Any) -> Labels:
        """Labels from a dict by path, or from a list or an array in order.

        Raises UsageError for what is neither, or holds what is no name or number of a class.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, Mapping):
            paths = convert_value("paths of labels", "tuple[str, ...]", given.keys())
            return cls(tuple(_class_name(*item) for item in given.items()), paths)
        given = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(given, Iterable) or isinstance(given, (bytes, set, frozenset)):
            raise UsageError(
                f"labels {short_repr(given)} are not a CSV file, a dict of classes by path, or a list of them"
            )
        return cls(tuple(_class_name(place, label) for place, label in enumerate(given)))

    def by_path(self) -> dict[str, str]:
        """The class of each image by its path."""
        return dict(zip(self.paths or (), self.names, strict=True))

    def describe(self) -> dict[str, object]:
        """What they are, for a manifest."""
        return _digest_lines(
            f"{path}\0{name}" for path, name in sorted(zip(self.paths or (), self.names, strict=False))
        )

    def __repr__(self) -> str:
        return f"Labels({len(self.names):,} images, {len({*self.names}):,} classes)"


def _class_name(where: object, label: Any) -> str:
    label = label.item() if hasattr(label, "item") and not getattr(label, "shape", ()) else label  # of an array
    if isinstance(label, (str, int)) or (isinstance(label, float) and math.isfinite(label)):
        return str(label)
    raise UsageError(f"labels: that of {where!r} is {short_repr(label)}, which is no name or number of a class")


def _digest_lines(lines: Iterable[str]) -> dict[str, object]:
    count, digest = 0, hashlib.sha256()
    for line in lines:
        count += 1
        digest.update(os.fsencode(line) + b"\0\n")
    return {"images": count, "sha256": digest.hexdigest()}
