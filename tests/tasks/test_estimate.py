"""Estimates from results on subsets: whose results they are, how the subset was drawn, and what is said of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import create, read, smooth, strict_json
from torchvision.datasets import ImageFolder

from imgsubset import Estimated, Options, Selection, estimate, export, select
from imgsubset.errors import InputError, UsageError
from imgsubset.results.as_json import RECORD_KEYS, describe_estimate_result
from imgsubset.results.as_text import estimate_summary
from imgsubset.statistics.estimation import compute_covariates, estimate_means
from imgsubset.tasks.match_terms import add_match_blocks

TOTAL, N = 90, 30
WORDS: dict[str, Any] = {
    "workers": 0,
    "candidates": 16,
    "steps": 4,
    "device": "cpu",
    "channels": (4, 6),
    "networks": 2,
    "size": 16,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of three unequal classes, in which patients have two images each, and a table about its images."""
    folder = tmp_path_factory.mktemp("estimated")
    random = np.random.default_rng(0)
    rows = []
    for number in range(TOTAL):
        path = f"{'aaabbc'[number % 6]}/p{number // 2:02d}_{number:02d}.png"
        smooth(number, 16, 16).save(create(folder / "source" / path))
        rows.append(f"{path},{random.normal():.6f},{random.exponential():.6f},{'xyz'[number % 3]}")
    (folder / "scores.csv").write_text("\n".join(["path,margin,entropy,kind", *rows]))
    labels = [f"{row.split(',')[0]},{row.split(',')[3]}" for row in rows]
    (folder / "labels.csv").write_text("\n".join(["path,label", *labels]))
    return folder


@pytest.fixture(scope="module")
def selection(root: Path) -> Selection:
    return select(root / "source", N, stratify=True, match=str(root / "scores.csv"), **WORDS)


@pytest.fixture
def out(selection: Selection, tmp_path: Path) -> Path:
    export(selection, tmp_path / "out")
    return tmp_path / "out"


def table(root: Path) -> dict[str, tuple[float, float]]:
    """Margin and entropy by path."""
    lines = [line.split(",") for line in (root / "scores.csv").read_text().splitlines()[1:]]
    return {path: (float(margin), float(entropy)) for path, margin, entropy, _ in lines}


def right(paths: Sequence[str]) -> dict[str, int]:
    """What a model got right, by path."""
    return {path: int(path[-5] in "024578") for path in paths}


def told(*arguments: Any, **words: Any) -> Estimated:
    """Estimate in this process, which a manifest does not say."""
    return estimate(*arguments, **{"workers": 0} | words)


def numbers(found: Estimated) -> list[Any]:
    return [found.estimates, found.differences, found.paths]


def write(file: Path, rows: dict[str, Any], name: str = "right") -> Path:
    file.write_text("\n".join([f"path,{name}", *(f"{path},{value}" for path, value in rows.items())]))
    return file


@pytest.mark.slow
def test_it_is_the_estimate_of_what_the_subset_was_matched_in(root: Path, selection: Selection) -> None:
    y = right(selection.paths)
    found = told(root / "source", selection, {"right": [y[path] for path in selection.chosen]})
    source = read(root / "source", selection.options, ("image",))
    blocks = add_match_blocks(source, selection.options, N).standardise().blocks
    assert [block.name for block in blocks] == ["random-cnn 1", "random-cnn 2", "scores.csv", "image"]
    classes = torch.tensor([ord(path[0]) for path in source.paths])
    values = torch.tensor([[float(y[path])] for path in selection.chosen])
    rows, shares = torch.tensor(selection.rows), torch.tensor([True])
    expected = estimate_means(values, compute_covariates(blocks), rows, classes, shares=shares)
    (one,) = found.estimates
    assert (one.name, one.subset) == ("right", pytest.approx(np.mean([y[path] for path in selection.chosen])))
    for name in ("value", "error", "low", "high", "equivalent"):
        assert getattr(one, name) == pytest.approx(getattr(expected, name).item(), rel=1e-9)
    assert (found.paths, found.total, found.chosen) == (selection.chosen, TOTAL, True)
    assert (found.subset, found.options, found.warnings) == ("the selection", selection.options, ())


