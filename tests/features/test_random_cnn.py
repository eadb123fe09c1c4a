from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from reference import convolve
from torch import Tensor

from imgsubset.decoding.workers import chunk_length
from imgsubset.errors import UsageError
from imgsubset.features.random_cnn import ACTIVATIONS, RandomCNN, RandomCNNs, compute_image_moments


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


def filters(network: RandomCNNs) -> list[bytes]:
    """Each filter of each layer, turned to length 1 so that no scale hides one."""
    layers = (weight.flatten(1).double() for weight in network.parameters())
    return [row.numpy().round(5).tobytes() for layer in layers for row in layer / layer.norm(dim=1, keepdim=True)]


def test_networks_of_other_roles_shapes_or_seeds_share_no_filter() -> None:
    networks = [
        *(RandomCNN((8, 8), role=role) for role in (None, "held-out", "searched 0", "searched 1", "searched 10")),
        RandomCNN((8, 8), seed=1),
        RandomCNN((8, 8), 5),
        RandomCNN((8, 8), (3, 5)),
        RandomCNN((8, 9)),
        RandomCNN((8, 8, 8)),
        RandomCNN((9, 8)),
    ]
    for one, other in combinations(networks, 2):
        assert not {*filters(one)} & {*filters(other)}


def test_neither_stride_activation_pool_nor_taps_decide_the_filters() -> None:
    plain = filters(RandomCNN((8, 8)))
    assert filters(RandomCNN((8, 8), stride=1, activation="abs", pool=(2, 2), taps="all")) == plain


def test_the_network_of_version_0_1_0_is_still_there() -> None:
    network = RandomCNN((16, 32, 64), 3, 7, role=None)
    generator = torch.Generator().manual_seed(7)
    for inputs, weight in zip((3, 16, 32), network.parameters(), strict=True):
        wanted = torch.randn(weight.shape, generator=generator) * (2 / (inputs * 9)) ** 0.5
        assert torch.equal(weight, wanted)
    assert network(random_pixels(1, 64)).shape == (1, 64, 8, 8)


SQUARE = {"relu": 0.5, "leaky": 0.52, "abs": 1.0}
"""Mean squares of what comes out for a standard normal."""


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("channels", "kernel_size"), [((64, 128, 128), 3), ((64, 128), 5)])
def test_weights_are_he_normal(channels: tuple[int, ...], kernel_size: int, activation: str) -> None:
    network = RandomCNN(channels, kernel_size, seed=1, activation=activation)
    for inputs, weight in zip((3, *channels), network.parameters(), strict=False):
        assert weight.shape[1:] == (inputs, kernel_size, kernel_size)
        wanted = 1 / (SQUARE[activation] * inputs * kernel_size**2)
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


def by_loops(network: RandomCNNs, image: Tensor, strides: tuple[int, ...], activation: str) -> list[np.ndarray]:
    """The maps of each layer of one network."""
    negative = {"relu": 0.0, "leaky": 0.2, "abs": -1.0}[activation]
    maps, layers = image.numpy().astype(np.float64).transpose(2, 0, 1) / 127.5 - 1, []  # 0..255 to -1..1
    for weight, stride in zip(network.parameters(), strides, strict=True):
        maps = convolve(maps, weight.double().numpy(), stride)
        maps = np.where(maps < 0, negative * maps, maps)
        layers.append(maps)
    return layers


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kernel_size", [1, 3, 5, (5, 1)])
@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_maps_are_convolutions_each_followed_by_its_activation(kernel_size: Any, stride: Any, activation: str) -> None:
    network = RandomCNN((4, 3), kernel_size, seed=2, stride=stride, activation=activation, taps="all")
    strides = (stride, stride) if isinstance(stride, int) else stride
    pixels = random_pixels(2, 9)
    layers = network(pixels)
    for number, image in enumerate(pixels):
        for found, expected in zip(layers, by_loops(network, image, strides, activation), strict=True):
            np.testing.assert_allclose(found[number].numpy(), expected, atol=1e-5)
    last = RandomCNN((4, 3), kernel_size, seed=2, stride=stride, activation=activation)
    assert torch.equal(last(pixels), layers[-1])


