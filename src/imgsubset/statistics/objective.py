"""The score of a subset: its loss against the source, noise-free or noised, in units of a random subset's.

A loss is the weighted mean of that of its terms, one for each block of features; one block is the special case.

Shapes: N images, n of them in a subset, K subsets, B blocks of features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor

from imgsubset.devices import by_blocks
from imgsubset.statistics.divergences import DIVERGENCES, frechet, frechet_bound, mix
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

    def moments(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Moments:
        """Moments of subsets given as indices (K, n); sums are made in `dtype`."""
        return subset_moments(self.block.images, rows, dtype)

    def divergences(self, subsets: Moments) -> Tensor:
        """All five, (K, 5), in the order of DIVERGENCES."""
        return torch.stack([divergence(subsets, self.source) for divergence in DIVERGENCES.values()], -1)

    def random_losses(self) -> Tensor:
        """The calibrated losses (draws,) of the random subsets, of this block alone."""
        units = [self.coefficients.get(name, 0.0) for name in DIVERGENCES]
        return self.random @ self.random.new_tensor(units)


@dataclass(frozen=True)
class Noised:
    """Subsets under Langevin noise, of which only a bound of the Frechet distances is known.

    moments  of the subsets (K, ...), a batch for each term
    rest     (K,) what all other divergences add to the loss
    bound    (K,) what the Frechet distances add to it, at least
    """

    moments: list[Moments]
    rest: Tensor
    bound: Tensor


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

    def divergences(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """All five of each block, noise-free, (K, B, 5) float64, of subsets given as indices (K, n)."""

        def of_some(some: Tensor, _: int) -> Tensor:
            return torch.stack([term.divergences(term.moments(some, dtype)) for term in self.terms], 1)

        return torch.cat(by_blocks(of_some, rows, CPU_BLOCK, GPU_BLOCK))

    def loss(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Calibrated loss (K,), noise-free, of subsets given as indices (K, n): 1 is an average random subset."""

        def of_some(some: Tensor, _: int) -> Tensor:
            return self._sum(lambda term: mix(term.moments(some, dtype), term.source, term.coefficients))

        return torch.cat(by_blocks(of_some, rows, CPU_BLOCK, GPU_BLOCK))

    def share_below(self, loss: float) -> float:
        """The share of the baseline's random subsets whose calibrated loss is below this one, in [0, 1]."""
        return float((self._sum(lambda term: term.random_losses()) < loss).double().mean())

    def noised_loss(self, rows: Tensor, cooling: float, generator: Generator) -> Tensor:
        """The loss (K,) after Langevin noise, at `cooling` in [0, 1] times the starting temperature."""
        sources = self._noised_sources(cooling)

        def of_some(subsets: list[Moments]) -> Tensor:
            parts = zip(self.terms, subsets, sources, strict=True)
            return _total([term.block.weight * mix(own, source, term.coefficients) for term, own, source in parts])

        return torch.cat(self._noised(of_some, rows, cooling, generator))

    def noised_lowest(self, rows: Tensor, count: int, cooling: float, generator: Generator) -> Tensor:
        """Which `count` of the subsets have the lowest noised loss, in ascending order of it.

        Just what `noised_loss` would rank first, without the eigenvalues of subsets that a bound rules out.
        """
        sources = self._noised_sources(cooling)
        parts = self._noised(lambda subsets: self._bounded(subsets, sources), rows, cooling, generator)
        rest = torch.cat([part.rest for part in parts])
        loss = rest + torch.cat([part.bound for part in parts])
        if any(term.coefficients.get("frechet") for term in self.terms):
            first, later = loss.argsort().tensor_split([4 * count])
            loss[first] = rest[first] + self._frechet(parts, first, sources)
            later = later[loss[later] <= loss[first].kthvalue(count).values]
            if len(later):
                loss[later] = rest[later] + self._frechet(parts, later, sources)
        return torch.topk(loss, count, largest=False).indices

    def _bounded(self, subsets: list[Moments], sources: list[Moments]) -> Noised:
        rest, bound = [], []
        for term, own, source in zip(self.terms, subsets, sources, strict=True):
            others = {name: value for name, value in term.coefficients.items() if name != "frechet"}
            rest.append(term.block.weight * mix(own, source, others))
            eigen = term.block.weight * term.coefficients.get("frechet", 0.0)
            bound.append(eigen * frechet_bound(own, source))
        return Noised(subsets, _total(rest), _total(bound))

    def _frechet(self, parts: Sequence[Noised], which: Tensor, sources: list[Moments]) -> Tensor:
        """What the Frechet distances of these subsets, given by number, add to the loss, exactly."""
        size = len(parts[0].rest)

        def of_some(some: Tensor, _: int) -> Tensor:
            exact = []
            for number, (term, source) in enumerate(zip(self.terms, sources, strict=True)):
                own = Moments.stack([parts[i // size].moments[number].take(i % size) for i in some.tolist()])
                eigen = term.block.weight * term.coefficients.get("frechet", 0.0)
                exact.append(eigen * frechet(own, source))
            return _total(exact)

        return torch.cat(by_blocks(of_some, which, EIGEN_BLOCK, GPU_BLOCK))

    def _noised_sources(self, cooling: float) -> list[Moments]:
        noise = self.langevin.coefficients(cooling)
        return [noised_source(term.source, term.block.images.positions, *noise) for term in self.terms]

    def _noised(
        self, function: Callable[[list[Moments]], T], rows: Tensor, cooling: float, generator: Generator
    ) -> list[T]:
        """function(moments after the noise, by terms) for blocks of subsets."""
        noise = self.langevin.coefficients(cooling)
        seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))

        def of_some(some: Tensor, number: int) -> T:
            # A generator for each block, so that the noise does not depend on which thread comes first.
            own = torch.Generator(generator.device).manual_seed(seed + number)
            return function(
                [
                    noised_subsets(term.moments(some), self.n, term.block.images.positions, *noise, own)
                    for term in self.terms
                ]
            )

        return by_blocks(of_some, rows, CPU_BLOCK, GPU_BLOCK)

    def _sum(self, function: Callable[[Term], Tensor]) -> Tensor:
        return _total([term.block.weight * function(term) for term in self.terms])


def _total(parts: Sequence[Tensor]) -> Tensor:
    """Their sum, in their order."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def objective(blocks: Sequence[Block], n: int, weights: Weights, langevin: Langevin | None = None) -> Objective:
    """The objective of subsets of n of the images, calibrated by random subsets of that size."""
    return Objective(tuple(_term(block, n, weights) for block in blocks), n, langevin or Langevin())


def _term(block: Block, n: int, weights: Weights) -> Term:
    images, total, shares = block.images, len(block.images), weights.shares()
    source = all_moments(images)
    random = source.mean.new_zeros(2, len(DIVERGENCES))
    raw = Term(block, source, random, {})
    if n < total:
        generator = torch.Generator(images.table.device).manual_seed(BASELINE_SEED)
        rows = random_subsets(total, n, BASELINE_DRAWS, generator)
        of_some = lambda some, _: raw.divergences(raw.moments(some))  # noqa: E731
        samples = torch.cat(by_blocks(of_some, rows, CPU_BLOCK, GPU_BLOCK))
        random = samples * (samples.mean(0) > ROUNDING)
    means = dict(zip(DIVERGENCES, random.mean(0).tolist(), strict=True))
    # A divergence that is 0 for random subsets (of equal images, or n = N) is 0, but for rounding, for all.
    coefficients = {name: share / means[name] if means[name] else 0.0 for name, share in shares.items()}
    return Term(block, source, random, coefficients)


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


def effective_size(loss: float, n: int, total: int) -> float:
    """How many random images represent the source as well: 1 / n_eff = loss (1/n - 1/N) + 1/N.

    The expected loss of a random subset is proportional to 1/n - 1/N.
    """
    return 1 / (loss * (1 / n - 1 / total) + 1 / total)
