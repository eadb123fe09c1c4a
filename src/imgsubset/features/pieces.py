"""How the images of a source are dealt out to processes."""

from __future__ import annotations

MAX_BLOCK_IMAGES = 2048  # images in a block: as many as are handed to the cache together
MIN_BLOCKS_PER_SHARD = 16  # of a piece, at least, where there are enough images


def shard_indices(total: int, index: int, count: int) -> list[int]:
    """The places, ascending, of the images that piece `index` of `count`, counted from 0, has of `total`.

    Blocks of neighbours go to the pieces in turn: folders of large pictures are spread over all of them, and each still
    reads files that lie beside each other. No two pieces differ by more than a block, a sixteenth of a piece at most.
    """
    length = max(1, min(MAX_BLOCK_IMAGES, total // (MIN_BLOCKS_PER_SHARD * count)))
    starts = range(index * length, total, count * length)
    return [place for start in starts for place in range(start, min(start + length, total))]
