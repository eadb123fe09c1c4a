"""How many images: n, and the sizes of parts, as numbers, percentages, or 'auto'."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from fractions import Fraction

from imgsubset.errors import InputError, UsageError, short_repr
from imgsubset.options import Options
from imgsubset.tasks.quotas import round_by_largest_remainder

AUTO = "auto"
UNLIMITED_IMAGES = 10**30  # images: more than any source has, to check sizes before one is read


def check_n(n: int | str, options: Options) -> None:
    """Raise UsageError if n makes no sense for any source, or not with these options."""
    resolve_n(n, UNLIMITED_IMAGES)
    if is_auto(n) and not options.has_target:
        raise UsageError("n 'auto' needs a target loss or a target size to aim at")
    if not is_auto(n) and options.has_target:
        raise UsageError(f"a target loss or size goes with n 'auto', not with n '{n}'")


def is_auto(n: int | str) -> bool:
    """Whether n follows from a target."""
    return isinstance(n, str) and n.strip() == AUTO


def resolve_n(n: int | str, usable: int) -> int:
    """How many images to choose: a number, or a percentage of the usable ones such as '10%', at least one.

    'auto' is at most all of them.
    Raises UsageError if n makes no sense, InputError if there are fewer usable images.
    """
    if is_auto(n):
        return usable
    exact = _parse_count(n, usable)
    if exact is None or (str(n).strip().endswith("%") and exact > usable):
        raise UsageError(
            f"n '{_format_value(n).strip()}' is neither a whole number of at least 1, nor a "
            f"percentage above 0% and up to 100%, nor 'auto'{_suggest_percentage(n)}"
        )
    count = max(1, math.floor(exact + Fraction(1, 2)))
    if count > usable:
        raise InputError(f"n = {count:,} images are asked for, but the source has only {usable:,} usable ones")
    return count


def resolve_part_sizes(parts: Mapping[str, int | str], usable: int) -> dict[str, int]:
    """How many of the usable images each part has: numbers as they are, percentages rounded by largest remainder.

    So parts of 100 % in all are all images. Raises UsageError for what makes no sense, InputError for too many.
    """
    if not isinstance(parts, Mapping):
        raise UsageError(
            f"parts {short_repr(parts)} are not a dict of sizes by name, as in {{'train': '80%', 'test': '20%'}}"
        )
    if not parts:
        raise UsageError("a split needs parts, as in train=80% test=20%")
    exact: dict[str, Fraction] = {}
    for name, asked in parts.items():
        value = _parse_count(asked, usable)
        if value is None:
            raise UsageError(
                f"part '{name}={_format_value(asked)}' is neither a whole number of at least 1 nor a percentage above 0%"
                f"{_suggest_percentage(asked)}"
            )
        if not isinstance(name, str) or not name or name.startswith(".") or any(c in name for c in "/\\\0"):
            raise UsageError(f"part '{_format_value(name)}' is no possible name of a folder")
        exact[name] = value
    percent = sum(100 * exact[name] / usable for name in parts if str(parts[name]).strip().endswith("%"))
    if percent > 100:
        raise UsageError(f"the parts take {float(percent):g} % of the source")
    total = math.floor(sum(exact.values()) + Fraction(1, 2))
    if total > usable:
        raise InputError(f"the parts take {total:,} images, but the source has only {usable:,} usable ones")
    sizes = dict(zip(exact, round_by_largest_remainder(list(exact.values()), total), strict=True))
    if empty := [name for name, size in sizes.items() if not size]:
        raise InputError(f"part '{empty[0]}={parts[empty[0]]}' of {usable:,} images is none")
    return sizes


def _format_value(value: object) -> str:
    return value if isinstance(value, str) else short_repr(value)


def _suggest_percentage(asked: object) -> str:
    """What may have been meant by a share such as 0.1."""
    try:
        share = float(str(asked))
    except ValueError:
        return ""
    return f"; did you mean {100 * share:g}%?" if 0 < share < 1 else ""


def _parse_count(asked: int | str, usable: int) -> Fraction | None:
    """A number of images, or a percentage of the usable ones, not rounded; None for what is neither, or not above 0."""
    percent = False
    try:
        text = asked.strip() if isinstance(asked, str) else str(operator.index(asked) if asked is not True else "")
        percent = text.endswith("%")
        if percent and not 1e-30 < float(text[:-1]) < 1e30:  # an exact 1e9999999999 would take for ever
            return None
        exact = Fraction(text[:-1]) / 100 * usable if percent else Fraction(int(text))
    except (ValueError, TypeError):
        return None
    return exact if 0 < exact < 2 * UNLIMITED_IMAGES else None
