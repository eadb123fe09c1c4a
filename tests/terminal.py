"""A terminal to run the program on, and what stands on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import time
from dataclasses import dataclass

import pyte
from forked import Forked

LINES = 60
# As a shell starts a program: the terminal is its own, so that a typed Ctrl-C reaches it.
START = """
import fcntl, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from imgsubset.cli import main
main()
"""


def open_terminal(columns: int) -> tuple[int, int]:
    """The two ends of a terminal: the reader of its screen, and what programs write to."""
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    return screen, end


def drawn(written: bytes, columns: int) -> list[str]:
    """The lines of a screen after these bytes, without trailing blanks and the empty lines at the end."""
    screen = pyte.Screen(columns, LINES)
    pyte.ByteStream(screen).feed(written)
    return "\n".join(line.rstrip() for line in screen.display).rstrip().split("\n")


def wrapped(text: str, columns: int) -> list[str]:
    """The lines of a screen with nothing but a text."""
    return drawn(text.replace("\n", "\r\n").encode(), columns)


@dataclass
class Ended:
    """A run on a terminal: its exit code, and all that was written."""

    code: int
    written: bytes
    columns: int

    @property
    def screen(self) -> list[str]:
        """What stands on the screen in the end."""
        return drawn(self.written, self.columns)


def on_terminal(columns: int, *arguments: object, ctrl_c_at: bytes | None = None, **environment: str) -> Ended:
    """Run the program on a terminal; type Ctrl-C when these bytes were written."""
    reader, end = open_terminal(columns)
    streams = {"stdin": end, "stdout": end, "stderr": end}
    process = Forked(START, *arguments, env={**os.environ, "TERM": "xterm", **environment}, **streams)
    os.close(end)
    written = b""
    try:
        while block := os.read(reader, 1 << 16):
            written += block
            if ctrl_c_at and ctrl_c_at in written:
                time.sleep(0.25)  # until that is written: a signal amid a write has nothing said
                os.write(reader, b"\x03")
                ctrl_c_at = None
    except OSError:  # Linux ends a terminal that nobody writes to by an error
        pass
    os.close(reader)
    return Ended(process.wait(240), written, columns)
