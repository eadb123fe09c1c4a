"""What belongs together: the class and the group of each image, from its path or from a file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from imgsubset.errors import InputError
from imgsubset.files import read_named
from imgsubset.reading.patterns import Expression


def class_names(paths: Sequence[str], labels: str | os.PathLike[str] | None = None) -> list[str]:
    """The class of each image: the first folder in its path ('.' where there is none), or its label in a CSV file.

    labels  a file with a header and columns `path`, relative to the source, and `label`; it may list other paths too

    Raises InputError if the file cannot be read as that, or lacks an image.
    """
    if labels is None:
        return [path.split("/", 1)[0] if "/" in path else "." for path in paths]
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
        return [str(PurePosixPath(path).parent) for path in paths]
    expression = Expression(rule, f"group_by '{rule}'")
    found = ((path, expression.captured_from(path)) for path in paths)
    # No captured text has a NUL, so that a lone image meets no group of its name.
    return [f"\0{path}" if captured is None else captured for path, captured in found]
