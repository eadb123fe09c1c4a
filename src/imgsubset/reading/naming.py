"""The paths of files that lie in others: no hostile one leads out of the folder that it is put into."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeAlias

from imgsubset.reading.members import Member

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4000  # bytes: what file systems take, and a destination before it

NamedMember: TypeAlias = "tuple[str, Member | str]"
"""A path and a file, or why there is none; the path '' is the archive itself."""


def index_members(found: Iterable[NamedMember]) -> tuple[dict[str, Member | str], list[tuple[str, str]]]:
    """By path what is in an archive, and what to know of it, as paths and reasons.

    A path is relative, with `/`, and without `.` and `..`, so that it stays in a folder that it is put into. Of several
    members of one path the last counts, as when they are unpacked.
    """
    kept: dict[str, Member | str] = {}
    notes: list[tuple[str, str]] = []
    for name, file in found:
        if not name:
            notes.append((name, file if isinstance(file, str) else "a member without a name"))
            continue
        path = normalise_name(name)
        if path in kept:
            notes.append((path, "is in the archive more than once; the last one counts"))
        problem = explain_invalid_path(name)
        kept[path if problem is None else name] = problem or file
    for path in [path for path, file in kept.items() if not isinstance(file, str)]:
        if any(not isinstance(kept.get(path[:end], ""), str) for end, c in enumerate(path) if c == "/"):
            kept[path] = "lies in a folder of which the archive makes a file, too"
    return kept, notes


def normalise_name(name: str) -> str:
    """A name without what says nothing in it."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def explain_invalid_path(name: str) -> str | None:
    """Why a member of this name can be no file in a folder; None if it can."""
    parts = name.split("/")
    try:
        encoded = os.fsencode(name)
    except UnicodeError:
        return "no possible path"
    if "\0" in name or not any(part not in ("", ".") for part in parts):
        return "no possible path"
    if name.startswith("/") or ".." in parts:
        return "leads out of the archive"
    long = len(encoded) > MAX_NAME_BYTES and any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts)
    if long or len(encoded) > MAX_PATH_BYTES:
        return "longer than the name of a file can be"
    return None
