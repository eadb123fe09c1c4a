"""How the images of a source are dealt out to processes."""

from __future__ import annotations

LONGEST = 2048  # images in a block: as many as are handed to the cache together
BLOCKS = 16  # of a piece, at least, where there are enough images


def piece(total: int, index: int, count: int) -> list[int]:
    """The places, ascending, of the images that piece `index` of `count`, counted from 0, has of `total`.

    Blocks of neighbours go to the pieces in turn: folders of large pictures are spread over all of them, and each still
    reads files that lie beside each other. No two pieces differ by more than a block, a sixteenth of a piece at most.
    """
    length = max(1, min(LONGEST, total // (BLOCKS * count)))
    starts = range(index * length, total, count * length)
    return [place for start in starts for place in range(start, min(start + length, total))]
