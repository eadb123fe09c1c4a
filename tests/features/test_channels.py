from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis, norm, rankdata

from imgsubset.annotations.columns import Column
from imgsubset.features.metadata_encoding import encode_columns
from imgsubset.statistics.moments import fit_standardiser


def numbers(name: str, values: object, period: float | None = None) -> Column:
    return Column(name, np.array(values, np.float64), period=period)


def texts(name: str, *entries: str) -> Column:
    """A column of texts, several between bars."""
    return Column(name, texts=tuple(tuple(entry.split("|")) if entry else () for entry in entries))


def test_numbers_are_themselves() -> None:
    made, notes = encode_columns([numbers("age", range(10)), numbers("size", np.arange(10) ** 2)], None)
    assert made.names == ("age", "size")
    np.testing.assert_array_equal(made.values, np.stack([np.arange(10), np.arange(10) ** 2], 1))
    assert notes == ()


def test_an_unknown_number_changes_no_mean_and_is_a_share_of_its_own() -> None:
    values = [*range(10), *[math.nan] * 6]
    made, _ = encode_columns([numbers("age", values)], None)
    assert made.names == ("age", "age empty")
    assert made.values[:, 0].mean() == pytest.approx(4.5)
    assert made.values[:, 1].tolist() == [0] * 10 + [1] * 6
    made, _ = encode_columns([numbers("age", values[:-2])], None)  # of too few to be met
    assert made.names == ("age",)


def test_texts_are_the_shares_of_their_values() -> None:
    column = texts("tag", *["a"] * 6, *["b|a"] * 5, *[""] * 5, *["c", "d"] * 2)
    made, notes = encode_columns([column], None)
    assert made.names == ("tag=a", "tag=b", "tag empty")
    assert made.values.sum(0).tolist() == [11, 5, 5]
    assert notes == ("2 of 4 values of column 'tag' are of fewer than 5 images and are not matched",)
    more = texts("tag", *["a"] * 6, *["b"] * 5, *["c", "d", "e"] * 2)
    made, notes = encode_columns([more], None)
    assert made.names == ("tag=a", "tag=b", "tag other")
    assert made.values[:, 2].tolist() == [0] * 11 + [1] * 6
    assert notes == ("3 of 5 values of column 'tag' are of fewer than 5 images and are pooled",)


def test_what_is_rare_depends_on_the_size_of_the_subset() -> None:
    column = texts("tag", *["a"] * 80, *["b"] * 20)
    assert encode_columns([column], 15)[0].names == ("tag=a", "tag=b")  # 3 x 100 / 15 = 20
    assert encode_columns([column], 14)[0].names == ("tag=a",)


def test_what_does_not_vary_is_told() -> None:
    made, notes = encode_columns([numbers("one", [3] * 9), numbers("nearly", [0] * 9 + [1] * 4)], None)
    assert made.values.shape == (9, 0) or not made.names
    assert notes == ("2 columns, such as column 'one', do not vary enough to be matched",)


def test_heavy_tails_add_normal_scores() -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 2, 300))
    assert kurtosis(values, fisher=False) > 20
    made, _ = encode_columns([numbers("size", values)], None)
    assert made.names == ("size", "rank of size")
    order = np.argsort(values)
    expected = np.empty(300)
    expected[order] = [norm.ppf((rank + 0.5) / 300) for rank in range(300)]
    np.testing.assert_allclose(made.values[:, 1], expected, atol=1e-9)
    values = np.append(values.round(), np.nan)  # equal numbers have the mean of their ranks
    made, _ = encode_columns([numbers("size", values)], None)
    np.testing.assert_allclose(made.values[:300, 1], norm.ppf((rankdata(values[:300]) - 0.5) / 300), atol=1e-9)


def test_what_comes_round_is_sine_and_cosine() -> None:
    made, _ = encode_columns([numbers("hour", [0, 6, 12, 18, 3, 23.5], period=24)], None)
    assert made.names == ("sin hour", "cos hour")
    np.testing.assert_allclose(made.values[:4], [[0, 1], [1, 0], [0, -1], [-1, 0]], atol=1e-12)


def test_the_block_is_in_units_of_the_spread_whatever_the_numbers_are() -> None:
    values = 1.7e9 + np.random.default_rng(1).normal(0, 3600, (50, 2))  # seconds since 1970: float32 would lose them
    made, _ = encode_columns([numbers("a", values[:, 0]), numbers("b", values[:, 1])], None)
    block = made.block("times", 0.5, torch.device("cpu"))
    assert (block.name, block.weight, block.numbers, block.images.positions) == ("times", 0.5, True, 1)
    scaled = (values - values.mean(0)) / values.std(0)
    np.testing.assert_allclose(block.images.mean.numpy(), scaled, atol=1e-5)
    np.testing.assert_allclose(block.images.square.numpy(), scaled**2, rtol=1e-4, atol=1e-5)
    assert fit_standardiser(block.images).scale.tolist() == pytest.approx([1, 1])
