from __future__ import annotations

import pytest

from imgsubset.features.pieces import BLOCKS, LONGEST, piece


@pytest.mark.parametrize("total", [0, 1, 7, 60, 1000, 10_001, 100_000])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 100])
def test_pieces_are_disjoint_and_together_the_whole(total: int, count: int) -> None:
    pieces = [piece(total, index, count) for index in range(count)]
    assert sorted(place for one in pieces for place in one) == list(range(total))
    assert all(one == sorted(one) for one in pieces)


@pytest.mark.parametrize("total", [0, 1, 7, 60, 1000, 10_001, 100_000])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 100])
def test_pieces_are_of_nearly_one_size(total: int, count: int) -> None:
    sizes = [len(piece(total, index, count)) for index in range(count)]
    assert max(sizes) - min(sizes) <= max(1, total / (BLOCKS * count))


def test_a_piece_is_blocks_of_neighbours_dealt_out_in_turn() -> None:
    assert piece(64, 1, 2) == [2, 3, 6, 7, *range(10, 12), *range(14, 16), *range(18, 20)] + [
        place for start in range(22, 64, 4) for place in (start, start + 1)
    ]
    assert piece(3, 3, 8) == []
    large = piece(LONGEST * BLOCKS * 4, 1, 2)
    assert large[: LONGEST + 1] == [*range(LONGEST, 2 * LONGEST), 3 * LONGEST]
