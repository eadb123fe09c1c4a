from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from reference import Array, five, random_maps, standardised
from sources import goal_of, made_up_source, noised_loss, noised_lowest
from torch import Tensor

from imgsubset.divergence_weights import DIVERGENCE_NAMES, Weights
from imgsubset.statistics import objective as objective_module
from imgsubset.statistics.divergences import compute_weighted_divergence
from imgsubset.statistics.langevin import Langevin, noised_source, noised_subsets
from imgsubset.statistics.moments import Block, ImageMoments, compute_subset_moments, maps_to_moments
from imgsubset.statistics.objective import (
    MAX_BATCH_SUBSETS,
    N_BASELINE_SUBSETS,
    NoisyObjective,
    Objective,
    draw_random_subsets,
    effective_sample_size,
)

TOTAL, CHANNELS = 120, 5
MAPS = standardised(random_maps(TOTAL, CHANNELS, 2, seed=1))


def images_of(maps: Array) -> ImageMoments:
    return ImageMoments(maps_to_moments(torch.tensor(maps, dtype=torch.float32)), maps.shape[2] * maps.shape[3])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def objective() -> Objective:
    return goal_of(images_of(MAPS), 20)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("total", "n"), [(10, 3), (10, 5), (10, 10), (10, 6), (5, 1), (1, 1)])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_random_subsets_are_drawn_without_replacement(total: int, n: int, count: int) -> None:
    rows = draw_random_subsets(total, n, count, seeded(1))
    assert rows.shape == (count, n)
    for row in rows.tolist():
        assert len(set(row)) == n
        assert set(row) <= set(range(total))


def test_a_permutation_is_cut_into_disjoint_subsets() -> None:
    rows = draw_random_subsets(11, 3, 9, seeded(1))
    for first in range(0, 9, 3):
        assert len(rows[first : first + 3].unique()) == 9
    assert rows[0].tolist() != rows[3].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("total", "n"), [(7, 4), (6, 5), (9, 3)])
def test_every_row_pair_and_place_is_equally_likely(total: int, n: int) -> None:
    permutations = 8000
    each = total // n
    # The first of each permutation, so that draws are independent.
    rows = draw_random_subsets(total, n, permutations * each, seeded(2))[::each]
    chosen = torch.zeros(permutations, total, dtype=torch.float64).scatter_(1, rows, 1)

    def error(share: float) -> float:
        return 5 * math.sqrt(share * (1 - share) / permutations)

    single, double = n / total, n * (n - 1) / total / (total - 1)
    np.testing.assert_allclose(chosen.mean(0), single, atol=error(single))
    together = (chosen.mT @ chosen / permutations)[~torch.eye(total, dtype=torch.bool)]
    np.testing.assert_allclose(together, double, atol=error(double))
    for place in range(n):
        shares = torch.bincount(rows[:, place], minlength=total) / permutations
        np.testing.assert_allclose(shares, 1 / total, atol=error(1 / total))


@pytest.mark.slow
def test_divergences_are_those_of_the_feature_maps(objective: Objective) -> None:
    rows = draw_random_subsets(TOTAL, 20, 3, seeded(3))
    found = objective.divergences(rows, torch.float64)[:, 0]
    assert found.shape == (3, 5)
    assert found.dtype == torch.float64
    for row, values in zip(rows.tolist(), found.tolist(), strict=True):
        assert values == pytest.approx(list(five(MAPS[row], MAPS).values()), rel=1e-4)


@pytest.mark.parametrize("text", ["kl=1", "js=2,frechet=6", "1,2,3,4,5", "wasserstein=7"])
def test_the_loss_is_the_mix_in_units_of_random_subsets(text: str) -> None:
    objective = goal_of(images_of(MAPS), 20, Weights.parse(text))
    rows = draw_random_subsets(TOTAL, 20, 4, seeded(4))
    weights = dict.fromkeys(DIVERGENCE_NAMES, 0.0) | Weights.parse(text).shares()
    assert sum(weights.values()) == pytest.approx(1)
    values = objective.divergences(rows, torch.float64)[:, 0]
    units = objective.terms[0].random.mean(0)
    expected = sum(weights[name] * values[:, k] / units[k] for k, name in enumerate(DIVERGENCE_NAMES))
    assert isinstance(expected, Tensor)
    assert objective.loss(rows, torch.float64).tolist() == pytest.approx(expected.tolist(), rel=1e-10)
    assert objective.loss(rows).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_the_baseline_is_the_mean_and_spread_over_random_subsets(objective: Objective) -> None:
    baseline = objective.terms[0].random
    assert baseline.shape == (N_BASELINE_SUBSETS, 5)
    fresh = objective.divergences(draw_random_subsets(TOTAL, 20, 4096, seeded(99)))[:, 0].numpy()
    for drawn, sample in zip(baseline.T, fresh.T, strict=True):
        assert drawn.mean().item() == pytest.approx(
            sample.mean(), abs=5 * sample.std() * math.sqrt(1 / N_BASELINE_SUBSETS + 1 / 4096)
        )
        spread = math.sqrt(((sample - sample.mean()) ** 2).var()) / 2 / sample.std()  # error of a deviation, times root
        assert drawn.std().item() == pytest.approx(
            sample.std(), abs=5 * spread * math.sqrt(1 / N_BASELINE_SUBSETS + 1 / 4096)
        )


