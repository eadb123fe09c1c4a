"""Langevin noise, drawn on the moments, against the chain that it stands for; and what it does to a search.

A search ranks subsets of images under noise on their feature maps. Each number x of each map follows the chain

    x += -gamma x dt + sqrt(2 gamma kT dt) xi,      gamma the friction, kT the temperature, xi normal

for a time t. All that a search reads off the maps of a subset are a few moments: of each channel the mean m and the
variance v, and the covariance Sigma of the images' means. `imgsubset.statistics.langevin` draws these after the noise
without touching a map. Here both are done a thousand times, and their distributions are compared by the two-sample
Kolmogorov-Smirnov statistic: the greatest difference of two distribution functions, 0 to 1.

Then pictures are chosen from a folder at several temperatures and frictions. The temperature is held here, where
imgsubset lets it fall to 0 as the search goes on.

    python examples/langevin.py [FOLDER] --out langevin.png
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

import torch
from common import COLOURS, bar, parser, pictures, run, table, to_bytes, write
from matplotlib.figure import Figure
from scipy.stats import ks_2samp
from torch import Tensor

from imgsubset import select
from imgsubset.features.random_cnn import RandomCNN
from imgsubset.statistics.langevin import Langevin, noised_subsets
from imgsubset.statistics.moments import Moments

IMAGES, CHANNELS = 16, (16, 4)  # of the subset whose maps are noised; of the network's layers
NOISE = Langevin(temperature=1.0, friction=1.0, time=1.0)
STEPS = (0.5, 0.1, 0.02, 0.004)  # dt
TEMPERATURES, FRICTIONS = (0.1, 1.0, 10.0, 100.0, 1000.0), (0.1, 1.0, 10.0)


def moments(maps: Tensor) -> Moments:
    """m (R, C), v (R, C), Sigma (R, C, C) of R sets of maps (R, n, C, L)."""
    maps = maps.double()
    means, mean = maps.mean(3), maps.mean((1, 3))
    var = maps.square().mean((1, 3)) - mean**2
    return Moments(mean, var, means.mT @ means / maps.shape[1] - mean[:, :, None] * mean[:, None, :])


def flat(some: Moments) -> Tensor:
    """All of m, then v, then the upper triangle of Sigma: (R, Z)."""
    rows, columns = torch.triu_indices(*some.cov.shape[1:])
    return torch.cat([some.mean, some.var, some.cov[:, rows, columns]], 1).cpu()


def chained(maps: Tensor, dt: float, repeats: int, generator: torch.Generator) -> Tensor:
    """Moments (repeats, Z) after the chain, which changes every number of the maps (n, C, L) at every step."""
    gamma, found = NOISE.friction, []
    for some in bar(torch.arange(repeats).split(50), f"chain, dt = {dt}"):
        x = maps.repeat(len(some), 1, 1, 1)
        for _ in range(round(NOISE.time / dt)):
            xi = torch.randn(x.shape, generator=generator, device=x.device)
            x += -gamma * x * dt + math.sqrt(2 * gamma * NOISE.temperature * dt) * xi
        found.append(flat(moments(x)))
    return torch.cat(found)


def drawn(maps: Tensor, repeats: int, generator: torch.Generator) -> Tensor:
    """Moments (repeats, Z) after the noise, drawn from those before it."""
    before = moments(maps[None])
    start = Moments(*(part.repeat(repeats, *[1] * (part.ndim - 1)) for part in (before.mean, before.var, before.cov)))
    vectors = maps.mean(2).repeat(repeats, 1, 1)
    alpha, sigma2 = NOISE.coefficients(NOISE.temperature)
    return flat(noised_subsets(start, len(maps), maps.shape[2], alpha, sigma2, generator, vectors))


def agreement(one: Tensor, other: Tensor) -> list[float]:
    """The median and the largest KS statistic over moments (R, Z), and the share that differ at p < 0.05."""
    found = [ks_2samp(a, b) for a, b in zip(one.T.numpy(), other.T.numpy(), strict=True)]
    statistic = [float(each.statistic) for each in found]
    return [statistics.median(statistic), max(statistic), sum(each.pvalue < 0.05 for each in found) / len(found)]


def searched(
    folder: Path, n: int, seeds: int, options: argparse.Namespace
) -> dict[tuple[float, float], tuple[float, float]]:
    """By friction and temperature the median loss over seeds: of the best random draw, and after the exchanges."""
    found = {}
    for gamma, temperature in bar([(gamma, kT) for gamma in FRICTIONS for kT in TEMPERATURES], "search"):
        losses = []
        for seed in range(seeds):
            chosen = select(folder, n, seed=seed, temperature=temperature, friction=gamma, schedule="hold",
                            networks=1, candidates=512, steps=40, device=str(options.device), workers=0,
                            cache=str(folder.parent / "cache"))  # fmt: skip
            drawn = [point.best for point in chosen.trace if point.method == "draws"]
            losses.append((drawn[-1], chosen.trace[-1].best))
        best, after = (statistics.median(column) for column in zip(*losses, strict=True))
        found[gamma, temperature] = best, after
    return found


def experiment(options: argparse.Namespace) -> Figure:
    repeats, count, n, seeds, steps = (200, 60, 12, 1, STEPS[:2]) if options.tiny else (1000, 500, 50, 5, STEPS)
    images = pictures(options.folder, count, 32, options.seed).to(options.device)
    maps = RandomCNN(CHANNELS, activation="leaky").to(options.device)(
        torch.from_numpy(to_bytes(images)).to(images.device)
    )
    maps = (maps - maps.mean((0, 2, 3), keepdim=True)) / maps.std((0, 2, 3), keepdim=True)
    subset = maps[:IMAGES].flatten(2)
    one, other, third = (torch.Generator(options.device).manual_seed(3 * options.seed + k) for k in range(3))
    by_moments = drawn(subset, repeats, one)
    chains = {dt: chained(subset, dt, repeats, other) for dt in steps}
    rows = [[f"chain, dt = {dt}", round(NOISE.time / dt), *agreement(by_moments, ends)] for dt, ends in chains.items()]
    rows += [["drawn again", "", *agreement(by_moments, drawn(subset, repeats, third))]]
    print(table(["against the draws", "steps", "median KS", "largest KS", "share with p < 0.05"], rows), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        losses = searched(write(images, Path(name) / "pictures"), n, seeds, options)
    head = ["loss", *(f"kT = {kT:g}" for kT in TEMPERATURES)]
    print(table(head, [[f"gamma = {gamma:g}, {what}", *(losses[gamma, kT][k] for kT in TEMPERATURES)]
                       for k, what in enumerate(("draws", "exchanges")) for gamma in FRICTIONS]))  # fmt: skip
    return figure_of(flat(moments(subset[None]))[0], by_moments, chains, losses)


def figure_of(
    before: Tensor,
    by_moments: Tensor,
    chains: dict[float, Tensor],
    losses: dict[tuple[float, float], tuple[float, float]],
) -> Figure:
    """Some moments by both ways in standardised units, the quantiles of all, and what a search finds."""
    figure = Figure(figsize=(10.5, 6), layout="constrained")
    axes, channels = figure.subplots(2, 3), CHANNELS[-1]
    named = {
        "mean of channel 1 (std of source: 1)": 0,
        "variance of channel 1 (source: 1)": channels,
        "covariance of channels 1, 2": 2 * channels + 1,
    }
    coarse, fine = max(chains), min(chains)
    for place, (name, column) in zip(axes.flat, named.items(), strict=False):
        for dt, colour in ((coarse, COLOURS[1]), (fine, COLOURS[0])):
            place.hist(chains[dt][:, column], 30, density=True, color=colour, alpha=0.5, label=f"chain, dt = {dt}")
        place.hist(by_moments[:, column], 30, density=True, histtype="step", color="black", label="drawn")
        place.axvline(before[column], color="grey", linestyle=":", label="before the noise")
        place.set_xlabel(name, fontsize=9)
        place.set_ylabel("density")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=8
    )
    levels = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    center, scale = by_moments.mean(0), by_moments.std(0)
    expected = ((by_moments - center) / scale).quantile(levels, 0)
    for dt, colour in ((coarse, COLOURS[1]), (fine, COLOURS[0])):
        found = ((chains[dt] - center) / scale).quantile(levels, 0)
        axes[1, 0].plot(expected.flatten(), found.flatten(), ".", color=colour, markersize=2)
    axes[1, 0].plot([-3, 3], [-3, 3], color="black", linewidth=0.8)
    axes[1, 0].set(xlabel="quantiles of all moments, drawn", ylabel="of the chain\n(standard deviations)", ylim=(-4, 8))
    for k, what in enumerate(("of the best draw", "after the exchanges")):
        for gamma, colour, mark in zip(FRICTIONS, COLOURS, "os^", strict=False):
            values = [losses[gamma, kT][k] for kT in TEMPERATURES]
            axes[1, k + 1].plot(TEMPERATURES, values, mark + "-", color=colour, label=f"gamma = {gamma:g}")
        axes[1, k + 1].set(xscale="log", xlabel="temperature kT (source: 1)", ylabel=f"loss {what}\n(random: 1)")
        axes[1, k + 1].set_ylim(0, 1.3 * max(pair[k] for pair in losses.values()))
    axes[1, 1].legend(frameon=False, fontsize=7)
    return figure


def main(arguments: list[str] | None = None) -> None:
    run(experiment, parser(__doc__, "langevin.png").parse_args(arguments))


if __name__ == "__main__":
    main()
