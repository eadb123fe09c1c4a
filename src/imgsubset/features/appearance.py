"""What a picture and its file are like, in numbers that people use: its size, brightness, sharpness and such."""

from __future__ import annotations

import torch
from torch import Tensor

from imgsubset.features.pixels import grey_maps

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
