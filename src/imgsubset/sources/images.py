"""The images of a source by path: what each was when it was listed, and how to open it; and which formats are read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from posixpath import splitext
from typing import BinaryIO

from imgsubset.errors import UsageError
from imgsubset.files import Stamp, Stamps, hash_stream, open_regular
from imgsubset.options import Options
from imgsubset.sources.archive_members import AnyFile, FetchedMember, Members

_CONVERT_ADVICE = "which is not decoded; convert it to PNG or JPEG"
_UNPACK_ADVICE = "which is not looked into; unpack it, and give the folder"
_SOURCE_ADVICE = "which is not looked into; give it as a source of its own, or unpack it"
_UNSUPPORTED_IMAGES = {
    "an AVIF picture": ".avif .avifs",
    "a HEIC picture": ".heic .heif .hif",
    "a JPEG XL picture": ".jxl",
    "a JPEG 2000 picture": ".jp2 .j2k .jpf",
    "a DICOM picture": ".dcm .dicom",
    "a camera's raw picture": ".arw .cr2 .cr3 .dng .nef .nrw .orf .pef .raf .raw .rw2 .srw",
}
_SOURCE_ARCHIVES = {"a zip archive": ".zip", "a tar archive": ".tar", "a Parquet table": ".parquet"}
_UNSUPPORTED_ARCHIVES = {
    "a compressed tar archive": ".tgz .tbz2 .txz",
    "a gzip archive": ".gz",
    "a bzip2 archive": ".bz2",
    "an xz archive": ".xz",
    "a Zstandard archive": ".zst",
    "a 7z archive": ".7z",
    "a rar archive": ".rar",
}
_ADVICE_BY_SUFFIX = {
    suffix: f"{kind}, {advice}"
    for kinds, advice in (
        (_UNSUPPORTED_IMAGES, _CONVERT_ADVICE),
        (_SOURCE_ARCHIVES, _SOURCE_ADVICE),
        (_UNSUPPORTED_ARCHIVES, _UNPACK_ADVICE),
    )
    for kind, suffixes in kinds.items()
    for suffix in suffixes.split()
}
ARCHIVE_MAGIC = {
    b"PK\x03\x04": ".zip",
    b"PK\x05\x06": ".zip",
    b"PAR1\x15": ".parquet",
}  # of files that hold images, but tar's
_MAGIC = (  # where bytes that no text begins with stand in a file, and the suffix of what has them there
    (4, b"ftypavif", ".avif"),
    (4, b"ftypavis", ".avif"),
    *((4, b"ftyp" + brand, ".heic") for brand in (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1")),
    (0, b"\0\0\0\x0cJXL ", ".jxl"),
    (0, b"\0\0\0\x0cjP  ", ".jp2"),
    (128, b"DICM", ".dcm"),
    *((0, start, suffix) for start, suffix in ARCHIVE_MAGIC.items()),
    (257, b"ustar\0", ".tar"),
    (257, b"ustar  \0", ".tar"),
    (0, b"\x1f\x8b", ".gz"),
    (4, b"1AY&SY", ".bz2"),
    (0, b"\xfd7zXZ\0", ".xz"),
    (0, b"\x28\xb5\x2f\xfd", ".zst"),
    (0, b"7z\xbc\xaf\x27\x1c", ".7z"),
    (0, b"Rar!\x1a\x07", ".rar"),
)
HEAD_BYTES = 512  # bytes that tell what a file is
_IMAGE_MAGIC = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*": ".tif",
}
UNSUPPORTED_IMAGE_SUFFIXES = frozenset(
    suffix for suffixes in _UNSUPPORTED_IMAGES.values() for suffix in suffixes.split()
)


def describe_unsupported_name(name: str) -> str | None:
    """What a file of this name is, and what to do; None if the name does not tell."""
    return _ADVICE_BY_SUFFIX.get(splitext(name)[1].lower())


def describe_unsupported_content(head: bytes) -> str | None:
    """What a file that begins with these HEAD bytes is, and what to do; None if they do not tell."""
    found = next((suffix for at, magic, suffix in _MAGIC if head.startswith(magic, at)), None)
    return found and _ADVICE_BY_SUFFIX[found]


def guess_suffix(content: bytes) -> str:
    """What the name of a picture with this content ends in; of one that is not known in `.jpg`."""
    return next((suffix for start, suffix in _IMAGE_MAGIC.items() if content.startswith(start)), ".jpg")


IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"]
)
UNREADABLE_FOLDER = "cannot read folder"


@dataclass(frozen=True)
class RejectedFile:
    """A file that cannot be used, by its path relative to the source, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """The images of a source.

    name           the source, as the user calls it
    root           the folder that the paths are relative to, or what stands for it where `members` holds the files
    paths          of the images, with `/`, in the order of their bytes
    stamps         what each of them was when it was listed
    rejected       files with an image's name that are not readable or of a format that is not read, and folders
                   that cannot be read
    ignored        how many other files there were
    ignored_files  those of them, or folders of them, that a user may miss, with reasons
    hidden         the hidden files with an image's name, and hidden folders; nothing in these is searched
    explicit       whether the images were named one by one, so that the root may hold others
    options        those by which images were left out, once they were
    members        the files of a source that is no folder; None for one on the file system
    order          of images that were named one by one, those that cannot be used among them: paths as in `paths`
    """

    name: str
    root: Path
    paths: tuple[str, ...] = field(repr=False)
    stamps: Sequence[Stamp] = field(repr=False)
    rejected: tuple[RejectedFile, ...] = field(default=(), repr=False)
    ignored: int = 0
    ignored_files: tuple[RejectedFile, ...] = field(default=(), repr=False, kw_only=True)
    hidden: tuple[str, ...] = field(default=(), repr=False, kw_only=True)
    explicit: bool = field(default=False, kw_only=True)
    options: Options | None = field(default=None, kw_only=True)
    members: Members | None = field(default=None, repr=False, compare=False, kw_only=True)
    order: tuple[str, ...] | None = field(default=None, repr=False, compare=False, kw_only=True)

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each path of `order` is named first."""
        order = self.order or ()
        return dict(zip(reversed(order), reversed(range(len(order))), strict=True))

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, over the path, size and modification time of every image: what tells a changed source."""
        digest = hashlib.sha256()
        for path, stamp in zip(self.paths, self.stamps, strict=True):
            digest.update(b"%b\0%d %d\0" % (os.fsencode(path), stamp.size, stamp.mtime_ns))
        return digest.hexdigest()

    @cached_property
    def _base(self) -> str:
        """What absolute paths of its files begin with; those relative to it are in normal form."""
        return os.path.join(os.path.abspath(self.root), "")  # noqa: PTH100, PTH118 (resolve would follow links)

    @property
    def origin(self) -> str:
        """What a manifest calls the source: its absolute path, or its URL."""
        return self.name if "://" in self.name else os.path.abspath(self.root)  # noqa: PTH100 (resolve follows links)

    def locate(self, path: str) -> str:
        """The file of an image, or of another path in the source, as the current folder reaches it, or a message says.

        Where `members` holds the files, nothing has this name.
        """
        return os.path.join(self.root, path)  # noqa: PTH118 (Path costs 5 us a file)

    def file(self, path: str) -> AnyFile:
        """What a decoding process is given of a file of the source."""
        return os.fsencode(self.locate(path)) if self.members is None else self.members[path]

    def sort_by_location(self, places: list[int]) -> list[int]:
        """Places of images in the order in which their files lie, so that each container is read from its beginning."""
        if self.members is None:
            return places
        found = self.members.found
        return sorted(places, key=lambda place: found[self.paths[place]].sort_key)

    @property
    def is_remote(self) -> bool:
        """Whether files are fetched whole, from a table, a data set or over a network."""
        return self.members is not None and any(isinstance(one, FetchedMember) for one in self.members.found.values())

    @property
    def is_cacheable(self) -> bool:
        """Whether key and stamp tell if an image is the same in another run."""
        return self.members is None or self.members.is_cacheable

    def key(self, path: str) -> bytes:
        """What the cache knows an image by, beside its stamp."""
        if self.members is not None:
            return os.fsencode(f"{self.members[path].key}\0{path}")
        return os.fsencode(self._base + path)

    def open(self, path: str) -> BinaryIO:
        """A file of the source, to be read. Raises OSError for what is no regular file."""
        return open_regular(self.locate(path)) if self.members is None else self.members[path].open()

    def stamp(self, path: str) -> Stamp:
        """What a file of the source is now. Raises OSError."""
        if self.members is not None:
            return self.members[path].stamp
        return Stamp.of(os.stat(self.locate(path)))  # noqa: PTH116

    def stamp_of(self, path: str, file: BinaryIO) -> Stamp:
        """What an opened file of the source is now; a member cannot be opened once what it lies in has changed."""
        return Stamp.of(os.fstat(file.fileno())) if self.members is None else self.members[path].stamp

    def has(self, path: str) -> bool:
        """Whether the source has a regular file, or a link to one, of this path."""
        if self.members is not None:
            return path in self.members
        return os.path.isfile(self.locate(path))  # noqa: PTH113 (Path costs 5 us a file)

    def sha256(self, path: str) -> str:
        """SHA-256 of a file of the source, in hex. Raises OSError."""
        with self.open(path) as file:
            return hash_stream(file)

    def names(self, folder: str) -> list[str]:
        """All names in a folder of the source but hidden ones; none if it is no folder. Raises OSError."""
        if self.members is not None:
            return self.members.folders.get(folder, [])
        with suppress(FileNotFoundError, NotADirectoryError):
            return [name for name in os.listdir(self.locate(folder)) if not name.startswith(".")]  # noqa: PTH208
        return []

    def restrict_to(self, paths: Sequence[str]) -> Listing:
        """These of the images, named one by one."""
        wanted = {*paths}
        few = [place for place, path in enumerate(self.paths) if path in wanted]
        return replace(self.at(few), rejected=(), explicit=True, order=tuple(paths))

    def check_links(self, mode: str) -> None:
        """Raise UsageError for a mode that makes links where there are no files to link to."""
        if self.members is not None and mode in ("symlink", "hardlink"):
            raise UsageError(
                f"mode '{mode}' needs files to link to, and source '{self.name}' is no folder; copy instead"
            )

    def without(self, out: Collection[str]) -> Listing:
        """With those images ignored."""
        if not out:
            return self
        kept = [place for place, path in enumerate(self.paths) if path not in out]
        return replace(self.at(kept), ignored=self.ignored + len(self.paths) - len(kept))

    def at(self, places: Sequence[int]) -> Listing:
        """With the images at these places alone."""
        return replace(
            self,
            paths=tuple(self.paths[place] for place in places),
            stamps=Stamps(self.stamps).at(places),
        )


def sort_rejected(rejected: Iterable[RejectedFile]) -> tuple[RejectedFile, ...]:
    """Sorted by the bytes of their paths."""
    return tuple(sorted(rejected, key=lambda file: os.fsencode(file.path)))
