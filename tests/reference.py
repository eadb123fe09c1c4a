"""The formulas once more, slowly: loops, quadrature and scipy, in float64, sharing no code with the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, linalg, stats

Array = NDArray[np.float64]


def random_maps(count: int, channels: int, side: int, seed: int) -> Array:
    """Feature maps (N, C, h, w) of images that differ, with channels that are correlated, of unequal mean and scale."""
    rng = np.random.default_rng(seed)
    blend = rng.normal(size=(channels, channels)) + 2 * np.eye(channels)
    maps = rng.normal(size=(count, channels, side, side)) + rng.normal(size=(count, channels, 1, 1))
    maps = np.einsum("ck,nkhw->nchw", blend, maps)
    scale = rng.uniform(0.5, 3, size=(channels, 1, 1))
    return maps * scale + rng.normal(size=(channels, 1, 1))


def set_moments(maps: Array) -> tuple[Array, Array, Array]:
    """Mean (C,), variance (C,) over all positions of all images, covariance (C, C) of the images' means: two passes."""
    count, channels, height, width = maps.shape
    mean = np.zeros(channels)
    features = np.zeros((count, channels))
    for image in range(count):
        for y in range(height):
            for x in range(width):
                features[image] += maps[image, :, y, x] / (height * width)
        mean += features[image] / count
    var = np.zeros(channels)
    cov = np.zeros((channels, channels))
    for image in range(count):
        cov += np.outer(features[image] - mean, features[image] - mean) / count
        for y in range(height):
            for x in range(width):
                var += (maps[image, :, y, x] - mean) ** 2 / (count * height * width)
    return mean, var, cov


def standardised(maps: Array) -> Array:
    """The maps, every channel with mean 0 and variance 1 over all positions of all images."""
    mean, var, _ = set_moments(maps)
    return (maps - mean[:, None, None]) / np.sqrt(var)[:, None, None]


