"""What a model did on images: numbers such as correct, loss or IoU, of a table's columns or of a program's lists."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from imgsubset.errors import InputError, UsageError, meant, shortened, shown
from imgsubset.reading.tables import LARGEST, number_of, read_table

WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
RESULT = "result"  # what numbers by path are called
AnyOutcomes: TypeAlias = "str | os.PathLike[str] | Mapping[str, Sequence[float]] | Mapping[str, float]"


@dataclass(frozen=True)
class Outcomes:
    """Results of images.

    name     what messages call them
    paths    of the images, as written; None: they are in the order of the subset
    places   where each row is, for messages
    columns  numbers by name, one a row
    notes    what a user should know
    """

    name: str
    paths: tuple[str, ...] | None
    places: tuple[str, ...] = field(repr=False)
    columns: Mapping[str, Sequence[float]] = field(repr=False)
    notes: tuple[str, ...] = ()


def read_outcomes(given: AnyOutcomes, wanted: Sequence[str] = ()) -> Outcomes:
    """Results from a table (CSV, TSV, JSON Lines, Parquet), or from a dict of lists by name or of numbers by path.

    wanted  the columns that count; () for all that hold numbers. true and yes are 1, false and no are 0

    Raises UsageError for what is of another kind or lacks a column that is wanted, InputError for a file that cannot be
    read and for entries that are no finite numbers, naming the line.
    """
    if isinstance(given, (str, os.PathLike)):
        table = read_table(given, "results")
        places = tuple(f"line {line}" for line in table.lines)
        return _outcomes(table.name, table.paths, places, table.columns, wanted)
    if not isinstance(given, Mapping) or not given:
        raise UsageError(f"results {shown(given)} are not a table file, a dict of lists by name or of numbers by path")
    if not all(isinstance(key, (str, os.PathLike)) for key in given):
        raise UsageError("results: the keys of the dict are neither names of columns nor paths")
    listed = {os.fsdecode(key): _list(value) for key, value in given.items()}
    if all(values is None for values in listed.values()):
        names = tuple(listed)
        return _outcomes("the results", names, tuple(map(repr, names)), {RESULT: [*given.values()]}, wanted)
    columns = {name: values for name, values in listed.items() if values is not None}
    if len(columns) < len(listed):
        raise UsageError("results: some values of the dict are lists of a column, others numbers of an image")
    if len({*map(len, columns.values())}) > 1:
        counts = ", ".join(f"'{name}' {len(values):,}" for name, values in columns.items())
        raise UsageError(f"the results are columns of unlike lengths: {shortened(counts, 300)}")
    count = len(next(iter(columns.values())))
    return _outcomes("the results", None, tuple(f"element {place}" for place in range(count)), columns, wanted)


def _list(value: Any) -> list[Any] | None:
    """The elements of a list, an array or a tensor; None for a number."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) else [*value]


def _outcomes(
    name: str,
    paths: tuple[str, ...] | None,
    places: tuple[str, ...],
    columns: Mapping[str, Sequence[Any]],
    wanted: Sequence[str],
) -> Outcomes:
    for column in wanted:
        if column not in columns:
            has = shortened(", ".join(columns), 300) or "no other than the paths"
            raise UsageError(f"{name} have no column '{column}'{meant(column, columns) or '; there are ' + has}")
    found, left_out = dict[str, Sequence[float]](), []
    for column in wanted or columns:
        numbers = [_number(entry) for entry in columns[column]]
        if not wanted and all(math.isnan(number) for number in numbers):
            left_out.append(column)
            continue
        for place, number, entry in zip(places, numbers, columns[column], strict=True):
            if not abs(number) <= LARGEST:
                what = "there is nothing" if entry in ("", None) else f"{shown(entry)} is no finite number"
                raise InputError(f"{name}, {place}, column '{shortened(column, 100)}': {what}")
        found[column] = numbers
    if not found:
        raise InputError(f"{name} have no column of numbers beside the paths, such as correct, loss or IoU")
    several = f"columns {shortened(', '.join(map(repr, left_out)), 300)} of {name} hold no numbers and are left out"
    return Outcomes(name, paths, places, found, (several,) if left_out else ())


def _number(entry: Any) -> float:
    """The number that an entry is, NaN for none."""
    if isinstance(entry, str) and (word := WORDS.get(entry.strip().lower())) is not None:
        return word
    entry = entry.item() if hasattr(entry, "item") and not getattr(entry, "shape", ()) else entry  # of numpy or torch
    number = number_of(entry)
    return math.nan if number is None else number
