"""Summaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import selection_of

from imgsubset import Options
from imgsubset.results.as_json import describe_comparison, describe_selection
from imgsubset.results.as_text import (
    batch_summary,
    comparison_summary,
    export_summary,
    selection_summary,
    split_summary,
)
from imgsubset.results.comparison import Comparison, Distance, Overlap
from imgsubset.results.records import Export, Placed, Selection
from imgsubset.sources.listing import Listing, RejectedFile

PARTS = {"train": ("6.bmp", "a/1.jpg", "a/2.png"), "test": ("b/4.gif",)}
STAGES = {"list": 0.01, "import": 2.0, "ingest": 0.3, "baseline": 0.2, "search": 3.0, "rank": 0.0}


@pytest.fixture
def selection(folder: Path) -> Selection:
    return selection_of(folder, ["6.bmp", "a/1.jpg"])


def parts_of(folder: Path, destination: Path | None = None, **changes: Any) -> dict[str, Placed]:
    """A split, made up; with the same changes in each part."""
    placed = {}
    for name, paths in PARTS.items():
        part = replace(selection_of(folder, paths), **changes)
        exported = Export(destination / name, "copy", {}, {}, 1.5, labels=len(paths)) if destination else None
        placed[name] = Placed(describe_selection(part, exported), destination and destination / name, part, exported)
    return placed


def test_a_split_has_a_row_a_part(folder: Path, tmp_path: Path) -> None:
    lines = split_summary(parts_of(folder, tmp_path / "sets", seconds=STAGES, cached=8, copies=1)).splitlines()
    assert lines[0] == f"4 of 8 images of {folder} in 2 parts, copied to {tmp_path / 'sets'}"
    heading, *rows = (line.split() for line in lines[2:5])
    assert heading == ["part", "images", "share", "labels", "without", "loss", "size"]
    assert rows == [["train", "3", "37.5%", "3", "0", "1.000", "3"], ["test", "1", "12.5%", "1", "0", "1.000", "1"]]
    assert len({len(line) for line in lines[2:5]}) == 1
    assert "Note: 1 image of the source is an exact copy of another." in lines
    assert lines[-1] == "time: 8.5 s (import 2.0 s, search 3.0 s, copy 3.0 s); 8 images from the cache"
    assert max(map(len, lines[1:])) <= 80


def test_classes_of_a_split_are_a_table(folder: Path) -> None:
    placed = parts_of(folder, classes={"a": (3, 2), "b": (4, 0), ".": (1, 1)})
    lines = [line.split() for line in split_summary(placed).splitlines()]
    assert lines[0][-2:] == ["nothing", "copied"]
    assert lines[2] == ["part", "images", "share", "classes", "loss", "size"]
    assert [line[3] for line in lines[3:5]] == ["2", "2"]
    start = lines.index(["class", "source", "train", "test"])
    assert lines[start + 1 : start + 4] == [["b", "4", "0", "0"], ["a", "3", "2", "2"], [".", "1", "1", "1"]]


def test_what_is_to_be_said_of_all_parts_is_said_once(folder: Path) -> None:
    rejected = (RejectedFile("bad.png", "empty file"),)
    placed = parts_of(folder, rejected=rejected, interrupted=True, warnings=("of all",))
    first = placed["train"].selection
    assert first is not None
    placed["train"] = replace(placed["train"], selection=replace(first, warnings=("of all", "of its own")))
    text = split_summary(placed)
    for once in ("Note: of all.", "Note: train: of its own.", "bad.png: empty file", "Interrupted: ", "time: "):
        assert text.count(once) == 1


def test_a_split_that_is_there_is_told_in_a_line(folder: Path, tmp_path: Path) -> None:
    placed = {name: replace(part, selection=None) for name, part in parts_of(folder, tmp_path / "sets").items()}
    assert split_summary(placed) == f"{tmp_path / 'sets'} already holds this split; nothing to do"


def test_an_interrupted_search_is_told_of(selection: Selection) -> None:
    assert "Interrupted" not in selection_summary(selection, None)
    assert selection_summary(replace(selection, interrupted=True), None).splitlines()[1].startswith("Interrupted: ")


def test_time_is_that_in_all_and_of_the_longest_stages(selection: Selection) -> None:
    text = selection_summary(replace(selection, seconds=STAGES), None)
    assert text.splitlines()[-1] == "time: 5.5 s (import 2.0 s, ingest 0.3 s, search 3.0 s)"
    assert (
        selection_summary(replace(selection, seconds={"list": 0.01}), None).splitlines()[-1]
        == "time: 0.0 s (list 0.0 s)"
    )
    verbose = selection_summary(replace(selection, seconds=STAGES), None, verbose=True)
    assert all(f"{stage} " in verbose.splitlines()[-1] for stage in STAGES)


def test_one_image_is_no_plural(folder: Path, tmp_path: Path) -> None:
    one = selection_of(folder, ["6.bmp"])
    assert "This image represents the look of the folder like about 1 random one\n" in selection_summary(one, None)
    done = Placed(describe_selection(one), tmp_path, None, None)
    assert export_summary(done) == f"{tmp_path} already holds this image, with loss 1.000; nothing to do"


def compared(p_values: Mapping[str, float], **overlaps: float) -> Comparison:
    """A comparison that came out so."""
    overlaps = dict.fromkeys(("precision", "recall", "density", "coverage"), 0.9) | overlaps
    distances = {name: Distance(1.0, 1.0, 2.0, value) for name, value in p_values.items()}
    listings = [Listing(name, Path(name), ("a",), ()) for name in ("one", "other")]
    return Comparison(
        warnings=(), options=Options(), device="cpu", seconds={}, first=listings[0], second=listings[1], size=64,
        sizes=(3, 4), divergences=distances, loss=Distance(1.0, 1.0, 2.0, 0.5), rejected=((), ()),
        overlaps={name: Overlap(value, 0.9, 0.8, 0.004) for name, value in overlaps.items()},
    )  # fmt: skip


def test_a_probability_at_its_floor_is_said_to_be_no_more_than_that() -> None:
    lines = comparison_summary(compared({"kl": 1 / 1001, "js": 2 / 1001, "frechet": 1.0})).splitlines()
    assert lines[2].startswith("The two are 1 times as far apart as two random samples")
    assert [line.split()[-1] for line in lines[5:10]] == ["p", "<=0.001", "0.002", "1.000", "0.500"]
    assert max(map(len, lines)) <= 80


def test_kids_follow_the_distances_without_a_ratio_and_are_told_apart() -> None:
    far, near = Distance(0.1, 1e-9, 0.01, 1 / 201), Distance(-0.1, 1e-9, 0.01, 1.0)
    one = replace(compared({"kl": 1.0}), kid={"inception64": near})
    assert comparison_summary(one).splitlines()[8].split() == ["kid", "-0.1", "1e-09", "0.01", "-", "1.000"]
    lines = comparison_summary(replace(one, kid={"inception64": near, "inception2048": far})).splitlines()
    assert lines[3] == "and differ by more than chance in kid 2048."
    assert [line.split()[:3] for line in lines[8:10]] == [["kid", "64", "-0.1"], ["kid", "2048", "0.1"]]
    record = describe_comparison(one)
    assert record["kid"] == {"inception64": {"value": -0.1, "floor_mean": 1e-9, "floor_limit": 0.01, "p_value": 1.0,
                                             "differs": False}}  # fmt: skip


def test_a_summary_says_which_of_two_folders_has_what_the_other_lacks() -> None:
    lines = comparison_summary(compared({"kl": 1.0})).splitlines()
    assert lines[2].endswith("one distribution:")
    assert [line.split() for line in lines[9:14]] == [
        ["overlap", "by", "chance", "99%", "above", "ratio", "p"],
        *([name, "0.9", "0.9", "0.8", "1.00", "0.004"] for name in ("precision", "recall", "density", "coverage")),
    ]
    lines = comparison_summary(compared({"kl": 1.0}, precision=0.7, coverage=0.1, recall=0.79)).splitlines()
    assert lines[2].endswith("one distribution.")
    assert lines[3:5] == [
        "More of other than by chance lies where one has few images: precision.",
        "More of one than by chance lies where other has few images: recall, coverage.",
    ]


def test_an_interrupted_job_is_no_done_one(selection: Selection) -> None:
    found = describe_selection(selection) | {"n": 2}
    records = [{"name": name, "status": name, "error": None, "result": found} for name in ("done", "interrupted")]
    heading, *rows = batch_summary(records).splitlines()
    assert [row.split() for row in rows] == [
        ["done", "done", "2", "1.000", "2"],
        ["interrupted", "interrupted", "2", "1.000", "2"],
    ]
    assert {len(row) for row in rows} == {len(heading)}
