"""Moments that are kept apart: reduced and standardised when they are looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import watched_files

from imgsubset import Options, select
from imgsubset.divergence_weights import Weights
from imgsubset.features import array_storage
from imgsubset.features import load as reading_source
from imgsubset.features.array_storage import allocate_in_file, allocate_in_memory, choose_allocator
from imgsubset.features.embeddings import reduce_channels, standardise_lazily
from imgsubset.statistics.moments import (
    Block,
    ImageMoments,
    compute_all_moments,
    compute_subset_moments,
    fit_standardiser,
)
from imgsubset.statistics.objective import make_objective

FEW = 400


def images(channels: int, positions: int, count: int = 3000) -> ImageMoments:
    rng = torch.Generator().manual_seed(channels)
    mean = torch.randn(count, channels, generator=rng) @ torch.randn(channels, channels, generator=rng) + 3
    mean[:, 0] = 2  # a channel that does not vary
    rest = 0.0 if positions == 1 else torch.rand(count, channels, generator=rng)
    square = mean.square() + rest
    square[:, 0] = 4
    return ImageMoments(torch.cat([mean, square], 1), positions)


@pytest.mark.parametrize(("channels", "positions"), [(5, 9), (5, 1)])
def test_rows_that_are_looked_at_are_those_of_a_table_that_is_standardised(channels: int, positions: int) -> None:
    raw = images(channels, positions)
    before = raw.table.clone()
    expected = fit_standardiser(raw).apply(raw)
    found, scale = standardise_lazily(raw, FEW)
    assert (len(found), found.channels, found.positions) == (3000, channels - 1, positions)
    assert scale.is_varying.tolist() == [False] + [True] * (channels - 1)
    rows = torch.tensor([7, 2999, 7, 0])
    torch.testing.assert_close(found.gathered(rows, torch.empty(0)), expected.table[rows], rtol=1e-5, atol=1e-5)
    subsets = torch.stack([torch.randperm(3000)[:50] for _ in range(3)])
    for dtype in (torch.float32, torch.float64):
        one, other = (compute_subset_moments(some, subsets, dtype) for some in (found, expected))
        for name in ("mean", "var", "cov"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-4)
    for name in ("mean", "var", "cov"):
        torch.testing.assert_close(
            getattr(compute_all_moments(found), name),
            getattr(compute_all_moments(expected), name),
            rtol=1e-5,
            atol=1e-5,
        )
    assert torch.equal(raw.table, before)


def test_many_channels_are_reduced_by_the_components_of_the_sample() -> None:
    raw = images(70, 1)
    found, _ = standardise_lazily(raw, 3000)  # of all
    expected = reduce_channels(raw)
    again = fit_standardiser(expected).apply(expected)
    assert found.channels == again.channels == 64
    rows = torch.arange(3000)
    torch.testing.assert_close(found.gathered(rows, torch.empty(0)), again.table, rtol=1e-3, atol=1e-3)
    some, _ = standardise_lazily(raw, FEW)
    torch.testing.assert_close(some.whole.mean, torch.zeros(64, dtype=torch.float64))
    torch.testing.assert_close(some.whole.var, torch.ones(64, dtype=torch.float64))
    seen = some.gathered(rows, torch.empty(0)).double()[:, :64]
    np.testing.assert_allclose(some.whole.cov, np.cov(seen.numpy().T, bias=True), atol=1e-4)


def test_the_sample_has_the_baseline_of_all_images() -> None:
    raw = images(6, 9, 20_000)
    whole = fit_standardiser(raw).apply(raw)
    found, _ = standardise_lazily(raw, 2000)
    assert len(found.sample) == 2000
    for n, draws, tolerance in ((100, 600, 0.1), (1500, 200, 0.15)):  # a mean of draws has an error of a few per cent
        (expected,), (term,) = (
            make_objective((Block("", some),), n, Weights(), draws=draws).terms for some in (whole, found)
        )
        np.testing.assert_allclose(term.random.mean(0), expected.random.mean(0), rtol=tolerance)


def test_a_file_holds_what_memory_would() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    room = allocate_in_file(300, 7)
    room[:] = rows
    assert room.dtype == np.float32
    assert np.array_equal(room, rows)
    assert isinstance(room, np.memmap)
    assert not isinstance(allocate_in_memory(3, 2), np.memmap)
    assert choose_allocator(10**6, measures=True) is allocate_in_file
    assert choose_allocator(10**6, measures=False) is choose_allocator(20_000, measures=True) is allocate_in_memory


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_met_by_memory_or_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_storage.os, "posix_fallocate", full, raising=False)
    assert not isinstance(allocate_in_file(300, 7), np.memmap)
    monkeypatch.setattr(array_storage, "free_bytes", lambda: 1000)
    with pytest.raises(array_storage.InputError, match=r"^300 images need 0\.0 GB in the folder of temporary"):
        allocate_in_file(300, 7)


@pytest.mark.parametrize("cached", [True, False])
def test_a_selection_of_many_images_is_that_of_few_and_its_score_close(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    options = Options(steps=5, candidates=32, cache=str(tmp_path / "cache") if cached else None)
    expected = select(pictures, 8, options)
    made = watched_files(monkeypatch)
    for module in (array_storage, reading_source):
        monkeypatch.setattr(module, "MAX_IMAGES_IN_MEMORY", 20)
    found = select(pictures, 8, options)
    assert len(made) == 4  # of three networks that measure, and of what pictures look like
    assert found.chosen == expected.chosen
    assert found.score.searched_loss == expected.score.searched_loss
    for one, other in zip(found.score.held_out, expected.score.held_out, strict=True):
        assert one.name == other.name
        assert other.loss / 2 < one.loss < other.loss * 2  # units are of 20 images
