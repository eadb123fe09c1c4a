"""One chosen file to the folder where it waits for its name: a verified copy, or a link."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator

from imgsubset.errors import OutputError
from imgsubset.files import Cancelled, Stamp, create_file, hash_stream
from imgsubset.sources.images import Listing


def copy_or_link(
    source: Listing, path: str, folder: int, name: str, stamp: Stamp, mode: str, cancelled: Cancelled
) -> str:
    """Copy or link a file that still is what `stamp` says to a name in a folder, given by its descriptor.

    mode       copy, with its metadata, read back and compared; symlink, to its absolute path; or hardlink
    cancelled  asked before each block, so that a large file holds up nobody who wants to leave

    Returns its SHA-256. Raises OutputError if it changed or if the copy differs.
    """
    original = source.locate(path)
    with convert_read_errors(original):
        file = source.open(path)
    with file:
        if mode == "copy":
            with create_file(name, durable=False, inside=folder) as copy:  # it is synced before it is read back
                digest = hash_stream(file, cancelled, copy)
                copy.flush()
                if source.members is None:
                    shutil.copystat(file.fileno(), copy.fileno())  # type: ignore[arg-type]  # descriptors do
                else:
                    os.utime(copy.fileno(), ns=(stamp.mtime_ns, stamp.mtime_ns))
                os.fsync(copy.fileno())
                copy.seek(0)
                if hash_stream(copy, cancelled) != digest:
                    raise OutputError(f"the copy of '{original}' differs from it when read back")
        else:
            digest = hash_stream(file, cancelled)
        now = source.stamp_of(path, file)
        if mode == "symlink":
            os.symlink(os.path.abspath(original), name, dir_fd=folder)  # noqa: PTH100 (resolve would follow links)
        elif mode == "hardlink":
            _make_hard_link(os.path.realpath(original), folder, name)
            linked = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not os.path.samestat(linked, os.fstat(file.fileno())):
                stamp = Stamp(-1, -1)  # another file has its name now
    if now != stamp:
        raise make_changed_error(original)
    return digest


def make_changed_error(file: str) -> OutputError:
    """What there is to say of a file of the source that is not what it was when it was decoded."""
    return OutputError(f"'{file}' changed while imgsubset was at work; run it again")


@contextlib.contextmanager
def convert_read_errors(file: str) -> Iterator[None]:
    """Turn what a file of the source raises now, though it was read before, into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"'{file}' cannot be read any more: {error.strerror}") from None


def _make_hard_link(source: str, folder: int, name: str) -> None:
    try:
        os.link(source, name, dst_dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise OutputError(
                f"cannot make a hard link to '{source}': {error.strerror}; copy or symlink instead"
            ) from None
        raise
