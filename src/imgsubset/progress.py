"""How long work tells of its progress, to whoever wants to show it, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from imgsubset.errors import UsageError, short_repr


class Progress(Protocol):
    """Told of long work: the stage, how many of its parts were just done, how many there are, 0 if nobody knows, and a
    word on it."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


def no_progress(stage: str, done: int, total: int, note: str = "") -> None:
    """No progress is shown."""


class TqdmProgress:
    """Progress as bars of tqdm's, on stderr or in a notebook: one at a time, which ends with its stage."""

    def __init__(self) -> None:
        self.stage = ""
        self.bar: Any = None

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Tell of progress; `done` is 0 of a stage that has no parts to tell of."""
        from tqdm.auto import tqdm

        if self.bar is None or stage != self.stage:
            if self.bar is not None:
                self.bar.close()
            self.stage, self.bar = stage, tqdm(desc=stage, total=total or None, unit="") if done else None
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(done)
            if self.bar.n >= total > 0:
                self.bar.close()  # which shows the last state
                self.bar = None


def as_progress(progress: Progress | bool | None) -> Progress:
    """Whom to tell of progress: True shows bars, False and None nothing. Raises UsageError for what is no function."""
    if isinstance(progress, bool) or progress is None:
        return TqdmProgress() if progress else no_progress
    if not callable(progress):
        raise UsageError(f"progress {short_repr(progress)} is neither True or False nor a function to be told")
    return progress


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
