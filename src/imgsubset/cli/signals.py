"""Ctrl-C, SIGTERM and SIGHUP: what they end, and how soon."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

import click

from imgsubset.progress import Progress

FATAL = ("SIGINT", "SIGTERM", "SIGHUP")
SEARCHING = ("draw", "exchange")  # the stages of a search


class EndedBySignal(BaseException):
    """Raised in the main thread, so that whatever is open is closed and temporary files are removed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """The first signal ends the program in order, the next at once. One that the parent ignores, as nohup does with
    SIGHUP and a shell with the SIGINT of background jobs, stays ignored."""
    before = {}
    for name in FATAL:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # not in the main thread
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, _frame: FrameType | None = None) -> None:
    """End the program in order; from now on a signal ends it where it stands."""
    for name in FATAL:
        other = getattr(signal, name, None)
        if other is not None and signal.getsignal(other) is not signal.SIG_IGN:
            signal.signal(other, lambda later, _: os._exit(128 + later))
    raise EndedBySignal(number)


class Interrupt:
    """While the search runs, the first Ctrl-C asks it to end with the best so far; any other ends the program.

    It is the `stop` of a task, which asks it during the search, and hears of the other stages by `progress`.
    """

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.searching = self.asked = False

    def __call__(self) -> bool:
        self.searching = True
        return self.asked

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Pass on what a task tells."""
        if stage.rpartition(": ")[2].split(" ")[0] not in SEARCHING:  # as in `train: draw`, `draw n=10`
            self.searching = False
        self.bars(stage, done, total, note)

    def __enter__(self) -> Interrupt:
        self.before = signal.getsignal(signal.SIGINT)
        if self.before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self.handle)
        return self

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Ask, or leave."""
        if self.asked or not self.searching:
            leave(number)
        self.asked = True
        with contextlib.suppress(OSError):
            click.echo("\nimgsubset: ending the search with the best so far; Ctrl-C again to leave at once", err=True)

    def __exit__(self, *_: object) -> None:
        if signal.getsignal(signal.SIGINT) == self.handle:
            signal.signal(signal.SIGINT, self.before)
