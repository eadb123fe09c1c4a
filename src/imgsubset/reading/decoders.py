"""Decoding in parallel: the files of a source to a stream of pixels, in order and in bounded memory.

The decoding processes import Pillow but not torch, so they start in a tenth of a second and are at work while the
parent still imports torch. They share one unlinked temporary file with the parent, cut into slots of a few images,
and two pipes: the parent writes the number of a slot that is ready to be decoded, whichever process is free reads
it, and writes the number back when the pixels are there. All processes take from one queue, so a slow file holds
up nobody else, and when the parent dies, however it dies, they read the end of the queue and leave.

Before a process opens a file it claims it in the slot, so that the parent knows at which file one has died or is
stuck. It kills the stuck, refuses that file, and starts another process, which decodes the chunk anew without it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeAlias

from imgsubset.devices import usable_cores
from imgsubset.errors import InputError
from imgsubset.reading.images import Stamp, decode, reason

DECODE_SECONDS = 60.0  # that a process may be at one file
DEATH_SECONDS = 5.0  # that a killed process is waited for
LOSSES = 10  # processes that may be lost in a run: more than that is no matter of a few files
SHARED_BYTES = 64 << 20  # pixels that may wait to be consumed, unless two slots a process need more
FEW = 64  # below this many images, starting more than one process costs more than it saves
TEXT_BYTES = 4352  # for each image of a slot: its path on the way out, its stamp or reason on the way back
NUMBER = struct.Struct("=i")
Place: TypeAlias = tuple[int, int]  # a chunk, and which of its images
CLAIM = struct.Struct("=ii")  # which process is at a slot, and at which of its images
SERVE = (
    "import sys; sys.path[:] = sys.argv[5:]; import imgsubset.reading.decoders as d; d.serve(*map(int, sys.argv[1:5]))"
)


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

    workers  decoding processes, which start at once; None is one for each core, or a single one for few images;
             0 decodes in this process, as always on Windows, without a limit of time. Results do not depend on it.
    """
    if workers is None:
        workers = usable_cores() if len(paths) >= FEW else 1
    length = chunk_length(size)
    if workers == 0 or not paths or os.name != "posix":
        yield (_decode_here(root, paths[at : at + length], at, size) for at in range(0, len(paths), length))
        return
    with contextlib.closing(_Pool(root, paths, size, min(workers, -(-len(paths) // length)))) as pool:
        yield pool.chunks()


def _decode_here(root: Path, paths: Sequence[str], start: int, size: int) -> Chunk:
    slot = bytearray(_pixel_bytes(size))
    names = [os.fsencode(root / path) for path in paths]
    outcomes = tuple(_outcome(*item) for item in _decode_into(slot, 0, names, size, id))
    return Chunk(start, bytes(slot), outcomes)


def _outcome(size: int, mtime_ns: int, problem: str | None) -> Stamp | str:
    return Stamp(size, mtime_ns) if problem is None else problem


def _decode_into(
    buffer: bytearray | mmap.mmap, offset: int, paths: Sequence[bytes], size: int, claim: Callable[[int], object]
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
        self.queue_out, self.queue = os.pipe()
        self.results, self.results_in = os.pipe()
        self.done: set[int] = set()
        self.next = self.queued = 0
        self.refused: dict[int, str] = {}  # by the number of the image: why it is tried no more
        self.processes: list[subprocess.Popen[bytes]] = []
        self.losses, self.watched = 0, time.monotonic()
        self.stays: dict[tuple[int, Place], float] = {}  # seconds for which a process has been seen at a file
        self.idle = 0.0  # seconds for which none has been seen at any
        try:
            for _ in range(workers):
                self._start()
            self._fill()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        descriptors = self.shared.fileno(), self.queue_out, self.results_in
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", SERVE, *map(str, (*descriptors, self.size)), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then kills it
            )
        except OSError as error:
            raise InputError(f"no decoding process can be started: {reason(error, sys.executable)}") from error
        self.processes.append(process)

    def chunks(self) -> Iterator[Chunk]:
        for number in range(self.chunk_count):
            while number not in self.done:
                self._collect(0.25)
                self._watch()
            self.done.discard(number)
            chunk = self._take(number)
            self.next = number + 1
            self._fill()
            yield chunk

    def _fill(self) -> None:
        """Queue every chunk whose slot is free."""
        while self.queued < min(self.next + self.slots, self.chunk_count):
            self._put(self.queued)
            self.queued += 1

    def _put(self, number: int) -> None:
        """Queue a chunk; an empty path stands for a file that is refused."""
        first = number * self.length
        paths = enumerate(self.paths[first : first + self.length], first)
        names = [b"" if image in self.refused else os.fsencode(self.root / path) for image, path in paths]
        _put_claim(self.memory, number % self.slots, self.size, 0, 0)
        _put_text(self.memory, number % self.slots, self.size, b"\0".join(names))
        os.write(self.queue, NUMBER.pack(number))

    def _collect(self, seconds: float) -> None:
        """Take the numbers of finished chunks out of the pipe; wait for one, but no longer than this."""
        if select.select([self.results], [], [], seconds)[0]:
            self.done.update(number for (number,) in NUMBER.iter_unpack(os.read(self.results, 1 << 16)))
            self.idle = 0.0

    def _places(self) -> dict[int, Place]:
        """By process: the unfinished chunk that it is at, and at which of its images."""
        numbers = [number for number in range(self.next, self.queued) if number not in self.done]
        claims = [(number, *_get_claim(self.memory, number % self.slots, self.size)) for number in numbers]
        return {pid: (number, position) for number, pid, position in claims if pid}

    def _watch(self) -> None:
        """Look, some times a second, for processes that are dead or at one file for too long."""
        # Time away from here counts for little: after a suspension of all processes, none has been stuck.
        step = min(time.monotonic() - self.watched, 2.0)
        if step < 0.2:
            return
        self.watched = time.monotonic()
        codes = [process.poll() for process in self.processes]  # before the claims: those of the dead are final
        places = self._places()
        self.stays = {item: self.stays.get(item, -step) + step for item in places.items()}
        self.idle = 0.0 if places else self.idle + step
        if self.idle >= DECODE_SECONDS:
            raise InputError(f"the decoding processes have done nothing for {DECODE_SECONDS:g} s")
        for process, code in list(zip(self.processes, codes, strict=True)):
            place = places.get(process.pid)
            if code is not None:
                how = f"was killed by signal {-code}" if code < 0 else "failed"
                if place is None:  # as when it could not even start
                    raise InputError(f"a decoding process {how}; is there enough memory?")
                self._replace(process, place, f"the process decoding it {how}; is there enough memory?")
            elif place and self.stays[process.pid, place] >= DECODE_SECONDS:
                process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # a file system may hold it in the kernel:
                    process.wait(DEATH_SECONDS)  # then it dies later, and touches no memory any more
                self._replace(process, place, f"not decoded within {DECODE_SECONDS:g} s")

    def _replace(self, process: subprocess.Popen[bytes], place: Place, why: str) -> None:
        """Refuse the file at which a process was lost, and let another process go on with the chunk."""
        self.processes.remove(process)
        self._collect(0.0)
        last = self._places().get(process.pid)
        image = place[0] * self.length + place[1]
        if last == place:  # else it had gone on just before it was killed, maybe to another chunk
            self.refused[image] = why
        self.losses += 1
        if self.losses > LOSSES:
            raise InputError(f"{self.losses} decoding processes were lost, the last at '{self.paths[image]}': {why}")
        for number in {place[0], (last or place)[0]} - self.done:
            self._put(number)
        self._start()

    def _take(self, number: int) -> Chunk:
        first = number * self.length
        items = enumerate(json.loads(_get_text(self.memory, number % self.slots, self.size)), first)
        outcomes = tuple(self.refused.get(image) or _outcome(*item) for image, item in items)
        begin = number % self.slots * self.stride
        pixels = self.memory[begin : begin + _pixel_bytes(self.size)]
        return Chunk(first, pixels, outcomes)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(DEATH_SECONDS)
        for descriptor in (self.queue, self.queue_out, self.results, self.results_in):
            os.close(descriptor)
        self.memory.close()
        self.shared.close()


def serve(shared: int, queue: int, results: int, size: int) -> None:
    """A decoding process: take the numbers of chunks from the queue until it ends."""
    memory = mmap.mmap(shared, 0)
    stride = _stride(size)
    slots = len(memory) // stride
    while message := os.read(queue, NUMBER.size):
        # Should the parent be gone, nobody kills this process when it is caught in a loop: the kernel does, in the end.
        signal.setitimer(signal.ITIMER_PROF, DECODE_SECONDS * chunk_length(size))
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
    for folder in ("/dev/shm", tempfile.gettempdir()):
        if os.access(folder, os.W_OK):
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by the caller)
            try:
                # Reserve the pages: a small /dev/shm (64 MB in many containers) would else end in SIGBUS.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, length)
                file.truncate(length)
                return file
            except OSError:
                file.close()
    raise InputError(f"decoding needs {length:,} bytes, and neither memory nor '{tempfile.gettempdir()}' has them free")
