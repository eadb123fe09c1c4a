"""The feature spaces of a run: those that are matched, and the held-out networks that only evaluate."""

from __future__ import annotations

import os
import platform
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from imgsubset.decoding.decode import DECODING_VERSION, FID_RESOLUTION, read_image_size
from imgsubset.devices import device_name, torch_device
from imgsubset.errors import UsageError
from imgsubset.features.extractors import find_extractor_spec, load_module, make_extractor
from imgsubset.files import describe_file
from imgsubset.inputs import Embeddings
from imgsubset.options import Options
from imgsubset.sources.images import Listing

if TYPE_CHECKING:
    from imgsubset.features.random_cnn import Extractor

SMALL_RESOLUTION, LARGE_RESOLUTION = 32, 64  # pixels: what `auto` chooses between
MAX_SMALL_SIDE, MIN_SMALL_FRACTION = 40, 0.95  # so many of the images with sides up to this make a source of small ones
N_SAMPLED_FILES = 256  # images whose headers are read for that
N_SAMPLED_REMOTE_FILES = 16  # the same where all of an image is fetched
# The networks that measure. They are constants, so that the sizes of any two runs compare: one of a shape that many
# random networks have, one wider, one deeper.
HELD_OUT_CHANNELS = ((16, 32, 64), (32, 64, 128), (16, 32, 32, 48))
MATCHED_ROLE, HELD_OUT_ROLE, AUXILIARY_ROLE = "matched", "held-out", "seen"  # what spaces are for
HELD_OUT_PARAMETERS = {
    "kernel_size": (3,),
    "seed": 0,
    "stride": (2,),
    "activation": "leaky",
    "pool": (),
    "taps": "last",
}


def _make_view(name: str) -> Extractor:
    made: Extractor = load_module("difficulty").VIEWS[name]()
    return made


VIEWS: dict[str, tuple[tuple[str, int | None, Callable[[], Extractor]], ...]] = {
    "image": (("image", None, lambda: load_module("handcrafted").Appearance()),),
    "fft": (("fft", None, lambda: make_extractor("fft")),),
    # At twice the size, what they see takes four times as long.
    "hardness": tuple(
        (name, 32, partial(_make_view, name))
        for name in ("layout", "colours", "edges", "plain textures", "whitened textures", "products", "units")
    ),
}
"""Of what may be matched the extractors that it needs: each one's name, its size (None: that of the run), what makes
it."""


@dataclass(frozen=True)
class FeatureSpace:
    """A feature space of pixels, before its network exists: torch need not be imported yet.

    name      of the block that its moments make
    size      side of the square that images are resized to, in pixels, or `PUBLISHED`
    weight    of the block
    make      makes the network
    recipe    all that decides what moments an image has; None: unknown, so that nothing may be cached
    role      MATCHED; JUDGE, it measures and no search sees it; SEEN, for what is matched otherwise
    """

    name: str
    size: int
    weight: float
    make: Callable[[], Extractor]
    recipe: dict[str, object] | None
    role: str = MATCHED_ROLE


def choose_resolution(listing: Listing, size: int | str) -> int:
    """The side of the square that images are resized to, in pixels; 'auto' follows from a fixed sample of the files."""
    if size != "auto":
        return int(size)
    sides = []
    count = N_SAMPLED_REMOTE_FILES if listing.is_remote else N_SAMPLED_FILES
    for path in nsmallest(count, listing.paths, key=lambda path: (zlib.crc32(os.fsencode(path)), path)):
        with suppress(Exception):  # what is wrong with a file is told when it is decoded
            sides.append(max(read_image_size(listing.file(path))))
    small = sum(side <= MAX_SMALL_SIDE for side in sides)
    return SMALL_RESOLUTION if sides and small >= MIN_SMALL_FRACTION * len(sides) else LARGE_RESOLUTION


def compute_feature_shares(options: Options, embeddings: Embeddings | None) -> dict[str, float]:
    """What is matched, by name, with its share of the loss: embeddings alone, unless the features name them too.

    Raises UsageError for embeddings that are named but not given.
    """
    wanted = dict(options.features)
    if embeddings is not None and "embeddings" not in wanted:
        wanted = {"embeddings": 1.0}
    if embeddings is None and "embeddings" in wanted:
        raise UsageError("the features name embeddings, but none are given")
    total = sum(wanted.values())
    return {name: weight / total for name, weight in wanted.items()}


