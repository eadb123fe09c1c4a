"""The members of zip and tar archives.

Nothing is unpacked. A pass over the headers says where the bytes of each member are; who decodes or copies it reads
them there. A compressed tar file has no such places, and is unpacked first, see `imgsubset.reading.unpacking`.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from imgsubset.errors import InputError, one_line
from imgsubset.reading.members import MAX_MEMBER_BYTES, ZIP_LOCAL_HEADER_BYTES, Extent
from imgsubset.reading.naming import NamedMember
from imgsubset.reading.tars import DamagedTarError, iter_tar_entries

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
