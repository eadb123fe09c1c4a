"""FID, KID, precision, recall, density and coverage of two sets of vectors, and of random permutations of them.

Shapes: N + M images of both sets, C numbers an image, K ways to deal the images out to two sets.

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
from imgsubset.statistics.moments import MIN_RELATIVE_VARIANCE, row_keys
from imgsubset.statistics.rng import draw_permutation, make_generator

LARGE_FID_IMAGES = 5000  # in a set; of more there are fewer permutations
N_FID_PERMUTATIONS, N_FID_PERMUTATIONS_LARGE = 200, 20
KERNEL_BLOCK_BYTES = 64 << 20  # of the kernel that is held at once


def choose_permutation_count(first: int, second: int) -> int:
    """How many deals of sets of these sizes: one takes a singular value problem of up to 5,000 rows."""
    return N_FID_PERMUTATIONS_LARGE if max(first, second) > LARGE_FID_IMAGES else N_FID_PERMUTATIONS


def draw_assignments(first: int, second: int, seed: int, draws: int, device: torch.device) -> Tensor:
    """Which images are dealt to the first set (draws, N + M), bool."""
    total, few = first + second, min(first, second)
    drawn = [draw_permutation(seed, number, total, few, device) for number in range(draws)]
    rows = torch.zeros(draws, total, dtype=torch.bool, device=device).scatter_(1, torch.stack(drawn), True)
    return rows if few == first else ~rows


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The squared Frechet distance of the normals with the means and covariances of vectors (N, C) and (M, C), float64.

    |m_1 - m_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^1/2), covariances over n - 1: the FID (Heusel et al., NIPS 2017, equation
    6). With S = R^T R, Tr (S_1 S_2)^1/2 is the sum of the singular values of R_1 R_2^T, its nuclear norm. R is the
    centred vectors themselves, where they are no more than C: an N x M matrix instead of C x C ones, and no digit is
    lost to squares. Of more it is the triangle of their QR decomposition. The covariance of one image counts as 0.
    """
    return _frechet_between_normals(_fit_normal(first), _fit_normal(second))


def _fit_normal(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, trace of the covariance S, and an R with R^T R = S."""
    mean = vectors.mean(0)
    root = (vectors - mean) / max(1, len(vectors) - 1) ** 0.5
    trace = root.square().sum()
    return mean, trace, torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root


def _frechet_between_normals(one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]) -> float:
    shared = torch.linalg.svdvals(one[2] @ other[2].T).sum()
    return float(((one[0] - other[0]).square().sum() + one[1] + other[1] - 2 * shared).clamp(min=0))


def compute_subset_fids(features: Tensor, rows: Tensor, seed: int) -> Tensor:
    """The FID of some of the vectors (N, C) from all of them, then those of random subsets of the size (1 + draws,)."""
    features = features.double().cpu()
    total, n, whole = len(features), len(rows), _fit_normal(features)

    def of(number: int) -> float:
        drawn = torch.randperm(total, generator=make_generator(features.device, "fid", seed, number))[:n]
        return _frechet_between_normals(whole, _fit_normal(features[drawn if number >= 0 else rows.cpu()]))

    draws = range(-1, choose_permutation_count(total, n))
    return torch.tensor(map_parallel(of, draws, features.device), dtype=torch.float64)


def compute_permuted_fids(features: Tensor, dealt: Tensor) -> Tensor:
    """The FID (K,), float64, of vectors (N + M, C) dealt out in ways (K, N + M)."""
    features, dealt = features.double().cpu(), dealt.cpu()

    def of(which: Tensor) -> float:
        return frechet_distance(features[which], features[~which])

    return torch.tensor(map_parallel(of, list(dealt), features.device), dtype=torch.float64)


def compute_permuted_kids(features: Tensor, dealt: Tensor) -> Tensor:
    """The KID (K,), float64, of vectors (N + M, C) dealt out in ways (K, N + M): the unbiased squared maximum mean
    discrepancy with the kernel (x . y / C + 1)^3 (Binkowski et al., ICLR 2018; Gretton et al., JMLR 2012, equation 3).

    It is of all images at once. Others average it over random subsets of 1,000, which has the same expectation, and
    more noise. It may be below 0. Needs two images in each set.
    """
    features, ways = features.double(), dealt.double()
    within, sums, diagonal = features.new_zeros(len(ways)), [], []
    step = max(1, KERNEL_BLOCK_BYTES // (8 * len(features)))
    for rows in torch.split(torch.arange(len(features), device=features.device), step):
        kernel = (features[rows] @ features.T / features.shape[1] + 1) ** 3
        within += ((kernel @ ways.T).T * ways[:, rows]).sum(1)
        sums.append(kernel.sum(1))
        diagonal.append(kernel.gather(1, rows[:, None])[:, 0])
    all_sums, own = torch.cat(sums), torch.cat(diagonal)
    size, of_first, own_first = ways.sum(1), ways @ all_sums, ways @ own
    other = len(features) - size
    across = of_first - within
    rest = all_sums.sum() - of_first - across
    return (
        (within - own_first) / (size * (size - 1))
        + (rest - (own.sum() - own_first)) / (other * (other - 1))
        - 2 * across / (size * other)
    )


PRDC_NAMES = ("precision", "recall", "density", "coverage")
N_NEIGHBOURS = (
    5  # Naeem et al.: coverage of samples of one distribution is 1 - 2^-k, near enough to 1 to show what is missing
)
MAX_PRDC_IMAGES = 5000  # images of a set: distances grow with the square
LARGE_PRDC_IMAGES = 2000  # in both sets; of more there are fewer permutations, since they vary less
N_PRDC_PERMUTATIONS, N_PRDC_PERMUTATIONS_LARGE = 1000, 200
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
