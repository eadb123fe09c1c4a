from __future__ import annotations

import numpy as np
import pytest
import torch

from imgsubset.features.handcrafted import colour, convert_to_oklab

EDGES = ((0.4, 0.55, 0.7), (-0.02, 0.02), (-0.03, -0.01, 0.02, 0.05))


def lab_of(pixel: np.ndarray) -> list[float]:
    """Oklab of one pixel, as its inventor's page has it."""
    red, green, blue = ((v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for v in pixel / 255)
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    middle = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return [
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    ]


@pytest.mark.parametrize(
    ("pixel", "wanted"),
    [
        ((255, 255, 255), (1, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 255, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 255), (0.45201, -0.03246, -0.31153)),
    ],
)
def test_known_colours(pixel: tuple[int, ...], wanted: tuple[float, ...]) -> None:
    found = convert_to_oklab(torch.tensor(pixel, dtype=torch.uint8).view(1, 1, 1, 3))
    assert found.flatten().tolist() == pytest.approx(wanted, abs=1e-4)


def test_the_vector_has_means_and_shares() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 3), dtype=np.uint8)
    pixels[0] = pixels[0] // 8 + 110  # dull, as photographs are
    vectors = colour(torch.from_numpy(pixels))
    assert vectors.shape == (3, 63, 1, 1)
    for image, vector in zip(pixels, vectors[:, :, 0, 0].numpy(), strict=True):
        shares, total = np.zeros((4, 3, 5)), np.zeros(3)
        for pixel in image.reshape(-1, 3):
            lab = lab_of(pixel)
            total += lab
            for value, edges in zip(lab, EDGES, strict=True):
                assert min(abs(value - edge) for edge in edges) > 1e-6, "float32 may see it in either bin"
            shares[tuple(sum(value >= edge for edge in edges) for value, edges in zip(lab, EDGES, strict=True))] += 1
        np.testing.assert_allclose(vector[:3], total / 120, atol=1e-5)
        np.testing.assert_allclose(vector[3:], shares.ravel() / 120, atol=1e-6)


def test_greys_are_in_the_middle_bins() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    shares = colour(levels)[0, 3:].view(4, 3, 5)
    assert float(shares[:, 1, 2].sum()) == pytest.approx(1)
