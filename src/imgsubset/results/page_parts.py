"""What several reports have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from imgsubset.results import svg
from imgsubset.results.evidence import Histogram
from imgsubset.results.lines import printable
from imgsubset.results.page import Cell, Facts, Figure, Figures, Notes, Part, Section, SourceText, Table

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
