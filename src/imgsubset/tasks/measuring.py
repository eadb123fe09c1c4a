"""How close a subset is, in what was searched and in networks that no search sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

from imgsubset.features.source import Source
from imgsubset.results.scores import Measured, Met, Score
from imgsubset.weights import DIVERGENCE_NAMES, Weights

if TYPE_CHECKING:  # torch takes two seconds to import: the decoding processes work meanwhile
    from torch import Tensor

    from imgsubset.features.channels import Channels
    from imgsubset.statistics.objective import Objective

# Random subsets by which a held-out network is calibrated: its loss is then right to 2 %, and eigenvalues of 128
# channels take a quarter of a second.
DRAWS = 128
FID_SEED = 1 << 61  # of the random subsets: those of a given source are always the same


def judges(source: Source, n: int, weights: Weights) -> tuple[Objective, ...]:
    """The objective of subsets of n images in each held-out network of a source."""
    from imgsubset.statistics.objective import objective

    return tuple(objective((block,), n, weights, draws=DRAWS).alone(0) for block in source.held_out)


def judged_loss(objective: Objective, judges: tuple[Objective, ...], rows: Tensor) -> float:
    """The loss of a subset, given as indices (1, n), that a user is told: see `Score.loss`."""
    return median(float(one.loss(rows)) for one in judges or (objective,))


def score_of(
    objective: Objective, judges: tuple[Objective, ...], rows: Tensor, known: Mapping[str, Channels] | None = None
) -> Score:
    """The score, in float64, of one subset, given as indices (1, n).

    known  by block what is known of the images beside their pixels
    """
    import torch

    from imgsubset.statistics.objective import effective_size

    loss = float(objective.loss(rows, torch.float64))
    return Score(
        searched=tuple(
            _measured(objective.alone(place), rows, term.block.weight, (known or {}).get(term.block.name))
            for place, term in enumerate(objective.terms)
        ),
        held_out=tuple(_measured(one, rows, 1 / len(judges)) for one in judges),
        searched_loss=loss,
        searched_size=effective_size(loss, objective.n, objective.total),
    )


def with_fid(score: Score, source: Source, rows: Tensor) -> Score:
    """With the FID from the whole source, of rows (n,), beside the divergences in spaces whose vectors are kept."""
    from imgsubset.statistics.vectors import subset_distances

    def added(one: Measured) -> Measured:
        if one.name not in source.vectors:
            return one
        value, *random = subset_distances(source.vectors[one.name], rows, FID_SEED).tolist()
        return replace(
            one,
            divergences=one.divergences | {"fid": value},
            random_mean=one.random_mean | {"fid": fmean(random)},
            random_std=one.random_std | {"fid": stdev(random)},
        )

    return replace(score, searched=tuple(map(added, score.searched)))


def _measured(objective: Objective, rows: Tensor, weight: float, known: Channels | None = None) -> Measured:
    """In the one space of an objective."""
    import torch

    from imgsubset.statistics.objective import OF_NUMBERS, effective_size

    (term,) = objective.terms

    def named(values: Tensor) -> dict[str, float]:
        given = zip(DIVERGENCE_NAMES, values.tolist(), strict=True)
        return {name: value for name, value in given if not term.block.numbers or name in OF_NUMBERS.shares()}

    loss = float(objective.loss(rows, torch.float64))
    return Measured(
        name=term.block.name,
        weight=weight,
        divergences=named(objective.divergences(rows, torch.float64)[0, 0]),
        random_mean=named(term.random.mean(0)),
        random_std=named(term.random.std(0)),
        loss=loss,
        percentile=100 * objective.share_below(loss),
        effective_size=effective_size(loss, objective.n, objective.total),
        columns=_columns(known, rows[0]) if known else (),
        asked=known is None or known.asked,
    )


def _columns(known: Channels, rows: Tensor) -> tuple[Met, ...]:
    """How each is met, the worst first."""
    values, n = known.values, len(rows)
    total = len(values)
    spreads = values.std(0, ddof=1) * (1 / n - 1 / total) ** 0.5 if total > 1 else 0 * values[0]
    means = zip(known.names, values.mean(0), values[rows.cpu().numpy()].mean(0), spreads, strict=True)
    met = [Met(name, float(everywhere), float(here), float(spread)) for name, everywhere, here, spread in means]
    return tuple(sorted(met, key=lambda one: -abs(one.off)))
