"""What this program can show to have written in a destination: the only files there that it ever removes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

from imgsubset.errors import OutputError
from imgsubset.files import READERS, open_regular, sha256
from imgsubset.writing.folders import folder_of, status_in
from imgsubset.writing.manifest import NAME, inside

Seen: TypeAlias = "tuple[int, int, int, int] | None"
"""Inode, size, modification and change time of a file that was read; None where there was none."""


@dataclass(frozen=True)
class Claim:
    """A file that was written.

    sha256    of its content
    original  where it is a link: the absolute path of the file of the source
    """

    sha256: str
    original: str | None = None


def claims(root: int) -> dict[str, Claim]:
    """What the manifest in a folder says was written there, by path, itself included; nothing if it is none of ours."""
    try:
        with open_regular(NAME, root) as file:
            return claimed(file.read())
    except OSError:
        return {}


def claimed(content: bytes, name: str = NAME) -> dict[str, Claim]:
    """Like `claims`, of a manifest with this content and name."""
    try:
        record = json.loads(content)
        if record["program"]["name"] != "imgsubset":
            return {}
        linked = record["request"]["mode"] != "copy"
        found = {
            inside(entry["path"]): Claim(
                entry["sha256"], os.path.normpath(f"{record['source']}/{entry['path']}") if linked else None
            )
            for entry in (*record["files"], *record["extras"])
        }
        return found | {name: Claim(hashlib.sha256(content).hexdigest())}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def recorded(found: Mapping[str, Claim]) -> list[dict[str, Any]]:
    """Claims as plain data."""
    return [{"path": path, **vars(claim)} for path, claim in found.items()]


def recalled(record: list[dict[str, Any]]) -> dict[str, Claim]:
    """Claims from plain data. Raises KeyError, TypeError or ValueError for what makes no sense."""
    return {inside(one["path"]): Claim(one["sha256"], one["original"]) for one in record}


def seen(root: int, path: str) -> Seen:
    """What a path in a folder leads to now, links not followed."""
    with contextlib.suppress(OSError), folder_of(root, path) as (folder, name):
        if status := status_in(folder, name):
            return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return None


def holds(root: int, path: str, claim: Claim) -> bool:
    """Whether a file is what was written: a link to that original, or a file of that content. An absent one is."""
    try:
        with folder_of(root, path) as (folder, name):
            status = status_in(folder, name)
            if status is None:
                return True
            if stat.S_ISLNK(status.st_mode):
                return claim.original is not None and os.readlink(name, dir_fd=folder) == claim.original
            if claim.original is not None and status.st_nlink > 1:  # then the original keeps what it is now
                with contextlib.suppress(OSError):
                    there = os.stat(claim.original)  # noqa: PTH116 (a text)
                    if os.path.samestat(there, status) and not _same_name(folder, name, claim.original):
                        return True
            return sha256(name, folder) == claim.sha256
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _same_name(folder: int, name: str, original: str) -> bool:
    """Whether a name in a folder is the very name of the original, and no other link to the file."""
    there = os.stat(os.path.dirname(original))  # noqa: PTH116, PTH120 (a text)
    return os.path.samestat(there, os.fstat(folder)) and os.path.basename(original) == name  # noqa: PTH119


def prove(root: int, found: Mapping[str, Claim], destination: object) -> dict[str, Seen]:
    """What the claimed files are now. Raises OutputError if any of them is not what was written."""
    before = {path: seen(root, path) for path in found}
    with ThreadPoolExecutor(READERS) as readers:
        good = [*readers.map(lambda path: holds(root, path, found[path]), found)]
    changed = [path for path, one in zip(found, good, strict=True) if not one]
    if changed:
        more = f" (and {len(changed) - 1:,} more)" if len(changed) > 1 else ""
        raise OutputError(
            f"'{changed[0]}'{more} in destination '{destination}' is not as an earlier selection left it, and would be "
            "lost; move it away first"
        )
    return before
