from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import (
    Array,
    five,
    frechet_by_root,
    frechet_of_rows,
    hellinger_by_quadrature,
    js_by_quadrature,
    kl_by_quadrature,
    random_maps,
    standardised,
    wasserstein_by_quadrature,
)

from imgsubset.divergence_weights import DIVERGENCE_NAMES
from imgsubset.statistics.divergences import (
    DIVERGENCES,
    MIN_VARIANCE,
    compute_weighted_divergence,
    frechet,
    frechet_bound,
)
from imgsubset.statistics.moments import (
    ImageMoments,
    Moments,
    compute_all_moments,
    compute_subset_moments,
    maps_to_moments,
)

BY_QUADRATURE: dict[str, Callable[[float, float, float, float], float]] = {
    "kl": kl_by_quadrature,
    "js": js_by_quadrature,
    "wasserstein": wasserstein_by_quadrature,
    "hellinger": hellinger_by_quadrature,
}
UNIVARIATE = tuple(BY_QUADRATURE)
MEANS = (0.0, 0.1, 1.0, 3.0)
DEVIATIONS = (0.05, 0.3, 0.7, 0.95, 1.0, 1.1, 2.0, 5.0, 20.0)


def moments_of(mean: Array | list[float], var: Array | list[float], cov: Array | None = None) -> Moments:
    mean = torch.as_tensor(mean, dtype=torch.float64)
    cov = torch.eye(mean.shape[-1], dtype=torch.float64) if cov is None else torch.as_tensor(cov, dtype=torch.float64)
    return Moments(mean, torch.as_tensor(var, dtype=torch.float64), cov)


STANDARD = moments_of([0.0], [1.0])


def value(name: str, mean: float, sd: float, source: Moments = STANDARD) -> float:
    return float(DIVERGENCES[name](moments_of([mean], [sd**2]), source))


def images_of(maps: Array) -> ImageMoments:
    return ImageMoments(maps_to_moments(torch.tensor(maps, dtype=torch.float32)), maps.shape[2] * maps.shape[3])


def rows_of(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


def covariance(channels: int, rank: int, seed: int) -> Array:
    half = np.random.default_rng(seed).normal(size=(rank, channels))
    return half.T @ half / max(rank, 1)


def test_the_table_has_the_names_that_weights_have() -> None:
    assert tuple(DIVERGENCES) == DIVERGENCE_NAMES


@pytest.mark.parametrize("sd", DEVIATIONS)
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("name", UNIVARIATE)
def test_divergences_of_normals_agree_with_quadrature(name: str, mean: float, sd: float) -> None:
    expected = BY_QUADRATURE[name](mean, sd, 0.0, 1.0)
    assert value(name, mean, sd) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("mean", "sd"), [(-2.0, 3.0), (1.0, 1.5), (-8.0, 0.4)])
@pytest.mark.parametrize("name", UNIVARIATE)
def test_a_source_need_not_be_standard(name: str, mean: float, sd: float) -> None:
    expected = BY_QUADRATURE[name](mean, sd, -2.0, 3.0)
    assert value(name, mean, sd, moments_of([-2.0], [9.0])) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("mean", "sd"), [(1e-3, 1.0), (0.0, 1.001), (2e-4, 0.9999), (1e-5, 1 + 1e-5)])
@pytest.mark.parametrize("name", UNIVARIATE)
def test_small_differences_are_not_lost_in_rounding(name: str, mean: float, sd: float) -> None:
    expected = BY_QUADRATURE[name](mean, sd, 0.0, 1.0)
    assert value(name, mean, sd) == pytest.approx(expected, rel=1e-4, abs=1e-14)
    assert value(name, mean, sd) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", UNIVARIATE)
def test_channels_are_averaged(name: str) -> None:
    means, deviations = [0.0, 1.0, -2.0], [0.5, 1.0, 3.0]
    together = DIVERGENCES[name](moments_of(means, np.square(deviations)), moments_of([0.0] * 3, [1.0] * 3))
    apart = [value(name, mean, sd) for mean, sd in zip(means, deviations, strict=True)]
    assert float(together) == pytest.approx(sum(apart) / 3)


