"""Estimates of means: against loops in the textbooks' notation, exact cases, and how often intervals hold the truth."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from imgsubset.statistics import estimation
from imgsubset.statistics.estimation import Estimates, estimate_means

TOTAL = 600
NOTHING = torch.zeros(TOTAL, 0)
SHARES = torch.tensor([False, False, False, True])  # of the results below


def population(seed: int = 0, total: int = TOTAL, covariates: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Covariates (N, D), skewed and of unlike spread; classes (N,), unequal; and results (N, 4): hardly explained,
    half explained, of the class alone, and 0 or 1."""
    random = np.random.default_rng(seed)
    classes = random.choice(4, total, p=[0.5, 0.3, 0.15, 0.05])
    x = random.standard_normal((total, covariates)) + 0.3 * classes[:, None]
    x[:, ::2] = np.exp(0.5 * x[:, ::2])
    signal = (x - x.mean(0)) @ random.standard_normal(covariates)
    signal /= signal.std()
    y = [0.2 * signal + random.standard_normal(total), signal + random.standard_normal(total), classes.astype(float)]
    y += [(signal + random.standard_normal(total) > 0.5).astype(float)]
    return torch.from_numpy(x), torch.from_numpy(classes), torch.from_numpy(np.stack(y, 1))


def sample(classes: Tensor, n: int, seed: int, equal: bool = False) -> Tensor:
    """Rows (n,) drawn at random within each class, in proportion or as many of each."""
    random = np.random.default_rng(seed)
    rows: list[int] = []
    for name in classes.unique():
        members = (classes == name).nonzero()[:, 0].numpy()
        size = n // len(classes.unique()) if equal else max(2, round(n * len(members) / len(classes)))
        rows += random.choice(members, min(size, len(members)), replace=False).tolist()
    return torch.tensor(sorted(rows))


def check(found: Estimates, **expected: Any) -> None:
    for name, values in expected.items():
        torch.testing.assert_close(getattr(found, name), torch.as_tensor(values).double(), rtol=1e-9, atol=1e-12)


def test_without_covariates_it_is_the_mean_of_a_sample_without_replacement() -> None:
    _, _, y = population()
    rows = torch.arange(0, TOTAL, 7)
    n, values = len(rows), y[rows].numpy()
    error = np.sqrt(values.var(0, ddof=1) / n * (1 - n / TOTAL))
    found = estimate_means(y[rows], NOTHING, rows)
    check(found, mean=values.mean(0), value=values.mean(0), error=error, equivalent=np.full(4, n))
    low, high = stats.t.interval(0.95, n - 1, values.mean(0), error)
    check(found, low=low, high=high)


@pytest.mark.parametrize("equal", [False, True])
def test_by_class_it_is_the_weighted_mean_of_class_means(equal: bool) -> None:
    _, classes, y = population()
    rows = sample(classes, 60, 1, equal)
    value, variance, square, parts = 0.0, 0.0, 0.0, []
    for name in range(4):
        members, mine = (classes == name).numpy(), (classes[rows] == name).numpy()
        share, size, values = members.mean(), mine.sum(), y[rows][mine, 1].numpy()
        value += share * values.mean()
        square += share * (values**2).mean()
        variance += share**2 * values.var(ddof=1) / size
        parts.append((share**2 * values.var(ddof=1) / size * (1 - size / members.sum()), size - 1))
    found = estimate_means(y[rows, 1:2], NOTHING, rows, classes)
    error = np.sqrt(sum(part for part, _ in parts))
    degrees = error**4 / sum(part**2 / freedom for part, freedom in parts)
    spread = square - value**2 + variance  # without bias, as far as the sample tells
    check(found, mean=y[rows, 1:2].mean(0), value=[value], error=[error], equivalent=[spread / variance])
    half = stats.t.ppf(0.975, degrees) * error
    check(found, low=[value - half], high=[value + half])


def test_groups_that_were_taken_whole_are_what_was_drawn() -> None:
    _, _, y = population()
    groups = torch.arange(TOTAL) // 3
    rows = torch.isin(groups, torch.arange(0, 200, 9)).nonzero()[:, 0]
    values, count = y[rows, 1].numpy(), 23
    sums = [(values[groups[rows] == group] - values.mean()).sum() for group in range(0, 200, 9)]
    variance = count / (count - 1) * sum(one**2 for one in sums) / len(values) ** 2 * (1 - len(values) / TOTAL)
    check(estimate_means(y[rows, 1:2], NOTHING, rows, groups=groups), value=[values.mean()], error=[variance**0.5])
    alone = estimate_means(y[rows, 1:2], NOTHING, rows)
    check(estimate_means(y[rows, 1:2], NOTHING, rows, groups=torch.arange(TOTAL)), error=alone.error, low=alone.low)


