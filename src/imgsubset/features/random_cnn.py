"""Pixels to feature maps: seeded random CNNs, and the interface that any other extractor has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Extractor: TypeAlias = Callable[[Tensor], Tensor]
"""Maps uint8 pixels (B, H, W, 3) to feature maps (B, C, h, w), each image by itself."""

SLOPES = {"leaky": 0.2, "relu": 0.0}  # of an activation below 0


class RandomCNN(torch.nn.Module):
    """An untrained convolutional network: for each layer a convolution of stride 2, then the activation; no biases.

    Untrained networks make a sound perceptual distance that improves with the number of channels (Amir & Weiss,
    CVPR 2021), and need no download. Weights are normal with a variance that keeps that of the maps, 2 / fan_in for
    ReLU (He et al., ICCV 2015), drawn on the CPU, so that they are the same on every device.

    channels     output channels of each layer
    kernel_size  odd, in pixels
    seed         of the weights
    activation   one of SLOPES. ReLU leaves channels that a few images rule (kurtosis up to 390, against 12)
    role         what the network is for: the weights follow from a hash of (role, channels, kernel_size, seed), so
                 that no two networks share filters; None: from the seed alone, as in version 0.1.0
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64),
        kernel_size: int = 3,
        seed: int = 0,
        activation: str = "leaky",
        role: str | None = "",
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed if role is None else _hash(role, channels, kernel_size, seed))
        self.padding = kernel_size // 2
        self.slope = SLOPES[activation]
        self.layers = torch.nn.ParameterList()
        for inputs, outputs in zip((3, *channels), channels, strict=False):
            fan_in = inputs * kernel_size**2
            weight = torch.randn(outputs, inputs, kernel_size, kernel_size, generator=generator)
            weight *= (2 / (1 + self.slope**2) / fan_in) ** 0.5
            # Channels last runs 1.5 times faster on a CPU.
            weight = weight.contiguous(memory_format=torch.channels_last)
            self.layers.append(torch.nn.Parameter(weight, requires_grad=False))

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature maps (B, C, h, w) of uint8 pixels (B, H, W, 3)."""
        maps = (pixels.float() / 127.5 - 1).permute(0, 3, 1, 2)
        for weight in self.layers:
            maps = F.leaky_relu_(F.conv2d(maps, weight, stride=2, padding=self.padding), self.slope)
        return maps


def _hash(role: str, channels: Sequence[int], kernel_size: int, seed: int) -> int:
    text = f"{role} {','.join(map(str, channels))} {kernel_size} {seed}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
