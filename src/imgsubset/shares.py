"""Whole numbers in proportion to given ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def shared_out(exact: Sequence[Fraction], total: int) -> list[int]:
    """Numbers that sum to `total`, as the exact ones nearly do: by largest remainder (Hamilton), the first of equal."""
    shares = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: shares[number] - exact[number])
    for number in by_remainder[: total - sum(shares)]:
        shares[number] += 1
    return shares
