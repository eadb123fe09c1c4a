from __future__ import annotations

import numpy as np
import torch
from sources import made_up_source

from imgsubset.statistics import estimation as module
from imgsubset.statistics.estimation import MAX_BLOCK_COMPONENTS, compute_covariates
from imgsubset.statistics.moments import Block, ImageMoments


def numbers(count: int, channels: int, seed: int = 0) -> ImageMoments:
    mean = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
    mean = (mean - mean.mean(0)) / mean.std(0, correction=0)
    return ImageMoments(torch.cat([mean, mean.square()], 1), 1)


def test_features_give_their_first_components_and_numbers_themselves() -> None:
    one, other, known = made_up_source(300, 24), made_up_source(300, 5, seed=1), numbers(300, 4)
    blocks = [Block("a", one), Block("b", other), Block("c", known, numbers=True)]
    found = compute_covariates(blocks)
    assert found.shape == (300, MAX_BLOCK_COMPONENTS + 5 + 4)
    assert torch.equal(found[:, -4:], known.mean)
    for images, mine in ((one, found[:, :MAX_BLOCK_COMPONENTS]), (other, found[:, MAX_BLOCK_COMPONENTS:-4])):
        values = images.mean.double().numpy()
        left, spreads, _ = np.linalg.svd(values)
        expected = left[:, : mine.shape[1]] * spreads[: mine.shape[1]] * np.sqrt(300 / 2 / (spreads**2).sum())
        signs = np.sign((expected * mine.numpy()).sum(0))
        np.testing.assert_allclose(mine.numpy(), expected * signs, atol=1e-5)


def test_very_many_numbers_give_components() -> None:
    known = numbers(200, module.MAX_METADATA_CHANNELS + 4)
    found = compute_covariates([Block("c", known, numbers=True)])
    assert found.shape == (200, module.MAX_METADATA_CHANNELS)
    parts = [ImageMoments(torch.cat([part, part.square()], 1), 1) for part in known.mean.split(100, 1)]
    assert torch.equal(compute_covariates([Block("c", part, numbers=True) for part in parts]), found)
    # 200 images span 200 directions: nothing of them is lost.
    products = known.mean.double() @ known.mean.double().mT
    torch.testing.assert_close(found.double() @ found.double().mT, products, atol=0.02, rtol=1e-3)


def test_what_does_not_vary_is_0() -> None:
    still = ImageMoments(torch.zeros(50, 6), 4)
    assert torch.equal(compute_covariates([Block("a", still)]), torch.zeros(50, 3))
