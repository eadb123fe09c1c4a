"""The lock on a destination, so that two runs never write to it at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgsubset.errors import OutputError
from imgsubset.writing.ownership import open_folder

MAX_LOCK_ATTEMPTS = 100  # of a folder that other runs, which end just now, remove again


@dataclass(frozen=True)
class LockedDestination:
    """A destination that no other run works in.

    path    as the user calls it
    folder  its descriptor
    locked  whether the file system keeps others out; else only what they leave there tells of them
    """

    path: Path
    folder: int
    locked: bool


@contextlib.contextmanager
def lock_destination(path: Path) -> Iterator[LockedDestination]:
    """Make a folder, unless it is there, and keep other runs out of it. If it is empty in the end, it is unmade.

    Raises OSError for a folder that cannot be made or read, and OutputError if another run holds it.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_LOCK_ATTEMPTS):
            made = contextlib.ExitStack()
            try:
                make_folders(path, made)
                folder = stack.enter_context(open_folder(path))
                locked = lock_descriptor(folder, path)
                if os.path.samestat(os.fstat(folder), path.stat()):
                    stack.enter_context(made)  # so that it is unmade under the lock
                    break
            except FileNotFoundError:  # another run has unmade it meanwhile
                continue
            except BaseException:
                made.close()
                raise
        else:
            raise OutputError(f"destination '{path}' is removed by others all the time")
        yield LockedDestination(path, folder, locked)


def make_folders(path: Path, made: contextlib.ExitStack) -> None:
    """Make a folder and those that lead to it; what is to unmake them goes to a stack."""
    for folder in (*reversed(path.parents), path):
        with contextlib.suppress(FileExistsError):
            if not os.path.lexists(folder):
                folder.mkdir()
                made.callback(_remove_folder, folder)


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def lock_descriptor(folder: int, path: Path) -> bool:
    """Whether a folder could be locked. Raises OutputError if it is locked."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise make_in_use_error(path, _find_lock_holder(os.fstat(folder)), platform.node()) from None
    except OSError:  # a network file system, for one
        return False
    return True


def make_in_use_error(path: Path, process: str, host: str) -> OutputError:
    """What there is to say of a destination that another run is at work in; the process may be unknown."""
    who = f" (process {process} on {host})" if process else ""
    return OutputError(f"destination '{path}' is in use by another run{who}; wait until it ends, or choose another")


def _find_lock_holder(status: os.stat_result) -> str:
    """The process that holds a lock on a folder, as Linux tells it; empty if it does not."""
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if len(words) > 5 and words[1] == "FLOCK" and words[5] == file and words[4].isdigit():
                return words[4]
    return ""
