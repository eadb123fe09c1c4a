"""Pixels to vectors in which even a linear model tells classes apart to some extent: the views that hardness is of.

They see different things on purpose: what is hard in all of them is hard for most classifiers. None is learnt, so
that there is nothing to download, and all of them together take as long as one or two random CNNs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from imgsubset.features.colour import colour
from imgsubset.features.pixels import grey_maps, pixel_maps
from imgsubset.features.random_cnn import Extractor, RandomCNN

FILTERS = 32
DIRECTIONS, CELLS = 8, 4
LEAST_NORM = 0.02  # added, so that the noise of flat pictures is not taken for edges; see features.hog


def layout(pixels: Tensor) -> Tensor:
    """Mean colours as a vector (B, 192, 1, 1) of uint8 pixels (B, H, W, 3): an 8 x 8 picture, colour by colour."""
    return _vector(F.adaptive_avg_pool2d(pixel_maps(pixels), 8))


def colours(pixels: Tensor) -> Tensor:
    """The vector (B, 63, 1, 1) of `features.colour`, of uint8 pixels (B, H, W, 3) averaged to 16 x 16."""
    few = F.adaptive_avg_pool2d(pixels.permute(0, 3, 1, 2).float(), 16)
    return colour(few.permute(0, 2, 3, 1).round().to(torch.uint8))


def edges(pixels: Tensor) -> Tensor:
    """A vector (B, 128, 1, 1) of uint8 pixels (B, H, W, 3): where the brightness rises in each of eight directions.

    The gradient at a pixel is the difference between its two neighbours, right minus left and lower minus upper, the
    border repeated. Its component in the directions 0, 45, ... 315 degrees, where that is above 0, is averaged over
    the cells of a 4 x 4 grid. Number (direction * 4 + row) * 4 + column of the vector is the square root of such a
    mean, after all are divided by their length, so that contrast does not count. The root is that of RootSIFT
    (Arandjelovic & Zisserman, CVPR 2012): a linear model of 5,000 images of CIFAR-10 tells 48.3 % with it, 46.6 %
    without.
    """
    around = F.pad(grey_maps(pixels), (1, 1, 1, 1), mode="replicate")
    across = around[:, :, 1:-1, 2:] - around[:, :, 1:-1, :-2]
    down = around[:, :, 2:, 1:-1] - around[:, :, :-2, 1:-1]
    angles = torch.arange(DIRECTIONS, device=pixels.device)[:, None, None] * (2 * math.pi / DIRECTIONS)
    rises = (across * angles.cos() + down * angles.sin()).relu_()
    cells = F.adaptive_avg_pool2d(rises, CELLS).flatten(1)
    return _vector((cells / (cells.square().sum(1, keepdim=True) + LEAST_NORM**2).sqrt()).sqrt())


class Textures(torch.nn.Module):
    """What seeded random filters of 5 x 5 pixels answer in each quarter of a picture.

    Pooled answers of one layer of filters, random ones too, are much of what a trained network knows (Coates, Lee &
    Ng, AISTATS 2011), once those above and those below 0 are pooled apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = RandomCNN((FILTERS,), 5, role="textures", activation="leaky")

    def forward(self, pixels: Tensor) -> Tensor:
        """A vector (B, 256, 1, 1) of uint8 pixels (B, H, W, 3): roots of the mean of what is above 0, then of what is
        below, of each filter in each quarter."""
        maps = self.network(pixels)
        both = [F.adaptive_avg_pool2d(side.relu(), 2) for side in (maps, -maps)]
        return _vector(torch.cat(both, 1).sqrt())


def _vector(maps: Tensor) -> Tensor:
    return maps.flatten(1)[:, :, None, None]


VIEWS: dict[str, Callable[[], Extractor]] = {
    "layout": lambda: layout,
    "colours": lambda: colours,
    "edges": lambda: edges,
    "textures": Textures,
}
"""By name what makes each of them; `features.spaces` names them too, at 32 pixels a side, without importing torch."""
