"""Decoding in parallel: files to a stream of pixels, in order and in bounded memory.

The decoding processes import Pillow but not torch, so they start in a tenth of a second and are at work while the
parent still imports torch. Each is served by one thread at a time, which sends it the names of a chunk of files through
a pipe, and reads a frame for each file. A process that dies, or is killed because it is stuck, is replaced, and the
next is given the rest of the chunk file by file: at which of them it is lost too, that one is refused. When the parent
dies, however it dies, the processes read the end of their pipe and leave.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from typing import IO

from imgsubset.devices import usable_cores
from imgsubset.errors import InputError
from imgsubset.files import Stamp
from imgsubset.reading.images import NUMBERS, Decoded, decode, reason

DECODE_SECONDS = 60.0  # that a process may be at one file
STEP_SECONDS = 0.1  # in which these are counted: of a suspension of all processes only one counts
DEATH_SECONDS = 5.0  # that a killed process is waited for
LOSSES = 10  # processes that may be lost in a run: more than that is no matter of a few files
WAITING_BYTES = 64 << 20  # pixels that may wait to be consumed, unless two chunks a process need more
FEW = 64  # below this many images, starting more than one process costs more than it saves
FLUSH_SECONDS = 0.05  # after which a process tells what it has: the reader of many frames is woken less often
REQUEST = struct.Struct("=I")  # bytes of names that follow
FRAME = struct.Struct(f"=iqqi{len(NUMBERS)}d")  # bytes of a reason, or -1 and what the picture is; either follows
SERVE = "import sys; sys.path[:] = sys.argv[2:]; import imgsubset.reading.decoders as d; d.serve(sys.argv[1])"


@dataclass(frozen=True)
class Chunk:
    """The files start, start + 1, ..., decoded.

    pixels    by size, chunk_length * size * size * 3 bytes of RGB; those of a file that could not be decoded, or that
              is past the end, mean nothing
    outcomes  what each file is, or the reason why it could not be decoded
    """

    start: int
    pixels: dict[int, bytearray] = field(repr=False)
    outcomes: list[Decoded | str]

    @classmethod
    def empty(cls, start: int, sizes: Sequence[int]) -> Chunk:
        """With room for pixels of these sizes."""
        return cls(start, {size: bytearray(chunk_length(sizes) * size * size * 3) for size in sizes}, [])

    def room(self) -> list[memoryview]:
        """Where the pixels of the next file belong, by sizes."""
        at, lengths = len(self.outcomes), {size: size * size * 3 for size in self.pixels}
        return [memoryview(self.pixels[size])[at * n : (at + 1) * n] for size, n in lengths.items()]


def chunk_length(sizes: Sequence[int]) -> int:
    """How many images are decoded, handed over and run through the networks together: 32 up to 128 x 128.

    A chunk has always this length (the last is padded), whatever the number of processes: convolutions round
    differently for small batches, and the features of an image must not depend on its neighbours.
    """
    return max(1, min(32, 32 * 128**2 // max(sizes) ** 2))


@contextlib.contextmanager
def decoded(files: Sequence[bytes], sizes: Sequence[int], workers: int | None = None) -> Iterator[Iterator[Chunk]]:
    """A context whose value is an iterator over the decoded chunks of files, in order.

    sizes    sides of the squares that each picture is resized to, in pixels
    workers  decoding processes, which start at once; None is one for each core, or a single one for few images;
             0 decodes in this process, without a limit of time. Results do not depend on it.

    Iterating raises InputError if processes cannot be started, or too many are lost.
    """
    if workers is None:
        workers = usable_cores() if len(files) >= FEW else 1
    length = chunk_length(sizes)
    starts = range(0, len(files), length)
    if workers == 0 or not files:
        yield (_decode_here(files[start : start + length], start, sizes) for start in starts)
        return
    losses: list[str] = []
    processes = [_Process(sizes, losses) for _ in starts[:workers]]
    idle: SimpleQueue[_Process] = SimpleQueue()
    for process in processes:
        idle.put(process)

    def work(start: int) -> Chunk:
        process = idle.get()  # there are as many as threads
        try:
            return process.decode(files[start : start + length], start)
        finally:
            idle.put(process)

    with ThreadPoolExecutor(len(processes)) as threads:
        waiting = max(2 * len(processes), WAITING_BYTES // sum(3 * length * size * size for size in sizes))
        rest = iter(starts)
        chunks = deque(threads.submit(work, start) for start in islice(rest, waiting))

        def in_order() -> Iterator[Chunk]:
            while chunks:
                yield chunks.popleft().result()
                chunks.extend(threads.submit(work, start) for start in islice(rest, 1))

        try:
            yield in_order()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.over = True
    for process in processes:
        process.end()


def _decode_here(files: Sequence[bytes], start: int, sizes: Sequence[int]) -> Chunk:
    chunk = Chunk.empty(start, sizes)
    for file in files:
        outcome, pixels = _outcome(file, sizes)
        for room, part in zip(chunk.room(), pixels, strict=False):
            room[:] = part
        chunk.outcomes.append(outcome)
    return chunk


def _outcome(file: bytes, sizes: Sequence[int]) -> tuple[Decoded | str, list[bytes]]:
    """What a file is and its pixels by sizes; or the reason why it cannot be decoded, and none."""
    try:
        return decode(file, sizes)
    except Exception as error:  # hostile files raise far more than OSError
        return reason(error, file), []


class _Process:
    """A decoding process, which is started when it is needed, and again when it was lost.

    losses  shared by all processes: at which files they were lost, and why
    over    set by another thread when nobody wants more pixels: then waiting ends with an OSError
    """

    def __init__(self, sizes: Sequence[int], losses: list[str]) -> None:
        self.sizes, self.losses, self.over = sizes, losses, False
        self.process: subprocess.Popen[bytes] | None = None
        self.received = bytearray()

    def decode(self, files: Sequence[bytes], start: int) -> Chunk:
        """Decode files; refuse those at which the process is lost. Raises InputError if that happens too often."""
        chunk, together = Chunk.empty(start, self.sizes), True
        while rest := files[len(chunk.outcomes) :]:
            asked = rest if together else rest[:1]
            names = b"\0".join(asked)
            try:
                self._started().write(REQUEST.pack(len(names)) + names)
                for _ in asked:
                    chunk.outcomes.append(self._answer(chunk.room()))
            except (BrokenPipeError, EOFError, TimeoutError) as error:
                how = self.end()
                if not together:
                    stuck = isinstance(error, TimeoutError)
                    why = str(error) if stuck else f"the process decoding it {how}; is there enough memory?"
                    chunk.outcomes.append(why)
                    self.losses.append(f"'{os.fsdecode(asked[0])}': {why}")
                    if len(self.losses) > LOSSES:
                        count = f"{len(self.losses)} decoding processes were lost"
                        raise InputError(f"{count}, the last at {self.losses[-1]}") from None
                together = False
        return chunk

    def _started(self) -> IO[bytes]:
        """The pipe to the process. Raises InputError if none can be started."""
        if self.process is None:
            command = [sys.executable, "-c", SERVE, ",".join(map(str, self.sizes)), *sys.path]
            pipe = subprocess.PIPE
            try:  # in a session of its own: Ctrl-C reaches the parent alone, which then ends it
                self.process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, start_new_session=True)
                self._read(1)
            except EOFError:
                raise InputError(f"a decoding process {self.end()}; is there enough memory?") from None
            except TimeoutError:
                raise InputError(f"the decoding processes have done nothing for {DECODE_SECONDS:g} s") from None
            except OSError as error:
                raise InputError(f"no decoding process can be started: {reason(error, sys.executable)}") from error
        assert self.process.stdin is not None
        return self.process.stdin

    def _answer(self, room: list[memoryview]) -> Decoded | str:
        """What the next file is, whose pixels are put into `room`, or the reason why not. Raises EOFError."""
        length, size, seconds, nanoseconds, *numbers = FRAME.unpack(self._read(FRAME.size))
        if length >= 0:
            return self._read(length).decode(errors="surrogateescape")
        for view in room:
            view[:] = self._read(len(view))
        return Decoded(Stamp(size, seconds * 10**9 + nanoseconds), tuple(numbers))

    def _read(self, count: int) -> bytes:
        """So many bytes of answers. Raises EOFError if the process dies, TimeoutError if it says nothing for long."""
        assert self.process is not None
        assert self.process.stdout is not None
        poll, waited = select.poll(), 0.0
        poll.register(self.process.stdout, select.POLLIN)
        while len(self.received) < count:
            while not poll.poll(1000 * STEP_SECONDS):
                waited += STEP_SECONDS
                if self.over:
                    raise OSError("nobody wants more pixels")
                if waited >= DECODE_SECONDS:
                    raise TimeoutError(f"not decoded within {DECODE_SECONDS:g} s")
            some = os.read(self.process.stdout.fileno(), 1 << 20)
            if not some:
                raise EOFError
            self.received += some
            waited = 0.0
        taken = bytes(self.received[:count])
        del self.received[:count]
        return taken

    def end(self) -> str:
        """Kill the process, if there is one, and close its pipes. Returns how it ended, if it had by itself."""
        process, self.process = self.process, None
        self.received.clear()
        if process is None or process.stdin is None or process.stdout is None:
            return ""
        if select.select([process.stdout], [], [], 0)[0]:  # it has closed its pipe, and dies
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(DEATH_SECONDS)
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a file system may hold it in the kernel
            process.wait(DEATH_SECONDS)
        for pipe in (process.stdin, process.stdout):
            pipe.close()
        code = process.returncode or 0
        return f"was killed by signal {-code}" if code < 0 else "failed"


def serve(sizes: str) -> None:
    """A decoding process: decode the files that it is asked for until the requests end."""
    sides = [int(size) for size in sizes.split(",")]
    requests, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb", 1 << 20)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints must not get between the frames
    answers.write(b"\0")
    answers.flush()
    while head := requests.read(REQUEST.size):
        flushed = time.monotonic()
        for file in requests.read(*REQUEST.unpack(head)).split(b"\0"):
            # Should the parent be gone, nobody kills this process when it is caught in a loop: the kernel does.
            signal.setitimer(signal.ITIMER_PROF, 2 * DECODE_SECONDS)
            outcome, pixels = _outcome(file, sides)
            if isinstance(outcome, str):
                text = outcome.encode(errors="surrogateescape")
                answers.write(FRAME.pack(len(text), 0, 0, 0, *[0.0] * len(NUMBERS)) + text)
            else:
                when = divmod(outcome.stamp.mtime_ns, 10**9)
                frame = FRAME.pack(-1, outcome.stamp.size, *when, *outcome.numbers)
                answers.write(b"".join([frame, *pixels]))
            if time.monotonic() - flushed > FLUSH_SECONDS:
                answers.flush()
                flushed = time.monotonic()
        answers.flush()
