from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference import convolve
from torch import Tensor

from imgsubset.features.random_cnn import RandomCNN
from imgsubset.reading.decoders import chunk_length


def random_pixels(count: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)


def test_a_seed_decides_the_weights() -> None:
    first, again, other = (list(RandomCNN(seed=seed).parameters()) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_weights_do_not_depend_on_the_global_generator_nor_disturb_it() -> None:
    torch.manual_seed(1)
    first = next(RandomCNN(seed=3).parameters())
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, next(RandomCNN(seed=3).parameters()))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("channels", "kernel_size"), [((64, 128, 128), 3), ((64, 128), 5)])
def test_weights_are_he_normal(channels: tuple[int, ...], kernel_size: int) -> None:
    network = RandomCNN(channels, kernel_size, seed=1)
    for inputs, weight in zip((3, *channels), network.parameters(), strict=False):
        assert weight.shape[1:] == (inputs, kernel_size, kernel_size)
        wanted = 2 / (inputs * kernel_size**2)
        count = weight.numel()
        assert float(weight.double().square().mean()) == pytest.approx(wanted, abs=5 * wanted * math.sqrt(2 / count))
        assert float(weight.double().mean()) == pytest.approx(0, abs=5 * math.sqrt(wanted / count))
        # The fourth moment of a normal is three times its variance squared, with variance 96 of z^4.
        fourth = float((weight.double() / math.sqrt(wanted)).pow(4).mean())
        assert fourth == pytest.approx(3, abs=5 * math.sqrt(96 / count))


@pytest.mark.parametrize(("size", "side"), [(64, 8), (32, 4), (8, 1), (30, 4), (9, 2)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_each_layer_halves_the_side_rounded_up(size: int, side: int, kernel_size: int) -> None:
    assert RandomCNN((4, 5, 6), kernel_size)(random_pixels(2, size)).shape == (2, 6, side, side)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_maps_are_convolutions_of_stride_2_each_followed_by_relu(kernel_size: int) -> None:
    network = RandomCNN((4, 3), kernel_size, seed=2)
    pixels = random_pixels(2, 9)
    maps = network(pixels)
    for image, found in zip(pixels, maps, strict=True):
        expected = image.numpy().astype(np.float64).transpose(2, 0, 1) / 127.5 - 1  # 0..255 to -1..1
        for weight in network.parameters():
            expected = np.maximum(convolve(expected, weight.double().numpy(), stride=2), 0)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_maps_are_never_negative_and_partly_zero() -> None:
    maps = RandomCNN()(random_pixels(8, 64))
    assert maps.min() == 0
    assert maps.max() > 0


@pytest.mark.parametrize("size", [32, 64])
def test_maps_of_an_image_do_not_depend_on_the_others_of_its_chunk_or_its_place(size: int) -> None:
    length = chunk_length(size)
    network = RandomCNN()
    image = random_pixels(1, size, seed=1)[0]
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for seed, place in ((2, 0), (3, 0), (4, 7), (5, length - 1)):
            chunk = random_pixels(length, size, seed)
            chunk[place] = image
            with torch.inference_mode():
                found.append(network(chunk)[place])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.slow
def test_maps_do_not_depend_on_the_batch_but_for_rounding() -> None:
    network, pixels = RandomCNN(), random_pixels(32, 32)
    together = network(pixels)
    apart = torch.cat([network(pixel[None]) for pixel in pixels])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
