from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from imgsubset.features.handcrafted import IMAGE_STATISTICS, Appearance


def plainly(pixels: np.ndarray, width: float, height: float, size: float) -> list[float]:
    """The numbers of one picture, pixel by pixel."""
    grey = [[(0.299 * r + 0.587 * g + 0.114 * b) / 255 for r, g, b in row] for row in pixels.tolist()]
    edges = [
        grey[y - 1][x] + grey[y + 1][x] + grey[y][x - 1] + grey[y][x + 1] - 4 * grey[y][x]
        for y in range(1, len(grey) - 1)
        for x in range(1, len(grey[0]) - 1)
    ]
    saturation = np.asarray(Image.fromarray(pixels).convert("HSV"))[..., 1].mean() / 255
    return [width, height, width / height, size, np.mean(grey), np.std(grey), np.std(edges), saturation]


def test_each_number_is_what_a_plain_loop_finds() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    pixels[1] = 77  # of one colour
    pixels[2] = 0
    files = torch.tensor([[640.0, 480, 12345], [10, 20, 99], [1, 1, 1], [3, 2, 1], [100, 1, 2**31]])
    found = Appearance()(torch.from_numpy(pixels), files)
    assert found.shape == (5, len(IMAGE_STATISTICS), 1, 1)
    for row, picture, about in zip(found[..., 0, 0].double().numpy(), pixels, files.tolist(), strict=True):
        # Pillow's saturation is a whole number of 255ths, rounded down.
        expected = plainly(picture, *about)
        assert row[:-1] == pytest.approx(expected[:-1], rel=2e-5, abs=2e-6)
        assert row[-1] == pytest.approx(expected[-1], abs=1 / 255)


def test_pictures_too_small_for_edges_and_files_that_are_none() -> None:
    found = Appearance()(torch.zeros(2, 2, 2, 3, dtype=torch.uint8), torch.zeros(2, 3))
    assert bool((found == 0).all())
