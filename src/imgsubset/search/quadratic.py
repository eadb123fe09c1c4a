"""The mix of divergences to second order, as a squared distance between means.

Near the source every divergence is quadratic in a subset's moments, so that the calibrated loss is

    loss(S) ~ |mean of z over S|^2,    z = (mu b_c,  kappa (q_c - 1),  pair_cd (b_c b_d - lambda_c [c = d]))

with b the image's feature vector in the eigenbasis of the source's covariance and lambda its eigenvalues. An exchange
then changes the loss by inner products of z alone: matching the source is kernel herding (Welling, ICML 2009) with
this kernel. z has about 2 C + C^2 / 2 numbers and is made only for the few rows that a step looks at.

Shapes: N images, C channels, Z numbers in z, K = C // 2 + 1 cyclic diagonals, R chains, n members.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from imgsubset.devices import single_threaded
from imgsubset.statistics.moments import ImageMoments
from imgsubset.statistics.objective import LossTerm, Objective

# Coefficients of m^2 and (v - 1)^2 in the divergences that are averaged over channels.
CURVATURE = {
    "kl": (1 / 2, 1 / 4),
    "js": (1 / 8 / math.log(2), 1 / 16 / math.log(2)),
    "wasserstein": (1.0, 1 / 4),
    "hellinger": (1 / 8, 1 / 16),
}
EMBEDDED_BYTES = 8 << 20  # of z at once when a whole subset is summed: what a cache holds
MIN_EIGENVALUE = 1e-6  # of the largest: a direction in which the source does not vary has nothing to match


@dataclass(frozen=True)
class Part:
    """The second-order form of the loss of one block.

    images        standardised, with the table (N, 2 C)
    basis         (C, C) float32, eigenvectors of the source's covariance in columns
    mean_scale    mu
    square_scale  kappa
    pair_scale    (K, C) float32, entry (k, c) for the pair c, (c + k) mod C; no rows without the Frechet distance
    pair_center   (K, C) float32, the source's mean of the scaled products
    """

    images: ImageMoments
    basis: Tensor
    mean_scale: float
    square_scale: float
    pair_scale: Tensor
    pair_center: Tensor

    def embed(self, rows: Tensor) -> list[Tensor]:
        """The block's numbers of z of these rows (...,): parts (..., W) float32, of any widths."""
        means, squares = self.images.table[rows].chunk(2, -1)
        rotated = means @ self.basis
        parts = [rotated * self.mean_scale, (squares - 1) * self.square_scale]
        if len(self.pair_scale):
            # The cyclic diagonals of b b^T hold each unordered pair once and are strided views: half the numbers
            # of the product, and no gather, which would cost more than the products.
            count, channels = self.pair_scale.shape
            shifted = torch.cat([rotated, rotated], -1).unfold(-1, channels, 1)[..., :count, :]
            products = shifted * rotated[..., None, :] * self.pair_scale - self.pair_center
            parts.append(products.flatten(-2))
        return parts


@dataclass(frozen=True)
class Quadratic:
    """The second-order form of a loss: z = (sqrt(w_1) z_1, ..., sqrt(w_B) z_B), a part for each block."""

    parts: tuple[Part, ...]

    def __len__(self) -> int:
        """N"""
        return len(self.parts[0].images)

    @property
    def width(self) -> int:
        """Z"""
        return sum(2 * part.images.channels + part.pair_scale.numel() for part in self.parts)

    def embed(self, rows: Tensor) -> Tensor:
        """z of these rows (...,), as (..., Z) float32."""
        return torch.cat([piece for part in self.parts for piece in part.embed(rows)], -1)

    def residual(self, members: Tensor) -> Tensor:
        """Mean of z over each subset (R, n), summed in float64: (R, Z). Its squared length is the loss."""
        columns = torch.split(members, max(1, EMBEDDED_BYTES // (4 * self.width * len(members))), 1)
        sums = (self.embed(some).sum(1, dtype=torch.float64) for some in columns)
        return reduce(torch.add, sums) / members.shape[1]


def quadratic_form(objective: Objective) -> Quadratic:
    """The second-order form of an objective."""
    return Quadratic(tuple(_part(term) for term in objective.terms))


def _part(term: LossTerm) -> Part:
    images, channels = term.block.images, term.block.images.channels
    coefficients = {name: term.block.weight * value for name, value in term.coefficients.items()}
    frechet = coefficients.get("frechet", 0.0)
    averaged = {name: value / max(channels, 1) for name, value in coefficients.items() if name in CURVATURE}
    with single_threaded():  # the last bits of LAPACK's eigenvectors depend on the number of threads
        eigenvalues, basis = torch.linalg.eigh(term.source.cov.cpu())
    scale, center = _pairs(eigenvalues.clamp(min=0), frechet)
    device = images.table.device
    return Part(
        images=images,
        basis=basis.float().to(device),
        mean_scale=math.sqrt(sum(CURVATURE[name][0] * value for name, value in averaged.items()) + frechet),
        square_scale=math.sqrt(sum(CURVATURE[name][1] * value for name, value in averaged.items())),
        pair_scale=scale.float().to(device),
        pair_center=center.float().to(device),
    )


def _pairs(eigenvalues: Tensor, frechet: float) -> tuple[Tensor, Tensor]:
    """Scale and center (K, C) of each product b_c b_d in cyclic order, for 1/2 sum_cd (dSigma_cd)^2 / (l_c + l_d)."""
    channels = len(eigenvalues)
    if not frechet:
        return eigenvalues.new_zeros(0, channels), eigenvalues.new_zeros(0, channels)
    floored = eigenvalues.clamp(min=max(float(eigenvalues[-1]) * MIN_EIGENVALUE, 1e-12))
    weight = frechet / (floored + torch.stack([floored.roll(-shift) for shift in range(channels // 2 + 1)]))
    weight[0] /= 2  # the sum runs over ordered pairs, of which a diagonal entry is one and any other two
    if channels % 2 == 0:
        weight[-1] /= 2  # the last diagonal of an even number of channels holds each pair twice
    scale = weight.sqrt()
    center = torch.zeros_like(scale)
    center[0] = scale[0] * eigenvalues
    return scale, center
