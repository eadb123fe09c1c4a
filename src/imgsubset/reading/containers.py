"""Files that hold the images of a source, of whichever kind: tar and zip archives, Parquet tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from imgsubset.errors import InputError
from imgsubset.files import open_regular
from imgsubset.reading.archives import iter_tar_members, iter_zip_members
from imgsubset.reading.formats import ARCHIVE_MAGIC, HEAD_BYTES
from imgsubset.reading.naming import NamedMember
from imgsubset.reading.parquet import iter_parquet_rows
from imgsubset.reading.tars import is_tar
from imgsubset.reading.unpacking import COMPRESSED_TAR_SUFFIXES, is_compressed_tar, iter_compressed_tar_members

MEMBER_READERS = {".tar": iter_tar_members, ".zip": iter_zip_members, ".parquet": iter_parquet_rows}
COMPRESSED_TAR = "compressed tar"
CONTAINER_SUFFIXES = (*MEMBER_READERS, *COMPRESSED_TAR_SUFFIXES)


def detect_container_kind(file: str | os.PathLike[str]) -> str | None:
    """What `members_of` takes a file for: by its content or, if that does not tell, its name. Raises OSError."""
    with open_regular(file) as opened:
        head = opened.read(HEAD_BYTES)
        if is_compressed_tar(opened):
            return COMPRESSED_TAR
    if is_tar(head) or head[257:262] == b"ustar":
        return ".tar"
    suffix = Path(file).suffix.lower()
    by_name = suffix if suffix in MEMBER_READERS else None
    return next((kind for start, kind in ARCHIVE_MAGIC.items() if head.startswith(start)), by_name)


def iter_members(file: str | os.PathLike[str], kind: str) -> Iterator[NamedMember]:
    """What is in such a file, in its order. Raises OSError, and InputError for what is no file of this kind."""
    path = os.fspath(file)
    with open_regular(file) as opened:
        status = os.fstat(opened.fileno())
        if status.st_size == 0:
            raise InputError(f"source '{path}' is an empty file")
        reader = iter_compressed_tar_members if kind == COMPRESSED_TAR else MEMBER_READERS[kind]
        yield from reader(path, opened, status)
