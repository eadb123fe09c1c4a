"""Export to a tar archive: written beside it, verified, then renamed.

The archive is written to a file beside its place, read back, and only then named. That file's name follows from the
archive's, and it is locked: so it keeps other runs out, and what a killed one left is known and removed by the next.
Headers hold nothing of the machine or the moment, and labels stand beside their images, as in a shard of a WebDataset.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from imgsubset.errors import InputError, OutputError
from imgsubset.files import N_IO_THREADS, PARTIAL_PREFIX, Stamp, hash_stream, sync_folder
from imgsubset.progress import Progress
from imgsubset.sources.archive_members import MAX_MEMBER_BYTES, Members
from imgsubset.sources.archives import TAR_BLOCK_BYTES, iter_tar_members
from imgsubset.sources.images import Listing
from imgsubset.writing.copying import convert_read_errors, make_changed_error
from imgsubset.writing.lock import MAX_LOCK_ATTEMPTS, LockedDestination, lock_descriptor, make_folders
from imgsubset.writing.manifest import NAME_IN_TAR, name_in, open_exported_files
from imgsubset.writing.ownership import FileState, get_file_state, get_status, open_folder, parse_written_files


@dataclass(frozen=True)
class LockedTarDestination(LockedDestination):
    """A destination that is a tar archive, and that no other run writes; `folder` is what it lies in.

    name          in the folder
    partial_name  the file that waits for that name, and its own
    """

    name: str
    partial_name: str
    file: BinaryIO = field(repr=False)


@contextlib.contextmanager
def lock_tar_destination(path: Path) -> Iterator[LockedTarDestination]:
    """Make the file that is to be an archive, and keep other runs out. If it gets no name, it is gone in the end.

    Raises OSError where that cannot be, and OutputError if another run holds it.
    """
    real = Path(os.path.realpath(path))  # of a link what it leads to
    waiting = f"{PARTIAL_PREFIX}{hashlib.sha256(os.fsencode(real.name)).hexdigest()[:16]}"
    with contextlib.ExitStack() as stack:
        make_folders(real.parent, stack)
        folder = stack.enter_context(open_folder(real.parent))
        file, locked = _create_partial_file(folder, waiting, path)
        with file:
            held = LockedTarDestination(path, folder, locked, real.name, waiting, file)
            try:
                yield held
            finally:
                if _is_same_file(folder, waiting, file):
                    os.unlink(waiting, dir_fd=folder)


def _create_partial_file(folder: int, name: str, path: Path) -> tuple[BinaryIO, bool]:
    """A new file, and whether others are kept out of it by a lock."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    for _ in range(MAX_LOCK_ATTEMPTS):
        made = True
        try:
            descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        except FileExistsError:
            made = False
            try:
                descriptor = os.open(name, flags, dir_fd=folder)
            except FileNotFoundError:
                continue
        file = os.fdopen(descriptor, "w+b")
        try:
            locked = stat.S_ISREG(os.fstat(descriptor).st_mode) and lock_descriptor(descriptor, path)
            if not (made or locked):
                raise OutputError(
                    f"another run may be at work on '{path}'; if it is no more, remove '{name}' beside it"
                )
            if _is_same_file(folder, name, file):
                status = os.fstat(descriptor)
                if status.st_size == 0 and status.st_nlink == 1:
                    return file, locked
                os.unlink(name, dir_fd=folder)  # of a run that was killed
        except BaseException:
            file.close()
            raise
        file.close()
    raise OutputError(f"'{name}' beside destination '{path}' is changed by others all the time")


def _is_same_file(folder: int, name: str, file: BinaryIO) -> bool:
    """Whether a name in a folder is that of an open file."""
    there = get_status(folder, name)
    return there is not None and os.path.samestat(there, os.fstat(file.fileno()))


def verify_earlier_archive(held: LockedTarDestination) -> FileState:
    """What an earlier selection's archive is, of which all is as its manifest says; None where there is none.

    Raises OutputError if anything in it is not what was written, and would be lost.
    """
    before = get_file_state(held.folder, held.name)
    if before is None:
        return None
    try:
        there = open_exported_files(held.path)
        name = name_in(there)
        found = parse_written_files(there.open(name).read(), name)
        odd = [*{*found} ^ {*(there.members or Members({})).found}, *(file.path for file in there.rejected)]
        odd += [path for path, claim in found.items() if path not in odd and there.sha256(path) != claim.sha256]
    except (InputError, OSError):
        odd = [NAME_IN_TAR]
    if odd:
        raise OutputError(
            f"'{min(odd)}' in destination '{held.path}' is not as an earlier selection left it, and would be lost; "
            "move the archive away first"
        )
    return before


