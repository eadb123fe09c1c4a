from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from reference import Array, noised_moments, random_maps, set_moments, standardised, worst_disagreement

from imgsubset.statistics.divergences import DIVERGENCES
from imgsubset.statistics.langevin import Langevin, noised_source, noised_subsets
from imgsubset.statistics.moments import ImageMoments, Moments, compute_subset_moments, maps_to_moments

DRAWS = 4_000
SIGMAS = 5.0  # standard errors; some hundred statistics are compared at once
ALPHA, SIGMA2 = 0.8, 0.36

# n, side of a map, channels: the degrees of freedom of the covariance are n - 1.
SHAPES = {
    "n - 1 > 2 C": (9, 2, 3),
    "n - 1 = 2 C": (7, 2, 3),
    "n - 1 > C, Wishart of fewer degrees than channels": (7, 2, 4),
    "n - 1 = C + 1": (5, 2, 3),
    "n - 1 = C": (5, 2, 4),
    "n - 1 < C": (3, 2, 4),
    "two images": (2, 2, 3),
    "one image": (1, 2, 3),
    "one channel": (6, 2, 1),
    "one position": (8, 1, 3),
    "one position, Wishart of fewer degrees than channels": (7, 1, 4),
    "one position, Wishart of one degree": (6, 1, 4),
    "one position, n - 1 < C": (3, 1, 4),
    "one image of one position": (1, 1, 2),
    "many positions": (4, 4, 2),
}


def moments_of(maps: Array) -> Moments:
    return Moments(*(torch.tensor(x) for x in set_moments(maps)))


def repeated(moments: Moments, draws: int = DRAWS) -> Moments:
    return Moments(*(x.expand(draws, *x.shape).clone() for x in (moments.mean, moments.var, moments.cov)))


def flat(mean: Array, var: Array, cov: Array) -> Array:
    """All of m', v' and the upper triangle of Sigma' of each draw, side by side."""
    rows, columns = np.triu_indices(mean.shape[1])
    return np.concatenate([mean, var, cov[:, rows, columns]], 1)


def drawn(maps: Array, alpha: float, sigma2: float, seed: int, **wrong: Any) -> Array:
    n, positions = len(maps), maps.shape[2] * maps.shape[3]
    vectors = torch.tensor(maps.mean((2, 3)), dtype=torch.float32).expand(DRAWS, -1, -1)
    arguments = {"n": n, "positions": positions, "vectors": vectors, **wrong}
    generator = torch.Generator().manual_seed(seed)
    found = noised_subsets(repeated(moments_of(maps)), alpha=alpha, sigma2=sigma2, generator=generator, **arguments)
    return flat(found.mean.numpy(), found.var.numpy(), found.cov.numpy())


@pytest.fixture(scope="module")
def source() -> Array:
    return standardised(random_maps(12, 4, 4, seed=1))


def subset(source: Array, shape: tuple[int, int, int]) -> Array:
    n, side, channels = shape
    return source[:n, :channels, :side, :side]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("alpha", "sigma2"), [(ALPHA, SIGMA2), (0.95, 2.0), (0.1, 4.0)])
def test_the_exact_draw_is_distributed_as_noise_on_every_position(
    source: Array, shape: tuple[int, int, int], alpha: float, sigma2: float
) -> None:
    maps = subset(source, shape)
    brute = flat(*noised_moments(maps, alpha, sigma2, DRAWS, seed=1))
    assert worst_disagreement(drawn(maps, alpha, sigma2, seed=2), brute) < SIGMAS


@pytest.mark.parametrize("shape", [(9, 2, 3), (7, 2, 4), (3, 2, 4), (8, 1, 3), (1, 2, 3)])
@pytest.mark.parametrize(
    ("alpha", "sigma2", "positions"),
    [(1.0, 2.0, 1), (1.0, 0.5, 1), (1.1, 1.0, 1), (0.9, 1.0, 1), (1.0, 1.0, 2)],
    ids=["twice sigma^2", "half sigma^2", "larger alpha", "smaller alpha", "twice the positions"],
)
def test_a_wrong_factor_would_be_seen(
    source: Array, shape: tuple[int, int, int], alpha: float, sigma2: float, positions: int
) -> None:
    maps = subset(source, shape)
    brute = flat(*noised_moments(maps, ALPHA, SIGMA2, DRAWS, seed=1))
    wrong = {"positions": positions * maps.shape[2] * maps.shape[3]}
    assert worst_disagreement(drawn(maps, alpha * ALPHA, sigma2 * SIGMA2, seed=2, **wrong), brute) > 2 * SIGMAS