def test_the_interval_of_a_share_is_wilsons_of_as_many_images_as_the_error_stands_for() -> None:
    rows = torch.arange(0, TOTAL, 6)
    y = torch.zeros(TOTAL, 1)
    y[rows[:3]] = 1
    plain, found = (estimate_means(y[rows], NOTHING, rows, shares=shares) for shares in (None, torch.tensor([True])))
    check(found, value=plain.value, error=plain.error, mean=plain.mean)
    share, quantile = 0.03, stats.t.ppf(0.975, 99)
    images = share * (1 - share) / found.error.item() ** 2
    for end in (found.low.item(), found.high.item()):
        assert abs(end - share) == pytest.approx(quantile * np.sqrt(end * (1 - end) / images))
    assert 0 < found.low.item() < share - 0.01 < share + 0.02 < found.high.item()


@pytest.mark.parametrize("by_class", [False, True])
def test_a_constant_and_a_whole_source_are_exact(by_class: bool) -> None:
    x, classes, y = population()
    strata = classes if by_class else None
    rows = sample(classes, 60, 2)
    constant = torch.tensor([0.1, -1e99, 0.0, 1.0], dtype=torch.float64).expand(len(rows), 4)
    found = estimate_means(constant, x, rows, strata, shares=SHARES)
    for name in ("mean", "value", "low", "high"):
        assert torch.equal(getattr(found, name), constant[0])
    check(found, error=torch.zeros(4), equivalent=torch.full((4,), torch.inf))
    whole = estimate_means(y, x, torch.arange(TOTAL), strata, shares=SHARES)
    check(whole, mean=y.mean(0), value=y.mean(0), low=y.mean(0), high=y.mean(0))


def test_what_the_classes_say_is_exact_and_what_the_covariates_say_nearly() -> None:
    x, classes, y = population()
    rows = sample(classes, 60, 3)
    check(estimate_means(y[rows, 2:3], x, rows, classes), value=[y[:, 2].mean()], error=[0.0])
    linear = 1e6 + 1e3 * x @ torch.arange(1.0, 9.0).double()[:, None]
    found = estimate_means(linear[rows], x, rows)
    assert float((found.value - linear.mean(0)).abs() / linear.std()) < 1e-6
    assert float((found.high - found.low) / linear.std()) < 1e-6
    assert found.equivalent.item() > 1e9
    assert float((found.mean - linear.mean(0)).abs() / linear.std()) > 1e-3


def test_noise_gets_the_plain_answer() -> None:
    x, classes, _ = population()
    rows = sample(classes, 120, 4)
    noise = torch.from_numpy(np.random.default_rng(5).standard_normal((TOTAL, 200)))
    found, plain = (estimate_means(noise[rows], some, rows, classes) for some in (x, NOTHING))
    assert (found.value == plain.value).double().mean() > 0.8
    assert torch.equal(found.error == plain.error, found.value == plain.value)
    assert ((found.value - plain.value).abs() < 0.5 * plain.error).all()
    assert (found.error > 0.9 * plain.error).all()
    assert (found.error / plain.error).mean() > 0.99


def ridge(x: np.ndarray, y: np.ndarray, weights: np.ndarray, classes: np.ndarray, penalty: float) -> np.ndarray:
    """Slopes of least squares with a mean for each class, the penalty as further rows."""
    inner, outer = x.copy(), y.copy()
    for name in np.unique(classes):
        inner[classes == name] -= inner[classes == name].mean(0)
        outer[classes == name] -= outer[classes == name].mean(0)
    inner, outer = weights[:, None] * inner, weights * outer
    least = np.sqrt(penalty * (inner**2).sum() / inner.shape[1]) * np.eye(inner.shape[1])
    return np.linalg.lstsq(np.vstack([inner, least]), np.concatenate([outer, np.zeros(len(least))]))[0]


