"""Features of many channels to few: a search's time grows with the square of their number.

Of more than MOST channels an image's mean is kept, as a vector of numbers with one position: projected at random to
PROJECTED before anything is stored, and to its principal components once all images are known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from imgsubset.devices import single_threaded
from imgsubset.features.embeddings import COMPONENTS, components
from imgsubset.statistics.moments import BLOCK, ImageMoments

MOST, PROJECTED = COMPONENTS, 256  # channels


def narrowed(images: ImageMoments) -> ImageMoments:
    """Moments of at most PROJECTED channels, each image by itself; few channels stay as they are."""
    if images.channels <= MOST:
        return images
    mean = images.mean
    if images.channels > PROJECTED:
        # A random projection to so many numbers keeps distances to a few per cent (Johnson & Lindenstrauss, 1984).
        generator = torch.Generator().manual_seed(images.channels)
        projection = torch.randn(images.channels, PROJECTED, generator=generator) / PROJECTED**0.5
        mean = mean @ projection.to(mean)
    return _vectors(mean)


def reduced(images: ImageMoments) -> ImageMoments:
    """The first principal components, turned at random, of vectors of more than MOST numbers."""
    if images.channels <= MOST:
        return images
    values = images.mean.cpu().numpy()
    with single_threaded():  # so that sums have one order
        center, projection, _ = components(values, range(len(values)), MOST)
        parts = [((part.double().cpu() - center) @ projection).float() for part in torch.split(images.mean, BLOCK)]
    return _vectors(torch.cat(parts).to(images.table))


def _vectors(mean: Tensor) -> ImageMoments:
    """With one position, the mean square is the square of the mean."""
    return ImageMoments(torch.cat([mean, mean.square()], 1), 1)
