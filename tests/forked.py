"""Processes that run the program and need not import it: each is forked from one that has, which takes seconds.

Such a process has arguments, streams, an environment and a session of its own, and its interpreter ends as any other
does. Tests of how a process starts, of what it imports, or of limits that bind it start a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import IO, Any

Stream = IO[Any] | int
MAIN = "from imgsubset.cli import main; main()"
ROUGH_DRAWS = 32  # of a baseline that is not what is tested
SHORT = {"candidates": 64, "steps": 8}  # of a search by default, where it is not what is tested


def shortened(find: Callable[..., Any]) -> Callable[..., Any]:
    """A search that draws and exchanges little, where its options are as by default."""

    def short(objective: Any, options: Any, *rest: Any, **named: Any) -> Any:
        few = {name: few for name, few in SHORT.items() if getattr(options, name) == getattr(type(options)(), name)}
        return find(objective, dataclasses.replace(options, **few), *rest, **named)

    return short


def roughly() -> dict[tuple[Any, str], Any]:
    """By owner and name what to put there, for losses in units of few random subsets and for short searches."""
    from imgsubset.search import find as finding
    from imgsubset.statistics.objective import make_objective

    within: Any = make_objective.__wrapped__  # type: ignore[attr-defined]  # its decorator hands on what it is given
    return {(finding, "find"): shortened(finding.find), (within, "__defaults__"): (None, ROUGH_DRAWS)}


class Forked:
    """A process, with what a test asks of a `subprocess.Popen`."""

    def __init__(
        self,
        code: str,
        *arguments: object,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> None:
        asked = [code, [*map(str, arguments)], dict(os.environ if env is None else env), os.getcwd()]
        reader, told = os.pipe()
        self._status = os.fdopen(reader, "rb")
        self.stdout, stdout = piped(stdout)
        self.stderr, stderr = piped(stderr)
        self.returncode: int | None = None
        with tempfile.TemporaryFile() as request, open(os.devnull, "r+b") as nothing, open(told, "wb"):
            request.write(json.dumps(asked).encode())
            request.seek(0)
            streams = [nothing if stream == subprocess.DEVNULL else stream for stream in (stdin, stdout, stderr)]
            files = [getattr(file, "fileno", lambda file=file: file)() for file in (request, told, *streams)]
            socket.send_fds(origin(), [b"?"], files)
        for pipe, stream in ((self.stdout, stdout), (self.stderr, stderr)):
            if pipe:
                os.close(stream)
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        """The exit code, or minus the signal, once it has ended."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> list[bytes]:
        """Wait for its end; what it has said on stdout and stderr, each of which must fit into a pipe."""
        self.wait(timeout)
        return [rest_of(pipe) for pipe in (self.stdout, self.stderr)]

    def send_signal(self, number: int) -> None:
        """Send it a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it unless it has ended."""
        self.send_signal(signal.SIGKILL)


def rest_of(pipe: IO[bytes] | None) -> bytes:
    """What can still be read from a pipe."""
    if pipe is None or pipe.closed:
        return b""
    with pipe:
        return pipe.read()


def piped(stream: Stream) -> tuple[IO[bytes] | None, Stream]:
    """The end of a pipe to read from, and the one to write to; or the stream, where no pipe is asked for."""
    if stream != subprocess.PIPE:
        return None, stream
    reader, writer = os.pipe()
    return os.fdopen(reader, "rb"), writer


@functools.cache
def origin() -> socket.socket:
    """The way to the process that all are forked from; it ends with this one."""
    here, there = socket.socketpair()
    with there:
        process = subprocess.Popen(
            [sys.executable, __file__, str(there.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
            start_new_session=True,
        )

    @atexit.register
    def end() -> None:
        here.close()
        process.wait()

    return here


def serve(connection: socket.socket) -> str:
    """Fork a process at each request; return in each what it is to run."""
    while True:
        word, files, *_ = socket.recv_fds(connection, 1, 5)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not word:
            os._exit(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that libraries have threads, which wait for work
            if not os.fork():
                break
        for file in files:
            os.close(file)
    connection.close()
    request, told, *streams = files
    with open(request, "rb") as asked:
        code, arguments, environment, folder = json.load(asked)
    if child := os.fork():  # this process waits for that one
        for file in streams:
            os.close(file)
        os.write(told, f"{child}\n".encode())
        os.write(told, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
        os._exit(0)
    os.close(told)
    os.setsid()
    for number, file in enumerate(streams):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace")
    sys.argv[1:] = arguments
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    return code


if __name__ == "__main__":
    import imgsubset

    del sys.path[0]  # the tests
    for module in pkgutil.walk_packages(imgsubset.__path__, "imgsubset."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for place, value in roughly().items():
        setattr(*place, value)
    exec(serve(socket.socket(fileno=int(sys.argv[1]))), {"__name__": "__main__"})
