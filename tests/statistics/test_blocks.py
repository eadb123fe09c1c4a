"""Objectives of several blocks of features: a weighted mean of those of one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from sources import goal_of, made_up_source, noised_loss, noised_lowest, random_rows, searched

from imgsubset.divergence_weights import Weights
from imgsubset.search.quadratic import quadratic_form
from imgsubset.statistics.langevin import Langevin
from imgsubset.statistics.moments import Block, ImageMoments
from imgsubset.statistics.objective import Objective, make_objective

TOTAL, N = 200, 20
ONE, OTHER = made_up_source(TOTAL, 5, seed=1), made_up_source(TOTAL, 8, seed=2, positions=1)
ROWS = random_rows(300, N, TOTAL)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def goal(parts: Sequence[tuple[ImageMoments, float]], n: int = N, langevin: Langevin | None = None) -> Objective:
    blocks = [Block(f"block {number}", images, weight) for number, (images, weight) in enumerate(parts)]
    return make_objective(blocks, n, Weights(), langevin)


def products(form_of: Objective) -> torch.Tensor:
    """Inner products of z, which are all that an exchange and a ranking look at."""
    z = quadratic_form(form_of).embed(torch.arange(TOTAL)).double()
    return z @ z.T


def test_a_block_twice_with_half_the_weight_is_the_block_once() -> None:
    once, twice = goal([(ONE, 1.0)]), goal([(ONE, 0.5), (ONE, 0.5)])
    assert torch.equal(once.loss(ROWS), twice.loss(ROWS))
    assert once.baseline_cdf(0.7) == twice.baseline_cdf(0.7)
    torch.testing.assert_close(products(once), products(twice), rtol=1e-5, atol=1e-4)
    # When it has cooled down the noise only contracts, and draws nothing.
    cold = [noised_lowest(which, ROWS, 16, 0.0, 1).tolist() for which in (once, twice)]
    assert cold[0] == cold[1]


def test_noise_is_drawn_for_each_block() -> None:
    """The same noise in both would leave the spread of the noised loss of one subset as it is."""
    rows = ROWS[:1].expand(2000, -1)
    once, twice = (noised_loss(goal(parts), rows, 1.0, 3) for parts in ([(ONE, 1.0)], [(ONE, 0.5), (ONE, 0.5)]))
    assert float(twice.mean()) == pytest.approx(float(once.mean()), abs=5 * float(once.std()) * (1.5 / 2000) ** 0.5)
    assert float(twice.std() / once.std()) == pytest.approx(0.5**0.5, rel=0.1)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_of_two_blocks_is_the_weighted_mean_of_theirs(weight: float) -> None:
    both, one, other = goal([(ONE, weight), (OTHER, 1 - weight)]), goal_of(ONE, N), goal_of(OTHER, N)
    for dtype in (torch.float32, torch.float64):
        expected = weight * one.loss(ROWS, dtype) + (1 - weight) * other.loss(ROWS, dtype)
        torch.testing.assert_close(both.loss(ROWS, dtype), expected, rtol=1e-12, atol=0)
    divergences = torch.cat([one.divergences(ROWS), other.divergences(ROWS)], 1)
    assert torch.equal(both.divergences(ROWS), divergences)
    expected = weight * products(one) + (1 - weight) * products(other)
    torch.testing.assert_close(products(both), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("count", [1, 16])
def test_the_lowest_noised_losses_are_found_though_not_all_are_computed(temperature: float, count: int) -> None:
    both = goal([(ONE, 0.3), (OTHER, 0.7)])
    losses = noised_loss(both, ROWS, temperature, 5)
    found = noised_lowest(both, ROWS, count, temperature, 5)
    torch.testing.assert_close(losses[found], losses.topk(count, largest=False).values, rtol=1e-9, atol=0)


def test_without_time_the_noised_loss_is_the_loss() -> None:
    still = goal([(ONE, 0.3), (OTHER, 0.7)], langevin=Langevin(1.0, 1.0, 0.0))
    torch.testing.assert_close(noised_loss(still, ROWS, 1.0, 1), still.loss(ROWS), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_a_search_finds_the_optimum_of_two_blocks() -> None:
    small = goal([(made_up_source(12, 4, 1), 0.4), (made_up_source(12, 3, 2), 0.6)], 4)
    losses = small.loss(torch.tensor(list(combinations(range(12), 4))), torch.float64)
    best = min(float(searched(small, seed, candidates=8, chains=4, steps=400).losses[0]) for seed in range(5))
    assert best == pytest.approx(float(losses.min()), rel=1e-4)


def test_an_objective_is_flat_if_all_blocks_are() -> None:
    still = ImageMoments(torch.zeros(TOTAL, 0), 1)
    assert goal([(still, 0.5), (still, 0.5)]).is_flat
    assert not goal([(still, 0.5), (ONE, 0.5)]).is_flat
    assert goal([(still, 0.5), (ONE, 0.5)]).loss(ROWS).isfinite().all()
