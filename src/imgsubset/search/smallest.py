"""The smallest n that is good enough, by bisection; each size starts from the subsets of the nearest one tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from imgsubset.search.quadratic import Quadratic
from imgsubset.search.ranking import herding_order
from imgsubset.statistics.rng import make_generator

CLOSE = 0.02  # of n: nearer than this, one search differs from the next by as much
ENOUGH = 1.05  # times the target: a size that is better by no more than this is small enough
ATTEMPTS = 8  # about how many sizes are tried, for sharing out a time limit

T = TypeVar("T")


def smallest(
    total: int,
    attempt: Callable[[int, T | None], T],
    quality: Callable[[T], float],
    stop: Callable[[], bool] = lambda: False,
    least: int = 1,
) -> T:
    """The result with the fewest rows whose quality is at least 1, by bisection of log n between `least` and `total`.

    attempt  makes a result of a given size, from the one of the nearest size so far
    quality  of a result, in units of the target; that of `total` rows counts as enough
    stop     asked after each attempt whether to end with the best so far

    Ends where n is known to 2 %, or where the quality is between 1 and 1.05.
    """
    low, high = least - 1, total
    tried: dict[int, T] = {}
    while high not in tried or high - low > max(1, CLOSE * high):
        n = high if high - low <= 1 else min(high - 1, max(low + 1, round((max(low, 1) * high) ** 0.5)))
        nearest = min(tried, key=lambda size: abs(size - n), default=None)
        tried[n] = attempt(n, None if nearest is None else tried[nearest])
        value = quality(tried[n])
        if value >= 1 or n == total:
            high = n
        else:
            low = n
        if stop() or 1 <= value <= ENOUGH:
            break
    return tried[high] if high in tried else tried[low]


def resized(form: Quadratic, rows: Tensor, n: int, seed: int) -> Tensor:
    """Subsets (K, n) from larger ones, cut to the beginning of their herding order, or from smaller ones, filled up
    with random rows."""
    if n <= rows.shape[1]:
        return torch.stack([herding_order(form, subset)[:n] for subset in rows])
    generator, filled = make_generator(rows.device, "resized", seed, n), []
    for subset in rows:
        others = torch.ones(len(form), device=rows.device).index_fill(0, subset, 0).nonzero()[:, 0]
        picked = torch.randperm(len(others), generator=generator, device=rows.device)[: n - len(subset)]
        filled.append(torch.cat([subset, others[picked]]))
    return torch.stack(filled)
