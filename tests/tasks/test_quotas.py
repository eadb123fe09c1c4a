from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsubset.tasks.inputs import allocate_quotas

sizes = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any)


@settings(deadline=None)
@given(sizes, st.data())
def test_quotas_are_the_shares_within_one_image(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    n = data.draw(st.integers(0, total))
    found = allocate_quotas(sizes, n)
    assert sum(found) == n
    assert all(0 <= quota <= size for quota, size in zip(found, sizes, strict=True))
    classes = sum(size > 0 for size in sizes)
    lifted = 0
    if n >= classes:
        assert all(quota >= 1 for quota, size in zip(found, sizes, strict=True) if size)
        lifted = sum(0 < n * size < total for size in sizes)
    for quota, size in zip(found, sizes, strict=True):
        assert quota - n * size / total < 1
        assert quota - n * size / total > -1 - lifted


@settings(deadline=None)
@given(sizes, st.data())
def test_equal_quotas_differ_by_at_most_one_but_for_classes_that_are_used_up(
    sizes: list[int], data: st.DataObject
) -> None:
    n = data.draw(st.integers(0, sum(sizes)))
    found = allocate_quotas(sizes, n, equal=True)
    assert sum(found) == n
    assert all(0 <= quota <= size for quota, size in zip(found, sizes, strict=True))
    for quota, size in zip(found, sizes, strict=True):
        assert quota == size or quota >= max(found) - 1


@pytest.mark.parametrize(
    ("sizes", "n", "share", "equal"),
    [
        ([70, 20, 10], 10, [7, 2, 1], [4, 3, 3]),
        ([50, 50], 5, [3, 2], [3, 2]),  # of equal remainders the first
        ([53, 24, 23], 10, [5, 3, 2], [4, 3, 3]),
        ([1000, 1, 1], 10, [8, 1, 1], [8, 1, 1]),
        ([1000, 1, 1], 2, [2, 0, 0], [1, 1, 0]),
        ([3, 0, 3], 6, [3, 0, 3], [3, 0, 3]),
    ],
)
def test_quotas_by_hand(sizes: list[int], n: int, share: list[int], equal: list[int]) -> None:
    assert allocate_quotas(sizes, n) == share
    assert allocate_quotas(sizes, n, equal=True) == equal
