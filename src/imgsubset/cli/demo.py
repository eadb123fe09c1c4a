"""A folder of small procedural pictures in clearly unequal classes, to try the program on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from imgsubset.errors import OutputError
from imgsubset.progress import Progress, no_progress

SIDE_PIXELS = 96  # pixels
DrawFunction: TypeAlias = Callable[[np.random.Generator], Image.Image]


def _random_color(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(value) for value in random.integers(0, 256, 3))


def _draw_disks(random: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (SIDE_PIXELS, SIDE_PIXELS), _random_color(random))
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(1, 6)):
        x, y = random.uniform(0, SIDE_PIXELS, 2)
        radius = random.uniform(5, 30)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_random_color(random))
    return image


def _draw_polygons(random: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (SIDE_PIXELS, SIDE_PIXELS), _random_color(random))
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(1, 4)):
        corners = random.uniform(0, SIDE_PIXELS, (random.integers(3, 6), 2))
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=_random_color(random))
    return image


def _draw_gradient(random: np.random.Generator) -> Image.Image:
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:SIDE_PIXELS, 0:SIDE_PIXELS] / (SIDE_PIXELS - 1)
    along = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) + 0.5
    start, end = np.array(_random_color(random)), np.array(_random_color(random))
    return _from_array(start + np.clip(along, 0, 1)[..., None] * (end - start))


def _draw_stripes(random: np.random.Generator) -> Image.Image:
    angle, waves = random.uniform(0, np.pi), random.uniform(2, 14)
    y, x = np.mgrid[0:SIDE_PIXELS, 0:SIDE_PIXELS] / SIDE_PIXELS
    wave = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle))) / 2 + 0.5
    start, end = np.array(_random_color(random)), np.array(_random_color(random))
    return _from_array(start + wave[..., None] * (end - start))


def _draw_noise(random: np.random.Generator) -> Image.Image:
    cells = int(random.integers(3, 25))
    coarse = _from_array(random.uniform(0, 255, (cells, cells, 3)))
    return coarse.resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BICUBIC)


def _from_array(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


CLASSES: dict[str, tuple[int, DrawFunction]] = {  # how many of each, 2,000 in all
    "disks": (900, _draw_disks),
    "gradients": (500, _draw_gradient),
    "stripes": (350, _draw_stripes),
    "noise": (170, _draw_noise),
    "polygons": (80, _draw_polygons),
}


def draw_pictures(folder: Path, seed: int = 0, progress: Progress = no_progress) -> None:
    """Draw the 2,000 pictures as PNG files into a folder for each class. Equal seeds draw equal pictures.

    Raises OutputError if the folder is not absent or empty, or cannot be written.
    """
    total = sum(count for count, _ in CLASSES.values())
    try:
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"'{folder}' exists and is not an empty folder; choose another for the demo")
        for number, (name, (count, draw)) in enumerate(CLASSES.items()):
            (folder / name).mkdir(parents=True, exist_ok=True)
            random = np.random.default_rng([seed, number])
            for index in range(count):
                draw(random).save(folder / name / f"{index:04d}.png")
                progress("draw", 1, total)
    except OSError as error:
        raise OutputError(f"cannot draw into '{folder}': {error.strerror or error}") from error
