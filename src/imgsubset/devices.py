"""Where work is done: the processor's cores, the GPU, and the way back from one that has too little memory."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from imgsubset.errors import InputError, UsageError

if TYPE_CHECKING:  # decoding processes import this module too
    import torch
    from torch import Tensor

S = TypeVar("S")
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


def side_by_side(function: Callable[[S], T], items: Iterable[S], device: torch.device) -> list[T]:
    """function of each item, in order: on a CPU on a thread a core, each operation on its own; on a GPU in turn.

    No item's outcome may depend on another's, nor on which comes first: an item has its own random numbers.
    """
    if device.type != "cpu":
        return [function(item) for item in items]
    with single_threaded():
        return list(workers().map(function, items))


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


_lock = threading.Lock()
_found: list[list[tuple[Any, str, Any]]] = []  # a list for each user of the context; what a caller has set is the first


@contextlib.contextmanager
def exact_matmul() -> Iterator[None]:
    """A context in which products and convolutions of float32 round as float32 does, whatever a caller has set.

    TF32 and bfloat16, which torch can be told to use in their place, keep 10 and 7 bits, and losses would be others.
    These are settings of the whole process: the last of several that are in the context puts them back.
    """
    import torch

    backends: Any = torch.backends
    exact: list[tuple[Any, str, Any]]
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        owners = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        exact = [(owner, "fp32_precision", "ieee") for owner in owners]
    else:  # torch before 2.9
        exact = [(owner, "allow_tf32", False) for owner in (backends.cuda.matmul, backends.cudnn)]
    with _lock:
        _found.append([(owner, name, getattr(owner, name)) for owner, name, _ in exact] if not _found else [])
        for setting in exact:
            setattr(*setting)
    try:
        yield
    finally:
        with _lock:
            before = _found[0]
            _found.pop()
            for setting in () if _found else before:
                setattr(*setting)


def torch_device(name: str) -> torch.device:
    """The device of this name; `auto` is a CUDA GPU if there is one. Raises UsageError if it is not there."""
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("device 'cuda' is asked for, but torch sees no CUDA device here; use 'cpu' or 'auto'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def or_on_cpu(device: str, work: Callable[[str, tuple[str, ...]], T]) -> T:
    """work(device, notes), once more on the CPU where the memory of a GPU that `auto` found runs out.

    `notes` is what the result should tell of that.
    """
    try:
        return work(device, ())
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; it may not be imported yet
            raise
        if device != "auto":
            raise InputError("the GPU has too little memory for this; --device cpu does without it") from None
    return work("cpu", ("the GPU has too little memory for this, so the CPU did it",))
