"""What belongs together: the class and the group of each image, from its path or from a file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from posixpath import dirname

from imgsubset.errors import InputError
from imgsubset.files import read_named
from imgsubset.reading.patterns import Expression

# What many data sets call the images of one patient, object or video: person12_bacteria_45.jpeg
APPARENT = "([A-Za-z]+[0-9]+)[-_][^/]*$"
MANY = 5  # groups of several images, below which names that look alike mean nothing


def class_names(paths: Sequence[str], by: str = "first") -> list[str]:
    """The class of each image, from its path; '.' where that does not say it.

    by  first, its first folder; parent, its last, with those before it; or a regular expression, which says it by what
        it captures first, or without a capture by its whole match

    Raises UsageError if that is no regular expression.
    """
    if by == "first":
        return [path.split("/", 1)[0] if "/" in path else "." for path in paths]
    if by == "parent":
        return folders(paths)
    expression = Expression(by, f"stratify_by '{by}'")
    return [expression.captured_from(path) or "." for path in paths]


def folders(paths: Sequence[str]) -> list[str]:
    """The folder of each image, '.' where it is in none."""
    return [dirname(path) or "." for path in paths]


def labels_of(paths: Sequence[str], labels: str | os.PathLike[str]) -> list[str]:
    """The class of each image: its label in a CSV file.

    labels  a file with a header and columns `path`, relative to the source, and `label`; it may list other paths too

    Raises InputError if the file cannot be read as that, or lacks an image.
    """
    text = read_named(labels, f"labels '{labels}'").decode("utf-8-sig", "surrogateescape")
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        missing = {"path", "label"} - set(rows.fieldnames or ())
        if missing:
            raise InputError(f"labels '{labels}' have no column '{min(missing)}'; a header 'path,label' is needed")
        known: dict[str, str] = {}
        for row in rows:
            path = os.path.normpath(row["path"] or "").replace(os.sep, "/")
            if known.setdefault(path, row["label"] or "") != (row["label"] or ""):
                raise InputError(f"labels '{labels}', line {rows.line_num}: '{path}' has two labels")
    except csv.Error as error:
        raise InputError(f"labels '{labels}', line {rows.reader.line_num}: {error}") from None
    if unlabelled := [path for path in paths if path not in known]:
        raise InputError(f"labels '{labels}' lack {len(unlabelled):,} images of the source: '{unlabelled[0]}'")
    return [known[path] for path in paths]


def group_names(paths: Sequence[str], rule: str) -> list[str]:
    """The group of each image: its folder if the rule is `parent`, else what a regular expression captures first.

    The expression is searched for in the path; without a capture it is its whole match. An image that it is not found
    in is a group of its own.

    Raises UsageError if it is no regular expression.
    """
    if rule == "parent":
        return folders(paths)
    expression = Expression(rule, f"group_by '{rule}'")
    found = ((path, expression.captured_from(path)) for path in paths)
    # No captured text has a NUL, so that a lone image meets no group of its name.
    return [f"\0{path}" if captured is None else captured for path, captured in found]


def apparent_groups(paths: Sequence[str]) -> list[list[int]]:
    """The places of images whose names look as if they belonged together, as APPARENT has it; none unless most do.

    Names that say no more than the folders, and those of more than a tenth of all images, are of something else.
    """
    members: dict[str, list[int]] = {}
    for place, name in enumerate(group_names(paths, APPARENT)):
        members.setdefault(name, []).append(place)
    groups = [places for places in members.values() if len(places) > 1]
    told = len(groups) >= max(MANY, 2 * len(set(folders(paths)))) and 2 * sum(map(len, groups)) >= len(paths)
    return groups if told and 10 * max(map(len, groups)) <= len(paths) else []
