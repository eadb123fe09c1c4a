"""What people would use instead of imgsubset, each method as strong as its package allows. `search.py` runs them.

A method takes a Problem and a seed, and returns the rows it picks. Packages are imported when a method runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scoring import plain_losses
from torch import Tensor

from imgsubset.devices import single_threaded
from imgsubset.search.quadratic import Quadratic, quadratic_form
from imgsubset.statistics.moments import ImageMoments, Standardiser
from imgsubset.statistics.objective import Objective, draw_random_subsets

MATRIX_ROWS = 20_000  # of a float64 matrix of all pairs: 3.2 GB
EMBEDDED_BYTES = 2_000_000_000  # of vectors z kept in memory
BLOCK = 4096  # rows embedded at once
PLAIN_SEED = 1 << 22  # other candidates than the search's own draws
BANDWIDTH_ROWS = 1000  # whose distances a Gaussian kernel's width is taken from


class UnavailableError(Exception):
    """The method cannot run here; the text says why."""


@dataclass(frozen=True)
class Problem:
    """What the methods are given.

    objective  with the standardised moments of all images, and n
    scale      that standardised them
    pixels     (N, H, W, 3), uint8; None if they do not fit
    """

    objective: Objective
    scale: Standardiser
    pixels: Tensor | None

    @property
    def images(self) -> ImageMoments:
        return self.objective.terms[0].block.images

    @cached_property
    def vectors(self) -> np.ndarray:
        """The images' feature vectors (N, C)."""
        return self.images.mean.contiguous().numpy()


@dataclass(frozen=True)
class Pick:
    """The subsets (K, n) that a method came to, of which the mean counts, and what else is to be said."""

    rows: Tensor
    note: str = ""


