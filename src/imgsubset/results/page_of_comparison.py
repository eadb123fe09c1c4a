"""The report of two folders: are they alike, where do they differ, which images are unlike the other folder's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from posixpath import basename
from typing import Any

from imgsubset.results import svg
from imgsubset.results.comparison import Comparison, Distance, Overlap
from imgsubset.results.evidence import ComparisonReportData
from imgsubset.results.lines import printable
from imgsubset.results.page import (
    Cell,
    Figure,
    Figures,
    Page,
    Part,
    Section,
    Table,
    make_contact_sheet,
    make_number_cell,
)
from imgsubset.results.page_parts import make_histogram_figures, make_provenance_section
from imgsubset.results.score_lines import label_kids, overlap_lines


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
