"""Files that hold the images of a source, of whichever kind: tar and zip archives, Parquet tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from imgsubset.errors import InputError
from imgsubset.files import open_regular
from imgsubset.reading.archives import in_tar, in_zip
from imgsubset.reading.formats import HEAD, STARTS
from imgsubset.reading.naming import Found
from imgsubset.reading.parquet import in_parquet
from imgsubset.reading.tars import is_tar
from imgsubset.reading.unpacking import COMPRESSED, in_compressed_tar, is_compressed_tar

READERS = {".tar": in_tar, ".zip": in_zip, ".parquet": in_parquet}
COMPRESSED_TAR = "compressed tar"
NAMES = (*READERS, *COMPRESSED)


def container_kind(file: str | os.PathLike[str]) -> str | None:
    """What `members_of` takes a file for: by its content or, if that does not tell, its name. Raises OSError."""
    with open_regular(file) as opened:
        head = opened.read(HEAD)
        if is_compressed_tar(opened):
            return COMPRESSED_TAR
    if is_tar(head) or head[257:262] == b"ustar":
        return ".tar"
    suffix = Path(file).suffix.lower()
    by_name = suffix if suffix in READERS else None
    return next((kind for start, kind in STARTS.items() if head.startswith(start)), by_name)


def members_of(file: str | os.PathLike[str], kind: str) -> Iterator[Found]:
    """What is in such a file, in its order. Raises OSError, and InputError for what is no file of this kind."""
    path = os.fspath(file)
    with open_regular(file) as opened:
        status = os.fstat(opened.fileno())
        if status.st_size == 0:
            raise InputError(f"source '{path}' is an empty file")
        reader = in_compressed_tar if kind == COMPRESSED_TAR else READERS[kind]
        yield from reader(path, opened, status)
