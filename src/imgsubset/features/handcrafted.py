"""Features without a network: pixels, Fourier spectrum, Oklab colours, oriented gradients, image statistics.

Oklab (Ottosson, 2020) has the lightness L, 0 of black and 1 of white, and a (from green to red) and b (from blue to
yellow), which are 0 of grey and at most 0.32 of what a screen shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from imgsubset.errors import UsageError

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # of Rec. 601, as Pillow's mode L has it


def pixel_maps(pixels: Tensor) -> Tensor:
    """Maps (B, 3, H, W), red, green and blue in [-1, 1], of uint8 pixels (B, H, W, 3)."""
    return (pixels.float() / 127.5 - 1).permute(0, 3, 1, 2)


def grey_maps(pixels: Tensor) -> Tensor:
    """Maps (B, 1, H, W) of the brightness in [-1, 1] of uint8 pixels (B, H, W, 3)."""
    maps = pixel_maps(pixels)
    return LUMA_WEIGHTS[0] * maps[:, :1] + LUMA_WEIGHTS[1] * maps[:, 1:2] + LUMA_WEIGHTS[2] * maps[:, 2:]


def thumbnail(pixels: Tensor) -> Tensor:
    """The pixels as a vector (B, 3 H W, 1, 1) in [-1, 1]: all of red row by row, then green, then blue."""
    return pixel_maps(pixels).flatten(1)[:, :, None, None]


COLOUR_MAPS = {"rgb": pixel_maps, "grey": grey_maps}


@dataclass(frozen=True)
class FFT:
    """The Fourier transform of each colour, of which the half that says all: h = H and w = W // 2 + 1 positions.

    The norm keeps the sum of squares over the whole transform. For each colour there are three channels: the real
    part, the imaginary part, and log(1 + magnitude).

    colours  rgb: red, green and blue, 9 channels; grey: the brightness, 3 channels

    Raises UsageError for other colours.
    """

    colours: str = "rgb"

    def __post_init__(self) -> None:
        if self.colours not in COLOUR_MAPS:
            raise UsageError(f"colours {self.colours!r} is not one of {', '.join(COLOUR_MAPS)}")

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps (B, 9 or 3, h, w) of uint8 pixels (B, H, W, 3)."""
        waves = torch.fft.rfft2(COLOUR_MAPS[self.colours](pixels).contiguous(), norm="ortho")
        return torch.stack([waves.real, waves.imag, waves.abs().log1p()], 2).flatten(1, 2)


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


IMAGE_STATISTICS = ("width", "height", "aspect", "file size", "brightness", "contrast", "sharpness", "saturation")


class Appearance:
    """A vector (B, 8, 1, 1) of uint8 pixels (B, H, W, 3) and of what is known of their files (B, 3): width and height
    in pixels, and bytes.

    In the order of NAMES: width and height as the picture is shown, in pixels; width / height; bytes; mean and standard
    deviation of the brightness, in [0, 1]; standard deviation of its Laplacian, which is low where a picture is blurred
    (Pech-Pacheco et al., ICPR 2000); mean saturation, (max - min) / max of red, green and blue, 0 of black. The pixels
    are those at the size at which the networks see them.
    """

    of_files = True

    def __call__(self, pixels: Tensor, files: Tensor) -> Tensor:
        """The vectors."""
        files = files.to(pixels.device, torch.float32)
        grey = (grey_maps(pixels) + 1) / 2
        inner = grey[..., 1:-1, 1:-1]
        edges = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:] - 4 * inner
        high, low = (bound.float().flatten(1) for bound in (pixels.amax(3), pixels.amin(3)))
        numbers = [
            files[:, 0],
            files[:, 1],
            files[:, 0] / files[:, 1].clamp(min=1),
            files[:, 2],
            grey.mean((1, 2, 3)),
            grey.std((1, 2, 3), correction=0),
            edges.std((1, 2, 3), correction=0) if edges.numel() else grey.new_zeros(len(grey)),
            ((high - low) / high.clamp(min=1)).mean(1),
        ]
        return torch.stack(numbers, 1)[:, :, None, None]
