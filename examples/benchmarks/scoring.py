"""How many candidates are scored in a second, against running the network and the noise for every candidate.

    python examples/benchmarks/scoring.py FOLDER [--repeats 5] [--n 500]

Both use all cores and score the same candidates. The plain way runs the CNN on a candidate's
pixels, moves its feature maps by Langevin noise, and takes the divergences of the moments of what comes out.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from plain import maps_to_rows, plain_cnn

from imgsubset.decoding.workers import decode_chunks
from imgsubset.devices import map_parallel
from imgsubset.divergence_weights import Weights
from imgsubset.features.random_cnn import RandomCNN
from imgsubset.sources.listing import list_images
from imgsubset.statistics.divergences import compute_weighted_divergence
from imgsubset.statistics.langevin import noised_source
from imgsubset.statistics.moments import (
    Block,
    ImageMoments,
    Standardiser,
    compute_subset_moments,
    fit_standardiser,
    maps_to_moments,
)
from imgsubset.statistics.objective import NoisyBatch, NoisyObjective, Objective, draw_random_subsets, make_objective

PLAIN_CANDIDATES = 8


def folder_pixels(folder: Path) -> torch.Tensor:
    """All images of a folder at once, (N, 64, 64, 3), uint8."""
    listing = list_images(folder)
    with decode_chunks([listing.locate(path) for path in listing.paths], [64]) as chunks:
        pixels = bytearray().join(chunk.pixels[64] for chunk in chunks)
    return torch.frombuffer(pixels, dtype=torch.uint8).view(-1, 64, 64, 3)[: len(listing.paths)]


def plain_losses(pixels: torch.Tensor, rows: torch.Tensor, goal: Objective, scale: Standardiser) -> list[float]:
    """Noised losses of candidates, each through the network and the noise."""
    network = RandomCNN()
    alpha, sigma2 = goal.langevin.coefficients(1.0)
    (term,) = goal.terms
    source = noised_source(term.source, term.block.images.positions, alpha, sigma2)
    center, width = (value.float()[:, None, None] for value in (scale.center, scale.scale))
    losses = []
    for candidate in rows:
        images = (pixels[candidate].float() / 127.5 - 1).permute(0, 3, 1, 2)
        maps = plain_cnn(images, [weight.contiguous() for weight in network.layers])
        maps = (maps[:, scale.is_varying] - center) / width
        noised = alpha * maps + sigma2**0.5 * torch.randn_like(maps)
        moments = ImageMoments(maps_to_rows(noised), maps[0, 0].numel())
        everything = torch.arange(len(candidate))[None]
        losses.append(
            float(compute_weighted_divergence(compute_subset_moments(moments, everything), source, term.coefficients))
        )
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--n", type=int, default=500)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    with torch.inference_mode():
        pixels = folder_pixels(arguments.folder)
        table = torch.cat([maps_to_moments(RandomCNN()(block)) for block in pixels.split(64)])
        images = ImageMoments(table, 64)
        scale = fit_standardiser(images)
        goal = make_objective([Block("random-cnn", scale.apply(images))], arguments.n, Weights())
        rows = draw_random_subsets(len(pixels), arguments.n, 4096, generator)
        noised, mine, theirs = NoisyObjective(goal, 1.0), [], []

        def scored(part: torch.Tensor) -> NoisyBatch:
            return noised.batch(part, torch.Generator().manual_seed(0))

        for _ in range(arguments.repeats):
            start = time.perf_counter()
            for block in rows.split(512):
                noised.lowest(map_parallel(scored, block.split(goal.batch), goal.device), 16)
            mine.append((time.perf_counter() - start) / len(rows))
            fast = noised.loss(rows[:PLAIN_CANDIDATES], generator)
            start = time.perf_counter()
            slow = plain_losses(pixels, rows[:PLAIN_CANDIDATES], goal, scale)
            theirs.append((time.perf_counter() - start) / len(slow))
    own, plain = statistics.median(mine), statistics.median(theirs)
    print(f"{torch.get_num_threads()} threads, N = {len(pixels)}, n = {arguments.n}, C = {images.channels}")
    print(f"moments: {1 / own:,.0f} candidates/s; plain: {1 / plain:,.1f} candidates/s; ratio {plain / own:,.0f}")
    print(f"noised loss of the same {len(slow)} candidates: moments {fast.mean():.3f} +- "
          f"{fast.std():.3f}, plain {torch.tensor(slow).mean():.3f} +- {torch.tensor(slow).std():.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