def test_the_networks_of_the_study_of_random_filters() -> None:
    first = RandomCNN((32, 32), (3, 1), stride=1)
    second = RandomCNN((32, 32), (3, 1), stride=1, pool=(32, 16))
    pixels = random_pixels(1, 64)
    maps = first(pixels)
    assert maps.shape == (1, 32, 64, 64)
    corner = by_loops(first, pixels[0, :12, :12], (1, 1), "relu")[-1][:, :11, :11]
    np.testing.assert_allclose(maps[0, :, :11, :11], corner, atol=1e-5)
    pooled = second(pixels)
    assert pooled.shape == (1, 32, 3, 3)
    for y in range(3):
        for x in range(3):
            window = maps[0, :, 16 * y : 16 * y + 32, 16 * x : 16 * x + 32].double().numpy()
            np.testing.assert_allclose(pooled[0, :, y, x].numpy(), window.mean((1, 2)), atol=1e-5)


@pytest.mark.parametrize("taps", ["last", "all"])
@pytest.mark.parametrize("pool", [None, (2, 1)])
def test_networks_together_are_those_one_by_one(taps: str, pool: tuple[int, int] | None) -> None:
    shape: dict[str, Any] = {"activation": "leaky", "taps": taps, "pool": pool}
    roles = [f"searched {number}" for number in range(3)]
    together, pixels = RandomCNNs(roles, (4, 6, 5), (3, 5, 1), 9, **shape), random_pixels(2, 21)
    parts = together.apart(together(pixels))
    assert len(parts) == 3
    for role, found in zip(roles, parts, strict=True):
        expected = RandomCNN((4, 6, 5), (3, 5, 1), 9, role=role, **shape)(pixels)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if taps == "last":
        torch.testing.assert_close(together(pixels), torch.cat(parts, 1), rtol=0, atol=0)


@pytest.mark.parametrize("taps", ["last", "all"])
def test_moments_are_exact_in_each_layer(taps: str) -> None:
    network, pixels = RandomCNN((2, 3, 2), seed=4, activation="leaky", taps=taps), random_pixels(3, 30)
    images = compute_image_moments(network(pixels))
    for number, image in enumerate(pixels):
        layers = by_loops(network, image, (2, 2, 2), "leaky")
        layers = layers if taps == "all" else layers[-1:]
        mean = [channel.mean() for layer in layers for channel in layer]
        square = [(channel**2).mean() for layer in layers for channel in layer]
        np.testing.assert_allclose(images.table[number].numpy(), mean + square, rtol=1e-4, atol=1e-5)
    assert images.positions == 4 * 4


BAD: list[dict[str, Any]] = [
    *({"channels": value} for value in ((), (0,), (16, -1), 16, "16", (1.5,))),
    *({"kernel_size": value} for value in (2, 0, -1, (3, 3), (3, 4, 3), "3", 3.0, ())),
    *({"stride": value} for value in (0, (2, 2), (1, 2, 0), 1.5)),
    *({"activation": value} for value in ("gelu", "")),
    *({"pool": value} for value in ((32,), (0, 1), (2, 0), (1, 2, 3), 32)),
    *({"taps": value} for value in ("first", "")),
    *({"seed": value} for value in (-1, 1 << 63)),
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_what_makes_no_sense_is_named(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(UsageError, match=f"^{name} .*is not"):
        RandomCNN(**bad)


@pytest.mark.parametrize("roles", [(), ("a", "a")])
def test_each_network_needs_a_role_of_its_own(roles: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="roles"):
        RandomCNNs(roles)


def test_a_pool_wider_than_the_maps_is_named() -> None:
    with pytest.raises(UsageError, match=r"pool \(9, 1\) is not of use on maps of 8 x 8"):
        RandomCNN(pool=(9, 1))(random_pixels(1, 64))


def test_maps_are_never_negative_and_partly_zero() -> None:
    maps = RandomCNN()(random_pixels(8, 64))
    assert maps.min() == 0
    assert maps.max() > 0


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("size", [32, 64])
def test_maps_of_an_image_do_not_depend_on_the_others_of_its_chunk_or_its_place(size: int, count: int) -> None:
    length = chunk_length(size)
    network = RandomCNNs([str(number) for number in range(count)], activation="leaky")
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
