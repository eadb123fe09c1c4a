"""Files to moments: decoding, the networks and the reduction to moments overlap, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np
import torch

from imgsubset.devices import single_threaded, usable_cores, workers
from imgsubset.features.cache import Cached
from imgsubset.features.random_cnn import Extractor, image_moments
from imgsubset.features.reduction import narrowed
from imgsubset.files import Stamp
from imgsubset.reading.decoders import Chunk
from imgsubset.statistics.moments import Block, ImageMoments

T = TypeVar("T")
GPU_CHUNKS = 16  # chunks that a GPU is given at once
STORED = 2048  # images whose moments are handed to the cache together
Network: TypeAlias = tuple[Extractor, int]
"""An extractor, and the side of the square that it wants its images in, in pixels."""


@dataclass(frozen=True)
class Ingested:
    """What is known of `total` images, by their places among them.

    total    how many there are
    images   from each network the moments (total, 2 C), not standardised; () before any is known. The rows of places
             without a stamp mean nothing
    stamps   what each usable file was when it was decoded
    reasons  why others could not be
    """

    total: int
    images: tuple[ImageMoments, ...]
    stamps: dict[int, Stamp]
    reasons: dict[int, str]

    @classmethod
    def known(cls, total: int, stamps: dict[int, Stamp], parts: Sequence[Cached], device: torch.device) -> Ingested:
        """What was found in each of the caches, whose answers are the parts: at the places with these stamps."""
        found, images = list(stamps), []
        for part in parts if found else ():
            rows = torch.from_numpy(part.rows[np.isin(part.places, found)]).to(device)
            images.append(ImageMoments(rows.new_empty(total, rows.shape[1]), part.positions))
            images[-1].table[found] = rows
        return cls(total, tuple(images), stamps, {})

    def blocks(self, names: Sequence[tuple[str, float]]) -> tuple[Block, ...]:
        """The usable images, as blocks of these names and weights."""
        usable = sorted(self.stamps)
        images = self.images or [ImageMoments(torch.zeros(self.total, 0), 0) for _ in names]
        if len(usable) < self.total:
            images = [ImageMoments(one.table[usable], one.positions) for one in images]
        return tuple(Block(name, one, weight) for (name, weight), one in zip(names, images, strict=True))


def ingest(
    chunks: Iterator[Chunk],
    places: Sequence[int],
    done: Ingested,
    networks: Sequence[Network],
    device: torch.device,
    progress: Callable[[int], None] = lambda images: None,
    store: Callable[[list[int], Ingested], None] = lambda places, ingested: None,
) -> Ingested:
    """Reduce decoded images to moments, beside what is known already.

    places    where the decoded images belong, ascending
    progress  is told the number of images just done
    store     is given the places of some thousand more usable images at a time, and those done when anything fails
    """
    fresh: list[int] = []
    try:
        for batch, moments in _through_networks(chunks, networks, device):
            if not done.images:
                images = [replace(one, table=one.table.new_empty(done.total, one.table.shape[1])) for one in moments]
                done = replace(done, images=tuple(images))
            rows = []
            length = len(moments[0]) // len(batch)
            for number, chunk in enumerate(batch):
                for position, outcome in enumerate(chunk.outcomes):
                    place = places[chunk.start + position]
                    if isinstance(outcome, str):
                        done.reasons[place] = outcome
                    else:
                        done.stamps[place] = outcome.stamp
                        rows.append(number * length + position)
                        fresh.append(place)
            for table, one in zip(done.images, moments, strict=True):
                table.table[fresh[len(fresh) - len(rows) :]] = one.table[rows]
            progress(sum(len(chunk.outcomes) for chunk in batch))
            if len(fresh) >= STORED:
                store(fresh, done)
                fresh = []
    finally:
        if fresh:
            store(fresh, done)
    return done


def _through_networks(
    chunks: Iterator[Chunk], networks: Sequence[Network], device: torch.device
) -> Iterator[tuple[list[Chunk], list[ImageMoments]]]:
    """Batches of chunks, in order, with the moments of all their places from each network."""

    def run(batch: list[Chunk]) -> tuple[list[Chunk], list[ImageMoments]]:
        moments = []
        with torch.inference_mode():
            for extractor, size in networks:
                pixels = np.frombuffer(b"".join(chunk.pixels[size] for chunk in batch), np.uint8)
                maps = extractor(torch.tensor(pixels.reshape(-1, size, size, 3), device=device))
                moments.append(narrowed(image_moments(maps)))
        return batch, moments

    if device.type == "cuda":
        # TF32 would round features to 10 bits, and losses would not be those of a CPU.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True):
            while batch := list(islice(chunks, GPU_CHUNKS)):
                yield from _in_memory(run, batch)
        return
    # On a CPU several batches run side by side, each on one thread: threads inside an operation wait for each
    # other by spinning, which takes the cores away from the decoding processes.
    with single_threaded():
        running: deque[Future[tuple[list[Chunk], list[ImageMoments]]]] = deque()
        for chunk in chunks:
            running.append(workers().submit(run, [chunk]))
            if len(running) > 2 * usable_cores():
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _in_memory(run: Callable[[list[Chunk]], T], batch: list[Chunk]) -> Iterator[T]:
    """run(batch), or of its halves, if a GPU has too little memory for the whole."""
    try:
        result = run(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
        torch.cuda.empty_cache()
    else:
        yield result
        return
    for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
        yield from _in_memory(run, half)