@pytest.mark.parametrize(("channels", "seed"), [(1, 1), (2, 2), (5, 3), (16, 4)])
def test_frechet_agrees_with_the_matrix_square_root(channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cov, source_cov = covariance(channels, 2 * channels, seed), covariance(channels, 3 * channels, seed + 100)
    mean, source_mean = rng.normal(size=(2, channels))
    ones = np.ones(channels)
    found = float(frechet(moments_of(mean, ones, cov), moments_of(source_mean, ones, source_cov)))
    assert found == pytest.approx(frechet_by_root(mean, cov, source_mean, source_cov), rel=1e-6)


def test_frechet_of_diagonal_covariances_is_a_sum_over_channels() -> None:
    subset, source = (
        moments_of([1.0, 2], [1.0, 1], np.diag([4.0, 9])),
        moments_of([0.0, 0], [1.0, 1], np.diag([1.0, 0])),
    )
    assert float(frechet(subset, source)) == pytest.approx(1 + 4 + (2 - 1) ** 2 + 3**2)


@pytest.mark.parametrize(
    ("n", "total"), [(n, total) for total in (3, 8, 9, 40) for n in (1, 2, 3, 8, 30) if n <= total]
)
def test_frechet_of_singular_covariances_agrees_with_a_nuclear_norm(n: int, total: int) -> None:
    maps = random_maps(total, 8, 2, seed=total)
    images = images_of(maps)
    rows = list(range(n))
    found = float(frechet(compute_subset_moments(images, rows_of(rows), torch.float64), compute_all_moments(images)))
    features = images.mean.double().numpy()
    assert found == pytest.approx(frechet_of_rows(features[rows], features), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", [1, 2])
def test_all_five_agree_with_references_on_feature_maps(seed: int) -> None:
    maps = standardised(random_maps(15, 4, 2, seed)).astype(np.float32).astype(np.float64)
    images, rows = images_of(maps), [0, 3, 4, 9, 11, 14]
    subset, source = compute_subset_moments(images, rows_of(rows), torch.float64), compute_all_moments(images)
    found = {name: float(divergence(subset, source)) for name, divergence in DIVERGENCES.items()}
    # The table of moments is rounded to float32.
    assert found == pytest.approx(five(maps[rows], maps), rel=2e-5)


SOURCES = {
    "many": random_maps(60, 6, 2, seed=1),
    "fewer than channels": random_maps(5, 12, 2, seed=2),
    "one": random_maps(1, 4, 2, seed=3),
    "duplicates": random_maps(3, 8, 2, seed=4)[np.arange(60) % 3],
    "identical": random_maps(1, 6, 2, seed=5)[np.zeros(20, int)],
    "one position": random_maps(30, 6, 1, seed=6),
    "repeated channels": random_maps(30, 4, 2, seed=7)[:, np.arange(8) % 4],
}


@pytest.mark.parametrize("maps", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_source_is_at_distance_0_from_itself(name: str, maps: Array) -> None:
    source = compute_all_moments(images_of(standardised(maps)))
    assert 0 <= float(DIVERGENCES[name](source, source)) < 1e-9
    permuted = compute_subset_moments(images_of(standardised(maps)), torch.randperm(len(maps))[None], torch.float64)
    assert 0 <= float(DIVERGENCES[name](permuted, source)) < 1e-9


@pytest.mark.parametrize("smallest", [1e-3, 1e-6, 1e-8, 1e-9, 1e-10, 1e-12, 1e-14])
def test_an_ill_conditioned_source_is_at_distance_0_from_itself(smallest: float) -> None:
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(30):
        basis, _ = np.linalg.qr(rng.normal(size=(16, 16)))
        cov = (basis * np.geomspace(1, smallest, 16)) @ basis.T
        source = moments_of(np.zeros(16), np.ones(16), (cov + cov.T) / 2)
        worst = max(worst, float(frechet(source, source)))
    assert worst < 2e-8


@pytest.mark.parametrize("n", [1, 2, 5, 11, 12, 13, 40])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_subsets_of_every_size_have_finite_divergences(name: str, n: int) -> None:
    images = images_of(standardised(random_maps(40, 12, 2, seed=8)))
    found = DIVERGENCES[name](compute_subset_moments(images, torch.arange(n)[None]), compute_all_moments(images))
    assert torch.isfinite(found).all()
    assert (found > 1e-6).all() if n < 40 else (found < 1e-6).all()


@pytest.mark.parametrize("name", UNIVARIATE)
def test_constant_images_count_as_varying_a_little(name: str) -> None:
    floor = math.sqrt(MIN_VARIANCE)
    assert value(name, 0.5, 0.0) == value(name, 0.5, floor) < math.inf
    assert value(name, 0.0, 0.0) > value(name, 0.0, 0.1)
    # In units of the source's variance, whatever that is.
    wide = moments_of([0.0], [100.0])
    assert value(name, 5.0, 0.0, wide) == pytest.approx(value(name, 0.5, 0.0))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_no_channels_is_no_distance(name: str) -> None:
    none = Moments(torch.zeros(3, 0), torch.zeros(3, 0), torch.zeros(3, 0, 0))
    source = Moments(none.mean[0], none.var[0], none.cov[0])
    assert DIVERGENCES[name](none, source).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_batch_of_subsets_has_the_divergences_of_each(name: str) -> None:
    images = images_of(standardised(random_maps(40, 5, 2, seed=9)))
    rows = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(k))[:9] for k in range(12)])
    source, together = compute_all_moments(images), compute_subset_moments(images, rows, torch.float64)
    found = DIVERGENCES[name](together, source)
    assert found.shape == (12,)
    apart = [float(DIVERGENCES[name](compute_subset_moments(images, row[None], torch.float64), source)) for row in rows]
    assert found.tolist() == pytest.approx(apart, rel=1e-11)
    folded = Moments(*(x.unflatten(0, (3, 4)) for x in (together.mean, together.var, together.cov)))
    assert DIVERGENCES[name](folded, source).flatten().tolist() == pytest.approx(apart, rel=1e-11)


