"""A folder in the destination where files wait until all of them are whole; then they get their names at once.

The name of the folder holds the number of its own inode, which no archive and no other program could foresee: so a
later run knows what a killed one left there. As long as there is no journal in it, the rest of the destination is as it
was, and the folder can go. The journal says which files wait and which ones of an earlier selection give way; from
then on there is only a way forward, which this run or any later one goes to its end.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from imgsubset.errors import OutputError
from imgsubset.files import PARTIAL_PREFIX, create_file, open_regular, sync_folder, to_json_bytes
from imgsubset.writing.lock import LockedDestination, make_in_use_error
from imgsubset.writing.manifest import check_relative_path
from imgsubset.writing.ownership import (
    FileState,
    WrittenFile,
    get_file_state,
    get_status,
    is_unchanged,
    list_names,
    list_parents,
    open_folder,
    open_parent_folder,
    remove_empty_folders,
    verify_unchanged,
    written_files_from_json,
    written_files_to_json,
)

JOURNAL_NAME = "journal.json"
FRESH_FOLDER_PATTERN = re.compile(re.escape(PARTIAL_PREFIX) + r"[0-9a-f]{16}")
STAGING_FOLDER_PATTERN = re.compile(re.escape(PARTIAL_PREFIX) + r"(?P<inode>\d+)-(?P<process>\d+)-(?P<host>.*)")
STAGED_FILE_PATTERN = re.compile(rf"\d+|{re.escape(JOURNAL_NAME)}")


@dataclass(frozen=True)
class StagingFolder:
    """The folder where files wait, by name and descriptor, and the destination that it lies in."""

    held: LockedDestination
    name: str
    folder: int

    def write(self, number: int, content: bytes) -> None:
        """Write a file that waits."""
        with create_file(str(number), inside=self.folder) as file:
            file.write(content)

    def commit(self, paths: Sequence[str], earlier: Mapping[str, WrittenFile]) -> None:
        """Give the files that wait, by their numbers, these paths, the last of them at last; first those of an earlier
        selection give way.

        Raises OutputError, and changes nothing, if one of the latter is not what was written. If it ends in any other
        way, `recover` goes on.
        """
        known = verify_unchanged(self.held.folder, earlier, self.held.path)
        self.write(len(paths), to_json_bytes({"new": list(paths), "earlier": written_files_to_json(earlier)}))
        sync_folder(self.folder)
        move, begun = _Commit(self, tuple(paths), earlier, known), str(len(paths))

        def forward() -> None:
            if begun in list_names(self.folder):
                os.rename(begun, JOURNAL_NAME, src_dir_fd=self.folder, dst_dir_fd=self.folder)
                sync_folder(self.folder)
            if JOURNAL_NAME in list_names(self.folder):
                move.run()

        _run_to_completion(forward)


@contextlib.contextmanager
def make_staging_folder(held: LockedDestination) -> Iterator[StagingFolder]:
    """A folder where files wait. It is gone in the end, unless `commit` has begun and could not finish."""
    fresh = f"{PARTIAL_PREFIX}{secrets.token_hex(8)}"
    try:
        os.mkdir(fresh, 0o700, dir_fd=held.folder)
        with open_folder(fresh, held.folder) as folder:
            name = f"{PARTIAL_PREFIX}{os.fstat(folder).st_ino}-{os.getpid()}-{_host_name()}"
            stage = StagingFolder(held, name, folder)
            try:
                os.rename(fresh, name, src_dir_fd=held.folder, dst_dir_fd=held.folder)
                for other in find_staging_folders(held.folder):
                    if other != name and not held.locked:
                        _check_process_ended(held, other)  # of two runs that begin at once, one sees the other's folder
                yield stage
            finally:
                _run_to_completion(lambda: _remove_staging_folder(stage))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(fresh, dir_fd=held.folder)


def _run_to_completion(work: Callable[[], object]) -> None:
    """Do what can be begun anew, though a signal asks to leave amid it: the end is near, and halfway no place to be."""
    try:
        work()
    except Exception:
        raise
    except BaseException:
        work()
        raise


def _host_name() -> str:
    """The name of this machine, as part of a name."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", platform.node())[:64]


def _remove_staging_folder(stage: StagingFolder) -> None:
    if JOURNAL_NAME not in (names := list_names(stage.folder)):
        for name in names:
            os.unlink(name, dir_fd=stage.folder)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(stage.name, dir_fd=stage.held.folder)


def find_staging_folders(root: int) -> list[str]:
    """Names in a folder of what runs that were killed have left, or others are at work in."""
    return sorted(name for name in list_names(root) if _is_staging_folder(root, name))


