"""The description of a split for YOLO's trainers, beside the folders of its parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from posixpath import join, normpath

from imgsubset.errors import InputError, OutputError
from imgsubset.files import read_whole, write_whole
from imgsubset.reading.contents import Listing
from imgsubset.reading.yolo import HEADER, description, part_of, parts_of
from imgsubset.writing.destination import output_errors


def split_description(
    source: Listing, parts: Mapping[str, tuple[str, ...]], destination: str | os.PathLike[str], overwrite: bool = False
) -> tuple[Path, bytes] | None:
    """Where the description of a split goes, and what it says; None for a source that is no YOLO set.

    parts  the chosen images by the names of the parts; those that are not called train, val or test are left out

    Raises OutputError if a file of this name is there that this program did not write, unless it is to be overwritten.
    """
    folders: dict[str, list[str]] = {}
    for name, chosen in parts.items():
        if part := part_of(name):
            inside = {normpath(join(name, folder)) for found in parts_of(chosen).values() for folder in found}
            folders.setdefault(part, []).extend(sorted(inside))
    try:
        found = description(source, folders) if "train" in folders else None
    except InputError:  # the exports of the parts say so
        found = None
    if found is None:
        return None
    file = Path(destination, found[0])
    with output_errors(destination):
        if os.path.lexists(file) and not overwrite and not read_whole(file).startswith(HEADER.encode()):
            raise OutputError(f"'{file}' is there already, and would describe the split; move it, or pass --overwrite")
    return file, found[1]


def write_description(description: tuple[Path, bytes] | None) -> None:
    """Write a description, if there is one. Raises OutputError."""
    if description is not None:
        file, content = description
        with output_errors(file.parent):
            write_whole(file, content)
