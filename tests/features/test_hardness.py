from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import linalg, special, stats
from torch import Tensor

from imgsubset.features import difficulty as module
from imgsubset.features.difficulty import compute_difficulty, small_class_warning

RIDGE = 0.03


def made_up(count: int, classes: int, width: int, apart: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Numbers (N, D) that differ by class in the mean, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centers = apart * torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, width, generator=generator) + centers[labels], labels


def slow_numbers(view: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The three numbers of each image, by a fit to all others."""
    names = np.unique(labels)
    scores = np.zeros((len(view), len(names)))
    scale = view.std(0)
    x = view[:, scale > 1e-9] / scale[scale > 1e-9]
    hot = (labels[:, None] == names).astype(float)
    # Ridge regression is least squares with rows of the penalty below the others.
    penalty = np.sqrt(RIDGE * len(x)) * np.eye(x.shape[1])
    for image in range(len(view)):
        others = np.arange(len(view)) != image
        mean, share = x[others].mean(0), hot[others].mean(0)
        target = np.concatenate([hot[others] - share, np.zeros((x.shape[1], len(names)))])
        weights = linalg.lstsq(np.concatenate([x[others] - mean, penalty]), target)[0]
        scores[image] = (x[image] - mean) @ weights + share
    place = np.searchsorted(names, labels)

    def log_loss(temperature: int) -> float:
        return -special.log_softmax(temperature * scores, 1)[np.arange(len(view)), place].mean()

    best = min(range(2, 15), key=log_loss)
    rows = []
    for image, own in enumerate(place):
        p = special.softmax(best * scores[image])
        right = p[own] > np.delete(p, own).max()
        rows.append([float(right), p[own], np.log(max(p[own], 0.05 / len(p)))])
    return np.array(rows)


def slow_components(numbers: np.ndarray) -> np.ndarray:
    """The principal components, scaled to variance 1, by singular values; logarithms have twice the length."""
    live = numbers.std(0) > 1e-9
    scores = stats.zscore(numbers[:, live], 0) * np.where(np.arange(len(live)) % 3 == 2, 2, 1)[live]
    left, values, _ = linalg.svd(scores, full_matrices=False)
    return left[:, values**2 > 1e-6 * values[0] ** 2][:, :16] * np.sqrt(len(numbers))


@pytest.mark.parametrize(("count", "classes", "apart"), [(90, 3, 0.5), (61, 2, 0.2), (200, 7, 1.0)])
def test_hardness_is_what_a_slow_program_makes_of_it(count: int, classes: int, apart: float) -> None:
    first, labels = made_up(count, classes, 6, apart)
    second = torch.cat([first[:, :3] ** 2, torch.full((count, 1), 7.0)], 1)  # one of them constant
    found = np.asarray(compute_difficulty([first, second], labels))
    numbers = [slow_numbers(np.asarray(view, float), np.asarray(labels)) for view in (first, second)]
    expected = slow_components(np.concatenate(numbers, 1))
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.abs((found * expected).mean(0)), 1, atol=1e-6)  # but for the sign
    np.testing.assert_allclose(found.T @ found / count, np.eye(found.shape[1]), atol=1e-8)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-10)


def test_images_beyond_hope_are_alike() -> None:
    view, labels = made_up(400, 2, 6, 3.0)
    labels[:3] = 1 - labels[:3]
    numbers = slow_numbers(np.asarray(view, float), np.asarray(labels))
    least = np.isclose(numbers[:, 2], np.log(0.025))
    assert least.sum() == 3
    found, expected = np.asarray(compute_difficulty([view], labels)), slow_components(numbers)
    np.testing.assert_allclose(np.abs((found * expected).mean(0)), 1, atol=1e-6)


def test_another_classifier_errs_where_images_are_hard() -> None:
    view, labels = made_up(3000, 4, 8, 0.6)
    train, known = made_up(400, 4, 8, 0.6, seed=1)  # none of those images
    centers = torch.stack([train[known == name].mean(0) for name in range(4)])
    right = (torch.cdist(view, centers).argmin(1) == labels).double()
    numbers = compute_difficulty([view[:, :5], view[:, 3:]], labels)
    fitted = numbers @ (numbers.mT @ (right - right.mean()) / len(right))  # they are uncorrelated
    assert float(fitted.var() / right.var()) > 0.3
    shuffled = right[torch.randperm(len(right), generator=torch.Generator().manual_seed(0))]
    fitted = numbers @ (numbers.mT @ (shuffled - shuffled.mean()) / len(right))
    assert float(fitted.var() / right.var()) < 0.02


def test_what_classes_are_called_does_not_matter() -> None:
    view, labels = made_up(120, 3, 5, 0.5)
    torch.testing.assert_close(compute_difficulty([view], 1000 - 7 * labels), compute_difficulty([view], labels))


def test_the_scale_of_numbers_does_not_matter_nor_a_large_mean() -> None:
    view, labels = made_up(150, 3, 5, 0.5)
    view = view.double()
    moved = view * torch.tensor([1e-3, 1, 5, 100, 1e4]).double() + torch.tensor([0, 0, 1e3, 1e4, 1e6]).double()
    torch.testing.assert_close(
        compute_difficulty([moved], labels), compute_difficulty([view], labels), rtol=1e-4, atol=1e-4
    )


def test_numbers_are_the_same_in_blocks_of_any_size_and_on_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view, labels = made_up(300, 3, 5, 0.5)
    whole = compute_difficulty([view, view[:, :2]], labels)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert torch.equal(compute_difficulty([view, view[:, :2]], labels), whole)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 70)
    torch.testing.assert_close(compute_difficulty([view, view[:, :2]], labels), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("labels", [[], [3], [0, 1], [0, 0, 1], [0, 1, 2, 3], [0] * 9 + [1], [0, 0, 0, 1, 2], [5] * 12])
def test_few_images_and_small_classes_have_finite_numbers(labels: list[int]) -> None:
    view, _ = made_up(len(labels), 1, 4, 1.0)
    numbers = compute_difficulty(
        [view, torch.ones(len(labels), 2), torch.zeros(len(labels), 0)], torch.tensor(labels).long()
    )
    assert numbers.shape[0] == len(labels)
    assert numbers.shape[1] <= min(16, max(0, len(labels) - 1))
    assert numbers.shape[1] == 0 or len({*labels}) > 1
    assert bool(numbers.isfinite().all())


def test_nothing_that_varies_has_no_numbers() -> None:
    labels = torch.arange(40) % 2
    assert compute_difficulty([], labels).shape == (40, 0)
    # Without views all images of a class are alike; of two classes of one size so are all images.
    assert compute_difficulty([torch.ones(40, 3)], labels).shape == (40, 0)


def test_views_need_a_row_for_each_label() -> None:
    for view in (torch.ones(3, 2), torch.ones(4), torch.ones(4, 1, 1)):
        with pytest.raises(ValueError, match="do not fit 4 labels"):
            compute_difficulty([torch.ones(4, 2), view], torch.arange(4))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((100, 100), None),
        ((199, 1), None),
        ((99, 100), "there are 100"),
        ((30, 10), "there are 20"),
        ((500,), "is one"),
        ((), "are none"),
    ],
)
def test_small_classes_are_told_of(counts: tuple[int, ...], words: str | None) -> None:
    labels = torch.tensor([*itertools.chain.from_iterable([name] * count for name, count in enumerate(counts))])
    note = small_class_warning(labels)
    assert (note is None) if words is None else (note is not None and words in note)
