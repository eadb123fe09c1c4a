"""Files to moments: decoding, the network and the reduction to moments overlap, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from imgsubset.devices import single_threaded, usable_cores, workers
from imgsubset.features.random_cnn import Extractor
from imgsubset.reading.decoders import Chunk, chunk_length
from imgsubset.reading.images import Stamp
from imgsubset.reading.listing import RejectedFile
from imgsubset.statistics.moments import ImageMoments, maps_to_moments

T = TypeVar("T")
Store: TypeAlias = Callable[[Sequence[str], Sequence[Stamp], Tensor, int], None]
"""Takes paths, their stamps, their rows of moments (B, 2 C) and the number of positions."""

GPU_CHUNKS = 16  # chunks that a GPU is given at once
STORED = 2048  # images whose moments are handed to the cache together


@dataclass(frozen=True)
class Ingested:
    """The usable images of a source.

    images    their moments, a row each, not standardised
    paths     relative to the source, in the order of the rows
    stamps    what each file was when it was decoded
    rejected  the files that could not be decoded
    """

    images: ImageMoments
    paths: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    rejected: tuple[RejectedFile, ...]


def ingest(
    chunks: Iterator[Chunk],
    paths: tuple[str, ...],
    size: int,
    extractor: Extractor,
    device: torch.device,
    progress: Callable[[int], None] = lambda images: None,
    store: Store = lambda paths, stamps, rows, positions: None,
) -> Ingested:
    """Reduce decoded images to moments.

    progress  is told the number of images just done
    store     is given the moments of some thousand images at a time, and those made by then when anything fails
    """
    usable: list[str] = []
    stamps: list[Stamp] = []
    rejected: list[RejectedFile] = []
    table = torch.zeros(0, 0, device=device)
    positions = stored = 0
    try:
        for batch, rows, of_batch in _through_network(chunks, size, extractor, device):
            if not len(table):
                table, positions = rows.new_empty(len(paths), rows.shape[1]), of_batch
            keep = []
            for number, chunk in enumerate(batch):
                for place, outcome in enumerate(chunk.outcomes):
                    path = paths[chunk.start + place]
                    if isinstance(outcome, Stamp):
                        keep.append(number * chunk_length(size) + place)
                        usable.append(path)
                        stamps.append(outcome)
                    else:
                        rejected.append(RejectedFile(path, outcome))
            table[len(usable) - len(keep) : len(usable)] = rows[keep]
            progress(sum(len(chunk.outcomes) for chunk in batch))
            if len(usable) - stored >= STORED:
                store(usable[stored:], stamps[stored:], table[stored : len(usable)], positions)
                stored = len(usable)
    finally:
        if len(usable) > stored:
            store(usable[stored:], stamps[stored:], table[stored : len(usable)], positions)
    images = ImageMoments(table[: len(usable)], positions)
    return Ingested(images, tuple(usable), tuple(stamps), tuple(rejected))


def merge(fresh: Ingested, known: Ingested, order: Sequence[str]) -> Ingested:
    """Both as one, in the order of the paths."""
    if not known.paths:
        return fresh
    place = {path: number for number, path in enumerate(order)}
    paths = known.paths + fresh.paths
    stamps = known.stamps + fresh.stamps
    sequence = sorted(range(len(paths)), key=lambda number: place[paths[number]])
    table = known.images.table
    if fresh.paths:
        table = torch.cat([table, fresh.images.table])[torch.tensor(sequence, device=table.device)]
    return Ingested(
        ImageMoments(table, known.images.positions),
        tuple(paths[number] for number in sequence),
        tuple(stamps[number] for number in sequence),
        known.rejected + fresh.rejected,
    )


def _through_network(
    chunks: Iterator[Chunk], size: int, extractor: Extractor, device: torch.device
) -> Iterator[tuple[list[Chunk], Tensor, int]]:
    """Batches of chunks, in order, with the moments (B, 2 C) of all their places and the number of positions."""

    def run(batch: list[Chunk]) -> tuple[list[Chunk], Tensor, int]:
        pixels = np.frombuffer(b"".join(chunk.pixels for chunk in batch), np.uint8).reshape(-1, size, size, 3)
        with torch.inference_mode():
            maps = extractor(torch.tensor(pixels, device=device))
            return batch, maps_to_moments(maps), maps.shape[2] * maps.shape[3]

    if device.type == "cuda":
        # TF32 would round features to 10 bits, and losses would not be those of a CPU.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True):
            while batch := list(islice(chunks, GPU_CHUNKS)):
                yield from _in_memory(run, batch)
        return
    # On a CPU several batches run side by side, each on one thread: threads inside an operation wait for each
    # other by spinning, which takes the cores away from the decoding processes.
    with single_threaded():
        running: deque[Future[tuple[list[Chunk], Tensor, int]]] = deque()
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
