from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import imgsubset
from imgsubset.errors import UsageError
from imgsubset.features.difficulty import compute_difficulty as of_tensors

RANDOM = np.random.default_rng(0)
NUMBERS = RANDOM.normal(size=(60, 4))
CLASSES = [f"class {number % 3}" for number in range(60)]


def test_arrays_tensors_and_names_of_classes_make_the_same_numbers() -> None:
    view = NUMBERS.astype(np.float32)
    found = imgsubset.hardness([view, torch.from_numpy(view[:, :2])], CLASSES)
    assert isinstance(found, np.ndarray)
    numbered = torch.arange(60) % 3
    expected = of_tensors([torch.from_numpy(view), torch.from_numpy(view[:, :2])], numbered)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(imgsubset.hardness((view, view[:, :2]), numbered.numpy()), expected)


@pytest.mark.parametrize(
    ("views", "labels", "words"),
    [
        (NUMBERS, CLASSES, r"of one array it is \[array\]"),
        (7, CLASSES, "views 7 are not a list"),
        ([NUMBERS, NUMBERS[:5]], CLASSES, "view 1 is of 5 images, and the labels are of 60"),
        ([NUMBERS[:, 0]], CLASSES, r"view 0 is of shape \(60,\)"),
        ([NUMBERS * 1j], CLASSES, "complex128"),
        ([np.where(np.arange(60)[:, None] == 17, np.nan, NUMBERS)], CLASSES, "not finite, first in row 17"),
        ([NUMBERS], dict.fromkeys("ab", "cat"), "labels by path"),
        ([NUMBERS], [None] * 60, "no name or number of a class"),
        (["table.npy"], CLASSES, "view 0 is of shape"),
    ],
)
def test_what_makes_no_sense_is_named(views: Any, labels: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        imgsubset.hardness(views, labels)
