"""Files inside other files: where their bytes are, how to read them in place, and which paths are safe.

A member whose path would lead out of the folder that it is extracted into is refused.
"""

from __future__ import annotations

import errno
import io
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from posixpath import split, splitext
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias

from imgsubset.files import Stamp, open_regular

MAX_MEMBER_BYTES = 1 << 29  # of a member, which is read into memory
ZIP_LOCAL_HEADER_BYTES = (
    30  # bytes of a zip archive before the name of a member, which its data follow (APPNOTE.TXT, 4.3.7)
)


class InMemoryFile(NamedTuple):
    """The content of a file that is in memory, and its stamp."""

    content: bytes
    stamp: Stamp


@dataclass(frozen=True)
class OriginalArchive:
    """The compressed archive that was unpacked to a container, and what it was then."""

    file: str
    whole: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a file that are a file of their own, a member of it.

    file     the path of what it lies in, the container
    start    where its bytes begin; those of a member of a zip archive follow its header there
    size     how many they are, once unpacked
    whole    the size of the container, and
    mtime_ns the time of its last change, by which a changed one is known
    packed   in a zip archive: how many bytes are there, the method (0 stored, 8 deflated), and CRC-32 once unpacked
    original what the container, a temporary file, was unpacked from
    """

    file: str
    start: int
    size: int
    whole: int
    mtime_ns: int
    packed: tuple[int, int, int] | None = None
    original: OriginalArchive | None = None

    @property
    def source(self) -> Extent | OriginalArchive:
        """What has the name, size and time of the archive that a user knows."""
        return self.original or self

    @property
    def stamp(self) -> Stamp:
        """What the member was when it was listed: changed whenever its archive is."""
        return Stamp(self.size, self.source.mtime_ns)

    @property
    def key(self) -> str:
        """What tells it from any other of its name and stamp."""
        archive = os.path.abspath(self.source.file)  # noqa: PTH100 (resolve would follow links)
        return f"{archive}\0{self.source.whole} {self.start}"

    @property
    def sort_key(self) -> tuple[str, int]:
        """Where it lies."""
        return self.file, self.start

    def to_sendable(self) -> Extent:
        """What a decoding process is given."""
        return self

    def open(self) -> BinaryIO:
        """The member, to be read. Raises OSError if it is not what it was listed as, or is damaged."""
        with open_regular(self.file) as container:
            if Stamp.of(os.fstat(container.fileno())) != Stamp(self.whole, self.mtime_ns):
                raise OSError(errno.ESTALE, "its archive has changed", self.file)
            if self.packed is None:
                return io.BytesIO(_read_range(container, self.start, self.size))
            length, method, checksum = self.packed
            header = _read_range(container, self.start, ZIP_LOCAL_HEADER_BYTES)
            if not header.startswith(b"PK\x03\x04"):
                raise OSError(errno.EIO, "its header in the archive is damaged")
            start = (
                self.start
                + ZIP_LOCAL_HEADER_BYTES
                + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            )
            content = _read_range(container, start, length)
        if method:
            content = _inflate(content, self.size)
        if len(content) != self.size or zlib.crc32(content) != checksum:
            raise OSError(errno.EIO, "its content is not what its archive says")
        return io.BytesIO(content)


def _read_range(container: BinaryIO, start: int, size: int) -> bytes:
    content = os.pread(container.fileno(), size, start)
    while 0 < len(content) < size and (more := os.pread(container.fileno(), size - len(content), start + len(content))):
        content += more  # a call returns at most 2 GB, and what a signal leaves of it
    if len(content) < size:
        raise OSError(errno.EIO, "its archive is cut off")
    return content


def _inflate(content: bytes, size: int) -> bytes:
    """What was deflated, and never more than a byte above its size: a bomb says a small one."""
    inflate = zlib.decompressobj(-15)
    try:
        return inflate.decompress(content, size + 1)
    except zlib.error:
        raise OSError(errno.EIO, "its content in the archive is damaged") from None


class Member(Protocol):
    """A file that is none of the file system's.

    stamp  what it was when it was listed; a size of 0 is not known
    key    what tells it from any other of its name and stamp
    sort_key where it lies: the container, and the place in it
    """

    @property
    def stamp(self) -> Stamp: ...
    @property
    def key(self) -> str: ...
    @property
    def sort_key(self) -> tuple[str, int]: ...
    def to_sendable(self) -> Extent | InMemoryFile:
        """What a decoding process is given. May raise anything."""

    def open(self) -> BinaryIO:
        """The file, to be read. Raises OSError."""


AnyFile: TypeAlias = "str | bytes | os.PathLike[str] | InMemoryFile | Member"
"""What can be decoded: a path, or a file that lies in another, or in memory."""
SendableFile: TypeAlias = "str | bytes | os.PathLike[str] | InMemoryFile | Extent"
"""What a decoding process can open by itself."""


def open_file(file: AnyFile) -> tuple[BinaryIO, Stamp]:
    """A file, to be read, and what it is now. Raises OSError for what is no regular file."""
    if isinstance(file, InMemoryFile):
        return io.BytesIO(file.content), file.stamp
    if not isinstance(file, (str, bytes, os.PathLike)):
        return file.open(), file.stamp
    found = open_regular(file)
    return found, Stamp.of(os.fstat(found.fileno()))


def make_sendable(file: AnyFile) -> SendableFile:
    """What a decoding process is given of a file. May raise anything."""
    return file if isinstance(file, (str, bytes, os.PathLike, InMemoryFile)) else file.to_sendable()


def file_to_json(file: SendableFile) -> Any:
    """A file as JSON can hold it; of one in memory all but the content."""
    if isinstance(file, Extent):
        return astuple(file)
    return {"stamp": astuple(file.stamp)} if isinstance(file, InMemoryFile) else os.fsdecode(file)


def file_from_json(described: Any, contents: Iterator[bytes]) -> SendableFile:
    """A file from its description and, if that is in memory, from the next of some contents."""
    if isinstance(described, dict):
        return InMemoryFile(next(contents), Stamp(*described["stamp"]))
    if isinstance(described, list):
        path, start, size, whole, mtime_ns, packed, original = described
        made_from = original and OriginalArchive(*original)
        return Extent(path, start, size, whole, mtime_ns, packed and tuple(packed), made_from)
    return os.fsencode(described)


class FetchedMember:
    """A member that is fetched whole."""

    __slots__ = ()

    def to_sendable(self) -> InMemoryFile:
        """Its content. Raises OSError, or what a data set raises."""
        raise NotImplementedError

    def open(self) -> BinaryIO:
        """Its content, to be read. Raises what `ready` does."""
        return io.BytesIO(self.to_sendable().content)


class Members:
    """The members of a source, by their paths in it: with `/`, relative, and without `..`.

    samples  whether those of a folder whose names are the same up to the first dot belong together, as in a WebDataset
    is_cacheable whether their keys and stamps tell if they are the same in another run
    """

    def __init__(self, found: Mapping[str, Member], samples: bool = False, lasting: bool = True) -> None:
        self.found, self.samples, self.is_cacheable = found, samples, lasting

    def stem(self, name: str) -> str:
        """What the names of an image and of its labels have in common."""
        return name.partition(".")[0] if self.samples else splitext(name)[0]

    def __getitem__(self, path: str) -> Member:
        """The member of this path. Raises FileNotFoundError if there is none."""
        if (member := self.found.get(path)) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return member

    def __contains__(self, path: object) -> bool:
        return path in self.found

    @cached_property
    def folders(self) -> Mapping[str, list[str]]:
        """The names of the members in each folder."""
        names = defaultdict[str, list[str]](list)
        for path in self.found:
            folder, name = split(path)
            names[folder].append(name)
        return names

    @cached_property
    def containers(self) -> frozenset[str]:
        """The files that the members lie in, as the user knows them."""
        found = (getattr(member, "source", member) for member in self.found.values())
        return frozenset(file for one in found if (file := getattr(one, "file", None)))


MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4000  # bytes: what file systems take, and a destination before it

NamedMember: TypeAlias = "tuple[str, Member | str]"
"""A path and a file, or why there is none; the path '' is the archive itself."""


def index_members(found: Iterable[NamedMember]) -> tuple[dict[str, Member | str], list[tuple[str, str]]]:
    """By path what is in an archive, and what to know of it, as paths and reasons.

    A path is relative, with `/`, and without `.` and `..`, so that it stays in a folder that it is put into. Of several
    members of one path the last counts, as when they are unpacked.
    """
    kept: dict[str, Member | str] = {}
    notes: list[tuple[str, str]] = []
    for name, file in found:
        if not name:
            notes.append((name, file if isinstance(file, str) else "a member without a name"))
            continue
        path = normalise_name(name)
        if path in kept:
            notes.append((path, "is in the archive more than once; the last one counts"))
        problem = explain_invalid_path(name)
        kept[path if problem is None else name] = problem or file
    for path in [path for path, file in kept.items() if not isinstance(file, str)]:
        if any(not isinstance(kept.get(path[:end], ""), str) for end, c in enumerate(path) if c == "/"):
            kept[path] = "lies in a folder of which the archive makes a file, too"
    return kept, notes


def normalise_name(name: str) -> str:
    """A name without what says nothing in it."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def explain_invalid_path(name: str) -> str | None:
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
    long = len(encoded) > MAX_NAME_BYTES and any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts)
    if long or len(encoded) > MAX_PATH_BYTES:
        return "longer than the name of a file can be"
    return None
