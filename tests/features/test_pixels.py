from __future__ import annotations

import numpy as np
import pytest
import torch

from imgsubset.features.handcrafted import grey_maps, pixel_maps, thumbnail


def test_levels_go_from_minus_1_to_1() -> None:
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 3)
    assert pixel_maps(pixels).flatten().tolist() == pytest.approx([-1, 1, -0.6])


def test_maps_and_thumbnails_are_the_pixels_in_order() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8))
    maps, vectors, grey = pixel_maps(pixels), thumbnail(pixels), grey_maps(pixels)
    assert (maps.shape, vectors.shape, grey.shape) == ((3, 3, 4, 5), (3, 60, 1, 1), (3, 1, 4, 5))
    for image in range(3):
        numbers = iter(vectors[image, :, 0, 0].tolist())
        for colour in range(3):
            for y in range(4):
                for x in range(5):
                    level = int(pixels[image, y, x, colour]) / 127.5 - 1
                    assert float(maps[image, colour, y, x]) == pytest.approx(level, abs=1e-6)
                    assert next(numbers) == pytest.approx(level, abs=1e-6)
        for y in range(4):
            for x in range(5):
                red, green, blue = pixels[image, y, x].tolist()
                brightness = (0.299 * red + 0.587 * green + 0.114 * blue) / 127.5 - 1
                assert float(grey[image, 0, y, x]) == pytest.approx(brightness, abs=1e-6)
