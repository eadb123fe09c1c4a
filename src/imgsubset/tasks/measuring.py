"""How close a subset is, in what was searched and in networks that no search sees."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from imgsubset.features.source import Source
from imgsubset.results.scores import Measured, Score
from imgsubset.weights import DIVERGENCE_NAMES, Weights

if TYPE_CHECKING:  # torch takes two seconds to import: the decoding processes work meanwhile
    from torch import Tensor

    from imgsubset.statistics.objective import Objective

# Random subsets by which a held-out network is calibrated: its loss is then right to 2 %, and eigenvalues of 128
# channels take a quarter of a second.
DRAWS = 128


def judges(source: Source, n: int, weights: Weights) -> tuple[Objective, ...]:
    """The objective of subsets of n images in each held-out network of a source."""
    from imgsubset.statistics.objective import objective

    return tuple(objective((block,), n, weights, draws=DRAWS).alone(0) for block in source.held_out)


def judged_loss(objective: Objective, judges: tuple[Objective, ...], rows: Tensor) -> float:
    """The loss of a subset, given as indices (1, n), that a user is told: see `Score.loss`."""
    return median(float(one.loss(rows)) for one in judges or (objective,))


def score_of(objective: Objective, judges: tuple[Objective, ...], rows: Tensor) -> Score:
    """The score, in float64, of one subset, given as indices (1, n)."""
    import torch

    from imgsubset.statistics.objective import effective_size

    loss = float(objective.loss(rows, torch.float64))
    return Score(
        searched=tuple(
            _measured(objective.alone(place), rows, term.block.weight) for place, term in enumerate(objective.terms)
        ),
        held_out=tuple(_measured(one, rows, 1 / len(judges)) for one in judges),
        searched_loss=loss,
        searched_size=effective_size(loss, objective.n, objective.total),
    )


def _measured(objective: Objective, rows: Tensor, weight: float) -> Measured:
    """In the one space of an objective."""
    import torch

    from imgsubset.statistics.objective import effective_size

    (term,) = objective.terms

    def named(values: Tensor) -> dict[str, float]:
        return dict(zip(DIVERGENCE_NAMES, values.tolist(), strict=True))

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
    )
