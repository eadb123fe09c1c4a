"""How long work tells of its progress, to whoever wants to show it, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told of long work: the stage, how many of its parts were just done, how many there are, and a word on it."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """No progress is shown."""


class Clock:
    """Wall time of named stages, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to the stage's; that of stages within it is theirs."""
        start, others = time.perf_counter(), sum(self.seconds.values())
        yield
        within = sum(self.seconds.values()) - others
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start - within
