"""What records tell beyond their fields."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import selection_of

from imgsubset import export
from imgsubset.results.as_json import describe_export_result, describe_selection
from imgsubset.results.as_text import export_summary
from imgsubset.results.comparison import Distance
from imgsubset.results.records import Placed, Verification
from imgsubset.results.scores import Measured, Score

RANKED = ("b/4.gif", "6.bmp", "a/1.jpg")


def test_what_was_placed_tells_its_selection(folder: Path, tmp_path: Path) -> None:
    selection = selection_of(folder, RANKED)
    exported = export(selection, tmp_path / "out")
    placed = Placed(describe_selection(selection, exported), exported.destination, selection, exported)
    assert (placed.done, placed.interrupted, placed.loss) == (False, False, 1.0)
    assert placed.chosen == selection.chosen == ("6.bmp", "a/1.jpg", "b/4.gif")
    assert placed.ranked == selection.ranked == RANKED
    assert describe_export_result(placed)["destination"] == str(tmp_path / "out")
    assert "3 of 8 images of" in export_summary(placed)


def test_what_an_earlier_run_had_placed_tells_it_by_its_manifest(folder: Path, tmp_path: Path) -> None:
    record = describe_selection(replace(selection_of(folder, RANKED), interrupted=True))
    placed = Placed(record, tmp_path / "out", None, None)
    assert (placed.done, placed.interrupted, placed.loss) == (True, True, 1.0)
    assert placed.chosen == ("6.bmp", "a/1.jpg", "b/4.gif")
    assert placed.ranked == RANKED
    text = f"{tmp_path / 'out'} already holds these 3 images, with loss 1.000; nothing to do"
    assert export_summary(placed) == text


def test_nothing_placed_has_no_destination(folder: Path) -> None:
    selection = selection_of(folder, RANKED)
    placed = Placed(describe_selection(selection), None, selection, None)
    assert describe_export_result(placed)["destination"] is None
    assert [sorted(file) for file in placed.record["files"]] == [["path", "rank"]] * 3


def test_ratios_are_0_where_random_subsets_are_too() -> None:
    values, means = {"kl": 1.0, "js": 0.0}, {"kl": 4.0, "js": 0.0}
    measured = Measured("random-cnn", 1.0, values, means, values, 1.0, 50.0, 3.0)
    assert measured.ratios() == {"kl": 0.25, "js": 0.0}
    assert Score((measured,), (), 1.0, 3.0).ratios() == {"kl": 0.25, "js": 0.0}
    assert Distance(0.0, 0.0, 0.0, 1.0).ratio == 0.0
    assert Distance(3.0, 2.0, 2.5, 0.01).ratio == 1.5


def test_a_score_tells_the_medians_of_the_networks_that_were_not_searched() -> None:
    def measured(name: str, weight: float, loss: float, size: float) -> Measured:
        values = {"kl": loss, "js": 2 * loss}
        return Measured(name, weight, values, {"kl": 1.0, "js": 1.0}, values, loss, 100 * loss, size)

    searched = (measured("random-cnn 1", 0.25, 0.01, 900), measured("random-cnn 2", 0.75, 0.02, 800))
    held_out = tuple(
        measured(name, 1 / 3, *of) for name, of in zip("abc", [(0.2, 50), (0.6, 20), (0.3, 40)], strict=True)
    )
    score = Score(searched, held_out, 0.0175, 850)
    assert (score.loss, score.percentile, score.effective_size) == (0.3, 30.0, 40)
    assert score.effective_range == (20, 50)
    assert score.divergences == pytest.approx({"kl": (0.2 + 0.6 + 0.3) / 3, "js": 2 * (0.2 + 0.6 + 0.3) / 3})
    alone = Score(searched, (), 0.0175, 850)
    assert (alone.loss, alone.effective_size, alone.effective_range) == (0.0175, None, None)
    assert alone.percentile == pytest.approx(1.75)
    assert alone.divergences == pytest.approx({"kl": 0.0175, "js": 0.035})


@pytest.mark.parametrize(("value", "differs"), [(0.9, False), (1.0, False), (1 + 1e-12, False), (1.1, True)])
def test_a_distance_differs_above_its_floor(value: float, differs: bool) -> None:
    assert Distance(value, 0.5, 1.0, 0.5).differs == differs


@pytest.mark.parametrize("faults", [("missing",), ("changed",), ("extra",), ()], ids=str)
def test_a_verification_is_good_without_faults(tmp_path: Path, faults: tuple[str, ...]) -> None:
    found = replace(Verification(tmp_path, 3, (), (), ()), **dict.fromkeys(faults, ("x",)))
    assert found.good == (not faults)
