"""Several disjoint subsets of a source, each matching the whole: training, validation and test sets.

The parts are found one after another in what is left. Of 10,000 CIFAR images two parts of 1,000 came out at losses of
0.021 and 0.022, and a lone selection of 1,000 at 0.022: exchanging members between parts would have nothing to gain.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from posixpath import basename
from typing import TYPE_CHECKING, Any

from imgsubset.annotations.classes import APPARENT_GROUP_PATTERN, find_apparent_groups
from imgsubset.devices import run_with_cpu_fallback
from imgsubset.errors import InputError, OutputError, UsageError
from imgsubset.inputs import EmbeddingsLike, convert_value
from imgsubset.options import Options, merge_options
from imgsubset.progress import Clock, Progress, as_progress
from imgsubset.results.as_json import describe_selection, make_request
from imgsubset.results.records import Placed, Selection
from imgsubset.sources.python_sources import AnySource
from imgsubset.tasks.inputs import (
    UNLIMITED_IMAGES,
    check_callable,
    parse_destination,
    resolve_inputs,
    resolve_part_sizes,
)
from imgsubset.tasks.search import Run, StopCheck, evaluate_rows, make_selection, never_stop, search_n
from imgsubset.tasks.select import group_notes, prepare_search
from imgsubset.writing.destination import (
    check_destination_free,
    find_finished_export,
    has_interrupted_export,
    open_destination,
    prepare_split_data_yaml,
    write_split_data_yaml,
)
from imgsubset.writing.export import check_mode, export_to_locked
from imgsubset.writing.lock import LockedDestination
from imgsubset.writing.manifest import has_tar_name

if TYPE_CHECKING:  # torch takes two seconds to import: the decoding processes work meanwhile
    from imgsubset.decoding.thumbnails import JpegThumbnail
    from imgsubset.tasks.constraints import SelectionConstraints

Parts = Mapping[str, "int | str"]


def split(
    source: AnySource,
    parts: Parts,
    options: Options | None = None,
    *,
    embeddings: EmbeddingsLike = None,
    evidence: bool = False,
    stop: StopCheck = never_stop,
    progress: Progress | bool = False,
    **words: Any,
) -> dict[str, Selection]:
    """Split a source into disjoint subsets, each as close to the whole as `select` makes one.

    parts  sizes by name, numbers or percentages; 100 % in all cover the source. With groups they are met as closely
           as whole groups allow

    The smallest part is searched first, each of the others in what is left, and where the parts cover all that may be
    chosen, the largest gets the rest. Options are as in `select`: with stratify every part keeps the classes' shares.

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    options, tell = merge_options(options, words), as_progress(progress)
    _check_parts(parts, options)
    check_callable(stop=stop)
    clock = Clock()
    with clock.stage("list"):
        listing, options, embeddings = resolve_inputs(source, options, embeddings)

    def work(device: str, notes: tuple[str, ...]) -> dict[str, Selection]:
        smallest = partial(_smallest_part_size, parts)
        read, allowed = prepare_search(
            listing, options, device, embeddings=embeddings, clock=clock, progress=tell, n=smallest
        )
        _, most = allowed.bounds()
        sizes = resolve_part_sizes(parts, most)
        covering = sum(sizes.values()) == most
        taken: set[int] = set()
        found: dict[str, Selection] = {}
        pictures: dict[int, JpegThumbnail] = {}
        for place, name in enumerate(sorted(sizes, key=lambda name: sizes[name])):
            rest = allowed.rest(taken)
            if not len(rest):  # groups came larger than asked for
                raise InputError(f"no whole group is left for part '{name}={parts[name]}'")
            run = Run(options, embeddings, clock, stop, _prefix_progress(name, tell), notes, evidence, pictures)
            if covering and place == len(sizes) - 1:
                result = evaluate_rows(read, rest, run)
            else:
                result = search_n(read, allowed, min(sizes[name], len(rest)), run, taken=taken)
            more = group_notes(allowed, sizes[name], result.n)
            selection = make_selection(read, allowed, result, _describe_request(name, parts), run, more)
            # What an interrupted part leaves is not what the full one will leave.
            cut_off = selection.interrupted or any(part.interrupted for part in found.values())
            found[name] = replace(selection, interrupted=cut_off)
            taken.update(found[name].rows)
        more = _split_notes(parts, found, allowed, most)
        return {name: replace(found[name], warnings=found[name].warnings + more) for name in parts}

    return run_with_cpu_fallback(options.device, work, options.workers)


