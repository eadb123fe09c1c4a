"""Results as one page that is looked at offline: how good is the subset, where does it still differ, what is in it,
how was it made."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from typing import Any

from imgsubset.errors import UsageError
from imgsubset.results import svg
from imgsubset.results.as_text import verdict
from imgsubset.results.evidence import Evidence
from imgsubset.results.lines import printable
from imgsubset.results.page import (
    Cell,
    Facts,
    Figure,
    Figures,
    Notes,
    Page,
    Part,
    Section,
    Source,
    Table,
    number,
    sheet,
)
from imgsubset.results.scores import Measured, Score

MOST_EMBEDDED = 300_000  # characters of a manifest that stands in the page
ROWS = 25  # of a table of columns
NO_LIBRARY = "a report needs a library that is not installed: pip install 'imgsubset[report]'"


def html(page: Page) -> str:
    """A page as HTML that loads nothing, runs no script, and takes names for nothing but text.

    Raises UsageError where Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise UsageError(NO_LIBRARY) from None
    room = resources("imgsubset.results")
    style = room.joinpath("report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["drawn"] = Markup
    template = environment.from_string(room.joinpath("report.html.jinja").read_text("utf-8"))
    return template.render(page=page, style=Markup(style), style_hash=f"sha256-{digest}")


def selection_page(
    record: Mapping[str, Any], score: Score, evidence: Evidence, made: Sequence[tuple[str, str]]
) -> Page:
    """The report of a subset.

    record  of it, as JSON has it
    made    what else is to be said of how it was made, such as the command
    """
    n, total = record["n"], record["counts"]["usable"]
    source = printable(str(record["source"]))
    return Page(
        title=f"{n:,} of {total:,} images of {source}",
        verdict=[" ".join(verdict(score, n).split())],
        lead=_closeness(score, evidence),
        sections=[
            _how_good(evidence),
            _where_it_differs(score, evidence),
            _what_is_in_it(evidence),
            _how_it_was_made(record, made),
        ],
    )


def _closeness(score: Score, evidence: Evidence) -> list[str]:
    best = evidence.strips[0]
    closer = sum(one < best.subset for one in best.random)
    unseen = "in networks that the search did not see" if score.held_out else "in what was searched"
    return [
        f"Its loss is {score.loss:.3g} {unseen}, where an average random subset has 1; of {len(best.random)} random "
        f"subsets of this size {closer:,} are closer. The size is about what pictures look like, not about how well a "
        "classifier does on them."
    ]


def _how_good(evidence: Evidence) -> Section:
    figures = [
        Figure(svg.strip(strip), f"Mean of {printable(strip.name)}" if strip.unit == "mean" else strip.name)
        for strip in evidence.strips
    ]
    text = ["The nearer the dashed line, which is the whole folder, the better. Each dot is a random subset."]
    return Section("How good is this subset?", [Figures(figures, "pair")], text, key=True)


def _where_it_differs(score: Score, evidence: Evidence) -> Section:
    means, ratios = score.random_mean, score.ratios()
    divergences = Table(
        ["divergence", "subset", "average random", "ratio"],
        [
            [
                Cell(name),
                number(value, f"score.divergences.{name}.value"),
                number(means[name], f"score.divergences.{name}.random_mean"),
                Cell(
                    f"{ratios[name]:.3f}", min(1.0, ratios[name]), f"score.divergences.{name}.ratio", repr(ratios[name])
                ),
            ]
            for name, value in score.divergences.items()
        ],
        caption="Raw distances from the whole, which random subsets of this size have too; the ratio is what counts.",
    )
    parts: list[Part] = [divergences]
    if score.held_out:
        parts.append(
            Table(
                ["network that only measured", "loss", "like so many random images"],
                [[Cell(one.name), number(one.loss), number(one.effective_size, text=f"{one.effective_size:,.0f}")]
                 for one in score.held_out],
            )
        )  # fmt: skip
    parts.append(
        Table(
            ["matched", "weight", "loss"],
            [[Cell(printable(one.name)), number(one.weight), number(one.loss)] for one in score.searched],
        )
    )
    parts += _columns(score.searched)
    drawn = [
        Figure(svg.spread(of), f"{of.title[:1].upper()}{of.title[1:]}", _of(of.sampled))
        for of in evidence.shares
        if _is_spread(of)
    ]
    classes = [Figure(svg.share_bars(of), "Classes, by folder") for of in evidence.shares if not _is_spread(of)]
    if drawn:
        parts.append(Figures(drawn, "pair"))
    if classes:
        parts.append(Figures(classes))
    return Section("Where does it still differ?", parts)


def _is_spread(of: Any) -> bool:
    return len(of.names) == len(of.whole) + 1


def _of(sampled: int) -> str:
    return f"Of {sampled:,} images that stand for all, of the subset, and of one random subset (dashed)."


def _columns(searched: Sequence[Measured]) -> list[Part]:
    found = sorted(
        ((one, block.name) for block in searched for one in block.columns), key=lambda pair: -abs(pair[0].off)
    )
    if not found:
        return []
    rows = [
        [
            Cell(f"{printable(one.name)} ({printable(name)})"),
            number(one.source, text=svg.plain(one.source)),
            number(one.subset, text=svg.plain(one.subset)),
            number(one.random_std, text=f"\u00b1 {one.random_std:,.2g}"),
            number(one.off, text=f"{one.off:+.2f}"),
        ]
        for one, name in found[:ROWS]
    ]
    more = f"{len(found) - ROWS:,} more columns are met more closely." if len(found) > ROWS else ""
    caption = "Means; off is in units of the spread that random subsets have, so that 1 is as far as a random one."
    heading = ["known of the images", "all", "subset", "random", "off"]
    return [Table(heading, rows, "What is known of the images, the worst first", caption, more)]


def _what_is_in_it(evidence: Evidence) -> Section:
    parts: list[Part] = []
    if evidence.map:
        caption = (
            f"Grey: all images; dots: the chosen. The two directions hold {evidence.map.explained:.0%} of the variance "
            "of what was searched."
        )
        parts.append(Figures([Figure(svg.density_map(evidence.map), "All images and the chosen ones", caption)], "map"))
    count = len(evidence.chosen)
    text = "In rank order: every beginning of it represents the whole well too."
    parts.append(
        sheet(f"The first {count:,} of the chosen" if count > 1 else "The chosen image", evidence.chosen, text)
    )
    if evidence.worst:
        text = "Of a sample, those least like any chosen image: unusual pictures, and what a small subset leaves out."
        parts.append(sheet("What it represents worst", evidence.worst, text))
    for place, copies in enumerate(evidence.copies, 1):
        parts.append(sheet(f"Exact copies, set {place}", copies))
    return Section("What is in it?", parts)


def _how_it_was_made(record: Mapping[str, Any], made: Sequence[tuple[str, str]]) -> Section:
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
    if trace := _trace(record.get("trace") or ()):
        parts.append(trace)
    if rejected := record["rejected"]:
        rows = [[Cell(printable(one["path"])), Cell(printable(one["reason"]))] for one in rejected[:ROWS]]
        more = f"{len(rejected) - ROWS:,} more" if len(rejected) > ROWS else ""
        parts.append(Table(["file that was skipped", "reason"], rows, "Skipped files", "", more))
    listed = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    parts.append(Source("All options", printable_lines(listed)))
    text = json.dumps(record, indent=1)
    if len(text) <= MOST_EMBEDDED:
        parts.append(Source("The record of it, as in manifest.json", text))
    return Section("How was it made?", parts)


def printable_lines(text: str) -> str:
    """Text of several lines without what a reader cannot see."""
    return "\n".join(map(printable, text.split("\n")))


def _trace(trace: Sequence[Mapping[str, Any]]) -> Part | None:
    """The search, round by round; with n = 'auto' the sizes that were tried."""
    if not trace:
        return None
    sizes: dict[int, float] = {}
    for point in trace:
        sizes[point["n"]] = min(point["best"], sizes.get(point["n"], point["best"]))
    if len(sizes) > 1:
        drawn = svg.curve(sorted((float(n), loss) for n, loss in sizes.items()), "n", "lowest searched loss")
        return Figures([Figure(drawn, "The sizes that were tried")])
    last = [point for point in trace if point["n"] == trace[-1]["n"]]
    figures = []
    for method in dict.fromkeys(point["method"] for point in last):
        points = [point for point in last if point["method"] == method]
        if len(points) < 2:
            continue
        losses = [(float(place), point["best"]) for place, point in enumerate(points, 1)]
        heats = [(float(place), point["temperature"]) for place, point in enumerate(points, 1)]
        figures.append(Figure(svg.curve(losses, f"round of {method}", "loss"), f"Lowest searched loss: {method}"))
        figures.append(Figure(svg.curve(heats, f"round of {method}", "T"), f"Temperature: {method}"))
    return Figures(figures, "pair") if figures else None
