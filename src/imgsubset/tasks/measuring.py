"""How close a subset is, in what was searched and in networks that no search sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

from imgsubset.features.source import SourceFeatures
from imgsubset.results.scores import ColumnBalance, Measured, Score
from imgsubset.weights import DIVERGENCE_NAMES, Weights

if TYPE_CHECKING:  # torch takes two seconds to import: the decoding processes work meanwhile
    from torch import Tensor

    from imgsubset.features.channels import MetadataChannels
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
    from imgsubset.statistics.vectors import compute_subset_fids

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
