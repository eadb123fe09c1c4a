"""Parquet tables of images as Hugging Face writes them: a column of `bytes` and `path`, or of bytes alone."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from posixpath import splitext
from typing import Any, BinaryIO

from imgsubset.errors import InputError, UsageError, one_line, shorten
from imgsubset.files import Stamp, open_regular
from imgsubset.sources.archive_members import (
    MAX_MEMBER_BYTES,
    FetchedMember,
    InMemoryFile,
    NamedMember,
    explain_invalid_path,
)
from imgsubset.sources.images import IMAGE_SUFFIXES, guess_suffix

MAX_ROW_GROUP_BYTES = 1 << 31  # bytes of the pictures of a group of rows, which is read as a whole
MAX_CACHED_ROW_GROUPS = 2  # groups of rows: pictures are asked for in their order, by several threads


class ParquetTable:
    """A Parquet file with pictures in a column; groups of its rows are read when one of them is asked for.

    leaf   the column of pictures; label that of classes, None if there is none
    names  of classes that are numbers; () if they have none
    """

    def __init__(
        self, path: str, status: os.stat_result, leaf: str, label: str | None = None, names: Sequence[str] = ()
    ) -> None:
        self.path, self.leaf, self.label, self.names = path, leaf, label, names
        self.whole, self.mtime_ns = status.st_size, status.st_mtime_ns
        self.lock = threading.Lock()
        self.groups: dict[int, Any] = {}

    def content(self, group: int, row: int) -> bytes:
        """The picture in a row of a group. Raises OSError if there is none, or the file has changed."""
        with self.lock:
            if group not in self.groups:
                column = self._read(group)
                while len(self.groups) >= MAX_CACHED_ROW_GROUPS:
                    del self.groups[next(iter(self.groups))]
                self.groups[group] = column
            column = self.groups[group]
        content = column[row].as_py()
        if not isinstance(content, bytes):
            raise OSError(errno.EINVAL, "no picture")
        if len(content) > MAX_MEMBER_BYTES:
            raise OSError(errno.EFBIG, "larger than a picture that is read")
        return content

    @cached_property
    def classes(self) -> list[Any]:
        """The class of each row, None where it has none; nothing without a column of classes. Raises OSError."""
        column = None if self.label is None else self._load(self.label)
        kinds: list[Any] = [] if column is None else _read_values(column)
        count = len(self.names)
        return [self.names[kind] if isinstance(kind, int) and 0 <= kind < count else kind for kind in kinds]

    def _read(self, group: int) -> Any:
        return self._load(self.leaf, group)

    def _load(self, leaf: str, group: int | None = None) -> Any:
        """A column of a group of rows, or of all."""
        from pyarrow import parquet

        with open_regular(self.path) as file:
            if Stamp.of(os.fstat(file.fileno())) != Stamp(self.whole, self.mtime_ns):
                raise OSError(errno.ESTALE, "its table has changed", self.path)
            try:
                # As a dictionary, so that a small file with one large value in each of a million rows stays small.
                opened = parquet.ParquetFile(file, read_dictionary=[leaf])
                groups = range(opened.num_row_groups) if group is None else [group]
                return opened.read_row_groups(groups, columns=[leaf]).flatten().column(0)
            except Exception as error:  # of many kinds, all from damaged files
                raise OSError(errno.EIO, f"its table is damaged: {shorten(one_line(error), 200)}") from None


class ParquetRow(FetchedMember):
    """A picture in a row of a table."""

    __slots__ = ("group", "place", "row", "table")

    def __init__(self, table: ParquetTable, place: int, group: int, row: int) -> None:
        self.table, self.place, self.group, self.row = table, place, group, row

    @property
    def file(self) -> str:
        """The path of the table."""
        return self.table.path

    @property
    def stamp(self) -> Stamp:
        """What it was when it was listed. Its size is not known: nothing of a column of bytes is read for that."""
        return Stamp(0, self.table.mtime_ns)

    @property
    def key(self) -> str:
        """What tells it from any other of its name and stamp."""
        return f"{os.path.abspath(self.table.path)}\0{self.table.whole} {self.place}"  # noqa: PTH100 (see Extent)

    @property
    def sort_key(self) -> tuple[str, int]:
        """Where it lies."""
        return self.table.path, self.place

    @property
    def label(self) -> str | int | None:
        """Its class; None if it has none. Raises OSError."""
        classes = self.table.classes
        if self.place >= len(classes) > 0:
            raise OSError(errno.EIO, "its table is damaged")
        return classes[self.place] if classes else None

    def to_sendable(self) -> InMemoryFile:
        """Its content. Raises OSError."""
        return InMemoryFile(self.table.content(self.group, self.row), self.stamp)


def iter_parquet_rows(path: str, file: BinaryIO, status: os.stat_result) -> Iterator[NamedMember]:
    """The pictures of a table, in the order of its rows: by the paths in it or, where there are none, by numbers.

    Raises InputError if it is no such table, UsageError without pyarrow.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise UsageError(f"source '{path}': Parquet needs a library: pip install 'imgsubset[parquet]'") from None
    try:
        schema = parquet.read_schema(file)
        leaf, named = _find_image_column(schema)
        opened = parquet.ParquetFile(file, read_dictionary=[named] * (named is not None))
        metadata = opened.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        if metadata.num_rows > status.st_size or metadata.num_rows != sum(group.num_rows for group in groups):
            raise ValueError(f"it says that it has {metadata.num_rows:,} rows")
        names: list[Any] = [None] * metadata.num_rows if named is None else []
        for number in range(len(groups) if named else 0):
            names += _read_values(opened.read_row_group(number, columns=[named]).flatten().column(0))
    except Exception as error:  # of many kinds, all from damaged files
        raise InputError(
            f"source '{path}' cannot be read as a Parquet table of pictures: {shorten(one_line(error), 200)}"
        ) from None
    if any(group.total_byte_size > MAX_ROW_GROUP_BYTES for group in groups):
        raise InputError(f"source '{path}' has groups of rows of more than 2 GB; write it with smaller ones")
    if any(isinstance(name, str) for name in names) and all(_is_null_column(group, leaf) for group in groups):
        raise InputError(
            f"source '{path}' holds paths of images without the images; choose their folder or a text file of the "
            "paths, or write the table with the bytes of the images"
        )
    table = ParquetTable(path, status, leaf, *_find_class_column(schema))
    places = ((group, row) for group, one in enumerate(groups) for row in range(one.num_rows))
    rows = [ParquetRow(table, place, *where) for place, where in enumerate(places)]
    yield from zip(_name_rows(names, rows), rows, strict=True)


