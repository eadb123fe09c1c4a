"""Pixels to the directions of their edges, roughly where they are: histograms of oriented gradients."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from imgsubset.features.pixels import grey_maps

HOG_GRID_SIDE = 3  # cells a side, so that the middle of a picture is told from its border
N_ORIENTATIONS = 6  # of 30 degrees each
# Added to the norm, so that the noise of flat pictures is not taken for edges: where levels are off by one of 255 at
# random it is half of this, of a photograph fifteen times.
MIN_GRADIENT_NORM = 0.02


def hog(pixels: Tensor) -> Tensor:
    """A vector (B, 54, 1, 1) of uint8 pixels (B, H, W, 3): how much the brightness changes in each of six directions.

    The change at a pixel is the difference between its two neighbours, right minus left and lower minus upper, the
    border repeated. Its length is divided among the two nearest of the directions 0, 30, ... 150 degrees (0: across
    the picture, as at a vertical edge; 90: down; opposite directions are one), the nearer the more, and averaged over
    each cell of a 3 x 3 grid. A side that 3 does not divide makes cells that share a row of pixels. Number
    (direction * 3 + row) * 3 + column of the vector is that of the cell in this row and column, all counted from 0.
    The vector of an image is divided by its length, so that contrast does not count; a flat image has zeros.
    """
    around = F.pad(grey_maps(pixels), (1, 1, 1, 1), mode="replicate")
    across = around[:, :, 1:-1, 2:] - around[:, :, 1:-1, :-2]
    down = around[:, :, 2:, 1:-1] - around[:, :, :-2, 1:-1]
    length = torch.hypot(across, down)
    direction = torch.atan2(down, across) * (N_ORIENTATIONS / math.pi)
    lower = direction.floor()
    upper_share = direction - lower
    lower = lower.long().remainder(N_ORIENTATIONS)
    votes = length.new_zeros(len(length), N_ORIENTATIONS, *length.shape[2:])
    votes.scatter_(1, lower, (1 - upper_share) * length)
    votes.scatter_(1, (lower + 1).remainder(N_ORIENTATIONS), upper_share * length)
    cells = F.adaptive_avg_pool2d(votes, HOG_GRID_SIDE).flatten(1)
    return (cells / (cells.square().sum(1, keepdim=True) + MIN_GRADIENT_NORM**2).sqrt())[:, :, None, None]
