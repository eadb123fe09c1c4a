"""The processor's cores, and how work is spread over them without changing any result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache


def usable_cores() -> int:
    """How many processor cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """A context in which each torch operation runs on its caller's thread alone.

    Batched small matrices gain nothing from threads inside an operation, much from threads beside each other; and
    a result computed on one thread does not depend on their number.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def workers() -> ThreadPoolExecutor:
    """One thread a core, kept: the libraries under torch set up their workspaces once in each new thread."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=workers.cache_clear)  # a forked child has none of the threads
    return ThreadPoolExecutor(usable_cores(), "imgsubset")