@pytest.mark.parametrize("equal", [False, True])
def test_the_estimate_is_a_difference_from_regressions_on_other_folds(
    equal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, classes, y = population()
    rows = sample(classes, 60, 6, equal)
    folds = estimation._make_sample_design(rows, TOTAL, classes, None).folds()
    assert torch.equal(torch.cat(folds).sort().values, torch.arange(len(rows)))
    covariates, kinds = x.numpy(), classes[rows].numpy()
    others = np.setdiff1d(np.arange(TOTAL), rows)
    absent = {name: others[classes[others] == name] for name in range(4)}
    sizes = {name: (kinds == name).sum() for name in range(4)}
    weights = np.array([(classes == name).double().mean().item() / sizes[name] for name in kinds])
    influence = weights * np.array([np.sqrt(sizes[name] / (sizes[name] - 1)) for name in kinds])
    unsampled = np.array([len(absent[name]) / (len(absent[name]) + sizes[name]) for name in kinds])
    found = []
    for penalty in estimation.RIDGE_PENALTIES:
        left = y[rows, 1].numpy().copy()
        for fold in folds:
            held = fold.numpy()
            seen = np.setdiff1d(np.arange(len(rows)), held)
            slopes = ridge(covariates[rows[seen]], y[rows[seen], 1].numpy(), influence[seen], kinds[seen], penalty)
            for one in held:
                left[one] -= (covariates[rows[one]] - covariates[absent[kinds[one]]].mean(0)) @ slopes
        variance = sum(
            (influence[kinds == name] ** 2 * (left[kinds == name] - left[kinds == name].mean()) ** 2).sum()
            for name in range(4)
        )
        measured = y[rows, 1].numpy()
        found.append((variance, (weights * ((1 - unsampled) * measured + unsampled * left)).sum()))
    result = estimate_means(y[rows, 1:2], x, rows, classes)
    check(result, value=[min(found)[1]])
    fraction = result.error.item() ** 2 / min(found)[0]
    assert 1 - max(sizes[name] / (classes == name).sum().item() for name in range(4)) <= fraction < 1
    assert result.value.item() != estimate_means(y[rows, 1:2], NOTHING, rows, classes).value.item()


def test_units_order_and_company_do_not_matter() -> None:
    x, classes, y = population()
    rows = sample(classes, 80, 7)
    found = estimate_means(y[rows], x, rows, classes)
    other = estimate_means(3 - 2e3 * y[rows], x, rows, classes)
    check(other, value=3 - 2e3 * found.value, error=2e3 * found.error, equivalent=found.equivalent)
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    check(estimate_means(y[rows[shuffled]], x, rows[shuffled], classes * 5 + 2), value=found.value, low=found.low)
    check(estimate_means(y[rows, 1:2], x, rows, classes), value=found.value[1:2], high=found.high[1:2])


def test_classes_with_fewer_than_two_images_are_taken_together() -> None:
    _, _, y = population()
    classes = torch.tensor([0] * 300 + [1] * 200 + [2] * 60 + [3] * 30 + [4] * 10)
    rows = torch.tensor([*range(0, 300, 30), *range(300, 500, 30), 510, 570])  # one of 2, one of 3, none of 4
    together = torch.where(classes > 1, 2, classes)
    mine, theirs = (estimate_means(y[rows], NOTHING, rows, kinds) for kinds in (classes, together))
    check(mine, value=theirs.value, error=theirs.error, low=theirs.low)
    alone = rows[:-1]  # one of 2 and none of the others, which join the smallest of the rest
    together = together.clamp(max=1)
    mine, theirs = (estimate_means(y[alone], NOTHING, alone, kinds) for kinds in (classes, together))
    check(mine, value=theirs.value, error=theirs.error, low=theirs.low)
    two = torch.tensor([5, 450])
    mine, theirs = (estimate_means(y[two], NOTHING, two, kinds) for kinds in (classes, None))
    check(mine, value=theirs.value, error=theirs.error, low=theirs.low)


def test_few_images_and_many_covariates_do_no_harm() -> None:
    _, classes, y = population()
    wide = torch.from_numpy(np.random.default_rng(0).standard_normal((TOTAL, 90)))
    for n, strata in itertools.product((2, 3, 5, 12), (None, classes)):
        rows = torch.arange(0, TOTAL, TOTAL // n)[:n]
        found = estimate_means(y[rows], wide, rows, strata, shares=SHARES)
        assert all(torch.isfinite(getattr(found, name)).all() for name in ("value", "error", "low", "high"))
        assert (found.low <= found.value).all()
        assert (found.value <= found.high).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "total", "equal", "times"), [(100, 4000, False, 400), (320, 400, False, 300), (200, 4000, True, 300)]
)
def test_intervals_hold_the_mean_of_all_in_95_of_100_cases(n: int, total: int, equal: bool, times: int) -> None:
    x, classes, y = population(total=total)
    truth = y.mean(0)
    found = [
        estimate_means(y[rows], x, rows, classes, shares=SHARES)
        for rows in (sample(classes, n, seed, equal) for seed in range(times))
    ]
    low, high, value, error, mean = (
        torch.stack([getattr(one, name) for one in found]) for name in ("low", "high", "value", "error", "mean")
    )
    covered = ((low - 1e-9 <= truth) & (truth <= high + 1e-9)).double().mean(0)
    assert (covered[[0, 1, 3]] >= 0.92).all()
    assert (covered[[0, 1, 3]] <= 0.98).all()
    assert covered[2] == 1
    off = value - truth
    spread = off.square().mean(0).sqrt()
    assert (off.mean(0).abs() < 0.1 * spread + 1e-9).all()
    # What it says of its own exactness is right too.
    assert error.square().mean(0).sqrt()[[0, 1, 3]] / spread[[0, 1, 3]] == pytest.approx(np.ones(3), abs=0.1)
    equivalent = torch.stack([one.equivalent for one in found]).median(0).values
    size = len(sample(classes, n, 0, equal))
    exact = y.var(0, correction=0) * (1 - size / total) / spread**2
    assert equivalent[[0, 1, 3]] / exact[[0, 1, 3]] == pytest.approx(np.ones(3), abs=0.2)
    assert equal or equivalent[1] > 1.4 * n
    assert equal or (off[:, 1].square().mean() < 0.75 * (mean - truth)[:, 1].square().mean())
