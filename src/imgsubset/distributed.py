"""Processes that torchrun or srun started together: the process group, and how the end of one ends all.

Signs of life, and the end of a run, go through the store that torch.distributed has met by.

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
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from imgsubset.devices import bound_cores, fair_core_share
from imgsubset.errors import ImgsubsetError, InputError, UsageError, short_repr

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

HEARTBEAT_SECONDS = 2.0  # between signs of life
MAX_MISSED_HEARTBEATS = (
    25  # beats without one after which a rank is lost: with what it takes to tell the others, within a minute
)
POLL_SECONDS = 0.05  # seconds between looks for what others write


class ProcessInfo(NamedTuple):
    """Which of how many processes this is, and which of those on its machine."""

    rank: int
    size: int
    local: int


class RunEnd(NamedTuple):
    """How a run ended: what went wrong, empty where rank 0 has said so itself; and the exit code of every rank."""

    message: str
    code: int


class HeartbeatMonitor:
    """Signs of life through a store: rank 0 looks for those of all others, and these for that of rank 0.

    Silence is counted in beats of this process, not in seconds: when all are suspended together, however long, none is
    lost. `ended` is called once, on a thread of this, when the run is over for another reason than `stop`.
    """

    def __init__(
        self, store: Store, place: ProcessInfo, ended: Callable[[RunEnd], None], beat: float = HEARTBEAT_SECONDS
    ) -> None:
        self.store, self.place, self.ended, self.beat = store, place, ended, beat
        self.others = range(1, place.size) if place.rank == 0 else range(1)
        self.last_heartbeats = dict.fromkeys(self.others, (b"", 0))  # the last sign, and how many beats ago
        self.rounds = 0
        self.over: RunEnd | None = None
        self.stopped = threading.Event()

    def start(self) -> None:
        """Give the first sign, and go on until `stop`."""
        self.round()
        for work in (self._send_heartbeats, self._watch_store):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """The run is over in order."""
        self.stopped.set()

    def round(self) -> RunEnd | None:
        """Give a sign of life and look for those of others; how the run has ended, if it has."""
        self.store.set(f"beat {self.place.rank}", str(self.rounds))
        self.rounds += 1
        for other, (before, silent) in self.last_heartbeats.items():
            sign = self.store.get(f"beat {other}") if self.store.check([f"beat {other}"]) else b""
            self.last_heartbeats[other] = (sign, 0 if sign != before else silent + 1)
            if self.last_heartbeats[other][1] >= MAX_MISSED_HEARTBEATS:
                return self.end(f"rank {other} gave no sign of life for {MAX_MISSED_HEARTBEATS * self.beat:.0f} s")
        return self._read_end()

    def told(self) -> RunEnd | None:
        """How the run has ended, as far as this rank can know."""
        with contextlib.suppress(RuntimeError):  # the store is gone, with whoever kept it
            self._read_end()
        return self.over

    def _read_end(self) -> RunEnd | None:
        """How the run has ended, as whoever ended it wrote."""
        if self.over is None and self.store.check(["over"]):
            self.over = RunEnd(*json.loads(self.store.get("over")))
        return self.over

    def end(self, message: str, code: int = ImgsubsetError.exit_code) -> RunEnd:
        """End the run for all ranks, unless that was done; how it ended."""
        with contextlib.suppress(RuntimeError):
            if self.store.add("ends", 1) == 1:
                self.store.set("over", json.dumps([message, code]))
        self.over = self.told() or RunEnd(message, code)
        return self.over

    def _send_heartbeats(self) -> None:
        end = None
        while end is None and not self.stopped.wait(self.beat):
            try:
                end = self.round()
            except RuntimeError:
                end = self.end("the store that the ranks have met by is gone, with rank 0 or its torchrun")
        with contextlib.suppress(RuntimeError):
            self.store.set(f"seen {self.place.rank}", "")
        self._finish(end)

    def _watch_store(self) -> None:
        """The store may not answer, nor say so."""
        rounds, silent = 0, 0
        while silent < MAX_MISSED_HEARTBEATS and not self.stopped.wait(self.beat):
            rounds, silent = self.rounds, silent + 1 if rounds == self.rounds else 0
        if not self.stopped.is_set():
            self._finish(
                RunEnd(
                    "the store that the ranks have met by gave no answer for "
                    f"{MAX_MISSED_HEARTBEATS * self.beat:.0f} s",
                    1,
                )
            )

    def wait_until_seen(self) -> None:
        """After an end of which not all ranks may know: let them see it, before the store goes with this process."""
        self.stop()
        with contextlib.suppress(RuntimeError):
            self.store.set(f"seen {self.place.rank}", "")
            for _ in range(round(2 * self.beat / POLL_SECONDS) if self.place.rank == 0 else 0):
                if self.store.check([f"seen {other}" for other in self.others]):
                    break
                time.sleep(POLL_SECONDS)

    def _finish(self, end: RunEnd | None) -> None:
        if end and not self.stopped.is_set():
            self.stopped.set()
            self.over = self.over or end
            self.ended(end)


T = TypeVar("T")
JOIN_TIMEOUT_SECONDS = 300.0  # in which all have to come
GROUP_TIMEOUT = timedelta(days=1000)  # a slow rank is not lost: that it is alive is told by its beats
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")


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
