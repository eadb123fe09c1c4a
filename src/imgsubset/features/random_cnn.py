"""Pixels to feature maps: seeded random CNNs, and the interface that any other extractor has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from imgsubset.errors import UsageError
from imgsubset.features.handcrafted import pixel_maps
from imgsubset.options import TAPS
from imgsubset.statistics.moments import ImageMoments, maps_to_moments

Maps: TypeAlias = Tensor | list[Tensor]
"""Feature maps (B, C, h, w), or those of several layers, whose sides differ."""
Extractor: TypeAlias = Callable[[Tensor], Maps]
"""Maps uint8 pixels (B, H, W, 3) to feature maps, each image by itself."""

LEAKY_SLOPE = 0.2  # slope of LeakyReLU below 0
# Name: how it is applied, in place, and the mean square of what comes out for a standard normal. Weights of variance
# 1 / (that * fan_in) keep the mean square from layer to layer (He et al., ICCV 2015).
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "relu": (F.relu_, 1 / 2),
    "leaky": (partial(F.leaky_relu_, negative_slope=LEAKY_SLOPE), (1 + LEAKY_SLOPE**2) / 2),
    "abs": (torch.abs_, 1.0),
}


class RandomCNNs(torch.nn.Module):
    """Untrained convolutional networks of one shape, computed together: for each layer a convolution, then an
    activation; no biases.

    The maps are those of each network, up to float rounding, its channels one after another. Together they take as
    long as one by one at 64 pixels, and three quarters of it at 32 (four networks of 16,32,32 on one thread).

    roles        a name for each network. Weights are drawn from a hash of role, shape of all layers and seed, so
                 that networks of which any of these differs share no filter. None: from the seed alone, as in
                 version 0.1.0
    channels     output channels of each layer
    kernel_size  odd, in pixels; one, or one a layer
    stride       in pixels; one, or one a layer
    activation   one of ACTIVATIONS: relu, leaky (LeakyReLU of slope 0.2), abs
    pool         window and stride of an average over the last maps, in their positions; None: none
    taps         last: the maps of the last layer; all: a list of the maps of every layer, only the last pooled

    Weights are He-normal and drawn on the CPU, so that they are the same on every device.

    Raises UsageError that names the parameter that makes no sense.
    """

    def __init__(
        self,
        roles: Sequence[str | None],
        channels: Sequence[int] = (16, 32, 64),
        kernel_size: int | Sequence[int] = 3,
        seed: int = 0,
        *,
        stride: int | Sequence[int] = 2,
        activation: str = "relu",
        pool: tuple[int, int] | None = None,
        taps: str = "last",
    ) -> None:
        super().__init__()
        channels = _parse_integers("channels", channels, None)
        kernels = _parse_integers("kernel_size", kernel_size, len(channels))
        strides = _parse_integers("stride", stride, len(channels))
        _check(all(kernel % 2 for kernel in kernels), "kernel_size", kernel_size, "odd")
        _check(activation in ACTIVATIONS, "activation", activation, f"one of {', '.join(ACTIVATIONS)}")
        if pool is not None:
            _check(len(_parse_integers("pool", pool, None)) == 2, "pool", pool, "a window and a stride")
        _check(taps in TAPS, "taps", taps, f"one of {', '.join(TAPS)}")
        _check(0 <= seed < 1 << 63, "seed", seed, "between 0 and 2^63 - 1")
        _check(len(set(roles)) == len(roles) > 0, "roles", roles, "a name for each network, no two alike")
        self.strides, self.pool, self.taps, self.count = strides, pool, taps, len(roles)
        self.activate, square = ACTIVATIONS[activation]
        shapes = [(o, i, k, k) for (i, o), k in zip(pairwise((3, *channels)), kernels, strict=True)]
        each = [_draw_weights(shapes, seed, role, square) for role in roles]
        # Channels last runs 1.5 times faster on a CPU.
        together = (torch.cat(layer).contiguous(memory_format=torch.channels_last) for layer in zip(*each, strict=True))
        self.layers = torch.nn.ParameterList(torch.nn.Parameter(layer, requires_grad=False) for layer in together)

    def forward(self, pixels: Tensor) -> Maps:
        """Feature maps (B, K C, h, w) of uint8 pixels (B, H, W, 3), or a list of these for each layer."""
        maps, every = pixel_maps(pixels), []
        for number, (weight, stride) in enumerate(zip(self.layers, self.strides, strict=True)):
            groups = self.count if number else 1  # all first layers see the same pixels
            maps = self.activate(F.conv2d(maps, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups))
            every.append(maps)
        if self.pool:
            height, width = maps.shape[2:]
            _check(min(height, width) >= self.pool[0], "pool", self.pool, f"of use on maps of {height} x {width}")
            every[-1] = F.avg_pool2d(maps, *self.pool)
        return every if self.taps == "all" else every[-1]

    def apart(self, maps: Maps) -> list[Maps]:
        """The maps of each network from those of all."""
        if isinstance(maps, Tensor):
            return [*maps.chunk(self.count, 1)]
        return [list(layers) for layers in zip(*(layer.chunk(self.count, 1) for layer in maps), strict=True)]


class RandomCNN(RandomCNNs):
    """One untrained convolutional network; see RandomCNNs for the parameters.

    Untrained networks make a sound perceptual distance that improves with the number of channels (Amir & Weiss,
    CVPR 2021), and need no download.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64),
        kernel_size: int | Sequence[int] = 3,
        seed: int = 0,
        *,
        role: str | None = "searched 0",
        stride: int | Sequence[int] = 2,
        activation: str = "relu",
        pool: tuple[int, int] | None = None,
        taps: str = "last",
    ) -> None:
        super().__init__(
            (role,), channels, kernel_size, seed, stride=stride, activation=activation, pool=pool, taps=taps
        )


def compute_image_moments(maps: Maps) -> ImageMoments:
    """What is kept of each image of feature maps: of several layers the channels one after another.

    Each channel's mean and mean square over its own positions are exact. The positions are those of the smallest
    maps, which says too little rather than too much of the larger ones.
    """
    layers = [maps] if isinstance(maps, Tensor) else maps
    means, squares = zip(*(maps_to_moments(layer).chunk(2, 1) for layer in layers), strict=True)
    return ImageMoments(torch.cat([*means, *squares], 1), min(layer[0, 0].numel() for layer in layers))


def _draw_weights(shapes: list[tuple[int, int, int, int]], seed: int, role: str | None, square: float) -> list[Tensor]:
    """Of each layer of a network, normal with mean 0 and variance 1 / (square * fan_in)."""
    if role is not None:
        seed = int.from_bytes(blake2b(repr((role, shapes, seed)).encode(), digest_size=8).digest(), "big") >> 1
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    return [weight * (1 / square / weight[0].numel()) ** 0.5 for weight in weights]


def _parse_integers(name: str, value: object, count: int | None) -> tuple[int, ...]:
    """Whole numbers of at least 1: as many as wanted, of which one may stand for all; any number if None."""
    wanted = "a list of numbers of at least 1" if count is None else f"one number of at least 1, or {count}"
    each = value if isinstance(value, Sequence) else (value,) * (count or 0)
    _check(len(each) == (count or len(each) or 1), name, value, wanted)
    _check(all(isinstance(number, int) and number >= 1 for number in each), name, value, wanted)
    return tuple(each)


def _check(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise UsageError(f"{name} {value!r} is not {wanted}")
