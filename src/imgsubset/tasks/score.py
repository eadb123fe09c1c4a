"""How close a subset is to its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgsubset.devices import run_with_cpu_fallback
from imgsubset.errors import GateError, UsageError
from imgsubset.features.source import SourceFeatures
from imgsubset.inputs import EmbeddingsLike, convert_value
from imgsubset.options import Options
from imgsubset.progress import Clock, Progress, as_progress
from imgsubset.reading.given import AnySource
from imgsubset.results.records import Scored
from imgsubset.tasks.given import check_callable
from imgsubset.tasks.matching import SubsetMembers
from imgsubset.tasks.measuring import compute_score, make_held_out_objectives, with_fid
from imgsubset.tasks.members import resolve_subset

if TYPE_CHECKING:
    from imgsubset.features.random_cnn import Extractor


def score(
    source: AnySource,
    subset: AnySource,
    options: Options | None = None,
    *,
    skip_foreign: bool = False,
    extractor: Extractor | None = None,
    embeddings: EmbeddingsLike = None,
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
    tell = as_progress(progress)
    check_callable(extractor=extractor)
    skip_foreign = convert_value("skip_foreign", "bool", skip_foreign)
    clock = Clock()
    with clock.stage("list"):
        asked = resolve_subset(source, subset, options, embeddings, words)

    def work(device: str, notes: tuple[str, ...]) -> Scored:
        read, matched = asked.read(device, clock, tell, skip_foreign=skip_foreign, extractor=extractor)
        return _score_rows(read, matched, asked.name, asked.options, clock, notes, evidence)

    return run_with_cpu_fallback(asked.options.device, work, asked.options.workers)


def _score_rows(
    source: SourceFeatures,
    matched: SubsetMembers,
    subset: str,
    options: Options,
    clock: Clock,
    notes: tuple[str, ...],
    gather: bool,
) -> Scored:
    import torch

    from imgsubset.statistics.objective import make_objective

    with clock.stage("score"):
        n, weights = len(matched.rows), options.weights
        goal = make_objective(source.blocks, n, weights)
        rows = torch.tensor([matched.rows], device=goal.device)
        held_out = make_held_out_objectives(source, n, weights)
        result = with_fid(compute_score(goal, held_out, rows, source.known), source, rows[0])
    gathered = None
    if gather:
        from imgsubset.search.quadratic import quadratic_form
        from imgsubset.search.ranking import herding_order
        from imgsubset.tasks.duplicates import find_exact_duplicates
        from imgsubset.tasks.evidence import gather_report_data

        with clock.stage("report"):
            order = herding_order(quadratic_form(goal), rows[0]).tolist()
            gathered = gather_report_data(source, goal, held_out, rows[0], order, find_exact_duplicates(source), {})
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
