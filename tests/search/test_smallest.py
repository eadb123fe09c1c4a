from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import smooth
from sources import goal_of, made_up_source, random_rows

from imgsubset import Options, Selection, select
from imgsubset.errors import InputError, UsageError
from imgsubset.search.quadratic import Quadratic, quadratic_form
from imgsubset.search.smallest import CLOSE, ENOUGH, resized, smallest

QUICK = {"workers": 0, "candidates": 64, "steps": 30, "device": "cpu", "channels": (4, 6), "size": 16}
TOTAL = 60


def bisect(
    total: int, quality: Callable[[int], float], stop: Callable[[list[int]], bool] = lambda tried: False
) -> tuple[int, list[int]]:
    """The size that is found, and those that were tried; a result is its own size."""
    tried: list[int] = []

    def attempt(n: int, near: int | None) -> int:
        assert 1 <= n <= total
        assert n not in tried
        if near is None:
            assert not tried
        else:
            assert near in tried
            assert abs(near - n) == min(abs(size - n) for size in tried)
        tried.append(n)
        return n

    found = smallest(total, attempt, quality, lambda: stop(tried))
    assert found in tried
    return found, tried


def random_quality(total: int, seed: int) -> list[float]:
    """A quality for each size from 0 on that never falls, in steps of all sorts."""
    rng = np.random.default_rng(seed)
    logs = np.cumsum(rng.exponential(size=total + 1) ** rng.uniform(0.5, 6)) * rng.choice([0.001, 0.1, 10])
    return list(np.exp((logs - rng.choice(logs) + rng.uniform(-0.1, 0.1)).clip(-50, 50)))


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 50, 51, 400, 5000])
def test_the_smallest_size_that_is_good_enough_is_found(total: int) -> None:
    for seed in range(40):
        quality = random_quality(total, seed)
        expected = next((n for n in range(1, total + 1) if quality[n] >= 1), total)
        found, _ = bisect(total, quality.__getitem__)
        assert found >= expected
        assert quality[found] >= 1 or found == total
        assert found - expected < max(1, CLOSE * found) or 1 <= quality[found] <= ENOUGH


@pytest.mark.parametrize("total", [1, 2, 3, 1000, 10**6, 10**9])
@pytest.mark.parametrize("share", [0, 1e-4, 0.01, 0.3, 0.97, 1, 2])
def test_the_number_of_attempts_is_logarithmic(total: int, share: float) -> None:
    threshold = share * total
    found, tried = bisect(total, lambda n: 1.2 if n >= threshold else 0.8)
    assert len(tried) <= 3 + math.log2(1 + math.log(total) / CLOSE) + math.log2(1 + CLOSE * total)
    if share < 1:  # the steep end is walked only where all are needed
        assert len(tried) <= 3 + math.log2(1 + math.log(total) / CLOSE)
    expected = min(total, max(1, math.ceil(threshold)))
    assert 0 <= found - expected < max(1, CLOSE * found)


@pytest.mark.parametrize("value", [0.0, 1.2, float("inf"), float("nan")])
@pytest.mark.parametrize(("total", "sizes"), [(1, [1]), (2, [1, 2])])
def test_a_source_of_one_or_two_images(total: int, sizes: list[int], value: float) -> None:
    found, tried = bisect(total, lambda n: value)
    assert found == (1 if value >= 1 else total)
    assert tried == sizes[:found]


def test_a_quality_that_goes_up_and_down_ends() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        total = int(rng.integers(1, 3000))
        quality = rng.choice([0.0, 0.5, 0.99, 1.06, 3.0, float("nan")], total + 1)
        found, tried = bisect(total, quality.__getitem__)
        assert quality[found] >= 1 or found == total
        assert len(tried) < 30


def test_a_quality_just_above_the_target_is_enough() -> None:
    found, tried = bisect(10_000, lambda n: n / 98)
    assert found == tried[-1] == 100
    assert len(tried) == 1
    found, tried = bisect(10_000, lambda n: n / 90)
    assert found < 100
    assert len(tried) > 1


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_a_stop_ends_it_with_the_best_so_far(after: int) -> None:
    found, tried = bisect(1000, lambda n: 1.2 if n >= 700 else 0.8, lambda tried: len(tried) == after)
    assert len(tried) == after
    good = [n for n in tried if n >= 700]
    assert found == (min(good) if good else max(tried))


@pytest.fixture(scope="module")
def form() -> Quadratic:
    return quadratic_form(goal_of(made_up_source(TOTAL, 4), 10))


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 17, TOTAL])
@pytest.mark.parametrize("n", [1, 2, 16, 17, 18, TOTAL - 1, TOTAL])
def test_resized_subsets_are_subsets(form: Quadratic, chains: int, size: int, n: int) -> None:
    rows = random_rows(chains, size, TOTAL, seed=n)
    found = resized(form, rows, n, 1)
    assert found.shape == (chains, n)
    assert found.dtype == rows.dtype
    for before, after in zip(rows.tolist(), found.tolist(), strict=True):
        assert len(set(after)) == n
        assert set(after) <= set(range(TOTAL))
        assert set(after) <= set(before) if n <= size else set(after) > set(before)