@pytest.mark.parametrize("n", [1, 5, 20, 60])
@pytest.mark.parametrize("text", ["1,1,1,1,1", "frechet=1", "kl=3,js=1"])
def test_a_fresh_random_subset_scores_1_on_average(n: int, text: str) -> None:
    objective = goal_of(images_of(MAPS), n, Weights.parse(text))
    losses = objective.loss(draw_random_subsets(TOTAL, n, 2048, seeded(5))).numpy()
    error = losses.std() * math.sqrt(1 / N_BASELINE_SUBSETS + 1 / 2048)
    assert losses.mean() == pytest.approx(1, abs=5 * error)
    assert error < 0.1


@pytest.mark.parametrize("total", [1, 5, 40, 120])
def test_all_images_have_loss_0(total: int) -> None:
    objective = goal_of(images_of(standardised(MAPS[:total])), total)
    for seed in range(3):
        rows = draw_random_subsets(total, total, 2, seeded(seed))
        assert objective.loss(rows).abs().max().item() < 1e-6
        assert objective.loss(rows, torch.float64).abs().max().item() < 1e-6


@pytest.mark.parametrize("total", [1, 40])
def test_the_baseline_of_all_images_is_0_without_spread(total: int) -> None:
    baseline = goal_of(images_of(standardised(MAPS[:total])), total).terms[0].random
    assert baseline.mean(0).tolist() == pytest.approx([0] * 5, abs=1e-9)
    assert baseline.std(0).tolist() == pytest.approx([0] * 5, abs=1e-9)


DEGENERATE = {
    "identical": standardised(random_maps(1, 4, 2, seed=2)[np.zeros(40, int)]),
    "no channels, as standardising leaves of constants": np.zeros((40, 0, 2, 2)),
}


@pytest.mark.parametrize("maps", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("n", [1, 2, 10, 40])
def test_images_that_are_all_the_same_have_loss_0_whichever_are_chosen(maps: Array, n: int) -> None:
    objective = goal_of(images_of(maps), n)
    rows = draw_random_subsets(40, n, 3, seeded(1))
    assert objective.loss(rows).abs().max().item() < 1e-6
    assert objective.loss(rows, torch.float64).abs().max().item() < 1e-6
    assert noised_loss(objective, rows, 1.0, 1).isfinite().all()


@pytest.mark.parametrize("n", [1, 3, 30, 100])
@pytest.mark.parametrize("channels", [4, 32])
def test_repeated_images_have_finite_losses(n: int, channels: int) -> None:
    maps = standardised(random_maps(3, channels, 2, seed=3)[np.arange(150) % 3])
    objective = goal_of(images_of(maps), n)
    rows = draw_random_subsets(150, n, 40, seeded(1))
    assert objective.loss(rows).isfinite().all()
    assert noised_loss(objective, rows, 1.0, 1).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 7, 20, 119])
def test_losses_do_not_depend_on_the_number_of_threads_or_on_batches(n: int) -> None:
    objective = goal_of(images_of(MAPS), n)
    rows = draw_random_subsets(TOTAL, n, 3 * MAX_BATCH_SUBSETS + 5, seeded(6))
    with threads(1):
        expected = objective.loss(rows)
        noised = noised_loss(objective, rows, 0.7, 1)
    with threads(3):
        assert torch.equal(objective.loss(rows), expected)
        assert torch.equal(noised_loss(objective, rows, 0.7, 1), noised)
        again = goal_of(images_of(MAPS), n)
        assert torch.equal(again.terms[0].random, objective.terms[0].random)
    assert torch.equal(torch.cat([objective.loss(part) for part in rows.split(objective.batch)]), expected)
    assert torch.equal(torch.cat([objective.loss(part) for part in rows.split(2 * objective.batch)]), expected)
    # In other batches the processor's vectors are filled otherwise, which rounds differently.
    for size in (1, 3, 17):
        parts = torch.cat([objective.loss(part) for part in rows.split(size)])
        torch.testing.assert_close(parts, expected, rtol=1e-5, atol=1e-7)


