from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import Array, random_maps, set_moments, standardised

from imgsubset.statistics import moments
from imgsubset.statistics.moments import (
    ImageMoments,
    Moments,
    compute_all_moments,
    compute_subset_moments,
    fit_standardiser,
    maps_to_moments,
)


def images_of(maps: Array) -> ImageMoments:
    return ImageMoments(maps_to_moments(torch.tensor(maps, dtype=torch.float32)), maps.shape[2] * maps.shape[3])


def assert_moments(found: Moments, expected: tuple[Array, Array, Array], tolerance: float) -> None:
    for values, wanted in zip((found.mean, found.var, found.cov), expected, strict=True):
        assert values.dtype == torch.float64
        np.testing.assert_allclose(values.numpy(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_an_image_is_reduced_to_mean_and_mean_square_over_positions(side: int) -> None:
    maps = random_maps(4, 3, side, seed=1)
    table = maps_to_moments(torch.tensor(maps))
    assert table.shape == (4, 6)
    for image in range(4):
        for channel in range(3):
            values = [maps[image, channel, y, x] for y in range(side) for x in range(side)]
            assert float(table[image, channel]) == pytest.approx(sum(values) / side**2)
            assert float(table[image, 3 + channel]) == pytest.approx(sum(value**2 for value in values) / side**2)


def test_views_of_the_table() -> None:
    images = ImageMoments(torch.arange(12.0).view(2, 6), 4)
    assert (len(images), images.channels) == (2, 3)
    assert images.mean.tolist() == [[0, 1, 2], [6, 7, 8]]
    assert images.square.tolist() == [[3, 4, 5], [9, 10, 11]]


def test_standardised_moments_are_those_of_standardised_maps() -> None:
    maps = random_maps(30, 5, 3, seed=2)
    images = images_of(maps)
    found = fit_standardiser(images).apply(images)
    assert found.table.dtype == torch.float32
    assert found.positions == 9
    expected = maps_to_moments(torch.tensor(standardised(maps))).numpy()
    np.testing.assert_allclose(found.table.numpy(), expected, rtol=1e-4, atol=1e-5)
    again = fit_standardiser(images).apply(images, in_place=True)
    assert torch.equal(again.table, found.table)
    assert again.table is images.table


def test_a_standardised_source_has_mean_0_and_variance_1() -> None:
    images = images_of(random_maps(200, 6, 3, seed=3))
    source = compute_all_moments(fit_standardiser(images).apply(images))
    np.testing.assert_allclose(source.mean.numpy(), 0, atol=1e-6)
    np.testing.assert_allclose(source.var.numpy(), 1, atol=1e-6)
    assert source.cov.diagonal().max() < 1  # the variance between images is a part of it


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_channel_without_variance_is_dropped_and_the_others_stay(value: float) -> None:
    maps = random_maps(20, 4, 3, seed=4)
    maps[:, 1] = value
    scale = fit_standardiser(images_of(maps))
    assert scale.is_varying.tolist() == [True, False, True, True]
    alive = images_of(np.delete(maps, 1, 1))
    torch.testing.assert_close(scale.apply(images_of(maps)).table, fit_standardiser(alive).apply(alive).table)


@pytest.mark.parametrize("side", [1, 8])
def test_constant_channels_are_dropped_whatever_their_value(side: int) -> None:
    values = np.random.default_rng(0).uniform(0.01, 3, size=64)
    maps = np.broadcast_to(values[None, :, None, None], (50, 64, side, side))
    assert int(fit_standardiser(images_of(maps)).is_varying.sum()) == 0


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
def test_moments_of_subsets_are_those_of_a_plain_loop_over_maps(n: int) -> None:
    maps = random_maps(20, 4, 2, seed=5).astype(np.float32).astype(np.float64)
    rng = np.random.default_rng(n)
    rows = np.stack([rng.permutation(20)[:n] for _ in range(5)])
    for dtype, tolerance in ((torch.float32, 3e-5), (torch.float64, 3e-5)):
        found = compute_subset_moments(images_of(maps), torch.tensor(rows), dtype)
        assert found.mean.shape == found.var.shape == (5, 4)
        assert found.cov.shape == (5, 4, 4)
        for k in range(5):
            assert_moments(Moments(found.mean[k], found.var[k], found.cov[k]), set_moments(maps[rows[k]]), tolerance)


def test_moments_in_float64_are_exact_for_the_table_given() -> None:
    table = torch.tensor(np.random.default_rng(1).normal(size=(50, 6)), dtype=torch.float32)
    rows = torch.stack([torch.randperm(50, generator=torch.Generator().manual_seed(k))[:30] for k in range(3)])
    found = compute_subset_moments(ImageMoments(table, 4), rows, torch.float64)
    for k in range(3):
        chosen = table[rows[k]].double().numpy()
        a, q = chosen[:, :3], chosen[:, 3:]
        expected = a.mean(0), q.mean(0) - a.mean(0) ** 2, np.cov(a.T, bias=True)
        assert_moments(Moments(found.mean[k], found.var[k], found.cov[k]), expected, 1e-13)


@pytest.mark.parametrize("gather_bytes", [1, 64, 200, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_smaller_than_a_subset_change_nothing(
    monkeypatch: pytest.MonkeyPatch, gather_bytes: int, dtype: torch.dtype
) -> None:
    images = images_of(random_maps(40, 4, 2, seed=6))
    rows = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(k))[:23] for k in range(7)])
    whole = compute_subset_moments(images, rows, dtype)
    monkeypatch.setattr(moments, "GATHER_BYTES", {"cpu": gather_bytes})
    cut = compute_subset_moments(images, rows, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    assert_moments(cut, (whole.mean.numpy(), whole.var.numpy(), whole.cov.numpy()), tolerance)


def test_sums_in_float32_stay_near_float64_for_many_images() -> None:
    table = torch.randn(30_000, 4, generator=torch.Generator().manual_seed(7))
    table[:, 2:] = table[:, :2].square() + 1
    images, rows = ImageMoments(table, 4), torch.arange(30_000)[None]
    single, double = (compute_subset_moments(images, rows, dtype) for dtype in (torch.float32, torch.float64))
    assert_moments(single, (double.mean.numpy(), double.var.numpy(), double.cov.numpy()), 1e-5)


def test_the_moments_of_all_images_are_those_of_the_maps() -> None:
    maps = random_maps(25, 4, 3, seed=8)
    assert_moments(compute_all_moments(images_of(maps)), set_moments(maps), 3e-5)


def test_a_single_image_has_no_covariance() -> None:
    maps = random_maps(6, 3, 2, seed=9)
    found = compute_subset_moments(images_of(maps), torch.tensor([[4]]), torch.float64)
    np.testing.assert_allclose(found.cov.numpy(), 0, atol=1e-14)
    np.testing.assert_allclose(found.mean[0].numpy(), maps[4].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.var[0].numpy(), maps[4].var((1, 2)), rtol=1e-4)


def test_moments_divide_by_n() -> None:
    a = np.array([[1.0, 2], [3, 5], [5, 5]])
    q = a**2 + 1
    images = ImageMoments(torch.tensor(np.concatenate([a, q], 1), dtype=torch.float32), 4)
    # Means 3 and 4; mean squares 35/3 + 1 and 18 + 1; products 1 * 2 + 3 * 5 + 5 * 5 = 42.
    expected = np.array([3.0, 4]), np.array([35 / 3 + 1 - 9, 3]), np.array([[35 / 3 - 9, 2], [2, 2]])
    assert_moments(compute_all_moments(images), expected, 1e-14)


@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_the_root_of_a_covariance_spans_the_directions_in_which_the_set_varies(rank: int) -> None:
    half = np.random.default_rng(rank).normal(size=(rank, 5))
    cov = torch.tensor(half.T @ half)
    root = Moments(torch.zeros(5), torch.ones(5), cov).cov_root
    assert root.shape == (rank, 5)
    np.testing.assert_allclose((root.mT @ root).numpy(), cov.numpy(), atol=1e-12)
