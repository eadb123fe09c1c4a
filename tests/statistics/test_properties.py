"""Properties of each divergence on whole sets of feature maps, where test_divergences.py looks at made-up normals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import random_maps, standardised

from imgsubset.divergence_weights import DIVERGENCE_NAMES, Weights
from imgsubset.statistics.divergences import DIVERGENCES, compute_weighted_divergence, frechet
from imgsubset.statistics.langevin import Langevin, noised_source
from imgsubset.statistics.moments import (
    ImageMoments,
    Moments,
    compute_all_moments,
    compute_subset_moments,
    fit_standardiser,
    maps_to_moments,
)

examples = settings(max_examples=25, deadline=None, derandomize=True)
BOUNDED = ("js", "hellinger")
NORMAL = ("kl", "js", "wasserstein", "hellinger")  # those that compare a channel's normals
SEEDS = st.integers(0, 2**32)
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 3))
"""n of one set, n of the other, channels, side of a map"""


def images_of(maps: np.ndarray) -> ImageMoments:
    return ImageMoments(maps_to_moments(torch.tensor(maps, dtype=torch.float64)), maps.shape[2] * maps.shape[3])


def moments(maps: np.ndarray) -> Moments:
    return compute_all_moments(images_of(maps))


def two_sets(sizes: tuple[int, int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Feature maps (n, C, side, side) of two sets that differ in place and spread, and vary in every channel."""
    one, other, channels, side = sizes
    rng = np.random.default_rng(seed)
    first = random_maps(max(one, 2), channels, side, seed % 1000)
    second = random_maps(max(other, 2), channels, side, seed % 1000 + 1) * rng.uniform(0.5, 2) + rng.normal()
    return first, second


def value(name: str, one: Moments, other: Moments) -> float:
    return float(DIVERGENCES[name](one, other))