def test_the_order_of_a_subset_changes_its_loss_by_rounding_alone(objective: Objective) -> None:
    rows = draw_random_subsets(TOTAL, 20, 8, seeded(7))
    torch.testing.assert_close(objective.loss(rows.flip(1)), objective.loss(rows), rtol=1e-5, atol=1e-7)


def test_scoring_leaves_the_number_of_threads_as_it_was(objective: Objective) -> None:
    with threads(3):
        objective.loss(draw_random_subsets(TOTAL, 20, 1, seeded(1)))
        assert torch.get_num_threads() == 3


def test_the_loss_does_not_depend_on_the_global_generator_nor_disturb_it(objective: Objective) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    rows = draw_random_subsets(TOTAL, 20, 8, seeded(8))
    first = goal_of(images_of(MAPS), 20).loss(rows)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(goal_of(images_of(MAPS), 20).loss(rows), first)


def one_noised_loss(objective: Objective, row: Tensor, temperature: float, draws: int) -> Tensor:
    """Noised losses of one subset by the parts: moments, noise, mix."""
    alpha, sigma2 = objective.langevin.coefficients(temperature)
    [term] = objective.terms
    images = term.block.images
    moments = compute_subset_moments(images, row.expand(draws, -1))
    assert objective.n > images.channels  # so that moments are enough
    noised = noised_subsets(moments, objective.n, images.positions, alpha, sigma2, seeded(50))
    source = noised_source(term.source, images.positions, alpha, sigma2)
    return compute_weighted_divergence(noised, source, term.coefficients)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_noised_losses_are_the_losses_of_noised_moments(objective: Objective, temperature: float) -> None:
    draws = 3000
    row = draw_random_subsets(TOTAL, 20, 1, seeded(9))[0]
    found = noised_loss(objective, row.expand(draws, -1), temperature, 1).numpy()
    expected = one_noised_loss(objective, row, temperature, draws).numpy()
    assert len(np.unique(found)) > 0.99 * draws  # no two alike, though the subset is the same in all blocks
    assert found.mean() == pytest.approx(expected.mean(), abs=5 * expected.std() * math.sqrt(2 / draws))
    assert found.std() == pytest.approx(expected.std(), rel=0.15)


