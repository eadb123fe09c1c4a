from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from imgsubset.features.handcrafted import hog


def by_loops(image: np.ndarray) -> np.ndarray:
    """The vector of one image (H, W, 3), pixel by pixel."""
    height, width = image.shape[:2]
    grey = (image.astype(float) * [0.299, 0.587, 0.114]).sum(2) / 127.5 - 1
    votes = np.zeros((6, height, width))
    for y in range(height):
        for x in range(width):
            across = grey[y, min(x + 1, width - 1)] - grey[y, max(x - 1, 0)]
            down = grey[min(y + 1, height - 1), x] - grey[max(y - 1, 0), x]
            degrees = math.degrees(math.atan2(down, across))
            for direction in range(6):
                away = abs((degrees - 30 * direction + 90) % 180 - 90)
                votes[direction, y, x] = max(0, 1 - away / 30) * math.hypot(across, down)
    cells = np.zeros((6, 3, 3))
    for row in range(3):
        for column in range(3):
            rows = slice(row * height // 3, -(-(row + 1) * height // 3))
            columns = slice(column * width // 3, -(-(column + 1) * width // 3))
            cells[:, row, column] = votes[:, rows, columns].mean((1, 2))
    return (cells / math.sqrt((cells**2).sum() + 0.02**2)).ravel()


@pytest.mark.parametrize(("height", "width"), [(9, 12), (8, 8), (10, 7)])
def test_the_vector_is_a_histogram_in_each_cell(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    pixels[1] = pixels[1] // 64 + 100  # of little contrast
    vectors = hog(torch.from_numpy(pixels))
    assert vectors.shape == (3, 54, 1, 1)
    for image, vector in zip(pixels, vectors[:, :, 0, 0].numpy(), strict=True):
        np.testing.assert_allclose(vector, by_loops(image), atol=1e-5)


@pytest.mark.parametrize("degrees", [0, 30, 60, 90, 120, 150])
def test_a_slope_is_in_the_cells_of_its_direction(degrees: int) -> None:
    y, x = np.mgrid[:60, :60] - 30.0
    level = 128 + 2.5 * (x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees)))
    image = torch.from_numpy(np.repeat(level.round().astype(np.uint8)[None, :, :, None], 3, 3))
    cells = hog(image).view(6, 9)
    assert float(cells[degrees // 30].square().sum()) > 0.9
    assert float(cells[degrees // 30].min()) > 0.2  # of 1/3 each


def test_contrast_does_not_count_but_noise_of_a_flat_picture_is_no_edge() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 120, (1, 24, 24, 3), dtype=np.uint8))
    torch.testing.assert_close(hog(pixels), hog(pixels * 2), rtol=0.01, atol=0.001)
    assert float(hog(pixels // 60 + 100).norm()) < 0.6
