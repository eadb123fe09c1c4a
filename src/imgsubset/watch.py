"""How processes that work together notice that one of them is gone, and how all of them end.

Signs of life, and the end of a run, go through the store that torch.distributed has met by.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from imgsubset.errors import ImgsubsetError

if TYPE_CHECKING:  # a process that works alone imports no torch.distributed
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
                    f"the store that the ranks have met by gave no answer for {MAX_MISSED_HEARTBEATS * self.beat:.0f} s",
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
