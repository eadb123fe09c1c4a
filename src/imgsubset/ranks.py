"""Processes that torchrun, or Slurm's srun, has started together: how they meet, and talk.

Rank 0 does the work of a command, and the others help it. They talk by gloo, those with a GPU too: the moments of an
image are 3 KB, and on their way to the cache, so in the memory of the processor. There is nothing here that starts a
process or opens a socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from imgsubset.cores import bound_cores, fair_core_share
from imgsubset.errors import ImgsubsetError, InputError, UsageError, short_repr
from imgsubset.watch import POLL_SECONDS, HeartbeatMonitor, ProcessInfo, RunEnd

if TYPE_CHECKING:  # a process that works alone imports no torch.distributed
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
JOIN_TIMEOUT_SECONDS = 300.0  # in which all have to come
GROUP_TIMEOUT = timedelta(days=1000)  # a slow rank is not lost: that it is alive is told by its beats
TORCHRUN_VARIABLES, SLURM_VARIABLES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


def read_process_info(environ: Mapping[str, str]) -> ProcessInfo | None:
    """What torchrun, or srun, tells of this process; None where it works alone.

    Under srun MASTER_ADDR and MASTER_PORT have to be set, as for any program with torch.distributed: in an allocation
    of many tasks, a command that only one of them starts works alone.

    Raises UsageError for what makes no sense.
    """
    names = TORCHRUN_VARIABLES if "RANK" in environ else SLURM_VARIABLES
    if any(name not in environ for name in ("MASTER_ADDR", "MASTER_PORT", *names[:2])):
        return None
    numbers = []
    for name in names:
        text = environ.get(name, "0")
        if not (text.isascii() and text.isdigit()):
            raise UsageError(f"{name} {short_repr(text)} is not a whole number; torchrun sets it")
        numbers.append(int(text))
    place = ProcessInfo(*numbers)
    if place.rank >= place.size:
        raise UsageError(f"{names[0]} {place.rank} is not below {names[1]} {place.size}; torchrun sets both")
    return place if place.size > 1 else None


class ProcessGroup:
    """All processes of a run, as one of them has them.

    place  of this one
    cores  how many it may use while all of them work
    watch  over the others
    """

    def __init__(self, place: ProcessInfo, cores: int, watch: HeartbeatMonitor) -> None:
        self.place, self.cores, self.watch = place, cores, watch

    def say(self, other: int, *parts: bytes) -> None:
        """Send some bytes to another rank, which hears each part. Raises ImgsubsetError if it is gone."""
        import torch

        for part in parts:
            self.send(other, torch.tensor([len(part)]))
            if part:
                self.send(other, torch.frombuffer(bytearray(part), dtype=torch.uint8))

    def hear(self, other: int) -> bytes:
        """What another rank says next. Raises ImgsubsetError if it is gone."""
        import torch

        length = torch.zeros(1, dtype=torch.int64)
        self.receive(other, length)
        part = torch.zeros(int(length), dtype=torch.uint8)
        if len(part):
            self.receive(other, part)
        return part.numpy().tobytes()

    def send(self, other: int, table: Tensor) -> None:
        """Send a table in main memory, when the other rank is there to receive it."""
        import torch.distributed as dist

        self._communicate(other, lambda: dist.send(table.contiguous(), other))

    def receive(self, other: int, table: Tensor) -> None:
        """Receive a table of this shape and type, in main memory."""
        import torch.distributed as dist

        self._communicate(other, lambda: dist.recv(table, other))

    def _communicate(self, other: int, work: Callable[[], object]) -> None:
        try:
            run_in_thread(work).result()
        except RuntimeError:
            end = self.watch.end(f"rank {other} is gone")
            gone = ImgsubsetError(end.message)
            gone.exit_code = end.code
            raise gone from None

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """A context in which `together` is this."""
        token = _current_group.set(self)
        try:
            yield
        finally:
            _current_group.reset(token)

    def leave(self) -> None:
        """The work is done, and no rank waits for another any more."""
        import torch.distributed as dist

        if self.place.rank == 0:
            for other in self.watch.others:
                self.say(other, b"")
            for other in self.watch.others:
                self.hear(other)  # by then it does not look into the store any more, which may go with this process
            self.watch.stop()
        else:
            self.watch.stop()
            self.say(0, b"")
        dist.destroy_process_group()


_current_group: ContextVar[ProcessGroup | None] = ContextVar("ranks", default=None)


def current_group() -> ProcessGroup | None:
    """The processes that work together, in rank 0 of them; None where this process works alone."""
    return _current_group.get()


def run_in_thread(work: Callable[[], T]) -> Future[T]:
    """work() on a thread that nobody waits for at the end: inside of gloo, the main one would hear no signal."""
    outcome: Future[T] = Future()

    def do() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return outcome


def join_group(place: ProcessInfo, words: Sequence[str], ended: Callable[[RunEnd], None]) -> ProcessGroup:
    """Meet the other processes, which were started with the same words; `ended` is as in `Watch`.

    Raises InputError if they do not come, or are others.
    """
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        wait = timedelta(seconds=JOIN_TIMEOUT_SECONDS)
        store, _, _ = next(iter(rendezvous("env://", place.rank, place.size, timeout=wait)))
        # Of each start by torchrun its own: what an earlier one has left would be taken for signs of life.
        store = PrefixStore(f"imgsubset {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        cores = wait_for_ranks(store, place, words)
        watch = HeartbeatMonitor(store, place, ended)
        watch.start()
        dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.size, timeout=GROUP_TIMEOUT)
    except (RuntimeError, ValueError) as error:  # as all of torch.distributed's are
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        problem = short_repr(str(error).split("\n")[0])
        raise InputError(f"rank {place.rank} of {place.size} does not meet the others at {where}: {problem}") from None
    return ProcessGroup(place, cores, watch)


def wait_for_ranks(
    store: Store, place: ProcessInfo, words: Sequence[str], seconds: float = JOIN_TIMEOUT_SECONDS
) -> int:
    """Wait until all are there; how many cores this one may use.

    Raises InputError if some do not come in time, or were started with other words, or in another folder, than rank 0.
    """
    cores = bound_cores()
    store.set(f"here {place.rank}", json.dumps([platform.node(), sorted(cores), [os.getcwd(), *words]]))  # noqa: PTH109
    missing, deadline = [*range(place.size)], time.monotonic() + seconds
    while missing := [rank for rank in missing if not store.check([f"here {rank}"])]:
        if time.monotonic() > deadline:
            few = f"rank {', '.join(map(str, missing[:5]))}{', ...' if len(missing) > 5 else ''}"
            raise InputError(
                f"{few} of {place.size} did not come within {seconds:g} s; without RANK and WORLD_SIZE in the "
                "environment, which torchrun sets, this process works alone"
            )
        time.sleep(POLL_SECONDS)
    nodes, bound, started = zip(*(json.loads(store.get(f"here {rank}")) for rank in range(place.size)), strict=True)
    if other := next((rank for rank in range(place.size) if started[rank] != started[0]), None):
        raise InputError(f"rank {other} was started with other words, or in another folder, than rank 0")
    return fair_core_share(
        cores, [{*theirs} for node, theirs in zip(nodes, bound, strict=True) if node == platform.node()]
    )
