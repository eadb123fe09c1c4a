"""How close a subset is to its source."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsubset.devices import or_on_cpu
from imgsubset.errors import GateError, InputError, UsageError, shortened
from imgsubset.features.source import Source, first_of, read_source
from imgsubset.files import sha256
from imgsubset.inputs import AnyEmbeddings, of_kind
from imgsubset.options import Options, merged
from imgsubset.progress import Clock, Progress, teller
from imgsubset.reading.filters import candidates
from imgsubset.reading.given import AnySource, list_source
from imgsubset.reading.listing import Listing
from imgsubset.results.records import Scored
from imgsubset.tasks.given import check_callable, given, pixels_needed
from imgsubset.tasks.matching import Matched, match_files, match_manifest
from imgsubset.tasks.measuring import judges, score_of
from imgsubset.writing.manifest import NAME, Manifest, read_manifest

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
    evidence: bool = False,
    progress: Progress | bool = False,
    **words: Any,
) -> Scored:
    """Score a subset of a source, however it was made.

    source        as in `select`
    subset        a folder, the manifest.json of a selection, a text file of paths, or paths. Files are matched with
                  those of the source by content; paths start from the current folder or from the source
    options       None: those in the manifest of the subset if it has one, so that the loss is the one it reports
    skip_foreign  leave out the files of the subset that are not in the source, instead of raising
    evidence      gather what a report shows, see `write_report`
    words         options by name, which go before all others

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    manifest, unread = _recorded(subset)
    if options is None and manifest is not None:
        options = manifest.options
        if "match" not in words:
            options, gone = _without_changed_tables(manifest)
            unread += gone
    options, tell = merged(options, words), teller(progress)
    check_callable(extractor=extractor)
    skip_foreign = of_kind("skip_foreign", "bool", skip_foreign)
    clock = Clock()
    with clock.stage("list"):
        listing, options, embeddings = given(source, options, embeddings)
        if not isinstance(subset, (str, os.PathLike, Listing)):  # named one by one: none of them is left out
            subset = replace(list_source(subset)[0], reading=options.reading)
    seen = pixels_needed(options)

    def work(device: str, notes: tuple[str, ...]) -> Scored:
        read = read_source(
            listing, options, device, extractor=extractor, embeddings=embeddings, seen=seen, clock=clock, progress=tell
        )
        if embeddings is None and manifest is not None and _by_embeddings(manifest):
            notes += ("the subset was chosen by embeddings; without them it is scored by the random CNN",)
        notes += unread
        with clock.stage("match"):
            whole = manifest if manifest is not None and _is_manifest(subset) else None
            matched = _matched(whole or subset, read, options, skip_foreign, _name(subset))
        from imgsubset.tasks.known import with_known

        ready = with_known(read, options, len(matched.rows)).standardised()
        return _scored(ready, matched, _name(subset), options, clock, notes, evidence)

    return or_on_cpu(options.running.device, work, options.running.workers)


def _matched(subset: AnySource | Manifest, source: Source, options: Options, skip_foreign: bool, name: str) -> Matched:
    """The members of the subset. Raises InputError if there are none, or foreign ones among them."""
    if isinstance(subset, Manifest):
        matched = match_manifest(subset, source)
    else:
        matched = match_files(candidates(list_source(subset)[0], options.reading), source)
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
    source: Source,
    matched: Matched,
    subset: str,
    options: Options,
    clock: Clock,
    notes: tuple[str, ...],
    gather: bool,
) -> Scored:
    import torch

    from imgsubset.statistics.objective import objective

    with clock.stage("score"):
        n, weights = len(matched.rows), options.mix.weights
        goal = objective(source.blocks, n, weights)
        rows = torch.tensor([matched.rows], device=goal.device)
        held_out = judges(source, n, weights)
        result = score_of(goal, held_out, rows, source.known)
    gathered = None
    if gather:
        from imgsubset.search.quadratic import quadratic_form
        from imgsubset.search.ranking import herding_order
        from imgsubset.tasks.evidence import evidence

        with clock.stage("report"):
            order = herding_order(quadratic_form(goal), rows[0]).tolist()
            gathered = evidence(source, goal, held_out, rows[0], order)
    return Scored(
        source=source.listing,
        subset=subset,
        paths=tuple(source.paths[row] for row in matched.rows),
        total=len(source.paths),
        score=result,
        foreign=matched.foreign,
        rejected=source.rejected,
        evidence=gathered,
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


def has_manifest(subset: AnySource) -> bool:
    """Whether a subset is or holds a manifest, whose options are the defaults."""
    return _recorded(subset)[0] is not None


def _without_changed_tables(manifest: Manifest) -> tuple[Options, tuple[str, ...]]:
    """The recorded options without tables that are not what they were, and what to know of these."""
    mix, notes = manifest.options.mix, []
    if "hardness" in manifest.record["options"].get("match", ()) and "hardness" not in dict(mix.match):
        notes.append("the subset was matched to hardness too, which is left out: its classes were in memory")
    for table in manifest.record.get("tables", ()):
        path, name = table["path"], shortened(str(table["name"]))
        try:
            why = "" if sha256(path) == table["sha256"] else "it has changed"
        except OSError as error:
            why = str(error.strerror or error)
        if why:
            notes.append(f"the subset was matched to table '{name}' too, which is left out: {path}: {why}")
            mix = replace(
                mix,
                match=tuple(pair for pair in mix.match if pair[0] != path),
                match_columns=tuple(words for words in mix.match_columns if not words.startswith(f"{path}:")),
            )
    return replace(manifest.options, mix=mix), tuple(notes)


def _recorded(subset: AnySource) -> tuple[Manifest | None, tuple[str, ...]]:
    """The manifest that a subset is or holds, and what to know where that of a folder cannot be read.

    Raises InputError if the subset is one that cannot be read.
    """
    if not isinstance(subset, (str, os.PathLike)):
        return None, ()
    if _is_manifest(subset):
        return read_manifest(subset), ()
    file = Path(subset) / NAME
    try:  # a folder may well hold somebody else's manifest.json
        return read_manifest(file) if os.path.lexists(file) else None, ()
    except InputError as error:
        return None, (f"{error}; the options in it are not used",)


def _by_embeddings(manifest: Manifest) -> bool:
    """Whether its subset was chosen by embeddings."""
    asked = manifest.record.get("request")
    return bool(isinstance(asked, dict) and asked.get("embeddings"))


def _is_manifest(subset: AnySource) -> bool:
    if not isinstance(subset, (str, os.PathLike)):
        return False
    return Path(subset).suffix.lower() == ".json" and os.path.isfile(subset)  # noqa: PTH113 (never raises)


def _name(subset: AnySource) -> str:
    if isinstance(subset, Listing):
        return subset.name
    return os.fspath(subset) if isinstance(subset, (str, os.PathLike)) else "list of paths"
