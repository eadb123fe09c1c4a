"""Progress bars on a terminal."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from typing import Any

import click
from tqdm import tqdm

ECHO_COLUMNS = len("^C^C")  # what a terminal may write behind a bar
CLEAR_LINE = "\r\x1b[K"


class ProgressBar:
    """Progress on stderr, see `imgsubset.progress.Progress`: one bar at a time, which goes when the next stage begins.

    Nothing is shown when quiet, nor off a terminal, nor on one that is dumb, which cannot go back in a line.
    """

    def __init__(self, quiet: bool) -> None:
        stderr = sys.stderr
        self.hidden = quiet or stderr is None or not stderr.isatty() or os.environ.get("TERM") == "dumb"
        self.stage = ""
        self.left = 0.0  # parts of it
        self.bar: tqdm[Any] | None = None

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Tell of progress; `done` is 0 of a stage that has no parts to tell of."""
        if self.hidden:
            return
        if self.bar is None or stage != self.stage or not self.left:
            self.close()
            if not done:
                return
            self.stage, self.left = stage, total or math.inf
            self.bar = tqdm(
                desc=stage, total=total or None, unit="", leave=False, ncols=_max_bar_columns(), file=sys.stderr
            )
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done)
        self.left = max(0.0, self.left - done)
        if not self.left:
            self.bar.refresh()  # tqdm shows no second state within a tenth of a second

    def say(self, text: str) -> None:
        """Print a line; a bar goes on under it. Safe in a handler of signals."""
        with contextlib.suppress(OSError, RuntimeError):  # the latter if the signal came amid a write
            self._clear_line()
            click.echo(text, err=True)

    def close(self) -> None:
        """Remove the bar that is shown."""
        bar, self.bar = self.bar, None
        with contextlib.suppress(OSError):  # the terminal may be gone, which is not for here to tell
            if bar is not None:
                bar.close()
            self._clear_line()

    def _clear_line(self) -> None:
        """Also of a bar that a signal cut off while it was made, and of what was typed."""
        if not self.hidden:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()


def _max_bar_columns() -> int | None:
    """How wide a bar may be: what is typed beside it must not begin a new line. None leaves that to tqdm."""
    try:
        return max(os.get_terminal_size(sys.stderr.fileno()).columns - ECHO_COLUMNS, 1)
    except (OSError, ValueError):  # not a real terminal
        return None
