"""Tables about images: CSV, TSV, JSON Lines and Parquet files, read as they are, then aligned with the images."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from imgsubset.errors import InputError, UsageError, shorten
from imgsubset.files import read_input_file
from imgsubset.inputs import as_float
from imgsubset.options import TABLE_SUFFIXES

PATH_COLUMN_NAMES = (
    "path",
    "file",
    "image",
    "file_name",
    "filename",
)  # what a column of paths is called; else it is the first
MAX_COLUMNS = 10_000
MAX_NUMBER = 1e100  # a number's square must be one too
MISSING_ENTRIES = frozenset(["", "nan"])  # entries, in lower case, that say nothing


@dataclass(frozen=True)
class Table:
    """The rows of a file.

    name     what messages call it
    paths    of the images, as written, one a row
    lines    where in the file each row ends, counted from 1
    columns  the other entries by column, one a row: texts of a CSV file; of others what JSON or Parquet hold
    sha256   of the file
    """

    name: str
    paths: tuple[str, ...]
    lines: tuple[int, ...]
    columns: Mapping[str, Sequence[Any]]
    sha256: str


def is_table(name: str) -> bool:
    """Whether a file's name says that it is one."""
    return Path(name).suffix.lower() in TABLE_PARSERS


def read_table(
    file: str | os.PathLike[str], what: str = "table", suffix: str | None = None, any_bytes: bool = False
) -> Table:
    """Read a file whose rows are about images.

    what       it is, for messages
    suffix     of the kind that a file is whose name does not say it; None: it is refused
    any_bytes  whether bytes that are not UTF-8 may be in it; they stand as lone surrogates

    Raises UsageError for a file of another kind, and InputError for one that cannot be read as that, naming the line.
    """
    name = f"{what} '{os.fspath(file)}'"
    kind = Path(file).suffix.lower() if is_table(os.fspath(file)) else suffix
    if kind is None:
        raise UsageError(f"{name} is none of {', '.join(TABLE_PARSERS)} files")
    content = read_input_file(file, name)
    if not any_bytes and kind != ".parquet":
        _check_utf8(content, name)
    header, rows, lines = TABLE_PARSERS[kind](content, name)
    if not header or not rows:
        raise InputError(f"{name} has no rows; one for each image is needed, after a header that names the columns")
    if twice := [one for one, times in Counter(header).items() if times > 1]:
        raise InputError(f"{name} has several columns '{shorten(twice[0])}'")
    key = next((header.index(one) for one in PATH_COLUMN_NAMES if one in header), 0)
    columns = [*zip(*rows, strict=True)]
    for line, path in zip(lines, columns[key], strict=True):
        if not isinstance(path, str) or not path.strip() or "\0" in path:
            raise InputError(f"{name}, line {line}: there is no path in column '{shorten(header[key])}'")
    others = {one: columns[place] for place, one in enumerate(header) if place != key}
    return Table(name, tuple(columns[key]), tuple(lines), others, hashlib.sha256(content).hexdigest())


ParsedRows: TypeAlias = tuple[
    list[str], Sequence[Sequence[Any]], list[int]
]  # the header, the rows, and where each of them ends


def _check_utf8(content: bytes, name: str) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}, line {line}: byte {error.object[error.start]:#04x} is not UTF-8") from None


def _decode_text(content: bytes) -> str:
    return content.decode("utf-8-sig", "surrogateescape")


def _parse_csv(content: bytes, name: str) -> ParsedRows:
    text = _decode_text(content)
    first = text.partition("\n")[0]
    return _parse_delimited(text, name, max(",;\t", key=first.count))


def _parse_tsv(content: bytes, name: str) -> ParsedRows:
    return _parse_delimited(_decode_text(content), name, "\t")


def _parse_delimited(text: str, name: str, delimiter: str) -> ParsedRows:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    rows, lines = list[Sequence[Any]](), list[int]()
    try:
        header = [one.strip() for one in next(reader, [])]
        _check_width(len(header), name)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{name}, line {reader.line_num}: {len(row):,} fields, where the header has {len(header):,}"
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: {error}") from None
    return header, rows, lines


def _check_width(count: int, name: str) -> None:
    if count > MAX_COLUMNS:
        raise InputError(f"{name} has {count:,} columns; {MAX_COLUMNS:,} is the most")


def _parse_jsonl(content: bytes, name: str) -> ParsedRows:
    records, lines, header = [], [], dict[str, None]()
    for line, text in enumerate(_decode_text(content).split("\n"), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {line}: not JSON: {shorten(str(error))}") from None
        if not isinstance(record, dict):
            raise InputError(f'{name}, line {line}: not an object, as in {{"path": "a.jpg", "age": 31}}')
        header |= dict.fromkeys(record)
        _check_width(len(header), name)
        records.append(record)
        lines.append(line)
    return [*header], [[record.get(one) for one in header] for record in records], lines


def _parse_parquet(content: bytes, name: str) -> ParsedRows:
    try:
        from pyarrow import BufferReader, parquet
    except ImportError:
        raise UsageError(f"{name}: Parquet needs a library: pip install 'imgsubset[parquet]'") from None
    try:
        table = parquet.read_table(BufferReader(content))
        _check_width(table.num_columns, name)
        columns = [column.to_pylist() for column in table.columns]
    except InputError:
        raise
    except Exception as error:  # of many kinds, all from damaged files
        raise InputError(f"{name} is not a Parquet file: {shorten(' '.join(str(error).split()))}") from None
    rows = [*zip(*columns, strict=True)]
    return [*table.column_names], rows, [*range(1, len(rows) + 1)]


TABLE_PARSERS: dict[str, Callable[[bytes, str], ParsedRows]] = dict(
    zip(TABLE_SUFFIXES, (_parse_csv, _parse_tsv, _parse_jsonl, _parse_jsonl, _parse_parquet), strict=True)
)


def is_missing(entry: Any) -> bool:
    """Whether an entry of a table says nothing."""
    if isinstance(entry, str):
        return entry.strip().lower() in MISSING_ENTRIES
    return entry is None or (isinstance(entry, float) and math.isnan(entry))


def parse_number(entry: Any) -> float | None:
    """The number that an entry is, NaN for none; None for what is no number."""
    if is_missing(entry):
        return math.nan
    if isinstance(entry, (int, float, bool)):
        return as_float(entry)
    try:
        return float(entry) if isinstance(entry, str) and "_" not in entry else None
    except ValueError:
        return None