def test_subsets_are_cut_to_better_ones_than_by_chance(form: Quadratic) -> None:
    rows = random_rows(20, 40, TOTAL)
    kept = resized(form, rows, 10, 0)
    chance = torch.stack([row[:10] for row in rows])
    lengths = [form.residual(one).square().sum(1).mean() for one in (kept, chance)]
    assert lengths[0] < lengths[1] / 2


def test_subsets_are_filled_up_with_any_of_the_others(form: Quadratic) -> None:
    rows = random_rows(1, 50, TOTAL)
    added = set()
    for seed in range(100):
        found = resized(form, rows, 53, seed)
        added |= set(found[0].tolist()) - set(rows[0].tolist())
    assert added == set(range(TOTAL)) - set(rows[0].tolist())


# The whole of it


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    for number in range(TOTAL):
        smooth(number, 16, 16).save(root / f"{number:02d}.png")
    return root


def check_subset(selection: Selection) -> int:
    n = len(selection.indices)
    assert len(set(selection.chosen)) == n
    assert sorted(selection.ranking) == list(selection.indices)
    assert selection.asked == "auto"
    return n


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.02, 0.3, 5.0])
def test_the_target_loss_is_met_with_few_images(source: Path, target: float) -> None:
    selection = select(source, "auto", Options(**QUICK, target_loss=target))
    n = check_subset(selection)
    assert selection.score.loss <= target * (1 + 1e-6) or n == TOTAL
    best: dict[int, float] = {}
    for point in selection.trace:
        best[point.n] = min(best.get(point.n, math.inf), point.best)
    assert n in best or n == TOTAL
    assert best.get(n, 0.0) == pytest.approx(selection.score.searched_loss, rel=1e-3, abs=1e-6)
    if target == 5.0:
        assert n < 5


@pytest.mark.slow
@pytest.mark.parametrize("target", [1, 4.5, 30])
def test_the_target_size_is_met_with_few_images(source: Path, target: float) -> None:
    selection = select(source, "auto", Options(**QUICK, target_size=target))
    n = check_subset(selection)
    assert selection.score.effective_size >= target * (1 - 1e-6)
    # Better than at random where it was searched; for so few images the networks that measure may see it otherwise.
    assert selection.score.searched_size >= n * (1 - 1e-6)
    assert n <= 2 * math.ceil(target)


@pytest.mark.slow
def test_a_target_that_cannot_be_met_by_fewer_takes_the_whole(source: Path) -> None:
    selection = select(source, "auto", Options(**QUICK, target_loss=1e-9))
    assert check_subset(selection) == TOTAL
    assert selection.score.loss == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 30])
def test_the_trace_has_every_size(source: Path, steps: int) -> None:
    names: set[str] = set()

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        names.add(stage)

    options = Options(**QUICK | {"steps": steps}, target_loss=0.5)
    selection = select(source, "auto", options, progress=progress)
    sizes = list(dict.fromkeys(point.n for point in selection.trace))
    assert len(sizes) > 1
    assert sizes[0] == round(TOTAL**0.5)
    assert len(selection.indices) in sizes
    assert {f"n={n}" for n in sizes} == {name.split()[-1] for name in names if "n=" in name}


@pytest.mark.slow
def test_the_result_follows_from_the_seed(source: Path) -> None:
    options = Options(**QUICK, target_loss=0.4)
    first, again = (select(source, "auto", options) for _ in range(2))
    assert first.indices == again.indices
    assert [(point.n, point.best) for point in first.trace] == [(point.n, point.best) for point in again.trace]


@pytest.mark.slow
def test_the_time_limit_that_is_recorded_is_the_one_that_was_asked_for(source: Path) -> None:
    found = select(source, "auto", Options(**QUICK | {"steps": 1}, networks=1, target_loss=2.0, time_limit=900.0))
    assert found.options.time_limit == 900


def test_an_interrupt_ends_it_with_a_whole_subset(source: Path) -> None:
    selection = select(source, "auto", Options(**QUICK, target_loss=0.3), stop=lambda: True)
    assert selection.interrupted
    assert check_subset(selection) == round(TOTAL**0.5)


def test_a_single_image_is_the_whole(tmp_path: Path) -> None:
    smooth(0, 16, 16).save(tmp_path / "1.png")
    for target in ({"target_loss": 0.5}, {"target_size": 1.0}):
        assert select(tmp_path, " auto ", Options(**QUICK, **target)).chosen == ("1.png",)


def test_auto_needs_a_target_and_a_target_needs_auto(source: Path) -> None:
    with pytest.raises(UsageError, match="'auto' needs a target"):
        select(source, "auto", Options(**QUICK))
    for n, target in ((5, {"target_loss": 0.5}), ("10%", {"target_size": 5.0})):
        with pytest.raises(UsageError, match="goes with n 'auto'"):
            select(source, n, Options(**QUICK, **target))


def test_senseless_targets_are_refused(source: Path) -> None:
    with pytest.raises(UsageError, match="choose one"):
        Options(target_loss=0.5, target_size=3)
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match="target_loss"):
            Options(target_loss=value)
        with pytest.raises(UsageError, match="target_size"):
            Options(target_size=value)
    with pytest.raises(InputError, match="only 60 images"):
        select(source, "auto", Options(**QUICK, target_size=TOTAL + 0.5))
