"""Which values of options make sense, and how a message says so. Every size has a limit, so that none is a hang.

Values are of the right kind by then, see `imgsubset.inputs.of_kind`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any

Check = tuple[Callable[[Any], bool], str]
"""Whether a value makes sense, and what does."""


def as_float(value: Any) -> float:
    """Return the value as a float: infinity for a whole number that is too large. Raises what `float` does else."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def int_range(least: int, most: int) -> Check:
    """A whole number between these."""
    return lambda value: least <= value <= most, f"a whole number from {least:,} to {most:,}"


def int_list(least: int, most: int, count: int, odd: bool = False) -> Check:
    """At least one and at most `count` whole numbers between these."""

    def makes_sense(value: tuple[Any, ...]) -> bool:
        good = all(least <= one <= most and (one % 2 or not odd) for one in value)
        return good and 1 <= len(value) <= count

    return makes_sense, f"1 to {count} {'odd' if odd else 'whole'} numbers from {least:,} to {most:,}"


def float_up_to(most: float) -> Check:
    """A number from 0 to this."""
    return lambda value: 0 <= value <= most, f"a number from 0 to {most:g}"


def one_of(*words: str) -> Check:
    """One of these words."""
    return lambda value: value in words, f"one of {', '.join(words)}"


RESOLUTION: Check = (
    lambda value: value == "auto" or 8 <= value <= 4096,
    "'auto' or between 8 and 4096 pixels",
)
CANDIDATES: Check = (
    lambda value: value == "all" or (not isinstance(value, str) and 1 <= value <= 1_000_000),
    "'all' or a whole number from 1 to 1,000,000",
)
DEVICE: Check = (
    lambda value: bool(re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value)),
    "one of auto, cpu, cuda, or a certain GPU as in cuda:1",
)
SEED: Check = (lambda value: 0 <= value < 1 << 63, "between 0 and 2^63 - 1")
INT_PAIR: Check = (
    lambda value: not value or (len(value) == 2 and all(1 <= one <= 4096 for one in value)),
    "two whole numbers from 1 to 4,096",
)
BOOLEAN: Check = (lambda value: isinstance(value, bool), "True or False; how is said by stratify_as")
POSITIVE: Check = (lambda value: 0 < value <= sys.float_info.max, "a finite number above 0")
SECONDS: Check = (POSITIVE[0], "a finite number of seconds above 0")
