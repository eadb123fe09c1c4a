"""Progress bars, and advice for errors of scarce resources: memory, threads, open files, disk space."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click
from tqdm import tqdm

from imgsubset.errors import ImgsubsetError

MEMORY_ADVICE = (
    "too little memory; a smaller --size, fewer --candidates or fewer --workers need less, and so do fewer images"
)
THREADS_ADVICE = (
    "no further thread or process can be started; raise the limit (ulimit -u or -v), or use fewer --workers"
)
OPEN_FILES_ADVICE = "too many open files; raise the limit (ulimit -n), or use fewer --workers"
DISK_SPACE_ADVICE = "no space left on a disk, for temporary files or in /dev/shm"
ADVICE_BY_ERRNO = {
    errno.EMFILE: OPEN_FILES_ADVICE,
    errno.ENFILE: OPEN_FILES_ADVICE,
    errno.ENOMEM: MEMORY_ADVICE,
    errno.EAGAIN: THREADS_ADVICE,
    errno.ENOSPC: DISK_SPACE_ADVICE,
    errno.EDQUOT: DISK_SPACE_ADVICE,
}
ADVICE_BY_PATTERN = {  # of a RuntimeError, most of them torch's
    r"can't allocate memory|bad_alloc|[Cc]annot allocate memory": MEMORY_ADVICE,
    r"could not (create|execute) a primitive": MEMORY_ADVICE,  # all that oneDNN says
    r"can't start new thread|thread initializer failed|Resource temporarily unavailable": THREADS_ADVICE,
    r"Too many open files": OPEN_FILES_ADVICE,
    r"No space left on device": DISK_SPACE_ADVICE,
}
ULIMIT_FLAGS = {"RLIMIT_AS": "-v", "RLIMIT_DATA": "-d"}  # what `ulimit` calls them
SAFE_LIMIT_BYTES = 16 << 30  # bytes, in which torch can always be loaded
MARGIN_BYTES = 256 << 20  # bytes that torch is loaded with to spare, since less is not told from too little
PROBE_SCRIPT = """
import resource, sys
sys.path[:] = sys.argv[3:]
resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]),) * 2)
import torch
"""
LIBRARY_ERROR_PATTERN = r"shared object|cannot allocate memory|failed to map|\.so\b|DLL"  # of an ImportError


def explain_resource_error(error: BaseException) -> str | None:
    """What there was too little of, and what to do, in one line; None if that is not why it failed."""
    first = reversed([*_exception_chain(error)])  # others may wrap it in pages of advice, as numpy does
    return next((said for one in first if (said := _find_advice(one))), None)


def lacks_threads() -> bool:
    """Whether no further thread can be started. OpenBLAS, as numpy loads it, raises SIGINT then."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return True
    return False


def check_memory_limit() -> None:
    """Raise ImgsubsetError if torch cannot be loaded within the limits of this process.

    With too little of it torch, or the loader of libraries, may abort, which no program can catch. So another process
    tries first, where there is a limit.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, letter in ULIMIT_FLAGS.items():
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit == resource.RLIM_INFINITY or limit >= SAFE_LIMIT_BYTES or importlib.util.find_spec("torch") is None:
            continue
        command = [sys.executable, "-c", PROBE_SCRIPT, name, str(max(0, limit - MARGIN_BYTES)), *sys.path]
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
            raise ImgsubsetError(
                f"torch cannot be loaded with the {limit / 1e9:.2f} GB of memory that this process may have; "
                f"raise the limit (ulimit {letter})"
            )


def _exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def _find_advice(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return MEMORY_ADVICE
    if isinstance(error, OSError) and error.errno in ADVICE_BY_ERRNO:
        name = f": '{error.filename}'" if error.filename is not None else ""
        return ADVICE_BY_ERRNO[error.errno] + name
    if isinstance(error, RuntimeError):
        return next((said for pattern, said in ADVICE_BY_PATTERN.items() if re.search(pattern, str(error))), None)
    if isinstance(error, ImportError) and re.search(LIBRARY_ERROR_PATTERN, str(error)):
        why = " ".join(str(error).split())
        return f"a library cannot be loaded ({why}); it needs more memory (ulimit -v), or to be installed again"
    return None


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
