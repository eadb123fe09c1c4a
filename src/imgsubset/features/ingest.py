"""Files to moments: decoding, the networks and the reduction to moments overlap, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np
import torch

from imgsubset.decoding.workers import Chunk
from imgsubset.devices import exact_matmul, explain_gpu_error, free_gpu_memory, max_threads, thread_pool
from imgsubset.features.array_storage import allocate_table, is_memmapped
from imgsubset.features.cache import CacheResult
from imgsubset.features.custom import ExternalExtractor
from imgsubset.features.embeddings import project_channels
from imgsubset.features.random_cnn import Extractor, compute_image_moments
from imgsubset.files import Stamps
from imgsubset.statistics.moments import BLOCK_ROWS, Block, ImageMoments

T = TypeVar("T")
GPU_BATCH_CHUNKS = 16  # chunks that a GPU is given at once
STORE_BATCH_IMAGES = 2048  # images whose moments are handed to the cache together
Network: TypeAlias = tuple[Extractor, int]
"""An extractor, and the side of the square that it wants its images in, in pixels, or `PUBLISHED`."""


@dataclass(frozen=True)
class IngestResult:
    """What is known of `total` images, by their places among them.

    total            how many there are
    images           from each network the moments (total, 2 C), not standardised; () before any is known. The rows
                     of places that are not usable mean nothing
    stamps           what each usable file was when it was decoded
    usable           (total,) bool, which are
    reasons          why others are not
    evaluation_only  of each network whether no search goes through it; () is none
    """

    total: int
    images: tuple[ImageMoments, ...]
    stamps: Stamps
    usable: np.ndarray
    reasons: dict[int, str]
    evaluation_only: tuple[bool, ...] = ()

    @classmethod
    def empty(cls, total: int, measures: tuple[bool, ...] = ()) -> IngestResult:
        """Of so many images."""
        return cls(total, (), Stamps(count=total), np.zeros(total, bool), {}, measures)

    @classmethod
    def known(
        cls,
        stamps: Stamps,
        found: np.ndarray,
        parts: Sequence[CacheResult],
        measures: tuple[bool, ...],
        device: torch.device,
    ) -> IngestResult:
        """What was found in each of the caches, whose answers are the parts: at these places (total,) in all of them.

        stamps  of all images
        """
        total, images = len(stamps), []
        for part, apart in zip(parts, measures, strict=True) if found.any() else ():
            rows = torch.from_numpy(part.rows)
            kept = rows if is_memmapped(total, apart) else rows.to(device)
            images.append(ImageMoments(kept, part.positions))
        return cls(total, tuple(images), stamps, found.copy(), {}, measures)

    def allocate(self, shapes: Sequence[tuple[int, int]], device: torch.device) -> IngestResult:
        """With room for moments, unless some are known; the shapes are the width of a row and L, of each network."""
        if self.images:
            return self
        measures = self.evaluation_only or (False,) * len(shapes)
        rooms = (
            allocate_table(self.total, width, apart, device) for (width, _), apart in zip(shapes, measures, strict=True)
        )
        images = tuple(ImageMoments(room, positions) for room, (_, positions) in zip(rooms, shapes, strict=True))
        return replace(self, images=images)

    def blocks(self, names: Sequence[tuple[str, float]]) -> tuple[Block, ...]:
        """The usable images, as blocks of these names and weights. Rows move up to where others are not usable."""
        usable = torch.from_numpy(np.flatnonzero(self.usable))
        images = self.images or [ImageMoments(torch.zeros(self.total, 0), 0) for _ in names]
        if len(usable) < self.total:
            for one in images:
                rows = usable.to(one.table.device)
                for start in range(0, len(rows), BLOCK_ROWS):
                    moved = one.table[rows[start : start + BLOCK_ROWS]]
                    one.table[start : start + len(moved)] = moved
            images = [ImageMoments(one.table[: len(usable)], one.positions) for one in images]
        return tuple(Block(name, one, weight) for (name, weight), one in zip(names, images, strict=True))


def ingest(
    chunks: Iterator[Chunk],
    places: Sequence[int],
    done: IngestResult,
    networks: Sequence[Network],
    device: torch.device,
    progress: Callable[[int], None] = lambda images: None,
    store: Callable[[list[int], IngestResult], None] = lambda places, ingested: None,
) -> IngestResult:
    """Reduce decoded images to moments, beside what is known already.

    places    where the decoded images belong
    progress  is told the number of images just done
    store     is given the places of some thousand more usable images at a time, and those done when anything fails
    """
    fresh: list[int] = []
    batches = _run_networks(chunks, networks, device)
    try:
        for batch, moments in batches:
            done = done.allocate([(one.table.shape[1], one.positions) for one in moments], device)
            rows = []
            length = len(moments[0]) // len(batch)
            for number, chunk in enumerate(batch):
                for position, outcome in enumerate(chunk.outcomes):
                    place = places[chunk.start + position]
                    if isinstance(outcome, str):
                        done.reasons[place] = outcome
                    else:
                        done.stamps[place], done.usable[place] = outcome.stamp, True
                        rows.append(number * length + position)
                        fresh.append(place)
            for images, one in zip(done.images, moments, strict=True):
                _copy_rows(images.table, fresh[len(fresh) - len(rows) :], one.table, rows)
            progress(sum(len(chunk.outcomes) for chunk in batch))
            if len(fresh) >= STORE_BATCH_IMAGES:
                store(fresh, done)
                fresh = []
    finally:
        batches.close()  # now, not once a traceback is forgotten: it holds settings of the whole process
        if fresh:
            store(fresh, done)
    return done


def _copy_rows(room: torch.Tensor, places: list[int], found: torch.Tensor, rows: list[int]) -> None:
    """room[places] = found[rows]; on a CPU by numpy: threads of torch's would take cores away from the networks."""
    if room.device.type == "cpu":
        room.numpy()[places] = found.cpu().numpy()[rows]
    else:
        room[places] = found[rows]


