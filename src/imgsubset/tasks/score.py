"""How close a subset is to its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgsubset.devices import or_on_cpu
from imgsubset.errors import GateError, UsageError
from imgsubset.features.source import Source
from imgsubset.inputs import AnyEmbeddings, of_kind
from imgsubset.options import Options
from imgsubset.progress import Clock, Progress, teller
from imgsubset.reading.given import AnySource
from imgsubset.results.records import Scored
from imgsubset.tasks.given import check_callable
from imgsubset.tasks.matching import Matched
from imgsubset.tasks.measuring import judges, score_of, with_fid
from imgsubset.tasks.members import existing

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
    tell = teller(progress)
    check_callable(extractor=extractor)
    skip_foreign = of_kind("skip_foreign", "bool", skip_foreign)
    clock = Clock()
    with clock.stage("list"):
        asked = existing(source, subset, options, embeddings, words)

    def work(device: str, notes: tuple[str, ...]) -> Scored:
        read, matched = asked.read(device, clock, tell, skip_foreign=skip_foreign, extractor=extractor)
        return _scored(read, matched, asked.name, asked.options, clock, notes, evidence)

    return or_on_cpu(asked.options.device, work, asked.options.workers)


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
        n, weights = len(matched.rows), options.weights
        goal = objective(source.blocks, n, weights)
        rows = torch.tensor([matched.rows], device=goal.device)
        held_out = judges(source, n, weights)
        result = with_fid(score_of(goal, held_out, rows, source.known), source, rows[0])
    gathered = None
    if gather:
        from imgsubset.search.quadratic import quadratic_form
        from imgsubset.search.ranking import herding_order
        from imgsubset.tasks.duplicates import exact_duplicates
        from imgsubset.tasks.evidence import evidence

        with clock.stage("report"):
            order = herding_order(quadratic_form(goal), rows[0]).tolist()
            gathered = evidence(source, goal, held_out, rows[0], order, exact_duplicates(source), {})
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
