"""Pixels to feature maps without any network: the pixels themselves, and a small picture as a vector."""

from __future__ import annotations

from torch import Tensor

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
