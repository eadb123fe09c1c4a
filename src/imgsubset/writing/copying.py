"""One chosen file to its place in the destination: a verified copy, or a link."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from imgsubset.errors import OutputError
from imgsubset.files import Cancelled, Stamp, blocks, new_file, partial_name, sha256, sha256_of
from imgsubset.reading.listing import Listing


def copy_file(source: Listing, path: str, target: Path, stamp: Stamp, overwrite: bool, cancelled: Cancelled) -> str:
    """Copy a file that still is what `stamp` says, with its metadata, to its final name in one step.

    `cancelled` is asked before each block, so that a large file holds up nobody who wants to leave.

    Returns its SHA-256. Raises OutputError if it changed or if the copy, read back, differs.
    """
    with _open(source, path) as file, new_file(target) as (partial, name):
        digest = hashlib.sha256()
        for block in blocks(file, cancelled):
            digest.update(block)
            partial.write(block)
        partial.flush()
        os.fsync(partial.fileno())
        _check_unchanged(source, path, file, stamp)
        shutil.copystat(source.locate(path), name)
        if sha256(name) != digest.hexdigest():
            raise OutputError(
                f"the copy of '{source.locate(path)}' differs from it when read back from '{target.parent}'"
            )
        _rename(name, target, overwrite)
    return digest.hexdigest()


def link_file(
    source: Listing, path: str, target: Path, stamp: Stamp, overwrite: bool, cancelled: Cancelled, symbolic: bool
) -> str:
    """Like `copy_file`, but a symbolic link to the absolute path of the source, or a hard link."""
    with _open(source, path) as file:
        digest = sha256_of(file, cancelled)
        _check_unchanged(source, path, file, stamp)
    name, original = partial_name(target), source.locate(path)
    try:
        if symbolic:
            name.symlink_to(os.path.abspath(original))  # noqa: PTH100 (resolve would follow links)
        else:
            _hard_link(Path(original).resolve(), name)
        _rename(name, target, overwrite)
    finally:
        name.unlink(missing_ok=True)
    return digest


def _hard_link(source: Path, path: Path) -> None:
    try:
        path.hardlink_to(source)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise OutputError(
                f"cannot make a hard link to '{source}' in '{path.parent}': {error.strerror}; copy or symlink instead"
            ) from None
        raise


def _open(source: Listing, path: str) -> BinaryIO:
    try:
        return source.open(path)
    except OSError as error:
        raise OutputError(f"'{source.locate(path)}' cannot be read any more: {error.strerror}") from None


def _check_unchanged(source: Listing, path: str, file: BinaryIO, stamp: Stamp) -> None:
    if Stamp.of(os.fstat(file.fileno())) != stamp:
        raise OutputError(f"'{source.locate(path)}' changed while imgsubset was at work; run it again")


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
