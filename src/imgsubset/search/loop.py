"""The loop that every search method runs in: it cools, asks for candidates, and keeps the best by noise-free loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Round:
    """What a method did in a round: the subsets (K, n) that deserve an exact look, and how much work it was."""

    rows: Tensor
    work: int


class Method(Protocol):
    """A way to come by good subsets, in a number of rounds."""

    rounds: int

    def step(self, cooling: float) -> Round:
        """Do one round at `cooling` in [0, 1] times the starting temperature."""


@dataclass(frozen=True)
class TracePoint:
    """A round: work so far (candidates drawn), temperature relative to the start, the round's lowest loss and the
    lowest so far (both noise-free), and seconds since the search began."""

    work: int
    cooling: float
    loss: float
    best: float
    seconds: float


@dataclass(frozen=True)
class Found:
    """What a search came to: row indices (n,) of the best subset, ascending, its loss, and the trace."""

    rows: Tensor
    loss: float
    trace: tuple[TracePoint, ...]


def search(
    method: Method, loss: Callable[[Tensor], Tensor], progress: Callable[[int], None] = lambda work: None
) -> Found:
    """Run a method through its rounds, cooling linearly to 0 in the last.

    loss      noise-free losses (K,) of subsets (K, n); it alone decides what is best so far
    progress  told the work of each round
    """
    start = time.perf_counter()
    best_rows, best, work = None, float("inf"), 0
    trace = []
    for number in range(method.rounds):
        cooling = 1 - number / (method.rounds - 1) if method.rounds > 1 else 0.0
        done = method.step(cooling)
        losses = loss(done.rows)
        lowest = int(losses.argmin())
        current = float(losses[lowest])
        if best_rows is None or current < best:
            best_rows, best = done.rows[lowest], current
        work += done.work
        trace.append(TracePoint(work, cooling, current, best, time.perf_counter() - start))
        progress(done.work)
    if best_rows is None:
        raise ValueError("a search needs at least one round")
    return Found(best_rows.sort().values, best, tuple(trace))
