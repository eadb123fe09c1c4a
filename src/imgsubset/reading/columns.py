"""What is known of images beside their pixels: columns, with an entry an image, from tables."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from imgsubset.errors import InputError, UsageError, shortened
from imgsubset.reading.given import relative
from imgsubset.reading.listing import Listing
from imgsubset.reading.tables import Table, is_empty, number_of

LARGEST = 1e100  # a number's square must be one too
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
    period = float(periodic[2]) if periodic else None
    key = periodic[1] if periodic and name not in table.columns else name
    entries = _entries(table.columns, key, table.name)
    found = [None if row is None else entries[row] for row in order]
    if period == 0:
        raise UsageError(f"column '{name}' of {table.name}: a period of 0")
    if period is not None:
        found = [_of_date(entry, period) for entry in found]
    numbers = [number_of(entry) for entry in found]
    wrong = [place for place, number in enumerate(numbers) if number is None or not abs(number) <= LARGEST]
    wrong = [place for place in wrong if not is_empty(found[place])]
    texts = [place for place in wrong if numbers[place] is None]
    if not texts and wrong:
        raise InputError(_at(table, order[wrong[0]], key) + f"'{shortened(str(found[wrong[0]]))}' is not finite")
    if not texts:
        return Column(name, np.array(numbers, np.float64), period=period), []
    example = shortened(str(found[texts[0]]))
    if period is not None:
        raise InputError(_at(table, order[texts[0]], key) + f"'{example}' is neither a number nor a date")
    notes = []
    filled = sum(not is_empty(entry) for entry in found)
    if 2 * len(texts) < filled:
        notes.append(_at(table, order[texts[0]], key) + f"'{example}' is no number, so that all are taken for texts")
    return Column(name, texts=tuple(_texts(entry) for entry in found)), notes


def _entries(columns: Mapping[str, Sequence[Any]], key: str, name: str) -> Sequence[Any]:
    if key not in columns:
        near = "".join(f"; did you mean '{one}'?" for one in difflib.get_close_matches(key, columns, 1))
        raise UsageError(f"{name} has no column '{key}'{near or '; it has ' + shortened(', '.join(columns))}")
    return columns[key]


def _at(table: Table, row: int | None, key: str) -> str:
    return f"{table.name}, line {table.lines[row or 0]}, column '{shortened(key)}': "


def _texts(entry: Any) -> tuple[str, ...]:
    """The texts of an entry: several in a list, or between bars."""
    if is_empty(entry):
        return ()
    parts = [str(one) for one in entry] if isinstance(entry, (list, tuple)) else str(entry).split(SEVERAL)
    return tuple(dict.fromkeys(stripped for one in parts if (stripped := one.strip())))


def _of_date(entry: Any, period: float) -> Any:
    """What comes round of a date; an entry that is none, as it is."""
    if isinstance(entry, str) and number_of(entry) is None:
        try:
            entry = datetime.fromisoformat(entry.strip().replace("Z", "+00:00"))
        except ValueError:
            return entry
    return OF_DATES[int(period)](entry) if isinstance(entry, datetime) and period in OF_DATES else entry
