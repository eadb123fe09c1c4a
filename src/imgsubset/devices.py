"""Where work is done: the processor's cores, the GPU, and the way back from one that has too little memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from imgsubset.errors import InputError, UsageError

if TYPE_CHECKING:  # decoding processes import this module too
    import torch
    from torch import Tensor

T = TypeVar("T")


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


def by_blocks(function: Callable[[Tensor, int], T], rows: Tensor, on_cpu: int, on_gpu: int) -> list[T]:
    """function(block, its number) for blocks of `on_cpu` or `on_gpu` rows, in order.

    On a CPU the blocks run side by side; on a GPU whose memory runs out they become smaller.
    """
    import torch

    if rows.device.type == "cpu":
        blocks = torch.split(rows, on_cpu)
        with single_threaded():
            return list(workers().map(function, blocks, range(len(blocks))))
    try:
        return [function(block, number) for number, block in enumerate(torch.split(rows, on_gpu))]
    except torch.OutOfMemoryError:
        if on_gpu == 1:
            raise
    torch.cuda.empty_cache()
    return by_blocks(function, rows, on_cpu, on_gpu // 2)


def torch_device(name: str) -> torch.device:
    """The device of this name; `auto` is a CUDA GPU if there is one. Raises UsageError if it is not there."""
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("device 'cuda' is asked for, but torch sees no CUDA device here; use 'cpu' or 'auto'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def or_on_cpu(device: str, work: Callable[[str, tuple[str, ...]], T]) -> T:
    """work(device, notes), once more on the CPU where the memory of a GPU that `auto` found runs out.

    Smaller batches were tried by then. `notes` is what the result should tell of that.
    """
    try:
        return work(device, ())
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; it may not be imported yet
            raise
        if device != "auto":
            raise InputError("the GPU has too little memory for this; --device cpu does without it") from None
    return work("cpu", ("the GPU has too little memory for this, so the CPU did it",))