@pytest.mark.parametrize("shape", [(9, 2, 3), (3, 2, 4), (8, 1, 3)])
def test_independent_noise_for_mean_variance_and_covariance_would_be_seen(
    source: Array, shape: tuple[int, int, int]
) -> None:
    maps = subset(source, shape)
    channels = shape[2]
    shuffled = drawn(maps, ALPHA, SIGMA2, seed=2)
    shuffled[:, channels : 2 * channels] = np.roll(shuffled[:, channels : 2 * channels], 1, axis=0)
    brute = flat(*noised_moments(maps, ALPHA, SIGMA2, DRAWS, seed=1))
    assert worst_disagreement(shuffled, brute) > 2 * SIGMAS


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_mean_of_the_draws_is_known(source: Array, shape: tuple[int, int, int]) -> None:
    maps = subset(source, shape)
    n, side, channels = shape
    mean, var, cov = set_moments(maps)
    # A variance over k values loses one k-th of the noise to the mean.
    expected = flat(
        ALPHA * mean[None],
        (ALPHA**2 * var + SIGMA2 * (1 - 1 / (n * side**2)))[None],
        (ALPHA**2 * cov + SIGMA2 / side**2 * (1 - 1 / n) * np.eye(channels))[None],
    )[0]
    found = drawn(maps, ALPHA, SIGMA2, seed=3)
    error = found.std(0) / math.sqrt(DRAWS) + 1e-9
    assert (np.abs(found.mean(0) - expected) / error).max() < SIGMAS


@pytest.mark.parametrize(
    "maps",
    [
        random_maps(2, 3, 2, seed=4)[np.arange(8) % 2],
        random_maps(8, 2, 2, seed=5)[:, [0, 1, 0]],
        np.repeat(random_maps(1, 3, 2, seed=6), 8, axis=0),
        np.ones((8, 3, 2, 2)),
    ],
    ids=["duplicates", "repeated channel", "identical images", "constant maps"],
)
def test_singular_covariances_are_noised_exactly(maps: Array) -> None:
    brute = flat(*noised_moments(maps, ALPHA, SIGMA2, DRAWS, seed=1))
    assert worst_disagreement(drawn(maps, ALPHA, SIGMA2, seed=2), brute) < SIGMAS


@pytest.mark.parametrize("channels", [8, 64])
@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_singular_covariances_rounded_to_float32_can_be_noised(distinct: int, channels: int) -> None:
    maps = standardised(random_maps(distinct, channels, 2, seed=7)[np.arange(300) % distinct])
    images = ImageMoments(maps_to_moments(torch.tensor(maps, dtype=torch.float32)), 4)
    rows = torch.stack([torch.randperm(300, generator=torch.Generator().manual_seed(k))[:200] for k in range(32)])
    found = noised_subsets(
        compute_subset_moments(images, rows), 200, 4, ALPHA, SIGMA2, torch.Generator().manual_seed(1)
    )
    assert all(torch.isfinite(x).all() for x in (found.mean, found.var, found.cov))


def test_the_source_is_noised_in_expectation() -> None:
    count, side, draws = 200, 2, 500
    maps = standardised(random_maps(count, 3, side, seed=2))
    expected = noised_source(moments_of(maps), side**2, ALPHA, SIGMA2)
    brute = noised_moments(maps, ALPHA, SIGMA2, draws, seed=1)
    for found, wanted in zip(brute, (expected.mean, expected.var, expected.cov), strict=True):
        error = found.std(0) / math.sqrt(draws)
        # The mean of N images takes at most one N-th of the noise away.
        assert (np.abs(found.mean(0) - wanted.numpy()) < SIGMAS * error + SIGMA2 / side**2 / count + 1e-9).all()


def test_noising_the_source_leaves_it_as_it_was(source: Array) -> None:
    moments = moments_of(source)
    before = moments.cov.clone()
    noised_source(moments, 4, ALPHA, SIGMA2)
    noised_subsets(repeated(moments, 1), 12, 4, ALPHA, SIGMA2, torch.Generator())
    assert torch.equal(moments.cov, before)


