from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from reference import Array, frechet_by_root, frechet_of_rows, js_by_quadrature
from scipy import stats

from imgsubset.statistics import permutation
from imgsubset.statistics.divergences import DIVERGENCES, MIN_VARIANCE
from imgsubset.statistics.moments import ImageMoments
from imgsubset.statistics.permutation import MIN_REFERENCE_VARIANCE, TwoSampleResult, run_two_sample_test

POSITIONS = 16


def made_up(count: int, channels: int = 3, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> ImageMoments:
    """Raw moments, of channels that are correlated and of unequal mean and scale; all of one distribution, unless
    shifted or scaled."""
    world = np.random.default_rng(channels)
    mixing = world.normal(size=(channels, channels)) + np.eye(channels)
    unit, offset = world.uniform(0.5, 3, channels), world.normal(size=channels)
    rng = np.random.default_rng([seed, count])
    raw = rng.normal(size=(count, channels))
    mean = ((scale * (raw + 0.3 * raw**2)) @ mixing + shift) * unit + offset
    square = mean**2 + rng.uniform(0.5, 1.5, (count, channels)) * unit**2
    return ImageMoments(torch.tensor(np.hstack([mean, square]), dtype=torch.float32), POSITIONS)


def repeated(count: int, mean: float, within: float, channels: int = 3) -> ImageMoments:
    """One picture, many times."""
    row = [mean] * channels + [mean**2 + within] * channels
    return ImageMoments(torch.tensor([row] * count, dtype=torch.float32), POSITIONS)


def taken(images: ImageMoments, rows: list[int]) -> ImageMoments:
    return ImageMoments(images.table[rows], images.positions)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def compared(first: ImageMoments, second: ImageMoments, draws: int = 100) -> TwoSampleResult:
    return run_two_sample_test([first], [second], 1, draws)[0]


def slowly(first: Array, second: Array, quadrature: bool = False) -> list[float]:
    """The five divergences of raw rows (N, 2 C) from others, in float64, in units of the first."""
    channels = first.shape[1] // 2
    center = first[:, :channels].mean(0)
    scale = np.sqrt(first[:, channels:].mean(0) - center**2)
    features = [(rows[:, :channels] - center) / scale for rows in (first, second)]
    square = (second[:, channels:] - 2 * center * second[:, :channels] + center**2) / scale**2
    m = features[1].mean(0)
    v = square.mean(0) - m**2
    s = np.sqrt(v)
    kl = np.log(s) + (1 + m**2) / (2 * v) - 1 / 2
    wasserstein = m**2 + (s - 1) ** 2
    hellinger = 1 - np.sqrt(2 * s / (1 + v)) * np.exp(-(m**2) / (4 * (1 + v)))
    js = [js_by_quadrature(*normal) for normal in zip(m, s, strict=True)] if quadrature else [math.nan]
    frechet = frechet_of_rows(features[1], features[0])
    return [float(np.mean(values)) for values in (kl, js, wasserstein, hellinger)] + [frechet]


def raw(images: ImageMoments) -> Array:
    return images.table.double().numpy()


@pytest.mark.parametrize("sizes", [(40, 25), (25, 40), (12, 200), (200, 200)], ids=str)
def test_the_values_are_those_of_the_formulas(sizes: tuple[int, int]) -> None:
    first, second = made_up(sizes[0], seed=1), made_up(sizes[1], seed=2, shift=0.4, scale=1.2)
    found = compared(first, second, 2).values
    assert found.dtype == torch.float64
    assert list(DIVERGENCES) == ["kl", "js", "wasserstein", "hellinger", "frechet"]
    assert found.tolist() == pytest.approx(slowly(raw(first), raw(second), quadrature=True), rel=1e-6, abs=1e-6)


def test_the_frechet_distance_is_that_of_a_general_matrix_root() -> None:
    first, second = made_up(50, seed=1), made_up(30, seed=2, shift=0.3)
    center, scale = raw(first).mean(0)[:3], 1 / np.sqrt(raw(first)[:, 3:].mean(0) - raw(first).mean(0)[:3] ** 2)
    one, other = ((raw(images)[:, :3] - center) * scale for images in (first, second))
    expected = frechet_by_root(other.mean(0), np.cov(other.T, ddof=0), one.mean(0), np.cov(one.T, ddof=0))
    assert compared(first, second, 2).values[4].item() == pytest.approx(expected, rel=1e-6)


def test_the_first_is_the_unit() -> None:
    first, second = made_up(40, seed=1), made_up(40, seed=2, scale=3)
    there, back = compared(first, second, 2).values, compared(second, first, 2).values
    assert back.tolist() == pytest.approx(slowly(raw(second), raw(first), quadrature=True), rel=1e-6)
    assert there[2] > 2 * back[2]
    assert there[1].item() == pytest.approx(back[1].item(), rel=1e-6)  # the one that is symmetric


@pytest.mark.parametrize("count", [1, 2, 7, 300])
@pytest.mark.parametrize("channels", [1, 3, 40])
def test_a_set_is_exactly_0_from_itself_in_any_order(count: int, channels: int) -> None:
    images = made_up(count, channels)
    shuffled = taken(images, np.random.default_rng(1).permutation(count).tolist())
    for other in (images, shuffled):
        found = compared(images, other, 20)
        assert found.values.tolist() == [0.0] * 5
        assert (found.floor >= 0).all()
        assert found.floor.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(30, 17), (3, 3), (5, 64)], ids=str)
