"""Write reports, the figure for a paper, and the table of images."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imgsubset.annotations.classes import parse_classes
from imgsubset.errors import OutputError, UsageError
from imgsubset.files import write_output
from imgsubset.report.other_pages import comparison_page, estimate_page
from imgsubset.report.page import Page, render_html
from imgsubset.report.subset_pages import selection_page
from imgsubset.results.as_json import (
    describe_comparison,
    describe_estimate_result,
    describe_score_result,
    describe_selection,
)
from imgsubset.results.comparison import Comparison
from imgsubset.results.records import Estimated, Export, Scored, Selection
from imgsubset.results.report_data import ReportData
from imgsubset.results.scores import Score
from imgsubset.results.text import printable
from imgsubset.writing.manifest import MANIFEST_NAME

# Of Okabe and Ito (2008), whom most colour-blind readers can tell apart; grey for what is random.
BLUE, GREY = "#0072b2", "#8c959f"
MATPLOTLIB_MISSING = "a plot needs a library that is not installed: pip install 'imgsubset[report]'"


def draw_plot(score: Score, evidence: ReportData, kind: str) -> bytes:
    """The subset's losses among those of random subsets, and the chosen among all images.

    kind  png, svg or pdf

    Raises UsageError where Matplotlib is not installed.
    """
    try:
        import numpy as np
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(MATPLOTLIB_MISSING) from None
    strips = evidence.strip_plots[:2]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    count = 2 if evidence.map else 1
    axes = figure.subplots(1, count, width_ratios=[1.6, 1][:count], squeeze=False)[0]
    _draw_strip_plots(axes[0], [(strip.name, strip.subset, strip.random) for strip in strips])
    size = "" if score.effective_size is None else f"like about {score.effective_size:,.0f} random images"
    axes[0].set_title(size, loc="left", fontsize=11)
    if evidence.map:
        axes[1].imshow(
            np.array(evidence.map.density), cmap="Greys", extent=(0, 1, 1, 0), vmax=1.6, interpolation="bilinear"
        )
        x, y = np.array(evidence.map.points).T
        axes[1].scatter(x, y, s=8, color=BLUE, edgecolor="white", linewidth=0.4)
        axes[1].set(xticks=[], yticks=[], xlabel="first principal component", ylabel="second")
        axes[1].set_title("chosen among all images", loc="left", fontsize=11)
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def _draw_strip_plots(axes: Any, strips: list[tuple[str, float, tuple[float, ...]]]) -> None:
    for row, (_, subset, random) in enumerate(strips):
        height = [row + (place * 7 % 15 - 7) * 0.025 for place in range(len(random))]  # dots would hide each other
        axes.scatter(
            random, height, s=10, color=GREY, alpha=0.5, linewidth=0, label="random subsets" if not row else None
        )
        axes.scatter([subset], [row], s=70, marker="D", color=BLUE, zorder=3, label="this subset" if not row else None)
    axes.axvline(0, color="black", linestyle="--", linewidth=1)
    names = [
        name.removeprefix("Loss in ").replace(" that the search did not see", "\nnot searched") for name, _, _ in strips
    ]
    axes.set_yticks(range(len(strips)), names)
    axes.set(xlabel="loss (1: an average random subset)", ylim=(len(strips) - 0.5, -0.6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")


PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_NOT_UTF8 = re.compile("[\ud800-\udfff]")  # bytes of a name that are no UTF-8, as Python has them
NO_REPORT_DATA = "the result was made without evidence=True, and has nothing to show"


def write_report(
    result: Selection | Scored | Comparison | Estimated,
    file: str | os.PathLike[str],
    exported: Export | None = None,
    made: Sequence[tuple[str, str]] = (),
) -> None:
    """Write one self-contained page about a result: readable offline, without scripts, on a phone and on paper.

    result    of `select`, `score` or `compare` with evidence=True, or of `estimate`
    exported  what `export` wrote of a selection
    made      what else is to be said of how it was made, names with values

    Raises UsageError without evidence or Jinja2, and OutputError where it cannot be written.
    """
    if isinstance(result, Estimated):
        page = estimate_page(describe_estimate_result(result), result, made)
    elif isinstance(result, Comparison):
        if result.contrast is None:
            raise UsageError(NO_REPORT_DATA)
        page = comparison_page(describe_comparison(result), result, result.contrast, made)
    else:
        evidence = _get_report_data(result)
        record = (
            describe_selection(result, exported) if isinstance(result, Selection) else describe_score_result(result)
        )
        manifest = "" if exported is None else _make_manifest_link(_find_manifest_file(exported.destination), file)
        page = selection_page(record, result.score, evidence, made, manifest)
    write_page(page, file)


def write_page(page: Page, file: str | os.PathLike[str]) -> None:
    """Write a page. Raises UsageError without Jinja2, and OutputError where it cannot be written."""
    _write_file(file, _NOT_UTF8.sub("\ufffd", render_html(page)).encode())


def write_plot(result: Selection | Scored, file: str | os.PathLike[str]) -> None:
    """Write the one figure of a subset, for a paper or a pull request: a PNG, SVG or PDF file by its suffix.

    Raises UsageError for another suffix, without evidence or Matplotlib, and OutputError where it cannot be written.
    """
    check_plot(file)
    _write_file(file, draw_plot(result.score, _get_report_data(result), Path(file).suffix.lower()[1:]))


def check_plot(file: str | os.PathLike[str]) -> None:
    """Raise UsageError for a file that is no picture by its suffix."""
    if Path(file).suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(f"plot '{os.fspath(file)}' is none of {', '.join(PLOT_SUFFIXES)} files")


def write_csv(result: Selection | Scored, file: str | os.PathLike[str]) -> None:
    """Write a line an image: its path, its class by folder, whether it is chosen, its rank, and its contribution: how
    much the searched loss would rise without it.

    Raises UsageError without evidence, and OutputError where it cannot be written.
    """
    evidence = _get_report_data(result)
    ranks = {path: rank for rank, path in enumerate(evidence.ranked, 1)}
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["path", "class", "chosen", "rank", "contribution"])
    for path, name in zip(evidence.paths, parse_classes(evidence.paths), strict=True):
        share = evidence.contributions.get(path)
        rank = ranks.get(path)
        lines.writerow([path, name, int(rank is not None), rank, None if share is None else f"{share:.6g}"])
    _write_file(file, text.getvalue().encode("utf-8", "surrogateescape"))


def _find_manifest_file(destination: Path) -> Path:
    """The file with the manifest: of an archive itself."""
    return destination if destination.is_file() else destination / MANIFEST_NAME


def _make_manifest_link(manifest: Path, file: str | os.PathLike[str]) -> str:
    """Where a page in this file finds the manifest, as long as both are moved together."""
    try:
        path = os.path.relpath(manifest, Path(file).parent)
    except ValueError:  # on another drive
        return manifest.absolute().as_uri()
    return quote(Path(path).as_posix().encode("utf-8", "surrogateescape"))


def _get_report_data(result: Selection | Scored) -> ReportData:
    if result.evidence is None:
        raise UsageError(NO_REPORT_DATA)
    return result.evidence


def _write_file(file: str | os.PathLike[str], content: bytes) -> None:
    path = Path(file)
    try:
        if path.is_dir():
            raise OutputError(f"'{printable(str(path))}' is a folder, not a file to write")
        write_output(path, content)
    except OSError as error:
        raise OutputError(f"cannot write '{printable(str(path))}': {error.strerror or error}") from None
