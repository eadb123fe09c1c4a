"""The report of estimates: what results on a subset say of the whole, and which of two is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgsubset.results import svg
from imgsubset.results.estimates import Difference, Estimate, Estimated
from imgsubset.results.lines import format_number, printable
from imgsubset.results.page import Cell, Figure, Figures, Page, Part, Section, Table, make_number_cell
from imgsubset.results.page_parts import make_provenance_section

ESTIMATE_LEGEND = (("subset", "estimate for the whole, and the interval that holds it in 95 of 100 cases"),
       ("random", "mean on the subset"))  # fmt: skip
MAX_VERDICT_ESTIMATES = 3  # estimates in the verdict


def estimate_page(record: Mapping[str, Any], found: Estimated, made: Sequence[tuple[str, str]]) -> Page:
    """The report of estimates.

    record  of them, as JSON has it
    made    what else is to be said of how they were made, such as the command
    """
    n = len(found.paths)
    drawn = "" if found.chosen else "The intervals are right if the subset was drawn at random."
    sections = [
        Section(
            "What do the results say of the whole?",
            [_interval_figures(found.estimates), _estimate_table(found.estimates)],
            [],
            ESTIMATE_LEGEND,
        )
    ]
    if found.differences:
        text = [
            "A difference whose interval leaves out 0 is decided: one of the two is better on the whole source too."
        ]
        parts: list[Part] = [_interval_figures(found.differences, 0.0), _difference_table(found.differences)]
        sections.append(Section("Which is better?", parts, text, ESTIMATE_LEGEND))
    return Page(
        title=f"{n:,} of {found.total:,} images of {printable(found.source.name)}: {printable(found.subset)}",
        verdict=[_estimate_verdict(one) for one in found.estimates[:MAX_VERDICT_ESTIMATES]],
        lead=[drawn] if drawn else [],
        sections=[*sections, make_provenance_section(record, made)],
    )


def _estimate_verdict(one: Estimate) -> str:
    exact = "" if one.equivalent is None else f", as exact as {one.equivalent:,.0f} random images"
    ends = f"{one.low:.3g} to {one.high:.3g} in 95 of 100 cases"
    return f"{printable(one.name)}: {one.value:.3g} on the whole ({ends}){exact}."


def _interval_figures(estimates: Sequence[Estimate], aim: float | None = None) -> Figures:
    rows = [(printable(one.name), one.low, one.value, one.high, one.subset) for one in estimates]
    return Figures([Figure(svg.draw_intervals(rows, aim))])


def _estimate_table(estimates: Sequence[Estimate]) -> Table:
    heading = ["result", "on the subset", "whole, estimated", "from", "to", "as exact as random"]
    rows = [[*_estimate_cells(one, f"estimates.{place}"), _ess_cell(one)] for place, one in enumerate(estimates)]
    return Table(heading, rows)


def _difference_table(differences: Sequence[Difference]) -> Table:
    heading = ["difference", "on the subset", "whole, estimated", "from", "to", "decided"]
    rows = []
    for place, one in enumerate(differences):
        better = printable(one.first if one.value > 0 else one.second)
        rows.append(
            [*_estimate_cells(one, f"differences.{place}"), Cell(f"{better} is higher" if one.decided else "no")]
        )
    return Table(heading, rows)


def _estimate_cells(one: Estimate, key: str) -> list[Cell]:
    numbers = {name: getattr(one, name) for name in ("subset", "value", "low", "high")}
    return [
        Cell(printable(one.name)),
        *(make_number_cell(value, f"{key}.{name}", format_number(value)) for name, value in numbers.items()),
    ]


def _ess_cell(one: Estimate) -> Cell:
    return Cell("exact") if one.equivalent is None else make_number_cell(one.equivalent, text=f"{one.equivalent:,.0f}")
