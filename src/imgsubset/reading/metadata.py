"""Labels in Hugging Face's metadata.jsonl and metadata.csv, cut to the chosen images.

Paths are relative to the source, with `/`.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import threading
from codecs import BOM_UTF8
from collections.abc import Collection, Iterator, Sequence
from posixpath import dirname, join, normpath
from typing import Any

from imgsubset.errors import InputError
from imgsubset.reading.contents import Listing
from imgsubset.reading.sidecars import METADATA_FILE_NAMES, list_ancestors


def list_metadata_paths(chosen: Sequence[str]) -> list[str]:
    """Where metadata about chosen images can be: in their folders and above them."""
    folders = {up for path in chosen for up in list_ancestors(dirname(path))}
    return [join(folder, name) for folder in sorted(folders, key=os.fsencode) for name in METADATA_FILE_NAMES]


def filter_metadata(source: Listing, chosen: Sequence[str], but: Collection[str] = ()) -> dict[str, bytes]:
    """Every metadata.jsonl and metadata.csv in or above the chosen images' folders, with only their rows, by path.

    A row stays if the image that its `file_name` names, relative to the file's folder, is chosen; without that
    field, if all files in its `*_file_name`, `file_names` and `*_file_names` are. Rows keep their bytes and order; a
    header and a byte order mark stay. A file without such fields follows another convention and is left out, as is
    one without a row that stays, and those in `but`. Raises InputError that names the file and the line at fault.
    """
    wanted = frozenset(chosen)
    filtered = {}
    for path in list_metadata_paths(chosen):
        if path in but:
            continue
        try:
            with source.open(path) as file:
                content = file.read()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):  # the latter: it is no regular file
                continue
            raise InputError(f"cannot read '{source.locate(path)}': {error.strerror or error}") from None
        if kept := _filter_rows(content, source.locate(path), dirname(path), wanted):
            filtered[path] = kept
    return filtered


def read_metadata_images(path: str, content: bytes) -> set[str]:
    """The images that the rows of a metadata file are about."""
    body = content.removeprefix(BOM_UTF8)
    rows = _iter_csv_rows(body, path) if path.endswith(".csv") else _iter_jsonl_rows(body, path)
    return {normpath(join(dirname(path), name)) for line, _, row in rows if line for name in _get_file_names(row) or ()}


def _filter_rows(content: bytes, where: str, folder: str, wanted: Collection[str]) -> bytes:
    """The rows of a metadata file that are about wanted images, after its header; empty if there are none."""
    body = content.removeprefix(BOM_UTF8)
    head, kept = [content[: len(content) - len(body)]], []
    rows = _iter_csv_rows(body, where) if where.endswith(".csv") else _iter_jsonl_rows(body, where)
    for place, (line, raw, row) in enumerate(rows):
        names = _get_file_names(row)
        if names is None and place == 0:
            return b""
        if names is None or not all(isinstance(name, str) for name in names):
            raise InputError(f"'{where}', line {line}: 'file_name' does not say which image this is about")
        if line == 0:
            head.append(raw)
        elif names and all(normpath(join(folder, name)) in wanted for name in names):
            kept.append(raw)
    return b"".join(head + kept) if kept else b""


def _get_file_names(row: dict[str, Any]) -> list[Any] | None:
    """What a row of metadata is about; None if it has no field for that."""
    if "file_name" in row:
        return [row["file_name"]]
    keys = [key for key in row if key == "file_names" or key.endswith(("_file_name", "_file_names"))]
    values = [row[key] if isinstance(row[key], list) else [row[key]] for key in keys if row[key] is not None]
    return [name for value in values for name in value] if keys else None


def _iter_jsonl_rows(content: bytes, where: str) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode(errors="surrogateescape"))  # names of files may not be UTF-8
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"'{where}', line {number}: not a JSON object")
        yield number, line, row


def _iter_csv_rows(content: bytes, where: str) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """The line that each record ends in, its bytes, and its fields by their columns; the header, as line 0."""
    lines = io.StringIO(content.decode(errors="surrogateescape"), newline="").readlines()
    rows, problem = _parse_csv(lines, len(content) + 1)
    header: list[str] = []
    end = 0
    for row, last in rows:
        start, end = end, last
        raw = "".join(lines[start:end]).lstrip("\r\n").encode(errors="surrogateescape")
        number = end if header else 0
        header = header or row
        if len(row) != len(header):
            raise InputError(f"'{where}', line {end}: {len(row)} fields, but {len(header)} columns")
        yield number, raw, dict(zip(header, row, strict=True))
    if problem:
        raise InputError(f"'{where}', {problem}")


_field_limit_lock = threading.Lock()


def _parse_csv(lines: list[str], largest: int) -> tuple[list[tuple[list[str], int]], str]:
    """Rows of fields of at most this size, with the lines that they end in, and what ends them early, if anything."""
    reader = csv.reader(lines, strict=True)  # else an open quote would swallow the rest
    rows: list[tuple[list[str], int]] = []
    with _field_limit_lock:  # a setting of the whole process: 128 KiB, which is little for a mask written as text
        before = csv.field_size_limit(largest)
        try:
            rows.extend((row, reader.line_num) for row in filter(None, reader))
        except csv.Error as error:
            return rows, f"line {reader.line_num}: {error}"
        finally:
            csv.field_size_limit(before)
    return rows, ""