def test_what_the_table_says_is_nearly_exact(root: Path, selection: Selection) -> None:
    known = table(root)
    y = {path: 3 + 2 * margin - 0.5 * entropy for path, (margin, entropy) in known.items()}
    found = told(root / "source", selection, {path: y[path] for path in selection.chosen})
    (one,) = found.estimates
    assert one.name == "result"
    assert one.value == pytest.approx(np.mean(list(y.values())), abs=1e-5)
    assert one.high - one.low < 1e-4
    assert one.equivalent is not None
    assert one.equivalent > 1e6
    assert "as exact as more than 90 random images" in estimate_summary(found)


def test_a_constant_is_exact_and_what_it_may_miss_is_said(root: Path, selection: Selection) -> None:
    found = told(root / "source", selection, {"right": [1] * N, "size": [0.1] * N})
    for one, value in zip(found.estimates, (1, 0.1), strict=True):
        assert (one.subset, one.value, one.low, one.high, one.error) == (value, value, value, value, 0)
        assert one.equivalent is None
    (note,) = found.warnings
    assert note == "'right': all 30 images are alike; up to 0.095 of the whole may be otherwise and not show"
    record = strict_json(json.dumps(describe_estimate_result(found)))
    assert record["estimates"][0]["equivalent"] is None
    assert record["differences"] == []  # one is of zeros and ones, the other is not


@pytest.mark.parametrize("name", ["", "manifest.json"])
def test_a_manifest_says_how_the_subset_was_chosen(root: Path, selection: Selection, out: Path, name: str) -> None:
    y = right(selection.paths)
    file = write(out.parent / "r.csv", {path: y[path] for path in selection.chosen})
    expected = told(root / "source", selection, {"right": [y[path] for path in selection.chosen]})
    found = told(root / "source", out / name, file)
    assert numbers(found) == numbers(expected)
    assert found.chosen
    assert found.options.stratify
    assert found.options.match == ((str(root / "scores.csv"), 1.0), ("image", 0.25))
    assert found.subset == str(out / name)
    other = told(root / "source", out / name, file, stratify=False)
    assert other.estimates[0].error != found.estimates[0].error


PLACES = {
    "source": lambda path, root, out: path,
    "source, absolute": lambda path, root, out: str(root / "source" / path),
    "subset, absolute": lambda path, root, out: str(out / path),
    "subset, from here": lambda path, root, out: f"out/{path}",
    "not normal": lambda path, root, out: f" ./{path} ",
}


@pytest.mark.parametrize("spell", PLACES.values(), ids=PLACES)
def test_paths_may_start_from_anywhere(
    root: Path, selection: Selection, out: Path, spell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out.parent)
    y = right(selection.paths)
    expected = told(root / "source", out, {path: y[path] for path in selection.chosen})
    file = write(Path("r.csv"), {spell(path, root, out): y[path] for path in reversed(selection.chosen)}, "result")
    assert numbers(told(root / "source", out, file)) == numbers(expected)


def test_a_renamed_subset_has_results_under_its_own_names(root: Path, selection: Selection, tmp_path: Path) -> None:
    names = {path: f"{N - place:02d}.png" for place, path in enumerate(selection.chosen)}
    for path, name in names.items():
        shutil.copy(root / "source" / path, create(tmp_path / "flat" / name))
    y = right(selection.paths)
    words = {**WORDS, "stratify": True}
    expected = told(root / "source", [root / "source" / path for path in selection.chosen],
                        {"result": [y[path] for path in selection.chosen]}, **words)  # fmt: skip
    by_name = {names[path]: y[path] for path in selection.chosen}
    found = told(root / "source", tmp_path / "flat", by_name, **words)
    assert numbers(found) == numbers(expected)
    in_order = {"result": [by_name[name] for name in sorted(by_name)]}
    assert numbers(told(root / "source", tmp_path / "flat", in_order, **words)) == numbers(expected)
    assert not found.chosen
    assert "The intervals are right if the subset was drawn at random." in estimate_summary(found)


@pytest.mark.slow
def test_lists_are_in_the_order_of_the_list_that_the_subset_is(root: Path, selection: Selection) -> None:
    y = right(selection.paths)
    chosen = [*selection.chosen]
    expected = told(root / "source", chosen, {path: y[path] for path in chosen}, **WORDS)
    shuffled = [chosen[place] for place in np.random.default_rng(0).permutation(N)]
    found = told(root / "source", shuffled, {"result": [y[path] for path in shuffled]}, **WORDS)
    assert numbers(found) == numbers(expected)
    twice = [*shuffled, shuffled[0]]
    found = told(root / "source", twice, {"result": [y[path] for path in twice]}, **WORDS)
    assert numbers(found) == numbers(expected)
    full = [root / "source" / path for path in shuffled]
    foreign = [*full[:3], root / "scores.csv", *full[3:]]
    values = [*(y[path] for path in shuffled[:3]), 99, *(y[path] for path in shuffled[3:])]
    found = told(root / "source", foreign, {"result": values}, skip_foreign=True, **WORDS)
    assert numbers(found) == numbers(expected)
    assert len(found.foreign) == 1
    with pytest.raises(UsageError, match="29 results for the 30 images"):
        told(root / "source", shuffled, {"result": [1.0] * 29}, **WORDS)


