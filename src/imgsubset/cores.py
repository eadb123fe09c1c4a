"""Cores of the processor: how many this process may use, and how many threads sums take."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import Future
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
CGROUP_ROOT, PROCESS_CGROUP = (
    Path("/sys/fs/cgroup"),
    Path("/proc/self/cgroup"),
)  # of Linux: all groups, and those of this process


_core_share: ContextVar[int | None] = ContextVar("shared", default=None)


def usable_cores() -> int:
    """How many processor cores this process may use: those it is bound to, or as many as its quota pays for; or its
    share of them."""
    return _core_share.get() or max(1, min([_count_bound_cores(), *map(math.ceil, _cgroup_quotas())]))


@contextlib.contextmanager
def limit_cores(count: int) -> Iterator[None]:
    """A context in which this process may use so many cores, since others use the rest."""
    token = _core_share.set(count)
    try:
        yield
    finally:
        _core_share.reset(token)


def fair_core_share(mine: Set[int], all_of: Iterable[Set[int]]) -> int:
    """How many cores are left to a process bound to `mine`, where processes, it among them, are bound to those in
    `all_of`, and each core is shared evenly by those that are bound to it. At least one."""
    users = Counter(core for some in all_of for core in some)
    part = sum(1 / users[core] for core in mine) / len(mine)
    return max(1, int(usable_cores() * part + 1e-9))


def bound_cores() -> Set[int]:
    """The cores that this process is bound to, by number."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # macOS
        return {*range(os.cpu_count() or 1)}


def _count_bound_cores() -> int:
    """How many cores this process is bound to, whatever its quota; torch knows of no other number."""
    return len(bound_cores())


def _cgroup_quotas() -> Iterator[float]:
    """Cores that the control groups of this process, and those around them, pay for: versions 2 and 1 of Linux."""
    try:
        groups = [line.split(":", 2)[1:] for line in PROCESS_CGROUP.read_text().splitlines()]
    except OSError:
        return
    for controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = CGROUP_ROOT / ("cpu" if controllers else "")
        inner = top / path.lstrip("/")  # in a container this may be a name from outside, which is not there
        for folder in (inner, *inner.parents):
            with contextlib.suppress(OSError, ValueError):
                if controllers:
                    quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                else:
                    quota, period = (folder / "cpu.max").read_text().split()
                if float(quota) > 0:  # not `max`, or -1 in version 1
                    yield float(quota) / float(period)
            if folder == top:
                break


_thread_limit: ContextVar[int | None] = ContextVar("limit", default=None)
_has_threads: int | None = None  # the process in which torch may have started threads first, by its number


@contextlib.contextmanager
def limit_threads(count: int | None) -> Iterator[None]:
    """A context in which sums take no more threads than this, but at least one; None is one for each usable core.

    A process that was forked from one whose sums took several takes one: it has none of the threads that the OpenMP
    of torch still counts on, and would wait for them for ever.
    """
    global _has_threads
    count = usable_cores() if count is None else max(1, min(count, usable_cores()))
    if count > 1:
        _has_threads = _has_threads or os.getpid()
        count = count if _has_threads == os.getpid() else 1
    token = _thread_limit.set(count)
    try:
        # Else torch takes no more by itself, and its import can wait until the decoding processes have begun.
        if count < _count_bound_cores():
            with limit_torch_threads(count):
                yield
        else:
            yield
    finally:
        _thread_limit.reset(token)


def max_threads() -> int:
    """How many threads sums may take."""
    return _thread_limit.get() or usable_cores()


_thread_count_lock = threading.Lock()


@contextlib.contextmanager
def limit_torch_threads(most: int) -> Iterator[None]:
    """A context in which an operation of torch takes at most so many threads, if this thread calls it."""
    import torch

    before = torch.get_num_threads()
    if before <= most:
        yield
        return
    set_torch_threads(most)
    try:
        yield
    finally:
        set_torch_threads(before)


def set_torch_threads(count: int) -> None:
    """Tell torch how many threads operations that this thread calls may take.

    torch gives the number to every thread that starts later, too; these should have what they would have had.
    """
    import torch

    with _thread_count_lock:
        torch.get_num_threads()  # at the first question a thread takes over the common number, even if it has its own
        others = _run_in_new_thread(torch.get_num_threads)
        torch.set_num_threads(count)
        _run_in_new_thread(lambda: torch.set_num_threads(others))


def _run_in_new_thread(function: Callable[[], T]) -> T:
    outcome: Future[T] = Future()
    thread = threading.Thread(target=lambda: outcome.set_result(function()))
    thread.start()
    thread.join()
    return outcome.result()
