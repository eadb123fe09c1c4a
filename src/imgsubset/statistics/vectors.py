"""Two sets of feature vectors as they are, not standardised: the FID and the KID, and both of random deals.

Shapes: N + M images of both sets, C numbers an image, K ways to deal the images out to two sets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from imgsubset.devices import map_parallel
from imgsubset.statistics.dice import draw_permutation, make_generator

N_FID_PERMUTATIONS, N_FID_PERMUTATIONS_LARGE, LARGE_FID_IMAGES = (
    200,
    20,
    5000,
)  # deals; of more than so many images of a set fewer
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