def test_the_mix_is_the_sum_weighted_by_coefficients() -> None:
    subset, source = moments_of([0.3, -1], [2.0, 0.5], covariance(2, 4, 1)), moments_of([0.0, 0], [1.0, 1])
    coefficients = {"kl": 2.0, "js": 30.0, "frechet": 0.25}
    expected = sum(c * float(DIVERGENCES[name](subset, source)) for name, c in coefficients.items())
    assert float(compute_weighted_divergence(subset, source, coefficients)) == pytest.approx(expected, rel=1e-12)


SECOND_ORDER: dict[str, Callable[[float, float], float]] = {
    "kl": lambda m, d: m**2 / 2 + d**2 / 4,
    "js": lambda m, d: (m**2 / 8 + d**2 / 16) / math.log(2),
    "wasserstein": lambda m, d: m**2 + d**2 / 4,
    "hellinger": lambda m, d: m**2 / 8 + d**2 / 16,
}
STEPS = (0.04, 0.02, 0.01)


def assert_cubic(exact: list[float], quadratic: list[float]) -> None:
    """That exact / quadratic goes to 1, and that halving the step divides the error by 8 or more, but for 10 %."""
    errors = [abs(a - b) for a, b in zip(exact, quadratic, strict=True)]
    assert exact[-1] == pytest.approx(quadratic[-1], rel=0.02)
    for larger, smaller in pairwise(errors):
        assert smaller < larger / 7.2 + 1e-13


