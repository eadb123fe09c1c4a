"""Reports, figures and tables of a result, written beside it or anywhere else."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from imgsubset.errors import OutputError, UsageError
from imgsubset.files import write_output
from imgsubset.reading.labels import parse_classes
from imgsubset.results.as_html import render_html
from imgsubset.results.as_json import (
    describe_comparison,
    describe_estimate_result,
    describe_score_result,
    describe_selection,
)
from imgsubset.results.comparison import Comparison
from imgsubset.results.estimates import Estimated
from imgsubset.results.evidence import ReportData
from imgsubset.results.lines import printable
from imgsubset.results.page import Page
from imgsubset.results.page_of_comparison import comparison_page
from imgsubset.results.page_of_estimate import estimate_page
from imgsubset.results.page_of_selection import selection_page
from imgsubset.results.plot import draw_plot
from imgsubset.results.records import Export, Scored, Selection
from imgsubset.writing.manifest import MANIFEST_NAME as MANIFEST_NAME

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