def test_no_order_changes_a_bit(counts: tuple[int, int]) -> None:
    first, second = (made_up(count, 4, seed) for seed, count in enumerate(counts))
    expected = compared(first, second)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        shuffled = (taken(images, rng.permutation(len(images)).tolist()) for images in (first, second))
        found = compared(*shuffled)
        assert torch.equal(found.values, expected.values)
        assert torch.equal(found.floor, expected.floor)


def test_repeating_a_set_does_not_move_it() -> None:
    images = made_up(20)
    found = compared(images, taken(images, list(range(20)) * 3))
    assert found.values[:4].abs().max().item() < 1e-9
    assert found.values[4].item() < 1e-6
    assert (found.values < found.floor.mean(0) / 100).all()


@pytest.mark.slow
def test_units_and_offsets_of_the_channels_do_not_matter() -> None:
    first, second = made_up(30, seed=1), made_up(20, seed=2, shift=0.2)
    expected = compared(first, second, 300)
    scale, offset = torch.tensor([2.0, 0.25, 16.0]), torch.tensor([8.0, -1.0, 64.0])

    def moved(images: ImageMoments) -> ImageMoments:
        mean, square = images.mean.double(), images.square.double()
        table = torch.cat([scale * mean + offset, scale**2 * square + 2 * scale * offset * mean + offset**2], 1)
        return ImageMoments(table.float(), images.positions)

    found = compared(moved(first), moved(second), 300)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-4, atol=1e-6)
    assert found.floor.mean(0).tolist() == pytest.approx(expected.floor.mean(0).tolist(), rel=0.2)


@pytest.mark.slow
def test_the_floor_follows_from_the_generator_whatever_the_number_of_threads() -> None:
    first, second = made_up(20, seed=1), made_up(30, seed=2)
    before = torch.get_num_threads()
    expected = compared(first, second)
    try:
        torch.set_num_threads(3)
        again = compared(first, second)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert torch.equal(again.floor, expected.floor)
    assert not torch.equal(run_two_sample_test([first], [second], 2, 100)[0].floor, expected.floor)
    assert torch.equal(compared(first, second, 50).floor, expected.floor[:50])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(20, 20), (8, 40), (40, 8)], ids=str)
def test_the_floor_is_that_of_a_plain_loop(sizes: tuple[int, int]) -> None:
    first, second = made_up(sizes[0], seed=1), made_up(sizes[1], seed=2)
    draws = 600
    floor = compared(first, second, draws).floor.numpy()
    assert floor.shape == (draws, 5)
    everything = np.vstack([raw(first), raw(second)])
    rng = np.random.default_rng(3)
    dealt = []
    for _ in range(draws):
        order = rng.permutation(len(everything))
        dealt.append(slowly(everything[order[: sizes[0]]], everything[order[sizes[0] :]]))
    for k, name in enumerate(DIVERGENCES):
        if name != "js":
            assert stats.ks_2samp(floor[:, k], np.array(dealt)[:, k]).pvalue > 1e-3, name
    # js has no plain loop of its own, but runs along with hellinger.
    assert stats.spearmanr(floor[:, 1], floor[:, 3]).statistic > 0.98


@pytest.mark.parametrize("sizes", [(1, 1), (1, 3), (3, 1), (2, 2), (2, 3)], ids=str)
def test_the_floor_of_tiny_sets_is_every_deal(sizes: tuple[int, int]) -> None:
    first, second = (made_up(count, 2, seed) for seed, count in enumerate(sizes))
    floor = compared(first, second, 300).floor
    everything = np.vstack([raw(first), raw(second)])
    rows = range(len(everything))
    expected = [
        slowly(everything[list(one)], everything[[row for row in rows if row not in one]])
        for one in itertools.combinations(rows, sizes[0])
    ]
    for k in (0, 2, 3, 4):
        found, wanted = floor[:, k].numpy(), np.array(expected)[:, k]
        apart = np.abs(found[:, None] - wanted) / np.maximum(1, wanted)
        near = 1e-3 if k == 4 else 1e-5
        assert apart.min(0).max() < near
        assert apart.min(1).max() < near


@pytest.mark.parametrize(
    ("sizes", "channels"), [((1, 1), 4), ((1, 10), 4), ((10, 1), 4), ((2, 3), 48), ((10, 10), 48), ((3, 200), 48)]
)
def test_few_images_have_finite_values(sizes: tuple[int, int], channels: int) -> None:
    found = compared(made_up(sizes[0], channels, 1), made_up(sizes[1], channels, 2), 30)
    for values in (found.values, found.floor):
        assert values.isfinite().all()
        assert (values >= 0).all()
        assert (values[..., [1, 3]] <= 1).all()
    assert (found.values > 0).all()
    assert (found.floor > 0).all()


