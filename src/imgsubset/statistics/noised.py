"""Ranking many subsets by their noised loss, in batches, each with random numbers of its own.

Shapes: K subsets in a batch, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from imgsubset.devices import map_parallel
from imgsubset.statistics.divergences import EIGEN_BATCH, frechet, frechet_bound
from imgsubset.statistics.langevin import noised_source, noised_subsets
from imgsubset.statistics.moments import Moments, compute_subset_moments
from imgsubset.statistics.objective import Objective, sum_losses


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
