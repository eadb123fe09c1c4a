"""Choosing n images of a source: the stages in their order, and the whole way into a destination."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imgsubset.annotations.classes import check_classes, resolve_classes
from imgsubset.devices import run_with_cpu_fallback
from imgsubset.errors import InputError
from imgsubset.features.load import SourceFeatures, load_features
from imgsubset.inputs import Embeddings, EmbeddingsLike, as_float, convert_value
from imgsubset.options import Options, merge_options
from imgsubset.progress import Clock, Progress, as_progress
from imgsubset.results.as_json import describe_selection, make_request
from imgsubset.results.records import Placed, Selection
from imgsubset.sources.images import Listing
from imgsubset.sources.python_sources import AnySource
from imgsubset.tasks.inputs import (
    check_callable,
    check_n,
    is_auto,
    parse_destination,
    required_feature_views,
    resolve_inputs,
    resolve_n,
)
from imgsubset.tasks.score import check_gates
from imgsubset.tasks.search import Run, StopCheck, make_selection, never_stop, search_n, search_smallest_n
from imgsubset.writing.destination import (
    check_destination_free,
    find_finished_export,
    has_interrupted_export,
    open_destination,
)
from imgsubset.writing.export import check_mode, export_to_locked

if TYPE_CHECKING:  # torch takes two seconds to import: the decoding processes work meanwhile
    from imgsubset.features.random_cnn import Extractor
    from imgsubset.tasks.constraints import SelectionConstraints


def select(
    source: AnySource,
    n: int | str,
    options: Options | None = None,
    *,
    extractor: Extractor | None = None,
    embeddings: EmbeddingsLike = None,
    evidence: bool = False,
    stop: StopCheck = never_stop,
    progress: Progress | bool = False,
    **words: Any,
) -> Selection:
    """Find the n images of a source whose distribution is closest to that of all of them. Copies nothing.

    source      a folder, searched with the folders in it; an archive, a pattern or list of archives, a Parquet table, a
                URL of these; a text file or list of paths; or a data set: one whose `.samples` or `.imgs` are (path,
                class), such as torchvision's ImageFolder, one whose items are (picture, class), or Hugging Face's. Its
                classes serve stratify
    n           a number, a percentage such as '10%', or 'auto', which aims at options.target_loss or target_size
    extractor   feature maps instead of the random CNN's: uint8 pixels (B, H, W, 3) to float maps (B, C, h, w)
    embeddings  features computed elsewhere, in place of decoding: Embeddings; or an array, a tensor or a .npy file
                (images, dimensions) in the order of the list or data set
    evidence    gather what a report shows, see `write_report`
    stop        asked several times a second, during the search, whether to end it with the best so far
    progress    True shows bars; a function is told, see `imgsubset.progress.Progress`
    words       options by name, which go before those in `options`; see `Options`

    `Selection.indices` are positions in the list or data set.

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    options, tell = merge_options(options, words), as_progress(progress)
    check_n(n, options)
    check_callable(extractor=extractor, stop=stop)
    clock = Clock()
    with clock.stage("list"):
        listing, options, embeddings = resolve_inputs(source, options, embeddings)
    if listing.paths and embeddings is None:
        resolve_n(n, len(listing.paths))

    def work(device: str, notes: tuple[str, ...]) -> Selection:
        read, allowed = prepare_search(
            listing,
            options,
            device,
            extractor=extractor,
            embeddings=embeddings,
            clock=clock,
            progress=tell,
            n=lambda usable: None if is_auto(n) else resolve_n(n, usable),
        )
        return _search_and_record(read, allowed, n, Run(options, embeddings, clock, stop, tell, notes, evidence))

    return run_with_cpu_fallback(options.device, work, options.workers)


