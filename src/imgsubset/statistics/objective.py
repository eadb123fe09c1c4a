"""The score of a subset: its loss against the source, noise-free or noised, in units of a random subset's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor

from imgsubset.devices import single_threaded, workers
from imgsubset.options import DIVERGENCE_NAMES, Weights
from imgsubset.statistics.divergences import DIVERGENCES, frechet, frechet_bound, mix
from imgsubset.statistics.langevin import Langevin, noised_source, noised_subsets
from imgsubset.statistics.moments import ImageMoments, Moments, all_moments, subset_moments

BASELINE_DRAWS = 1024
ROUNDING = 1e-12
BASELINE_SEED = 1 << 62  # not the search's: the loss of a given subset must not depend on how it was found

T = TypeVar("T")
CPU_BLOCK, GPU_BLOCK = 128, 1024  # subsets scored at once: enough that threads seldom meet in the interpreter
EIGEN_BLOCK = 16  # on a CPU, where only few subsets need eigenvalues


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
        self.baseline = Baseline(torch.zeros(2, len(DIVERGENCES), dtype=torch.float64, device=generator.device))
        if n < len(images):
            samples = self.divergences(random_subsets(len(images), n, BASELINE_DRAWS, generator))
            self.baseline = Baseline(samples * (samples.mean(0) > ROUNDING))
        means = self.baseline.mean
        # A divergence that is 0 for random subsets (of equal images, or n = N) is 0, but for rounding, for all.
        self.coefficients = {
            name: share / means[name] if means[name] else 0.0 for name, share in weights.shares().items()
        }

    def divergences(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """All five, noise-free, (K, 5) float64, of subsets given as indices (K, n); sums are made in `dtype`."""

        def of_block(block: Tensor, _: int) -> Tensor:
            subsets = subset_moments(self.images, block, dtype)
            return torch.stack([divergence(subsets, self.source) for divergence in DIVERGENCES.values()], -1)

        return torch.cat(_by_blocks(of_block, rows))

    def loss(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Calibrated loss (K,), noise-free, of subsets given as indices (K, n): 1 is an average random subset."""

        def of_block(block: Tensor, _: int) -> Tensor:
            return mix(subset_moments(self.images, block, dtype), self.source, self.coefficients)

        return torch.cat(_by_blocks(of_block, rows))

    def share_below(self, loss: float) -> float:
        """The share of the baseline's random subsets whose calibrated loss is below this one, in [0, 1]."""
        names = list(DIVERGENCES)
        weights = [self.coefficients.get(name, 0.0) for name in names]
        losses = self.baseline.samples @ self.baseline.samples.new_tensor(weights)
        return float((losses < loss).double().mean())

    def noised_loss(self, rows: Tensor, cooling: float, generator: Generator) -> Tensor:
        """The loss (K,) after Langevin noise, at `cooling` in [0, 1] times the starting temperature."""
        source = self._noised_source(cooling)
        parts = self._by_noised_blocks(lambda noised: mix(noised, source, self.coefficients), rows, cooling, generator)
        return torch.cat(parts)

    def noised_lowest(self, rows: Tensor, count: int, cooling: float, generator: Generator) -> Tensor:
        """Which `count` of the subsets have the lowest noised loss, in ascending order of it.

        Just what `noised_loss` would rank first, without the eigenvalues of subsets that a bound rules out.
        """
        source = self._noised_source(cooling)
        coefficients = dict(self.coefficients)
        eigen = coefficients.pop("frechet", 0.0)

        def of_block(noised: Moments) -> tuple[Moments, Tensor, Tensor]:
            return noised, mix(noised, source, coefficients), frechet_bound(noised, source)

        noised, rest, bounds = zip(*self._by_noised_blocks(of_block, rows, cooling, generator), strict=True)
        others = torch.cat(rest)
        loss = others + eigen * torch.cat(bounds)
        size = len(rest[0])

        def exact(block: Tensor, _: int) -> Tensor:
            return frechet(Moments.stack([noised[i // size].take(i % size) for i in block.tolist()]), source)

        def make_exact(which: Tensor) -> None:
            if not len(which):
                return
            loss[which] = others[which] + eigen * torch.cat(_by_blocks(exact, which, EIGEN_BLOCK))

        if eigen:
            first, later = loss.argsort().tensor_split([4 * count])
            make_exact(first)
            threshold = loss[first].kthvalue(count).values
            make_exact(later[loss[later] <= threshold])
        return torch.topk(loss, count, largest=False).indices

    def _noised_source(self, cooling: float) -> Moments:
        return noised_source(self.source, self.images.positions, *self.langevin.coefficients(cooling))

    def _by_noised_blocks(
        self, function: Callable[[Moments], T], rows: Tensor, cooling: float, generator: Generator
    ) -> list[T]:
        """function(moments after the noise) for blocks of subsets."""
        coefficients, positions = self.langevin.coefficients(cooling), self.images.positions
        seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))

        def of_block(block: Tensor, number: int) -> T:
            # A generator for each block, so that the noise does not depend on which thread comes first.
            own = torch.Generator(generator.device).manual_seed(seed + number)
            subsets = subset_moments(self.images, block)
            return function(noised_subsets(subsets, self.n, positions, *coefficients, own))

        return _by_blocks(of_block, rows)


def _by_blocks(
    function: Callable[[Tensor, int], T], rows: Tensor, cpu_block: int = CPU_BLOCK, gpu_block: int = GPU_BLOCK
) -> list[T]:
    """function(block, its number) for blocks of subsets; on a CPU the blocks run side by side, and on a GPU that runs
    out of memory they become smaller."""
    blocks = torch.split(rows, cpu_block if rows.device.type == "cpu" else gpu_block)
    if rows.device.type != "cpu":
        try:
            return [function(block, number) for number, block in enumerate(blocks)]
        except torch.OutOfMemoryError:
            if gpu_block == 1:
                raise
            torch.cuda.empty_cache()
        return _by_blocks(function, rows, cpu_block, gpu_block // 2)
    with single_threaded():
        return list(workers().map(function, blocks, range(len(blocks))))


def effective_size(loss: float, n: int, total: int) -> float:
    """How many random images represent the source as well: 1 / n_eff = loss (1/n - 1/N) + 1/N.

    The expected loss of a random subset is proportional to 1/n - 1/N.
    """
    return 1 / (loss * (1 / n - 1 / total) + 1 / total)