def test_missing_double_and_foreign_results(root: Path, selection: Selection, out: Path) -> None:
    y = dict.fromkeys(selection.chosen, 0.5)
    some = {path: y[path] for path in selection.chosen[2:]}
    with pytest.raises(InputError) as raised:
        told(root / "source", out, write(out.parent / "r.csv", some))
    assert f"lack 2 of the 30 images of the subset, the first of them '{selection.chosen[0]}'" in str(raised.value)
    with pytest.raises(InputError, match=r"lack 30 of the 30 .*; they begin with 'x.png'"):
        told(root / "source", out, {"x.png": 1})
    doubled = write(out.parent / "r.csv", y)
    doubled.write_text(f"{doubled.read_text()}\n{out / selection.chosen[4]},1\n")
    with pytest.raises(InputError, match=rf"two rows of '{selection.chosen[4]}', in line 6 and line 32"):
        told(root / "source", out, doubled)
    more = {**y, **{path: 7.0 for path in selection.paths if path not in y}, "gone.png": 8.0}
    found = told(root / "source", out, write(out.parent / "r.csv", more))
    (note,) = found.warnings
    assert "there are 61 rows of results" in note
    assert "about no image of the subset, such as 'a/" in note
    assert found.estimates[0].value == 0.5


@pytest.mark.slow
def test_groups_and_labels_are_those_of_the_manifest(root: Path, tmp_path: Path) -> None:
    labels = shutil.copy(root / "labels.csv", tmp_path / "labels.csv")
    chosen = select(root / "source", N, stratify=True, labels=labels, **WORDS)
    export(chosen, tmp_path / "by-label")
    y = right(chosen.chosen)
    found = told(root / "source", tmp_path / "by-label", y)
    assert found.options.labels == str(tmp_path / "labels.csv")
    explicit = told(root / "source", [*chosen.chosen], y, stratify=True, labels=labels, **WORDS)
    assert numbers(found) == numbers(explicit)
    Path(labels).write_text((root / "labels.csv").read_text() + "\n")
    changed = told(root / "source", tmp_path / "by-label", y)
    assert not changed.options.stratify
    assert "the subset was drawn by classes of labels" in changed.warnings[0]
    again = told(root / "source", tmp_path / "by-label", y, labels=labels)
    assert numbers(again) == numbers(found)
    whole = select(root / "source", N, group_by="(p[0-9]+)_", **WORDS)
    export(whole, tmp_path / "by-group")
    y = right(whole.chosen)
    grouped = told(root / "source", tmp_path / "by-group", y)
    assert grouped.options.group_by == "(p[0-9]+)_"
    single = told(root / "source", [*whole.chosen], y, **WORDS)
    assert grouped.estimates[0].error != single.estimates[0].error
    assert grouped.estimates[0].subset == single.estimates[0].subset


@pytest.mark.slow
def test_classes_in_memory_are_those_of_the_data_set_or_lost(root: Path, tmp_path: Path) -> None:
    dataset = ImageFolder(str(root / "source"))
    chosen = select(dataset, N, stratify=True, **WORDS)
    export(chosen, tmp_path / "out")
    y = right(chosen.chosen)
    expected = told(dataset, chosen, y)
    found = told(dataset, tmp_path / "out", y)
    assert numbers(found) == numbers(expected)
    assert found.options.stratify
    lost = told(root / "source", tmp_path / "out", y)
    assert not lost.options.stratify
    assert lost.warnings == (
        "the subset was drawn by classes that were in memory; --stratify --labels FILE gives them again",
    )


def test_a_subset_that_lost_images_is_not_what_was_chosen(root: Path, selection: Selection, out: Path) -> None:
    (out / selection.chosen[0]).unlink()
    found = told(root / "source", out, right(selection.chosen))
    assert len(found.paths) == N - 1
    assert not found.chosen


