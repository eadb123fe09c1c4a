"""The score of a subset: its loss against the source, noise-free or noised, in units of a random subset's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from imgsubset.cores import single_threaded_workers
from imgsubset.divergences import DIVERGENCES, mix
from imgsubset.langevin import Langevin, noised_source, noised_subsets
from imgsubset.moments import ImageMoments, all_moments, subset_moments
from imgsubset.options import DIVERGENCE_NAMES, Weights

BASELINE_DRAWS = 1024
BASELINE_SEED = 0  # not the search's: the loss of a given subset must not depend on how it was found

CPU_BLOCK, GPU_BLOCK = 16, 1024  # subsets scored at once: what fits a core's cache, what fills a GPU


@dataclass(frozen=True)
class Baseline:
    """The divergences of random subsets of a size: what every loss is measured in.

    samples  (draws, 5) float64, noise-free, in the order of DIVERGENCE_NAMES
    """

    samples: Tensor

    @property
    def mean(self) -> dict[str, float]:
        return dict(zip(DIVERGENCE_NAMES, self.samples.mean(0).tolist(), strict=True))

    @property
    def std(self) -> dict[str, float]:
        return dict(zip(DIVERGENCE_NAMES, self.samples.std(0).tolist(), strict=True))


def random_subsets(total: int, n: int, count: int, generator: Generator) -> Tensor:
    """Indices (count, n) of subsets drawn uniformly without replacement from `total` rows.

    One permutation is cut into total // n disjoint subsets: as many draws for the price of one.
    """
    device = generator.device
    each = total // n
    permutations = [
        torch.randperm(total, generator=generator, device=device)[: each * n].view(each, n)
        for _ in range(-(-count // each))
    ]
    return torch.cat(permutations)[:count]


class Objective:
    """The weighted mix of divergences of subsets of n images from the set of all of them.

    images    standardised moments of the source's images
    baseline  what random subsets of this size score; the unit of each divergence
    """

    def __init__(self, images: ImageMoments, n: int, weights: Weights, langevin: Langevin | None = None) -> None:
        self.images, self.n = images, n
        self.langevin = langevin or Langevin()
        self.source = all_moments(images)
        generator = torch.Generator(images.table.device).manual_seed(BASELINE_SEED)
        draws = random_subsets(len(images), n, BASELINE_DRAWS if n < len(images) else 1, generator)
        self.baseline = Baseline(self.divergences(draws))
        means = self.baseline.mean
        # A divergence that is 0 for random subsets (of constant images, or n = N) is 0 for all of them.
        self.coefficients = {
            name: share / means[name] if means[name] > 0 else 0.0 for name, share in weights.shares().items()
        }

    def divergences(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """All five, noise-free, (K, 5) float64, of subsets given as indices (K, n); sums are made in `dtype`."""

        def of_block(block: Tensor, _: int) -> Tensor:
            subsets = subset_moments(self.images, block, dtype)
            return torch.stack([divergence(subsets, self.source) for divergence in DIVERGENCES.values()], -1)

        return _by_blocks(of_block, rows)

    def loss(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Calibrated loss (K,), noise-free, of subsets given as indices (K, n): 1 is an average random subset."""
        return _by_blocks(
            lambda block, _: mix(subset_moments(self.images, block, dtype), self.source, self.coefficients), rows
        )

    def noised_loss(self, rows: Tensor, cooling: float, generator: Generator) -> Tensor:
        """The loss (K,) after Langevin noise, at `cooling` in [0, 1] times the starting temperature."""
        alpha, sigma2 = self.langevin.coefficients(cooling)
        positions = self.images.positions
        source = noised_source(self.source, positions, alpha, sigma2)
        seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))

        def of_block(block: Tensor, number: int) -> Tensor:
            # A generator for each block, so that the noise does not depend on which thread comes first.
            own = torch.Generator(generator.device).manual_seed(seed + number)
            subsets = subset_moments(self.images, block)
            noised = noised_subsets(subsets, self.n, positions, alpha, sigma2, own)
            return mix(noised, source, self.coefficients)

        return _by_blocks(of_block, rows)


def _by_blocks(function: Callable[[Tensor, int], Tensor], rows: Tensor) -> Tensor:
    """Concatenate function(block, its number) over blocks of subsets; on a CPU the blocks run side by side."""
    if rows.device.type != "cpu":
        blocks = torch.split(rows, GPU_BLOCK)
        return torch.cat([function(block, number) for number, block in enumerate(blocks)])
    with single_threaded_workers() as executor:
        blocks = torch.split(rows, CPU_BLOCK)
        return torch.cat(list(executor.map(function, blocks, range(len(blocks)))))


def effective_size(loss: float, n: int, total: int) -> float:
    """How many random images represent the source as well: 1 / n_eff = loss (1/n - 1/N) + 1/N.

    The expected loss of a random subset is proportional to 1/n - 1/N.
    """
    return 1 / (loss * (1 / n - 1 / total) + 1 / total)
