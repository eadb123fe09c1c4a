"""Quality and coverage apart: how the images of two sets lie among each other's nearest neighbours.

Around each image lies a ball that reaches as far as the k-th nearest other image of its own set. Precision is the share
of the second set that lies in a ball of the first, recall the share of the first that lies in a ball of the second
(Kynkaanniemi et al., NeurIPS 2019, equations 1 and 2). Density is how many balls of the first an image of the second
lies in, on average, over k; coverage the share of the balls of the first that hold an image of the second (Naeem et
al., ICML 2020, section 3). Two samples of one distribution have a density of 1 on average; the others stay
below 1 and depend on the sizes, so the floor is that of random deals, as in `permutation`.

A ball holds what lies on its edge, so a copy is always as near as the image itself. An image alone in its set is a ball
of its own, k = 0 of others.

Shapes: N and M images in the two sets, C numbers an image, D distinct vectors in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imgsubset.devices import side_by_side
from imgsubset.statistics.dice import deal, dice
from imgsubset.statistics.moments import DEAD_VARIANCE, row_keys

NAMES = ("precision", "recall", "density", "coverage")
K = 5  # Naeem et al.: coverage of samples of one distribution is 1 - 2^-k, near enough to 1 to show what is missing
MOST = 5000  # images of a set: distances grow with the square
DRAWS, DRAWS_OF_MANY, MANY = 1000, 200, 2000  # deals; of more than so many images of both fewer, for they are steadier
KEPT = 1 << 23  # neighbours kept in all, of 16 bytes
BLOCK_BYTES = 16 << 20  # of distances that are made at once


@dataclass(frozen=True)
class Neighbours:
    """The distinct vectors of two sets, and for each of them the nearest of all, itself first, in ascending distance.

    points  (D, C) float64, seen from one of them
    norms   (D,) their squared lengths
    places  (D, S) which they are
    apart   (D, S) float64, the squared distance of each
    """

    points: Tensor
    norms: Tensor
    places: Tensor
    apart: Tensor

    def of(self, rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Places and squared distances (R, width) of the nearest to these rows."""
        if width <= self.places.shape[1]:
            return self.places[rows, :width], self.apart[rows, :width]
        apart, places = _squared(self.points, self.norms, rows).sort(1)
        return places, apart


def _squared(points: Tensor, norms: Tensor, rows: Tensor) -> Tensor:
    """Squared distances (R, D) of all points from these, 0 of each from itself."""
    # Rounding can make two that are equally far away differ, but for copies: they are one point.
    squared = torch.addmm(norms, points[rows], points.T, alpha=-2).add_(norms[rows, None]).clamp_(min=0)
    return squared.scatter_(1, rows[:, None], 0)