@pytest.mark.parametrize("cooling", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("temperature", "friction", "time"), [(1.0, 1.0, 0.1), (2.0, 0.5, 3.0), (0.3, 4.0, 0.01)])
def test_the_coefficients_are_the_limit_of_the_discretised_chain(
    temperature: float, friction: float, time: float, cooling: float
) -> None:
    steps = 20_000
    dt = time / steps
    mean, variance = 1.0, 0.0
    for _ in range(steps):  # x += -gamma x dt + sqrt(2 gamma kT dt) xi
        mean *= 1 - friction * dt
        variance = (1 - friction * dt) ** 2 * variance + 2 * friction * cooling * temperature * dt
    found = Langevin(1.0, friction, time).coefficients(cooling * temperature)
    assert found == pytest.approx((mean, variance), rel=1e-3)


@pytest.mark.parametrize(("friction", "time"), [(0.0, 1.0), (1.0, 0.0), (1e-12, 1.0)])
def test_no_friction_or_no_time_moves_nothing(friction: float, time: float) -> None:
    alpha, sigma2 = Langevin(1.0, friction, time).coefficients(1.0)
    assert alpha == pytest.approx(1, abs=1e-11)
    assert sigma2 == pytest.approx(2 * friction * time, rel=1e-9)


@pytest.mark.parametrize("time", [0.01, 0.1, 1.0, 50.0])
def test_a_standardised_source_is_stationary_under_temperature_1(source: Array, time: float) -> None:
    alpha, sigma2 = Langevin(1.0, 1.0, time).coefficients(1.0)
    noised = noised_source(moments_of(source), 16, alpha, sigma2)
    np.testing.assert_allclose(noised.mean, 0, atol=1e-12)
    np.testing.assert_allclose(noised.var, 1, rtol=1e-12)


def test_temperature_0_is_a_pure_contraction(source: Array) -> None:
    moments = repeated(moments_of(source[:5]), 3)
    generator = torch.Generator().manual_seed(1)
    alpha, sigma2 = Langevin(1.0, 1.0, 0.5).coefficients(0.0)
    assert (alpha, sigma2) == (math.exp(-0.5), 0)
    found = noised_subsets(moments, 5, 16, alpha, sigma2, generator)
    torch.testing.assert_close(found.mean, alpha * moments.mean)
    torch.testing.assert_close(found.var, alpha**2 * moments.var)
    torch.testing.assert_close(found.cov, alpha**2 * moments.cov)
    whole = noised_source(moments_of(source), 16, alpha, sigma2)
    torch.testing.assert_close(whole.cov, alpha**2 * moments_of(source).cov)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_fall_as_both_relax_to_equilibrium(source: Array, name: str) -> None:
    whole, part = moments_of(source), moments_of(source[:4])
    values = []
    for time in (0.0, 0.05, 0.1, 0.3, 1.0, 3.0):
        noise = Langevin(1.0, 1.0, time).coefficients(1.0)
        values.append(float(DIVERGENCES[name](noised_source(part, 16, *noise), noised_source(whole, 16, *noise))))
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.05 * values[0]


@pytest.mark.parametrize("shape", [(9, 2, 3), (3, 2, 4)])
def test_draws_follow_from_the_seed(source: Array, shape: tuple[int, int, int]) -> None:
    maps = subset(source, shape)
    first, again, other = (drawn(maps, ALPHA, SIGMA2, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert not np.isclose(first, other).all(0).any()


def test_a_batch_holds_different_subsets(source: Array) -> None:
    sets = [moments_of(source[:6]), moments_of(source[3:9])]
    batch = Moments(*(torch.stack(x) for x in zip(*((s.mean, s.var, s.cov) for s in sets), strict=True)))
    wide = Moments(*(x.repeat_interleave(DRAWS, 0) for x in (batch.mean, batch.var, batch.cov)))
    found = noised_subsets(wide, 6, 16, ALPHA, SIGMA2, torch.Generator().manual_seed(1))
    for k, maps in enumerate((source[:6], source[3:9])):
        part = slice(k * DRAWS, (k + 1) * DRAWS)
        values = flat(found.mean[part].numpy(), found.var[part].numpy(), found.cov[part].numpy())
        brute = flat(*noised_moments(maps, ALPHA, SIGMA2, 4000, seed=1))
        assert worst_disagreement(values, brute) < SIGMAS
