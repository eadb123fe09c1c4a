"""Precision, recall, density and coverage against plain loops over all pairs, prdc, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from imgsubset.statistics import generative_metrics
from imgsubset.statistics.generative_metrics import N_NEIGHBOURS, PRDC_NAMES, compare_prdc, join_spaces

Array = np.ndarray


def drawn(seed: int, count: int, channels: int = 5, spread: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, channels)) * spread


def on_grid(seed: int, count: int, channels: int, sides: int) -> Array:
    """Of whole numbers, so that there are copies, and many distances are the same."""
    return np.random.default_rng(seed).integers(0, sides, (count, channels)).astype(float)


def found(first: Array, second: Array, draws: int = 1, seed: int = 0) -> tuple[list[float], torch.Tensor]:
    values, floor = compare_prdc(torch.from_numpy(first), torch.from_numpy(second), seed, draws)
    return values.tolist(), floor


def balls(points: Array) -> tuple[list[float], list[int]]:
    """The radius of the ball around each, and how many others it holds."""
    radii, held = [], []
    for number, point in enumerate(points):
        others = sorted(math.dist(point, other) for place, other in enumerate(points) if place != number)
        radius = others[min(N_NEIGHBOURS, len(others)) - 1] if others else 0.0
        radii.append(radius)
        held.append(sum(apart <= radius for apart in others))
    return radii, held


def by_loops(first: Array, second: Array) -> list[float]:
    (radii, held), (back, _) = balls(first), balls(second)
    inside = [[math.dist(one, other) <= radius for other in second] for one, radius in zip(first, radii, strict=True)]
    within = [any(math.dist(one, other) <= radius for other, radius in zip(second, back, strict=True)) for one in first]
    return [
        sum(map(any, zip(*inside, strict=True))) / len(second),
        sum(within) / len(first),
        sum(sum(row) / max(1, own) for row, own in zip(inside, held, strict=True)) / len(second),
        sum(map(any, inside)) / len(first),
    ]


@pytest.mark.parametrize("sizes", [(1, 1), (1, 7), (7, 1), (2, 3), (6, 6), (40, 40), (8, 90), (90, 8)], ids=str)
def test_the_four_are_those_of_loops_over_all_pairs(sizes: tuple[int, int]) -> None:
    first, second = drawn(1, sizes[0]), drawn(2, sizes[1], spread=1.2)
    assert found(first, second)[0] == pytest.approx(by_loops(first, second), rel=1e-12)


@pytest.mark.parametrize("kept", [100, 1 << 23])
@pytest.mark.parametrize("sides", [1, 2, 3, 6])
def test_copies_and_what_is_equally_far_away_count(monkeypatch: pytest.MonkeyPatch, sides: int, kept: int) -> None:
    monkeypatch.setattr(
        generative_metrics, "MAX_STORED_NEIGHBOURS", kept
    )  # at 100 every list of neighbours ends before the ball does
    for seed, (one, other, channels) in enumerate([(30, 30, 1), (25, 40, 2), (40, 9, 3), (3, 50, 3), (20, 20, 0)]):
        first, second = on_grid(seed, one, channels, sides), on_grid(seed + 9, other, channels, sides)
        values, floor = found(first, second, 5)
        assert values == pytest.approx(by_loops(first, second), rel=1e-12)
        assert floor.isfinite().all()


@pytest.mark.parametrize("sizes", [(200, 200), (60, 300), (300, 60)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_four_are_those_of_prdc(sizes: tuple[int, int], offset: float, capsys: pytest.CaptureFixture[str]) -> None:
    prdc = pytest.importorskip("prdc")
    first, second = drawn(3, sizes[0], 20) + offset, drawn(4, sizes[1], 20, 0.9) + offset
    expected = prdc.compute_prdc(first - offset, second - offset, N_NEIGHBOURS)
    capsys.readouterr()  # it prints
    assert found(first, second)[0] == pytest.approx([expected[name] for name in PRDC_NAMES], rel=1e-9)


def test_a_set_against_itself_overlaps_wholly() -> None:
    first = drawn(5, 50)
    precision, recall, density, coverage = found(first, first[::-1].copy())[0]
    assert (precision, recall, coverage) == (1, 1, 1)
    assert density == pytest.approx((N_NEIGHBOURS + 1) / N_NEIGHBOURS, rel=1e-12)  # the copy of each ball's middle


def test_constant_images_overlap_wholly_or_not_at_all() -> None:
    black, white = np.zeros((9, 3)), np.ones((14, 3))
    assert found(black, black[:4])[0] == pytest.approx([1, 1, 9 / 8, 1])
    assert found(black, white)[0] == [0, 0, 0, 0]


def test_few_copies_leave_most_of_a_set_uncovered() -> None:
    first = drawn(6, 100)
    (precision, recall, _, coverage), floor = found(first, np.repeat(first[:5], 20, 0), 50)
    assert (precision, recall) == (1, 0.05)
    assert coverage < 0.5 < floor[:, PRDC_NAMES.index("coverage")].min()
    assert floor[:, PRDC_NAMES.index("density")].mean() == pytest.approx(1, abs=0.1)  # however many copies there are


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(60, 60), (40, 90)], ids=str)
def test_the_floor_is_that_of_two_samples_of_one_distribution(sizes: tuple[int, int]) -> None:
    one, other = sizes
    floor = found(drawn(7, one), drawn(8, other) + 3, 300)[1]
    # Of the other's images and K of its own, an image's K nearest are all its own (Naeem et al. 2020).
    missed = math.prod((one - 1 - k) / (one + other - 1 - k) for k in range(N_NEIGHBOURS))
    for name, expected in (("density", 1), ("coverage", 1 - missed)):
        dealt = floor[:, PRDC_NAMES.index(name)]
        error = float(dealt.std()) / math.sqrt(len(dealt))
        assert float(dealt.mean()) == pytest.approx(expected, abs=4 * error)


def test_each_deal_of_the_floor_is_of_sets_of_the_same_sizes() -> None:
    first, second = drawn(9, 7), drawn(10, 3)
    shares = torch.round(found(first, second, 40)[1] * torch.tensor([3, 7, 1, 7]), decimals=9)
    assert torch.equal(shares[:, [0, 1, 3]], shares[:, [0, 1, 3]].round())


def test_no_order_of_the_images_changes_a_bit() -> None:
    first, second = on_grid(11, 40, 4, 3) / 3, drawn(12, 30, 4)
    values, floor = found(first, second, 10)
    for seed in (1, 2):
        random = np.random.default_rng(seed)
        again, dealt = found(random.permutation(first), random.permutation(second), 10)
        assert again == values
        assert torch.equal(dealt, floor)
    assert not torch.equal(found(first, second, 10, seed=1)[1], floor)


def test_of_many_images_some_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generative_metrics, "MAX_PRDC_IMAGES", 30)
    first, second = drawn(13, 90), drawn(14, 20)
    values, floor = found(first, second, 5)
    again, dealt = found(first[::-1].copy(), second, 5)
    assert (again, dealt.tolist()) == (values, floor.tolist())
    assert values[1] * 30 == pytest.approx(round(values[1] * 30))
    assert values != found(first[:30], second, 5)[0]


def test_each_space_adds_its_weight_to_the_squared_distance() -> None:
    sets = [torch.from_numpy(drawn(seed, 12, 3, 7.0)).float() for seed in (1, 2, 3, 4)]
    dead = [torch.cat([part, torch.full((12, 1), 3.0)], 1) for part in sets[:2]]
    first, second = join_spaces([(dead[0], dead[1]), (sets[2], sets[3])], [0.25, 0.75])
    expected = []
    for pair, weight in ((sets[:2], 0.25), (sets[2:], 0.75)):
        both = np.concatenate([part.double().numpy() for part in pair])
        expected.append((both - both.mean(0)) / both.std(0) * math.sqrt(weight / 3))
    np.testing.assert_allclose(torch.cat([first, second]).numpy(), np.concatenate(expected, 1), rtol=1e-12)
    assert torch.cat([first, second]).square().sum(1).mean() == pytest.approx(1, rel=1e-12)


def test_the_order_of_images_changes_no_bit_of_what_spaces_are_joined() -> None:
    first, second = (torch.from_numpy(drawn(seed, 33, 4)).float() for seed in (1, 2))
    plain, turned = join_spaces([(first, second)], [1.0]), join_spaces([(first.flip(0), second.flip(0))], [1.0])
    assert all(torch.equal(one.flip(0), other) for one, other in zip(plain, turned, strict=True))


def test_spaces_in_which_nothing_varies_leave_nothing() -> None:
    still = torch.ones(4, 3)
    first, second = join_spaces([(still, still)], [1.0])
    assert (first.shape, second.shape) == ((4, 0), (4, 0))
    assert found(first.numpy(), second.numpy())[0] == pytest.approx([1, 1, 4 / 3, 1])
