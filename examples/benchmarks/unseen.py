"""Feature spaces that no method of the benchmark has seen, and how far subsets are from their source in them.

Each space is one vector an image; its measure is the Frechet distance of subset and source, as in FID.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from imgsubset.devices import single_threaded
from imgsubset.features.random_cnn import RandomCNN
from imgsubset.statistics.divergences import frechet
from imgsubset.statistics.moments import ImageMoments, compute_all_moments, compute_subset_moments
from imgsubset.statistics.objective import draw_random_subsets

SPECTRUM = 32  # frequencies, in cycles an image
RANDOM_DRAWS = 100
RANDOM_SEED = 1 << 20  # no method's


def network_means(pixels: Tensor, channels: tuple[int, ...], seed: int) -> Tensor:
    """Mean over positions (B, C) of another random CNN's features."""
    maps: Tensor = RandomCNN(channels, seed=seed)(pixels)
    return maps.mean((2, 3))


def pixel_means(pixels: Tensor) -> Tensor:
    """Mean colours (B, 48) of the 4 x 4 fields of an image."""
    return adaptive_avg_pool2d(pixels.permute(0, 3, 1, 2).float() / 255, 4).flatten(1)


def log_spectrum(pixels: Tensor) -> Tensor:
    """Log power (B, 32) of the grey image, averaged over the directions of each frequency."""
    grey = pixels.float().mean(3)
    grey -= grey.mean((1, 2), keepdim=True)
    power = torch.fft.fft2(grey).abs().square() / grey[0].numel()
    rows, columns = (torch.fft.fftfreq(side, 1 / side) for side in grey.shape[1:])
    ring = (rows[:, None].square() + columns.square()).sqrt().round()
    rings = (ring.flatten()[:, None] == torch.arange(1, SPECTRUM + 1)).float()
    # One grey level squared is added (log1p): flat images have no power, and their logarithm must stay finite.
    mean_power: Tensor = power.flatten(1) @ (rings / rings.sum(0).clamp(min=1))
    return torch.log1p(mean_power)


def color_histogram(pixels: Tensor) -> Tensor:
    """Shares (B, 64) of an image's pixels in each of 4 x 4 x 4 colours."""
    red, green, blue = (pixels // 64).long().unbind(3)
    colors = (16 * red + 4 * green + blue).flatten(1)
    counts = torch.zeros(len(pixels), 64).scatter_add_(1, colors, torch.ones(colors.shape))
    return counts / colors.shape[1]


SPACES = {
    "CNN, other seed": lambda pixels: network_means(pixels, (16, 32, 64), 1),
    "CNN, wider": lambda pixels: network_means(pixels, (32, 64, 128), 2),
    "CNN, deeper": lambda pixels: network_means(pixels, (16, 32, 64, 64), 3),
    "4x4 pixels": pixel_means,
    "log-spectrum": log_spectrum,
    "colours": color_histogram,
}


@dataclass(frozen=True)
class Distances:
    """How far subsets are from their source.

    ratios   in each of SPACES the Frechet distance in units of a random subset's
    classes  total variation of the shares of the class folders; None without such folders
    """

    ratios: tuple[float, ...]
    classes: float | None


class Unseen:
    """The source in the unseen spaces.

    blocks  pixels (B, H, W, 3), uint8, of all images in order
    paths   of the same images, relative to the source
    n       size of the subsets to come
    """

    def __init__(self, blocks: Iterable[Tensor], paths: tuple[str, ...], n: int) -> None:
        vectors: list[list[Tensor]] = [[] for _ in SPACES]
        with single_threaded():  # threads that wait by spinning would take the cores from the decoders
            for block in blocks:
                for space, parts in zip(SPACES.values(), vectors, strict=True):
                    parts.append(space(block))
        self.spaces = [_as_moments(torch.cat(parts)) for parts in vectors]
        self.sources = [compute_all_moments(space) for space in self.spaces]
        self.labels = _labels(paths)
        generator = torch.Generator().manual_seed(RANDOM_SEED)
        draws = draw_random_subsets(len(paths), n, RANDOM_DRAWS, generator)
        self.random_means = [1.0] * len(SPACES)
        # A space in which the images do not vary has distance 0 for all; divided by 1 it stays 0.
        self.random_means = [mean or 1.0 for mean in self.distances(draws).ratios]
        self.random_classes = self.distances(draws).classes

    def distances(self, rows: Tensor) -> Distances:
        """Mean distances of the subsets (K, n)."""
        ratios = []
        for space, source, unit in zip(self.spaces, self.sources, self.random_means, strict=True):
            ratios.append(float(frechet(compute_subset_moments(space, rows, torch.float64), source).mean()) / unit)
        if self.labels is None:
            return Distances(tuple(ratios), None)
        shares = torch.stack([torch.bincount(self.labels[row], minlength=int(self.labels.max()) + 1) for row in rows])
        whole = torch.bincount(self.labels) / len(self.labels)
        return Distances(tuple(ratios), float((shares / rows.shape[1] - whole).abs().sum(1).mean() / 2))


def _as_moments(vectors: Tensor) -> ImageMoments:
    """Vectors (N, F) as the moments of maps of one position; centred, so that no digits are lost."""
    centred = (vectors.double() - vectors.double().mean(0)).float()
    return ImageMoments(torch.cat([centred, centred.square()], 1), 1)


def _labels(paths: tuple[str, ...]) -> Tensor | None:
    """The number of each image's class folder; None unless all images are in two or more of these."""
    folders = [path.split("/")[0] if "/" in path else "" for path in paths]
    names = sorted(set(folders))
    if "" in names or len(names) < 2:
        return None
    numbers = {name: number for number, name in enumerate(names)}
    return torch.tensor([numbers[folder] for folder in folders])
