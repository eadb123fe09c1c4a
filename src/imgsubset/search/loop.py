"""The loop that every search method runs in: it says how far the search is, and keeps the best by noise-free loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Round:
    """What a method did in a round.

    rows         (K, n) the subsets that deserve an exact look
    work         candidates drawn, or steps made
    temperature  at which; draws: kT of the Langevin noise; exchanges: in units of the loss
    changed      the share of the proposals that changed a subset; 1 for draws, which are all new
    """

    rows: Tensor
    work: int
    temperature: float
    changed: float = 1.0


class Method(Protocol):
    """A way to come by good subsets.

    name      for the trace
    rounds    how many rounds make up a full search
    patience  rounds without a lower loss after which it ends early
    """

    name: str
    rounds: int
    patience: int

    def step(self, fraction: float) -> Round:
        """Do one round, when `fraction` in [0, 1] of the search is over; the temperature is 0 at 1."""


@dataclass(frozen=True)
class TracePoint:
    """A round: the method, the size of its subsets, its work so far, the temperature, the round's lowest loss and the
    lowest so far (both noise-free), the share of proposals that changed a subset, and seconds since it began."""

    method: str
    n: int
    work: int
    temperature: float
    loss: float
    best: float
    changed: float
    seconds: float


@dataclass(frozen=True)
class Found:
    """What a search came to: the best subsets (K, n) and their losses (K,), best first, the trace, and whether it
    was stopped before its end."""

    rows: Tensor
    losses: Tensor
    trace: tuple[TracePoint, ...]
    stopped: bool


def search(
    method: Method,
    loss: Callable[[Tensor], Tensor],
    *,
    start: Found | None = None,
    keep: int = 1,
    seconds: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, float], None] = lambda work, best: None,
) -> Found:
    """Run a method through its rounds, at least one.

    loss      noise-free losses (K,) of subsets (K, n); it alone decides what is best, and sees the last point too
    start     an earlier search, to be improved on
    keep      how many of the best subsets to return
    seconds   a limit; the method cools faster where it would not come to its end in time
    stop      asked after each round whether to end now
    progress  told the work of each round and the lowest loss so far
    """
    begin = time.perf_counter()
    kept = [(start.rows, start.losses)] if start else []
    best = float(start.losses[0]) if start else float("inf")
    trace = list(start.trace) if start else []
    number = work = since = 0
    over = stopped = False
    while not (over or stopped):
        elapsed = (time.perf_counter() - begin) / seconds if seconds else 0.0
        fraction = min(1.0, max(number / (method.rounds - 1), elapsed)) if method.rounds > 1 else 1.0
        done = method.step(fraction)
        drawn = done.rows.sort(1).values
        fresh = loss(drawn)
        rows, losses = (torch.cat(parts) for parts in zip(*kept, (drawn, fresh), strict=True))
        order = losses.argsort(stable=True)[:keep]  # of equal ones the earlier
        kept = [(rows[order], losses[order])]
        before, best = best, float(losses[order[0]])
        number, work = number + 1, work + done.work
        since = 0 if best < before else since + 1
        spent, lowest = time.perf_counter() - begin, float(fresh.min())
        trace.append(TracePoint(method.name, drawn.shape[1], work, done.temperature, lowest, best, done.changed, spent))
        progress(done.work, best)
        stopped = stop()
        over = fraction >= 1 or since >= method.patience or best == 0
    return Found(*kept[0], tuple(trace), stopped)
