from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from imgsubset.statistics.generative_metrics import (
    choose_permutation_count,
    compute_permuted_fids,
    compute_permuted_kids,
    compute_subset_fids,
    draw_assignments,
    frechet_distance,
)
from imgsubset.statistics.moments import ImageMoments
from imgsubset.statistics.permutation import run_two_sample_test

CPU = torch.device("cpu")


def vectors(count: int, channels: int, seed: int) -> Tensor:
    """Correlated, of very different variance, and far from 0."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, channels, generator=generator, dtype=torch.float64) * torch.logspace(0, -3, channels)
    turn = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64)).Q
    return mixed @ turn + 3 + seed / 10


def by_sqrtm(first: np.ndarray, second: np.ndarray) -> float:
    """The FID as Heusel et al. have it, with a general matrix root."""
    covariances = [np.cov(one, rowvar=False) for one in (first, second)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the product is singular, as it is of few images
        root = sqrtm(covariances[0] @ covariances[1]).real
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root))


@pytest.mark.parametrize(("sizes", "tolerance"), [((60, 45), 1e-7), ((60, 7), 1e-3), ((8, 6), 1e-3), ((2, 90), 1e-3)])
def test_the_distance_by_singular_values_is_that_by_the_root_of_a_matrix(
    sizes: tuple[int, int], tolerance: float
) -> None:
    first, second = (vectors(size, 12, seed) for seed, size in enumerate(sizes))
    expected = by_sqrtm(first.numpy(), second.numpy())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=tolerance)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=tolerance)


def test_vectors_and_triangles_give_one_distance_where_both_can() -> None:
    """Channels of zeros make of as many vectors as there are channels fewer."""
    first, second = vectors(20, 12, 0), vectors(15, 12, 1)
    wide = [torch.cat([one, one.new_zeros(len(one), 30)], 1) for one in (first, second)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(first, second), rel=1e-10)


def test_the_distance_of_single_vectors_is_that_of_points() -> None:
    first, second = vectors(1, 5, 0), vectors(1, 5, 1)
    assert frechet_distance(first, second) == pytest.approx(float((first - second).square().sum()))


def test_the_distance_of_two_normals_has_a_closed_form() -> None:
    """In one dimension: (m_1 - m_2)^2 + (s_1 - s_2)^2, of n - 1."""
    first, second = vectors(9, 1, 0), vectors(7, 1, 1)
    expected = (first.mean() - second.mean()) ** 2 + (first.std() - second.std()) ** 2
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-9)


def kid_by_loops(first: list[list[float]], second: list[list[float]]) -> float:
    """Binkowski et al., plainly."""

    def kernel(x: list[float], y: list[float]) -> float:
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(some: list[list[float]]) -> float:
        pairs = [kernel(x, y) for i, x in enumerate(some) for j, y in enumerate(some) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(x, y) for x in first for y in second]
    return within(first) + within(second) - 2 * sum(across) / len(across)


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_the_kid_is_that_of_plain_loops_in_every_deal(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgsubset.statistics.generative_metrics.KERNEL_BLOCK_BYTES", block)
    features = torch.cat([vectors(6, 4, 0), vectors(9, 4, 1)])
    dealt = draw_assignments(6, 9, 0, 3, CPU)
    expected = [kid_by_loops(features[some].tolist(), features[~some].tolist()) for some in dealt]
    np.testing.assert_allclose(compute_permuted_kids(features, dealt).numpy(), expected, rtol=1e-8, atol=1e-10)


def test_fid_and_kid_are_those_of_torch_fidelity() -> None:
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    from torch_fidelity.metric_kid import kid_features_to_metric

    features = torch.cat([vectors(40, 8, 0), vectors(40, 8, 1)])
    real = torch.arange(80)[None] < 40
    found = float(compute_permuted_fids(features, real)), float(compute_permuted_kids(features, real))
    statistics = [metric_fid.fid_features_to_statistics(part) for part in features.split(40)]
    expected = metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert found[0] == pytest.approx(expected, rel=1e-6)
    kid = kid_features_to_metric(*features.split(40), kid_subset_size=40, kid_subsets=1, verbose=False)
    assert found[1] == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-8)


def test_deals_have_the_sizes_of_the_sets_and_are_fewer_of_many_images() -> None:
    for sizes in ((3, 8), (8, 3)):
        dealt = draw_assignments(*sizes, 5, 20, CPU)
        assert dealt.sum(1).tolist() == [sizes[0]] * 20
        assert len({tuple(row.tolist()) for row in dealt}) > 10
    assert (
        choose_permutation_count(500, 500),
        choose_permutation_count(5000, 5000),
        choose_permutation_count(100, 5001),
    ) == (200, 200, 20)


def images(values: Tensor) -> ImageMoments:
    return ImageMoments(torch.cat([values, values.square()], 1).float(), 1)


def test_spaces_of_vectors_have_their_own_distance_and_share_deals_with_others() -> None:
    first, second = vectors(12, 5, 0), vectors(9, 5, 1)
    both = [images(first)] * 2, [images(second)] * 2
    ordinary, raw = run_two_sample_test(*both, seed=3, draws=6, raw=[False, True])
    assert raw.values[4] == pytest.approx(
        by_sqrtm(first.float().double().numpy(), second.float().double().numpy()), rel=1e-5
    )
    np.testing.assert_allclose(raw.values[:4], ordinary.values[:4], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(raw.floor[:, :4], ordinary.floor[:, :4], rtol=1e-3, atol=1e-6)
    assert raw.kid is not None
    assert raw.kid.shape == (7,)
    assert ordinary.kid is None
    # No order of the images changes a bit.
    again = run_two_sample_test(
        [images(first.flip(0))] * 2, [images(second.flip(0))] * 2, seed=3, draws=6, raw=[False, True]
    )[1]
    assert torch.equal(again.values, raw.values)
    assert torch.equal(again.floor, raw.floor)
    assert torch.equal(again.kid, raw.kid)  # type: ignore[arg-type]


def test_equal_sets_of_vectors_are_exactly_0_apart() -> None:
    first = vectors(9, 5, 0)
    (same,) = run_two_sample_test([images(first)], [images(first.flip(0))], seed=0, draws=3, raw=[True])
    assert same.values.tolist() == [0.0] * 5


def test_a_set_of_one_image_has_no_kid() -> None:
    (found,) = run_two_sample_test([images(vectors(1, 3, 0))], [images(vectors(5, 3, 1))], seed=0, draws=3, raw=[True])
    assert found.kid is None
    assert bool(found.values.isfinite().all())


def test_a_subset_is_measured_from_the_whole_beside_random_ones() -> None:
    features, rows = vectors(20, 6, 0), torch.tensor([1, 4, 7, 9, 12, 13, 15, 18])
    found = compute_subset_fids(features, rows, seed=1)
    assert len(found) == 1 + 200
    assert found[0] == pytest.approx(by_sqrtm(features.numpy(), features[rows].numpy()), rel=1e-5)
    assert 0 < found[1:].min() < found[1:].mean() < found[1:].max()
    assert compute_subset_fids(features, torch.arange(20), seed=1).abs().max() < 1e-9