def split_into(
    source: AnySource,
    parts: Parts,
    destination: str | os.PathLike[str] | None,
    options: Options | None = None,
    *,
    mode: str = "copy",
    overwrite: bool = False,
    embeddings: EmbeddingsLike = None,
    evidence: bool = False,
    stop: StopCheck = never_stop,
    progress: Progress | bool = False,
    **words: Any,
) -> dict[str, Placed]:
    """Split, and export each part into the folder of its name in a destination, unless it is there already.

    The parts of a YOLO set that are called train, val and test get a description, with the names of the classes, beside
    them: its trainers take it as it is. A part that is called train.tar, or the like, becomes a tar archive.

    destination  None splits and writes nothing; the other arguments are those of `split` and `export`

    Raises what `split` and `export` do, and OutputError if parts that are there already are not of this split, as
    happens with a time limit: parts of two splits may share images.
    """
    options, tell = merge_options(options, words), as_progress(progress)
    _check_parts(parts, options)
    check_mode(mode)
    destination, overwrite = _parse_split_destination(destination), convert_value("overwrite", "bool", overwrite)
    listing, options, embeddings = resolve_inputs(source, options, embeddings)
    described = embeddings.describe() if embeddings else None
    with ExitStack() as stack:
        ready: dict[str, Placed] = {}
        replaced: dict[str, tuple[LockedDestination, bool]] = {}
        for name in () if destination is None else parts:
            held = stack.enter_context(open_destination(listing, Path(str(destination), name), mode))
            wanted = make_request(_describe_request(name, parts), options, described, mode, ranked=False)
            if not overwrite and (earlier := find_finished_export(listing, wanted, options, held.path)):
                ready[name] = Placed(earlier.record, held.path, None, None)
            else:
                replaced[name] = held, overwrite or has_interrupted_export(wanted, held.path)
                check_destination_free(*replaced[name])
        if len(ready) == len(parts):
            return ready
        beside = destination if options.sidecars != "none" else None
        if beside is not None:
            prepare_split_data_yaml(listing, dict.fromkeys(parts, ()), beside, overwrite)
        found = split(listing, parts, options, embeddings=embeddings, evidence=evidence, stop=stop, progress=tell)
        _check_same(ready, found)
        placed = {
            name: replace(ready[name], selection=selection)
            if name in ready
            else _export_part(selection, replaced.get(name), mode, tell)
            for name, selection in found.items()
        }
        if beside is not None:
            chosen = {name: part.chosen for name, part in found.items()}
            write_split_data_yaml(prepare_split_data_yaml(listing, chosen, beside, overwrite))
        return placed


def _export_part(
    selection: Selection, place: tuple[LockedDestination, bool] | None, mode: str, progress: Progress
) -> Placed:
    """A part that is written, if it has a folder; beside that, whether it replaces what is there."""
    if place is None:
        return Placed(describe_selection(selection), None, selection, None)
    held, overwrite = place
    exported = export_to_locked(held, selection, mode=mode, overwrite=overwrite, progress=progress)
    return Placed(describe_selection(selection, exported), exported.destination, selection, exported)


def _check_same(ready: Mapping[str, Placed], found: Mapping[str, Selection]) -> None:
    for name, part in ready.items():
        if part.chosen != found[name].chosen:
            raise OutputError(f"'{part.destination}' holds part of another split; --overwrite replaces all parts")


def _split_notes(
    parts: Parts, found: Mapping[str, Selection], allowed: SelectionConstraints, most: int
) -> tuple[str, ...]:
    """What to know about all parts: what percentages are of, and what they share that belongs together."""
    notes: tuple[str, ...] = ()
    part_of = {row: name for name, part in found.items() for row in part.rows}
    first = next(iter(found.values()))
    total = len(first.paths)
    if most < total and any(str(size).endswith("%") for size in parts.values()):
        notes += (f"percentages are of the {most:,} images that may be chosen, of {total:,}",)
    if torn := _count_divided_sets(allowed.duplicate_sets, part_of):
        advice = "--dedupe chooses one of each"
        notes += (
            f"{torn:,} of {len(allowed.duplicate_sets):,} sets of exact copies are in more than one part; {advice}",
        )
    groups = find_apparent_groups(first.paths) if allowed.groups is None else []
    if torn := _count_divided_sets(groups, part_of):
        example = basename(first.paths[groups[0][0]])
        notes += (
            f"names such as '{example}' look like {len(groups):,} groups, of which {torn:,} are in more than one part; "
            f"if their images belong together, --group-by '{APPARENT_GROUP_PATTERN}' keeps them so",
        )
    return notes


def _count_divided_sets(groups: Sequence[Sequence[int]], part_of: Mapping[int, str]) -> int:
    """How many groups of rows are in more than one part."""
    return sum(len({part_of[row] for row in rows if row in part_of}) > 1 for rows in groups)


def _smallest_part_size(parts: Parts, usable: int) -> int:
    return min(resolve_part_sizes(parts, usable).values())


def _check_parts(parts: Parts, options: Options) -> None:
    if options.has_target or options.keep:
        raise UsageError("a split takes neither a target loss or size, nor images to keep")
    resolve_part_sizes(parts, UNLIMITED_IMAGES)


def _parse_split_destination(destination: str | os.PathLike[str] | None) -> str | None:
    """The name of the folder for all parts. Raises UsageError for one archive: trainers take one for each part."""
    found = parse_destination(destination)
    if found is not None and has_tar_name(found):
        raise UsageError(
            f"destination '{found}' is one archive, and a split is several subsets: choose a folder, and for "
            "an archive a part call the parts so, as in train.tar=80%"
        )
    return found


def _describe_request(name: str, parts: Parts) -> str:
    """What a part's manifest says was asked for."""
    return f"{name} of {' '.join(f'{part}={size}' for part, size in parts.items())}"


def _prefix_progress(part: str, progress: Progress) -> Progress:
    def told(stage: str, done: int, total: int, note: str = "") -> None:
        progress(f"{part}: {stage}", done, total, note)

    return told
