"""The report of a comparison of two folders, and of estimates from a subset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from posixpath import basename
from typing import Any

from imgsubset.report import svg
from imgsubset.report.page import (
    Cell,
    Figure,
    Figures,
    Page,
    Part,
    Section,
    Table,
    make_contact_sheet,
    make_histogram_figures,
    make_number_cell,
    make_provenance_section,
)
from imgsubset.results.comparison import Comparison, Distance, Overlap
from imgsubset.results.records import Difference, Estimate, Estimated
from imgsubset.results.report_data import ComparisonReportData
from imgsubset.results.text import format_number, label_kids, overlap_lines, printable


def comparison_page(
    record: Mapping[str, Any], comparison: Comparison, shown: ComparisonReportData, made: Sequence[tuple[str, str]]
) -> Page:
    """The report of a comparison.

    record  of it, as JSON has it
    made    what else is to be said of how it was made, such as the command
    """
    full = [printable(listing.name) for listing in (comparison.first, comparison.second)]
    one, other = short if len({*(short := [basename(name.rstrip("/")) or name for name in full])}) == 2 else full
    loss = comparison.loss
    apart = "differ by more than chance" if loss.differs else "are as alike as two samples of one distribution"
    chance = f"p {loss.p_value:.3f}" if loss.p_value > 0.001 else "p at most 0.001"
    return Page(
        title=f"{full[1]} against {full[0]}",
        verdict=[f"{other} and {one} {apart}: {loss.ratio:.3g} times the distance that two random samples of these "
                 f"sizes are apart on average ({chance})."],
        lead=[f"{comparison.sizes[1]:,} images against {comparison.sizes[0]:,}, which are the reference.",
              *overlap_lines(comparison, one, other)],
        sections=[
            _distance_section(comparison, shown, other),
            _difference_section(shown, one, other),
            _dissimilar_images_section(shown, one, other),
            make_provenance_section(record, made),
        ],
    )  # fmt: skip


def _distance_section(comparison: Comparison, shown: ComparisonReportData, other: str) -> Section:
    key = (("subset", other), ("random", "the images of both, dealt out anew at random"), ("whole", "no distance"))
    figures = [Figure(svg.draw_strip_plot(strip), strip.name) for strip in shown.strip_plots]
    distances = {"loss": comparison.loss, **comparison.divergences} | label_kids(comparison)
    keys = {name: f"divergences.{name}.value" if name != "loss" else "loss.value" for name in distances}
    keys |= {name: f"kid.{of}.value" for name, of in zip(label_kids(comparison), comparison.kid, strict=True)}
    caption = "By chance: what two random samples of these sizes from one distribution show on average."
    tables = [
        _measure_table(distances, keys, "99 of 100 below", "", caption),
        _measure_table(
            comparison.overlaps,
            {name: f"overlaps.{name}.value" for name in comparison.overlaps},
            "99 of 100 above",
            "How far they overlap",
            f"Precision and density are low where {other} has images unlike all others, recall and coverage where it "
            "lacks some.",
        ),
    ]
    text = ["Right of all the dots, the folders differ by more than chance; among them, nothing tells them apart."]
    return Section("How far apart are they?", [Figures(figures, "pair"), *tables], text, key)


def _measure_table(
    figures: Mapping[str, Distance | Overlap], keys: Mapping[str, str], limit: str, title: str, caption: str
) -> Table:
    """Figures, each beside what chance shows."""
    rows = [
        [
            Cell(name),
            make_number_cell(of.value, keys[name]),
            make_number_cell(of.floor_mean),
            make_number_cell(of.floor_limit),
            # The KID of chance is 0 on average, and no unit.
            Cell("-") if name.startswith("kid") else make_number_cell(of.ratio, text=f"{of.ratio:.2f}"),
            make_number_cell(of.p_value, text=f"{of.p_value:.3f}" if of.p_value > 0.001 else "at most 0.001"),
        ]
        for name, of in figures.items()
    ]
    return Table(["", "value", "by chance", limit, "ratio", "p"], rows, title, caption)


def _difference_section(shown: ComparisonReportData, one: str, other: str) -> Section:
    words = f"Against {one}, {other} has or is: {'; '.join(shown.words)}." if shown.words else (
        "Brightness, contrast, sharpness and file sizes do not differ by more than chance."
    )  # fmt: skip
    parts: list[Part] = make_histogram_figures(shown.shares, f"{one} (grey) and of {other} (line)")
    if shown.map:
        caption = f"Grey: {one}; dots: {other}, in the two directions in which the former varies most."
        parts.append(Figures([Figure(svg.draw_pca_map(shown.map), "Both folders", caption)], "map"))
    return Section("In what do they differ?", parts, [words])


def _dissimilar_images_section(shown: ComparisonReportData, one: str, other: str) -> Section:
    parts = [
        make_contact_sheet(f"Of {mine}, the least like any of {theirs}", images)
        for mine, theirs, images in ((other, one, shown.dissimilar[0]), (one, other, shown.dissimilar[1]))
        if images
    ]
    return Section("Which images are unlike the other folder?", parts)


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
