"""Do precision, recall, density and coverage tell a generator that blurs from one that copies?

    python examples/benchmarks/overlap.py photos -n 500

n images of a folder are the real ones; n others stand for what a perfect generator makes. Then these are blurred or
made noisy at their full size, and generators that know only a few of the real images repeat them. In brackets what two
random samples show on average, in bold what lies below the floor.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from imgsubset import Comparison, compare
from imgsubset.features.random_cnn import RandomCNN
from imgsubset.sources.listing import list_images

FEATURES: dict[str, Callable[..., Comparison]] = {
    "default": compare,
    "one random CNN of 16, 32, 32": lambda *pair: compare(*pair, extractor=RandomCNN((16, 32, 32), activation="leaky")),
    "`fft`": partial(compare, features="fft"),
}


def blurred(image: Image.Image, part: float) -> Image.Image:
    """By a normal distribution, whose standard deviation is this part of the longer side."""
    return image.filter(ImageFilter.GaussianBlur(max(image.size) * part))


def noisy(image: Image.Image, strength: float) -> Image.Image:
    """With normal noise of this standard deviation, of 255."""
    pixels = np.asarray(image, np.float64)
    noise = np.random.default_rng(int(pixels.sum())).normal(0, strength, pixels.shape)
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


def put(folder: Path, images: Iterable[Image.Image]) -> Path:
    """A folder of these images, as they are."""
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:05d}.png", compress_level=1)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-n", type=int, default=500)
    arguments = parser.parse_args()
    listing = list_images(arguments.source)
    paths = random.Random(0).sample([listing.locate(path) for path in listing.paths], 2 * arguments.n)
    images = [Image.open(path).convert("RGB") for path in paths]
    real, others = images[: arguments.n], images[arguments.n :]
    made = {
        "others": others,
        "blurred, 1/64": (blurred(image, 1 / 64) for image in others),
        "blurred, 1/32": (blurred(image, 1 / 32) for image in others),
        "noisy, 10 of 255": (noisy(image, 10) for image in others),
        "fifty copied": (real[number % 50] for number in range(arguments.n)),
        "ten copied": (real[number % 10] for number in range(arguments.n)),
    }
    print("| features | second folder | precision | density | recall | coverage |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as root:
        first = put(Path(root, "real"), real)
        for name, drawn in made.items():
            second = put(Path(root, name.replace("/", " ")), drawn)
            for features, measure in FEATURES.items():
                found = measure(first, second)
                cells = []
                for one in (found.precision, found.density, found.recall, found.coverage):
                    bold = "**" * one.differs
                    cells.append(f"{bold}{one.value:.3f}{bold} ({one.floor_mean:.3f})")
                print("|", " | ".join([features, name, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
