"""The report of a subset: how good is it, where does it still differ, what is in it, how was it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgsubset.results import svg
from imgsubset.results.evidence import ReportData
from imgsubset.results.lines import format_number, printable
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
from imgsubset.results.page_parts import MAX_TABLE_ROWS, make_histogram_figures, make_provenance_section
from imgsubset.results.score_lines import score_verdict
from imgsubset.results.scores import Score

SUBSET_LEGEND = (("subset", "the subset"), ("random", "random subsets of the same size"), ("whole", "the whole"))


def selection_page(
    record: Mapping[str, Any],
    score: Score,
    evidence: ReportData,
    made: Sequence[tuple[str, str]],
    manifest: str = "",
) -> Page:
    """The report of a subset.

    record    of it, as JSON has it
    made      what else is to be said of how it was made, such as the command
    manifest  the address of the file that has the record; empty: there is none
    """
    n, total = record["n"], record["counts"]["usable"]
    source = printable(str(record["source"]))
    return Page(
        title=f"{n:,} of {total:,} images of {source}",
        verdict=[" ".join(score_verdict(score, n).split())],
        lead=_lead_paragraphs(score, evidence),
        sections=[
            _quality_section(evidence),
            _divergence_section(score, evidence),
            _content_section(evidence),
            make_provenance_section(record, made, manifest),
        ],
    )


def _lead_paragraphs(score: Score, evidence: ReportData) -> list[str]:
    best = evidence.strip_plots[0]
    closer = sum(one < best.subset for one in best.random)
    unseen = "in networks that the search did not see" if score.held_out else "in what was searched"
    about = " The size is about what pictures look like, not about how well a classifier does on them."
    return [
        f"Its loss is {score.loss:.3g} {unseen}, where an average random subset has 1; of {len(best.random)} random "
        f"subsets of this size {closer:,} are closer.{about * bool(score.held_out)}"
    ]


def _quality_section(evidence: ReportData) -> Section:
    figures = [
        Figure(svg.draw_strip_plot(strip), f"Mean of {printable(strip.name)}" if strip.unit == "mean" else strip.name)
        for strip in evidence.strip_plots
    ]
    text = ["The nearer the dashed line, which is the whole folder, the better. Each dot is a random subset."]
    return Section("How good is this subset?", [Figures(figures, "pair")], text, SUBSET_LEGEND)


def _divergence_section(score: Score, evidence: ReportData) -> Section:
    means, ratios = score.random_mean, score.ratios()
    divergences = Table(
        ["divergence", "subset", "average random", "ratio"],
        [
            [
                Cell(name),
                make_number_cell(value, f"score.divergences.{name}.value"),
                make_number_cell(means[name], f"score.divergences.{name}.random_mean"),
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
                [[Cell(one.name), make_number_cell(one.loss), make_number_cell(one.effective_size, text=f"{one.effective_size:,.0f}")]
                 for one in score.held_out],
            )
        )  # fmt: skip
    parts.append(
        Table(
            ["matched", "weight", "loss"],
            [
                [Cell(printable(one.name)), make_number_cell(one.weight), make_number_cell(one.loss)]
                for one in score.searched
            ],
        )
    )
    parts += _column_tables(score)
    parts += make_histogram_figures(evidence.shares, "the subset, and of one random subset (dashed)")
    return Section("Where does it still differ?", parts)


def _column_tables(score: Score) -> list[Part]:
    found = score.columns
    if not found:
        return []
    rows = [
        [
            Cell(f"{printable(one.name)} ({printable(name)})"),
            make_number_cell(one.source, text=format_number(one.source)),
            make_number_cell(one.subset, text=format_number(one.subset)),
            make_number_cell(one.random_std, text=f"\u00b1 {one.random_std:,.2g}"),
            make_number_cell(one.z_score, text=f"{one.z_score:+.2f}"),
        ]
        for one, name in found[:MAX_TABLE_ROWS]
    ]
    more = f"{len(found) - MAX_TABLE_ROWS:,} more columns are met more closely." if len(found) > MAX_TABLE_ROWS else ""
    caption = "Means; off is in units of the spread that random subsets have, so that 1 is as far as a random one."
    heading = ["known of the images", "all", "subset", "random", "off"]
    return [Table(heading, rows, "What is known of the images, the worst first", caption, more)]


def _content_section(evidence: ReportData) -> Section:
    parts: list[Part] = []
    if evidence.map:
        caption = (
            f"Grey: all images; dots: the chosen. The two directions hold {evidence.map.explained:.0%} of the variance "
            "of what was searched."
        )
        parts.append(
            Figures([Figure(svg.draw_pca_map(evidence.map), "All images and the chosen ones", caption)], "map")
        )
    count = len(evidence.chosen)
    text = "In rank order: every beginning of it represents the whole well too."
    parts.append(
        make_contact_sheet(
            f"The first {count:,} of the chosen" if count > 1 else "The chosen image", evidence.chosen, text
        )
    )
    if evidence.worst:
        text = "Of a sample, those least like any chosen image: unusual pictures, and what a small subset leaves out."
        parts.append(make_contact_sheet("What it represents worst", evidence.worst, text))
    for place, copies in enumerate(evidence.copies, 1):
        parts.append(make_contact_sheet(f"Exact copies, set {place}", copies))
    return Section("What is in it?", parts)
