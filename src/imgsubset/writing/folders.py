"""Folders by descriptor, so that a link which somebody puts in the way is never followed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from imgsubset.errors import OutputError


@contextlib.contextmanager
def open_folder(path: str | os.PathLike[str], inside: int | None = None) -> Iterator[int]:
    """The descriptor of a folder. `inside` is that of the folder in which the path is a name: no link is followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | (0 if inside is None else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_parent_folder(root: int, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
    """The descriptor of the folder that a path in a folder ends in, and the name there.

    make  whether to make the folders on the way

    Raises OSError if there is a link on the way.
    """
    *parents, name = PurePosixPath(path).parts
    with contextlib.ExitStack() as stack:
        folder = root
        for parent in parents:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(parent, dir_fd=folder)
            folder = stack.enter_context(open_folder(parent, folder))
        yield folder, name


def list_names(folder: int) -> list[str]:
    """All names in a folder."""
    return os.listdir(folder)


def get_status(folder: int, name: str) -> os.stat_result | None:
    """What has a name in a folder, links not followed; None if nothing has."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def list_parents(paths: Iterable[str]) -> list[str]:
    """The folders that lead to paths, each after those that it lies in."""
    return sorted({str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"."})


def remove_empty_folders(root: int, folders: Iterable[str]) -> None:
    """Remove those folders, and folders in them first, that are empty."""
    for path in sorted(folders, reverse=True):
        with contextlib.suppress(OSError), open_parent_folder(root, path) as (folder, name):
            os.rmdir(name, dir_fd=folder)


def check_paths_available(root: int, paths: Iterable[str], leaving: Iterable[str], destination: object) -> None:
    """Refuse paths that could not get a file, since something is in their way that is not about to leave.

    Raises OutputError that names it.
    """
    paths, leaving = list(paths), frozenset(leaving)
    for parent in list_parents(paths):
        status = get_status(root, parent)
        if status is None or parent in leaving:
            continue
        if stat.S_ISLNK(status.st_mode):
            raise OutputError(f"'{destination}/{parent}' leads through a symbolic link; remove it first")
        if not stat.S_ISDIR(status.st_mode):
            raise OutputError(f"'{destination}/{parent}' is in the way of a folder; move it away first")
    for path in paths:
        status = get_status(root, path)
        if status is not None and (path not in leaving or stat.S_ISDIR(status.st_mode)):
            raise OutputError(
                f"destination '{destination}' holds '{path}', which no earlier selection can be shown to have put "
                "there; move it away first"
            )
