"""Made-up sources for the tests of the search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from imgsubset.divergence_weights import Weights
from imgsubset.options import Options
from imgsubset.search.choices import Choices
from imgsubset.search.find import find
from imgsubset.search.loop import Found
from imgsubset.search.quadratic import Quadratic, quadratic_form
from imgsubset.statistics.langevin import Langevin
from imgsubset.statistics.moments import Block, ImageMoments, compute_all_moments, fit_standardiser
from imgsubset.statistics.objective import LossTerm, NoisyObjective, Objective, make_objective

# What a unit of each divergence adds to a loss: of the order that calibration gives.
COEFFICIENTS = {"kl": 100.0, "js": 300.0, "wasserstein": 80.0, "hellinger": 400.0, "frechet": 10.0}


def made_up_source(count: int, channels: int, seed: int = 0, positions: int = 16) -> ImageMoments:
    """Standardised moments: correlated, skewed features, and some variance within each image."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator) / channels**0.5
    raw = torch.randn(count, channels, generator=generator)
    mean = (raw + 0.3 * raw**2) @ mixing
    square = mean**2 + torch.rand(count, channels, generator=generator) + 0.5
    images = ImageMoments(torch.cat([mean, square], 1), positions)
    return fit_standardiser(images).apply(images)


def goal_of(
    images: ImageMoments, n: int, weights: Weights | None = None, langevin: Langevin | None = None
) -> Objective:
    """The objective of one block."""
    return make_objective((Block("made up", images),), n, weights or Weights(), langevin)


def form_of(images: ImageMoments, coefficients: dict[str, float]) -> Quadratic:
    """The second-order form of a mix of one block, without calibration."""
    term = LossTerm(Block("made up", images), compute_all_moments(images), torch.zeros(2, 5), coefficients)
    return quadratic_form(Objective((term,), 1, Langevin()))


def searched(
    goal: Objective,
    seed: int = 0,
    choices: Choices | None = None,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Found:
    """What a search with these options finds."""
    return find(goal, Options(seed=seed, **options), stop, lambda *_: None, choices=choices)


def noised_loss(goal: Objective, rows: Tensor, temperature: float, seed: int) -> Tensor:
    """Losses of subsets under the noise of this temperature and a seed."""
    return NoisyObjective(goal, temperature).loss(rows, torch.Generator(rows.device).manual_seed(seed))


def noised_lowest(goal: Objective, rows: Tensor, count: int, temperature: float, seed: int) -> Tensor:
    """Which of them are lowest."""
    noised = NoisyObjective(goal, temperature)
    return noised.lowest([noised.batch(rows, torch.Generator().manual_seed(seed))], count)


def random_rows(chains: int, n: int, total: int, seed: int = 0) -> Tensor:
    """Indices (chains, n) of independent random subsets."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(chains, total, generator=generator).argsort(1)[:, :n]
