"""Which files of a destination this program wrote: the only ones that it ever removes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from imgsubset.errors import OutputError
from imgsubset.files import N_IO_THREADS, hash_file, open_regular
from imgsubset.writing.manifest import MANIFEST_NAME, check_relative_path


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


FileState: TypeAlias = "tuple[int, int, int, int] | None"
"""Inode, size, modification and change time of a file that was read; None where there was none."""


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written.

    sha256    of its content
    original  where it is a link: the absolute path of the file of the source
    """

    sha256: str
    original: str | None = None


def read_written_files(root: int) -> dict[str, WrittenFile]:
    """What the manifest in a folder says was written there, by path, itself included; nothing if it is none of ours."""
    try:
        with open_regular(MANIFEST_NAME, root) as file:
            return parse_written_files(file.read())
    except OSError:
        return {}


def parse_written_files(content: bytes, name: str = MANIFEST_NAME) -> dict[str, WrittenFile]:
    """Like `claims`, of a manifest with this content and name."""
    try:
        record = json.loads(content)
        if record["program"]["name"] != "imgsubset":
            return {}
        linked = record["request"]["mode"] != "copy"
        found = {
            check_relative_path(entry["path"]): WrittenFile(
                entry["sha256"], os.path.normpath(f"{record['source']}/{entry['path']}") if linked else None
            )
            for entry in (*record["files"], *record["extras"])
        }
        return found | {name: WrittenFile(hashlib.sha256(content).hexdigest())}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def written_files_to_json(found: Mapping[str, WrittenFile]) -> list[dict[str, Any]]:
    """Claims as plain data."""
    return [{"path": path, **vars(claim)} for path, claim in found.items()]


def written_files_from_json(record: list[dict[str, Any]]) -> dict[str, WrittenFile]:
    """Claims from plain data. Raises KeyError, TypeError or ValueError for what makes no sense."""
    return {check_relative_path(one["path"]): WrittenFile(one["sha256"], one["original"]) for one in record}


def get_file_state(root: int, path: str) -> FileState:
    """What a path in a folder leads to now, links not followed."""
    with contextlib.suppress(OSError), open_parent_folder(root, path) as (folder, name):
        if status := get_status(folder, name):
            return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return None


def is_unchanged(root: int, path: str, claim: WrittenFile) -> bool:
    """Whether a file is what was written: a link to that original, or a file of that content. An absent one is."""
    try:
        with open_parent_folder(root, path) as (folder, name):
            status = get_status(folder, name)
            if status is None:
                return True
            if stat.S_ISLNK(status.st_mode):
                return claim.original is not None and os.readlink(name, dir_fd=folder) == claim.original
            if claim.original is not None and status.st_nlink > 1:  # then the original keeps what it is now
                with contextlib.suppress(OSError):
                    there = os.stat(claim.original)  # noqa: PTH116 (a text)
                    if os.path.samestat(there, status) and not _is_same_name(folder, name, claim.original):
                        return True
            return hash_file(name, folder) == claim.sha256
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _is_same_name(folder: int, name: str, original: str) -> bool:
    """Whether a name in a folder is the very name of the original, and no other link to the file."""
    there = os.stat(os.path.dirname(original))  # noqa: PTH116, PTH120 (a text)
    return os.path.samestat(there, os.fstat(folder)) and os.path.basename(original) == name  # noqa: PTH119


def verify_unchanged(root: int, found: Mapping[str, WrittenFile], destination: object) -> dict[str, FileState]:
    """What the claimed files are now. Raises OutputError if any of them is not what was written."""
    before = {path: get_file_state(root, path) for path in found}
    with ThreadPoolExecutor(N_IO_THREADS) as readers:
        good = [*readers.map(lambda path: is_unchanged(root, path, found[path]), found)]
    changed = [path for path, one in zip(found, good, strict=True) if not one]
    if changed:
        more = f" (and {len(changed) - 1:,} more)" if len(changed) > 1 else ""
        raise OutputError(
            f"'{changed[0]}'{more} in destination '{destination}' is not as an earlier selection left it, and would be "
            "lost; move it away first"
        )
    return before