def _run_networks(
    chunks: Iterator[Chunk], networks: Sequence[Network], device: torch.device
) -> Generator[tuple[list[Chunk], list[ImageMoments]]]:
    """Batches of chunks, in order, with the moments of all their places from each network."""

    def run(batch: list[Chunk], height: int) -> tuple[list[Chunk], list[ImageMoments]]:
        # Always padded to the same number of chunks: another shape may have another algorithm, which rounds otherwise,
        # and the features of an image must not depend on its neighbours.
        moments = []
        with torch.inference_mode():
            for extractor, size in networks:
                filled = [chunk.pixels[size] for chunk in batch]
                padding, kind = bytes((height - len(batch)) * len(filled[0])), np.float32 if size < 0 else np.uint8
                raw = np.frombuffer(b"".join([*filled, padding]), kind)
                pixels = torch.tensor(raw.reshape(-1, abs(size), abs(size), 3), device=device)
                about = (_file_statistics(batch, len(pixels)),) if getattr(extractor, "of_files", False) else ()
                maps = extractor(pixels, *about)
                found = compute_image_moments(maps)
                if not getattr(extractor, "raw", False):
                    found = project_channels(found)
                moments.append(replace(found, table=found.table[: len(found) // height * len(batch)]))
        return batch, moments

    with exact_matmul():
        if device.type == "cuda":
            yield from _run_in_batches(run, chunks, GPU_BATCH_CHUNKS)
        elif any(isinstance(extractor, ExternalExtractor) for extractor, _ in networks):
            yield from _run_in_batches(run, chunks, 1)
        else:
            yield from _run_in_threads(run, chunks)


def _file_statistics(batch: list[Chunk], count: int) -> torch.Tensor:
    """Width, height and bytes (count, 3) of the images of some chunks; 0 of those that could not be decoded."""
    found = torch.zeros(count, 3)
    length = count // len(batch)  # of a chunk; the padding counts nothing
    for number, chunk in enumerate(batch):
        for place, outcome in enumerate(chunk.outcomes):
            if not isinstance(outcome, str):
                found[number * length + place] = torch.tensor(outcome.numbers)
    return found


def _run_in_threads(run: Callable[[list[Chunk], int], T], chunks: Iterable[Chunk]) -> Iterator[T]:
    """run([chunk], 1) of each, in order, several at a time, each on one thread.

    Threads inside an operation wait for each other by spinning, which takes the cores away from the decoding processes.
    """
    running: deque[Future[T]] = deque()
    most = 2 * max_threads()
    for chunk in chunks:
        running.append(thread_pool().submit(run, [chunk], 1))
        if len(running) > most:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _run_in_batches(run: Callable[[list[Chunk], int], T], chunks: Iterator[Chunk], height: int) -> Iterator[T]:
    """run(batch, height) of batches of up to `height` chunks, in order: of fewer once a GPU has too little memory."""
    waiting: list[Chunk] = []
    while waiting := waiting + list(islice(chunks, max(0, height - len(waiting)))):
        try:
            result = run(waiting[:height], height)
        except RuntimeError as error:
            if height == 1 or not explain_gpu_error(error):
                raise
        else:
            waiting = waiting[height:]
            yield result
            continue
        free_gpu_memory()
        height //= 2
