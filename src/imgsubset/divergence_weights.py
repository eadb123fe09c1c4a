"""The weights of the five divergences. Imports nothing heavy, so that a wrong name is answered at once."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from imgsubset.errors import UsageError, short_repr
from imgsubset.inputs import as_float


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
        for name, value in [(name, getattr(self, name)) for name in self.__dataclass_fields__]:
            try:
                good = math.isfinite(as_float(value)) and value >= 0
            except (TypeError, ValueError, RuntimeError):
                raise UsageError(f"weight {name}={short_repr(value)} is not a number") from None
            if not good:
                raise UsageError(f"weight {name}={short_repr(value)} is not a finite number of at least 0")
            object.__setattr__(self, name, float(value))  # of a number of numpy's, for one
        if not any(dataclasses.astuple(self)):
            raise UsageError("all weights are 0; at least one divergence must count")

    @classmethod
    def of(cls, given: Mapping[str, Any], text: str = "") -> Weights:
        """Weights by name; the unnamed are 0. `text` is how a user wrote them, for messages.

        Raises UsageError naming what it does not understand.
        """
        of_what = f" in weights '{text or short_repr(dict(given))}'"
        values = dict.fromkeys(DIVERGENCE_NAMES, 0.0)
        for name, number in given.items():
            if name not in values:
                raise UsageError(f"unknown divergence '{name}'{of_what}; known: {', '.join(DIVERGENCE_NAMES)}")
            try:
                values[name] = number if isinstance(number, int) else float(number)
            except (TypeError, ValueError):
                raise UsageError(f"weight '{name}={number}' is not a number") from None
        return cls(**values)

    @classmethod
    def parse(cls, text: str) -> Weights:
        """Weights from `kl=1,frechet=0.5`, where the unnamed are 0, or five numbers in the order of the fields.

        Raises UsageError naming what it does not understand.
        """
        parts = [part.strip() for part in text.split(",")]
        if "=" not in text:
            if len(parts) != len(DIVERGENCE_NAMES):
                raise UsageError(
                    f"weights '{text}' are {len(parts)} numbers, not {len(DIVERGENCE_NAMES)}; "
                    f"give {','.join(DIVERGENCE_NAMES)} in this order, or by name as in 'kl=1,frechet=0.5'"
                )
            return cls.of(dict(zip(DIVERGENCE_NAMES, parts, strict=True)), text)
        named: dict[str, str] = {}
        for part in parts:
            name, _, number = (piece.strip() for piece in part.partition("="))
            if name in named:
                raise UsageError(f"divergence '{name}' is named twice in weights '{text}'")
            named[name] = number
        return cls.of(named, text)

    def shares(self) -> dict[str, float]:
        """The divergences that count, with weights that sum to 1."""
        values = dataclasses.asdict(self)
        largest = max(values.values())  # divided out first: the sum of huge weights would overflow
        total = sum(value / largest for value in values.values())
        return {name: value / largest / total for name, value in values.items() if value > 0}


def parse_named_weights(
    given: str | Mapping[str, Any] | Iterable[tuple[str, Any]], what: str, kept: Collection[str] = ()
) -> tuple[tuple[str, float], ...]:
    """Names with weights, as in 'a=1,b' where a name alone has weight 1; those of weight 0 are left out.

    what  these are, for messages
    kept  those whose weight of 0 says something
    Raises UsageError for what is named twice, is no finite number of at least 0, and if nothing is left.
    """
    if isinstance(given, str):
        parts = [part.partition("=") for part in given.split(",")]
        pairs: list[tuple[str, Any]] = [
            (name.strip(), number.strip() if equals else 1) for name, equals, number in parts
        ]
    else:
        try:
            listed = given.items() if isinstance(given, Mapping) else given
            pairs = [(one, 1) if isinstance(one, str) else (str(one[0]), one[1]) for one in listed]
        except (TypeError, IndexError, KeyError):
            raise UsageError(f"{what} {short_repr(given)} are not names, nor a dict of weights by name") from None
    values: dict[str, float] = {}
    for name, number in pairs:
        if name in values:
            raise UsageError(f"'{name}' is named twice in {what} '{_format_pairs(pairs)}'")
        try:
            values[name] = as_float(number)
        except (TypeError, ValueError):
            values[name] = math.nan
        if not (math.isfinite(values[name]) and values[name] >= 0):
            written = short_repr(number) if isinstance(number, int) else number
            raise UsageError(f"weight '{name}={written}' in {what} is not a finite number of at least 0")
    left = tuple((name, value) for name, value in values.items() if value or name in kept)
    if not left:
        raise UsageError(f"{what} '{_format_pairs(pairs)}' name nothing with a weight above 0")
    return left


def parse_terms(given: Any, what: str, kept: Collection[str] = ()) -> tuple[tuple[str, float], ...]:
    """Names with weights, as `named_weights` has them, of a list whose texts are NAME or NAME=W; none are none.

    A name may hold anything: only a number after the last `=` is a weight.
    """
    if isinstance(given, (str, os.PathLike)):
        given = [given]
    if not isinstance(given, Mapping) and isinstance(given, Iterable):
        given = [_parse_term(os.fspath(one)) if isinstance(one, (str, os.PathLike)) else one for one in given]
    return parse_named_weights(given, what, kept) if given or not hasattr(given, "__len__") else ()


def _parse_term(text: str) -> tuple[str, Any]:
    name, equals, number = text.rpartition("=")
    try:
        return (name, float(number)) if equals else (text, 1)
    except ValueError:
        return text, 1


def _format_pairs(pairs: Iterable[tuple[str, Any]]) -> str:
    return ",".join(f"{name}={number}" for name, number in pairs)


DIVERGENCE_NAMES = tuple(field.name for field in dataclasses.fields(Weights))