@dataclass(frozen=True)
class TarExport:
    """An archive that is being written: where, and the SHA-256 of each member, by path in their order."""

    held: LockedTarDestination
    hashes: dict[str, str] = field(default_factory=dict)

    def copy(self, source: Listing, stamps: Mapping[str, Stamp], progress: Progress) -> dict[str, str]:
        """Append files of a source that still are what their stamps say. Returns their SHA-256."""
        paths = sorted(stamps, key=os.fsencode)
        with ThreadPoolExecutor(N_IO_THREADS) as readers:  # files from afar are fetched several at once
            for first in range(0, len(paths), N_IO_THREADS):
                some = paths[first : first + N_IO_THREADS]
                files = map(source.open, some) if source.members is None else readers.map(source.open, some)
                for path in some:
                    with convert_read_errors(source.locate(path)):
                        file = next(files)
                    with file:
                        self._append(path, file, stamps[path].mtime_ns)
                        if source.stamp_of(path, file) != stamps[path]:
                            raise make_changed_error(source.locate(path))
                    progress("copy", 1, len(paths))
        return {path: self.hashes[path] for path in stamps}

    def write(self, path: str, content: bytes, mtime_ns: int) -> None:
        """Append a file of this content and time."""
        self._append(path, io.BytesIO(content), mtime_ns)

    def _append(self, path: str, content: BinaryIO, mtime_ns: int) -> None:
        file, info = self.held.file, tarfile.TarInfo(path)  # of mode 644, of nobody
        info.size, info.mtime = content.seek(0, os.SEEK_END), mtime_ns // 10**9
        content.seek(0)
        if info.size > MAX_MEMBER_BYTES:
            raise OutputError(
                f"'{path}' has {info.size:,} bytes, more than the {MAX_MEMBER_BYTES:,} that are read of a member of an "
                "archive; choose a folder as destination"
            )
        file.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        start = file.tell()
        self.hashes[path] = hash_stream(content, copy=file)
        if file.tell() - start != info.size:
            raise make_changed_error(path)
        file.write(bytes(-info.size % TAR_BLOCK_BYTES))

    def commit(self, replaced: FileState) -> None:
        """End the archive, read it back, and give it its name, in place of what was there before.

        Raises OutputError if a member is not what was written, or if something else has that name now.
        """
        held, file = self.held, self.held.file
        file.write(bytes(2 * TAR_BLOCK_BYTES + -(file.tell() + 2 * TAR_BLOCK_BYTES) % tarfile.RECORDSIZE))
        file.flush()
        os.fsync(file.fileno())
        place = str(Path(os.path.realpath(held.path)).with_name(held.partial_name))
        found = dict(iter_tar_members(place, file, os.fstat(file.fileno())))
        if [*found] != [*self.hashes]:
            raise OutputError(f"the members of '{held.path}' differ from what was written when read back")
        for path, member in found.items():
            if isinstance(member, str) or hash_stream(member.open()) != self.hashes[path]:
                raise OutputError(f"the copy of '{path}' in '{held.path}' differs from it when read back")
        if get_file_state(held.folder, held.name) != replaced or (replaced is None and not _link_archive(held)):
            raise OutputError(
                f"'{held.path}' has appeared or changed meanwhile; move it away, and run the same command again"
            )
        if replaced is not None or get_status(held.folder, held.name) is None:
            os.rename(held.partial_name, held.name, src_dir_fd=held.folder, dst_dir_fd=held.folder)
        sync_folder(held.folder)


def _link_archive(held: LockedTarDestination) -> bool:
    """Give an archive its name, where the file system has links; whether nothing else has the name, which, unlike a
    renamed file, a link never replaces."""
    try:
        os.link(held.partial_name, held.name, src_dir_fd=held.folder, dst_dir_fd=held.folder)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
    return True
