"""The members of zip and tar archives. Compressed tar archives are decompressed once, to a temporary file.

Tar headers follow POSIX.1-2001 with GNU long names.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import stat
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from imgsubset.errors import InputError, one_line
from imgsubset.files import BLOCK_BYTES
from imgsubset.sources.archive_members import (
    MAX_MEMBER_BYTES,
    ZIP_LOCAL_HEADER_BYTES,
    Extent,
    NamedMember,
    OriginalArchive,
)
from imgsubset.sources.images import HEAD_BYTES

TAR_BLOCK_BYTES = 512
MAX_HEADER_BYTES = 1 << 20  # bytes of a long name or of extended headers
FILE_TYPES, FOLDER_TYPE, LINK_TYPES = (b"\0", b"0", b"7"), b"5", (b"1", b"2")


class TarEntry(NamedTuple):
    """What a header says: the name, where the bytes are and how many, and why they are no file that is read, if so."""

    name: bytes
    start: int
    size: int
    problem: str | None = None


class DamagedTarError(Exception):
    """From some byte on an archive makes no sense."""


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with these 512 bytes is a tar archive, if not an empty one."""
    return len(head) == TAR_BLOCK_BYTES and any(head) and _is_checksum_valid(head)


def iter_tar_entries(file: int) -> Iterator[TarEntry | None]:
    """The members of an archive, given by its descriptor, but for folders; None where the archive has an end mark.

    Raises DamageError, which says from where on, after the members before that; OSError.
    """
    at, end = 0, os.fstat(file).st_size
    always: dict[str, bytes] = {}  # extended headers for all members that follow
    once: dict[str, bytes] = {}  # and for the next one
    while at < end:
        head = os.pread(file, TAR_BLOCK_BYTES, at)
        if len(head) == TAR_BLOCK_BYTES and not any(head):
            yield None
            return
        if not is_tar(head):
            raise DamagedTarError(f"no member begins at byte {at:,}, as one should; what follows is not read")
        size, kind, start = _parse_number(head[124:136]), head[156:157], at + TAR_BLOCK_BYTES
        if kind in (b"x", b"g", b"L", b"K"):
            if not 0 <= size <= min(MAX_HEADER_BYTES, end - start):
                raise DamagedTarError(f"the long header at byte {at:,} is none; what follows is not read")
            content = os.pread(file, size, start)
            if kind == b"L":
                once["path"] = content.split(b"\0", 1)[0]
            elif kind in b"xg":
                (once if kind == b"x" else always).update(_parse_extended_header(content))
        else:
            known = always | once
            once = {}
            if "size" in known:
                size = int(known["size"]) if known["size"].isdigit() and len(known["size"]) < 20 else -1
            if size < 0:
                raise DamagedTarError(f"the size of the member at byte {at:,} makes no sense; what follows is not read")
            if kind in b"123456":  # links, devices, folders have no bytes, whatever they say
                size = 0
            more = kind == b"S" and head[482] > 0  # GNU's map of a sparse file goes on
            while more:
                block = os.pread(file, TAR_BLOCK_BYTES, start)
                start, more = start + TAR_BLOCK_BYTES, block[504:505] > b"\0"
            name = known.get("path") or _parse_name(head)
            if kind != FOLDER_TYPE and not name.endswith(b"/"):
                yield TarEntry(name, start, size, _explain_unreadable(kind, known, start + size > end))
        at = start + -(-size // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES


def _explain_unreadable(kind: bytes, known: dict[str, bytes], cut_off: bool) -> str | None:
    if kind in LINK_TYPES:
        return "a link, which is not followed in an archive"
    if kind not in FILE_TYPES:
        return "not a regular file"
    if any(name.startswith("GNU.sparse") for name in known):
        return "a sparse file, which is not read from an archive"
    return "cut off: the archive ends in it" if cut_off else None


def _is_checksum_valid(head: bytes) -> bool:
    """Whether a header's checksum is right: the sum of its bytes, with blanks for the checksum; old ones are signed."""
    said = _parse_number(head[148:156])
    blanked = head[:148] + b" " * 8 + head[156:]
    total = sum(blanked)
    return said == total or said == total - 256 * sum(byte > 127 for byte in blanked)


def _parse_number(field: bytes) -> int:
    """A number in octal digits or, after a byte of 128 or 255, in base 256; -1 for none."""
    if field[0] in (0o200, 0o377):
        number = int.from_bytes(field[1:], "big")
        return -1 if field[0] == 0o377 else number
    digits = field.split(b"\0", 1)[0].strip() or b"0"
    return int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else -1


def _parse_name(head: bytes) -> bytes:
    name, prefix = head[:100].split(b"\0", 1)[0], head[345:500].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix and head[257:263] == b"ustar\0" else name


def _parse_extended_header(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The records of an extended header, `length keyword=value`, up to the first that makes no sense."""
    at = 0
    while at < len(content):
        length = content[at : at + 8].partition(b" ")[0]  # of at most 7 digits
        end = at + int(length) if length.isdigit() and len(length) < 8 else 0
        if not at + len(length) + 1 < end <= len(content):
            return
        keyword, found, value = content[at + len(length) + 1 : end - 1].partition(b"=")
        if not found:
            return
        yield os.fsdecode(keyword), value
        at = end


ZIP_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
ENCRYPTED_FLAG = 1  # the bit of a zip archive's flags


def iter_tar_members(path: str, file: BinaryIO, status: os.stat_result) -> Iterator[tuple[str, Extent | str]]:
    """What is in a tar archive, in its order. Raises InputError if it is none."""
    ended, some = False, False
    try:
        for entry in iter_tar_entries(file.fileno()):
            if entry is None:
                ended = True
                continue
            some = True
            extent = Extent(path, entry.start, entry.size, status.st_size, status.st_mtime_ns)
            yield os.fsdecode(entry.name), entry.problem or _explain_too_large(entry.size) or extent
    except DamagedTarError as error:
        if not some:
            raise InputError(f"source '{path}' cannot be read as a tar archive: {error}") from None
        yield "", str(error)
        return
    if not ended:
        yield "", "the archive has no end mark: it may have been cut off"


def iter_zip_members(path: str, file: BinaryIO, status: os.stat_result) -> Iterator[NamedMember]:
    """What is in a zip archive, in its order. Raises InputError if it is none."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except Exception as error:  # a hostile one raises far more than BadZipFile
        raise InputError(f"source '{path}' cannot be read as a zip archive: {one_line(error)[:200]}") from None
    shared = _find_overlapping_members(
        (info.header_offset, info.header_offset + ZIP_LOCAL_HEADER_BYTES + info.compress_size) for info in infos
    )
    for info in infos:
        if info.filename.endswith("/"):  # a name may be empty
            continue
        length, method, size = info.compress_size, info.compress_type, info.file_size
        kind = stat.S_IFMT(info.external_attr >> 16)
        problem = None
        if info.flag_bits & ENCRYPTED_FLAG:
            problem = "encrypted"
        elif kind == stat.S_IFLNK:
            problem = "a link, which is not followed in an archive"
        elif kind not in (0, stat.S_IFREG):
            problem = "not a regular file"
        elif method not in ZIP_METHODS:
            problem = f"compressed by method {method}, which is not read: only stored and deflated members are"
        elif info.header_offset in shared:
            problem = "shares its bytes with another member of the archive"
        elif info.header_offset + ZIP_LOCAL_HEADER_BYTES + length > status.st_size or (not method and length != size):
            problem = "its size in the archive makes no sense"
        packed = length, method, info.CRC
        extent = Extent(path, info.header_offset, size, status.st_size, status.st_mtime_ns, packed)
        yield info.filename, problem or _explain_too_large(max(size, length)) or extent


def _find_overlapping_members(places: Iterable[tuple[int, int]]) -> set[int]:
    """Where members begin that have bytes in common, as those of a bomb do; a place is where one begins and ends."""
    found: set[int] = set()
    furthest = owner = -1
    for start, end in sorted(places):
        if start < furthest:
            found |= {start, owner}
        if end > furthest:
            furthest, owner = end, start
    return found


def _explain_too_large(size: int) -> str | None:
    return (
        f"{size:,} bytes, more than the {MAX_MEMBER_BYTES:,} of a member that is read"
        if size > MAX_MEMBER_BYTES
        else None
    )


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
