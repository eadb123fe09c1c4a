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
from imgsubset.files import PARTIAL, as_json, new_file, open_regular, sync_folder
from imgsubset.writing.claims import Claim, Seen, holds, prove, recalled, recorded, seen
from imgsubset.writing.folders import folder_of, names_in, opened, parents_of, remove_empty, status_in
from imgsubset.writing.holding import Held, in_use
from imgsubset.writing.manifest import inside

JOURNAL = "journal.json"
FRESH = re.compile(re.escape(PARTIAL) + r"[0-9a-f]{16}")
OURS = re.compile(re.escape(PARTIAL) + r"(?P<inode>\d+)-(?P<process>\d+)-(?P<host>.*)")
WAITING = re.compile(rf"\d+|{re.escape(JOURNAL)}")


@dataclass(frozen=True)
class Stage:
    """The folder where files wait, by name and descriptor, and the destination that it lies in."""

    held: Held
    name: str
    folder: int

    def write(self, number: int, content: bytes) -> None:
        """Write a file that waits."""
        with new_file(str(number), inside=self.folder) as file:
            file.write(content)

    def commit(self, paths: Sequence[str], earlier: Mapping[str, Claim]) -> None:
        """Give the files that wait, by their numbers, these paths, the last of them at last; first those of an earlier
        selection give way.

        Raises OutputError, and changes nothing, if one of the latter is not what was written. If it ends in any other
        way, `recover` goes on.
        """
        known = prove(self.held.folder, earlier, self.held.path)
        self.write(len(paths), as_json({"new": list(paths), "earlier": recorded(earlier)}))
        sync_folder(self.folder)
        move, begun = _Move(self, tuple(paths), earlier, known), str(len(paths))

        def forward() -> None:
            if begun in names_in(self.folder):
                os.rename(begun, JOURNAL, src_dir_fd=self.folder, dst_dir_fd=self.folder)
                sync_folder(self.folder)
            if JOURNAL in names_in(self.folder):
                move.run()

        _to_the_end(forward)


@contextlib.contextmanager
def staging(held: Held) -> Iterator[Stage]:
    """A folder where files wait. It is gone in the end, unless `commit` has begun and could not finish."""
    fresh = f"{PARTIAL}{secrets.token_hex(8)}"
    try:
        os.mkdir(fresh, 0o700, dir_fd=held.folder)
        with opened(fresh, held.folder) as folder:
            name = f"{PARTIAL}{os.fstat(folder).st_ino}-{os.getpid()}-{_host()}"
            stage = Stage(held, name, folder)
            try:
                os.rename(fresh, name, src_dir_fd=held.folder, dst_dir_fd=held.folder)
                for other in left_behind(held.folder):
                    if other != name and not held.locked:
                        _check_dead(held, other)  # of two runs that begin at once, one sees the other's folder
                yield stage
            finally:
                _to_the_end(lambda: _discard(stage))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(fresh, dir_fd=held.folder)


def _to_the_end(work: Callable[[], object]) -> None:
    """Do what can be begun anew, though a signal asks to leave amid it: the end is near, and halfway no place to be."""
    try:
        work()
    except Exception:
        raise
    except BaseException:
        work()
        raise


def _host() -> str:
    """The name of this machine, as part of a name."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", platform.node())[:64]


def _discard(stage: Stage) -> None:
    if JOURNAL not in (names := names_in(stage.folder)):
        for name in names:
            os.unlink(name, dir_fd=stage.folder)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(stage.name, dir_fd=stage.held.folder)


def left_behind(root: int) -> list[str]:
    """Names in a folder of what runs that were killed have left, or others are at work in."""
    return sorted(name for name in names_in(root) if _is_ours(root, name))


def _is_ours(root: int, name: str) -> bool:
    """Whether a folder was made by `staging`, for this user, and holds nothing else."""
    with contextlib.suppress(OSError):
        match, status = OURS.fullmatch(name), status_in(root, name)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return False
        if match and int(match["inode"]) == status.st_ino and status.st_uid == os.geteuid():
            with opened(name, root) as folder:
                return all(WAITING.fullmatch(one) for one in names_in(folder))
    return False


def recover(held: Held) -> None:
    """Finish what a killed run had begun to give its names, and remove what else it left.

    Raises OutputError if another run may be at work there, or if a file is in the way.
    """
    for name in names_in(held.folder):
        if FRESH.fullmatch(name):  # a run was killed before it had put anything there
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=held.folder)
    for name in left_behind(held.folder):
        if not held.locked:
            _check_dead(held, name)
        with opened(name, held.folder) as folder:
            stage = Stage(held, name, folder)
            if JOURNAL in names_in(folder):
                _recalled(stage).run()
            _discard(stage)


def _check_dead(held: Held, name: str) -> None:
    """Raise OutputError unless the process that has made a folder is known to live no more."""
    made = OURS.fullmatch(name)
    assert made
    if made["host"] == _host():
        try:
            os.kill(int(made["process"]), 0)
        except ProcessLookupError:
            return
        except OSError:
            pass
    raise OutputError(f"{in_use(held.path, made['process'], made['host'])}; if it is no more, remove '{name}' there")


@dataclass(frozen=True)
class _Move:
    """The way forward: what waits gets these paths, what was earlier goes; `known` is what that was when last read."""

    stage: Stage
    paths: tuple[str, ...]
    earlier: Mapping[str, Claim]
    known: Mapping[str, Seen]

    def run(self) -> None:
        """Go it to its end, from wherever it was left."""
        root, new = self.stage.held.folder, frozenset(self.paths)
        gone = [path for path in self.earlier if path not in new and self._remove(path)]
        remove_empty(root, parents_of(gone))
        *files, manifest = enumerate(self.paths)
        for number, path in files:
            self._settle(str(number), path)
        for path in parents_of(self.paths):
            with folder_of(root, path) as (folder, name), opened(name, folder) as parent:
                sync_folder(parent)
        sync_folder(root)
        self._settle(str(manifest[0]), manifest[1])
        sync_folder(root)
        os.unlink(JOURNAL, dir_fd=self.stage.folder)

    def _remove(self, path: str) -> bool:
        """Remove a file of an earlier selection; whether it was there. Raises OutputError if it is something else."""
        root = self.stage.held.folder
        if (there := seen(root, path)) is None:
            return False
        claim = self.earlier.get(path)
        if claim is None or not (there == self.known.get(path) or holds(root, path, claim)):
            raise OutputError(
                f"a file of this name has appeared in destination '{self.stage.held.path}': '{path}'; move it away, "
                "and run the same command again"
            )
        with folder_of(root, path) as (folder, name):
            os.unlink(name, dir_fd=folder)
        return True

    def _settle(self, number: str, path: str) -> None:
        """Give a file that waits its path."""
        root, waiting = self.stage.held.folder, self.stage.folder
        if (status := status_in(waiting, number)) is None:
            return  # it has it already
        with folder_of(root, path, make=True) as (folder, name):
            there = status_in(folder, name)
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


def _recalled(stage: Stage) -> _Move:
    """What a journal says was begun. Raises OutputError if it makes no sense."""
    try:
        with open_regular(JOURNAL, stage.folder) as file:
            record = json.loads(file.read())
        return _Move(stage, tuple(map(inside, record["new"])), recalled(record["earlier"]), {})
    except (ValueError, TypeError, KeyError, RecursionError):
        raise OutputError(f"'{stage.held.path}/{stage.name}/{JOURNAL}' makes no sense; remove '{stage.name}'") from None
