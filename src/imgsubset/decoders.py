"""Decoding in parallel: the files of a source to a stream of pixels, in order and in bounded memory.

The decoding processes import Pillow but not torch, so they start in a tenth of a second and are at work while the
parent still imports torch. They share one unlinked temporary file with the parent, cut into slots of a few images,
and two pipes: the parent writes the number of a slot that is ready to be decoded, whichever process is free reads
it, and writes the number back when the pixels are there. All processes take from one queue, so a slow file holds
up nobody else, and when the parent dies, however it dies, they read the end of the queue and leave.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from imgsubset.cores import usable_cores
from imgsubset.errors import InputError
from imgsubset.images import Stamp, decode, reason

SHARED_BYTES = 64 << 20  # pixels that may wait to be consumed, unless two slots a process need more
FEW = 64  # below this many images, starting processes costs more than it saves
TEXT_BYTES = 4352  # for each image of a slot: its path on the way out, its stamp or reason on the way back
NUMBER = struct.Struct("=i")
CLAIM = struct.Struct("=ii")  # which process is at a slot, and at which of its images
SERVE = "import sys; sys.path[:] = sys.argv[5:]; import imgsubset.decoders as d; d.serve(*map(int, sys.argv[1:5]))"


@dataclass(frozen=True)
class Chunk:
    """The images start, start + 1, ... of the source, decoded.

    pixels    chunk_length * size * size * 3 bytes of RGB; those of an image that could not be decoded,
              or that is past the end, mean nothing
    outcomes  for each image its Stamp, or the reason why it could not be decoded
    """

    start: int
    pixels: bytes
    outcomes: tuple[Stamp | str, ...]


def chunk_length(size: int) -> int:
    """How many images are decoded, handed over and run through the network together: 32 up to 128 x 128.

    A chunk has always this length (the last is padded), whatever the number of processes: convolutions round
    differently for small batches, and the features of an image must not depend on its neighbours.
    """
    return max(1, min(32, 32 * 128**2 // size**2))


@contextlib.contextmanager
def decoded(root: Path, paths: Sequence[str], size: int, workers: int | None = None) -> Iterator[Iterator[Chunk]]:
    """A context whose value is an iterator over the decoded chunks of a source, in order.

    workers  decoding processes, which start at once; 0 decodes in this process; None is one for each core, or 0
             for few images. Results do not depend on it.
    """
    if workers is None:
        workers = usable_cores() if len(paths) >= FEW else 0
    length = chunk_length(size)
    if workers == 0 or not paths or os.name != "posix":
        yield (_decode_here(root, paths[at : at + length], at, size) for at in range(0, len(paths), length))
        return
    pool = _Pool(root, paths, size, min(workers, -(-len(paths) // length)))
    try:
        yield pool.chunks()
    finally:
        pool.close()


def _decode_here(root: Path, paths: Sequence[str], start: int, size: int) -> Chunk:
    slot = bytearray(_pixel_bytes(size))
    names = [os.fsencode(root / path) for path in paths]
    outcomes = tuple(_outcome(*item) for item in _decode_into(slot, 0, names, size))
    return Chunk(start, bytes(slot), outcomes)


def _outcome(size: int, mtime_ns: int, problem: str | None) -> Stamp | str:
    return Stamp(size, mtime_ns) if problem is None else problem


def _decode_into(
    buffer: bytearray | mmap.mmap,
    offset: int,
    paths: Sequence[bytes],
    size: int,
    claim: Callable[[int], None] = lambda position: None,
) -> Iterator[tuple[int, int, str | None]]:
    """Decode files one after another into a buffer; yield a stamp and a reason for each. `claim` precedes each."""
    length = size * size * 3
    for position, path in enumerate(paths):
        claim(position)
        try:
            pixels, stamp = decode(path, size)
        except Exception as error:  # hostile files raise far more than OSError
            yield 0, 0, reason(error, path)
        else:
            begin = offset + position * length
            buffer[begin : begin + length] = pixels
            yield stamp.size, stamp.mtime_ns, None


class _Pool:
    """The parent's side of the decoding processes."""

    def __init__(self, root: Path, paths: Sequence[str], size: int, workers: int) -> None:
        self.root, self.paths, self.size = root, paths, size
        self.length = chunk_length(size)
        self.chunk_count = -(-len(paths) // self.length)
        self.stride = _stride(size)
        slots = max(2 * workers, SHARED_BYTES // self.stride)
        self.slots = min(slots, self.chunk_count)
        self.shared = _shared_file(self.slots * self.stride)
        self.memory = mmap.mmap(self.shared.fileno(), self.slots * self.stride)
        queue_out, self.queue = os.pipe()
        self.results, results_in = os.pipe()
        self.done: set[int] = set()
        self.queued = 0
        numbers = [str(number) for number in (self.shared.fileno(), queue_out, results_in, size)]
        command = [sys.executable, "-c", SERVE, *numbers, *sys.path]
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(workers):
                self.processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        pass_fds=(self.shared.fileno(), queue_out, results_in),
                        start_new_session=True,  # Ctrl-C reaches the parent alone, which then closes the queue
                    )
                )
            self._fill(consumed=0)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(queue_out)
            os.close(results_in)

    def chunks(self) -> Iterator[Chunk]:
        for number in range(self.chunk_count):
            while number not in self.done:
                self._wait()
            self.done.discard(number)
            chunk = self._take(number)
            self._fill(consumed=number + 1)
            yield chunk

    def _fill(self, consumed: int) -> None:
        """Queue every chunk whose slot is free."""
        while self.queued < min(consumed + self.slots, self.chunk_count):
            names = self.paths[self.queued * self.length : (self.queued + 1) * self.length]
            slot = self.queued % self.slots
            _put_text(self.memory, slot, self.size, b"\0".join(os.fsencode(self.root / name) for name in names))
            os.write(self.queue, NUMBER.pack(self.queued))
            self.queued += 1

    def _wait(self) -> None:
        """Wait for a process to finish a chunk."""
        ready, _, _ = select.select([self.results], [], [], 1.0)
        if ready and (data := os.read(self.results, 1 << 16)):
            self.done.update(number for (number,) in NUMBER.iter_unpack(data))
            return
        for process in self.processes:
            if process.poll() is not None:
                raise InputError(self._obituary(process))

    def _obituary(self, process: subprocess.Popen[bytes]) -> str:
        """What a process was at when it ended too early."""
        how = f"was killed by signal {-process.returncode}" if process.returncode < 0 else "failed"
        for number in range(self.queued - self.slots, self.queued):
            pid, position = _get_claim(self.memory, number % self.slots, self.size)
            if pid == process.pid and number not in self.done:
                path = self.paths[number * self.length + position]
                return f"the process decoding '{path}' {how}; is there enough memory?"
        return f"a decoding process {how}; is there enough memory?"

    def _take(self, number: int) -> Chunk:
        slot = number % self.slots
        outcomes = json.loads(_get_text(self.memory, slot, self.size))
        begin = slot * self.stride
        pixels = self.memory[begin : begin + _pixel_bytes(self.size)]
        return Chunk(number * self.length, pixels, tuple(_outcome(*item) for item in outcomes))

    def close(self) -> None:
        os.close(self.queue)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        os.close(self.results)
        self.memory.close()
        self.shared.close()


