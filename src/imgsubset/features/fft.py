"""Pixels to the waves that they are made of: the two-dimensional Fourier transform."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imgsubset.errors import UsageError
from imgsubset.features.pixels import grey_maps, pixel_maps

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