def select_into(
    source: AnySource,
    n: int | str,
    destination: str | os.PathLike[str] | None,
    options: Options | None = None,
    *,
    mode: str = "copy",
    overwrite: bool = False,
    ranked: bool = False,
    max_loss: float | None = None,
    min_size: float | None = None,
    embeddings: EmbeddingsLike = None,
    evidence: bool = False,
    stop: StopCheck = never_stop,
    progress: Progress | bool = False,
    **words: Any,
) -> Placed:
    """Select, and export into a destination, unless that holds the very result already: what `imgsubset select` does.

    destination  a folder or an archive, see `export`; None selects and writes nothing
    mode         see `export`, as for overwrite and ranked
    max_loss     of a subset that is to be written; min_size is the least size that it may have

    Raises what `select` and `export` do, and GateError, which holds the result, for a loss above `max_loss` or a
    size below `min_size`: then nothing is written.
    """
    options, tell = merge_options(options, words), as_progress(progress)
    check_n(n, options)
    check_mode(mode)
    destination, overwrite = parse_destination(destination), convert_value("overwrite", "bool", overwrite)
    ranked = convert_value("ranked", "bool", ranked)
    max_loss, min_size = (
        None if least is None else as_float(convert_value(name, "float", least))
        for name, least in (("max_loss", max_loss), ("min_size", min_size))
    )
    listing, options, embeddings = resolve_inputs(source, options, embeddings)
    with ExitStack() as stack:
        held = None if destination is None else stack.enter_context(open_destination(listing, destination, mode))
        if held is not None:
            described = embeddings.describe() if embeddings else None
            wanted = make_request(str(n), options, described, mode, ranked)
            if not overwrite and (earlier := find_finished_export(listing, wanted, options, held.path)):
                placed = Placed(earlier.record, held.path, None, None)
                check_gates(placed.loss, placed.effective_size, max_loss, min_size, placed)
                return placed
            overwrite = overwrite or has_interrupted_export(
                wanted, held.path
            )  # the best so far of this request gives way
            check_destination_free(held, overwrite)
        selection = select(listing, n, options, embeddings=embeddings, evidence=evidence, stop=stop, progress=tell)
        placed = Placed(describe_selection(selection, ranked=ranked), None, selection, None)
        check_gates(placed.loss, placed.effective_size, max_loss, min_size, placed)
        if held is None:
            return placed
        exported = export_to_locked(held, selection, mode=mode, overwrite=overwrite, ranked=ranked, progress=tell)
        return Placed(describe_selection(selection, exported, ranked=ranked), exported.destination, selection, exported)


def prepare_search(
    listing: Listing,
    options: Options,
    device: str,
    *,
    extractor: Extractor | None = None,
    embeddings: Embeddings | None,
    clock: Clock,
    progress: Progress,
    n: Callable[[int], int | None],
) -> tuple[SourceFeatures, SelectionConstraints]:
    """The standardised source, and what may be chosen of it.

    n  how many images the subset will have, of so many usable ones; None if that is not known yet
    """
    wanted = options
    if wanted.stratify:  # before any image is decoded; labels may lack images that cannot be
        with suppress(InputError):
            check_classes(listing.paths, resolve_classes(listing, listing.paths, wanted), wanted)
    read = load_features(
        listing,
        options,
        device,
        extractor=extractor,
        embeddings=embeddings,
        seen=required_feature_views(options),
        clock=clock,
        progress=progress,
    )
    with clock.stage("constraints"):
        from imgsubset.tasks.constraints import resolve_constraints
        from imgsubset.tasks.match_terms import add_match_blocks

        read = add_match_blocks(read, options, n(len(read.paths))).standardise()
        return read, resolve_constraints(read, options)


def _search_and_record(source: SourceFeatures, allowed: SelectionConstraints, n: int | str, run: Run) -> Selection:
    if not is_auto(n):
        wanted = resolve_n(n, len(source.paths))
        result = search_n(source, allowed, wanted, run)
        return make_selection(source, allowed, result, str(n), run, group_notes(allowed, wanted, result.n))
    result, attempts, missed = search_smallest_n(source, allowed, run)
    notes = (f"the target is not met by the {result.n:,} images that may be chosen",) if missed else ()
    selection = make_selection(source, allowed, result, str(n), run, notes)
    trace = tuple(point for attempt in attempts for point in attempt.found.trace)
    return replace(selection, trace=trace, interrupted=any(attempt.found.stopped for attempt in attempts))


def group_notes(allowed: SelectionConstraints, wanted: int, n: int) -> tuple[str, ...]:
    """How near whole groups come to the number that was asked for."""
    if allowed.groups is None:
        return ()
    met = "as asked for" if n == wanted else f"as near to the {wanted:,} asked for as whole groups come"
    return (f"{n:,} images in whole groups, {met}",)
