"""Two sets of images against each other, and against what two samples of one distribution would show.

Small samples of one distribution have a Frechet distance well above 0, so a bare value says little. The floor is a
permutation test (Pitman 1937; Gretton et al., JMLR 2012, for kernels): both sets are thrown together and dealt out
again at random, in the same sizes, many times.

Shapes: C channels, five divergences in the order of DIVERGENCES.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from imgsubset.devices import map_parallel
from imgsubset.statistics.divergences import DIVERGENCES, compute_divergences
from imgsubset.statistics.generative_metrics import (
    choose_permutation_count,
    compute_permuted_fids,
    compute_permuted_kids,
    draw_assignments,
)
from imgsubset.statistics.moments import (
    ImageMoments,
    Moments,
    Standardiser,
    compute_all_moments,
    compute_subset_moments,
    fit_standardiser,
    row_keys,
)
from imgsubset.statistics.rng import draw_permutation

N_PERMUTATIONS = 1000
# Of the pooled variance: a channel that varies less in the reference counts as varying this much. In its own units a
# channel that hardly ever fires would rule the distance, and the floor of it.
MIN_REFERENCE_VARIANCE = 0.01
PERMUTATION_BATCH = 8  # deals whose moments are held at once


@dataclass(frozen=True)
class TwoSampleResult:
    """A comparison: `values` (5,) float64 of the second set from the first, `floor` (draws, 5) of deals at random, and
    whether the sets vary at all. `kid` (1 + draws,) is that of the sets, and then of the deals, where it was asked for.
    """

    values: Tensor
    floor: Tensor
    varies: bool
    kid: Tensor | None = None


def run_two_sample_test(
    first: Sequence[ImageMoments],
    second: Sequence[ImageMoments],
    seed: int,
    draws: int = N_PERMUTATIONS,
    raw: Sequence[bool] = (),
) -> list[TwoSampleResult]:
    """Compare raw moments of two sets in each of several spaces, made by the same extractors; the first is the
    reference. The deals follow from the seed; they are of images, the same in all spaces.

    raw  of each space whether its vectors are compared as they are by the Frechet distance, which is the FID then, and
         by the KID; there are fewer deals, as a deal takes longer. () is none
    Equal sets are exactly 0 apart, and no order of the images changes a bit of the result.
    """
    orders = [_sort_rows(first), _sort_rows(second)]
    both = [ImageMoments(torch.cat([a.table, b.table]), a.positions) for a, b in zip(first, second, strict=True)]
    shuffle = _sort_rows(both)
    results = []
    if any(raw):
        draws = min(draws, choose_permutation_count(len(first[0]), len(second[0])))
    for mine, theirs, vectors in zip(first, second, raw or [False] * len(first), strict=True):
        tables = [images.table[order] for images, order in zip((mine, theirs), orders, strict=True)]
        pooled = ImageMoments(torch.cat(tables), mine.positions)
        # Centred and scaled once for all, so that sums lose no digits; the reference's own units follow in `_apart`.
        scale = fit_standardiser(pooled)
        if vectors:
            ways = torch.cat(
                [shuffle[None] < len(mine), draw_assignments(len(mine), len(theirs), seed, draws, shuffle.device)]
            )
            together = torch.cat([mine.table, theirs.table])[shuffle]
            results.append(_compare_vectors(ImageMoments(together, 1), ways, scale, equal=torch.equal(*tables)))
            continue
        pooled = scale.apply(pooled)
        sets = torch.split(pooled.table, [len(mine), len(theirs)])
        one, other = (compute_all_moments(ImageMoments(table, pooled.positions)) for table in sets)
        if torch.equal(one.mean, other.mean) and torch.equal(one.var, other.var) and torch.equal(one.cov, other.cov):
            values = one.mean.new_zeros(len(DIVERGENCES))
        else:
            values = _reference_divergences(one, other)
        dealt = ImageMoments(torch.cat([mine.table, theirs.table])[shuffle], mine.positions)
        floor = _null_distribution(scale.apply(dealt), len(mine), seed, draws)
        results.append(TwoSampleResult(values, floor, pooled.channels > 0))
    return results


def _sort_rows(spaces: Sequence[ImageMoments]) -> Tensor:
    """Rows sorted by their bytes in all spaces: the same whatever the images are called."""
    keys = row_keys(torch.cat([images.table for images in spaces], 1))
    return torch.from_numpy(np.argsort(keys, kind="stable")).to(spaces[0].table.device)


def _reference_divergences(reference: Moments, other: Moments) -> Tensor:
    """The divergences (5,) of one set from a reference, in units of the reference's variance.

    Both are given in units of the pooled variance.
    """
    scale = reference.var.clamp(min=MIN_REFERENCE_VARIANCE).sqrt()

    def in_units(one: Moments) -> Moments:
        return Moments((one.mean - reference.mean) / scale, one.var / scale**2, one.cov / (scale[:, None] * scale))

    return compute_divergences(in_units(other), replace(in_units(reference), var=torch.ones_like(scale)))


def _compare_vectors(images: ImageMoments, ways: Tensor, scale: Standardiser, equal: bool) -> TwoSampleResult:
    """The comparison of vectors as they are, dealt out in ways (1 + draws, N + M), of which the first is that of the
    sets; the four divergences that go channel by channel are in units of the reference's variance, as always.
    """
    units = scale.apply(images).mean.double()

    def channels(dealt: Tensor) -> Moments:
        size, weights = dealt.sum(1, keepdim=True), dealt.double()
        mean = weights @ units / size
        return Moments(mean, weights @ units.square() / size - mean**2, mean.new_zeros(len(mean), 0, 0))

    found = []
    for some in torch.split(ways, PERMUTATION_BATCH):
        one, other = channels(some), channels(~some)
        unit = one.var.clamp(min=MIN_REFERENCE_VARIANCE).sqrt()
        reference = Moments(torch.zeros_like(unit), torch.ones_like(unit), one.cov)
        other = Moments((other.mean - one.mean) / unit, other.var / unit**2, other.cov)
        raw = compute_permuted_fids(images.mean, some).to(unit)
        found.append(torch.stack([raw if name == "frechet" else of(other, reference)
                                  for name, of in DIVERGENCES.items()], 1))  # fmt: skip
    values = torch.cat(found)
    kid = compute_permuted_kids(images.mean, ways) if 1 < int(ways[0].sum()) < len(images) - 1 else None
    return TwoSampleResult(values[0] * (not equal), values[1:], len(scale.center) > 0, kid)


def _null_distribution(images: ImageMoments, size: int, seed: int, draws: int) -> Tensor:
    """The divergences (draws, 5) of the rest from `size` images drawn at random."""
    total, device = len(images), images.table.device
    few = min(size, total - size)
    everything = compute_all_moments(images).to_cpu()

    def some(first: int) -> Moments:
        rows = [
            draw_permutation(seed, number, total, few, device)
            for number in range(first, min(first + PERMUTATION_BATCH, draws))
        ]
        # In float64 as the value's: a deal may be the two sets themselves.
        return compute_subset_moments(images, torch.stack(rows), torch.float64).to_cpu()

    def apart(dealt: Moments) -> Tensor:
        found = []
        for number in range(len(dealt.mean)):
            small = dealt.take(number)
            rest = _subtract_moments(everything, total, small, few)
            found.append(_reference_divergences(small, rest) if few == size else _reference_divergences(rest, small))
        return torch.stack(found)

    # Eigenvalues are the CPU's: a GPU takes matrices one by one.
    dealt = map_parallel(some, range(0, draws, PERMUTATION_BATCH), device)
    return torch.cat(map_parallel(apart, dealt, torch.device("cpu"))).to(device)


def _subtract_moments(everything: Moments, total: int, part: Moments, size: int) -> Moments:
    """The moments of all images but some, of which there are `size`."""

    def rest(of_all: Tensor, of_part: Tensor) -> Tensor:
        return (total * of_all - size * of_part) / (total - size)

    mean = rest(everything.mean, part.mean)
    square = rest(everything.var + everything.mean**2, part.var + part.mean**2)
    outer = rest(*(one.cov + one.mean[:, None] * one.mean for one in (everything, part)))
    return Moments(mean, square - mean**2, outer - mean[:, None] * mean)
