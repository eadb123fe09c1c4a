"""Per-image results of a model, such as correct, loss or IoU, from a table or from Python lists."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from imgsubset.annotations.tables import MAX_NUMBER, parse_number, read_table
from imgsubset.errors import InputError, UsageError, did_you_mean, short_repr, shorten

BOOLEAN_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
DEFAULT_COLUMN = "result"  # what numbers by path are called
AnyModelResults: TypeAlias = "str | os.PathLike[str] | Mapping[str, Sequence[float]] | Mapping[str, float]"


@dataclass(frozen=True)
class ModelResults:
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


def read_model_results(given: AnyModelResults, wanted: Sequence[str] = ()) -> ModelResults:
    """Results from a table (CSV, TSV, JSON Lines, Parquet), or from a dict of lists by name or of numbers by path.

    wanted  the columns that count; () for all that hold numbers. true and yes are 1, false and no are 0

    Raises UsageError for what is of another kind or lacks a column that is wanted, InputError for a file that cannot be
    read and for entries that are no finite numbers, naming the line.
    """
    if isinstance(given, (str, os.PathLike)):
        table = read_table(given, "results")
        places = tuple(f"line {line}" for line in table.lines)
        return _make_model_results(table.name, table.paths, places, table.columns, wanted)
    if not isinstance(given, Mapping) or not given:
        raise UsageError(
            f"results {short_repr(given)} are not a table file, a dict of lists by name or of numbers by path"
        )
    if not all(isinstance(key, (str, os.PathLike)) for key in given):
        raise UsageError("results: the keys of the dict are neither names of columns nor paths")
    listed = {os.fsdecode(key): _as_list(value) for key, value in given.items()}
    if all(values is None for values in listed.values()):
        names = tuple(listed)
        return _make_model_results(
            "the results", names, tuple(map(repr, names)), {DEFAULT_COLUMN: [*given.values()]}, wanted
        )
    columns = {name: values for name, values in listed.items() if values is not None}
    if len(columns) < len(listed):
        raise UsageError("results: some values of the dict are lists of a column, others numbers of an image")
    if len({*map(len, columns.values())}) > 1:
        counts = ", ".join(f"'{name}' {len(values):,}" for name, values in columns.items())
        raise UsageError(f"the results are columns of unlike lengths: {shorten(counts, 300)}")
    count = len(next(iter(columns.values())))
    return _make_model_results(
        "the results", None, tuple(f"element {place}" for place in range(count)), columns, wanted
    )


def _as_list(value: Any) -> list[Any] | None:
    """The elements of a list, an array or a tensor; None for a number."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) else [*value]


def _make_model_results(
    name: str,
    paths: tuple[str, ...] | None,
    places: tuple[str, ...],
    columns: Mapping[str, Sequence[Any]],
    wanted: Sequence[str],
) -> ModelResults:
    for column in wanted:
        if column not in columns:
            has = shorten(", ".join(columns), 300) or "no other than the paths"
            raise UsageError(f"{name} have no column '{column}'{did_you_mean(column, columns) or '; there are ' + has}")
    found, left_out = dict[str, Sequence[float]](), []
    for column in wanted or columns:
        numbers = [_parse_entry(entry) for entry in columns[column]]
        if not wanted and all(math.isnan(number) for number in numbers):
            left_out.append(column)
            continue
        for place, number, entry in zip(places, numbers, columns[column], strict=True):
            if not abs(number) <= MAX_NUMBER:
                what = "there is nothing" if entry in ("", None) else f"{short_repr(entry)} is no finite number"
                raise InputError(f"{name}, {place}, column '{shorten(column, 100)}': {what}")
        found[column] = numbers
    if not found:
        raise InputError(f"{name} have no column of numbers beside the paths, such as correct, loss or IoU")
    several = f"columns {shorten(', '.join(map(repr, left_out)), 300)} of {name} hold no numbers and are left out"
    return ModelResults(name, paths, places, found, (several,) if left_out else ())


def _parse_entry(entry: Any) -> float:
    """The number that an entry is, NaN for none."""
    if isinstance(entry, str) and (word := BOOLEAN_WORDS.get(entry.strip().lower())) is not None:
        return word
    entry = entry.item() if hasattr(entry, "item") and not getattr(entry, "shape", ()) else entry  # of numpy or torch
    number = parse_number(entry)
    return math.nan if number is None else number
