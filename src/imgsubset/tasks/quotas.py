"""Sharing out a number of images in whole ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def round_by_largest_remainder(shares: Sequence[Fraction], total: int) -> list[int]:
    """Round shares to whole numbers of this sum (Hamilton's method): the largest remainders up, the first of equal."""
    whole = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda number: whole[number] - shares[number])
    for number in by_remainder[: total - sum(whole)]:
        whole[number] += 1
    return whole


def allocate_quotas(sizes: Sequence[int], n: int, equal: bool = False) -> list[int]:
    """Split n rows among classes of these sizes, at most all of them, in proportion or equally.

    In proportion it is by largest remainder; then every class that got none takes one from the largest quota, where n
    allows. Equally, a class that is used up leaves the rest to others.
    """
    if equal:
        level, above = 0, n + 1  # the water level: all get so many, or all that they have
        while above - level > 1:
            middle = (level + above) // 2
            level, above = (middle, above) if sum(min(size, middle) for size in sizes) <= n else (level, middle)
        quota = [min(size, level) for size in sizes]
        for number in [number for number, size in enumerate(sizes) if size > level][: n - sum(quota)]:
            quota[number] += 1
        return quota
    total = sum(sizes)
    quota = round_by_largest_remainder([Fraction(n * size, total) for size in sizes], n)
    if n >= sum(size > 0 for size in sizes):
        for number, size in enumerate(sizes):
            if size and not quota[number]:
                quota[quota.index(max(quota))] -= 1
                quota[number] = 1
    return quota
