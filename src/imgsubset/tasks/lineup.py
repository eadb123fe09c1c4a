"""Which result belongs to which image of a subset."""

from __future__ import annotations

import os
from posixpath import normpath

from imgsubset.errors import InputError, UsageError, shorten
from imgsubset.features.source import SourceFeatures
from imgsubset.reading.given import make_relative
from imgsubset.reading.outcomes import ModelResults
from imgsubset.tasks.matching import SubsetMembers


def align_results(
    outcomes: ModelResults, matched: SubsetMembers, source: SourceFeatures
) -> tuple[dict[str, list[float]], list[str]]:
    """The results by name, in the order of the subset's rows, and what a user should know.

    Raises InputError for images of the subset that have no result or several, naming the first, UsageError for lists of
    another length.
    """
    found, notes = (
        _align_by_order(outcomes, matched) if outcomes.paths is None else _align_by_path(outcomes, matched, source)
    )
    if missing := [row for row in matched.rows if row not in found]:
        some = f"{len(missing):,} of the {len(matched.rows):,} images of the subset"
        about = "" if found or not outcomes.paths else f"; they begin with '{shorten(outcomes.paths[0], 300)}'"
        raise InputError(f"{outcomes.name} lack {some}, the first of them '{source.paths[missing[0]]}'{about}")
    return {name: [values[found[row]] for row in matched.rows] for name, values in outcomes.columns.items()}, notes


def _align_by_order(outcomes: ModelResults, matched: SubsetMembers) -> tuple[dict[int, int], list[str]]:
    if len(outcomes.places) != len(matched.order):
        raise UsageError(
            f"there are {len(outcomes.places):,} results for the {len(matched.order):,} images of the subset"
        )
    members = [(path, place) for place, path in enumerate(matched.order) if path in matched.places]
    return {matched.places[path]: place for path, place in reversed(members)}, []  # of one listed twice, the first


def _align_by_path(
    outcomes: ModelResults, matched: SubsetMembers, source: SourceFeatures
) -> tuple[dict[int, int], list[str]]:
    """Paths may be those of the subset or of the source; from there or from the current folder."""
    rows, here = {path: row for row, path in enumerate(source.paths)}, frozenset(matched.rows)
    known = frozenset(rows)
    found: dict[int, int] = {}
    extra = []
    for place, written in enumerate(outcomes.paths or ()):
        path = normpath(written.strip())
        row = matched.places.get(path)
        if row is None:
            row = matched.places.get(os.path.relpath(path, matched.root))
        if row is None:
            row = rows.get(make_relative(path, source.listing, known))
        if row is None or row not in here:
            extra.append(written)
        elif (first := found.setdefault(row, place)) != place:
            where = f"{outcomes.places[first]} and {outcomes.places[place]}"
            raise InputError(f"{outcomes.name} have two rows of '{source.paths[row]}', in {where}")
    if not extra:
        return found, []
    several = f"are {len(extra):,} rows" if len(extra) > 1 else "is a row"
    example = shorten(extra[0], 300)
    return found, [f"there {several} of {outcomes.name} about no image of the subset, such as '{example}'"]
