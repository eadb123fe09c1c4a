"""The report of several subsets, the parts of a split or the jobs of a batch: a row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgsubset.results import svg
from imgsubset.results.evidence import ReportData
from imgsubset.results.lines import format_random_count, printable
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
from imgsubset.results.page_parts import make_provenance_section

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
        Figure(svg.draw_strip_plot(evidence.strip_plots[0]), f"{printable(name)}: {evidence.strip_plots[0].name[:1].lower()}"
               f"{evidence.strip_plots[0].name[1:]}")
        for name, evidence in shown.items()
    ]  # fmt: skip
    return [Figures(figures, "pair")] if figures else []
