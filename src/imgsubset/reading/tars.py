"""The members of a tar archive by its headers alone: names, and where the bytes are (POSIX.1-2001, and GNU's names).

Python's own reader keeps an object for each member, follows what headers say of themselves without an end, and before
3.11.14 a negative size back to the beginning for ever. Here each header is read once, and the place in the file only
grows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

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
