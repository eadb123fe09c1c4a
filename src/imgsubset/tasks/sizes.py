"""How many images: n, and the sizes of parts, as numbers, percentages, or 'auto'."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from fractions import Fraction

from imgsubset.errors import InputError, UsageError, shown
from imgsubset.options import Options
from imgsubset.tasks.quotas import largest_remainder

AUTO = "auto"
ANY = 10**30  # images: more than any source has, to check sizes before one is read


def check_size(n: int | str, options: Options) -> None:
    """Raise UsageError if n makes no sense for any source, or not with these options."""
    subset_size(n, ANY)
    if is_auto(n) and not options.has_target:
        raise UsageError("n 'auto' needs a target loss or a target size to aim at")
    if not is_auto(n) and options.has_target:
        raise UsageError(f"a target loss or size goes with n 'auto', not with n '{n}'")


def is_auto(n: int | str) -> bool:
    """Whether n follows from a target."""
    return isinstance(n, str) and n.strip() == AUTO


def subset_size(n: int | str, usable: int) -> int:
    """How many images to choose: a number, or a percentage of the usable ones such as '10%', at least one.

    'auto' is at most all of them.
    Raises UsageError if n makes no sense, InputError if there are fewer usable images.
    """
    if is_auto(n):
        return usable
    exact = _exact(n, usable)
    if exact is None or (str(n).strip().endswith("%") and exact > usable):
        raise UsageError(
            f"n '{_spelt(n).strip()}' is neither a whole number of at least 1, nor a "
            f"percentage above 0% and up to 100%, nor 'auto'{_hint(n)}"
        )
    count = max(1, math.floor(exact + Fraction(1, 2)))
    if count > usable:
        raise InputError(f"n = {count:,} images are asked for, but the source has only {usable:,} usable ones")
    return count


def part_sizes(parts: Mapping[str, int | str], usable: int) -> dict[str, int]:
    """How many of the usable images each part has: numbers as they are, percentages rounded by largest remainder.

    So parts of 100 % in all are all images. Raises UsageError for what makes no sense, InputError for too many.
    """
    if not isinstance(parts, Mapping):
        raise UsageError(
            f"parts {shown(parts)} are not a dict of sizes by name, as in {{'train': '80%', 'test': '20%'}}"
        )
    if not parts:
        raise UsageError("a split needs parts, as in train=80% test=20%")
    exact: dict[str, Fraction] = {}
    for name, asked in parts.items():
        value = _exact(asked, usable)
        if value is None:
            raise UsageError(
                f"part '{name}={_spelt(asked)}' is neither a whole number of at least 1 nor a percentage above 0%"
                f"{_hint(asked)}"
            )
        if not isinstance(name, str) or not name or name.startswith(".") or any(c in name for c in "/\\\0"):
            raise UsageError(f"part '{_spelt(name)}' is no possible name of a folder")
        exact[name] = value
    percent = sum(100 * exact[name] / usable for name in parts if str(parts[name]).strip().endswith("%"))
    if percent > 100:
        raise UsageError(f"the parts take {float(percent):g} % of the source")
    total = math.floor(sum(exact.values()) + Fraction(1, 2))
    if total > usable:
        raise InputError(f"the parts take {total:,} images, but the source has only {usable:,} usable ones")
    sizes = dict(zip(exact, largest_remainder(list(exact.values()), total), strict=True))
    if empty := [name for name, size in sizes.items() if not size]:
        raise InputError(f"part '{empty[0]}={parts[empty[0]]}' of {usable:,} images is none")
    return sizes


def _spelt(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def _hint(asked: object) -> str:
    """What may have been meant by a share such as 0.1."""
    try:
        share = float(str(asked))
    except ValueError:
        return ""
    return f"; did you mean {100 * share:g}%?" if 0 < share < 1 else ""


def _exact(asked: int | str, usable: int) -> Fraction | None:
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
    return exact if 0 < exact < 2 * ANY else None