@pytest.mark.parametrize(("m", "d"), [(1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (1.0, 1.0), (0.5, -0.7)])
@pytest.mark.parametrize("name", UNIVARIATE)
def test_near_the_source_a_divergence_is_the_documented_quadratic_form(name: str, m: float, d: float) -> None:
    exact = [value(name, m * step, math.sqrt(1 + d * step)) for step in STEPS]
    assert_cubic(exact, [SECOND_ORDER[name](m * step, d * step) for step in STEPS])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_near_the_source_frechet_is_the_documented_quadratic_form(seed: int) -> None:
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    spectrum = np.array([0.5, 1, 2, 4])
    change = rng.normal(size=(4, 4))
    change, mean = (change + change.T) / 8, rng.normal(size=4)
    source = moments_of(np.zeros(4), np.ones(4), (basis * spectrum) @ basis.T)
    exact, quadratic = [], []
    for step in STEPS:
        moved = (basis * spectrum) @ basis.T + step * basis @ change @ basis.T
        exact.append(float(frechet(moments_of(step * mean, np.ones(4), moved), source)))
        sums = spectrum[:, None] + spectrum[None, :]
        quadratic.append(step**2 * ((mean**2).sum() + (change**2 / sums).sum() / 2))
    assert_cubic(exact, quadratic)


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


NORMAL = st.tuples(numbers(-10, 10), numbers(-2, 2)).map(lambda pair: (pair[0], 10 ** pair[1]))  # mean, sd
NORMALS = st.integers(1, 4).flatmap(lambda channels: st.lists(NORMAL, min_size=channels, max_size=channels))
PAIR = st.integers(1, 4).flatmap(lambda channels: st.lists(st.tuples(NORMAL, NORMAL), min_size=channels, max_size=4))
examples = settings(max_examples=40, deadline=None, derandomize=True)


def normals(pairs: list[tuple[float, float]]) -> Moments:
    mean, sd = np.array(pairs).T
    return moments_of(mean, sd**2, np.diag(sd**2))


@pytest.mark.parametrize("name", UNIVARIATE)
@examples
@given(pairs=PAIR)
def test_divergences_are_in_their_range(
    name: str, pairs: list[tuple[tuple[float, float], tuple[float, float]]]
) -> None:
    subset, source = (normals(list(side)) for side in zip(*pairs, strict=True))
    found = float(DIVERGENCES[name](subset, source))
    assert 0 <= found <= (1 if name in ("js", "hellinger") else math.inf)
    assert math.isfinite(found)


@pytest.mark.parametrize("name", DIVERGENCES)
@examples
@given(source=NORMALS, shift=numbers(-1, 1), stretch=numbers(-1, 1), channel=st.integers(0, 3))
def test_divergences_are_0_at_equality_and_nowhere_else(
    name: str, source: list[tuple[float, float]], shift: float, stretch: float, channel: int
) -> None:
    assert (
        0 <= float(DIVERGENCES[name](normals(source), normals(source))) < 1e-9 * max(sd for _, sd in source) ** 2 + 1e-9
    )
    assume(max(abs(shift), abs(stretch)) > 0.01)
    subset = list(source)
    mean, sd = source[channel % len(source)]
    subset[channel % len(source)] = mean + shift * sd, sd * math.exp(stretch)
    # The smallest second-order form there is: an eighth of the squared shift, averaged over four channels.
    unit = sd**2 if name == "frechet" else 1
    assume(name != "frechet" or sd > 1e-3 * max(sd for _, sd in source))
    assert float(DIVERGENCES[name](normals(subset), normals(source))) > 0.01**2 / 8 / 4 / 4 * unit


@pytest.mark.parametrize("name", ["js", "hellinger"])
@examples
@given(pairs=PAIR)
def test_js_and_hellinger_are_symmetric(
    name: str, pairs: list[tuple[tuple[float, float], tuple[float, float]]]
) -> None:
    one, other = (normals(list(side)) for side in zip(*pairs, strict=True))
    # Where one is a thousand times wider, the narrower counts as constant.
    assume(all(1e-3 < a[1] / b[1] < 1e3 for a, b in pairs))
    forth, back = float(DIVERGENCES[name](one, other)), float(DIVERGENCES[name](other, one))
    assert forth == pytest.approx(back, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", UNIVARIATE)
@examples
@given(pairs=PAIR, scale=numbers(-1, 1), sign=st.sampled_from((-1, 1)), shift=numbers(-10, 10))
def test_divergences_of_normals_are_invariant_under_affine_maps(
    name: str, pairs: list[tuple[tuple[float, float], tuple[float, float]]], scale: float, sign: int, shift: float
) -> None:
    factor = sign * 10**scale
    before = [normals(list(side)) for side in zip(*pairs, strict=True)]
    after = [Moments(factor * x.mean + shift, factor**2 * x.var, x.cov) for x in before]
    found = float(DIVERGENCES[name](*after))
    assert found == pytest.approx(float(DIVERGENCES[name](*before)), rel=1e-7, abs=1e-10)


def test_kl_punishes_a_subset_that_misses_a_part_more_than_one_that_adds_a_part() -> None:
    assert value("kl", 0.0, 0.5) > 2 * value("kl", 0.0, 2.0)


SHAPES = {
    "channels": st.integers(1, 6),
    "ranks": st.tuples(st.integers(0, 7), st.integers(0, 7)),
    "seed": st.integers(0, 2**32),
}


def gaussians(channels: int, ranks: tuple[int, int], seed: int) -> tuple[Moments, Moments]:
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(2, channels))
    one, other = (
        moments_of(mean, np.ones(channels), covariance(channels, rank, seed + k))
        for k, (mean, rank) in enumerate(zip(means, ranks, strict=True))
    )
    return one, other


@examples
@given(**SHAPES)
def test_frechet_is_symmetric_and_bounded_by_means_and_traces(channels: int, ranks: tuple[int, int], seed: int) -> None:
    one, other = gaussians(channels, ranks, seed)
    found = float(frechet(one, other))
    # A vanishing eigenvalue is rounded to 1e-16, and its root to 1e-8.
    assert found == pytest.approx(float(frechet(other, one)), rel=1e-6, abs=1e-6)
    apart = float((one.mean - other.mean).square().sum())
    roots = float(one.cov.trace()) ** 0.5, float(other.cov.trace()) ** 0.5
    assert found > apart - 1e-6
    assert found < apart + roots[0] ** 2 + roots[1] ** 2 + 1e-6  # 2-Wasserstein of independent coupling
    # Gelbrich: no closer than their best coupling; the traces' roots are norms of the matrices' roots.
    assert found > apart + (roots[0] - roots[1]) ** 2 - 1e-6


@examples
@given(**SHAPES)
def test_the_bound_of_frechet_is_below_it(channels: int, ranks: tuple[int, int], seed: int) -> None:
    subset, source = gaussians(channels, ranks, seed)
    found, bound = float(frechet(subset, source)), float(frechet_bound(subset, source))
    assert 0 <= bound < found + 1e-6


def test_the_bound_of_frechet_is_reached_where_covariances_have_common_axes() -> None:
    subset, source = (
        moments_of([1.0, 2], [1.0, 1], np.diag([4.0, 9])),
        moments_of([0.0, 0], [1.0, 1], np.diag([1.0, 4])),
    )
    assert float(frechet_bound(subset, source)) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 2) ** 2)
    turned = moments_of([1.0, 2], [1.0, 1], [[6.5, 2.5], [2.5, 6.5]])
    assert 5 < float(frechet_bound(turned, source)) < float(frechet(turned, source)) - 0.01


@examples
@given(**SHAPES, scale=numbers(0.1, 10))
def test_frechet_is_invariant_under_rotations_and_scales_with_the_square(
    channels: int, ranks: tuple[int, int], seed: int, scale: float
) -> None:
    pair = gaussians(channels, ranks, seed)
    basis, _ = torch.linalg.qr(
        torch.randn(channels, channels, generator=torch.Generator().manual_seed(seed % 2**32)).double()
    )
    turned = [Moments(scale * x.mean @ basis + 3, x.var, scale**2 * basis.mT @ x.cov @ basis) for x in pair]
    expected = scale**2 * float(frechet(*pair))
    assert float(frechet(*turned)) == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale**2)
