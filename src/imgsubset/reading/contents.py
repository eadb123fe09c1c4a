"""What a source holds: its images by path, what each was when it was listed, and how to open them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from imgsubset.files import Stamp, open_regular, sha256_of
from imgsubset.options import Reading

SUFFIXES = frozenset(
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

    name      the source, as the user calls it
    root      the folder that the paths are relative to
    paths     of the images, with `/`, in the order of their bytes
    stamps    what each of them was when it was listed
    rejected  files with a picture's name that are no readable file or of a format that is not read, and folders that
              cannot be read
    ignored   how many other files there were
    passed_over  those of them, or folders of them, that a user may miss, with reasons
    hidden    the hidden files with an image's name, and hidden folders; nothing in these is searched
    listed    whether the images were named one by one, so that the root may hold others
    reading   the options by which images were left out, once they were
    order     of images that were named one by one, those that cannot be used among them: paths as in `paths`
    """

    name: str
    root: Path
    paths: tuple[str, ...] = field(repr=False)
    stamps: tuple[Stamp, ...] = field(repr=False)
    rejected: tuple[RejectedFile, ...] = field(default=(), repr=False)
    ignored: int = 0
    passed_over: tuple[RejectedFile, ...] = field(default=(), repr=False, kw_only=True)
    hidden: tuple[str, ...] = field(default=(), repr=False, kw_only=True)
    listed: bool = field(default=False, kw_only=True)
    reading: Reading | None = field(default=None, kw_only=True)
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

    def locate(self, path: str) -> str:
        """The file of an image, or of another path in the source, as the current folder reaches it."""
        return os.path.join(self.root, path)  # noqa: PTH118 (Path costs 5 us a file)

    def open(self, path: str) -> BinaryIO:
        """A file of the source, to be read. Raises OSError for what is no regular file."""
        return open_regular(self.locate(path))

    def stamp(self, path: str) -> Stamp:
        """What a file of the source is now. Raises OSError."""
        return Stamp.of(os.stat(self.locate(path)))  # noqa: PTH116

    def sha256(self, path: str) -> str:
        """SHA-256 of a file of the source, in hex. Raises OSError."""
        with self.open(path) as file:
            return sha256_of(file)

    def names(self, folder: str) -> list[str]:
        """All names in a folder of the source but hidden ones; none if it is no folder. Raises OSError."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return [name for name in os.listdir(self.locate(folder)) if not name.startswith(".")]  # noqa: PTH208
        return []

    def without(self, out: Collection[str]) -> Listing:
        """With those images ignored."""
        kept = [(path, stamp) for path, stamp in zip(self.paths, self.stamps, strict=True) if path not in out]
        paths, stamps = zip(*kept, strict=True) if kept else ((), ())
        return replace(self, paths=paths, stamps=stamps, ignored=self.ignored + len(self.paths) - len(paths))


def in_order(rejected: Iterable[RejectedFile]) -> tuple[RejectedFile, ...]:
    """Sorted by the bytes of their paths."""
    return tuple(sorted(rejected, key=lambda file: os.fsencode(file.path)))