def convolve(maps: Array, weight: Array, stride: int) -> Array:
    """Cross-correlation of maps (K, H, W) with weight (O, K, k, k), padded by zeros on every side by k // 2."""
    outputs, _, kernel, _ = weight.shape
    half = kernel // 2
    padded = np.pad(maps, ((0, 0), (half, half), (half, half)))
    height, width = (-(-side // stride) for side in maps.shape[1:])
    result = np.zeros((outputs, height, width))
    for y in range(height):
        for x in range(width):
            window = padded[:, stride * y : stride * y + kernel, stride * x : stride * x + kernel]
            for output in range(outputs):
                result[output, y, x] = (window * weight[output]).sum()
    return result


def _log_normal(x: float, mean: float, sd: float) -> float:
    return -(((x - mean) / sd) ** 2) / 2 - math.log(sd) - math.log(2 * math.pi) / 2


def _over_line(function: Callable[[float], float], normals: Iterable[tuple[float, float]]) -> float:
    """Integral of a function that lives where these normals (mean, sd) do."""
    cuts = sorted({mean + k * sd for mean, sd in normals for k in (-14, -6, -3, -1, 0, 1, 3, 6, 14)})
    return math.fsum(
        integrate.quad(function, low, high, epsabs=1e-15, epsrel=1e-11, limit=200)[0] for low, high in pairwise(cuts)
    )


def kl_by_quadrature(mean: float, sd: float, source_mean: float = 0.0, source_sd: float = 1.0) -> float:
    """KL(source || subset) in nats."""

    def integrand(x: float) -> float:
        source = _log_normal(x, source_mean, source_sd)
        return math.exp(source) * (source - _log_normal(x, mean, sd))

    return _over_line(integrand, [(source_mean, source_sd)])


def js_by_quadrature(mean: float, sd: float, source_mean: float = 0.0, source_sd: float = 1.0) -> float:
    """Jensen-Shannon divergence in bits."""

    def integrand(x: float) -> float:
        p, q = _log_normal(x, source_mean, source_sd), _log_normal(x, mean, sd)
        middle = float(np.logaddexp(p, q)) - math.log(2)
        return (math.exp(p) * (p - middle) + math.exp(q) * (q - middle)) / (2 * math.log(2))

    return _over_line(integrand, [(source_mean, source_sd), (mean, sd)])


def hellinger_by_quadrature(mean: float, sd: float, source_mean: float = 0.0, source_sd: float = 1.0) -> float:
    """Squared Hellinger distance, half the integral of (sqrt p - sqrt q)^2."""

    def integrand(x: float) -> float:
        p, q = _log_normal(x, source_mean, source_sd), _log_normal(x, mean, sd)
        return (math.exp(p / 2) - math.exp(q / 2)) ** 2 / 2

    return _over_line(integrand, [(source_mean, source_sd), (mean, sd)])


def wasserstein_by_quadrature(mean: float, sd: float, source_mean: float = 0.0, source_sd: float = 1.0) -> float:
    """Squared 2-Wasserstein distance in units of the source's variance: optimal transport matches the quantiles."""

    def integrand(z: float) -> float:
        u = stats.norm.cdf(z)  # the level; integrated over z, whose density is du / dz
        if not 0 < u < 1:
            return 0.0
        source = stats.norm.ppf(u, source_mean, source_sd)
        return ((stats.norm.ppf(u, mean, sd) - source) / source_sd) ** 2 * math.exp(_log_normal(z, 0, 1))

    # Both halves by the lower tail, where levels do not round to 1; z -> -z mirrors the normals.
    lower = integrate.quad(integrand, -14, 0, epsabs=1e-14, epsrel=1e-10, limit=200)[0]
    mean, source_mean = -mean, -source_mean
    return lower + integrate.quad(integrand, -14, 0, epsabs=1e-14, epsrel=1e-10, limit=200)[0]


def frechet_by_root(mean: Array, cov: Array, source_mean: Array, source_cov: Array) -> float:
    """The formula as FID has it, by a general matrix square root; good for covariances of full rank."""
    root = np.real(linalg.sqrtm(source_cov @ cov))
    return float(((mean - source_mean) ** 2).sum() + np.trace(cov + source_cov - 2 * root))


def frechet_of_rows(rows: Array, source_rows: Array) -> float:
    """From the feature vectors themselves, of any rank: Tr (S1^1/2 S2 S1^1/2)^1/2 is the nuclear norm of X2 X1^T."""
    mean, source_mean = rows.mean(0), source_rows.mean(0)
    x, y = (rows - mean) / math.sqrt(len(rows)), (source_rows - source_mean) / math.sqrt(len(source_rows))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(((mean - source_mean) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * cross)


def five(maps: Array, source_maps: Array) -> dict[str, float]:
    """The divergences of a set of feature maps from another, by the names they are reported under."""
    mean, var, _ = set_moments(maps)
    source_mean, source_var, _ = set_moments(source_maps)
    normals = np.stack([mean, np.sqrt(var), source_mean, np.sqrt(source_var)], 1)
    values = {
        name: float(np.mean([function(*normal) for normal in normals]))
        for name, function in (
            ("kl", kl_by_quadrature),
            ("js", js_by_quadrature),
            ("wasserstein", wasserstein_by_quadrature),
            ("hellinger", hellinger_by_quadrature),
        )
    }
    return {**values, "frechet": frechet_of_rows(maps.mean((2, 3)), source_maps.mean((2, 3)))}


def noised_moments(maps: Array, alpha: float, sigma2: float, draws: int, seed: int) -> tuple[Array, Array, Array]:
    """Means (R, C), variances (R, C), covariances (R, C, C) of the maps, all positions moved by noise, R times."""
    rng = np.random.default_rng(seed)
    positions = maps.transpose(0, 2, 3, 1).reshape(len(maps), -1, maps.shape[1])  # n, L, C
    noised = alpha * positions + math.sqrt(sigma2) * rng.normal(size=(draws, *positions.shape))
    features = noised.mean(2)
    mean = features.mean(1)
    var = noised.var((1, 2))
    spread = features - mean[:, None]
    return mean, var, np.einsum("rnc,rnd->rcd", spread, spread) / len(maps)


def worst_disagreement(draws: Array, others: Array) -> float:
    """How many standard errors lie at most between two samples (R, K), over all their means and covariances."""
    worst = []
    for statistic in (lambda x: x, _centred_products):
        a, b = statistic(draws), statistic(others)
        error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
        # What does not vary at all must agree but for rounding.
        worst.append((np.abs(a.mean(0) - b.mean(0)) / (error + 1e-9)).max())
    return float(np.max(worst))  # not a number, if one is


def _centred_products(draws: Array) -> Array:
    centred = draws - draws.mean(0)
    upper = np.triu_indices(draws.shape[1])
    return centred[:, upper[0]] * centred[:, upper[1]]


def mean_error(values: Sequence[float] | Array) -> float:
    """Standard error of the mean of independent values."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))
