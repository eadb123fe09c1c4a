from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference import Array, convolve
from torch import Tensor

from imgsubset.features import feature_spaces
from imgsubset.features.difficulty import VIEWS, Textures, Units, colours, edges, layout, products
from imgsubset.features.handcrafted import colour
from imgsubset.features.random_cnn import RandomCNN


def random_pixels(count: int, side: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)


def cells(maps: Array, grid: int) -> Array:
    """Means (..., grid, grid) of maps (..., H, W) over equal cells."""
    side = maps.shape[-1] // grid
    parts = [
        [maps[..., side * y : side * (y + 1), side * x : side * (x + 1)] for x in range(grid)] for y in range(grid)
    ]
    return np.stack([np.stack([part.mean((-2, -1)) for part in row], -1) for row in parts], -2)


def colour_maps(image: Tensor) -> Array:
    return np.asarray(image.double() / 127.5 - 1).transpose(2, 0, 1)


def edges_by_loops(image: Tensor) -> Array:
    grey = np.einsum("chw,c->hw", colour_maps(image), [0.299, 0.587, 0.114])
    height, width = grey.shape
    rises = np.zeros((8, height, width))
    for y in range(height):
        for x in range(width):
            across = grey[y, min(x + 1, width - 1)] - grey[y, max(x - 1, 0)]
            down = grey[min(y + 1, height - 1), x] - grey[max(y - 1, 0), x]
            for direction in range(8):
                angle = math.radians(45 * direction)
                rises[direction, y, x] = max(0.0, across * math.cos(angle) + down * math.sin(angle))
    means = cells(rises, 4).ravel()
    return np.sqrt(means / math.sqrt((means**2).sum() + 0.02**2))


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_a_vector_of_few_numbers_of_each_image_by_itself(name: str) -> None:
    make, size = VIEWS[name], 32
    pixels = random_pixels(5, size)
    vectors = make()(pixels)
    assert vectors.dtype == torch.float32
    assert vectors.shape[0] == 5
    assert vectors.shape[1] <= 256  # more would be projected
    assert vectors.shape[2:] == (1, 1)
    torch.testing.assert_close(make()(pixels[2:3])[0], vectors[2], rtol=1e-4, atol=1e-5)
    levels = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 1]], dtype=torch.uint8)
    assert bool(make()(levels[:, None, None].repeat(1, size, size, 1)).isfinite().all())


def test_they_are_known_by_name_without_torch() -> None:
    assert [(name, size) for name, size, _ in feature_spaces.VIEWS["hardness"]] == [(name, 32) for name in VIEWS]
    for name, _, make in feature_spaces.VIEWS["hardness"]:
        assert type(make()) is type(VIEWS[name]())


def test_the_layout_is_mean_colours() -> None:
    pixels = random_pixels(2)
    for image, vector in zip(pixels, layout(pixels), strict=True):
        np.testing.assert_allclose(vector[:, 0, 0], cells(colour_maps(image), 8).ravel(), atol=1e-6)


def test_colours_are_those_of_the_picture_at_half_its_size() -> None:
    pixels = random_pixels(2)
    pixels[1] = pixels[1] // 8 + 100
    halves = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    for number, image in enumerate(pixels):
        means = cells(np.asarray(image, float).transpose(2, 0, 1), 16)
        halves[number] = torch.from_numpy(np.round(means).astype(np.uint8).transpose(1, 2, 0))
    torch.testing.assert_close(colours(pixels), colour(halves))


def test_edges_are_what_loops_make_of_them() -> None:
    pixels = random_pixels(2, 16)
    pixels[1] = pixels[1] // 64 + 100  # of little contrast
    for image, vector in zip(pixels, edges(pixels), strict=True):
        np.testing.assert_allclose(vector[:, 0, 0], edges_by_loops(image), atol=1e-5)


@pytest.mark.parametrize("direction", range(8))
def test_a_slope_rises_in_its_own_direction_most(direction: int) -> None:
    y, x = np.mgrid[:32, :32] - 16.0
    angle = math.radians(45 * direction)
    level = (128 + 4 * (x * math.cos(angle) + y * math.sin(angle))).round().astype(np.uint8)
    vector = edges(torch.from_numpy(np.repeat(level[None, :, :, None], 3, 3))).view(8, 16)
    assert int(vector.sum(1).argmax()) == direction
    assert float(vector[(direction + 4) % 8].max()) < 0.1


@pytest.mark.parametrize("whitened", [False, True])
def test_textures_are_the_answers_of_their_filters_on_both_sides_of_0(whitened: bool) -> None:
    pixels, extractor = random_pixels(2, 12), Textures(whitened=whitened)
    (weights,) = (np.asarray(layer, float) for layer in extractor.network.layers)
    assert weights.shape == (32, 3, 5, 5)
    for image, vector in zip(pixels, extractor(pixels), strict=True):
        answers = convolve(colour_maps(image), weights, 2)[:, 1:-1, 1:-1]  # those of whole patches
        both = np.concatenate(
            [cells(np.maximum(answers, 0), 2).ravel(), 0.2 * cells(np.maximum(-answers, 0), 2).ravel()]
        )
        np.testing.assert_allclose(vector[:, 0, 0], np.sqrt(both), atol=1e-5)


def test_whitened_filters_answer_patches_of_the_covariance_alike() -> None:
    covariance = np.zeros((75, 75))
    for one, (colour_1, y, x) in enumerate(np.ndindex(3, 5, 5)):
        for other, (colour_2, v, u) in enumerate(np.ndindex(3, 5, 5)):
            near = math.exp(-math.hypot(y - v, x - u) / 30)
            covariance[one, other] = near * (1 if colour_1 == colour_2 else 0.9) + 0.01 * (one == other)
    plain = RandomCNN((32,), 5, role="whitened textures", activation="leaky").layers[0].flatten(1).numpy()
    whitened = Textures(whitened=True).network.layers[0].flatten(1).numpy()
    np.testing.assert_allclose(whitened @ covariance @ whitened.T, plain @ plain.T, atol=1e-4)


def test_products_are_those_of_cosine_waves_of_the_brightness() -> None:
    pixels = random_pixels(2)
    for image, vector in zip(pixels, products(pixels), strict=True):
        grey = cells(np.einsum("chw,c->hw", colour_maps(image), [0.299, 0.587, 0.114]), 8)
        waves = []
        for row, column in np.ndindex(8, 8):
            if row + column <= 4:
                wave = np.outer(*(np.cos(math.pi * (np.arange(8) + 0.5) * order / 8) for order in (row, column)))
                waves.append(float((grey * wave).sum()) / math.sqrt((wave**2).sum()))
        pairs = [one * other for place, one in enumerate(waves) for other in waves[place:]]
        np.testing.assert_allclose(vector[:, 0, 0], waves + pairs, atol=1e-4)


def test_units_are_a_hidden_layer_of_normal_weights() -> None:
    pixels, extractor = random_pixels(3), Units()
    weights, offsets = extractor.weights.numpy(), extractor.offsets.numpy()
    assert (weights.shape, offsets.shape) == ((192, 256), (256,))
    assert float(weights.var()) == pytest.approx(4 / 192, rel=0.03)  # 4.7 standard errors
    assert float(offsets.var()) == pytest.approx(1, abs=0.4)
    for image, vector in zip(pixels, extractor(pixels), strict=True):
        sums = cells(colour_maps(image), 8).ravel() @ weights + offsets
        np.testing.assert_allclose(vector[:, 0, 0], np.maximum(sums, 0), atol=1e-5)
