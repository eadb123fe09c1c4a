"""What is known of images beside their pixels: columns, with an entry an image, from tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from imgsubset.annotations.tables import MAX_NUMBER, Table, is_missing, parse_number
from imgsubset.errors import InputError, UsageError, did_you_mean, shorten
from imgsubset.sources.images import Listing
from imgsubset.sources.python_sources import make_relative

TEXT_SEPARATOR = "|"  # between the texts of one entry
PERIODIC_PATTERN = re.compile(r"(.+)@(\d+(?:\.\d+)?)")
CYCLIC_DATE_PARTS = {  # by period, what of a date and time comes round
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


def align_columns(
    table: Table, listing: Listing, paths: Sequence[str], wanted: Sequence[str] = ()
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """The columns of a table, lined up with images of a listing, and what a user should know.

    wanted  names of columns, in this order, () for all; NAME@PERIOD is the column NAME, whose numbers come round after
            so much. Of dates and times that is the hour (@24), the weekday (@7), the month (@12) or the day (@365)

    Raises UsageError for a column that there is not, InputError for two rows of one image, rows of none of the images
    and entries that make no sense.
    """
    columns, notes = [], list[str]()
    order, more = _find_rows(table, listing, paths)
    for name in wanted or table.columns:
        column, note = _make_column(table, name, order)
        columns.append(column)
        notes += note
    return tuple(columns), (*more, *notes)


def _find_rows(table: Table, listing: Listing, paths: Sequence[str]) -> tuple[list[int | None], list[str]]:
    """The row of each image, None where there is none."""
    known, places = frozenset(listing.paths), dict[str, int]()
    unknown = []
    for row, path in enumerate(table.paths):
        name = make_relative(path.strip(), listing, known)
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
            f"'{shorten(table.paths[0])}', and the source has '{paths[0]}'"
        )
    notes = []
    if unknown:
        notes.append(f"{table.name} has {_format_count(len(unknown), 'row')} of no image of the source: '{unknown[0]}'")
    if missing:
        notes.append(f"{table.name} lacks {_format_count(len(missing), 'image')} of the source, such as '{missing[0]}'")
    return order, notes


def _format_count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count > 1 else ''}"


def _make_column(table: Table, name: str, order: Sequence[int | None]) -> tuple[Column, list[str]]:
    periodic = PERIODIC_PATTERN.fullmatch(name)
    key = periodic[1] if periodic and name not in table.columns else name
    period = float(periodic[2]) if periodic else None
    if period == 0:
        raise UsageError(f"column '{name}' of {table.name}: a period of 0")
    column = _get_entries(table.columns, key, table.name)
    entries = [None if row is None else column[row] for row in order]
    numbers = [parse_number(_extract_date_part(entry, period)) for entry in entries]
    words = [place for place, number in enumerate(numbers) if number is None]
    if not words:
        for place, number in enumerate(numbers):
            if number is not None and abs(number) > MAX_NUMBER:
                raise InputError(_describe_entry(table, order[place], key, entries[place]) + " is not finite")
        return Column(name, np.array(numbers, np.float64), period=period), []
    word = _describe_entry(table, order[words[0]], key, entries[words[0]])
    if period is not None:
        raise InputError(f"{word} is neither a number nor a date")
    mostly_numbers = 2 * len(words) < sum(not is_missing(entry) for entry in entries)
    notes = [f"{word} is no number, so that all are taken for texts"] if mostly_numbers else []
    return Column(name, texts=tuple(_split_texts(entry) for entry in entries)), notes


def _get_entries(columns: Mapping[str, Sequence[Any]], key: str, name: str) -> Sequence[Any]:
    if key not in columns:
        has = "; it has " + shorten(", ".join(columns))
        raise UsageError(f"{name} has no column '{key}'{did_you_mean(key, columns) or has}")
    return columns[key]


def _describe_entry(table: Table, row: int | None, key: str, entry: object) -> str:
    return f"{table.name}, line {table.lines[row or 0]}, column '{shorten(key)}': '{shorten(str(entry))}'"


def _split_texts(entry: Any) -> tuple[str, ...]:
    """The texts of an entry: several in a list, or between bars."""
    if is_missing(entry):
        return ()
    parts = [str(one) for one in entry] if isinstance(entry, (list, tuple)) else str(entry).split(TEXT_SEPARATOR)
    return tuple(dict.fromkeys(stripped for one in parts if (stripped := one.strip())))


def _extract_date_part(entry: Any, period: float | None) -> Any:
    """What comes round of a date; an entry that is none, as it is."""
    if period is None:
        return entry
    if isinstance(entry, str) and parse_number(entry) is None:
        try:
            entry = datetime.fromisoformat(entry.strip().replace("Z", "+00:00"))
        except ValueError:
            return entry
    return (
        CYCLIC_DATE_PARTS[int(period)](entry) if isinstance(entry, datetime) and period in CYCLIC_DATE_PARTS else entry
    )