def make_feature_spaces(
    wanted: Mapping[str, float],
    options: Options,
    size: int,
    device: str,
    extractor: Extractor | None = None,
    *,
    measured: bool = True,
    seen: Sequence[str] = (),
) -> tuple[FeatureSpace, ...]:
    """The spaces of pixels that these shares name, and the networks that measure.

    extractor  of the caller's, in the place of the random CNNs
    measured   whether the held-out networks are wanted
    seen       what else of the pixels is asked for, names in VIEWS

    Raises UsageError for features that are unknown.
    """
    spaces: list[FeatureSpace] = []
    for name, share in wanted.items():
        if name != "embeddings":
            spaces += _make_spaces(name, share, options, size, device, extractor)
    if measured:
        for channels in HELD_OUT_CHANNELS:
            name, shape = f"held-out {','.join(map(str, channels))}", HELD_OUT_PARAMETERS | {"channels": channels}
            spaces.append(_make_random_cnn_space(name, HELD_OUT_ROLE, shape, size, 1 / len(HELD_OUT_CHANNELS), device))
    for name in seen:
        for part, side, make in VIEWS[name]:
            recipe = _make_recipe(part, side or size, device)
            spaces.append(
                FeatureSpace(part, side or size, 0.0, partial(_make_on_device, make, device), recipe, AUXILIARY_ROLE)
            )
    return tuple(_add_decoded_size(spaces))


def _add_decoded_size(spaces: Sequence[FeatureSpace]) -> Iterator[FeatureSpace]:
    """With recipes that know the size for which a file is opened: a JPEG is decoded for the largest of all."""
    sizes = [space.size for space in spaces]
    largest = FID_RESOLUTION if FID_RESOLUTION in sizes else max(sizes, default=0)
    for space in spaces:
        alone = space.recipe is None or space.size == largest
        yield space if alone else replace(space, recipe={**(space.recipe or {}), "decoded for": abs(largest)})


def _make_spaces(
    name: str, weight: float, options: Options, size: int, device: str, extractor: Extractor | None
) -> list[FeatureSpace]:
    """The spaces that a feature stands for, of this weight together."""
    kind = find_extractor_spec(name)
    if name != "random-cnn":
        side, file = kind.size or size, options.weights_file
        own = {"weights_file": file} if kind.weights else {}
        recipe = _make_recipe(name, abs(side), device) | {"weights": describe_file(file) if own else None}
        cached = None if name.startswith("python:") else recipe  # what a function of the caller's does is unknown
        return [FeatureSpace(name, side, weight, lambda: _move_to_device(device, make_extractor(name, **own)), cached)]
    if extractor is not None:
        # What an extractor of the caller's does is unknown, so its moments cannot be told from another's.
        return [
            FeatureSpace("extractor", size, weight, lambda: _move_to_device(device, _wrap_extractor(extractor)), None)
        ]
    shape = options.parameters_of(name) | {"seed": options.feature_seed}
    if options.networks == 1:
        # A lone ReLU network is that of version 0.1.0, whose manifests can be scored still.
        return [
            _make_random_cnn_space(
                name, None if options.activation == "relu" else "searched 1", shape, size, weight, device
            )
        ]
    return [
        _make_random_cnn_space(f"{name} {k}", f"searched {k}", shape, size, weight / options.networks, device)
        for k in range(1, options.networks + 1)
    ]


def _make_random_cnn_space(
    name: str, role: str | None, shape: Mapping[str, Any], size: int, weight: float, device: str
) -> FeatureSpace:
    def make() -> Extractor:
        layers = {key: repeat_per_layer(shape[key], len(shape["channels"])) for key in ("kernel_size", "stride")}
        own = {**shape, **layers, "pool": shape["pool"] or None, "role": role}
        return _move_to_device(device, make_extractor("random-cnn", **own))

    recipe = _make_recipe("random-cnn", size, device) | {"role": role, **shape}
    return FeatureSpace(name, size, weight, make, recipe, HELD_OUT_ROLE if role == HELD_OUT_ROLE else MATCHED_ROLE)


def _make_on_device(make: Callable[[], Extractor], device: str) -> Extractor:
    return _move_to_device(device, make())


def repeat_per_layer(numbers: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """A number for each layer, where one alone is that of all."""
    return numbers * layers if len(numbers) == 1 else numbers


def _wrap_extractor(extractor: Extractor) -> Extractor:
    from imgsubset.features.custom import ExternalExtractor

    return ExternalExtractor(extractor)


def _move_to_device(device: str, extractor: Extractor) -> Extractor:
    import torch

    return extractor.to(torch_device(device)) if isinstance(extractor, torch.nn.Module) else extractor


def _make_recipe(name: str, size: int, device: str) -> dict[str, object]:
    """All that decides what moments an image has, but for the parameters of an extractor: the key of the cache.

    A GPU rounds otherwise than a CPU, and than another model.
    """
    from importlib.metadata import version

    return {
        "extractor": name,
        "size": size,
        "decoding": DECODING_VERSION,
        "device": device_name(device),
        "machine": platform.machine(),
        "torch": version("torch"),
        "pillow": version("pillow"),
    }
