"""How close a subset is to its source."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsubset.devices import or_on_cpu
from imgsubset.errors import GateError, InputError, UsageError
from imgsubset.features.source import Source, first_of, read_source
from imgsubset.inputs import AnyEmbeddings, of_kind
from imgsubset.options import Options, merged
from imgsubset.progress import Clock, Progress, teller
from imgsubset.reading.filters import candidates
from imgsubset.reading.given import AnySource, list_source
from imgsubset.reading.listing import Listing
from imgsubset.results.records import Scored
from imgsubset.tasks.given import check_callable, given
from imgsubset.tasks.matching import Matched, match_files, match_manifest
from imgsubset.tasks.measuring import judges, score_of
from imgsubset.writing.manifest import NAME, read_manifest

if TYPE_CHECKING:
    from imgsubset.features.random_cnn import Extractor


def score(
    source: AnySource,
    subset: AnySource,
    options: Options | None = None,
    *,
    skip_foreign: bool = False,
    extractor: Extractor | None = None,
    embeddings: AnyEmbeddings = None,
    progress: Progress | bool = False,
    **words: Any,
) -> Scored:
    """Score a subset of a source, however it was made.

    source        as in `select`
    subset        a folder, the manifest.json of a selection, a text file of paths, or paths. Files are matched with
                  those of the source by content; paths start from the current folder or from the source
    options       None: those in the manifest of the subset if it has one, so that the loss is the one it reports
    skip_foreign  leave out the files of the subset that are not in the source, instead of raising
    words         options by name, which go before all others

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    options, tell = merged(options or recorded_options(subset), words), teller(progress)
    check_callable(extractor=extractor)
    skip_foreign = of_kind("skip_foreign", "bool", skip_foreign)
    clock = Clock()
    with clock.stage("list"):
        listing, options, embeddings = given(source, options, embeddings)
        if not isinstance(subset, (str, os.PathLike, Listing)):  # named one by one: none of them is left out
            subset = replace(list_source(subset)[0], reading=options.reading)

    def work(device: str, notes: tuple[str, ...]) -> Scored:
        read = read_source(
            listing, options, device, extractor=extractor, embeddings=embeddings, clock=clock, progress=tell
        ).standardised()
        if embeddings is None and _by_embeddings(subset):
            notes += ("the subset was chosen by embeddings; without them it is scored by the random CNN",)
        notes += _unread_manifest(subset)
        with clock.stage("match"):
            matched = _matched(subset, read, options, skip_foreign)
        return _scored(read, matched, _name(subset), options, clock, notes)

    return or_on_cpu(options.running.device, work, options.running.workers)


def _matched(subset: AnySource, source: Source, options: Options, skip_foreign: bool) -> Matched:
    """The members of the subset. Raises InputError if there are none, or foreign ones among them."""
    matched, name = _match(subset, source, options), _name(subset)
    if not matched.rows:
        raise InputError(f"no image of subset '{name}' is in source '{source.listing.name}'{first_of(matched.foreign)}")
    if matched.foreign and not skip_foreign:
        count = len(matched.foreign)
        raise InputError(
            f"{count:,} file{'s' if count > 1 else ''} of subset '{name}' {'are' if count > 1 else 'is'} not in "
            f"source '{source.listing.name}'{first_of(matched.foreign)}; --skip-foreign scores the others"
        )
    return matched


def _scored(
    source: Source, matched: Matched, subset: str, options: Options, clock: Clock, notes: tuple[str, ...]
) -> Scored:
    import torch

    from imgsubset.statistics.objective import objective

    with clock.stage("score"):
        n, weights = len(matched.rows), options.mix.weights
        goal = objective(source.blocks, n, weights)
        result = score_of(goal, judges(source, n, weights), torch.tensor([matched.rows], device=goal.device))
    return Scored(
        source=source.listing,
        subset=subset,
        paths=tuple(source.paths[row] for row in matched.rows),
        total=len(source.paths),
        score=result,
        foreign=matched.foreign,
        rejected=source.rejected,
        warnings=source.warnings + notes,
        options=options,
        size=source.size,
        device=source.device,
        seconds=clock.seconds,
    )


def check_gates(
    loss: float, size: float | None, max_loss: float | None, min_size: float | None, result: object = None
) -> None:
    """Raise GateError, which holds the result, for a loss above the highest that is allowed, or a size below the least.

    Raises UsageError for a least size where none was measured.
    """
    if max_loss is not None and not loss <= max_loss:
        raise GateError(f"loss {loss:.4g} is above --max-loss {max_loss:g}", result)
    if min_size is not None:
        if size is None:
            raise UsageError("min_size needs a size, which embeddings alone do not give; --held-out measures it")
        if not size >= min_size:
            raise GateError(f"size {size:,.0f} is below --min-size {min_size:,g}", result)


def recorded_options(subset: AnySource) -> Options | None:
    """The options in the manifest that a subset is or holds."""
    if isinstance(subset, (str, os.PathLike)):
        if _is_manifest(subset):
            return read_manifest(subset).options
        with contextlib.suppress(InputError):  # a folder may well hold somebody else's manifest.json, or none
            return read_manifest(Path(subset) / NAME).options
    return None


def _unread_manifest(subset: AnySource) -> tuple[str, ...]:
    """What to know of a folder whose manifest cannot be read."""
    if isinstance(subset, (str, os.PathLike)) and os.path.lexists(Path(subset) / NAME):
        try:
            read_manifest(subset)
        except InputError as error:
            return (f"{error}; the options in it are not used",)
    return ()


def _by_embeddings(subset: AnySource) -> bool:
    """Whether a subset was chosen by embeddings, by its manifest."""
    if isinstance(subset, (str, os.PathLike)):
        with contextlib.suppress(InputError):
            record = read_manifest(subset).record
            return bool(isinstance(record.get("request"), dict) and record["request"].get("embeddings"))
    return False


def _is_manifest(subset: str | os.PathLike[str]) -> bool:
    return Path(subset).suffix.lower() == ".json" and os.path.isfile(subset)  # noqa: PTH113 (never raises)


def _match(subset: AnySource, source: Source, options: Options) -> Matched:
    if isinstance(subset, (str, os.PathLike)) and _is_manifest(subset):
        return match_manifest(read_manifest(subset), source)
    return match_files(candidates(list_source(subset)[0], options.reading), source)


def _name(subset: AnySource) -> str:
    if isinstance(subset, Listing):
        return subset.name
    return os.fspath(subset) if isinstance(subset, (str, os.PathLike)) else "list of paths"
