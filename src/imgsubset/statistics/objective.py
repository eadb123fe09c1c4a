"""The loss of a subset against its source, noise-free or under Langevin noise, relative to random subsets.

A loss is the weighted mean of that of its terms, one for each block of features; one block is the special case.

Shapes: N images, n of them in a subset, K subsets, B blocks of features.

Shapes: K subsets in a batch, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Generator, Tensor

from imgsubset.devices import exact_matmul, map_parallel
from imgsubset.divergence_weights import Weights
from imgsubset.statistics.divergences import (
    DIVERGENCES,
    EIGEN_BATCH,
    compute_divergences,
    compute_weighted_divergence,
    frechet,
    frechet_bound,
)
from imgsubset.statistics.langevin import Langevin, noised_source, noised_subsets
from imgsubset.statistics.moments import Block, LazyMoments, Moments, compute_all_moments, compute_subset_moments
from imgsubset.statistics.rng import make_generator

N_BASELINE_SUBSETS = 1024
# Images in a random subset of the baseline, at most: a larger one's divergences follow from 1/n - 1/N to within 1 %.
MAX_BASELINE_IMAGES = 8192
ROUNDING_TOLERANCE = 1e-12
# How blocks of numbers are matched, whatever the weights: of a value that 1 image in 100 has, the KL divergence of a
# random subset of 500 is 2,650 on average, as that of the few that lack it is without bounds.
METADATA_DIVERGENCES = Weights.of({"wasserstein": 1, "frechet": 1})
# Subsets of a batch: enough that threads seldom meet in the interpreter, and few enough for little memory. Only n and
# the channels decide how many, since a batch has its own random numbers: results must not depend on the machine.
MAX_BATCH_SUBSETS, MAX_BATCH_BYTES = 64, 16 << 20


@dataclass(frozen=True)
class LossTerm:
    """What a block adds to the loss.

    block         it
    source        the moments of all images
    random        (draws, 5) float64, noise-free divergences of random subsets, in the order of DIVERGENCES
    coefficients  by divergence: what a unit of it adds to the loss of this block, and of no other
    """

    block: Block
    source: Moments
    random: Tensor
    coefficients: dict[str, float]

    def share(self, subsets: Moments, without: str = "") -> Tensor:
        """What the block adds to the losses (K,) of subsets, all divergences or all but one together."""
        used = {name: value for name, value in self.coefficients.items() if name != without}
        return self.block.weight * compute_weighted_divergence(subsets, self.source, used)

    @property
    def frechet_weight(self) -> float:
        """What a unit of Frechet distance in this block adds to the loss."""
        return self.block.weight * self.coefficients.get("frechet", 0.0)


@dataclass(frozen=True)
class Objective:
    """The weighted mean over blocks of the calibrated mix of divergences of subsets of n images from all N.

    terms     one a block
    n         images in a subset
    langevin  the noise; its temperature at the start of a search
    """

    terms: tuple[LossTerm, ...]
    n: int
    langevin: Langevin

    @property
    def total(self) -> int:
        """N"""
        return len(self.terms[0].block.images)

    @property
    def device(self) -> torch.device:
        """Where the moments are."""
        return self.terms[0].block.images.table.device

    @property
    def is_flat(self) -> bool:
        """Whether the loss of every subset is 0."""
        return not any(value for term in self.terms for value in term.coefficients.values())

    @property
    def batch(self) -> int:
        """How many subsets are handled at once."""
        return _choose_batch_size([term.block for term in self.terms], self.n)

    def single_block(self, which: int) -> Objective:
        """That of one of the blocks, by itself."""
        term = self.terms[which]
        return replace(self, terms=(replace(term, block=replace(term.block, weight=1.0)),))

    @exact_matmul()
    def divergences(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """All five of each block, noise-free, (K, B, 5) float64, of subsets given as indices (K, n)."""

        def of_some(some: Tensor) -> Tensor:
            moments = [(compute_subset_moments(term.block.images, some, dtype), term.source) for term in self.terms]
            return torch.stack([compute_divergences(*pair) for pair in moments], 1)

        return torch.cat(map_parallel(of_some, torch.split(rows, self.batch), self.device))

    @exact_matmul()
    def loss(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Calibrated loss (K,), noise-free, of subsets (K, n): 1 is an average random one. `dtype` is that of sums."""

        def of_some(some: Tensor) -> Tensor:
            return sum_losses(term.share(compute_subset_moments(term.block.images, some, dtype)) for term in self.terms)

        return torch.cat(map_parallel(of_some, torch.split(rows, self.batch), self.device))

    def baseline_cdf(self, loss: float) -> float:
        """The share of the baseline's random subsets whose calibrated loss is below this one, in [0, 1]."""
        losses = []
        for term in self.terms:
            units = term.random.new_tensor([term.coefficients.get(name, 0.0) for name in DIVERGENCES])
            losses.append(term.block.weight * (term.random @ units))
        return float((sum_losses(losses) < loss).double().mean())


