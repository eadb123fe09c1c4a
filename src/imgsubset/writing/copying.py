"""One chosen file to its place in the destination: a verified copy, or a link."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from imgsubset.errors import OutputError
from imgsubset.files import Cancelled, Stamp, new_file, new_name, sha256, sha256_of
from imgsubset.reading.listing import Listing


def place(
    source: Listing, path: str, target: Path, stamp: Stamp, mode: str, overwrite: bool, cancelled: Cancelled
) -> str:
    """Copy or link a file that still is what `stamp` says to its final name, in one step.

    mode       copy, with its metadata, read back and compared; symlink, to its absolute path; or hardlink
    cancelled  asked before each block, so that a large file holds up nobody who wants to leave

    Returns its SHA-256. Raises OutputError if it changed or if the copy differs.
    """
    original = source.locate(path)
    with still_readable(original):
        file = source.open(path)
    with file, new_name(target) as name:
        if mode == "copy":
            with new_file(name) as copy:
                digest = sha256_of(file, cancelled, copy)
        else:
            digest = sha256_of(file, cancelled)
        if Stamp.of(os.fstat(file.fileno())) != stamp:
            raise OutputError(f"'{original}' changed while imgsubset was at work; run it again")
        if mode == "copy":
            shutil.copystat(original, name)
            if sha256(name) != digest:
                raise OutputError(f"the copy of '{original}' differs from it when read back from '{target.parent}'")
        elif mode == "symlink":
            name.symlink_to(os.path.abspath(original))  # noqa: PTH100 (resolve would follow links)
        else:
            _hard_link(Path(original).resolve(), name)
        _rename(name, target, overwrite)
    return digest


@contextlib.contextmanager
def still_readable(file: str) -> Iterator[None]:
    """Turn what a file of the source raises now, though it was read before, into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"'{file}' cannot be read any more: {error.strerror}") from None


def _hard_link(source: Path, path: Path) -> None:
    try:
        path.hardlink_to(source)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise OutputError(
                f"cannot make a hard link to '{source}' in '{path.parent}': {error.strerror}; copy or symlink instead"
            ) from None
        raise


def _rename(path: Path, target: Path, overwrite: bool) -> None:
    """Give a whole file its final name; without overwrite, fail if the name is taken, by a link too."""
    if overwrite:
        path.replace(target)
        return
    try:
        os.link(path, target, follow_symlinks=False)  # unlike rename, this never replaces
    except OSError as error:
        if error.errno == errno.EEXIST or os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "a file of this name has appeared", str(target)) from None
        path.rename(target)  # a file system without hard links