def plain(problem: Problem, seed: int, seconds: float) -> Pick:
    """The method as first published: network and noise for each candidate, until time is up; the lowest loss wins."""
    if problem.pixels is None:
        raise UnavailableError("the pixels of this folder exceed 2 GB")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(PLAIN_SEED + seed)
    total, n = len(problem.images), problem.objective.n
    tried, best, best_loss = 0, None, math.inf
    end = time.perf_counter() + seconds
    while best is None or time.perf_counter() < end:
        for row in draw_random_subsets(total, n, total // n, generator):
            (loss,) = plain_losses(problem.pixels, row[None], problem.objective, problem.scale)
            tried += 1
            if best is None or loss < best_loss:
                best, best_loss = row, loss
            if time.perf_counter() >= end:
                break
    return Pick(best[None], f"{tried:,} candidates")


def herding(problem: Problem, seed: int) -> Pick:
    """Kernel herding (Chen, Welling & Smola, UAI 2010) of the whole folder, in imgsubset's second-order kernel."""
    form = _form(problem)
    blocks = torch.arange(len(problem.images)).split(BLOCK)
    fits = len(problem.images) * form.embed(blocks[0][:1]).numel() * 4 <= EMBEDDED_BYTES
    kept = [form.embed(block) for block in blocks] if fits else None

    def products(vector: Tensor | None) -> Tensor:
        """Inner products of all z with a vector, or with themselves."""
        parts = kept or (form.embed(block) for block in blocks)
        return torch.cat([z.square().sum(1) if vector is None else z @ vector for z in parts])

    cost, chosen = products(None), []
    for _ in range(problem.objective.n):
        best = cost.argmin()
        chosen.append(best)
        cost += 2 * products(form.embed(best))
        cost[torch.stack(chosen)] = math.inf
    return Pick(torch.stack(chosen)[None])


def thinning_gaussian(problem: Problem, seed: int) -> Pick:
    """Kernel thinning with a Gaussian kernel of the feature vectors, as wide as their median distance."""
    vectors = torch.from_numpy(problem.vectors)
    few = vectors[torch.from_numpy(np.random.default_rng(seed).permutation(len(vectors))[:BANDWIDTH_ROWS])]
    width = torch.nn.functional.pdist(few).median()
    return _thinned(problem, seed, lambda rows: _gaussian(vectors[rows], float(width)))


def _gaussian(vectors: Tensor, width: float) -> Tensor:
    return torch.cdist(vectors, vectors).square_().div_(-2 * width**2).exp_()


def thinning_quadratic(problem: Problem, seed: int) -> Pick:
    """Kernel thinning with imgsubset's second-order form of the loss as its kernel."""
    form = _form(problem)

    def products(rows: Tensor) -> Tensor:
        z = torch.cat([form.embed(block) for block in rows.split(BLOCK)])
        return z @ z.T

    return _thinned(problem, seed, products)


def _thinned(problem: Problem, seed: int, kernel: Callable[[Tensor], Tensor]) -> Pick:
    """Generalised kernel thinning (Dwivedi & Mackey, ICLR 2022): halve n 2^m random rows m times, then swap.

    The package's own call thins to N / 2^m rows and sees no others. Here the rows that were left out, so that exactly n
    remain, take part in the target and as candidates of the swaps, and the kernel's matrix is made in one product:
    both better and several times faster than `kt.thin` with a kernel function.
    """
    from goodpoints import kt

    n, total = problem.objective.n, len(problem.images)
    order = np.random.default_rng(seed).permutation(total)[:MATRIX_ROWS]
    if len(order) < n:
        raise UnavailableError(f"needs a matrix of all pairs, and n is above {MATRIX_ROWS:,}")
    matrix = kernel(torch.from_numpy(order)).double().numpy()
    halvings = int(math.log2(len(order) / n))
    part = matrix[: n << halvings, : n << halvings]
    mean = matrix.mean(1)
    coresets = kt.split_K(part, halvings, seed=seed)
    best = kt.best_K(part, coresets, meanK=mean[: len(part)])
    chosen = kt.refine_K(matrix, best, meanK=mean, unique=True)
    note = "" if len(order) == total else f"of {len(order):,} random rows"
    return Pick(torch.from_numpy(order[chosen])[None], note)


def k_means(problem: Problem, seed: int) -> Pick:
    """Of each of n clusters of the feature vectors the image closest to its centre."""
    from sklearn.cluster import KMeans

    vectors, n = problem.vectors, problem.objective.n
    found = KMeans(n, n_init=1, random_state=seed).fit(vectors)
    distance = np.square(vectors - found.cluster_centers_[found.labels_]).sum(1)
    order = np.lexsort((distance, found.labels_))
    medoids = order[np.unique(found.labels_[order], return_index=True)[1]]
    # Equal images can leave clusters empty; random ones fill up.
    others = np.setdiff1d(np.arange(len(vectors)), medoids)
    more = np.random.default_rng(seed).permutation(others)[: n - len(medoids)]
    return Pick(torch.from_numpy(np.concatenate([medoids, more]))[None])


def facility_location(problem: Problem, seed: int) -> Pick:
    """The images most similar to all others: greedy maximisation of a submodular function."""
    from apricot import FacilityLocationSelection

    if len(problem.images) > MATRIX_ROWS:
        raise UnavailableError(f"needs a matrix of all pairs, and there are more than {MATRIX_ROWS:,} images")
    selector = FacilityLocationSelection(problem.objective.n, metric="euclidean", optimizer="lazy")
    return Pick(torch.from_numpy(selector.fit(problem.vectors).ranking.astype(np.int64))[None])


def k_center(problem: Problem, seed: int) -> Pick:
    """Farthest-first traversal of the feature vectors (Gonzalez 1985) from a random image."""
    vectors = torch.from_numpy(problem.vectors)
    chosen = [int(torch.randint(len(vectors), (), generator=torch.Generator().manual_seed(seed)))]
    nearest = torch.full((len(vectors),), math.inf)
    with single_threaded():  # too small operations to gain from threads
        while len(chosen) < problem.objective.n:
            nearest = torch.minimum(nearest, (vectors - vectors[chosen[-1]]).square().sum(1))
            nearest[chosen[-1]] = -1.0  # and stays so, also where other images equal it
            chosen.append(int(nearest.argmax()))
    return Pick(torch.tensor(chosen)[None])


def _form(problem: Problem) -> Quadratic:
    return quadratic_form(problem.objective)
