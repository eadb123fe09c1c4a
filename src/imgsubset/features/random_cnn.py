"""Pixels to feature maps: a seeded random CNN, and the interface that any other extractor has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Extractor: TypeAlias = Callable[[Tensor], Tensor]
"""Maps uint8 pixels (B, H, W, 3) to feature maps (B, C, h, w), each image by itself."""


class RandomCNN(torch.nn.Module):
    """An untrained convolutional network: for each layer a convolution of stride 2, then ReLU; no biases.

    Untrained networks make a sound perceptual distance that improves with the number of channels (Amir & Weiss,
    CVPR 2021), and need no download. Weights are He-normal, N(0, 2 / fan_in) (He et al., ICCV 2015), drawn on the
    CPU from `seed` alone, so that they are the same on every device.

    channels     output channels of each layer
    kernel_size  odd, in pixels
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64), kernel_size: int = 3, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.padding = kernel_size // 2
        self.layers = torch.nn.ParameterList()
        for inputs, outputs in zip((3, *channels), channels, strict=False):
            fan_in = inputs * kernel_size**2
            weight = torch.randn(outputs, inputs, kernel_size, kernel_size, generator=generator)
            weight *= (2 / fan_in) ** 0.5
            # Channels last runs 1.5 times faster on a CPU.
            weight = weight.contiguous(memory_format=torch.channels_last)
            self.layers.append(torch.nn.Parameter(weight, requires_grad=False))

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature maps (B, C, h, w) of uint8 pixels (B, H, W, 3)."""
        maps = (pixels.float() / 127.5 - 1).permute(0, 3, 1, 2)
        for weight in self.layers:
            maps = F.conv2d(maps, weight, stride=2, padding=self.padding).relu_()
        return maps