def _is_staging_folder(root: int, name: str) -> bool:
    """Whether a folder was made by `staging`, for this user, and holds nothing else."""
    with contextlib.suppress(OSError):
        match, status = STAGING_FOLDER_PATTERN.fullmatch(name), get_status(root, name)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return False
        if match and int(match["inode"]) == status.st_ino and status.st_uid == os.geteuid():
            with open_folder(name, root) as folder:
                return all(STAGED_FILE_PATTERN.fullmatch(one) for one in list_names(folder))
    return False


def recover(held: LockedDestination) -> None:
    """Finish what a killed run had begun to give its names, and remove what else it left.

    Raises OutputError if another run may be at work there, or if a file is in the way.
    """
    for name in list_names(held.folder):
        if FRESH_FOLDER_PATTERN.fullmatch(name):  # a run was killed before it had put anything there
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=held.folder)
    for name in find_staging_folders(held.folder):
        if not held.locked:
            _check_process_ended(held, name)
        with open_folder(name, held.folder) as folder:
            stage = StagingFolder(held, name, folder)
            if JOURNAL_NAME in list_names(folder):
                _read_journal(stage).run()
            _remove_staging_folder(stage)


def _check_process_ended(held: LockedDestination, name: str) -> None:
    """Raise OutputError unless the process that has made a folder is known to live no more."""
    made = STAGING_FOLDER_PATTERN.fullmatch(name)
    assert made
    if made["host"] == _host_name():
        try:
            os.kill(int(made["process"]), 0)
        except ProcessLookupError:
            return
        except OSError:
            pass
    raise OutputError(
        f"{make_in_use_error(held.path, made['process'], made['host'])}; if it is no more, remove '{name}' there"
    )


@dataclass(frozen=True)
class _Commit:
    """The way forward: what waits gets these paths, what was earlier goes; `known` is what that was when last read."""

    stage: StagingFolder
    paths: tuple[str, ...]
    earlier: Mapping[str, WrittenFile]
    known: Mapping[str, FileState]

    def run(self) -> None:
        """Go it to its end, from wherever it was left."""
        root, new = self.stage.held.folder, frozenset(self.paths)
        gone = [path for path in self.earlier if path not in new and self._remove(path)]
        remove_empty_folders(root, list_parents(gone))
        *files, manifest = enumerate(self.paths)
        for number, path in files:
            self._move_into_place(str(number), path)
        for path in list_parents(self.paths):
            with open_parent_folder(root, path) as (folder, name), open_folder(name, folder) as parent:
                sync_folder(parent)
        sync_folder(root)
        self._move_into_place(str(manifest[0]), manifest[1])
        sync_folder(root)
        os.unlink(JOURNAL_NAME, dir_fd=self.stage.folder)

    def _remove(self, path: str) -> bool:
        """Remove a file of an earlier selection; whether it was there. Raises OutputError if it is something else."""
        root = self.stage.held.folder
        if (there := get_file_state(root, path)) is None:
            return False
        claim = self.earlier.get(path)
        if claim is None or not (there == self.known.get(path) or is_unchanged(root, path, claim)):
            raise OutputError(
                f"a file of this name has appeared in destination '{self.stage.held.path}': '{path}'; move it away, "
                "and run the same command again"
            )
        with open_parent_folder(root, path) as (folder, name):
            os.unlink(name, dir_fd=folder)
        return True

    def _move_into_place(self, number: str, path: str) -> None:
        """Give a file that waits its path."""
        root, waiting = self.stage.held.folder, self.stage.folder
        if (status := get_status(waiting, number)) is None:
            return  # it has it already
        with open_parent_folder(root, path, make=True) as (folder, name):
            there = get_status(folder, name)
            if there is None or not os.path.samestat(there, status):
                self._remove(path)
                try:  # unlike rename, this never replaces
                    os.link(number, name, src_dir_fd=waiting, dst_dir_fd=folder, follow_symlinks=False)
                except FileExistsError:
                    self._remove(path)  # which says so
                    raise
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                        raise
                    os.rename(number, name, src_dir_fd=waiting, dst_dir_fd=folder)
                    return
            os.unlink(number, dir_fd=waiting)


def _read_journal(stage: StagingFolder) -> _Commit:
    """What a journal says was begun. Raises OutputError if it makes no sense."""
    try:
        with open_regular(JOURNAL_NAME, stage.folder) as file:
            record = json.loads(file.read())
        return _Commit(
            stage, tuple(map(check_relative_path, record["new"])), written_files_from_json(record["earlier"]), {}
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise OutputError(
            f"'{stage.held.path}/{stage.name}/{JOURNAL_NAME}' makes no sense; remove '{stage.name}'"
        ) from None
