"""The score of a subset: its loss against the source, noise-free or noised, in units of a random subset's.

A loss is the weighted mean of that of its terms, one for each block of features; one block is the special case.

Shapes: N images, n of them in a subset, K subsets, B blocks of features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypeVar

import torch
from torch import Generator, Tensor

from imgsubset.devices import by_blocks
from imgsubset.statistics.divergences import DIVERGENCES, all_five, frechet, frechet_bound, mix
from imgsubset.statistics.langevin import Langevin, noised_source, noised_subsets
from imgsubset.statistics.moments import Block, Moments, all_moments, subset_moments
from imgsubset.weights import Weights

BASELINE_DRAWS = 1024
ROUNDING = 1e-12
BASELINE_SEED = 1 << 62  # not the search's: the loss of a given subset must not depend on how it was found

T = TypeVar("T")
CPU_BLOCK, GPU_BLOCK = 128, 1024  # subsets scored at once: enough that threads seldom meet in the interpreter
EIGEN_BLOCK = 16  # on a CPU, where only few subsets need eigenvalues


@dataclass(frozen=True)
class Term:
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
        return self.block.weight * mix(subsets, self.source, used)

    @property
    def of_frechet(self) -> float:
        """What a unit of Frechet distance in this block adds to the loss."""
        return self.block.weight * self.coefficients.get("frechet", 0.0)


Noised = list[tuple[Term, Moments]]
"""Terms, of which the source is noised, each with the noised moments of subsets."""


@dataclass(frozen=True)
class Objective:
    """The weighted mean over blocks of the calibrated mix of divergences of subsets of n images from all N.

    terms     one a block
    n         images in a subset
    langevin  the noise; its temperature at the start of a search
    """

    terms: tuple[Term, ...]
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

    def alone(self, which: int) -> Objective:
        """That of one of the blocks, by itself."""
        term = self.terms[which]
        return replace(self, terms=(replace(term, block=replace(term.block, weight=1.0)),))

    def divergences(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """All five of each block, noise-free, (K, B, 5) float64, of subsets given as indices (K, n)."""
        return torch.stack([_divergences(term.block, term.source, rows, dtype) for term in self.terms], 1)

    def loss(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Calibrated loss (K,), noise-free, of subsets (K, n): 1 is an average random one. `dtype` is that of sums."""

        def of_some(some: Tensor, _: int) -> Tensor:
            return _sum(term.share(subset_moments(term.block.images, some, dtype)) for term in self.terms)

        return torch.cat(by_blocks(of_some, rows, CPU_BLOCK, GPU_BLOCK))

    def share_below(self, loss: float) -> float:
        """The share of the baseline's random subsets whose calibrated loss is below this one, in [0, 1]."""
        losses = []
        for term in self.terms:
            units = term.random.new_tensor([term.coefficients.get(name, 0.0) for name in DIVERGENCES])
            losses.append(term.block.weight * (term.random @ units))
        return float((_sum(losses) < loss).double().mean())

    def noised_loss(self, rows: Tensor, cooling: float, generator: Generator) -> Tensor:
        """The loss (K,) after Langevin noise, at `cooling` in [0, 1] times the starting temperature."""

        def of_some(noised: Noised) -> Tensor:
            return _sum(term.share(subsets) for term, subsets in noised)

        return torch.cat(self._noised(of_some, rows, cooling, generator))

    def noised_lowest(self, rows: Tensor, count: int, cooling: float, generator: Generator) -> Tensor:
        """Which `count` of the subsets have the lowest noised loss, in ascending order of it.

        Just what `noised_loss` would rank first, without the eigenvalues of subsets that a bound rules out.
        """

        def bounded(noised: Noised) -> tuple[Noised, Tensor, Tensor]:
            rest = _sum(term.share(subsets, without="frechet") for term, subsets in noised)
            bound = _sum(term.of_frechet * frechet_bound(subsets, term.source) for term, subsets in noised)
            return noised, rest, bound

        blocks, rests, bounds = zip(*self._noised(bounded, rows, cooling, generator), strict=True)
        size, rest = len(rests[0]), torch.cat(rests)
        loss = rest + torch.cat(bounds)

        def exact(some: Tensor, number: int) -> Tensor:
            shares = []
            for k, (term, _) in enumerate(blocks[0]):
                subsets = Moments.stack([blocks[i // size][k][1].take(i % size) for i in some.tolist()])
                shares.append(term.of_frechet * frechet(subsets, term.source))
            return rest[some] + _sum(shares)

        if any(term.of_frechet for term in self.terms):
            first, later = loss.argsort().tensor_split([4 * count])
            loss[first] = torch.cat(by_blocks(exact, first, EIGEN_BLOCK, GPU_BLOCK))
            later = later[loss[later] <= loss[first].kthvalue(count).values]
            if len(later):
                loss[later] = torch.cat(by_blocks(exact, later, EIGEN_BLOCK, GPU_BLOCK))
        return torch.topk(loss, count, largest=False).indices

    def _noised(self, function: Callable[[Noised], T], rows: Tensor, cooling: float, generator: Generator) -> list[T]:
        """function(the terms after the noise) for blocks of subsets."""
        noise = self.langevin.coefficients(cooling)
        seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
        spaces = [term.block.images for term in self.terms]
        sources = [noised_source(term.source, term.block.images.positions, *noise) for term in self.terms]
        terms = [replace(term, source=source) for term, source in zip(self.terms, sources, strict=True)]

        def of_some(some: Tensor, number: int) -> T:
            # A generator for each block, so that the noise does not depend on which thread comes first.
            own = torch.Generator(generator.device).manual_seed(seed + number)
            subsets = [noised_subsets(subset_moments(at, some), self.n, at.positions, *noise, own) for at in spaces]
            return function(list(zip(terms, subsets, strict=True)))

        return by_blocks(of_some, rows, CPU_BLOCK, GPU_BLOCK)


def _divergences(block: Block, source: Moments, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """All five, (K, 5) float64, of subsets given as indices (K, n)."""

    def of_some(some: Tensor, _: int) -> Tensor:
        return all_five(subset_moments(block.images, some, dtype), source)

    return torch.cat(by_blocks(of_some, rows, CPU_BLOCK, GPU_BLOCK))


def _sum(parts: Iterable[Tensor]) -> Tensor:
    """Their sum, added up in their order."""
    return reduce(torch.add, parts)


def objective(
    blocks: Sequence[Block],
    n: int,
    weights: Weights,
    langevin: Langevin | None = None,
    draws: int = BASELINE_DRAWS,
) -> Objective:
    """The objective of subsets of n of the images, calibrated by so many random subsets of that size."""
    return Objective(tuple(_term(block, n, weights, draws) for block in blocks), n, langevin or Langevin())


def _term(block: Block, n: int, weights: Weights, draws: int) -> Term:
    total, source = len(block.images), all_moments(block.images)
    random = source.mean.new_zeros(2, len(DIVERGENCES))
    if n < total:
        generator = torch.Generator(block.images.table.device).manual_seed(BASELINE_SEED)
        random = _divergences(block, source, random_subsets(total, n, draws, generator))
        random = random * (random.mean(0) > ROUNDING)
    means = dict(zip(DIVERGENCES, random.mean(0).tolist(), strict=True))
    # A divergence that is 0 for random subsets (of equal images, or n = N) is 0, but for rounding, for all.
    shares = weights.shares().items()
    coefficients = {name: share / means[name] if means[name] else 0.0 for name, share in shares}
    return Term(block, source, random, coefficients)


def random_subsets(total: int, n: int, count: int, generator: Generator) -> Tensor:
    """Indices (count, n) of subsets drawn uniformly without replacement from `total` rows.

    One permutation is cut into total // n disjoint subsets: as many draws for the price of one.
    """
    each, device = total // n, generator.device
    times = range(-(-count // each))
    permutations = [torch.randperm(total, generator=generator, device=device)[: each * n] for _ in times]
    return torch.cat(permutations).view(-1, n)[:count]


def effective_size(loss: float, n: int, total: int) -> float:
    """How many random images represent the source as well: 1 / n_eff = loss (1/n - 1/N) + 1/N.

    The expected loss of a random subset is proportional to 1/n - 1/N.
    """
    return 1 / (loss * (1 / n - 1 / total) + 1 / total)