def serve(shared: int, queue: int, results: int, size: int) -> None:
    """A decoding process: take the numbers of chunks from the queue until it ends."""
    memory = mmap.mmap(shared, 0)
    stride = _stride(size)
    slots = len(memory) // stride
    while message := os.read(queue, NUMBER.size):
        (number,) = NUMBER.unpack(message)
        slot = number % slots
        paths = _get_text(memory, slot, size).split(b"\0")
        claim = partial(_put_claim, memory, slot, size, os.getpid())
        outcomes = list(_decode_into(memory, slot * stride, paths, size, claim))
        _put_claim(memory, slot, size, 0, 0)
        _put_text(memory, slot, size, json.dumps(outcomes).encode())
        os.write(results, message)


def _pixel_bytes(size: int) -> int:
    return chunk_length(size) * size * size * 3


def _stride(size: int) -> int:
    """Bytes of a slot: the pixels of a chunk, a claim, the length of a text, the text."""
    return _pixel_bytes(size) + CLAIM.size + NUMBER.size + chunk_length(size) * TEXT_BYTES


def _put_claim(memory: mmap.mmap, slot: int, size: int, pid: int, position: int) -> None:
    CLAIM.pack_into(memory, slot * _stride(size) + _pixel_bytes(size), pid, position)


def _get_claim(memory: mmap.mmap, slot: int, size: int) -> tuple[int, int]:
    pid, position = CLAIM.unpack_from(memory, slot * _stride(size) + _pixel_bytes(size))
    return pid, position


def _put_text(memory: mmap.mmap, slot: int, size: int, text: bytes) -> None:
    begin = slot * _stride(size) + _pixel_bytes(size) + CLAIM.size
    memory[begin : begin + NUMBER.size + len(text)] = NUMBER.pack(len(text)) + text


def _get_text(memory: mmap.mmap, slot: int, size: int) -> bytes:
    begin = slot * _stride(size) + _pixel_bytes(size) + CLAIM.size + NUMBER.size
    (length,) = NUMBER.unpack(memory[begin - NUMBER.size : begin])
    return memory[begin : begin + length]


def _shared_file(length: int) -> IO[bytes]:
    """An unlinked temporary file, in memory where there is room for it."""
    for folder in ("/dev/shm", None):
        if folder is None or os.access(folder, os.W_OK):
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by the caller)
            try:
                # Reserve the pages: a small /dev/shm (64 MB in many containers) would else end in SIGBUS.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, length)
                file.truncate(length)
                return file
            except OSError:
                file.close()
                if folder is None:
                    raise
    raise AssertionError
