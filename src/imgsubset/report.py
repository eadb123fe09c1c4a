"""A selection as text that is readable at a glance."""

from __future__ import annotations

from collections.abc import Iterable

from imgsubset.export import Export
from imgsubset.images import RejectedFile
from imgsubset.selection import Score, Selection

SHOWN_REJECTED = 10


def summary(selection: Selection, exported: Export | None, verbose: bool = False) -> str:
    """The summary of a selection and of its export, if there was one."""
    n, total = len(selection.indices), len(selection.paths)
    where = f"copied to {printable(str(exported.destination))}" if exported else "nothing copied"
    seconds = selection.seconds | ({"copy": exported.seconds} if exported else {})
    lines = [f"{n:,} of {total:,} images of {printable(str(selection.source))}, {where}", ""]
    lines += score_table(selection.score)
    lines += ["", f"These {n:,} images represent the folder like {selection.score.effective_size:,.0f} random ones."]
    lines += [f"Warning: {warning}." for warning in selection.warnings]
    lines += ["", "time: " + ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())]
    lines += rejected_files(selection.rejected, verbose)
    return "\n".join(lines)


def score_table(score: Score) -> list[str]:
    """Each divergence with its random mean and their ratio, then the calibrated loss."""
    lines = [f"{'':<12}{'subset':>12}{'random':>12}{'ratio':>9}"]
    ratios = score.ratios()
    lines += [
        f"{name:<12}{value:>12.3g}{score.random_mean[name]:>12.3g}{ratios[name]:>9.3f}"
        for name, value in score.divergences.items()
    ]
    return [*lines, f"{'loss':<12}{'':>12}{'':>12}{score.loss:>9.3f}   (1 = an average random subset)"]


def rejected_files(rejected: Iterable[RejectedFile], verbose: bool) -> list[str]:
    """The files that were skipped, with reasons; only the first few unless verbose."""
    files = list(rejected)
    if not files:
        return []
    shown = files if verbose else files[:SHOWN_REJECTED]
    lines = [f"skipped {len(files):,} file{'s' if len(files) > 1 else ''}:"]
    lines += [f"  {printable(file.path)}: {printable(file.reason)}" for file in shown]
    if len(shown) < len(files):
        lines.append(f"  ... and {len(files) - len(shown):,} more; -v shows all of them")
    return lines


def printable(text: str) -> str:
    """Text without control characters or bytes that are no UTF-8: a terminal acts on them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
