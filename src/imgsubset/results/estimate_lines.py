"""What results on a subset say of the whole, as text."""

from __future__ import annotations

import math

from imgsubset.errors import shorten
from imgsubset.results.estimates import Difference, Estimate, Estimated
from imgsubset.results.lines import format_notes, format_rejected_files, format_times, limit_lines, printable

MAX_DECIMALS = 12  # at most, behind the point


def estimate_summary(estimated: Estimated, verbose: bool = False) -> str:
    """A paragraph a result, and one a difference; those that are decided come first."""
    n, total = len(estimated.paths), estimated.total
    lines = [f"{n:,} of {total:,} images of {printable(estimated.source.name)}: {printable(estimated.subset)}", ""]
    lines += [_format_estimate(one, estimated) for one in estimated.estimates]
    differences = sorted(estimated.differences, key=lambda one: not one.decided)
    if differences:
        more = "... and {:,} more differences; -v shows all"
        lines += ["", *limit_lines(map(_format_difference, differences), len(differences), more, verbose)]
    if not estimated.chosen:
        lines += ["", "The intervals are right if the subset was drawn at random."]
    return "\n".join(
        [
            *lines,
            *format_notes(estimated.warnings),
            "",
            format_times(estimated.seconds, verbose),
            *format_rejected_files("not in the source, left out", estimated.foreign, verbose),
            *format_rejected_files("skipped", estimated.rejected, verbose),
        ]
    )


def _format_estimate(one: Estimate, estimated: Estimated) -> str:
    name, subset, value = (
        _format_name(one.name),
        _format_number(one.subset, one.error),
        _format_number(one.value, one.error),
    )
    whole = f"{value} estimated for the whole {_format_interval(one)}"
    return f"{name}: {subset} on the subset, {whole}, {_format_ess(one, estimated.total)}"


def _format_difference(one: Difference) -> str:
    value, higher = _format_number(one.value, one.error), one.first if one.value > 0 else one.second
    verdict = f"{_format_name(higher)} is higher" if one.decided else "not decided"
    return f"{_format_name(one.first)} - {_format_name(one.second)}: {value} estimated for the whole {_format_interval(one)}: {verdict}"


def _format_interval(one: Estimate) -> str:
    return f"({_format_number(one.low, one.error)} to {_format_number(one.high, one.error)}, 95 %)"


def _format_ess(one: Estimate, total: int) -> str:
    if one.equivalent is None:
        return "without an error that shows"
    if one.equivalent > total:
        return f"as exact as more than {total:,} random images"
    return f"as exact as {one.equivalent:,.0f} random images"


def _format_number(value: float, error: float) -> str:
    """With two digits of its error."""
    if not error > 0 or abs(value) >= 1e12:
        return f"{value:.6g}"
    behind = 1 - math.floor(math.log10(error))
    return f"{value:.6g}" if behind > MAX_DECIMALS else f"{value:,.{max(0, behind)}f}"


def _format_name(name: str) -> str:
    return printable(shorten(name, 60))
