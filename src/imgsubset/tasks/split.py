"""Several disjoint subsets of a source, each matching the whole: training, validation and test sets.

The parts are found one after another in what is left. Of 10,000 CIFAR images two parts of 1,000 came out at losses of
0.021 and 0.022, and a lone selection of 1,000 at 0.022: exchanging members between parts would have nothing to gain.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgsubset.devices import or_on_cpu
from imgsubset.errors import InputError, OutputError, UsageError
from imgsubset.options import Embeddings, Options, merged
from imgsubset.progress import Clock, Progress, silent
from imgsubset.reading.filters import list_candidates
from imgsubset.reading.listing import AnySource
from imgsubset.results.as_json import describe, request
from imgsubset.results.records import Placed, Selection
from imgsubset.tasks.searching import Run, Stop, given_rows, never, new_generator, of_size, selection_of
from imgsubset.tasks.select import group_notes, prepared
from imgsubset.tasks.sizes import ANY, part_sizes
from imgsubset.writing.destination import check_free, finished, held_for, interrupted
from imgsubset.writing.export import check_mode, fill
from imgsubset.writing.holding import Held

Parts = Mapping[str, "int | str"]


def split(
    source: AnySource,
    parts: Parts,
    options: Options | None = None,
    *,
    embeddings: Embeddings | None = None,
    stop: Stop = never,
    progress: Progress = silent,
    **words: Any,
) -> dict[str, Selection]:
    """Split a source into disjoint subsets, each as close to the whole as `select` makes one.

    parts  sizes by name, numbers or percentages; 100 % in all cover the source. With groups they are met as closely
           as whole groups allow

    The smallest part is searched first, each of the others in what is left, and where the parts cover all that may be
    chosen, the largest gets the rest. Options are as in `select`: with stratify every part keeps the classes' shares.

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    options = merged(options, words)
    _check(parts, options)
    clock = Clock()
    with clock.stage("list"):
        listing = list_candidates(source, options.reading)

    def work(device: str, notes: tuple[str, ...]) -> dict[str, Selection]:
        read, allowed = prepared(listing, options, device, embeddings=embeddings, clock=clock, progress=progress)
        _, most = allowed.bounds()
        sizes = part_sizes(parts, most)
        covering = sum(sizes.values()) == most
        taken: set[int] = set()
        found: dict[str, Selection] = {}
        for place, name in enumerate(sorted(sizes, key=lambda name: sizes[name])):
            rest = allowed.rest(taken)
            if not len(rest):  # groups came larger than asked for
                raise InputError(f"no whole group is left for part '{name}={parts[name]}'")
            run = Run(options, embeddings, clock, stop, _named(name, progress), notes)
            if covering and place == len(sizes) - 1:
                result = given_rows(read, rest, run)
            else:
                generator = new_generator(read, options.search)
                result = of_size(read, allowed, min(sizes[name], len(rest)), run, generator, taken=taken)
            more = group_notes(allowed, sizes[name], result.n)
            selection = selection_of(read, allowed, result, _asked(name, parts), run, more)
            # What an interrupted part leaves is not what the full one will leave.
            cut_off = selection.interrupted or any(part.interrupted for part in found.values())
            found[name] = replace(selection, interrupted=cut_off)
            taken.update(found[name].indices)
        return {name: found[name] for name in parts}

    return or_on_cpu(options.running.device, work)


def split_into(
    source: AnySource,
    parts: Parts,
    destination: str | os.PathLike[str] | None,
    options: Options | None = None,
    *,
    mode: str = "copy",
    overwrite: bool = False,
    embeddings: Embeddings | None = None,
    stop: Stop = never,
    progress: Progress = silent,
    **words: Any,
) -> dict[str, Placed]:
    """Split, and export each part into the folder of its name in a destination, unless it is there already.

    destination  None splits and writes nothing; the other arguments are those of `split` and `export`

    Raises what `split` and `export` do, and OutputError if parts that are there already are not of this split, as
    happens with a time limit: parts of two splits may share images.
    """
    options = merged(options, words)
    _check(parts, options)
    check_mode(mode)
    listing = list_candidates(source, options.reading)
    described = embeddings.describe() if embeddings else None
    with ExitStack() as stack:
        ready: dict[str, Placed] = {}
        replaced: dict[str, tuple[Held, bool]] = {}
        for name in () if destination is None else parts:
            assert destination is not None
            held = stack.enter_context(held_for(listing, Path(destination, name)))
            wanted = request(_asked(name, parts), options, described, mode, ranked=False)
            if not overwrite and (earlier := finished(listing, wanted, options.reading, held.path)):
                ready[name] = Placed(earlier.record, held.path, None, None)
            else:
                replaced[name] = held, overwrite or interrupted(wanted, held.path)
                check_free(*replaced[name])
        if len(ready) == len(parts):
            return ready
        found = split(listing, parts, options, embeddings=embeddings, stop=stop, progress=progress)
        for name, part in ready.items():
            if part.chosen != found[name].chosen:
                raise OutputError(f"'{part.destination}' holds part of another split; --overwrite replaces all parts")
        placed = {}
        for name, selection in found.items():
            exported = None
            if name in replaced:
                held, over = replaced[name]
                exported = fill(held, selection, mode=mode, overwrite=over, progress=progress)
            record = ready[name].record if name in ready else describe(selection, exported)
            folder = exported.destination if exported else ready[name].destination if name in ready else None
            placed[name] = Placed(record, folder, selection, exported)
        return placed


def _check(parts: Parts, options: Options) -> None:
    if options.search.has_target or options.constraints.keep:
        raise UsageError("a split takes neither a target loss or size, nor images to keep")
    part_sizes(parts, ANY)


def _asked(name: str, parts: Parts) -> str:
    """What a part's manifest says was asked for."""
    return f"{name} of {' '.join(f'{part}={size}' for part, size in parts.items())}"


def _named(part: str, progress: Progress) -> Progress:
    def told(stage: str, done: int, total: int, note: str = "") -> None:
        progress(f"{part}: {stage}", done, total, note)

    return told
