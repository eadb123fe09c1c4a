"""The report of estimates: what results on a subset say of the whole, and which of two is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgsubset.results import svg
from imgsubset.results.estimates import Difference, Estimate, Estimated
from imgsubset.results.lines import plain, printable
from imgsubset.results.page import Cell, Figure, Figures, Page, Part, Section, Table, number
from imgsubset.results.page_parts import how_it_was_made

KEY = (("subset", "estimate for the whole, and the interval that holds it in 95 of 100 cases"),
       ("random", "mean on the subset"))  # fmt: skip
TOLD = 3  # estimates in the verdict


def estimate_page(record: Mapping[str, Any], found: Estimated, made: Sequence[tuple[str, str]]) -> Page:
    """The report of estimates.

    record  of them, as JSON has it
    made    what else is to be said of how they were made, such as the command
    """
    n = len(found.paths)
    drawn = "" if found.chosen else "The intervals are right if the subset was drawn at random."
    sections = [
        Section("What do the results say of the whole?", [_drawn(found.estimates), _table(found.estimates)], [], KEY)
    ]
    if found.differences:
        text = [
            "A difference whose interval leaves out 0 is decided: one of the two is better on the whole source too."
        ]
        parts: list[Part] = [_drawn(found.differences, 0.0), _differences(found.differences)]
        sections.append(Section("Which is better?", parts, text, KEY))
    return Page(
        title=f"{n:,} of {found.total:,} images of {printable(found.source.name)}: {printable(found.subset)}",
        verdict=[_told(one) for one in found.estimates[:TOLD]],
        lead=[drawn] if drawn else [],
        sections=[*sections, how_it_was_made(record, made)],
    )


def _told(one: Estimate) -> str:
    exact = "" if one.equivalent is None else f", as exact as {one.equivalent:,.0f} random images"
    ends = f"{one.low:.3g} to {one.high:.3g} in 95 of 100 cases"
    return f"{printable(one.name)}: {one.value:.3g} on the whole ({ends}){exact}."


def _drawn(estimates: Sequence[Estimate], aim: float | None = None) -> Figures:
    rows = [(printable(one.name), one.low, one.value, one.high, one.subset) for one in estimates]
    return Figures([Figure(svg.intervals(rows, aim))])


def _table(estimates: Sequence[Estimate]) -> Table:
    heading = ["result", "on the subset", "whole, estimated", "from", "to", "as exact as random"]
    rows = [[*_cells(one, f"estimates.{place}"), _exact(one)] for place, one in enumerate(estimates)]
    return Table(heading, rows)


def _differences(differences: Sequence[Difference]) -> Table:
    heading = ["difference", "on the subset", "whole, estimated", "from", "to", "decided"]
    rows = []
    for place, one in enumerate(differences):
        better = printable(one.first if one.value > 0 else one.second)
        rows.append([*_cells(one, f"differences.{place}"), Cell(f"{better} is higher" if one.decided else "no")])
    return Table(heading, rows)


def _cells(one: Estimate, key: str) -> list[Cell]:
    numbers = {name: getattr(one, name) for name in ("subset", "value", "low", "high")}
    return [
        Cell(printable(one.name)),
        *(number(value, f"{key}.{name}", plain(value)) for name, value in numbers.items()),
    ]


def _exact(one: Estimate) -> Cell:
    return Cell("exact") if one.equivalent is None else number(one.equivalent, text=f"{one.equivalent:,.0f}")