def close(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-5, abs_tol=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
@examples
@given(sizes=SIZES, seed=SEEDS)
def test_no_two_sets_are_closer_than_a_set_is_to_itself(name: str, sizes: tuple[int, int, int, int], seed: int) -> None:
    one, other = (moments(maps) for maps in two_sets(sizes, seed))
    assert 0 <= value(name, one, one) < 1e-6
    assert 0 <= value(name, one, other) <= (1 if name in BOUNDED else math.inf)
    assert math.isfinite(value(name, one, other))
    if sizes[2] > 1 or sizes[3] > 1:
        assert value(name, one, other) > 1e-9


@pytest.mark.parametrize("name", [*BOUNDED, "frechet"])
@examples
@given(sizes=SIZES, seed=SEEDS)
def test_symmetric_ones_of_sets(name: str, sizes: tuple[int, int, int, int], seed: int) -> None:
    one, other = (moments(maps) for maps in two_sets(sizes, seed))
    assume(bool(((one.var / other.var).log().abs() < 10).all()))  # else the narrower counts as constant
    assert close(value(name, one, other), value(name, other, one))


@examples
@given(sizes=SIZES, seed=SEEDS)
def test_wasserstein_is_symmetric_in_equal_units(sizes: tuple[int, int, int, int], seed: int) -> None:
    """It is in units of the source's variance: times these it is the distance itself, channel by channel."""
    maps = two_sets(sizes, seed)
    for channel in range(sizes[2]):
        one, other = (moments(each[:, channel : channel + 1]) for each in maps)
        assume(float((one.var / other.var).log().abs()) < 10)
        forth = value("wasserstein", one, other) * float(other.var)
        assert close(forth, value("wasserstein", other, one) * float(one.var))
        means = float((one.mean - other.mean) ** 2)
        assert close(forth, means + float((one.var.sqrt() - other.var.sqrt()) ** 2))


@examples
@given(sizes=SIZES, seed=SEEDS)
def test_roots_of_distances_obey_the_triangle_inequality(sizes: tuple[int, int, int, int], seed: int) -> None:
    a, b = two_sets(sizes, seed)
    c, _ = two_sets(sizes, seed + 17)
    one, other, third = moments(a), moments(b), moments(c)
    for name in ("js", "frechet"):
        # Of one channel each: a mean of squares over channels has it too, but only of the same channels.
        direct, first, second = (math.sqrt(value(name, x, y)) for x, y in ((one, third), (one, other), (other, third)))
        assert direct <= first + second + 1e-5


@pytest.mark.parametrize("name", NORMAL)
@examples
@given(sizes=SIZES, seed=SEEDS)
def test_units_and_offsets_of_each_channel_do_not_matter(
    name: str, sizes: tuple[int, int, int, int], seed: int
) -> None:
    """Of the source: standardising, which is such a map, changes none of the first four; turned channels neither."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 10, (1, sizes[2], 1, 1)) * rng.choice([-1, 1], (1, sizes[2], 1, 1))
    shift = rng.normal(size=(1, sizes[2], 1, 1)) * 3
    one, other = two_sets(sizes, seed)
    before = value(name, moments(one), moments(other))
    assert close(value(name, moments(one * scale + shift), moments(other * scale + shift)), before)
    order = rng.permutation(sizes[2])
    assert close(value(name, moments(one[:, order]), moments(other[:, order])), before)


@examples
@given(sizes=SIZES, seed=SEEDS)
def test_frechet_does_not_change_under_rotations_and_translations_of_features(
    sizes: tuple[int, int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(sizes[2], sizes[2])))
    shift = rng.normal(size=(1, sizes[2], 1, 1))
    one, other = two_sets(sizes, seed)
    turned = (moments(np.einsum("dc,nchw->ndhw", basis, maps) + shift) for maps in (one, other))
    assert close(float(frechet(*turned)), float(frechet(moments(one), moments(other))))


@pytest.mark.parametrize("name", DIVERGENCES)
@examples
@given(sizes=SIZES, seed=SEEDS)
def test_the_order_and_the_repetition_of_images_do_not_matter(
    name: str, sizes: tuple[int, int, int, int], seed: int
) -> None:
    one, other = two_sets(sizes, seed)
    before = value(name, moments(one), moments(other))
    shuffled = one[np.random.default_rng(seed).permutation(len(one))]
    assert close(value(name, moments(shuffled), moments(other)), before)
    assert close(value(name, moments(np.repeat(one, 3, 0)), moments(np.repeat(other, 2, 0))), before)


# The Langevin noise: an Ornstein-Uhlenbeck step, which brings any two distributions closer


@pytest.mark.parametrize("name", ["kl", "js", "hellinger", "frechet"])
@examples
@given(sizes=SIZES, seed=SEEDS, temperature=st.floats(0, 4))
def test_noise_never_takes_two_sets_apart(
    name: str, sizes: tuple[int, int, int, int], seed: int, temperature: float
) -> None:
    """Data processing for the first three; a contraction by alpha and a common convolution for Frechet."""
    one, other = (moments(maps) for maps in two_sets(sizes, seed))
    assume(bool(((one.var / other.var).log().abs() < 10).all()))
    positions, last = sizes[3] ** 2, value(name, one, other)
    for time in (0.05, 0.2, 1.0, 5.0):
        coefficients = Langevin(1.0, 1.0, time).coefficients(temperature)
        now = value(name, *(noised_source(each, positions, *coefficients) for each in (one, other)))
        assert now <= last * (1 + 1e-6) + 1e-7
        last = now
    if temperature > 0.1:
        assert last < 1.0


@examples
@given(sizes=SIZES, seed=SEEDS, temperature=st.floats(0.5, 4))
def test_noise_brings_wasserstein_closer_in_units_of_the_source_before_it(
    sizes: tuple[int, int, int, int], seed: int, temperature: float
) -> None:
    one, other = two_sets(sizes, seed)
    images = images_of(other)
    scale = fit_standardiser(images)
    source, subset = compute_all_moments(scale.apply(images)), compute_all_moments(scale.apply(images_of(one)))
    last = value("wasserstein", subset, source)
    for time in (0.05, 0.2, 1.0, 5.0):
        coefficients = Langevin(1.0, 1.0, time).coefficients(temperature)
        noised = [noised_source(each, sizes[3] ** 2, *coefficients) for each in (subset, source)]
        now = value("wasserstein", *noised) * float(noised[1].var[0])
        assert now <= last * (1 + 1e-6) + 1e-7
        last = now


# Singular covariances: fewer images than channels, repeated images, repeated and dead channels


@pytest.mark.parametrize("name", DIVERGENCES)
@examples
@given(n=st.integers(1, 6), total=st.integers(2, 8), channels=st.integers(2, 20), side=st.integers(1, 2), seed=SEEDS)
def test_singular_covariances_are_finite_and_0_only_for_the_whole(
    name: str, n: int, total: int, channels: int, side: int, seed: int
) -> None:
    n = min(n, total)
    maps = standardised(random_maps(total, channels, side, seed % 1000))
    images = images_of(maps)
    source = compute_all_moments(images)
    found = value(name, *(compute_subset_moments(images, torch.arange(n)[None], torch.float64).take(0), source))
    assert 0 <= found <= (1 if name in BOUNDED else math.inf)
    assert math.isfinite(found)
    assert (found < 1e-6) == (n == total)


@examples
@given(ranks=st.tuples(st.integers(0, 3), st.integers(0, 3)), seed=SEEDS)
def test_frechet_of_covariances_without_a_common_direction_is_their_sum(ranks: tuple[int, int], seed: int) -> None:
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))
    cov = [torch.tensor(part @ part.T) for part in (basis[:, : ranks[0]] * 2, basis[:, 3 : 3 + ranks[1]] * 3)]
    one, other = (Moments(torch.zeros(6).double(), torch.ones(6).double(), each) for each in cov)
    assert float(frechet(one, other)) == pytest.approx(4 * ranks[0] + 9 * ranks[1], rel=1e-6, abs=1e-6)


# The mix

# Not so small that a factor makes it 0.
WEIGHTS = st.lists(st.just(0.0) | st.floats(1e-9, 1e3), min_size=5, max_size=5).filter(
    lambda values: max(values) > 1e-3
)


@examples
@given(values=WEIGHTS, factor=st.floats(1e-3, 1e3), sizes=SIZES, seed=SEEDS)
def test_only_the_proportions_of_the_weights_matter(
    values: list[float], factor: float, sizes: tuple[int, int, int, int], seed: int
) -> None:
    one, other = (moments(maps) for maps in two_sets(sizes, seed))
    shares = Weights(*values).shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert Weights(*(value * factor for value in values)).shares() == pytest.approx(shares)
    parts = {name: value(name, one, other) for name in DIVERGENCE_NAMES}
    found = float(compute_weighted_divergence(one, other, shares))
    assert found == pytest.approx(sum(share * parts[name] for name, share in shares.items()))
    counted = [parts[name] for name in shares]
    assert min(counted) * (1 - 1e-9) <= found <= max(counted) * (1 + 1e-9)
