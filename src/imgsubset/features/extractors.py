"""The extractors by name: what each sees, and how it is made. Imports no torch until one is made.

A new one is a file here and a row in EXTRACTORS.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imgsubset.decoding.decode import FID_RESOLUTION
from imgsubset.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from imgsubset.features.random_cnn import Extractor


@dataclass(frozen=True)
class ExtractorSpec:
    """A row of the table.

    meaning   what it sees of an image, in a line
    numbers   C of the maps, or length of the vector, that an image becomes; None: as its name or its parameters say
    size      side of the square of pixels that it wants, or `PUBLISHED`; None: that of the run
    make      makes one, from the argument in its name if it has one, and parameters by name
    argument  what follows a colon in its name, in capitals; empty: nothing does
    weights   whether it is a trained network, whose weights may come from a file
    raw       whether its vectors are kept and compared as they are, in as many numbers as they have
    """

    meaning: str
    numbers: int | None
    size: int | None
    make: Callable[..., Extractor]
    argument: str = ""
    weights: bool = False
    raw: bool = False


def load_module(name: str) -> Any:
    """One of this room, imported when it is needed."""
    return importlib.import_module(f"imgsubset.features.{name}")


def _inception_spec(numbers: int, where: str) -> ExtractorSpec:
    return ExtractorSpec(
        f"what the Inception network of the FID makes of a picture {where}",
        numbers,
        FID_RESOLUTION,
        lambda **parameters: load_module("pretrained").Inception(numbers, **parameters),
        weights=True,
        raw=True,
    )


EXTRACTORS: dict[str, ExtractorSpec] = {
    "random-cnn": ExtractorSpec(
        "shapes and textures, as an untrained network with seeded filters answers to them; --networks of them together",
        None,
        None,
        lambda **parameters: load_module("random_cnn").RandomCNN(**parameters),
    ),
    "pixels": ExtractorSpec(
        "the reds, greens and blues of all pixels, wherever they are; a fifteenth of the time of random-cnn",
        3,
        32,
        lambda: load_module("handcrafted").pixel_maps,
    ),
    "thumbnail": ExtractorSpec(
        "the layout: the picture at 8 x 8 pixels; next to no time",
        192,
        8,
        lambda: load_module("handcrafted").thumbnail,
    ),
    "fft": ExtractorSpec(
        "coarse and fine detail, by the Fourier transform; one to two times the time of random-cnn",
        9,
        None,
        lambda **parameters: load_module("handcrafted").FFT(**parameters),
    ),
    "colour": ExtractorSpec(
        "mean colour, and the shares of 60 colours, in Oklab; one and a half times the time of random-cnn",
        63,
        None,
        lambda: load_module("handcrafted").colour,
    ),
    "hog": ExtractorSpec(
        "directions of edges in each ninth, whatever the contrast; one and a half times the time of random-cnn",
        54,
        None,
        lambda: load_module("handcrafted").hog,
    ),
    "torchvision": ExtractorSpec(
        "what a network trained on ImageNet tells apart, as in torchvision:resnet18; hundreds of times as slow",
        None,
        256,
        lambda name, **parameters: load_module("pretrained").Pretrained(name, **parameters),
        "NAME",
        weights=True,
    ),
    "inception64": _inception_spec(64, "after its first layers; the distance of few images is steadier"),
    "inception192": _inception_spec(192, "after its second pooling"),
    "inception768": _inception_spec(768, "in its middle"),
    "inception2048": _inception_spec(2048, "at its end: that of the published FID and KID"),
    "python": ExtractorSpec(
        "what a function of your own makes of uint8 pixels (B, H, W, 3): maps (B, C, h, w)",
        None,
        None,
        lambda name: load_module("custom").Custom(name),
        "MODULE:FUNCTION",
    ),
}
EXTRACTOR_SYNTAX = tuple(f"{name}:{kind.argument}" if kind.argument else name for name, kind in EXTRACTORS.items())
"""How each is named."""


def find_extractor_spec(name: str) -> ExtractorSpec:
    """The row of an extractor. Raises UsageError if there is none of this name."""
    head, colon, argument = name.partition(":")
    if head not in EXTRACTORS:
        raise UsageError(
            f"unknown extractor '{name}'{did_you_mean(head, EXTRACTORS) or ';'} known: {', '.join(EXTRACTOR_SYNTAX)}"
        )
    kind = EXTRACTORS[head]
    if kind.argument and not argument:
        raise UsageError(f"extractor '{name}' is named in full as {head}:{kind.argument}")
    if colon and not kind.argument:
        raise UsageError(f"extractor '{name}': nothing follows '{head}'")
    return kind


def is_raw(name: str) -> bool:
    """Whether the vectors of the block of this name are compared as they are."""
    return name in EXTRACTORS and EXTRACTORS[name].raw


def make_extractor(name: str, **parameters: Any) -> Extractor:
    """The extractor of this name, with parameters of its own; imports what it needs.

    Raises UsageError if there is none of this name, and for parameters that make no sense.
    """
    kind = find_extractor_spec(name)
    return kind.make(*([name.partition(":")[2]] if kind.argument else []), **parameters)
