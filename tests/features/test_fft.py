from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch

from imgsubset.errors import UsageError
from imgsubset.features.handcrafted import FFT


def wave(plane: np.ndarray, down: int, across: int) -> complex:
    """One number of the Fourier transform of a plane (H, W)."""
    height, width = plane.shape
    total = 0j
    for y in range(height):
        for x in range(width):
            total += plane[y, x] * cmath.exp(-2j * math.pi * (down * y / height + across * x / width))
    return total / math.sqrt(height * width)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (8, 8)])
@pytest.mark.parametrize("colours", ["rgb", "grey"])
def test_maps_are_sums_of_waves(colours: str, height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    maps = FFT(colours)(torch.from_numpy(pixels)).numpy()
    blend = np.eye(3) if colours == "rgb" else np.array([[0.299, 0.587, 0.114]])
    assert maps.shape == (2, 3 * len(blend), height, width // 2 + 1)
    for image in range(2):
        for number, share in enumerate(blend):
            plane = (pixels[image].astype(float) * share).sum(2) / 127.5 - 1
            for down in range(height):
                for across in range(width // 2 + 1):
                    expected = wave(plane, down, across)
                    wanted = [expected.real, expected.imag, math.log1p(abs(expected))]
                    assert maps[image, 3 * number : 3 * number + 3, down, across] == pytest.approx(wanted, abs=1e-5)


def test_other_colours_are_refused() -> None:
    with pytest.raises(UsageError, match="colours 'lab' is not one of rgb, grey"):
        FFT("lab")
