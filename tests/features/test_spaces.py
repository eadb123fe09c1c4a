"""Which feature spaces a run looks at, and at which resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import listing_of
from PIL import Image

from imgsubset import Embeddings, Options
from imgsubset.errors import UsageError
from imgsubset.features.feature_spaces import (
    HELD_OUT_CHANNELS,
    HELD_OUT_ROLE,
    FeatureSpace,
    choose_resolution,
    compute_feature_shares,
    make_feature_spaces,
)
from imgsubset.options import FIELDS


def spaces(measured: bool = True, size: int = 64, **words: Any) -> tuple[FeatureSpace, ...]:
    options = Options(**words)
    return make_feature_spaces(compute_feature_shares(options, None), options, size, "cpu", measured=measured)


def filters(space: FeatureSpace) -> list[torch.Tensor]:
    network = space.make()
    assert isinstance(network, torch.nn.Module)
    return list(network.parameters())


def test_several_networks_share_one_weight_and_no_filter() -> None:
    found = spaces(measured=False)
    assert [space.name for space in found] == [f"random-cnn {k}" for k in range(1, 5)]
    assert [space.weight for space in found] == [0.25] * 4
    firsts = [filters(space)[0] for space in found]
    assert not any(torch.equal(one, other) for k, one in enumerate(firsts) for other in firsts[:k])
    for space, other in zip(found, spaces(measured=False, feature_seed=1), strict=True):
        assert not torch.equal(filters(space)[0], filters(other)[0])
    assert all(map(torch.equal, filters(found[0]), filters(spaces(measured=False)[0])))


def test_weights_of_features_sum_to_1() -> None:
    found = spaces(features={"random-cnn": 1, "colour": 2, "hog": 1}, networks=2, measured=False)
    assert {space.name: space.weight for space in found} == {
        "random-cnn 1": 0.125,
        "random-cnn 2": 0.125,
        "colour": 0.5,
        "hog": 0.25,
    }


def test_the_held_out_networks_are_constants() -> None:
    """Whoever changes how weights are drawn changes every size that was ever told."""
    plain = [space for space in spaces() if space.role == HELD_OUT_ROLE]
    assert [[len(weight) for weight in filters(space)] for space in plain] == [
        list(shape) for shape in HELD_OUT_CHANNELS
    ]
    found = [filters(space)[0][0, 0, 0].tolist() for space in plain]
    assert found == [
        pytest.approx(wanted, rel=1e-5)
        for wanted in (
            [0.1915041, 0.0400017, 0.1358228],
            [-0.2388788, -0.0828731, -0.4378802],
            [-0.2567038, 0.0653189, -0.2782846],
        )
    ]
    other = {"features": "hog=1", "channels": (8,), "networks": 2, "feature_seed": 5, "activation": "relu", "seed": 3}
    for space, same in zip(plain, [space for space in spaces(**other) if space.role == HELD_OUT_ROLE], strict=True):
        assert space.recipe == same.recipe
        assert all(map(torch.equal, filters(space), filters(same)))


def test_a_lone_relu_network_is_that_of_version_0_1_0() -> None:
    (space,) = spaces(measured=False, networks=1, activation="relu", channels=(16, 32, 64), feature_seed=7)
    generator = torch.Generator().manual_seed(7)
    for inputs, weight in zip((3, 16, 32), filters(space), strict=True):
        assert torch.equal(weight, torch.randn(weight.shape, generator=generator) * (2 / (inputs * 9)) ** 0.5)


def test_the_networks_of_the_study_of_random_filters_can_be_spelt() -> None:
    cnn = {"networks": 1, "channels": (32, 32), "kernel_size": (3, 1), "stride": 1, "activation": "relu"}
    pixels = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    (first,) = spaces(measured=False, **cnn)
    (second,) = spaces(measured=False, **cnn, pool=(32, 16))
    one, other = first.make()(pixels), second.make()(pixels)
    assert isinstance(one, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    assert one.shape == (1, 32, 64, 64)
    assert torch.allclose(other, torch.nn.functional.avg_pool2d(one, 32, 16))


def test_the_key_of_the_cache_holds_what_decides_the_features() -> None:
    def key(size: int = 64, **words: Any) -> dict[str, object]:
        recipe = spaces(measured=False, size=size, **words)[0].recipe
        assert recipe is not None
        return recipe

    decisive = {"channels", "kernel_size", "stride", "activation", "pool", "taps", "size", "device"}
    assert {*FIELDS} & {*key()} <= decisive | {"seed"}  # which is that of the features
    assert decisive <= {*key()}
    others = [
        key(size=16),
        key(kernel_size=5),
        key(channels=(8,)),
        key(feature_seed=1),
        key(stride=1),
        key(activation="abs"),
        key(pool=(2, 2)),
        key(taps="all"),
        key(networks=1, activation="relu"),
        key(features="hog"),
    ]
    assert key() not in others
    assert all(one not in others[:k] for k, one in enumerate(others))
    assert key(networks=1) == key()  # the first of four
    assert key(steps=3, seed=5, weights={"kl": 1}) == key()


def test_the_key_of_the_cache_holds_the_size_that_a_file_is_decoded_for() -> None:
    (alone,) = spaces(measured=False, networks=1, size=16)
    small, large = spaces(measured=False, networks=1, size=16, features={"random-cnn": 1, "colour": 1, "pixels": 1})[
        ::2
    ]
    assert small.size < large.size
    assert small.recipe == {**(alone.recipe or {}), "decoded for": large.size}
    assert "decoded for" not in (large.recipe or {})


def test_what_a_function_of_the_users_does_is_not_cached() -> None:
    assert spaces(measured=False, features="python:a.module:function")[0].recipe is None


def test_embeddings_alone_take_the_place_of_pixels_unless_named_beside_them() -> None:
    embeddings = Embeddings(np.zeros((2, 2)), ["a", "b"])
    assert compute_feature_shares(Options(), embeddings) == {"embeddings": 1.0}
    both = Options(features="random-cnn=1,embeddings=3")
    assert compute_feature_shares(both, embeddings) == {"random-cnn": 0.25, "embeddings": 0.75}
    with pytest.raises(UsageError, match="none are given"):
        compute_feature_shares(both, None)


@pytest.mark.parametrize(
    ("sides", "expected"), [([32] * 20, 32), ([32] * 19 + [41], 32), ([32] * 18 + [41] * 2, 64), ([40], 32), ([41], 64)]
)
def test_the_resolution_follows_from_the_images(tmp_path: Path, sides: list[int], expected: int) -> None:
    names = [f"{number}.png" for number in range(len(sides))]
    for name, side in zip(names, sides, strict=True):
        Image.new("RGB", (8, side)).save(tmp_path / name)
    listing = listing_of(tmp_path, names)
    assert choose_resolution(listing, "auto") == expected
    assert choose_resolution(listing, 48) == 48


def test_files_that_are_no_images_say_nothing_of_the_resolution(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    assert choose_resolution(listing_of(tmp_path, ["a.png", "b.png", "gone.png"]), "auto") == 32
    assert choose_resolution(listing_of(tmp_path, ["b.png"]), "auto") == 64
