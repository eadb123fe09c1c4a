"""Where work is done: CPU cores and threads, GPUs, and the way back to the CPU when GPU memory runs out."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imgsubset.errors import InputError, UsageError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
CGROUP_ROOT = Path("/sys/fs/cgroup")  # Linux: all control groups
PROCESS_CGROUP = Path("/proc/self/cgroup")  # those of this process


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


S = TypeVar("S")
_DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap", "/dev/kfd")  # NVIDIA, under WSL, of Jetson boards; AMD
# What torch says where a GPU cannot go on, besides its OutOfMemoryError, and what a user should hear.
_GPU_ERRORS = {
    r"(CUDA|HIP)[^\n]*out of memory|CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)": (
        "the GPU has too little memory for this"
    ),
    "Cannot re-initialize CUDA in forked subprocess": (
        "this process was forked from one that uses the GPU, which cannot be shared; start it by spawn"
    ),
    r"devices?(\(s\))? (is/)?are busy or unavailable": "other programs have the GPU for themselves",
}


def single_threaded() -> contextlib.AbstractContextManager[None]:
    """A context in which each torch operation runs on its caller's thread alone.

    Batched small matrices gain nothing from threads inside an operation, much from threads beside each other; and
    a result computed on one thread does not depend on their number. Other threads do not notice; not to be held
    while a generator yields.
    """
    return limit_torch_threads(1)


def thread_pool() -> ThreadPoolExecutor:
    """Threads, as many as sums may take, each of which runs an operation alone."""
    return _thread_pool(max_threads())


@cache
def _thread_pool(count: int) -> ThreadPoolExecutor:
    # Kept: the libraries under torch set up their workspaces once in each new thread.
    return ThreadPoolExecutor(count, "imgsubset", set_torch_threads, (1,))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_thread_pool.cache_clear)  # a forked child has none of the threads


def map_parallel(function: Callable[[S], T], items: Iterable[S], device: torch.device) -> list[T]:
    """function of each item, in order: on a CPU on a thread a core, each operation on its own; on a GPU in turn.

    No item's outcome may depend on another's, nor on which comes first: an item has its own random numbers.
    """
    if device.type != "cpu":
        return [function(item) for item in items]
    return list(thread_pool().map(function, items))


_settings_lock = threading.Lock()
_saved_settings: list[
    list[tuple[Any, str, Any]]
] = []  # a list for each user of the context; what a caller has set is the first


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
    # One algorithm for one shape, whatever other programs do meanwhile.
    exact += [(backends.cudnn, "deterministic", True), (backends.cudnn, "benchmark", False)]
    with _settings_lock:
        _saved_settings.append(
            [(owner, name, getattr(owner, name)) for owner, name, _ in exact] if not _saved_settings else []
        )
        for setting in exact:
            setattr(*setting)
    try:
        yield
    finally:
        with _settings_lock:
            before = _saved_settings[0]
            _saved_settings.pop()
            for setting in () if _saved_settings else before:
                setattr(*setting)


def torch_device(name: str) -> torch.device:
    """The device of this name; `auto` is a CUDA GPU if there is one. Raises UsageError if it is not there."""
    import torch

    count = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name in ("auto", "cpu"):
        return torch.device("cuda" if count else "cpu")
    if not count:
        raise UsageError(f"device '{name}' is asked for, but torch sees no CUDA device here; use 'cpu' or 'auto'")
    device = torch.device(name)
    if (device.index or 0) >= count:
        raise UsageError(f"device '{name}' is asked for, but the last that torch sees is 'cuda:{count - 1}'")
    return device


def device_name(name: str) -> str:
    """What the device of this name is: `cpu`, or a GPU's model. Imports torch only where there may be a GPU.

    Raises UsageError if it is not there.
    """
    if name == "cpu" or (name == "auto" and not any(Path(driver).exists() for driver in _DRIVER_FILES)):
        return "cpu"
    import torch

    device = torch_device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def explain_gpu_error(error: BaseException) -> str | None:
    """What keeps a GPU from work that a CPU could do, of an error that torch raised; None for any other."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's; it may not be imported yet
        return next(iter(_GPU_ERRORS.values()))
    found = (said for pattern, said in _GPU_ERRORS.items() if re.search(pattern, str(error)))
    return next(found, None) if isinstance(error, RuntimeError) else None


def free_gpu_memory() -> None:
    """Give back the memory of what failed. Of use once its exception, which holds its tensors, is gone."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def run_with_cpu_fallback(device: str, work: Callable[[str, tuple[str, ...]], T], workers: int | None = None) -> T:
    """work(device, notes), once more on the CPU where a GPU that `auto` found has no room for it.

    `notes` is what the result should tell of that; `workers` is how many threads sums may take, as in `bounded`.
    """
    with limit_threads(workers):
        try:
            return work(device, ())
        except RuntimeError as error:
            problem = explain_gpu_error(error)
            if problem is None:
                raise
            if device != "auto":
                raise InputError(f"{problem}; --device cpu does without it") from None
        free_gpu_memory()
        return work("cpu", (f"{problem}, so the CPU did it",))
