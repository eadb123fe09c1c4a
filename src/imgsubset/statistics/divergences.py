"""Five divergences of a subset from its source, as functions of their moments, and the weighted mix of them.

The first four compare, channel by channel, the normal distributions with the subset's and the source's mean and
variance, after the affine map that takes the source's to N(0, 1); they are averaged over channels. The fifth
compares the images' feature vectors and is multivariate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from imgsubset.devices import map_parallel
from imgsubset.statistics.moments import Moments

# A channel that varies less than this in a subset, in units of the source's variance, counts as varying this much:
# KL diverges for constant images, and finite values can be ranked.
MIN_VARIANCE = 1e-6
EIGEN_BATCH = 16  # matrices
QUADRATURE_NODES, QUADRATURE_WEIGHTS = np.polynomial.hermite_e.hermegauss(32)  # of E[f(t)] for t ~ N(0, 1)
QUADRATURE_WEIGHTS /= QUADRATURE_WEIGHTS.sum()


def _relative_moments(subset: Moments, source: Moments) -> tuple[Tensor, Tensor]:
    """Mean m and variance v of the subset, (..., C), in units in which the source is N(0, 1)."""
    mean = (subset.mean - source.mean) / source.var.sqrt()
    return mean, (subset.var / source.var).clamp(min=MIN_VARIANCE)


def _mean_over_channels(values: Tensor) -> Tensor:
    return values.mean(-1) if values.shape[-1] else values.sum(-1)


def kl(subset: Moments, source: Moments) -> Tensor:
    """KL(source || subset), nats, in [0, inf): ln s + (1 + m^2) / (2 v) - 1/2.

    The direction that punishes a subset for missing a part of the source.
    """
    m, v = _relative_moments(subset, source)
    # log1p and this order keep the difference of nearly equal terms exact near v = 1.
    return _mean_over_channels((torch.log1p(v - 1) + (m**2 - (v - 1)) / v) / 2).clamp(min=0)


def js(subset: Moments, source: Moments) -> Tensor:
    """Jensen-Shannon divergence, base 2, in [0, 1] (Lin, IEEE Trans. Inf. Theory 1991), by Gauss-Hermite quadrature.

    There is no closed form for two normals. With P the wider and Q the narrower, and r = Q / P,

        JS = 1 - E_Q[log(1 + r) / r + log(1 + 1 / r)] / (2 ln 2),

    so that one set of nodes, on the narrower of the two, serves both halves; log r is quadratic in the node.
    """
    m, v = _relative_moments(subset, source)
    s = v.sqrt()
    m, s = torch.where(s > 1, m / s, m)[..., None], torch.where(s > 1, 1 / s, s)[..., None]
    nodes, weights = (torch.as_tensor(array, device=m.device) for array in (QUADRATURE_NODES, QUADRATURE_WEIGHTS))
    log_ratio = (m + s * nodes).square_().sub_(nodes**2).div_(2).sub_(s.log())
    inverse = (-log_ratio).exp_()
    log1p = inverse.log1p()  # log(1 + 1 / r), and log(1 + r) is log r more
    integrand = log_ratio.add_(log1p).mul_(inverse).add_(log1p)
    return _mean_over_channels(1 - integrand @ weights / (2 * math.log(2))).clamp(0, 1)


def wasserstein(subset: Moments, source: Moments) -> Tensor:
    """Squared 2-Wasserstein distance, in units of the source's variance, in [0, inf): m^2 + (s - 1)^2."""
    m, v = _relative_moments(subset, source)
    return _mean_over_channels(m**2 + (v.sqrt() - 1) ** 2)


def hellinger(subset: Moments, source: Moments) -> Tensor:
    """Squared Hellinger distance, in [0, 1]: 1 - sqrt(2 s / (1 + v)) exp(-m^2 / (4 (1 + v)))."""
    m, v = _relative_moments(subset, source)
    # 2 s / (1 + v) = 1 - (1 - s)^2 / (1 + v), and expm1 and log1p, keep small distances exact.
    log_affinity = torch.log1p(-((1 - v.sqrt()) ** 2) / (1 + v)) / 2 - m**2 / (4 * (1 + v))
    return _mean_over_channels(-torch.expm1(log_affinity))


def frechet(subset: Moments, source: Moments) -> Tensor:
    """Squared Frechet distance of the normals with the feature vectors' mean and covariance, in [0, inf).

    |m|^2 + Tr(Sigma + Sigma_src - 2 (Sigma_src^1/2 Sigma Sigma_src^1/2)^1/2), the form FID uses (Dowson & Landau,
    J. Multivariate Analysis 1982; Heusel et al., NIPS 2017). The root of the matrix is the sum of the roots of its
    eigenvalues, and these are those of B Sigma B^T with B^T B = Sigma_src: symmetric, and without the
    directions in which the source does not vary, whose rounding errors would be magnified by the root. The source is
    within 1e-9 of itself, unless the eigenvalues of Sigma_src spread over more than seven decades: then within 2e-8.
    """
    root = source.cov_root
    return _frechet_from_squares(subset, source, _eigenvalues(root @ subset.cov @ root.mT))


def _eigenvalues(matrices: Tensor) -> Tensor:
    """Of symmetric matrices (..., C, C): (..., C).

    Those of a GPU are left to the CPU's threads: cuSOLVER takes larger ones than 32 x 32 one by one, milliseconds each.
    """
    found: Tensor
    if matrices.device.type == "cpu" or matrices.dim() < 3:
        found = torch.linalg.eigvalsh(matrices)
        return found
    here = matrices.flatten(0, -3).cpu()
    found = torch.cat(map_parallel(torch.linalg.eigvalsh, torch.split(here, EIGEN_BATCH), here.device))
    return found.to(matrices.device).view(matrices.shape[:-1])


def frechet_bound(subset: Moments, source: Moments) -> Tensor:
    """A lower bound of `frechet`, exact in the mean, at a tenth of its price: no eigenvalues.

    The diagonal of a symmetric matrix is majorised by its eigenvalues (Schur 1923), and the root is concave, so the
    roots of the diagonal sum to no less than the roots of the eigenvalues.
    """
    root = source.cov_root
    return _frechet_from_squares(subset, source, (root @ subset.cov * root).sum(-1))


def _frechet_from_squares(subset: Moments, source: Moments, squares: Tensor) -> Tensor:
    """The distance, given numbers whose roots sum to the trace of the root of the product."""
    own, other = (moments.cov.diagonal(dim1=-2, dim2=-1).sum(-1) for moments in (subset, source))
    trace = own + other - 2 * squares.clamp(min=0).sqrt().sum(-1)
    return ((subset.mean - source.mean).square().sum(-1) + trace).clamp(min=0)


DIVERGENCES: dict[str, Callable[[Moments, Moments], Tensor]] = {
    function.__name__: function for function in (kl, js, wasserstein, hellinger, frechet)
}


def compute_divergences(subset: Moments, source: Moments) -> Tensor:
    """All divergences, (..., 5), in the order of DIVERGENCES."""
    return torch.stack([divergence(subset, source) for divergence in DIVERGENCES.values()], -1)


def compute_weighted_divergence(subset: Moments, source: Moments, coefficients: dict[str, float]) -> Tensor:
    """The weighted sum of the divergences that `coefficients` names, (...,)."""
    total = subset.mean.new_zeros(subset.mean.shape[:-1])
    for name, coefficient in coefficients.items():
        total += coefficient * DIVERGENCES[name](subset, source)
    return total
