from __future__ import annotations

import pytest

from imgsubset.features.distributed_ingest import MAX_BLOCK_IMAGES, MIN_BLOCKS_PER_SHARD, shard_indices


@pytest.mark.parametrize("total", [0, 1, 7, 60, 1000, 10_001, 100_000])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 100])
def test_pieces_are_disjoint_and_together_the_whole(total: int, count: int) -> None:
    pieces = [shard_indices(total, index, count) for index in range(count)]
    assert sorted(place for one in pieces for place in one) == list(range(total))
    assert all(one == sorted(one) for one in pieces)


@pytest.mark.parametrize("total", [0, 1, 7, 60, 1000, 10_001, 100_000])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 100])
def test_pieces_are_of_nearly_one_size(total: int, count: int) -> None:
    sizes = [len(shard_indices(total, index, count)) for index in range(count)]
    assert max(sizes) - min(sizes) <= max(1, total / (MIN_BLOCKS_PER_SHARD * count))


def test_a_piece_is_blocks_of_neighbours_dealt_out_in_turn() -> None:
    assert shard_indices(64, 1, 2) == [2, 3, 6, 7, *range(10, 12), *range(14, 16), *range(18, 20)] + [
        place for start in range(22, 64, 4) for place in (start, start + 1)
    ]
    assert shard_indices(3, 3, 8) == []
    large = shard_indices(MAX_BLOCK_IMAGES * MIN_BLOCKS_PER_SHARD * 4, 1, 2)
    assert large[: MAX_BLOCK_IMAGES + 1] == [*range(MAX_BLOCK_IMAGES, 2 * MAX_BLOCK_IMAGES), 3 * MAX_BLOCK_IMAGES]
