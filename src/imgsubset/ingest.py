"""Files to moments: decoding, the network and the reduction to moments overlap, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from imgsubset.cores import single_threaded, usable_cores, workers
from imgsubset.decoders import Chunk, chunk_length
from imgsubset.features import Extractor
from imgsubset.images import RejectedFile, Stamp
from imgsubset.moments import ImageMoments, maps_to_moments

GPU_CHUNKS = 16  # chunks that a GPU is given at once


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
) -> Ingested:
    """Reduce decoded images to moments. `progress` is called with the number of images just done."""
    usable: list[str] = []
    stamps: list[Stamp] = []
    rejected: list[RejectedFile] = []
    table: Tensor | None = None
    positions = 0
    for batch, rows, of_batch in _through_network(chunks, size, extractor, device):
        positions = of_batch
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
        if table is None:
            table = rows.new_empty(len(paths), rows.shape[1])
        table[len(usable) - len(keep) : len(usable)] = rows[keep]
        progress(sum(len(chunk.outcomes) for chunk in batch))
    table = torch.zeros(0, 0, device=device) if table is None else table[: len(usable)]
    return Ingested(ImageMoments(table, positions), tuple(usable), tuple(stamps), tuple(rejected))


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
                yield run(batch)
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
