"""Pixels to vectors in which even a linear model tells classes apart to some extent: the views that hardness is of.

They see different things on purpose: what is hard in all of them is hard for most classifiers. None is learnt, so
that there is nothing to download, and all of them together take as long as two or three random CNNs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from scipy.fft import dct
from torch import Tensor

from imgsubset.features.colour import colour
from imgsubset.features.pixels import grey_maps, pixel_maps
from imgsubset.features.random_cnn import Extractor, RandomCNN
from imgsubset.statistics.dice import make_generator

LAYOUT_SIDE = 8  # pixels
N_FILTERS, FILTER_SIDE = 32, 5  # number, side in pixels
CORRELATION_LENGTH, COLOUR_CORRELATION, NOISE_VARIANCE = (
    30,
    0.9,
    0.01,
)  # of patches: pixels to a correlation of 1 / e, that of colours, variance added
N_HIDDEN_UNITS = 256
MAX_FREQUENCY = 4  # half periods, across and down together
N_DIRECTIONS, EDGE_GRID_SIDE = 8, 4
MIN_GRADIENT_NORM = 0.02  # added, so that the noise of flat pictures is not taken for edges; see features.hog


def layout(pixels: Tensor) -> Tensor:
    """Mean colours as a vector (B, 192, 1, 1) of uint8 pixels (B, H, W, 3): an 8 x 8 picture, colour by colour."""
    return _as_vector(F.adaptive_avg_pool2d(pixel_maps(pixels), LAYOUT_SIDE))


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
    angles = torch.arange(N_DIRECTIONS, device=pixels.device)[:, None, None] * (2 * math.pi / N_DIRECTIONS)
    rises = (across * angles.cos() + down * angles.sin()).relu_()
    cells = F.adaptive_avg_pool2d(rises, EDGE_GRID_SIDE).flatten(1)
    return _as_vector((cells / (cells.square().sum(1, keepdim=True) + MIN_GRADIENT_NORM**2).sqrt()).sqrt())


def products(pixels: Tensor) -> Tensor:
    """A vector (B, 135, 1, 1) of uint8 pixels (B, H, W, 3): the longest waves of the brightness, and their products.

    The waves are the coefficients (row, column) of the discrete cosine transform (type II, orthonormal) of the mean
    brightness in 8 x 8 cells with row + column of at most 4: about the first principal components of photographs. So
    a linear model is a quadratic one of these, as the rule for normal classes of unequal covariances is (Hastie,
    Tibshirani & Friedman, The Elements of Statistical Learning, 2009, 4.3). First the 15 waves row by row, then the
    120 products of two, squares among them.
    """
    few = F.adaptive_avg_pool2d(grey_maps(pixels), LAYOUT_SIDE)[:, 0]
    basis = torch.from_numpy(dct(torch.eye(LAYOUT_SIDE, dtype=torch.float64).numpy(), axis=0, norm="ortho")).to(few)
    place = torch.arange(LAYOUT_SIDE, device=few.device)
    waves = (basis @ few @ basis.mT)[:, place[:, None] + place <= MAX_FREQUENCY]
    one, other = torch.triu_indices(waves.shape[1], waves.shape[1], device=few.device)
    return _as_vector(torch.cat([waves, waves[:, one] * waves[:, other]], 1))


class Units(torch.nn.Module):
    """What a random hidden layer makes of the layout: a linear model of it is a network whose last layer alone learns
    (random kitchen sinks; Rahimi & Recht, NIPS 2008)."""

    def __init__(self) -> None:
        super().__init__()
        generator = make_generator(torch.device("cpu"), "units")
        inputs = 3 * LAYOUT_SIDE**2
        weights = torch.randn(inputs, N_HIDDEN_UNITS, generator=generator) * (2 / inputs**0.5)
        self.weights = torch.nn.Parameter(weights, requires_grad=False)
        self.offsets = torch.nn.Parameter(torch.randn(N_HIDDEN_UNITS, generator=generator), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """A vector (B, 256, 1, 1) of uint8 pixels (B, H, W, 3)."""
        return _as_vector(torch.addmm(self.offsets, layout(pixels).flatten(1), self.weights).relu())


class Textures(torch.nn.Module):
    """What seeded random filters of 5 x 5 pixels answer in each quarter of a picture.

    Pooled answers of one layer of filters, random ones too, are much of what a trained network knows (Coates, Lee &
    Ng, AISTATS 2011), once those above and those below 0 are pooled apart.

    whitened  whether the filters are those of whitened patches, which see what is fine as well as what is coarse. The
              covariance is not of the images at hand but one that fits most photographs: exp(-distance / 30 pixels)
              times 0.9 for two colours, and 0.01 more for each pixel
    """

    def __init__(self, *, whitened: bool = False) -> None:
        super().__init__()
        role = "whitened textures" if whitened else "textures"
        self.network = RandomCNN((N_FILTERS,), FILTER_SIDE, role=role, activation="leaky")
        if whitened:
            (filters,) = self.network.layers
            filters.copy_((filters.flatten(1).double() @ _patch_whitening_matrix()).view(filters.shape))

    def forward(self, pixels: Tensor) -> Tensor:
        """A vector (B, 256, 1, 1) of uint8 pixels (B, H, W, 3): roots of the mean of what is above 0, then of what is
        below, of each filter in each quarter, where it lies wholly inside the picture."""
        maps = self.network(pixels)[:, :, 1:-1, 1:-1]
        both = [F.adaptive_avg_pool2d(side.relu(), 2) for side in (maps, -maps)]
        return _as_vector(torch.cat(both, 1).sqrt())


def _patch_whitening_matrix() -> Tensor:
    """The inverse root (75, 75) of the covariance of patches, colour by colour, row by row."""
    place = torch.cartesian_prod(torch.arange(FILTER_SIDE), torch.arange(FILTER_SIDE)).double()
    near = (-torch.cdist(place, place) / CORRELATION_LENGTH).exp()
    alike = torch.full((3, 3), COLOUR_CORRELATION, dtype=torch.float64).fill_diagonal_(1)
    values, vectors = torch.linalg.eigh(torch.kron(alike, near))
    inverse_root: Tensor = vectors @ (vectors / (values + NOISE_VARIANCE).sqrt()).mT
    return inverse_root


def _as_vector(maps: Tensor) -> Tensor:
    return maps.flatten(1)[:, :, None, None]


VIEWS: dict[str, Callable[[], Extractor]] = {
    "layout": lambda: layout,
    "colours": lambda: colours,
    "edges": lambda: edges,
    "plain textures": Textures,
    "whitened textures": partial(Textures, whitened=True),
    "products": lambda: products,
    "units": Units,
}
"""By name what makes each of them; `features.spaces` names them too, at 32 pixels a side, without importing torch."""
