"""Parts of text that summaries share: tables, lists of files, bars, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from itertools import islice
from typing import TYPE_CHECKING

from imgsubset.errors import shorten
from imgsubset.results.scores import Measured, Score
from imgsubset.sources.images import RejectedFile

if TYPE_CHECKING:  # records use the parts of text, and the text is of records
    from imgsubset.results.comparison import Comparison, Distance

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


FULL_BLOCK, EIGHTH_BLOCKS = "\u2588", " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"  # of a block
NETWORK = "random-cnn"  # how the names of blocks of random CNNs begin
BLOCKS_PER_UNIT, MAX_BAR_BLOCKS = 24, 40  # blocks of an average random subset, and at most


def format_bar(ratio: float) -> str:
    """A ratio as a bar of blocks, of which an average random subset has 24."""
    eighths = round(8 * min(ratio * BLOCKS_PER_UNIT, MAX_BAR_BLOCKS))
    return (FULL_BLOCK * (eighths // 8) + EIGHTH_BLOCKS[eighths % 8]).rstrip() + (
        ">" if ratio * BLOCKS_PER_UNIT > MAX_BAR_BLOCKS else ""
    )


def score_lines(score: Score, n: int, verbose: bool = False) -> list[str]:
    """The verdict, and each distance in units of an average random subset's, the largest first."""
    ratios, means = score.ratios(), score.random_mean
    raw = f"{'value':>12}{'random':>12}" if verbose else ""
    lines = [score_verdict(score, n), "", f"{'distance':<12}{raw}{'ratio':>8}   1 = an average random subset"]
    for name, ratio in sorted(ratios.items(), key=lambda pair: -pair[1]):
        raw = f"{score.divergences[name]:>12.3g}{means[name]:>12.3g}" if verbose else ""
        lines.append(f"{name:<12}{raw}{ratio:>8.3f}   {format_bar(ratio)}".rstrip())
    raw = " " * 24 * verbose
    return [*lines, f"{'loss':<12}{raw}{score.loss:>8.3f}   {format_bar(score.loss)}".rstrip()]


def fid_lines(score: Score) -> list[str]:
    """The FID of the subset from the whole, in spaces where it is known."""
    return [
        f"FID from the whole, in {one.name}: {one.divergences['fid']:.4g}; random subsets {one.random_mean['fid']:.4g}."
        for one in score.searched
        if "fid" in one.divergences
    ]


def metadata_lines(score: Score, verbose: bool) -> list[str]:
    """How close the subset is in each feature that was asked for and in each column of the metadata: what is matched
    by default in a line, unless verbose."""
    asked = {block.name for block in score.searched if block.asked or verbose}
    columns = [column for column, block in score.columns if block in asked]
    lines = [
        f"Means of size, brightness, sharpness and such: off by at most {abs(one.z_score):.2f} of a random "
        "subset's error "
        f"({one.name.removeprefix('rank of ')})."
        for one in [column for column, block in score.columns if block not in asked][:1]  # the worst
    ]
    features = [block for block in score.searched if not block.columns]
    usual = all(block.name.startswith(NETWORK) for block in features)
    if not columns and (usual or (not score.held_out and len(score.searched) == 1)):
        return ["", *lines] if lines else []
    parts: dict[str, list[Measured]] = {}  # networks of one shape are one feature
    for block in (*features, *(block for block in score.searched if block.columns)):
        of_networks = "features" if usual else NETWORK
        parts.setdefault(of_networks if block.name.startswith(NETWORK) else block.name, []).append(block)
    weights = [sum(block.weight for block in blocks) for blocks in parts.values()]
    losses = [sum(block.weight * block.loss for block in blocks) for blocks in parts.values()]
    summed = {
        "matched": [printable(name) for name in parts],
        "weight": [f"{weight:.2f}" for weight in weights],
        "loss": [f"{loss / weight:.3f}" for loss, weight in zip(losses, weights, strict=True)],
    }
    searched = ["", *format_table(summed), "A random subset has 1. A search fits what it matches better than the rest."]
    if not columns:
        return [*searched, *(["", *lines] if lines else ())]
    each = {
        "column": [printable(shorten(one.name, 40)) for one in columns],
        "all": [format_number(one.source) for one in columns],
        "subset": [format_number(one.subset) for one in columns],
        "random": [f"+- {one.random_std:,.2g}" for one in columns],
        "off": [f"{one.z_score:+.2f}" for one in columns],
    }
    heading, *met = format_table(each)
    more = "... and {:,} more columns, met more closely; -v shows all"
    return [*searched, "", heading, *limit_lines(met, len(met), more, verbose), *lines]


def score_verdict(score: Score, n: int) -> str:
    """What a score means, in a sentence or two."""
    these, has, represent = (
        (f"These {n:,} images", "have", "represent") if n > 1 else ("This image", "has", "represents")
    )
    if score.effective_size is None or score.effective_range is None:
        names = " and ".join(printable(one.name) for one in score.searched)
        return (
            f"{these} {has} loss {score.searched_loss:.3f} in the {names} to be matched; a random subset has 1.\n"
            "A search fits what it matches, so no size follows from that; --held-out measures one."
        )
    low, high = score.effective_range
    return (
        f"{these} {represent} the look of the folder like about {format_random_count(score.effective_size)}\n"
        f"({low:,.0f} to {high:,.0f} in {len(score.held_out)} networks that the search did not see)."
    )


def comparison_verdict(comparison: Comparison) -> str:
    """What a comparison means, in a sentence or two."""
    outside = [name for name, one in (comparison.divergences | label_kids(comparison)).items() if one.differs]
    ratio = f"{comparison.loss.ratio:.3g} times as far apart as two random samples of one distribution"
    one, other = (printable(shorten(listing.name, 40)) for listing in (comparison.first, comparison.second))
    reach = overlap_lines(comparison, one, other)
    if outside:
        lines = [f"The two are {ratio},", f"and differ by more than chance in {', '.join(outside)}.", *reach]
    elif reach:
        lines = [f"The two are {ratio}.", *reach]
    else:
        lines = [f"The two are {ratio}:", "nothing here tells them from that."]
    return "\n".join(lines)


def label_kids(comparison: Comparison) -> dict[str, Distance]:
    """The KIDs by what a table calls them; the feature is named where there are several."""
    alone = len(comparison.kid) == 1
    return {"kid" if alone else f"kid {name.removeprefix('inception')}": one for name, one in comparison.kid.items()}


def overlap_lines(comparison: Comparison, one: str, other: str) -> list[str]:
    """Which of two folders, by these names, has images where the other has none, if more than by chance."""
    lines = []
    for mine, theirs, names in ((other, one, ("precision", "density")), (one, other, ("recall", "coverage"))):
        low = [name for name in names if getattr(comparison, name).differs]
        if low:
            lines.append(f"More of {mine} than by chance lies where {theirs} has few images: {', '.join(low)}.")
    return lines
