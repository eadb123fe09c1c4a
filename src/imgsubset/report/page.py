"""The parts of a report page, sections that several pages share, and the page as HTML that works offline."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as resources
from typing import Any

from imgsubset.errors import UsageError
from imgsubset.report import svg
from imgsubset.results.report_data import Histogram, Thumbnail
from imgsubset.results.text import printable


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what it shows; beside it a bar for a number in [0, 1]; and the number in full, with the name
    that the JSON record has for it."""

    text: str
    meter: float | None = None
    key: str = ""
    value: str = ""


def make_number_cell(value: float, key: str = "", text: str = "") -> Cell:
    """A number as a cell, rounded unless a text is given."""
    return Cell(text or f"{value:.3g}", key=key, value=repr(value))


@dataclass(frozen=True)
class Table:
    """Rows under a heading."""

    heading: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""
    more: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A drawing."""

    svg: str
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Figures:
    """Drawings one under another, or in pairs, or a map."""

    figures: Sequence[Figure]
    layout: str = "single"
    kind: str = "figures"


@dataclass(frozen=True)
class Picture:
    """An image of a sheet."""

    path: str
    data: str
    note: str


@dataclass(frozen=True)
class ContactSheet:
    """Small pictures side by side."""

    title: str
    images: Sequence[Picture]
    text: str = ""
    kind: str = "sheet"


def make_contact_sheet(title: str, images: Sequence[Thumbnail], text: str = "") -> ContactSheet:
    """Small pictures as a sheet."""
    shown = [
        Picture(printable(image.path), base64.b64encode(image.jpeg).decode(), printable(image.note)) for image in images
    ]
    return ContactSheet(title, shown, text)


@dataclass(frozen=True)
class Facts:
    """Names with values."""

    rows: Sequence[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Notes:
    """What a user should know."""

    lines: Sequence[str]
    kind: str = "notes"


@dataclass(frozen=True)
class SourceText:
    """A text to be opened, such as a manifest; or where it lies, if it is too long for a page."""

    title: str
    text: str
    link: str = ""
    kind: str = "source"


Part = Table | Figures | ContactSheet | Facts | Notes | SourceText


@dataclass(frozen=True)
class Section:
    """A part of the page under a title; `key` says what the marks of its figures are, by the class of each."""

    title: str
    parts: Sequence[Part]
    text: Sequence[str] = ()
    key: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Page:
    """A report: its title, the verdict, what is to be said under it, and the sections."""

    title: str
    verdict: Sequence[str]
    sections: Sequence[Section]
    lead: Sequence[str] = field(default=())


JINJA_MISSING = "a report needs a library that is not installed: pip install 'imgsubset[report]'"


def render_html(page: Page) -> str:
    """A page as HTML that loads nothing, runs no script, and takes names for nothing but text.

    Raises UsageError where Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise UsageError(JINJA_MISSING) from None
    room = resources("imgsubset.report")
    style = room.joinpath("report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["drawn"] = Markup
    template = environment.from_string(room.joinpath("report.html.jinja").read_text("utf-8"))
    return template.render(page=page, style=Markup(style), style_hash=f"sha256-{digest}")


MAX_EMBEDDED_CHARACTERS = 300_000  # characters of a record that stands in the page
MAX_TABLE_ROWS = 25  # of a long table


def make_histogram_figures(shares: Sequence[Histogram], compared: str) -> list[Part]:
    """How images are spread over numbers, in pairs, and over classes.

    compared  with what the whole is
    """
    drawn, classes = [], []
    for of in shares:
        if len(of.names) == len(of.whole) + 1:
            caption = f"Of {of.sampled:,} images that stand for all, of {compared}."
            drawn.append(Figure(svg.draw_histogram(of), of.title[:1].upper() + of.title[1:], caption))
        else:
            classes.append(Figure(svg.draw_class_bars(of), of.title[:1].upper() + of.title[1:]))
    return [*([Figures(drawn, "pair")] if drawn else ()), *([Figures(classes)] if classes else ())]


def make_provenance_section(record: Mapping[str, Any], made: Sequence[tuple[str, str]], manifest: str = "") -> Section:
    """The last section of a report: the command, versions, seeds, times, warnings, skipped files, the record itself.

    record    of a result, as JSON has it
    made      what else is to be said, names with values
    manifest  the address of the file that has the record, for one that is too long to stand in the page; empty: none
    """
    program, options = record["program"], record["options"]
    libraries = ", ".join(f"{name} {version}" for name, version in record["libraries"].items())
    seconds = record["seconds"]
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    facts = [
        *((name, printable(value)) for name, value in made),
        ("program", f"{program['name']} {program['version']} with {libraries}"),
        ("device", str(record["device"])),
        ("time", f"{sum(seconds.values()):.1f} s ({stages})"),
        ("seeds", f"search {options.get('seed')}, networks {options.get('feature_seed')}"),
    ]
    parts: list[Part] = [Facts(facts)]
    if record["warnings"]:
        parts.append(Notes([printable(one) for one in record["warnings"]]))
    if trace := _make_trace_figures(record.get("trace") or ()):
        parts.append(trace)
    rejected = record["rejected"]
    if isinstance(rejected, Mapping):  # of two folders
        rejected = [one for files in rejected.values() for one in files]
    if rejected:
        rows = [[Cell(printable(one["path"])), Cell(printable(one["reason"]))] for one in rejected[:MAX_TABLE_ROWS]]
        more = f"{len(rejected) - MAX_TABLE_ROWS:,} more" if len(rejected) > MAX_TABLE_ROWS else ""
        parts.append(Table(["file that was skipped", "reason"], rows, "Skipped files", "", more))
    listed = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    parts.append(SourceText("All options", printable_lines(listed)))
    text = json.dumps(record, indent=1)
    if len(text) <= MAX_EMBEDDED_CHARACTERS:
        parts.append(SourceText("The record of it, as in manifest.json", text))
    elif manifest:
        parts.append(SourceText("The record of it is manifest.json", "", manifest))
    return Section("How was it made?", parts)


def printable_lines(text: str) -> str:
    """Text of several lines without what a reader cannot see."""
    return "\n".join(map(printable, text.split("\n")))


def _make_trace_figures(trace: Sequence[Mapping[str, Any]]) -> Part | None:
    """The search, round by round; with n = 'auto' the sizes that were tried."""
    if not trace:
        return None
    sizes: dict[int, float] = {}
    for point in trace:
        sizes[point["n"]] = min(point["best"], sizes.get(point["n"], point["best"]))
    if len(sizes) > 1:
        drawn = svg.draw_curve(sorted((float(n), loss) for n, loss in sizes.items()), "n", "lowest searched loss")
        return Figures([Figure(drawn, "The sizes that were tried")])
    last = [point for point in trace if point["n"] == trace[-1]["n"]]
    figures = []
    for method in dict.fromkeys(point["method"] for point in last):
        points = [point for point in last if point["method"] == method]
        if len(points) < 2:
            continue
        losses = [(float(place), point["best"]) for place, point in enumerate(points, 1)]
        heats = [(float(place), point["temperature"]) for place, point in enumerate(points, 1)]
        figures.append(Figure(svg.draw_curve(losses, f"round of {method}", "loss"), f"Lowest searched loss: {method}"))
        figures.append(Figure(svg.draw_curve(heats, f"round of {method}", "T"), f"Temperature: {method}"))
    return Figures(figures, "pair") if figures else None
