"""What the experiments of this folder share: their options, pictures to work on, progress, tables and figures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from imgsubset.cli.demo import CLASSES
from imgsubset.decoding.decode import decode_image, explain_failure
from imgsubset.devices import torch_device
from imgsubset.errors import ImgsubsetError, InputError, UsageError
from imgsubset.sources.listing import list_images

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe & Ito, told apart by all


def parser(description: str | None, out: str) -> argparse.ArgumentParser:
    """The options of every experiment; each adds its own."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folder", nargs="?", help="pictures to work on; without it, those of imgsubset demo are drawn")
    made.add_argument("--out", type=Path, default=Path(out), help="the picture that is written (%(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")
    made.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu or cuda")
    made.add_argument("--tiny", action="store_true", help="a few steps on a few pictures: does it run at all?")
    return made


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def run(experiment: Callable[[argparse.Namespace], Figure], options: argparse.Namespace) -> None:
    """Run an experiment and write its figure; what is wrong with the input is one line and exit code 1."""
    try:
        options.device = torch_device(options.device)
        torch.manual_seed(options.seed)
        if not options.out.parent.is_dir():  # rather now than after the work
            raise UsageError(f"there is no folder '{options.out.parent}' to write '{options.out.name}' into")
        figure = experiment(options)
        figure.savefig(options.out, dpi=100)
    except (ImgsubsetError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


def pictures(folder: str | None, count: int, side: int, seed: int) -> Tensor:
    """Pictures (count, 3, side, side) in [-1, 1]: random ones of a folder, or drawn. Raises InputError for too few."""
    random = np.random.default_rng(seed)
    if folder is None:
        names = random.choice([*CLASSES], count, p=np.array([share for share, _ in CLASSES.values()]) / 2000)
        drawn = (CLASSES[name][1](random) for name in bar(names, "draw"))
        pixels = [np.asarray(one.resize((side, side), Image.Resampling.LANCZOS)) for one in drawn]
    else:
        listing = list_images(folder)
        if len(listing.paths) < count:
            raise InputError(f"'{folder}' has {len(listing.paths):,} images, and {count:,} are needed")
        chosen = random.permutation(len(listing.paths))[:count]
        pixels = [_read(listing.locate(listing.paths[place]), side) for place in bar(chosen, "read")]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _read(path: str, side: int) -> np.ndarray:
    try:
        return np.frombuffer(decode_image(path, [side]).pixels[0], np.uint8).reshape(side, side, 3)
    except Exception as error:  # damaged files raise anything
        raise InputError(f"'{path}': {explain_failure(error, path)}") from None


def to_bytes(images: Tensor) -> np.ndarray:
    """uint8 pixels (N, H, W, 3) of images (N, 3, H, W) in [-1, 1]."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def write(images: Tensor, folder: Path) -> Path:
    """Write images (N, 3, H, W) in [-1, 1] as PNG files into a new folder, for `imgsubset.compare`."""
    folder.mkdir()
    for number, pixels in enumerate(to_bytes(images)):
        Image.fromarray(pixels).save(folder / f"{number:05d}.png")
    return folder


def sheet(images: Tensor, across: int) -> np.ndarray:
    """Images (N, 3, H, W) side by side, `across` in a row, on white: (H', W', 3) uint8."""
    frames = np.pad(to_bytes(images), ((0, -len(images) % across), (1, 1), (1, 1), (0, 0)), constant_values=255)
    rows = frames.reshape(-1, across, *frames.shape[1:])
    return np.concatenate([np.concatenate([*row], axis=1) for row in rows])


def show(axes: Any, image: np.ndarray, title: str) -> None:
    """An image without axes, under a title."""
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def bar(steps: Iterable[Any], text: str) -> Any:
    """Progress on stderr where that is a terminal."""
    return tqdm(steps, desc=text, disable=None, leave=False)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; floats with three significant digits."""
    cells = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = [list(head), ["---", *("---:" for _ in head[1:])], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