def sum_losses(parts: Iterable[Tensor]) -> Tensor:
    """The sum of what blocks add to a loss, added up in their order."""
    return reduce(torch.add, parts)


def _choose_batch_size(blocks: Sequence[Block], n: int) -> int:
    numbers = n + sum(block.images.channels**2 for block in blocks)
    return max(1, min(MAX_BATCH_SUBSETS, MAX_BATCH_BYTES // (8 * numbers)))


@exact_matmul()
def make_objective(
    blocks: Sequence[Block],
    n: int,
    weights: Weights,
    langevin: Langevin | None = None,
    draws: int = N_BASELINE_SUBSETS,
) -> Objective:
    """The objective of subsets of n of the images, calibrated by so many random subsets of that size.

    weights  of the divergences, in blocks of features; blocks of numbers have Wasserstein and Frechet alone
    """
    batch = _choose_batch_size(blocks, min(n, MAX_BASELINE_IMAGES))
    terms = [_make_term(block, weights, *_compute_baseline(block, n, draws, batch)) for block in blocks]
    return Objective(tuple(terms), n, langevin or Langevin())


def _compute_baseline(block: Block, n: int, draws: int, batch: int) -> tuple[Moments, Tensor]:
    """The moments of all images, and the divergences (draws, 5) of random subsets, the same ones for every block."""
    images, source = block.images, compute_all_moments(block.images)
    total, device = len(images), images.table.device
    if n == total:
        return source, source.mean.new_zeros(2, len(DIVERGENCES))
    # A random subset of a sample is to the sample what one of the source is to the source.
    pool = images.sample if isinstance(images, LazyMoments) else images
    center = compute_all_moments(pool)
    drawn = min(n, MAX_BASELINE_IMAGES)

    def of_batch(number: int) -> Tensor:
        # Not the search's numbers: the loss of a given subset must not depend on how it was found.
        rows = draw_random_subsets(len(pool), drawn, batch, make_generator(device, "baseline", number))
        return compute_divergences(compute_subset_moments(pool, rows), center)

    batches = range(-(-draws // batch))
    random = torch.cat(map_parallel(of_batch, batches, device))[:draws]
    # To second order a random subset's divergences are proportional to 1/n - 1/N.
    return source, random * ((1 / n - 1 / total) / (1 / drawn - 1 / len(pool)))


def _make_term(block: Block, weights: Weights, source: Moments, random: Tensor) -> LossTerm:
    random = random * (random.mean(0) > ROUNDING_TOLERANCE)
    means = dict(zip(DIVERGENCES, random.mean(0).tolist(), strict=True))
    # A divergence that is 0 for random subsets (of equal images, or n = N) is 0, but for rounding, for all.
    shares = (METADATA_DIVERGENCES if block.numbers else weights).shares().items()
    coefficients = {name: share / means[name] if means[name] else 0.0 for name, share in shares}
    return LossTerm(block, source, random, coefficients)


def draw_random_subsets(total: int, n: int, count: int, generator: Generator) -> Tensor:
    """Indices (count, n) of subsets drawn uniformly without replacement from `total` rows.

    One permutation is cut into total // n disjoint subsets: as many draws for the price of one.
    """
    each, device = total // n, generator.device
    times = range(-(-count // each))
    permutations = [torch.randperm(total, generator=generator, device=device)[: each * n] for _ in times]
    return torch.cat(permutations).view(-1, n)[:count]


def effective_sample_size(loss: float, n: int, total: int) -> float:
    """How many random images represent the source as well: 1 / n_eff = loss (1/n - 1/N) + 1/N.

    The expected loss of a random subset is proportional to 1/n - 1/N.
    """
    return 1 / (loss * (1 / n - 1 / total) + 1 / total)


@dataclass(frozen=True)
class NoisyBatch:
    """Subsets after the noise.

    subsets  of each term, their moments (K, ...)
    rest     (K,) their loss but for the Frechet distance
    bound    (K,) a lower bound of their loss
    """

    subsets: tuple[Moments, ...]
    rest: Tensor
    bound: Tensor


class NoisyObjective:
    """An objective under Langevin noise of this temperature."""

    def __init__(self, objective: Objective, temperature: float) -> None:
        self.n, self.device = objective.n, objective.device
        self.noise = objective.langevin.coefficients(temperature)
        sources = [noised_source(term.source, term.block.images.positions, *self.noise) for term in objective.terms]
        self.terms = [replace(term, source=source) for term, source in zip(objective.terms, sources, strict=True)]

    def loss(self, rows: Tensor, generator: Generator) -> Tensor:
        """The loss (K,) of one batch of subsets (K, n)."""
        subsets = self._subsets(rows, generator)
        return sum_losses(term.share(one) for term, one in zip(self.terms, subsets, strict=True))

    def batch(self, rows: Tensor, generator: Generator) -> NoisyBatch:
        """Subsets (K, n) with noise that the generator alone decides, for `lowest`."""
        subsets = self._subsets(rows, generator)
        pairs = [*zip(self.terms, subsets, strict=True)]
        rest = sum_losses(term.share(one, without="frechet") for term, one in pairs)
        bound = sum_losses(term.frechet_weight * frechet_bound(one, term.source) for term, one in pairs)
        return NoisyBatch(subsets, rest, rest + bound)

    def lowest(self, batches: Sequence[NoisyBatch], count: int) -> Tensor:
        """Which `count` of the subsets of all batches have the lowest loss, in ascending order of it.

        Just what `loss` would rank first, without the eigenvalues of subsets that the bound rules out.
        """
        rest, loss = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("rest", "bound"))
        places = [(batch, k) for batch in batches for k in range(len(batch.rest))]

        def exact(some: Tensor) -> Tensor:
            shares = []
            for number, term in enumerate(self.terms):
                subsets = Moments.stack(
                    [batch.subsets[number].take(k) for batch, k in map(places.__getitem__, some.tolist())]
                )
                shares.append(term.frechet_weight * frechet(subsets, term.source))
            return rest[some] + sum_losses(shares)

        def make_exact(which: Tensor) -> None:
            if len(which):
                size = EIGEN_BATCH if self.device.type == "cpu" else len(which)  # a GPU's are dealt out once for all
                loss[which] = torch.cat(map_parallel(exact, torch.split(which, size), self.device))

        if any(term.frechet_weight for term in self.terms):
            first, later = loss.argsort().tensor_split([4 * count])
            make_exact(first)
            make_exact(later[loss[later] <= loss[first].kthvalue(count).values])
        return torch.topk(loss, count, largest=False).indices

    def _subsets(self, rows: Tensor, generator: Generator) -> tuple[Moments, ...]:
        found = []
        for images in (term.block.images for term in self.terms):
            vectors = images.mean[rows] if self.n <= images.channels else None
            moments = compute_subset_moments(images, rows)
            found.append(noised_subsets(moments, self.n, images.positions, *self.noise, generator, vectors))
        return tuple(found)
