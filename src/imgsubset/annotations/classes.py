"""The class and the group of each image, from its path or from a labels file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from posixpath import dirname

from imgsubset.annotations.filters import UserRegex
from imgsubset.annotations.tables import read_table
from imgsubset.errors import InputError, UsageError
from imgsubset.inputs import Labels
from imgsubset.options import Options
from imgsubset.sources.images import Listing
from imgsubset.sources.python_sources import look_up_labels, make_relative

# What many data sets call the images of one patient, object or video: person12_bacteria_45.jpeg
APPARENT_GROUP_PATTERN = "([A-Za-z]+[0-9]+)[-_][^/]*$"
MIN_APPARENT_GROUPS = 5  # groups of several images, below which names that look alike mean nothing


def parse_classes(paths: Sequence[str], by: str = "first") -> list[str]:
    """The class of each image, from its path; '.' where that does not say it.

    by  first, its first folder; parent, its last, with those before it; or a regular expression, which says it by what
        it captures first, or without a capture by its whole match

    Raises UsageError if that is no regular expression.
    """
    if by == "first":
        return [path.split("/", 1)[0] if "/" in path else "." for path in paths]
    if by == "parent":
        return parent_folders(paths)
    expression = UserRegex(by, f"stratify_by '{by}'")
    return [expression.extract(path) or "." for path in paths]


def parent_folders(paths: Sequence[str]) -> list[str]:
    """The folder of each image, '.' where it is in none."""
    return [dirname(path) or "." for path in paths]


def read_labels(listing: Listing, paths: Sequence[str], labels: str | os.PathLike[str]) -> list[str]:
    """The class of each image of a source: its label in a table.

    labels  a table with a column of paths and a column `label`; it may list other paths too. A file whose name ends
            otherwise than those of tables is CSV

    Raises InputError if the file cannot be read as that, or lacks an image.
    """
    table = read_table(labels, "labels", suffix=".csv", any_bytes=True)
    if "label" not in table.columns:
        raise InputError(f"{table.name} have no column 'label'; a header 'path,label' is needed")
    images, known = frozenset(listing.paths), dict[str, str]()
    for line, path, entry in zip(table.lines, table.paths, table.columns["label"], strict=True):
        name = make_relative(path if path in images else path.strip(), listing, images)
        label = "" if entry is None else str(entry)
        if known.setdefault(name, label) != label:
            raise InputError(f"{table.name}, line {line}: '{name}' has two labels")
    if unlabelled := [path for path in paths if path not in known]:
        raise InputError(f"{table.name} lack {len(unlabelled):,} images of the source: '{unlabelled[0]}'")
    return [known[path] for path in paths]


def parse_groups(paths: Sequence[str], rule: str) -> list[str]:
    """The group of each image: its folder if the rule is `parent`, else what a regular expression captures first.

    The expression is searched for in the path; without a capture it is its whole match. An image that it is not found
    in is a group of its own.

    Raises UsageError if it is no regular expression.
    """
    if rule == "parent":
        return parent_folders(paths)
    expression = UserRegex(rule, f"group_by '{rule}'")
    found = ((path, expression.extract(path)) for path in paths)
    # No captured text has a NUL, so that a lone image meets no group of its name.
    return [f"\0{path}" if captured is None else captured for path, captured in found]


def find_apparent_groups(paths: Sequence[str]) -> list[list[int]]:
    """The places of images whose names look as if they belonged together, as APPARENT has it; none unless most do.

    Names that say no more than the folders, and those of more than a tenth of all images, are of something else.
    """
    members: dict[str, list[int]] = {}
    for place, name in enumerate(parse_groups(paths, APPARENT_GROUP_PATTERN)):
        members.setdefault(name, []).append(place)
    groups = [places for places in members.values() if len(places) > 1]
    told = len(groups) >= max(MIN_APPARENT_GROUPS, 2 * len(set(parent_folders(paths)))) and 2 * sum(
        map(len, groups)
    ) >= len(paths)
    return groups if told and 10 * max(map(len, groups)) <= len(paths) else []


def resolve_classes(listing: Listing, paths: Sequence[str], options: Options) -> list[str]:
    """The class of each image. Raises InputError for labels that do not fit."""
    if isinstance(options.labels, Labels):
        return look_up_labels(paths, options.labels)
    if options.labels is None:
        return parse_classes(paths, options.stratify_by)
    return read_labels(listing, paths, options.labels)


def check_classes(paths: Sequence[str], classes: Sequence[str], options: Options) -> None:
    """Raise UsageError if all images are of one class, so that there is nothing to stratify."""
    if len({*classes}) != 1:
        return
    remedy = "leave out --stratify, or give other classes by --labels FILE"
    if options.labels is None:
        many = len({*parent_folders(paths)})
        found = f"--stratify-by parent (finds {many:,})" if many > 1 else "--stratify-by REGEX"
        remedy = f"give other classes by {found} or --labels FILE, or leave out --stratify"
    raise UsageError(f"all images are of one class, '{classes[0]}', so that --stratify does nothing: {remedy}")
