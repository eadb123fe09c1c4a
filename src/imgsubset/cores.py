"""The processor's cores, and how work is spread over them without changing any result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor


def usable_cores() -> int:
    """How many processor cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


@contextlib.contextmanager
def single_threaded_workers() -> Iterator[ThreadPoolExecutor]:
    """A pool of one thread a core, in which each torch operation runs on its caller's thread alone.

    Batched small matrices gain nothing from threads inside an operation, much from threads beside each other; and
    a result computed on one thread does not depend on their number.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(usable_cores()) as executor:
            yield executor
    finally:
        torch.set_num_threads(before)
