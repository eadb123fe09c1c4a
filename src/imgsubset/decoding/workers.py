"""Decoding in worker processes: image files to a stream of pixels, in order and in bounded memory.

The decoding processes import Pillow but not torch, so they start in a tenth of a second and are at work while the
parent still imports torch. Each decodes one chunk at a time, for a thread of the parent that waits for it. The pixels
come back in shared memory, and there the process also notes at which file it is: so the thread knows which one to
refuse when the process dies or is stuck, and has another process decode the chunk without it. When the parent dies,
however it dies, the processes read the end of their connections and leave.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, count, islice, pairwise
from pathlib import Path
from typing import IO, Any

from imgsubset.decoding.decode import ImageInfo, decode_image, explain_failure, square_bytes
from imgsubset.devices import usable_cores
from imgsubset.errors import ImgsubsetError, InputError
from imgsubset.files import N_IO_THREADS, Stamp
from imgsubset.sources.archive_members import (
    AnyFile,
    Extent,
    InMemoryFile,
    SendableFile,
    file_from_json,
    file_to_json,
    make_sendable,
)

MAX_DECODE_SECONDS = 60.0  # that a process may be at one file
POLL_SECONDS = (
    0.25  # seconds in which these are counted: of a suspension of all processes, however long, one step counts
)
KILL_WAIT_SECONDS = 5.0  # that a killed process is waited for
MAX_LOST_PROCESSES = 10  # processes that may be lost in a run: more than that is no matter of a few files
MAX_QUEUED_BYTES = 64 << 20  # pixels that may wait to be consumed, unless two chunks a process need more
MIN_PARALLEL_IMAGES = 64  # below this many images, starting more than one process costs more than it saves
WORKER_CODE = "import sys; sys.path[:] = sys.argv[2:]; import imgsubset.decoding.workers as d; d.serve(sys.argv[1])"


@dataclass(frozen=True)
class Chunk:
    """The files start, start + 1, ..., decoded.

    pixels    by size, the RGB of chunk_length squares, bytes or, for PUBLISHED, float32; those of an image that could
              not be decoded, or that is past the end, mean nothing
    outcomes  for each image what else is known of it, or the reason why it could not be decoded
    """

    start: int
    pixels: dict[int, bytes]
    outcomes: tuple[ImageInfo | str, ...]


def chunk_length(size: int) -> int:
    """How many images are decoded, handed over and run through the network together: 32 up to 128 x 128.

    A chunk has always this length (the last is padded), whatever the number of processes: convolutions round
    differently for small batches, and the features of an image must not depend on its neighbours.
    """
    return max(1, min(32, 32 * 128**2 // size**2))


@contextmanager
def decode_chunks(
    files: Sequence[AnyFile], sizes: Sequence[int], workers: int | None = None
) -> Iterator[Iterator[Chunk]]:
    """A context whose value is an iterator over the chunks of some files, in order.

    sizes    that each image is decoded to; the largest decides how long the chunks are
    workers  decoding processes, which start at once; None is one for each core, or a single one for few images;
             0 decodes in this process, without a limit of time. Results do not depend on it.
    """
    if workers is None:
        workers = usable_cores() if len(files) >= MIN_PARALLEL_IMAGES else 1
    length = chunk_length(_max_resolution(sizes))
    parts = [(start, files[start : start + length]) for start in range(0, len(files), length)]
    if workers == 0 or not files:
        yield (_decode_in_this_process(start, part, sizes) for start, part in parts)
        return

    def work(start: int, part: Sequence[AnyFile]) -> Chunk:
        worker = idle.pop()
        try:
            return worker.decode(start, part)
        finally:
            idle.append(worker)

    workers, losses = min(workers, len(parts)), count(1)
    threads = ThreadPoolExecutor(workers, "decoding")
    crew: list[_Worker] = []
    try:
        crew.extend(_Worker(sizes, losses) for _ in range(workers))  # if one fails, those before it are in the crew
        idle = [*crew]
        jobs = (threads.submit(work, *part) for part in parts)
        yield _iter_chunks(deque(islice(jobs, max(2 * workers, MAX_QUEUED_BYTES // _pixel_offsets(sizes)[-1]))), jobs)
    finally:
        for worker in crew:
            worker.closed = True
            worker.process.kill()
        threads.shutdown(cancel_futures=True)
        for worker in crew:
            worker.close()


def _iter_chunks(waiting: deque[Future[Chunk]], jobs: Iterator[Future[Chunk]]) -> Iterator[Chunk]:
    while waiting:
        chunk = waiting.popleft().result()
        waiting.extend(islice(jobs, 1))
        yield chunk


def _pixel_offsets(sizes: Sequence[int]) -> list[int]:
    """Where in the pixels of a chunk those of the first size begin, and those of each size end."""
    return [*accumulate((chunk_length(_max_resolution(sizes)) * square_bytes(size) for size in sizes), initial=0)]


def _max_resolution(sizes: Sequence[int]) -> int:
    return max(map(abs, sizes))


def _split_by_resolution(pixels: bytearray | mmap.mmap, sizes: Sequence[int]) -> dict[int, bytes]:
    return {size: bytes(pixels[a:b]) for size, (a, b) in zip(sizes, pairwise(_pixel_offsets(sizes)), strict=True)}


def _decode_in_this_process(start: int, files: Sequence[AnyFile], sizes: Sequence[int]) -> Chunk:
    pixels = bytearray(_pixel_offsets(sizes)[-1])
    outcomes = tuple(_decode_into(pixels, files, sizes, lambda place: None))
    return Chunk(start, _split_by_resolution(pixels, sizes), outcomes)


def _decode_into(
    pixels: bytearray | mmap.mmap, files: Sequence[AnyFile], sizes: Sequence[int], begin: Callable[[int], object]
) -> Iterator[ImageInfo | str]:
    """Decode a chunk; its outcomes. `begin` is told the place of each file before that is opened."""
    ends = _pixel_offsets(sizes)
    for place, file in enumerate(files):
        begin(place)
        try:
            image = decode_image(file, sizes)
        except Exception as error:  # hostile files raise far more than OSError
            yield explain_failure(error, file)
        else:
            for first, square in zip(ends, image.pixels, strict=False):
                at = first + place * len(square)
                pixels[at : at + len(square)] = square
            yield image.info


class _Worker:
    """A decoding process, or the next one after that is lost, for one thread at a time.

    losses  counts what all workers have lost
    closed  is set by another thread, before it kills the process
    shared  the pixels of a chunk; and then a byte, 1 + the place of the file that the process is at, or 0
    """

    def __init__(self, sizes: Sequence[int], losses: Iterator[int]) -> None:
        self.sizes, self.losses, self.closed = sizes, losses, False
        self._start()

    def _start(self) -> None:
        from multiprocessing.connection import Pipe  # 10 ms, which `--help` need not wait for

        command = [sys.executable, "-c", WORKER_CODE, json.dumps([*self.sizes]), *sys.path]
        self.pipe, theirs = Pipe()
        try:
            with theirs, _create_memory_file() as memory:
                memory.truncate(_pixel_offsets(self.sizes)[-1] + 1)
                self.shared = mmap.mmap(memory.fileno(), 0)
                # In a session of its own: Ctrl-C reaches the parent alone, which then kills it.
                self.process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=memory, start_new_session=True)
        except OSError as error:
            raise ImgsubsetError(
                f"no decoding process can be started: {explain_failure(error, sys.executable)}; raise the limit "
                "(ulimit -n or "
                "-u), or use --workers 0, which needs none"
            ) from error

    def decode(self, start: int, files: Sequence[AnyFile]) -> Chunk:
        """Have a chunk decoded. A file at which the process is lost is refused, and another process goes on."""
        left, refused = list[SendableFile](), dict[int, str]()
        for place, file in enumerate(_make_all_sendable(files)):
            if isinstance(file, Exception):
                refused[place] = explain_failure(file, "")
            left.append("" if isinstance(file, Exception) else file)
        while True:
            seen, steps, stuck = 0, 0, False
            with suppress(EOFError, OSError):  # if the process is dead
                self._send(left)
                while steps < MAX_DECODE_SECONDS / POLL_SECONDS and not self.closed:
                    if self.pipe.poll(POLL_SECONDS):
                        heads = enumerate(json.loads(self.pipe.recv_bytes()))
                        pixels = _split_by_resolution(self.shared, self.sizes)
                        return Chunk(
                            start,
                            pixels,
                            tuple(refused.get(place) or _outcome_from_json(head) for place, head in heads),
                        )
                    steps = steps + 1 if seen == self.shared[-1] else 0
                    seen = self.shared[-1]
                stuck = True
            code, last = self._kill(), self.shared[-1]
            at = seen if stuck else last
            how = f"{f'was killed by signal {-code}' if code < 0 else 'failed'}; is there enough memory?"
            if self.closed or not at:  # no file is to blame, as when the process could not even start
                idle = f"the decoding processes have done nothing for {MAX_DECODE_SECONDS:g} s"
                raise InputError(idle if stuck else f"a decoding process {how}")
            why = f"not decoded within {MAX_DECODE_SECONDS:g} s" if stuck else f"the process decoding it {how}"
            if last == at:  # else it had gone on just before it was killed
                refused[at - 1], left[at - 1] = why, ""
            if (number := next(self.losses)) > MAX_LOST_PROCESSES:
                raise InputError(
                    f"{number} decoding processes were lost, the last at {_format_file(files[at - 1])}: {why}"
                )
            self.close()
            self._start()

    def _send(self, files: Sequence[SendableFile]) -> None:
        self.pipe.send_bytes(json.dumps([file_to_json(file) for file in files]).encode())
        for file in files:
            if isinstance(file, InMemoryFile):
                self.pipe.send_bytes(file.content)

    def _kill(self) -> int:
        """Kill the process, if it is not dead yet; its exit code."""
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):  # a file system may hold it in the kernel: it dies later
            self.process.wait(KILL_WAIT_SECONDS)
        return self.process.returncode or 0

    def close(self) -> None:
        self._kill()
        self.pipe.close()
        self.shared.close()


def serve(sizes: str) -> None:
    """A decoding process: has a connection to its worker for stdin, the shared memory for stdout."""
    from multiprocessing.connection import Connection

    pipe, shared, squares = Connection(0), mmap.mmap(1, 0), json.loads(sizes)
    # What is printed as a process dies names no file; the reason for which one is left out does.
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)

    def begin(place: int) -> None:
        shared[-1] = 1 + place

    with suppress(EOFError, OSError):  # the parent is done, or gone
        while True:
            heads = json.loads(pipe.recv_bytes())
            contents = iter(pipe.recv_bytes, None)
            files = [file_from_json(head, contents) for head in heads]
            # Nobody but the kernel will kill a process that is caught in a loop when the parent is gone.
            signal.setitimer(signal.ITIMER_PROF, MAX_DECODE_SECONDS * len(files))
            outcomes = [*_decode_into(shared, files, squares, begin)]
            begin(-1)
            pipe.send_bytes(json.dumps(outcomes, default=_info_to_json).encode())


def _info_to_json(facts: ImageInfo) -> object:
    return facts.stamp.size, facts.stamp.mtime_ns, facts.numbers


def _outcome_from_json(head: Any) -> ImageInfo | str:
    return head if isinstance(head, str) else ImageInfo(Stamp(*head[:2]), tuple(head[2]))


def _make_all_sendable(files: Sequence[AnyFile]) -> Sequence[SendableFile | Exception]:
    """What a process is given of each file, or what asking for it has raised: from afar, several at once."""

    def one(file: AnyFile) -> SendableFile | Exception:
        try:
            return make_sendable(file)
        except Exception as error:  # a data set may raise anything
            return error

    if all(isinstance(file, (str, bytes, os.PathLike, InMemoryFile, Extent)) for file in files):
        return [one(file) for file in files]
    with ThreadPoolExecutor(N_IO_THREADS, "fetching") as threads:
        return [*threads.map(one, files)]


def _format_file(file: AnyFile) -> str:
    """What a message calls a file."""
    if isinstance(file, (str, bytes, os.PathLike)):
        return f"'{os.fsdecode(file)}'"
    return f"a file in '{file.source.file}'" if isinstance(file, Extent) else "a file in memory"


def _create_memory_file() -> IO[bytes]:
    """A file without a name, and in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("decoding"), "r+b")
    return tempfile.TemporaryFile()
