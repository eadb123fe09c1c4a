"""What results on a subset say of the whole, as text."""

from __future__ import annotations

import math

from imgsubset.errors import shortened
from imgsubset.results.estimates import Difference, Estimate, Estimated
from imgsubset.results.lines import files, first, notes, printable, times

DIGITS = 12  # at most, behind the point


def estimated_summary(estimated: Estimated, verbose: bool = False) -> str:
    """A paragraph a result, and one a difference; those that are decided come first."""
    n, total = len(estimated.paths), estimated.total
    lines = [f"{n:,} of {total:,} images of {printable(estimated.source.name)}: {printable(estimated.subset)}", ""]
    lines += [_estimate(one, estimated) for one in estimated.estimates]
    differences = sorted(estimated.differences, key=lambda one: not one.decided)
    if differences:
        more = "... and {:,} more differences; -v shows all"
        lines += ["", *first(map(_difference, differences), len(differences), more, verbose)]
    if not estimated.chosen:
        lines += ["", "The intervals are right if the subset was drawn at random."]
    return "\n".join(
        [
            *lines,
            *notes(estimated.warnings),
            "",
            times(estimated.seconds, verbose),
            *files("not in the source, left out", estimated.foreign, verbose),
            *files("skipped", estimated.rejected, verbose),
        ]
    )


def _estimate(one: Estimate, estimated: Estimated) -> str:
    name, subset, value = _name(one.name), _number(one.subset, one.error), _number(one.value, one.error)
    whole = f"{value} estimated for the whole {_interval(one)}"
    return f"{name}: {subset} on the subset, {whole}, {_exactness(one, estimated.total)}"


def _difference(one: Difference) -> str:
    value, higher = _number(one.value, one.error), one.first if one.value > 0 else one.second
    verdict = f"{_name(higher)} is higher" if one.decided else "not decided"
    return f"{_name(one.first)} - {_name(one.second)}: {value} estimated for the whole {_interval(one)}: {verdict}"


def _interval(one: Estimate) -> str:
    return f"({_number(one.low, one.error)} to {_number(one.high, one.error)}, 95 %)"


def _exactness(one: Estimate, total: int) -> str:
    if one.equivalent is None:
        return "without an error that shows"
    if one.equivalent > total:
        return f"as exact as more than {total:,} random images"
    return f"as exact as {one.equivalent:,.0f} random images"


def _number(value: float, error: float) -> str:
    """With two digits of its error."""
    if not error > 0 or abs(value) >= 1e12:
        return f"{value:.6g}"
    behind = 1 - math.floor(math.log10(error))
    return f"{value:.6g}" if behind > DIGITS else f"{value:,.{max(0, behind)}f}"


def _name(name: str) -> str:
    return printable(shortened(name, 60))
