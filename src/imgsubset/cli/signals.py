"""Ctrl-C, SIGTERM and SIGHUP: what they end, and how soon."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TypeAlias

from imgsubset.cli.output import Output
from imgsubset.cli.terminal import ProgressBar

FATAL_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler: TypeAlias = Callable[[int, "FrameType | None"], None]
SEARCH_STAGES = ("draw", "exchange")  # the stages of a search


class EndedBySignal(BaseException):
    """Raised in the main thread, so that whatever is open is closed and temporary files are removed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextlib.contextmanager
def handle_signals(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Signals go to a handler; those that the parent ignores, as nohup does with SIGHUP and a shell with the SIGINT of
    background jobs, stay ignored."""
    before = {number: signal.signal(number, handler) for number in _not_ignored(numbers)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            if signal.getsignal(number) == handler:  # the program is not about to leave
                signal.signal(number, earlier)


def _not_ignored(numbers: Sequence[signal.Signals]) -> list[signal.Signals]:
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def exit_on_signal(number: int, _frame: FrameType | None = None) -> None:
    """End the program in order; from now on a signal ends it where it stands."""
    for other in _not_ignored(FATAL_SIGNALS):
        signal.signal(other, lambda later, _: os._exit(128 + later))
    raise EndedBySignal(number)


def restore_defaults() -> None:
    """Let a signal end the program where it stands, without a word, as it does any program that handles none."""
    for number in _not_ignored(FATAL_SIGNALS):
        signal.signal(number, signal.SIG_DFL)


class Interrupt:
    """While the search runs, the first Ctrl-C asks it to end with the best so far; any other ends the program.

    It is the `stop` of a task, which asks it during the search, and hears of the other stages by `progress`.
    """

    def __init__(self, bars: ProgressBar) -> None:
        self.bars = bars
        self.searching = self.asked = False

    def __call__(self) -> bool:
        self.searching = True
        return self.asked

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Pass on what a task tells."""
        if stage.rpartition(": ")[2].split(" ")[0] not in SEARCH_STAGES:  # as in `train: draw`, `draw n=10`
            self.searching = False
        self.bars(stage, done, total, note)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Ask, or leave."""
        if self.asked or not self.searching:
            exit_on_signal(number)
        self.asked = True
        self.bars.say("imgsubset: ending the search with the best so far; Ctrl-C again to leave at once")


@contextlib.contextmanager
def interruptible(out: Output) -> Iterator[Interrupt]:
    """A context in which Ctrl-C is as `Interrupt` has it, and progress is shown."""
    with out.bars() as bars:
        interrupt = Interrupt(bars)
        with handle_signals(interrupt.handle, signal.SIGINT):
            yield interrupt
