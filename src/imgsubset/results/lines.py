"""Pieces of text that summaries share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from itertools import islice

from imgsubset.errors import shorten
from imgsubset.reading.contents import RejectedFile

N_LONGEST_STAGES = 3  # stages whose time is told
ZERO_TOLERANCE = 1e-12  # a mean that is no more than this is 0, but for rounding
MAX_LINES = 10  # names, unless all are asked for


def format_table(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Cells under the names of their columns, the first of them to the left, the others to the right."""
    (names, *others) = [[heading, *cells] for heading, cells in columns.items()]
    padded = [[cell.rjust(max(9, *map(len, column)) + 1) for cell in column] for column in others]
    width = max(10, *map(len, names))
    return ["".join([name.ljust(width), *cells]) for name, *cells in zip(names, *padded, strict=True)]


def format_random_count(size: float) -> str:
    """So many random images."""
    number = f"{size:,.0f}"
    return f"{number} random one{'s' * (number != '1')}"


def format_notes(warnings: Iterable[str]) -> list[str]:
    """What a user should know, a line each."""
    return [f"Note: {printable(warning)}." for warning in warnings]


def format_times(seconds: Mapping[str, float], verbose: bool) -> str:
    """The time in all, and that of the stages that took most of it."""
    most = seconds if verbose else nlargest(N_LONGEST_STAGES, seconds, key=seconds.__getitem__)
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items() if name in most)
    return f"time: {sum(seconds.values()):.1f} s" + (f" ({stages})" if stages else "")


def format_paths(what: str, paths: Sequence[str], verbose: bool) -> list[str]:
    """Paths, a line each, behind what is the matter with them."""
    lines = (f"{what}: {printable(path)}" for path in paths)
    return limit_lines(lines, len(paths), f"... and {{:,}} more {what}; -v shows all", verbose)


def format_rejected_files(what: str, files: Sequence[RejectedFile], verbose: bool) -> list[str]:
    """Files with reasons, under a heading."""
    if not files:
        return []
    lines = (f"  {printable(shorten(file.path, 300))}: {printable(file.reason)}" for file in files)
    heading = f"{what} {len(files):,} file{'s' if len(files) > 1 else ''}:"
    return [heading, *limit_lines(lines, len(files), "  ... and {:,} more; -v shows all of them", verbose)]


def limit_lines(lines: Iterable[str], count: int, more: str, verbose: bool, most: int = MAX_LINES) -> list[str]:
    """The first of `count` lines, all of them if verbose, and how many more there are."""
    shown = count if verbose else min(count, most)
    return [*islice(lines, shown), *([more.format(count - shown)] if shown < count else [])]


def format_number(value: float) -> str:
    """A number of four digits, without an exponent where people would write none."""
    value = 0.0 if abs(value) < ZERO_TOLERANCE else value
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def printable(text: str) -> str:
    """Text without control characters or bytes that are no UTF-8: a terminal acts on them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