def _find_image_column(schema: Any) -> tuple[str, str | None]:
    """The leaves of the first column of pictures: their bytes, and their paths if it has them.

    Raises ValueError if there is none.
    """
    from pyarrow import types

    def of_bytes(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    for field in schema:
        inner = {one.name: one.type for one in field.type} if types.is_struct(field.type) else {}
        if "bytes" in inner and of_bytes(inner["bytes"]):
            return f"{field.name}.bytes", f"{field.name}.path" if "path" in inner else None
        if of_bytes(field.type):
            return field.name, None
    raise ValueError(f"no column has bytes, of {', '.join(schema.names)}")


def _is_null_column(group: Any, leaf: str) -> bool:
    """Whether a group of rows says that it has no value in a column."""
    columns = (group.column(place) for place in range(group.num_columns))
    counts = [one.statistics and one.statistics.null_count for one in columns if one.path_in_schema == leaf]
    return counts == [group.num_rows]


def _find_class_column(schema: Any) -> tuple[str | None, Sequence[str]]:
    """The column of classes, and their names: the first ClassLabel of Hugging Face, else `label`."""
    from pyarrow import types

    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        named = {name: feature["names"] for name, feature in features.items() if feature["_type"] == "ClassLabel"}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):  # it has none, or none of these
        named = {}
    for name in (*named, "label"):
        if schema.names.count(name) != 1:
            continue
        kind = schema.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind):
            names = named.get(name)
            return name, [*map(str, names)] if isinstance(names, list) else ()
    return None, ()


def _read_values(column: Any) -> list[Any]:
    """What is in a column."""
    from pyarrow import types

    if not types.is_dictionary(column.type):
        return list(column.to_pylist())
    found: list[Any] = []
    for chunk in column.chunks:
        values = chunk.dictionary.to_pylist()
        found += [None if index is None else values[index] for index in chunk.indices.to_pylist()]
    return found


def _name_rows(paths: Sequence[object], rows: Sequence[ParquetRow]) -> list[str]:
    """What the rows are called."""
    times, width = Counter(paths), len(str(len(paths) - 1))
    suffix = None
    names = []
    for place, path in enumerate(paths):
        good = isinstance(path, str) and times[path] == 1 and splitext(path)[1].lower() in IMAGE_SUFFIXES
        if not (good and explain_invalid_path(str(path)) is None):
            suffix = suffix or _guess_first_suffix(rows)
            path = f"{place:0{width}}{suffix}"
        names.append(str(path))
    return names


def _guess_first_suffix(rows: Sequence[ParquetRow]) -> str:
    try:
        return guess_suffix(rows[0].to_sendable().content)
    except OSError:
        return guess_suffix(b"")
