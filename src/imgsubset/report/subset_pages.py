"""The report of a selection or a scored subset, and of several: the parts of a split, the jobs of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgsubset.report import svg
from imgsubset.report.page import (
    MAX_TABLE_ROWS,
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
from imgsubset.results.report_data import ReportData
from imgsubset.results.scores import Score
from imgsubset.results.text import format_number, format_random_count, printable, score_verdict

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
                [
                    [
                        Cell(one.name),
                        make_number_cell(one.loss),
                        make_number_cell(one.effective_size, text=f"{one.effective_size:,.0f}"),
                    ]
                    for one in score.held_out
                ],
            )
        )
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


MAX_IMAGES_PER_PART = 40  # images of each part that are shown


def parts_page(
    title: str,
    records: Mapping[str, Mapping[str, Any] | None],
    shown: Mapping[str, ReportData],
    failures: Mapping[str, str],
    made: Sequence[tuple[str, str]],
) -> Page:
    """The report of subsets by name.

    records   of each, as JSON has it; None of one that there is not
    shown     what is to be shown of those that were just made
    failures  why there are not some of them
    made      what else is to be said of how they were made
    """
    found = {name: record for name, record in records.items() if record is not None}
    done = f"{len(found):,} of {len(records):,} are there." if failures else ""
    rows = [_part_row(name, record) for name, record in found.items()]
    heading = ["", "images", "of", "loss", "like random images", "lowest", "highest"]
    caption = (
        "loss: 1 is an average random subset of this size. Like random images: how many are as close, in networks "
        "that the search did not see, the median of three, with the lowest and the highest."
    )
    sections = [Section("How good are they?", [Table(heading, rows, "", caption), *_part_strip_plots(shown)], [])]
    if failures:
        lines = [[Cell(printable(name)), Cell(printable(why))] for name, why in failures.items()]
        sections.append(Section("What failed?", [Table(["", "why"], lines)]))
    sheets: list[Part] = [
        make_contact_sheet(f"{printable(name)}: the first in rank order", evidence.chosen[:MAX_IMAGES_PER_PART])
        for name, evidence in shown.items()
    ]
    if sheets:
        sections.append(Section("What is in them?", sheets))
    if found:
        sections.append(make_provenance_section(next(iter(found.values())), made))
    return Page(title, [done] if done else [_parts_verdict(found)], sections)


def _parts_verdict(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The verdict: the part that is worth least."""
    sizes = {name: of["score"]["effective_size"] for name, of in found.items()}
    known = {name: size for name, size in sizes.items() if size is not None}
    if not known:
        return f"{len(found):,} subsets, each matched to the whole."
    name = min(known, key=lambda one: known[one] / found[one]["n"])
    return (
        f"Each of {len(found):,} subsets represents the look of the whole; the least so is {printable(name)}, whose "
        f"{found[name]['n']:,} images are worth about {format_random_count(known[name])}."
    )


def _part_row(name: str, record: Mapping[str, Any]) -> list[Cell]:
    score = record["score"]
    sizes = [score["effective_size"], *(score["effective_range"] or (None, None))]
    return [
        Cell(printable(name)),
        Cell(f"{record['n']:,}"),
        Cell(f"{record['counts']['usable']:,}"),
        make_number_cell(score["loss"], f"{name}.score.loss"),
        *(Cell("-") if size is None else make_number_cell(size, text=f"{size:,.0f}") for size in sizes),
    ]


def _part_strip_plots(shown: Mapping[str, ReportData]) -> list[Part]:
    figures = [
        Figure(svg.draw_strip_plot(plot), f"{printable(name)}: {plot.name[:1].lower()}{plot.name[1:]}")
        for name, plot in ((name, data.strip_plots[0]) for name, data in shown.items())
    ]
    return [Figures(figures, "pair")] if figures else []
