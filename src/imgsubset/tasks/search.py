"""Run the search for one n or for the smallest n that meets a target, and record the result."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from imgsubset.errors import InputError, UsageError
from imgsubset.features.load import SourceFeatures
from imgsubset.inputs import Embeddings
from imgsubset.options import Options, merge_options
from imgsubset.progress import Clock, Progress
from imgsubset.results.records import Selection
from imgsubset.tasks.score import compute_held_out_loss, compute_score, make_held_out_objectives

if TYPE_CHECKING:
    from torch import Tensor

    from imgsubset.decoding.thumbnails import JpegThumbnail
    from imgsubset.search.loop import Found
    from imgsubset.statistics.objective import Objective
    from imgsubset.tasks.constraints import SelectionConstraints

StopCheck = Callable[[], bool]
MIN_DATASET_RATIO = 3  # times n images, for which as many draws as images were meant


def never_stop() -> bool:
    """Nobody asks to end."""
    return False


@dataclass(frozen=True)
class Run:
    """What goes with a search from stage to stage: the options, what the embeddings were, a clock, whom to ask whether
    to stop, whom to tell of progress, notes for the result; and whether to gather what a report shows, with the small
    pictures made for it so far."""

    options: Options
    embeddings: Embeddings | None
    clock: Clock
    stop: StopCheck
    progress: Progress
    notes: tuple[str, ...]
    evidence: bool = False
    pictures: dict[int, JpegThumbnail] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchResult:
    """What a search at one size came to, and the objectives in networks that it did not see."""

    objective: Objective
    found: Found
    held_out_objectives: tuple[Objective, ...]

    @property
    def n(self) -> int:
        """Images in the subset."""
        return self.found.rows.shape[1]


def search_n(
    source: SourceFeatures,
    allowed: SelectionConstraints,
    n: int,
    run: Run,
    near: SearchResult | None = None,
    taken: Collection[int] = (),
) -> SearchResult:
    """The best subset of n images, or as many as groups allow.

    near   the result of another size, to begin with
    taken  rows that may not be chosen
    """
    from imgsubset.search.find import find
    from imgsubset.search.quadratic import quadratic_form
    from imgsubset.search.smallest import resized

    free = allowed.free and not taken
    choices = None if free else allowed.choices(n, taken)
    objective = make_run_objective(source, choices.n if choices else n, run)
    with run.clock.stage("search"):
        start = resized(quadratic_form(near.objective), near.found.rows, n, run.options.seed) if near and free else None
        found = find(objective, run.options, run.stop, run.progress, start, choices)
    return SearchResult(objective, found, _make_run_held_out_objectives(source, objective.n, run))


def _make_run_held_out_objectives(source: SourceFeatures, n: int, run: Run) -> tuple[Objective, ...]:
    with run.clock.stage("measure"):
        return make_held_out_objectives(source, n, run.options.weights)


def make_run_objective(source: SourceFeatures, n: int, run: Run) -> Objective:
    """The objective at this size, as the options have it."""
    from imgsubset.statistics.langevin import Langevin
    from imgsubset.statistics.objective import make_objective

    options = run.options
    with run.clock.stage("baseline"):
        noise = Langevin(options.temperature, options.friction, options.langevin_time)
        return make_objective(source.blocks, n, run.options.weights, noise)


def search_smallest_n(
    source: SourceFeatures, allowed: SelectionConstraints, run: Run
) -> tuple[SearchResult, list[SearchResult], bool]:
    """The smallest subset that meets the target of the options, all that were tried, and whether it is missed."""
    from imgsubset.search.smallest import ATTEMPTS, smallest
    from imgsubset.statistics.objective import effective_sample_size

    total, options = len(source.paths), run.options
    if options.target_size is not None and options.target_size > total:
        raise InputError(
            f"a target size of {options.target_size:,.0f} is asked for, but the source has only {total:,} images"
        )
    if options.target_size is not None and not source.held_out:
        raise UsageError("target_size needs a size, which embeddings alone do not give; --held-out measures it")
    least, most = allowed.bounds()
    limit = options.time_limit and options.time_limit / ATTEMPTS
    search = replace(run, options=merge_options(run.options, {"time_limit": limit}))
    attempts: list[SearchResult] = []

    def attempt(n: int, near: SearchResult | None) -> SearchResult:
        def progress(stage: str, done: int, total: int, note: str = "") -> None:
            run.progress(f"{stage} n={n:,}", done, total, note)

        attempts.append(search_n(source, allowed, n, replace(search, progress=progress), near))
        return attempts[-1]

    def quality(result: SearchResult) -> float:
        with run.clock.stage("measure"):
            loss = compute_held_out_loss(result.objective, result.held_out_objectives, result.found.rows[:1])
        if options.target_loss is not None:
            return options.target_loss / loss if loss else float("inf")
        assert options.target_size is not None
        return effective_sample_size(loss, result.n, total) / options.target_size

    best = smallest(most, attempt, quality, lambda: any(one.found.stopped for one in attempts), least)
    return best, attempts, quality(best) < 1


def make_selection(
    source: SourceFeatures,
    allowed: SelectionConstraints,
    result: SearchResult,
    asked: str,
    run: Run,
    notes: tuple[str, ...] = (),
) -> Selection:
    """The record of a result, ranked and scored."""
    from imgsubset.search.quadratic import quadratic_form
    from imgsubset.search.ranking import herding_order

    rows, held_out = result.found.rows[0], result.held_out_objectives
    run.progress("rank", 0, len(rows))  # the search is over
    with run.clock.stage("rank"):
        ranking = herding_order(quadratic_form(result.objective), rows)
    with run.clock.stage("measure"):
        score = compute_score(result.objective, held_out, rows[None], source.known)
    chosen = tuple(rows.tolist())
    gathered = None
    if run.evidence:
        from imgsubset.report.gather import gather_report_data

        run.progress("report", 0, 1)
        with run.clock.stage("report"):
            gathered = gather_report_data(
                source, result.objective, held_out, rows, ranking.tolist(), allowed.duplicate_sets, run.pictures
            )
    return Selection(
        source=source.listing,
        paths=source.paths,
        stamps=source.stamps,
        rows=chosen,
        ranked_rows=tuple(ranking.tolist()),
        score=score,
        rejected=source.rejected,
        warnings=source.warnings
        + allowed.notes
        + notes
        + candidate_overlap_notes(len(source.paths), result, run.options)
        + run.notes,
        classes=allowed.shares(chosen),
        copies=allowed.copies,
        trace=result.found.trace,
        interrupted=result.found.stopped,
        asked=asked,
        options=run.options,
        embeddings=run.embeddings.describe() if run.embeddings else None,
        tables=source.tables,
        size=source.size,
        device=source.device,
        cached=source.cached,
        evidence=gathered,
        seconds=dict(run.clock.seconds),
    )


def candidate_overlap_notes(total: int, result: SearchResult, search: Options) -> tuple[str, ...]:
    """What to know where as many subsets are drawn as there are images, and these are few."""
    if search.candidates != "all" or total >= MIN_DATASET_RATIO * result.n or not result.found.trace:
        return ()
    return (
        f"as many candidates as images are meant for at least {MIN_DATASET_RATIO} images for each to choose: of "
        f"{total:,} images, "
        f"random draws of {result.n:,} have {result.n / total:.0%} in common",
    )


def evaluate_rows(source: SourceFeatures, rows: Tensor, run: Run) -> SearchResult:
    """A subset (n,) that is not searched for, as a result."""
    from imgsubset.search.loop import Found

    objective = make_run_objective(source, len(rows), run)
    found = Found(rows[None], objective.loss(rows[None]), (), stopped=False)
    return SearchResult(objective, found, _make_run_held_out_objectives(source, objective.n, run))