def test_noise_follows_from_the_generator(objective: Objective) -> None:
    rows = draw_random_subsets(TOTAL, 20, 40, seeded(10))
    first, again, other = (noised_loss(objective, rows, 1.0, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    noised, generator = NoisyObjective(objective, 1.0), seeded(1)
    assert torch.equal(noised.loss(rows, generator), first)
    assert not torch.isclose(noised.loss(rows, generator), first).any()


def test_without_temperature_or_time_the_noise_ranks_as_the_loss_does(objective: Objective) -> None:
    rows = draw_random_subsets(TOTAL, 20, 40, seeded(11))
    still = goal_of(images_of(MAPS), 20, langevin=Langevin(1.0, 1.0, 0.0))
    torch.testing.assert_close(noised_loss(still, rows, 1.0, 1), objective.loss(rows), rtol=1e-6, atol=1e-9)
    # A contraction alone is an affine map: only the Frechet distance, in its own units, shrinks with it.
    cold = goal_of(images_of(MAPS), 20, Weights.parse("kl=1,js=1,hellinger=1"))
    torch.testing.assert_close(noised_loss(cold, rows, 0.0, 1), cold.loss(rows), rtol=1e-6, atol=1e-9)
    frechet = goal_of(images_of(MAPS), 20, Weights.parse("frechet=1"), Langevin(1.0, 1.0, 0.5))
    torch.testing.assert_close(
        noised_loss(frechet, rows, 0.0, 1), math.exp(-1) * frechet.loss(rows), rtol=1e-6, atol=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 5, 20, 60])
@pytest.mark.parametrize("text", ["1,1,1,1,1", "frechet=1", "kl=1", "kl=1,frechet=0.1"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_lowest_noised_losses_are_found_though_not_all_are_computed(n: int, text: str, temperature: float) -> None:
    objective = goal_of(images_of(MAPS), n, Weights.parse(text))
    rows = draw_random_subsets(TOTAL, n, 400, seeded(12))
    for count, seed in itertools.product((1, 3, 16, 100), (1, 2)):
        losses = noised_loss(objective, rows, temperature, seed)
        found = noised_lowest(objective, rows, count, temperature, seed)
        expected = losses.topk(count, largest=False).values
        torch.testing.assert_close(losses[found], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("text", ["1,1,1,1,1", "kl=1"])
def test_the_lowest_of_several_batches_are_the_lowest_of_all(text: str) -> None:
    objective = goal_of(images_of(MAPS), 20, Weights.parse(text))
    parts = draw_random_subsets(TOTAL, 20, 100, seeded(12)).split((40, 1, 59))
    noised = NoisyObjective(objective, 1.0)
    losses = torch.cat([noised.loss(part, seeded(seed)) for seed, part in enumerate(parts)])
    batches = [noised.batch(part, seeded(seed)) for seed, part in enumerate(parts)]
    assert noised.lowest(batches, 9).tolist() == losses.argsort()[:9].tolist()


def test_the_lowest_of_all_are_all_in_order(objective: Objective) -> None:
    rows = draw_random_subsets(TOTAL, 20, 30, seeded(12))
    losses = noised_loss(objective, rows, 1.0, 1)
    assert noised_lowest(objective, rows, 30, 1.0, 1).tolist() == losses.argsort().tolist()


@pytest.mark.parametrize("n", [1, 2, 10, 40])
def test_sums_in_float32_are_near_float64_for_fewer_images_than_channels(n: int) -> None:
    objective = goal_of(images_of(standardised(random_maps(100, 48, 2, seed=5))), n)
    rows = draw_random_subsets(100, n, 20, seeded(1))
    single, double = (objective.divergences(rows, dtype)[:, 0] for dtype in (torch.float32, torch.float64))
    # Rounding gives the missing directions a variance of 1e-8 or so, and the Frechet distance takes its root.
    torch.testing.assert_close(single, double, rtol=2e-3, atol=0)
    torch.testing.assert_close(single[:, :4], double[:, :4], rtol=1e-5, atol=0)


@pytest.mark.slow
def test_the_baseline_of_large_subsets_follows_from_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """To within 1 % from 512 images; from 8,192 it is far nearer."""
    blocks, n, draws = [Block("made up", made_up_source(4000, 8))], 1024, 20_000
    exact = objective_module.make_objective(blocks, n, Weights(), draws=draws)
    monkeypatch.setattr(objective_module, "MAX_BASELINE_IMAGES", n // 2)
    scaled = objective_module.make_objective(blocks, n, Weights(), draws=draws)
    assert not torch.equal(exact.terms[0].random, scaled.terms[0].random)
    for statistic in (torch.mean, torch.std):
        ratios = statistic(scaled.terms[0].random, 0) / statistic(exact.terms[0].random, 0)
        assert (ratios - 1).abs().max() < (0.01 if statistic is torch.mean else 0.03)


@pytest.mark.parametrize(("n", "total"), [(1, 2), (500, 10_000), (50, 1000)])
def test_the_effective_size(n: int, total: int) -> None:
    assert effective_sample_size(1.0, n, total) == pytest.approx(n)
    assert effective_sample_size(0.0, n, total) == pytest.approx(total)
    middle = (n + total) / 2
    loss = (1 / middle - 1 / total) / (1 / n - 1 / total)
    assert effective_sample_size(loss, n, total) == pytest.approx(middle)
    assert effective_sample_size(2.0, n, total) < n
    assert effective_sample_size(0.0, total, total) == pytest.approx(total)


def test_random_subsets_of_the_effective_size_have_the_loss() -> None:
    maps = standardised(random_maps(400, 3, 2, seed=4))
    small, large = (goal_of(images_of(maps), n, Weights.parse("wasserstein=1")) for n in (40, 160))
    small_values, large_values = (x.terms[0].random[:, DIVERGENCE_NAMES.index("wasserstein")] for x in (small, large))
    ratio = float(large_values.mean() / small_values.mean())
    errors = [float(values.std() / values.mean()) for values in (small_values, large_values)]
    error = math.hypot(*errors) / math.sqrt(N_BASELINE_SUBSETS)
    # E |m|^2 is proportional to 1/n - 1/N, and so is the rest but for terms of order 1 / n^2.
    assert effective_sample_size(ratio, 40, 400) == pytest.approx(160, rel=5 * error + 0.02)