@pytest.mark.parametrize(
    ("sizes", "shift", "scale"), [((100, 100), 1.5, 1.0), ((200, 200), 0.0, 3.0), ((20, 200), 3.0, 1)]
)
def test_different_distributions_lie_far_outside_the_floor(sizes: tuple[int, int], shift: float, scale: float) -> None:
    first, second = made_up(sizes[0], seed=1), made_up(sizes[1], seed=2, shift=shift, scale=scale)
    for one, other in ((first, second), (second, first)):
        found = compared(one, other)
        assert (found.values > 1.2 * found.floor.quantile(0.99, 0)).all()


@pytest.fixture(scope="module")
def null() -> Array:
    """Shares of deals that are as far apart as the sets, (pairs, 5), for pairs of one distribution."""
    shares = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permutation, "PERMUTATION_BATCH", 99)  # for so few channels, threads get in each other's way
        for pair in range(100):
            one, other = ((20, 20), (8, 32), (32, 8))[pair % 3]
            found = compared(made_up(one, seed=2 * pair), made_up(other, seed=2 * pair + 1), 99)
            shares.append((1 + (found.floor >= found.values).sum(0)) / 100)
    return torch.stack(shares).numpy()


@pytest.mark.slow
def test_few_pairs_of_one_distribution_lie_outside_the_limit(null: Array) -> None:
    assert ((null <= 0.01).sum(0) <= 4).all()  # of 100, where 1 is expected
    assert ((null <= 0.05).sum(0) <= 12).all()


@pytest.mark.slow
def test_p_values_of_one_distribution_are_uniform(null: Array) -> None:
    for k in range(5):
        assert stats.kstest(null[:, k] - 0.005, "uniform").pvalue > 1e-3


# Constant images


@pytest.mark.parametrize("counts", [(1, 1), (10, 10), (3, 50)], ids=str)
@pytest.mark.parametrize("within", [0.0, 0.5])
def test_constant_sets_that_are_equal_are_0_apart(counts: tuple[int, int], within: float) -> None:
    found = compared(repeated(counts[0], 0.7, within), repeated(counts[1], 0.7, within), 30)
    assert found.values.abs().max().item() < 1e-6
    assert found.floor.abs().max().item() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(10, 10), (6, 40), (40, 6)], ids=str)
@pytest.mark.parametrize("within", [0.0, 1e-9, 0.5])
def test_constant_sets_that_differ_lie_outside_the_floor(counts: tuple[int, int], within: float) -> None:
    found = compared(repeated(counts[0], 0.0, within), repeated(counts[1], 1.0, within), 200)
    for values in (found.values, found.floor):
        assert values.isfinite().all()
    assert (found.values[1:4] > 0.01).all()
    assert ((found.floor >= found.values * (1 + 1e-6)).double().mean(0) <= 0.01).all()
    assert (found.values > found.floor.mean(0)).all()


@pytest.mark.parametrize("turned", [False, True])
def test_a_constant_set_and_one_that_varies_differ(turned: bool) -> None:
    sets = [repeated(20, 5.0, 0.0), made_up(20)]
    found = compared(*(reversed(sets) if turned else sets), 200)
    assert found.values.isfinite().all()
    assert found.floor.isfinite().all()
    assert (found.values > found.floor.quantile(0.99, 0)).all()


def test_a_channel_that_varies_in_neither_set_adds_no_difference() -> None:
    first, second = made_up(30, seed=1), made_up(20, seed=2)

    def with_dead(images: ImageMoments) -> ImageMoments:
        dead = torch.full((len(images), 1), 3.0)
        return ImageMoments(torch.cat([images.mean, dead, images.square, dead**2], 1), images.positions)

    expected, found = compared(first, second), compared(with_dead(first), with_dead(second))
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.floor, expected.floor)


def test_a_channel_that_varies_in_one_set_alone_is_a_difference() -> None:
    first, second = made_up(30, seed=1), made_up(20, seed=2)

    def with_channel(images: ImageMoments, values: torch.Tensor) -> ImageMoments:
        values = values[:, None]
        return ImageMoments(torch.cat([images.mean, values, images.square, values**2], 1), images.positions)

    still = with_channel(first, torch.full((30,), 3.0))
    lively = with_channel(second, 3 + torch.randn(20, generator=seeded()))
    for one, other in ((still, lively), (lively, still)):
        found = compared(one, other)
        assert found.values.isfinite().all()
        assert (found.values > found.floor.max(0).values).any()
    assert compared(still, lively).values[2] > 0.1 / MIN_REFERENCE_VARIANCE
    assert compared(lively, still).values[0] > 0.1 / MIN_VARIANCE
