"""Estimate metrics over the whole dataset from results on a subset."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from posixpath import normpath
from typing import TYPE_CHECKING, Any

from imgsubset.annotations.classes import check_classes, parse_groups, resolve_classes
from imgsubset.annotations.model_results import AnyModelResults, ModelResults, read_model_results
from imgsubset.devices import run_with_cpu_fallback, single_threaded
from imgsubset.errors import InputError, UsageError, shorten
from imgsubset.features.load import SourceFeatures
from imgsubset.inputs import EmbeddingsLike, convert_value
from imgsubset.options import Options
from imgsubset.progress import Clock, Progress, as_progress
from imgsubset.results.records import Difference, Estimate, Estimated, Selection
from imgsubset.sources.python_sources import AnySource, make_relative
from imgsubset.tasks.existing_subset import ExistingSubset, SubsetMembers, resolve_subset
from imgsubset.tasks.inputs import check_callable

if TYPE_CHECKING:
    from torch import Tensor

    from imgsubset.features.random_cnn import Extractor

ESTIMATE_FIELDS = ("subset", "value", "error", "low", "high", "equivalent")  # of an Estimate
MAX_COMPARED_RESULTS = 12  # results of a kind, each of which is compared with each
ClassesAndGroups = tuple["list[str] | None", "list[str] | None"]  # the class, and the group, of each image of a source


def estimate(
    source: AnySource,
    subset: AnySource | Selection,
    results: AnyModelResults,
    options: Options | None = None,
    *,
    columns: Sequence[str] = (),
    skip_foreign: bool = False,
    extractor: Extractor | None = None,
    embeddings: EmbeddingsLike = None,
    progress: Progress | bool = False,
    **words: Any,
) -> Estimated:
    """Estimate means of results over all images of a source from those on a subset, see `statistics.estimation`.

    What is known of all images, the features that the subset was matched in and what `match` adds, makes the estimates
    more exact than the plain means, and says how exact they are.

    source        as in `select`
    subset        as in `score`, or what `select` gave. If this program chose it, its manifest says how; of others
                  `stratify` and `group_by` say how they were drawn at random
    results       a table with a row an image, its path in the first column or one called path, file or image, and
                  columns of numbers; or a dict of lists by name, in the order of `Selection.indices`, or of the list
                  that the subset is, or of its sorted paths; or a dict of numbers by path
    columns       which of them; () for all
    options       None: those in the manifest of the subset
    words         options by name, which go before all others

    Raises UsageError, InputError or, with options.strict, BadFilesError. Images of the subset without a result are an
    InputError.
    """
    tell = as_progress(progress)
    check_callable(extractor=extractor)
    skip_foreign = convert_value("skip_foreign", "bool", skip_foreign)
    wanted = convert_value("columns", "tuple[str, ...]", (columns,) if isinstance(columns, str) else columns)
    clock = Clock()
    with clock.stage("list"):
        outcomes = read_model_results(results, wanted)
        if isinstance(subset, Selection):
            members: AnySource = subset.source.restrict_to(subset.chosen)
            options = options or subset.options
        else:
            members = subset
        asked = resolve_subset(source, members, options, embeddings, words, drawn=True)
        drawn = asked.options
        if drawn.stratify and asked.manifest is None:
            with suppress(InputError):  # labels may lack images that cannot be decoded
                check_classes(asked.listing.paths, resolve_classes(asked.listing, asked.listing.paths, drawn), drawn)

    def work(device: str, notes: tuple[str, ...]) -> Estimated:
        read, matched = asked.read(device, clock, tell, skip_foreign=skip_foreign, extractor=extractor, measured=False)
        estimated = _estimate_results(outcomes, asked, read, matched, clock)
        estimated = replace(estimated, warnings=estimated.warnings + notes)
        return replace(estimated, subset="the selection", chosen=True) if isinstance(subset, Selection) else estimated

    return run_with_cpu_fallback(asked.options.device, work, asked.options.workers)


def _estimate_results(
    outcomes: ModelResults, asked: ExistingSubset, source: SourceFeatures, matched: SubsetMembers, clock: Clock
) -> Estimated:
    with clock.stage("estimate"):
        results, lined = align_results(outcomes, matched, source)
        drawn, lone = _resolve_classes_and_groups(asked.options, source, matched)
        pairs, many = _pair_results(results)
        found, differences = _compute_estimates(results, pairs, source, matched, drawn)
    n, total = len(matched.rows), len(source.paths)
    return Estimated(
        source=source.listing,
        subset=asked.name,
        paths=tuple(source.paths[row] for row in matched.rows),
        total=total,
        chosen=asked.manifest is not None and len(asked.manifest.hashes) == n,
        estimates=found,
        differences=differences,
        foreign=matched.foreign,
        rejected=source.rejected,
        warnings=(*source.warnings, *outcomes.notes, *lined, *lone, *many, *_constant_result_notes(found, n, total)),
        options=asked.options,
        device=source.device,
        seconds=clock.seconds,
    )


def _resolve_classes_and_groups(
    wanted: Options, source: SourceFeatures, matched: SubsetMembers
) -> tuple[ClassesAndGroups, list[str]]:
    """By what the subset was drawn, and what a user should know.

    Raises InputError for fewer than two of what was drawn.
    """
    classes = resolve_classes(source.listing, source.paths, wanted) if wanted.stratify else None
    groups = parse_groups(source.paths, wanted.group_by) if wanted.group_by else None
    units = matched.rows if groups is None else {groups[row] for row in matched.rows}
    if len(units) < 2:
        what = "image" if groups is None else "group"
        raise InputError(f"the subset is one {what}; how exact an estimate is shows in two at least")
    counts = Counter(classes[row] for row in matched.rows) if classes else Counter[str]()
    few = [name for name in {*(classes or ())} if counts[name] < 2]
    notes = [f"{len(few):,} of the classes have fewer than two images in the subset, and no mean of their own"]
    return (classes, groups), notes if few else []


def _compute_estimates(
    results: dict[str, list[float]],
    pairs: list[tuple[str, str]],
    source: SourceFeatures,
    matched: SubsetMembers,
    drawn: ClassesAndGroups,
) -> tuple[tuple[Estimate, ...], tuple[Difference, ...]]:
    """Of each result, and of the difference of each pair."""
    import torch

    from imgsubset.statistics.estimation import compute_covariates, estimate_means

    columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in results.items()}
    values = torch.stack([*columns.values(), *(columns[one] - columns[other] for one, other in pairs)], 1)
    known, rows = compute_covariates(source.blocks), torch.tensor(matched.rows)
    shares = torch.tensor([*map(_is_binary, results.values()), *(False for _ in pairs)])
    with single_threaded():  # so that sums have one order
        classes, groups = map(_encode_names, drawn)
        found = estimate_means(values, known, rows, classes, groups, shares)
    fields = [getattr(found, name).tolist() for name in ("mean", "value", "error", "low", "high", "equivalent")]
    made = [
        dict(zip(ESTIMATE_FIELDS, (*numbers, equal if math.isfinite(equal) else None), strict=True))
        for *numbers, equal in zip(*fields, strict=True)
    ]
    return (
        tuple(Estimate(name=name, **one) for name, one in zip(results, made, strict=False)),
        tuple(
            Difference(name=f"{one} - {other}", first=one, second=other, **numbers)
            for (one, other), numbers in zip(pairs, made[len(results) :], strict=True)
        ),
    )


def _pair_results(results: dict[str, list[float]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Each two results of a kind: both are of zeros and ones, or both are not. And what to know of too many."""
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for name, values in results.items():
        kinds[_is_binary(values)].append(name)
    many = max(map(len, kinds.values()))
    notes = [f"{many:,} results are too many to compare each with each; {MAX_COMPARED_RESULTS} are the most"]
    pairs = [pair for names in kinds.values() if len(names) <= MAX_COMPARED_RESULTS for pair in combinations(names, 2)]
    return pairs, notes if many > MAX_COMPARED_RESULTS else []


def _is_binary(values: Sequence[float]) -> bool:
    return {*values} <= {0.0, 1.0}


def _encode_names(names: list[str] | None) -> Tensor | None:
    import torch

    numbers: dict[str, int] = {}
    return None if names is None else torch.tensor([numbers.setdefault(name, len(numbers)) for name in names])


def _constant_result_notes(found: Sequence[Estimate], n: int, total: int) -> list[str]:
    """What to know of results that are 0, or 1, of all of a subset: the interval tells nothing of what was missed.

    Of n random images none is of a kind whose share is above 1 - 0.05^(1 / n), but in 5 of 100 cases.
    """
    names = [one.name for one in found if one.error == 0 and one.subset in (0, 1)]
    if not names or n == total:
        return []
    these, missed = shorten(", ".join(map(repr, names)), 300), 1 - 0.05 ** (1 / n)
    return [f"{these}: all {n:,} images are alike; up to {missed:.2g} of the whole may be otherwise and not show"]


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
