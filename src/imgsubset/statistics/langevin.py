"""Langevin noise on feature maps, drawn exactly on the moments: no pixel and no feature map is touched.

Every position of every feature map moves by the exact transition of an Ornstein-Uhlenbeck process over a time t
with friction gamma and temperature kT (Uhlenbeck & Ornstein, Phys. Rev. 1930),

    x' = alpha x + sigma xi,    alpha = exp(-gamma t),    sigma^2 = kT (1 - alpha^2),

of which x += -gamma x dt + sqrt(2 gamma kT dt) xi is the discretised chain. In standardised units the source is
stationary under kT = 1. The moments of a set of images after that are sums of squares of normals, whose
distributions are known: normal, noncentral Wishart and noncentral chi-square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from imgsubset.statistics.moments import Moments


@dataclass(frozen=True)
class Langevin:
    """The noise: the temperature kT at the start of a search, in units of the source's variance; the friction
    gamma, per unit of time; the time t. The defaults are one step dt = 0.1 of the chain with gamma = kT = 1."""

    temperature: float = 1.0
    friction: float = 1.0
    time: float = 0.1

    def coefficients(self, temperature: float) -> tuple[float, float]:
        """alpha and sigma^2 at this temperature."""
        alpha = math.exp(-self.friction * self.time)
        return alpha, temperature * -math.expm1(-2 * self.friction * self.time)


def noised_source(source: Moments, positions: int, alpha: float, sigma2: float) -> Moments:
    """The expected moments of the source under the noise; its N images leave next to no fluctuation."""
    cov = alpha**2 * source.cov
    cov.diagonal().add_(sigma2 / positions)
    return Moments(alpha * source.mean, alpha**2 * source.var + sigma2, cov)


def noised_subsets(
    subsets: Moments,
    n: int,
    positions: int,
    alpha: float,
    sigma2: float,
    generator: Generator,
    vectors: Tensor | None = None,
) -> Moments:
    """Draw the moments (K, ...) of K sets of n images, `positions` = L a map, after the noise.

    vectors  (K, n, C) their feature vectors; wanted where n <= C, and not used elsewhere

    m' = alpha m + sigma / sqrt(n L) N(0, I);  n Sigma' is noncentral Wishart;
    v' = diag(Sigma') + sigma^2 / (n L) chi2'(n (L - 1), alpha^2 n L (v - diag Sigma) / sigma^2).
    """
    if sigma2 == 0:
        return Moments(alpha * subsets.mean, alpha**2 * subsets.var, alpha**2 * subsets.cov)
    like = subsets.mean
    mean = alpha * like + math.sqrt(sigma2 / (n * positions)) * _normal(like.shape, like, generator)
    # float32 halves the time of the matrices, and its rounding is nothing beside the noise.
    tau = math.sqrt(sigma2 / positions)
    if n > like.shape[-1]:
        scatter = _noncentral_wishart(subsets.cov.float(), n, alpha, tau, generator)
    else:
        assert vectors is not None
        scatter = _scatter_of_rows(vectors, alpha, tau, generator)
    cov = scatter.double() / n
    within = subsets.var - subsets.cov.diagonal(dim1=-2, dim2=-1)  # the mean variance inside an image
    spread = torch.zeros_like(within)
    if positions > 1:
        shift = (alpha**2 * n * positions / sigma2 * within.clamp(min=0)).sqrt()
        spread = (_normal(within.shape, like, generator) + shift) ** 2
        if n * (positions - 1) > 1:
            spread += _chi2(torch.full_like(within, n * (positions - 1) - 1), generator)
    var = cov.diagonal(dim1=-2, dim2=-1) + sigma2 / (n * positions) * spread
    return Moments(mean, var, cov)


def _noncentral_wishart(cov: Tensor, n: int, alpha: float, tau: float, generator: Generator) -> Tensor:
    """Draw the scatter (K, C, C) of n > C rows alpha a_i + tau xi_i around their mean, given the covariance of the a_i.

    With R^T R = n Sigma the rows can be turned so that only C of them have a mean, alpha R; the n - 1 - C others are a
    central Wishart matrix, drawn by the Bartlett decomposition.
    """
    channels = cov.shape[-1]
    rows = _normal(cov.shape, cov, generator).mul_(tau).add_(_scatter_root(n * cov), alpha=alpha)
    if n - 1 > channels:
        rows = torch.cat([rows, _wishart_rows(n - 1 - channels, cov, generator).mul_(tau)], -2)
    return rows.transpose(-2, -1) @ rows


def _scatter_of_rows(vectors: Tensor, alpha: float, tau: float, generator: Generator) -> Tensor:
    """The same of a few rows, by the noise itself: the root of a matrix without full rank is a matter of rounding."""
    rows = _normal(vectors.shape, vectors, generator).mul_(tau).add_(vectors, alpha=alpha)
    rows -= rows.mean(-2, keepdim=True)
    return rows.mT @ rows


def _scatter_root(scatter: Tensor) -> Tensor:
    """R (K, C, C) with R^T R = scatter (K, C, C)."""
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(scatter, upper=True)
    if failed.any():
        # Repeated images and channels that repeat each other leave directions without variance. In float64 and on the
        # CPU, as solvers on GPUs fail for such matrices.
        values, vectors = (part.to(scatter) for part in torch.linalg.eigh(scatter.double().cpu()))
        root = values[..., None].clamp(min=0).sqrt() * vectors.mT
    return root


def _wishart_rows(degrees: int, like: Tensor, generator: Generator) -> Tensor:
    """Rows (K, min(degrees, C), C), of the type of `like`, whose scatter is drawn from Wishart(degrees, I)."""
    channels = like.shape[-1]
    if degrees < channels:  # the Bartlett decomposition needs at least C degrees of freedom
        return _normal((*like.shape[:-2], degrees, channels), like, generator)
    upper = _normal(like.shape, like, generator).triu_(1)
    freedom = degrees - torch.arange(channels, dtype=like.dtype, device=like.device)
    upper.diagonal(dim1=-2, dim2=-1).copy_(_chi2(freedom.expand(like.shape[:-1]), generator).sqrt())
    return upper


def _chi2(degrees: Tensor, generator: Generator) -> Tensor:
    # The public torch.distributions.Chi2 calls the same function, but takes no generator.
    return 2 * torch._standard_gamma(degrees / 2, generator=generator)


def _normal(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
