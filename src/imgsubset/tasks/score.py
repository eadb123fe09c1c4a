"""How close a subset is to its source, in the matched feature spaces and in held-out networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any

from imgsubset.devices import run_with_cpu_fallback
from imgsubset.divergence_weights import DIVERGENCE_NAMES, Weights
from imgsubset.errors import GateError, UsageError
from imgsubset.features.load import SourceFeatures
from imgsubset.inputs import EmbeddingsLike, convert_value
from imgsubset.options import Options
from imgsubset.progress import Clock, Progress, as_progress
from imgsubset.results.records import Scored
from imgsubset.results.scores import ColumnBalance, Measured, Score
from imgsubset.sources.python_sources import AnySource
from imgsubset.tasks.existing_subset import SubsetMembers, resolve_subset
from imgsubset.tasks.inputs import check_callable

if TYPE_CHECKING:
    from torch import Tensor

    from imgsubset.features.metadata_encoding import MetadataChannels
    from imgsubset.features.random_cnn import Extractor
    from imgsubset.statistics.objective import Objective

# Random subsets by which a held-out network is calibrated: its loss is then right to 2 %, and eigenvalues of 128
# channels take a quarter of a second.
N_CALIBRATION_SUBSETS = 128
FID_SEED = 1 << 61  # of the random subsets: those of a given source are always the same


def make_held_out_objectives(source: SourceFeatures, n: int, weights: Weights) -> tuple[Objective, ...]:
    """The objective of subsets of n images in each held-out network of a source."""
    from imgsubset.statistics.objective import make_objective

    return tuple(
        make_objective((block,), n, weights, draws=N_CALIBRATION_SUBSETS).single_block(0) for block in source.held_out
    )


def compute_held_out_loss(objective: Objective, judges: tuple[Objective, ...], rows: Tensor) -> float:
    """The loss of a subset, given as indices (1, n), that a user is told: see `Score.loss`."""
    return median(float(one.loss(rows)) for one in judges or (objective,))


def compute_score(
    objective: Objective,
    judges: tuple[Objective, ...],
    rows: Tensor,
    known: Mapping[str, MetadataChannels] | None = None,
) -> Score:
    """The score, in float64, of one subset, given as indices (1, n).

    known  by block what is known of the images beside their pixels
    """
    import torch

    from imgsubset.statistics.objective import effective_sample_size

    loss = float(objective.loss(rows, torch.float64))
    return Score(
        searched=tuple(
            _score_space(objective.single_block(place), rows, term.block.weight, (known or {}).get(term.block.name))
            for place, term in enumerate(objective.terms)
        ),
        held_out=tuple(_score_space(one, rows, 1 / len(judges)) for one in judges),
        searched_loss=loss,
        searched_size=effective_sample_size(loss, objective.n, objective.total),
    )


def with_fid(score: Score, source: SourceFeatures, rows: Tensor) -> Score:
    """With the FID from the whole source, of rows (n,), beside the divergences in spaces whose vectors are kept."""
    from imgsubset.statistics.generative_metrics import compute_subset_fids

    def added(one: Measured) -> Measured:
        if one.name not in source.vectors:
            return one
        value, *random = compute_subset_fids(source.vectors[one.name], rows, FID_SEED).tolist()
        return replace(
            one,
            divergences=one.divergences | {"fid": value},
            random_mean=one.random_mean | {"fid": fmean(random)},
            random_std=one.random_std | {"fid": stdev(random)},
        )

    return replace(score, searched=tuple(map(added, score.searched)))


def _score_space(objective: Objective, rows: Tensor, weight: float, known: MetadataChannels | None = None) -> Measured:
    """In the one space of an objective."""
    import torch

    from imgsubset.statistics.objective import METADATA_DIVERGENCES, effective_sample_size

    (term,) = objective.terms

    def named(values: Tensor) -> dict[str, float]:
        given = zip(DIVERGENCE_NAMES, values.tolist(), strict=True)
        return {name: value for name, value in given if not term.block.numbers or name in METADATA_DIVERGENCES.shares()}

    loss = float(objective.loss(rows, torch.float64))
    return Measured(
        name=term.block.name,
        weight=weight,
        divergences=named(objective.divergences(rows, torch.float64)[0, 0]),
        random_mean=named(term.random.mean(0)),
        random_std=named(term.random.std(0)),
        loss=loss,
        percentile=100 * objective.baseline_cdf(loss),
        effective_size=effective_sample_size(loss, objective.n, objective.total),
        columns=_score_columns(known, rows[0]) if known else (),
        asked=known is None or known.asked,
    )


def _score_columns(known: MetadataChannels, rows: Tensor) -> tuple[ColumnBalance, ...]:
    """How each is met, the worst first."""
    values, n = known.values, len(rows)
    total = len(values)
    spreads = values.std(0, ddof=1) * (1 / n - 1 / total) ** 0.5 if total > 1 else 0 * values[0]
    means = zip(known.names, values.mean(0), values[rows.cpu().numpy()].mean(0), spreads, strict=True)
    met = [
        ColumnBalance(name, float(everywhere), float(here), float(spread)) for name, everywhere, here, spread in means
    ]
    return tuple(sorted(met, key=lambda one: -abs(one.z_score)))


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
        from imgsubset.report.gather import gather_report_data
        from imgsubset.search.quadratic import quadratic_form
        from imgsubset.search.ranking import herding_order
        from imgsubset.tasks.constraints import find_exact_duplicates

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
