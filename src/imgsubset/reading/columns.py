"""What is known of images beside their pixels: columns, with an entry an image, from tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from imgsubset.errors import InputError, UsageError, meant, shortened
from imgsubset.reading.contents import Listing
from imgsubset.reading.given import relative
from imgsubset.reading.tables import LARGEST, Table, is_empty, number_of

SEVERAL = "|"  # between the texts of one entry
PERIODIC = re.compile(r"(.+)@(\d+(?:\.\d+)?)")
OF_DATES = {  # by period, what of a date and time comes round
    24: lambda time: time.hour + time.minute / 60 + time.second / 3600,
    7: lambda time: time.weekday(),
    12: lambda time: time.month - 1 + (time.day - 1) / 31,
    365: lambda time: time.timetuple().tm_yday - 1,
}


@dataclass(frozen=True, eq=False)
class Column:
    """One thing that is known of N images.

    name     for people
    numbers  (N,) float64, NaN where it is not known; None: the column holds texts
    texts    the texts of each image, () where nothing is known; None: the column holds numbers
    period   after which numbers come round again, 24 of hours; None: they do not
    """

    name: str
    numbers: np.ndarray | None = field(default=None, repr=False)
    texts: tuple[tuple[str, ...], ...] | None = field(default=None, repr=False)
    period: float | None = None


def columns_of(
    table: Table, listing: Listing, paths: Sequence[str], wanted: Sequence[str] = ()
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """The columns of a table, lined up with images of a listing, and what a user should know.

    wanted  names of columns, in this order, () for all; NAME@PERIOD is the column NAME, whose numbers come round after
            so much. Of dates and times that is the hour (@24), the weekday (@7), the month (@12) or the day (@365)

    Raises UsageError for a column that there is not, InputError for two rows of one image, rows of none of the images
    and entries that make no sense.
    """
    columns, notes = [], list[str]()
    order, more = _rows(table, listing, paths)
    for name in wanted or table.columns:
        column, note = _column(table, name, order)
        columns.append(column)
        notes += note
    return tuple(columns), (*more, *notes)


def _rows(table: Table, listing: Listing, paths: Sequence[str]) -> tuple[list[int | None], list[str]]:
    """The row of each image, None where there is none."""
    known, places = frozenset(listing.paths), dict[str, int]()
    unknown = []
    for row, path in enumerate(table.paths):
        name = relative(path.strip(), listing, known)
        if name not in known:
            unknown.append(path)
        elif (first := places.setdefault(name, row)) != row:
            raise InputError(
                f"{table.name} has two rows of '{name}', in lines {table.lines[first]} and {table.lines[row]}"
            )
    order = [places.get(path) for path in paths]
    missing = [path for path, row in zip(paths, order, strict=True) if row is None]
    if len(missing) == len(paths):
        raise InputError(
            f"{table.name} is about no image of source '{listing.name}': its first path is "
            f"'{shortened(table.paths[0])}', and the source has '{paths[0]}'"
        )
    notes = []
    if unknown:
        notes.append(f"{table.name} has {_counted(len(unknown), 'row')} of no image of the source: '{unknown[0]}'")
    if missing:
        notes.append(f"{table.name} lacks {_counted(len(missing), 'image')} of the source, such as '{missing[0]}'")
    return order, notes


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count > 1 else ''}"


def _column(table: Table, name: str, order: Sequence[int | None]) -> tuple[Column, list[str]]:
    periodic = PERIODIC.fullmatch(name)
    key = periodic[1] if periodic and name not in table.columns else name
    period = float(periodic[2]) if periodic else None
    if period == 0:
        raise UsageError(f"column '{name}' of {table.name}: a period of 0")
    column = _entries(table.columns, key, table.name)
    entries = [None if row is None else column[row] for row in order]
    numbers = [number_of(_of_date(entry, period)) for entry in entries]
    words = [place for place, number in enumerate(numbers) if number is None]
    if not words:
        for place, number in enumerate(numbers):
            if number is not None and abs(number) > LARGEST:
                raise InputError(_at(table, order[place], key, entries[place]) + " is not finite")
        return Column(name, np.array(numbers, np.float64), period=period), []
    word = _at(table, order[words[0]], key, entries[words[0]])
    if period is not None:
        raise InputError(f"{word} is neither a number nor a date")
    mostly_numbers = 2 * len(words) < sum(not is_empty(entry) for entry in entries)
    notes = [f"{word} is no number, so that all are taken for texts"] if mostly_numbers else []
    return Column(name, texts=tuple(_texts(entry) for entry in entries)), notes


def _entries(columns: Mapping[str, Sequence[Any]], key: str, name: str) -> Sequence[Any]:
    if key not in columns:
        has = "; it has " + shortened(", ".join(columns))
        raise UsageError(f"{name} has no column '{key}'{meant(key, columns) or has}")
    return columns[key]


def _at(table: Table, row: int | None, key: str, entry: object) -> str:
    return f"{table.name}, line {table.lines[row or 0]}, column '{shortened(key)}': '{shortened(str(entry))}'"


def _texts(entry: Any) -> tuple[str, ...]:
    """The texts of an entry: several in a list, or between bars."""
    if is_empty(entry):
        return ()
    parts = [str(one) for one in entry] if isinstance(entry, (list, tuple)) else str(entry).split(SEVERAL)
    return tuple(dict.fromkeys(stripped for one in parts if (stripped := one.strip())))


def _of_date(entry: Any, period: float | None) -> Any:
    """What comes round of a date; an entry that is none, as it is."""
    if period is None:
        return entry
    if isinstance(entry, str) and number_of(entry) is None:
        try:
            entry = datetime.fromisoformat(entry.strip().replace("Z", "+00:00"))
        except ValueError:
            return entry
    return OF_DATES[int(period)](entry) if isinstance(entry, datetime) and period in OF_DATES else entry