def joined(spaces: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The vectors (N, C) and (M, C), float64, of two sets whose features are known in several spaces.

    Each channel is in units of its standard deviation over the images of both, and each space adds its weight to the
    mean squared distance. What does not vary is left out.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    for (first, second), weight in zip(spaces, weights, strict=True):
        both = torch.cat([first.cpu(), second.cpu()]).double()
        ordered = both.sort(0).values  # so that the sums depend on no order of the images
        mean = ordered.mean(0)
        variance = (ordered - mean).square().mean(0)
        kept = variance > DEAD_VARIANCE * ordered.square().mean(0)
        units = (both[:, kept] - mean[kept]) / variance[kept].sqrt() * (weight / max(1, int(kept.sum()))) ** 0.5
        parts.append((units[: len(first)], units[len(first) :]))
    firsts, seconds = zip(*parts, strict=True)
    return torch.cat(firsts, 1), torch.cat(seconds, 1)


def overlap(first: Tensor, second: Tensor, seed: int, draws: int | None = None) -> tuple[Tensor, Tensor]:
    """The four numbers (4,) of NAMES, float64, of vectors (M, C) against the reference's (N, C), and those of random
    deals of the images of both in the same sizes (draws, 4).

    Of more than MOST images of a set, as many stand for all. No order of the images changes a bit of the result.
    """
    first, second = (_some(features.double().cpu(), seed) for features in (first, second))
    sizes = (len(first), len(second))
    near, which = _neighbours(torch.cat([first, second]), min(sizes))
    one, other = (_counts(part, near) for part in (which[: len(first)], which[len(first) :]))
    values = four(near, one, other)
    total, few = sum(sizes), min(sizes)
    ordered = which.sort().values  # the distinct vectors are in the order of their bytes

    def of_deal(number: int) -> Tensor:
        part = _counts(ordered[deal(seed, number, total, few, ordered.device)], near)
        rest = one + other - part
        return four(near, *((part, rest) if few == sizes[0] else (rest, part)))

    count = draws or (DRAWS if total <= MANY else DRAWS_OF_MANY)
    return values, torch.stack(side_by_side(of_deal, range(count), torch.device("cpu")))


def _some(features: Tensor, seed: int) -> Tensor:
    """At most MOST rows, drawn by what they hold."""
    if len(features) <= MOST:
        return features
    ordered = torch.from_numpy(np.argsort(row_keys(features), kind="stable"))
    return features[ordered[torch.randperm(len(features), generator=dice(torch.device("cpu"), "some", seed))[:MOST]]]


def _neighbours(features: Tensor, few: int) -> tuple[Neighbours, Tensor]:
    """The neighbours among all rows (T, C), and which distinct vector each row is (T,).

    few  images of the smaller set: the longest lists are its own, for fewer of its neighbours are of it
    """
    _, where, which = np.unique(row_keys(features), return_index=True, return_inverse=True)
    points = features[torch.from_numpy(where)]
    points = points - points[0]  # or what is far from 0 would lose digits
    norms = points.square().sum(1)
    total = len(points)
    width = total if total**2 <= KEPT else min(4 * _width(total, few), KEPT // total)
    step = max(1, BLOCK_BYTES // (8 * total))

    def nearest(rows: Tensor) -> tuple[Tensor, Tensor]:
        apart, places = _squared(points, norms, rows).topk(width, 1, largest=False)
        return places, apart

    found = side_by_side(nearest, torch.split(torch.arange(total), step), torch.device("cpu"))
    places, apart = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Neighbours(points, norms, places, apart), torch.from_numpy(which).view(-1)


def _width(total: int, few: int) -> int:
    """How many neighbours to look at for K of `few` images among `total`: more than twice what it takes on average."""
    return min(total, 2 * (K + 2) * total // max(1, few))


def _counts(which: Tensor, near: Neighbours) -> Tensor:
    return torch.bincount(which, minlength=len(near.points))


def four(near: Neighbours, first: Tensor, second: Tensor) -> Tensor:
    """The four numbers (4,) of two sets, given as how many images of each every distinct vector is, (D,)."""
    sizes = (int(first.sum()), int(second.sum()))
    held, own, within = _met(near, first, second)
    _, _, back = _met(near, second, first)
    return torch.tensor(
        [
            int(second[within].sum()) / sizes[1],
            int(first[back].sum()) / sizes[0],
            float((first * held / own.clamp(min=1).double()).sum()) / sizes[1],
            int(first[held > 0].sum()) / sizes[0],
        ],
        dtype=torch.float64,
    )


def _met(near: Neighbours, mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many of theirs each ball of mine holds, and how many of mine beside its own image, (D,); and whether each
    vector lies in any of these balls, (D,)."""
    held, own = torch.zeros_like(mine), torch.ones_like(mine)
    within = torch.zeros(len(mine), dtype=torch.bool)
    for rows, places, inside in _balls(near, mine):
        held[rows] = (theirs[places] * inside).sum(1)
        own[rows] = (mine[places] * inside).sum(1) - 1
        within.index_fill_(0, places[inside], True)
    return held, own, within


def _balls(near: Neighbours, mine: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Balls of mine: the vectors (R,) in their middle, neighbours (R, S) of each, and whether these lie inside."""
    rows, total = mine.nonzero()[:, 0], len(mine)
    k = min(K, int(mine.sum()) - 1)
    kept = near.places.shape[1]
    for width in sorted({min(_width(total, len(rows)), kept), kept, total}):
        left = []
        for some in torch.split(rows, max(1, BLOCK_BYTES // (8 * width))):
            places, apart = near.of(some, width)
            reached = mine[places].cumsum(1) > k  # the image itself is the first
            radius = apart.gather(1, reached.byte().argmax(1, keepdim=True))
            # Where a list ends within the ball, or on its edge, more may lie there.
            whole = (reached[:, -1] & (radius[:, 0] < apart[:, -1])) | (width == total)
            left.append(some[~whole])
            yield some[whole], places[whole], apart[whole] <= radius[whole]
        rows = torch.cat(left)
        if not len(rows):
            return
