"""Pixels to the colours that they have, wherever they are, in Oklab, where equal distances look about equal.

Oklab (Ottosson, 2020) has the lightness L, 0 of black and 1 of white, and a (from green to red) and b (from blue to
yellow), which are 0 of grey and at most 0.32 of what a screen shows.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

# Where the bins of L, a and b meet. Photographs are mostly dull: at these edges each bin of L holds about a quarter
# of their pixels, each of a more than a tenth, each of b more than a twentieth. None is at 0, where grey would be torn.
OKLAB_BIN_EDGES = ((0.4, 0.55, 0.7), (-0.02, 0.02), (-0.03, -0.01, 0.02, 0.05))
N_OKLAB_BINS = [len(edges) + 1 for edges in OKLAB_BIN_EDGES]
*_, N_OKLAB_CELLS = accumulate(N_OKLAB_BINS, lambda cells, bins: cells * bins)
RGB_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
LMS_TO_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def convert_to_oklab(pixels: Tensor) -> Tensor:
    """L, a and b (B, 3, H W) of uint8 sRGB pixels (B, H, W, 3)."""
    levels = torch.arange(256, dtype=torch.float64, device=pixels.device) / 255
    linear = torch.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4).float()
    light = linear.index_select(0, pixels.flatten(1, 2).mT.flatten().int()).view(len(pixels), 3, -1)
    cones = linear.new_tensor(RGB_TO_LMS) @ light
    return linear.new_tensor(LMS_TO_OKLAB) @ cones.pow(1 / 3)


def colour(pixels: Tensor) -> Tensor:
    """A vector (B, 63, 1, 1) of uint8 pixels (B, H, W, 3): the means of L, a and b, and the shares of 60 colours.

    These are the cells of a joint histogram: number 3 + (l * 3 + a) * 5 + b of the vector is the share of the pixels
    in bin l of 4 of L, a of 3 of a, and b of 5 of b, all counted from 0; see EDGES.
    """
    lab = convert_to_oklab(pixels)
    cell = torch.zeros_like(lab[:, 0], dtype=torch.int32)
    for axis, edges in enumerate(OKLAB_BIN_EDGES):
        cell *= N_OKLAB_BINS[axis]
        for edge in edges:  # twice as fast as torch.bucketize
            cell += lab[:, axis] >= edge
    shares = (
        lab.new_zeros(len(lab), N_OKLAB_CELLS).scatter_add_(1, cell.long(), torch.ones_like(lab[:, 0])) / lab.shape[2]
    )
    return torch.cat([lab.mean(2), shares], 1)[:, :, None, None]
