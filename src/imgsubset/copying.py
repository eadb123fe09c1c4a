"""Writing files so that a name never stands for less than the whole: a new file beside it, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from imgsubset.errors import OutputError
from imgsubset.images import Stamp

PARTIAL = ".imgsubset-partial-"  # begins the name of a file that is not whole yet
BLOCK = 1 << 20


def copy_file(source: Path, target: Path, stamp: Stamp, overwrite: bool) -> str:
    """Copy a file that still is what `stamp` says, with its metadata, to its final name in one step.

    Returns its SHA-256. Raises OutputError if it changed or if the copy, read back, differs.
    """
    try:
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise OutputError(f"'{source}' cannot be read any more: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file, _new_file(target) as (partial, path):
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
            partial.write(block)
        partial.flush()
        os.fsync(partial.fileno())
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or Stamp(status.st_size, status.st_mtime_ns) != stamp:
            raise OutputError(f"'{source}' changed while imgsubset was at work; run it again")
        shutil.copystat(source, path)
        if _sha256(path) != digest.hexdigest():
            raise OutputError(f"the copy of '{source}' differs from it when read back from '{target.parent}'")
        _rename(path, target, overwrite)
    return digest.hexdigest()


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside the target, removed unless it was renamed."""
    path = target.parent / f"{PARTIAL}{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, record: object) -> None:
    """Write a JSON file in one step, in place of any earlier one."""
    write_whole(path, json.dumps(record, indent=1).encode() + b"\n")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step, in place of any earlier one."""
    with _new_file(path) as (file, new):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        new.chmod(0o644)
        new.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
