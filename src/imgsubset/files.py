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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

from imgsubset.errors import OutputError
from imgsubset.reading.images import Stamp

PARTIAL = ".imgsubset-partial-"  # begins the name of a file that is not whole yet
BLOCK = 1 << 20
READERS = 8  # files read or copied at once: that waits for disks, not for processors


Cancelled: TypeAlias = Callable[[], bool]


def never() -> bool:
    """Nobody cancels."""
    return False


def copy_file(source: Path, target: Path, stamp: Stamp, overwrite: bool, cancelled: Cancelled = never) -> str:
    """Copy a file that still is what `stamp` says, with its metadata, to its final name in one step.

    `cancelled` is asked before each block, so that a large file holds up nobody who wants to leave.

    Returns its SHA-256. Raises OutputError if it changed or if the copy, read back, differs.
    """
    with _open(source) as file, _new_file(target) as (partial, path):
        digest = hashlib.sha256()
        for block in _blocks(file, cancelled):
            digest.update(block)
            partial.write(block)
        partial.flush()
        os.fsync(partial.fileno())
        _check_unchanged(source, file, stamp)
        shutil.copystat(source, path)
        if sha256(path) != digest.hexdigest():
            raise OutputError(f"the copy of '{source}' differs from it when read back from '{target.parent}'")
        _rename(path, target, overwrite)
    return digest.hexdigest()


def link_file(
    source: Path, target: Path, stamp: Stamp, overwrite: bool, symbolic: bool, cancelled: Cancelled = never
) -> str:
    """Like `copy_file`, but a symbolic link to the absolute path of the source, or a hard link."""
    path = target.parent / f"{PARTIAL}{secrets.token_hex(8)}"
    with _open(source) as file:
        digest = _digest(file, cancelled)
        _check_unchanged(source, file, stamp)
    try:
        if symbolic:
            path.symlink_to(os.path.abspath(source))  # noqa: PTH100 (resolve would follow links)
        else:
            _hard_link(source.resolve(), path)
        _rename(path, target, overwrite)
    finally:
        path.unlink(missing_ok=True)
    return digest


def _digest(file: BinaryIO, cancelled: Cancelled = never) -> str:
    digest = hashlib.sha256()
    for block in _blocks(file, cancelled):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: BinaryIO, cancelled: Cancelled) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        if cancelled():
            raise OutputError("cancelled")
        yield block


def _hard_link(source: Path, path: Path) -> None:
    try:
        path.hardlink_to(source)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise OutputError(
                f"cannot make a hard link to '{source}' in '{path.parent}': {error.strerror}; copy or symlink instead"
            ) from None
        raise


def _open(source: Path) -> BinaryIO:
    """Open a file to read; a FIFO that has taken its place does not hang."""
    try:
        return _open_regular(source)
    except OSError as error:
        raise OutputError(f"'{source}' cannot be read any more: {error.strerror}") from None


def _open_regular(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def _check_unchanged(source: Path, file: BinaryIO, stamp: Stamp) -> None:
    if Stamp.of(os.fstat(file.fileno())) != stamp:
        raise OutputError(f"'{source}' changed while imgsubset was at work; run it again")


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


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with _open_regular(path) as file:
        return _digest(file)


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


def files_in(folder: Path) -> Iterator[str]:
    """Relative paths of everything in a folder that is not itself a folder."""
    for base, folders, files in os.walk(folder, onerror=_raise):
        links = [name for name in folders if Path(base, name).is_symlink()]
        for name in files + links:
            yield Path(base, name).relative_to(folder).as_posix()


def _raise(error: OSError) -> None:
    raise error