def test_two_units_at_least(root: Path, selection: Selection) -> None:
    one = [selection.chosen[0]]
    with pytest.raises(InputError, match="the subset is one image; how exact"):
        told(root / "source", one, {"right": [1]}, **WORDS)
    patient = [path for path in selection.paths if "p03_" in path]
    assert len(patient) == 2
    with pytest.raises(InputError, match="the subset is one group; how exact"):
        told(root / "source", patient, {"right": [1, 0]}, group_by="(p[0-9]+)_", **WORDS)
    found = told(root / "source", patient, {"right": [1, 0]}, **WORDS)
    assert found.estimates[0].low < 0.1 < 0.9 < found.estimates[0].high
    lone = told(root / "source", patient, {"right": [1, 0]}, stratify=True, **WORDS)
    assert "2 of the classes have fewer than two images in the subset" in lone.warnings[-1]


def test_results_of_a_kind_are_compared(root: Path, selection: Selection) -> None:
    random = np.random.default_rng(1)
    worse = (random.random(N) < 0.3).astype(int)
    results = {"a": np.ones(N) - worse, "b": worse, "loss": random.random(N), "iou": 5 + random.random(N)}
    found = told(root / "source", selection, results)
    assert [(one.first, one.second) for one in found.differences] == [("a", "b"), ("loss", "iou")]
    one = found.differences[0]
    apart = told(root / "source", selection, {"apart": results["a"] - results["b"]}).estimates[0]
    for name in ("subset", "value", "error", "low", "high"):
        assert getattr(one, name) == pytest.approx(getattr(apart, name))
    assert one.decided == (not one.low <= 0 <= one.high)
    assert found.differences[1].decided
    assert found.differences[1].high < 0
    assert "loss - iou: " in estimate_summary(found)
    assert "95 %): iou is higher" in estimate_summary(found)
    same = told(root / "source", selection, {"a": results["loss"], "b": results["loss"][::-1]})
    assert not same.differences[0].decided
    assert "95 %): not decided" in estimate_summary(same)
    equal = told(root / "source", selection, {"a": results["loss"], "b": results["loss"]})
    assert not equal.differences[0].decided
    many = told(root / "source", selection, {f"m{place}": random.random(N) for place in range(13)})
    assert many.differences == ()
    assert "13 results are too many to compare each with each" in many.warnings[0]


def test_the_record_is_json_and_its_text_is_readable(root: Path, selection: Selection) -> None:
    y = right(selection.paths)
    found = told(root / "source", selection, {"right": [y[path] for path in selection.chosen]})
    record = strict_json(json.dumps(describe_estimate_result(found)))
    assert set(record) == set(RECORD_KEYS["estimated"])
    (one,) = record["estimates"]
    assert one == {"name": "right"} | {name: getattr(found.estimates[0], name) for name in one if name != "name"}
    assert (record["n"], record["chosen"], record["counts"]["usable"]) == (N, True, TOTAL)
    line = estimate_summary(found).splitlines()[2]
    expected = found.estimates[0]
    assert line.startswith(
        f"right: {expected.subset:.3f} on the subset, {expected.value:.3f} estimated for the whole ("
    )
    assert line.endswith(" random images")
    assert "drawn at random" not in estimate_summary(found)
    assert repr(found).startswith(f"Estimated(right {expected.value:.4g} +- ")


def test_columns_and_options_are_checked_before_any_work(root: Path, selection: Selection, tmp_path: Path) -> None:
    file = write(tmp_path / "r.csv", right(selection.chosen))
    for word in ({"columns": ["wrong"]}, {"columns": 3}, {"skip_foreign": 1}, {"steps": "x"}, {"unknown": 1}):
        with pytest.raises(UsageError):
            told(tmp_path / "no such source", selection, file, **word)
    found = told(root / "source", selection, {"a": [0.5] * N, "b": [1.5] * N}, columns="b")
    assert [one.name for one in found.estimates] == ["b"]


@pytest.mark.slow
def test_neither_threads_nor_processes_nor_the_cache_change_it(
    root: Path, selection: Selection, tmp_path: Path
) -> None:
    y = right(selection.chosen)
    expected = numbers(estimate(root / "source", selection, y))
    for more in ({"workers": 2}, {"cache": str(tmp_path)}, {"cache": str(tmp_path), "workers": 1}):
        options = Options(**{**WORDS, "stratify": True, "match": str(root / "scores.csv")} | more)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            assert numbers(estimate(root / "source", selection, y, options)) == expected
        finally:
            torch.set_num_threads(threads)
