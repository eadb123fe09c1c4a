"""The description of a split for YOLO's trainers, beside the folders of its parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from posixpath import join, normpath

from imgsubset.errors import InputError, OutputError
from imgsubset.files import read_file, write_atomic
from imgsubset.reading.contents import Listing
from imgsubset.reading.yolo import DATA_YAML_HEADER, group_folders_by_split, make_data_yaml, parse_split_name
from imgsubset.writing.destination import convert_output_errors


def prepare_split_data_yaml(
    source: Listing, parts: Mapping[str, tuple[str, ...]], destination: str | os.PathLike[str], overwrite: bool = False
) -> tuple[Path, bytes] | None:
    """Where the description of a split goes, and what it says; None for a source that is no YOLO set.

    parts  the chosen images by the names of the parts; those that are not called train, val or test are left out

    Raises OutputError if a file of this name is there that this program did not write, unless it is to be overwritten.
    """
    folders: dict[str, list[str]] = {}
    for name, chosen in parts.items():
        if part := parse_split_name(name):
            inside = {
                normpath(join(name, folder)) for found in group_folders_by_split(chosen).values() for folder in found
            }
            folders.setdefault(part, []).extend(sorted(inside))
    try:
        found = make_data_yaml(source, folders) if "train" in folders else None
    except InputError:  # the exports of the parts say so
        found = None
    if found is None:
        return None
    file = Path(destination, found[0])
    with convert_output_errors(destination):
        if os.path.lexists(file) and not overwrite and not read_file(file).startswith(DATA_YAML_HEADER.encode()):
            raise OutputError(f"'{file}' is there already, and would describe the split; move it, or pass --overwrite")
    return file, found[1]


def write_split_data_yaml(description: tuple[Path, bytes] | None) -> None:
    """Write a description, if there is one. Raises OutputError."""
    if description is not None:
        file, content = description
        with convert_output_errors(file.parent):
            write_atomic(file, content)
