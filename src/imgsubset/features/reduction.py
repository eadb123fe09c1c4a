"""Features of many channels to few: a search's time grows with the square of their number.

Of more than MOST channels an image's mean is kept, as a vector of numbers with one position: projected at random to
PROJECTED before anything is stored, and to its principal components once all images are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from imgsubset.devices import single_threaded
from imgsubset.features.embeddings import DEFAULT_COMPONENTS, fit_pca
from imgsubset.features.memory import PROJECTED_CHANNELS
from imgsubset.statistics.dice import make_generator
from imgsubset.statistics.moments import (
    ImageMoments,
    LazyMoments,
    Standardiser,
    compute_all_moments,
    compute_subset_moments,
)

MAX_CHANNELS = DEFAULT_COMPONENTS  # channels


def project_channels(images: ImageMoments) -> ImageMoments:
    """Moments of at most PROJECTED channels, each image by itself; few channels stay as they are."""
    if images.channels <= MAX_CHANNELS:
        return images
    mean = images.mean
    if images.channels > PROJECTED_CHANNELS:
        # A random projection to so many numbers keeps distances to a few per cent (Johnson & Lindenstrauss, 1984).
        generator = torch.Generator().manual_seed(images.channels)
        projection = torch.randn(images.channels, PROJECTED_CHANNELS, generator=generator) / PROJECTED_CHANNELS**0.5
        mean = mean @ projection.to(mean)
    return _vectors_to_moments(mean)


def reduce_channels(images: ImageMoments) -> ImageMoments:
    """The first principal components, turned at random, of vectors of more than MOST numbers."""
    if images.channels <= MAX_CHANNELS:
        return images
    seen = fit_reduction(images)
    with single_threaded():  # so that sums have one order
        return ImageMoments(torch.cat([seen(block) for block in images.blocks()]), 1)


def fit_reduction(images: ImageMoments) -> Callable[[Tensor], Tensor]:
    """What makes the reduced rows of rows of a table, by the components of these images."""
    if images.channels <= MAX_CHANNELS:
        return lambda rows: rows
    with single_threaded():
        center, projection, _ = fit_pca(images.mean.cpu().numpy(), range(len(images)), MAX_CHANNELS)

    def seen(rows: Tensor) -> Tensor:
        mean = rows[:, : images.channels].double().cpu()
        return _vectors_to_moments(((mean - center) @ projection).float()).table.to(rows)

    return seen


def standardise_lazily(images: ImageMoments, sampled: int) -> tuple[LazyMoments, Standardiser]:
    """Reduced, by the components of a sample of so many, and standardised, whenever some rows are looked at."""
    some = torch.randperm(len(images), generator=make_generator(torch.device("cpu"), "sample"))[:sampled].sort().values
    sample = ImageMoments(images.table[some.to(images.table.device)], images.positions)
    seen, positions = fit_reduction(sample), images.positions if images.channels <= MAX_CHANNELS else 1
    sample = ImageMoments(seen(sample.table), positions)
    found = LazyMoments(images.table, positions, seen, sample, compute_all_moments(sample))
    whole = compute_subset_moments(found, torch.arange(len(images))[None], torch.float64).take(0)
    scale = Standardiser.of(whole.mean, whole.var)

    def standardised(rows: Tensor) -> Tensor:
        return scale.rows(seen(rows)).float()

    return replace(found, seen=standardised, sample=scale.apply(sample), whole=scale.moments(whole)), scale


def _vectors_to_moments(mean: Tensor) -> ImageMoments:
    """With one position, the mean square is the square of the mean."""
    return ImageMoments(torch.cat([mean, mean.square()], 1), 1)
