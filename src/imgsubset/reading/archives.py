"""Archives as sources: the members of zip and tar files, by names that no hostile one can lead out of a folder.

Nothing is unpacked. A pass over the headers says where the bytes of each member are; who decodes or copies it reads
them there. A compressed tar file has no such places, and is refused.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from imgsubset.errors import InputError
from imgsubset.files import open_regular
from imgsubset.reading.formats import HEAD
from imgsubset.reading.members import LOCAL_HEADER, MOST_BYTES, Extent
from imgsubset.reading.tars import DamageError, entries, is_tar

LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes: what file systems take, and a destination before it
METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
ENCRYPTED = 1  # the bit of a zip archive's flags

Found = tuple[str, "Extent | str"]
"""A path and a file, or why there is none; the path '' is the archive itself."""


def archive_kind(file: str | os.PathLike[str]) -> str | None:
    """Whether a regular file is a tar or a zip archive: by its content or, if it has none that tells, its name.

    Raises OSError.
    """
    with open_regular(file) as opened:
        head = opened.read(HEAD)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if is_tar(head) or head[257:262] == b"ustar":
        return "tar"
    suffix = Path(file).suffix.lower()[1:]
    return suffix if suffix in ("zip", "tar") else None


def members_of(file: str | os.PathLike[str], kind: str) -> Iterator[Found]:
    """What is in an archive, in its order. Raises OSError, and InputError for what is no archive of this kind."""
    path = os.fspath(file)
    with open_regular(file) as opened:
        status = os.fstat(opened.fileno())
        if status.st_size == 0:
            raise InputError(f"source '{path}' is an empty file")
        if kind == "tar":
            yield from _in_tar(path, opened.fileno(), status)
            return
        try:
            with zipfile.ZipFile(opened) as archive:
                infos = archive.infolist()
        except Exception as error:  # a hostile one raises far more than BadZipFile
            why = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"source '{path}' cannot be read as a zip archive: {why[:200]}") from None
        yield from _in_zip(path, infos, status)


def _in_tar(path: str, descriptor: int, status: os.stat_result) -> Iterator[Found]:
    ended, some = False, False
    try:
        for entry in entries(descriptor):
            if entry is None:
                ended = True
                continue
            some = True
            extent = Extent(path, entry.start, entry.size, status.st_size, status.st_mtime_ns)
            yield os.fsdecode(entry.name), entry.problem or _too_large(entry.size) or extent
    except DamageError as error:
        if not some:
            raise InputError(f"source '{path}' cannot be read as a tar archive: {error}") from None
        yield "", str(error)
        return
    if not ended:
        yield "", "the archive has no end mark: it may have been cut off"


def _in_zip(path: str, infos: list[zipfile.ZipInfo], status: os.stat_result) -> Iterator[Found]:
    shared = _shared((info.header_offset, info.header_offset + LOCAL_HEADER + info.compress_size) for info in infos)
    for info in infos:
        if info.filename.endswith("/"):  # a name may be empty
            continue
        length, method, size = info.compress_size, info.compress_type, info.file_size
        kind = stat.S_IFMT(info.external_attr >> 16)
        problem = None
        if info.flag_bits & ENCRYPTED:
            problem = "encrypted"
        elif kind == stat.S_IFLNK:
            problem = "a link, which is not followed in an archive"
        elif kind not in (0, stat.S_IFREG):
            problem = "not a regular file"
        elif method not in METHODS:
            problem = f"compressed by method {method}, which is not read: only stored and deflated members are"
        elif info.header_offset in shared:
            problem = "shares its bytes with another member of the archive"
        elif info.header_offset + LOCAL_HEADER + length > status.st_size or (not method and length != size):
            problem = "its size in the archive makes no sense"
        packed = length, method, info.CRC
        extent = Extent(path, info.header_offset, size, status.st_size, status.st_mtime_ns, packed)
        yield info.filename, problem or _too_large(max(size, length)) or extent


def _shared(places: Iterable[tuple[int, int]]) -> set[int]:
    """Where members begin that have bytes in common, as those of a bomb do; a place is where one begins and ends."""
    found: set[int] = set()
    furthest = owner = -1
    for start, end in sorted(places):
        if start < furthest:
            found |= {start, owner}
        if end > furthest:
            furthest, owner = end, start
    return found


def _too_large(size: int) -> str | None:
    return f"{size:,} bytes, more than the {MOST_BYTES:,} of a member that is read" if size > MOST_BYTES else None


def named(found: Iterable[Found]) -> tuple[dict[str, Extent | str], list[tuple[str, str]]]:
    """By path what is in an archive, and what to know of it, as paths and reasons.

    A path is relative, with `/`, and without `.` and `..`, so that it stays in a folder that it is put into. Of several
    members of one path the last counts, as when they are unpacked.
    """
    kept: dict[str, Extent | str] = {}
    notes: list[tuple[str, str]] = []
    for name, file in found:
        if not name:
            notes.append((name, file if isinstance(file, str) else "a member without a name"))
            continue
        path = plain(name)
        if path in kept:
            notes.append((path, "is in the archive more than once; the last one counts"))
        problem = no_path(name)
        kept[path if problem is None else name] = problem or file
    for path in [path for path, file in kept.items() if isinstance(file, Extent)]:
        if any(isinstance(kept.get(path[:end]), Extent) for end, c in enumerate(path) if c == "/"):
            kept[path] = "lies in a folder of which the archive makes a file, too"
    return kept, notes


def plain(name: str) -> str:
    """A name without what says nothing in it."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def no_path(name: str) -> str | None:
    """Why a member of this name can be no file in a folder; None if it can."""
    parts = name.split("/")
    try:
        encoded = os.fsencode(name)
    except UnicodeError:
        return "no possible path"
    if "\0" in name or not any(part not in ("", ".") for part in parts):
        return "no possible path"
    if name.startswith("/") or ".." in parts:
        return "leads out of the archive"
    long = len(encoded) > LONGEST_NAME and any(len(os.fsencode(part)) > LONGEST_NAME for part in parts)
    if long or len(encoded) > LONGEST_PATH:
        return "longer than the name of a file can be"
    return None
