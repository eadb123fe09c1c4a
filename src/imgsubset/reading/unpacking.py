"""Compressed tar archives, unpacked once to a temporary file, in which the bytes of each member have a place.

The file lives as long as any of the members does, and takes no more than the disk has left beside it: so a bomb ends.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from imgsubset.errors import InputError, one_line
from imgsubset.files import BLOCK_BYTES
from imgsubset.reading.archives import iter_tar_members
from imgsubset.reading.formats import HEAD_BYTES
from imgsubset.reading.members import OriginalArchive
from imgsubset.reading.naming import NamedMember
from imgsubset.reading.tars import is_tar

MAX_XZ_MEMORY_BYTES = 1 << 28  # bytes that xz may take: its own strongest level takes 68 MB, a hostile file says 4 GB
COMPRESSED_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""What the names of such archives end in; whether they are some, the content says."""


def _make_xz_decompressor() -> Any:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_XZ_MEMORY_BYTES)


DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Iterator[bytes]]] = {
    b"\x1f\x8b": lambda file: _decompress_gzip(file),
    b"BZh": lambda file: _decompress_streams(file, bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": lambda file: _decompress_streams(file, _make_xz_decompressor),
}
"""By the first bytes of a file its content, a block at a time."""
with contextlib.suppress(ImportError):  # of Python 3.14
    from compression.zstd import ZstdDecompressor  # type: ignore[import-not-found, unused-ignore]

    DECOMPRESSORS[b"\x28\xb5\x2f\xfd"] = lambda file: _decompress_streams(file, ZstdDecompressor)


def is_compressed_tar(file: BinaryIO) -> bool:
    """Whether an open file is a compressed tar archive of a kind that is read, by its content. Raises OSError."""
    file.seek(0)
    if (unpacked := _decompress(file)) is None:
        return False
    with contextlib.suppress(Exception):  # a hostile one raises far more than EOFError
        head = b""
        while len(head) < HEAD_BYTES:
            head += next(unpacked, b"\0" * HEAD_BYTES)
        return is_tar(head[:HEAD_BYTES])
    return False


def iter_compressed_tar_members(path: str, file: BinaryIO, status: os.stat_result) -> Iterator[NamedMember]:
    """What is in a compressed tar archive, in its order; of a damaged one what comes before that.

    Raises InputError if the disk has too little space for it.
    """
    original = OriginalArchive(path, status.st_size, status.st_mtime_ns)
    descriptor, place = tempfile.mkstemp(".tar", "imgsubset-")
    remove = weakref.finalize(original, Path(place).unlink, missing_ok=True)
    with os.fdopen(descriptor, "w+b") as unpacked:
        try:
            problem = _unpack(path, file, unpacked)
        except BaseException:
            remove()
            raise
        for name, member in iter_tar_members(path, unpacked, os.fstat(descriptor)):
            yield name, member if isinstance(member, str) else replace(member, file=place, original=original)
    if problem:
        yield "", problem


def _unpack(path: str, file: BinaryIO, target: BinaryIO) -> str:
    """Unpack a file; where it is damaged, what there is to say of that."""
    file.seek(0)
    content, written, problem = _decompress(file), 0, ""
    assert content is not None
    folder = tempfile.gettempdir()
    while True:
        try:
            block = next(content, b"")
        except Exception as error:
            if getattr(error, "errno", None) is not None:  # of the disk
                raise
            problem, block = f"damaged where it is unpacked: {one_line(error)[:200]}; what follows is not read", b""
        try:
            if not block:
                target.flush()
                return problem
            target.write(block)
        except OSError as error:
            raise InputError(f"source '{path}' cannot be unpacked to '{folder}': {error.strerror or error}") from None
        written += len(block)
        if written > (free := shutil.disk_usage(folder).free):
            raise InputError(
                f"source '{path}' takes more than {written:,} bytes once unpacked, and '{folder}' has {free:,} bytes "
                "free beside them; set TMPDIR to a folder with more"
            )


def _decompress(file: BinaryIO) -> Iterator[bytes] | None:
    """The content of a compressed file, a block at a time; None for one of another kind."""
    start = file.read(HEAD_BYTES)
    file.seek(0)
    return next((stream(file) for magic, stream in DECOMPRESSORS.items() if start.startswith(magic)), None)


def _decompress_gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as stream:
        while block := stream.read1(BLOCK_BYTES):
            yield block


def _decompress_streams(file: BinaryIO, decompressor: Callable[[], Any]) -> Iterator[bytes]:
    """The content of streams one after another. Raises EOFError where the last of them is cut off."""
    waiting = file.read(BLOCK_BYTES)
    while waiting:
        stream = decompressor()
        while not stream.eof:
            if stream.needs_input and not waiting and not (waiting := file.read(BLOCK_BYTES)):
                raise EOFError("it is cut off")
            if block := stream.decompress(waiting, BLOCK_BYTES):
                yield block
            waiting = b""
        waiting = (stream.unused_data or file.read(BLOCK_BYTES)).lstrip(b"\0")  # xz pads its streams
