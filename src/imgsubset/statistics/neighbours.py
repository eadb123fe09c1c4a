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

from imgsubset.devices import map_parallel
from imgsubset.statistics.dice import draw_permutation, make_generator
from imgsubset.statistics.moments import MIN_RELATIVE_VARIANCE, row_keys

PRDC_NAMES = ("precision", "recall", "density", "coverage")
N_NEIGHBOURS = (
    5  # Naeem et al.: coverage of samples of one distribution is 1 - 2^-k, near enough to 1 to show what is missing
)
MAX_PRDC_IMAGES = 5000  # images of a set: distances grow with the square
N_PRDC_PERMUTATIONS, N_PRDC_PERMUTATIONS_LARGE, LARGE_PRDC_IMAGES = (
    1000,
    200,
    2000,
)  # deals; of more than so many images of both fewer, for they are steadier
MAX_STORED_NEIGHBOURS = 1 << 23  # neighbours kept in all, of 16 bytes
DISTANCE_BLOCK_BYTES = 16 << 20  # of distances that are made at once


@dataclass(frozen=True)
class NearestNeighbours:
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
        apart, places = _squared_distances(self.points, self.norms, rows).sort(1)
        return places, apart


def _squared_distances(points: Tensor, norms: Tensor, rows: Tensor) -> Tensor:
    """Squared distances (R, D) of all points from these, 0 of each from itself."""
    # Rounding can make two that are equally far away differ, but for copies: they are one point.
    squared = torch.addmm(norms, points[rows], points.T, alpha=-2).add_(norms[rows, None]).clamp_(min=0)
    return squared.scatter_(1, rows[:, None], 0)


def join_spaces(spaces: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
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
        kept = variance > MIN_RELATIVE_VARIANCE * ordered.square().mean(0)
        units = (both[:, kept] - mean[kept]) / variance[kept].sqrt() * (weight / max(1, int(kept.sum()))) ** 0.5
        parts.append((units[: len(first)], units[len(first) :]))
    firsts, seconds = zip(*parts, strict=True)
    return torch.cat(firsts, 1), torch.cat(seconds, 1)


def compare_prdc(first: Tensor, second: Tensor, seed: int, draws: int | None = None) -> tuple[Tensor, Tensor]:
    """The four numbers (4,) of NAMES, float64, of vectors (M, C) against the reference's (N, C), and those of random
    deals of the images of both in the same sizes (draws, 4).

    Of more than MOST images of a set, as many stand for all. No order of the images changes a bit of the result.
    """
    first, second = (_subsample(features.double().cpu(), seed) for features in (first, second))
    sizes = (len(first), len(second))
    near, which = _find_neighbours(torch.cat([first, second]), min(sizes))
    one, other = (_count_vectors(part, near) for part in (which[: len(first)], which[len(first) :]))
    values = compute_prdc(near, one, other)
    total, few = sum(sizes), min(sizes)
    ordered = which.sort().values  # the distinct vectors are in the order of their bytes

    def of_deal(number: int) -> Tensor:
        part = _count_vectors(ordered[draw_permutation(seed, number, total, few, ordered.device)], near)
        rest = one + other - part
        return compute_prdc(near, *((part, rest) if few == sizes[0] else (rest, part)))

    count = draws or (N_PRDC_PERMUTATIONS if total <= LARGE_PRDC_IMAGES else N_PRDC_PERMUTATIONS_LARGE)
    return values, torch.stack(map_parallel(of_deal, range(count), torch.device("cpu")))


def _subsample(features: Tensor, seed: int) -> Tensor:
    """At most MOST rows, drawn by what they hold."""
    if len(features) <= MAX_PRDC_IMAGES:
        return features
    ordered = torch.from_numpy(np.argsort(row_keys(features), kind="stable"))
    return features[
        ordered[
            torch.randperm(len(features), generator=make_generator(torch.device("cpu"), "some", seed))[:MAX_PRDC_IMAGES]
        ]
    ]


def _find_neighbours(features: Tensor, few: int) -> tuple[NearestNeighbours, Tensor]:
    """The neighbours among all rows (T, C), and which distinct vector each row is (T,).

    few  images of the smaller set: the longest lists are its own, for fewer of its neighbours are of it
    """
    _, where, which = np.unique(row_keys(features), return_index=True, return_inverse=True)
    points = features[torch.from_numpy(where)]
    points = points - points[0]  # or what is far from 0 would lose digits
    norms = points.square().sum(1)
    total = len(points)
    width = (
        total
        if total**2 <= MAX_STORED_NEIGHBOURS
        else min(4 * _choose_list_width(total, few), MAX_STORED_NEIGHBOURS // total)
    )
    step = max(1, DISTANCE_BLOCK_BYTES // (8 * total))

    def nearest(rows: Tensor) -> tuple[Tensor, Tensor]:
        apart, places = _squared_distances(points, norms, rows).topk(width, 1, largest=False)
        return places, apart

    found = map_parallel(nearest, torch.split(torch.arange(total), step), torch.device("cpu"))
    places, apart = (torch.cat(parts) for parts in zip(*found, strict=True))
    return NearestNeighbours(points, norms, places, apart), torch.from_numpy(which).view(-1)


def _choose_list_width(total: int, few: int) -> int:
    """How many neighbours to look at for K of `few` images among `total`: more than twice what it takes on average."""
    return min(total, 2 * (N_NEIGHBOURS + 2) * total // max(1, few))


def _count_vectors(which: Tensor, near: NearestNeighbours) -> Tensor:
    return torch.bincount(which, minlength=len(near.points))


def compute_prdc(near: NearestNeighbours, first: Tensor, second: Tensor) -> Tensor:
    """The four numbers (4,) of two sets, given as how many images of each every distinct vector is, (D,)."""
    sizes = (int(first.sum()), int(second.sum()))
    held, own, within = _count_in_balls(near, first, second)
    _, _, back = _count_in_balls(near, second, first)
    return torch.tensor(
        [
            int(second[within].sum()) / sizes[1],
            int(first[back].sum()) / sizes[0],
            float((first * held / own.clamp(min=1).double()).sum()) / sizes[1],
            int(first[held > 0].sum()) / sizes[0],
        ],
        dtype=torch.float64,
    )


def _count_in_balls(near: NearestNeighbours, mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many of theirs each ball of mine holds, and how many of mine beside its own image, (D,); and whether each
    vector lies in any of these balls, (D,)."""
    held, own = torch.zeros_like(mine), torch.ones_like(mine)
    within = torch.zeros(len(mine), dtype=torch.bool)
    for rows, places, inside in _iter_balls(near, mine):
        held[rows] = (theirs[places] * inside).sum(1)
        own[rows] = (mine[places] * inside).sum(1) - 1
        within.index_fill_(0, places[inside], True)
    return held, own, within


def _iter_balls(near: NearestNeighbours, mine: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Balls of mine: the vectors (R,) in their middle, neighbours (R, S) of each, and whether these lie inside."""
    rows, total = mine.nonzero()[:, 0], len(mine)
    k = min(N_NEIGHBOURS, int(mine.sum()) - 1)
    kept = near.places.shape[1]
    for width in sorted({min(_choose_list_width(total, len(rows)), kept), kept, total}):
        left = []
        for some in torch.split(rows, max(1, DISTANCE_BLOCK_BYTES // (8 * width))):
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
