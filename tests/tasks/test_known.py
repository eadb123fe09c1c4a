"""What is known of images, matched beside their features: tables and looks, in all tasks that search or score."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, read, strict_json
from PIL import Image
from scipy.linalg import sqrtm

from imgsubset import Options, Selection, score, select, split
from imgsubset.annotations.filters import list_candidates
from imgsubset.errors import InputError, UsageError
from imgsubset.features.handcrafted import IMAGE_STATISTICS
from imgsubset.features.load import load_features
from imgsubset.inputs import Embeddings
from imgsubset.results.scores import Measured
from imgsubset.tasks import match_terms
from imgsubset.tasks.match_terms import add_match_blocks
from imgsubset.tasks.select import select_into

SMALL: dict[str, Any] = {
    **{"workers": 0, "candidates": 64, "steps": 40, "device": "cpu"},
    **{"networks": 2, "channels": (4, 6), "size": 16},
}
N = 30


@pytest.fixture(scope="session")
def numbers(pictures: Path) -> dict[str, list[float | str]]:
    """Columns about the pictures, in the order of their paths."""
    random = np.random.default_rng(3)
    total = len([*pictures.rglob("*.png")])
    age = random.normal(50, 12, total)
    return {
        "age": age.tolist(),
        "double": (7 - 2 * age).tolist(),
        "sex": random.choice(["f", "m"], total, p=[0.3, 0.7]).tolist(),
        "site": random.choice(["a", "b", "c", "d"], total, p=[0.1, 0.2, 0.3, 0.4]).tolist(),
    }


@pytest.fixture
def table(pictures: Path, numbers: dict[str, list[float | str]], tmp_path: Path) -> Path:
    """The columns as a file."""
    file = tmp_path / "known.csv"
    paths = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png"))
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["path", *numbers])
        writer.writerows(zip(paths, *numbers.values(), strict=True))
    return file


def block(of: Any, name: str) -> Measured:
    """What was measured in a block of this name."""
    (found,) = [one for one in of.score.searched if one.name == name]
    return found


@pytest.mark.slow
def test_very_many_columns_are_several_blocks(pictures: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = select(pictures, N, match=table, match_columns="age,sex,site", **SMALL)
    monkeypatch.setattr(match_terms, "MAX_BLOCK_CHANNELS", 3)
    found = select(pictures, N, match=table, match_columns="age,sex,site", **SMALL)
    parts = [one for one in found.score.searched if one.name.startswith("known.csv")]
    assert [part.name for part in parts] == [f"known.csv ({place} of 3)" for place in (1, 2, 3)]
    assert [part.weight for part in parts] == pytest.approx([weight / 7 / 2.25 for weight in (2, 3, 2)])
    assert f"match '{table}' is of 7 columns, matched as 3 blocks" in found.warnings
    names = [column.name for part in parts for column in part.columns]
    assert sorted(names) == sorted(column.name for column in block(whole, "known.csv").columns)
    assert all(part.loss < 0.5 for part in parts)
    assert score(pictures, found.chosen, match=table, match_columns="age,sex,site", **SMALL).score == found.score


@pytest.mark.slow
def test_the_report_of_a_column_is_plain_statistics(
    pictures: Path, table: Path, numbers: dict[str, list[float | str]]
) -> None:
    found = select(pictures, N, match=table, match_columns="age,sex", **SMALL)
    age = np.array(numbers["age"], np.float64)
    columns = {column.name: column for column in block(found, "known.csv").columns}
    assert columns.keys() == {"age", "sex=f", "sex=m"}
    rows = list(found.rows)
    assert columns["age"].source == pytest.approx(age.mean())
    assert columns["age"].subset == pytest.approx(age[rows].mean())
    drawn = [np.random.default_rng(seed).choice(age, N, replace=False).mean() for seed in range(4000)]
    assert columns["age"].random_std == pytest.approx(np.std(drawn), rel=0.05)
    assert columns["sex=f"].subset == pytest.approx(np.mean([numbers["sex"][row] == "f" for row in rows]))
    offs = [abs(column.z_score) for column in block(found, "known.csv").columns]
    assert offs == sorted(offs, reverse=True)


def test_the_loss_of_numbers_is_the_mean_of_two_calibrated_distances(
    pictures: Path, table: Path, numbers: dict[str, list[float | str]]
) -> None:
    """Against formulas written out, with the weights of a mix that holds neither."""
    found = score(pictures, [str(path) for path in sorted(pictures.rglob("*.png"))[:N]], Options(
        match=table, match_columns="age,double,site", weights={"kl": 1}, **SMALL))  # fmt: skip
    measured = block(found, "known.csv")
    assert measured.divergences.keys() == {"wasserstein", "frechet"}
    site = [[float(value == one) for one in "abcd"] for value in numbers["site"]]
    values = np.column_stack([numbers["age"], numbers["double"], site]).astype(np.float64)
    values = (values - values.mean(0)) / values.std(0)
    some = values[:N]
    wasserstein = (some.mean(0) ** 2 + (some.std(0) - 1) ** 2).mean()
    whole, part = np.cov(values.T, bias=True), np.cov(some.T, bias=True)
    frechet = (some.mean(0) ** 2).sum() + np.trace(whole + part - 2 * sqrtm(whole @ part + 0j).real)
    assert measured.divergences["wasserstein"] == pytest.approx(wasserstein, rel=1e-4)
    assert measured.divergences["frechet"] == pytest.approx(frechet, rel=1e-3)
    assert measured.loss == pytest.approx(np.mean([*measured.ratios().values()]))
    assert sum(one.weight * one.loss for one in found.score.searched) == pytest.approx(found.score.searched_loss)


@pytest.mark.slow
def test_weights_are_shared_among_features_and_terms(pictures: Path, table: Path) -> None:
    options = Options(match=[f"{table}=2", "image"], features="random-cnn=1,colour=0.5", **SMALL)
    found = {one.name: one.weight for one in select(pictures, N, options).score.searched}
    assert found == pytest.approx(
        {"random-cnn 1": 1 / 9, "random-cnn 2": 1 / 9, "colour": 1 / 9, "known.csv": 4 / 9, "image": 2 / 9}
    )


@pytest.mark.slow
def test_what_is_matched_is_met_and_so_is_what_follows_from_it(pictures: Path, table: Path) -> None:
    """A linear function of a matched column is met as well as it, and far better than by chance."""
    ages, doubles = [], []
    for seed in range(5):
        found = select(pictures, N, match=table, match_columns="age", seed=seed, **SMALL)
        ages.append(abs(block(found, "known.csv").columns[0].z_score))
        chosen = [str(pictures / path) for path in found.chosen]
        asked = score(pictures, chosen, match=table, match_columns="double", **SMALL)
        doubles.append(abs(block(asked, "known.csv").columns[0].z_score))
    assert doubles == pytest.approx(ages, abs=1e-9)
    assert np.mean(ages) < 0.2  # of random subsets: 0.8


def test_looks_are_those_of_the_files(pictures: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, path in enumerate(sorted(pictures.rglob("*.png"))[:20]):
        Image.open(path).resize((20 + number, 60 - number)).save(source / path.name)
    options = Options(match="image", **SMALL)
    listed = sorted(source.iterdir())
    found = add_match_blocks(load_features(list_candidates(source, options), options, seen=("image",)), options, 5)
    values = dict(zip(found.known["image"].names, found.known["image"].values.T, strict=True))
    assert {*values} == {*IMAGE_STATISTICS}
    assert values["width"].tolist() == [20 + number for number in range(20)]
    assert values["height"].tolist() == [60 - number for number in range(20)]
    assert values["file size"].tolist() == [path.stat().st_size for path in listed]
    assert values["aspect"] == pytest.approx(values["width"] / values["height"])


@pytest.mark.slow
def test_hardness_is_of_the_classes_that_are_known(pictures: Path, tmp_path: Path) -> None:
    found = select(pictures, N, match="hardness", stratify=True, **SMALL)
    columns = block(found, "hardness").columns
    assert len(columns) == 16
    assert all(column.source == pytest.approx(0, abs=1e-9) for column in columns)
    assert any("hardness is weaker for few images a class: there are 40" in note for note in found.warnings)
    labels = {str(path.relative_to(pictures)): path.stem[-1] for path in pictures.rglob("*.png")}
    other = select(pictures, N, match="hardness", labels=labels, **SMALL)
    assert other.classes == {}  # known, but no class need keep its share
    by_folder, by_digit = (
        add_match_blocks(load_features(list_candidates(pictures, options), options, seen=("hardness",)), options, N)
        for options in (
            Options(match="hardness", **SMALL),
            Options(match="hardness", stratify_by=r"(\d)\.png", **SMALL),
        )
    )
    assert not np.allclose(by_folder.known["hardness"].values, by_digit.known["hardness"].values)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in pictures.rglob("*.png"):
        (flat / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="match 'hardness' needs at least two classes"):
        select(flat, N, match="hardness", **SMALL)
    with pytest.raises(UsageError, match=r"labels .* is not of use without stratify"):
        select(pictures, N, labels=labels, **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["folder", "pattern", "labels", "memory"])
def test_a_selection_is_scored_by_the_classes_that_its_hardness_is_of(
    pictures: Path, tmp_path: Path, by: str, imgsubset: Callable[..., Run]
) -> None:
    labels = {str(path.relative_to(pictures)): path.stem[-1] for path in pictures.rglob("*.png")}
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in labels.items()))
    words: dict[str, Any] = {
        "folder": {},
        "pattern": {"stratify_by": r"(\d)\.png"},
        "labels": {"labels": str(tmp_path / "labels.csv")},
        "memory": {"labels": labels},
    }[by]
    placed = select_into(pictures, N, tmp_path / "out", match="hardness", **words, **SMALL)
    found = score(pictures, tmp_path / "out")
    assert placed.selection is not None
    if by == "memory":  # which are gone
        assert [one.name for one in found.score.searched] == ["random-cnn 1", "random-cnn 2", "image"]
        assert any("hardness too, which is left out" in note for note in found.warnings)
        return
    assert found.score == placed.selection.score
    run = imgsubset("score", pictures, tmp_path / "out", "--json", "--workers=0")
    assert strict_json(run.out)["score"]["searched"]["loss"] == placed.selection.score.searched_loss
    if by == "labels":
        run = imgsubset("score", pictures, tmp_path / "out" / "class0", "--json", "--match=hardness", "--workers=0",
                        "--labels", tmp_path / "labels.csv", "--size=16")  # fmt: skip
        assert run.code == 0, run.err


@pytest.mark.slow
def test_a_selection_is_scored_by_its_tables_as_long_as_they_are_what_they_were(
    pictures: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    placed = select_into(pictures, N, out, match=["known.csv=2", "image"], match_columns=["age,site"], **SMALL)
    monkeypatch.chdir(pictures)
    found = score(pictures, out)
    assert placed.selection is not None
    assert found.score == placed.selection.score
    manifest = json.loads((out / "manifest.json").read_text())
    assert [(one["path"], one["columns"]) for one in manifest["tables"]] == [(str(table), ["age", "site"])]
    table.write_text(table.read_text() + "\n")
    changed = score(pictures, out)
    assert [one.name for one in changed.score.searched] == ["random-cnn 1", "random-cnn 2", "image"]
    assert any("known.csv' too, which is left out" in note and "has changed" in note for note in changed.warnings)
    given = score(pictures, out, match=str(table), match_columns="age")
    assert [column.name for column in block(given, "known.csv").columns] == ["age"]
    table.unlink()
    assert any("No such file" in note for note in score(pictures, out).warnings)


@pytest.mark.slow
def test_equal_requests_know_a_table_by_its_content(pictures: Path, table: Path, tmp_path: Path) -> None:
    words = {"match": str(table), **SMALL}
    first = select_into(pictures, N, tmp_path / "out", **words)
    assert select_into(pictures, N, tmp_path / "out", **words).done
    table.write_text(table.read_text().replace(",a\n", ",b\n"))
    again = select_into(pictures, N, tmp_path / "out", overwrite=True, **words)
    assert not again.done
    assert first.chosen != again.chosen


@pytest.mark.slow
def test_with_groups_classes_and_parts(pictures: Path, table: Path) -> None:
    words = {"match": str(table), **SMALL}
    found = select(pictures, N, stratify=True, keep=["class0/000.png"], drop=["class0/003.png"], **words)
    assert {name: here for name, (_, here) in found.classes.items()} == dict.fromkeys(
        ("class0", "class1", "class2"), 10
    )
    assert "class0/000.png" in found.chosen
    grouped = select(pictures, N, group_by=r"(\d\d)\d\.png", dedupe=False, **words)
    assert len({path[-7:-5] for path in grouped.chosen}) == 3
    parts = split(pictures, {"train": "70%", "test": "30%"}, **words)
    for part in parts.values():
        assert max(abs(column.z_score) for column in block(part, "known.csv").columns) < 1
    auto = select(pictures, "auto", target_loss=0.9, dedupe=True, **words)
    assert block(auto, "known.csv").columns


@pytest.mark.slow
def test_embeddings_beside_a_table_decode_nothing(pictures: Path, table: Path) -> None:
    paths = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png"))
    values = np.random.default_rng(0).normal(size=(len(paths), 5))
    found = select(pictures, N, embeddings=Embeddings(values, paths), match=str(table), workers=0, steps=5)
    assert [one.name for one in found.score.searched] == ["embeddings", "known.csv"]
    assert found.size is None
    assert found.score.effective_size is None
    with pytest.raises(UsageError, match=r"^target_size needs a size, which embeddings alone do not give; --held-out "):
        select(pictures, "auto", target_size=9, embeddings=Embeddings(values, paths), workers=0)
    seen = select(pictures, N, embeddings=Embeddings(values, paths), match="image", **{**SMALL, "steps": 5})
    assert [one.name for one in seen.score.searched] == ["embeddings", "image"]
    assert seen.score.effective_size is not None


@pytest.mark.parametrize(
    ("words", "error", "why"),
    [
        ({"match": "hardnes"}, UsageError, r"match 'hardnes' is neither a table .* did you mean 'hardness'"),
        ({"match": "a.xlsx"}, UsageError, r"match 'a\.xlsx' is neither a table \(\.csv, "),
        ({"match": ["image", "image"]}, UsageError, "'image' is named twice in match"),
        ({"match": "image=-1"}, UsageError, "weight 'image=-1"),
        ({"match": "gone.csv"}, InputError, r"match 'gone\.csv': No such file"),
        ({"match_columns": "a"}, UsageError, "match_columns .* is not of use without a table"),
        ({"match": "image", "match_columns": "a"}, UsageError, "match_columns .* is not of use without a table"),
        ({"match": 3}, UsageError, "match 3 are not names"),
    ],
)
def test_terms_that_make_no_sense(
    pictures: Path, words: dict[str, Any], error: type[Exception], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    with pytest.raises(error, match=why):
        select(pictures, N, **words, **SMALL)


@pytest.mark.slow
def test_columns_are_of_one_table(pictures: Path, table: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text(table.read_text())
    two = {"match": [str(table), str(other)], **SMALL}
    with pytest.raises(UsageError, match=r"match_columns 'age': of which table\? as in 'known\.csv:age'"):
        select(pictures, N, match_columns="age", **two)
    found = select(pictures, N, match_columns=["known.csv:age", f"{other}:sex,site"], **two)
    assert [column.name for column in block(found, "known.csv").columns] == ["age"]
    assert {column.name[:4] for column in block(found, "other.csv").columns} == {"sex=", "site"}
    for words, why in (("known.csv:", "names no column"), ("known.csv:age,age", "name 'age' of .* twice")):
        with pytest.raises(UsageError, match=why):
            select(pictures, N, match_columns=words, **two)


def test_what_varies_nowhere_is_an_error(pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "same.csv"
    file.write_text("path,a\n" + "".join(f"{path.relative_to(pictures)},1\n" for path in pictures.rglob("*.png")))
    with pytest.raises(InputError, match=r"nothing in match '.*same\.csv' varies over the images: column 'a'"):
        select(pictures, N, match=str(file), **SMALL)


@pytest.mark.slow
def test_the_same_from_the_command_line_a_batch_and_python(
    imgsubset: Callable[..., Run], pictures: Path, table: Path, tmp_path: Path
) -> None:
    words = [
        "--workers=0",
        "--candidates=64",
        "--steps=40",
        "--device=cpu",
        "--networks=2",
        "--channels=4,6",
        "--size=16",
    ]
    run = imgsubset("select", pictures, tmp_path / "one", "-n", N, "--match", f"{table}=2", "--match", "image",
                    "--match-columns", "age,sex", "--json", *words)  # fmt: skip
    assert run.code == 0, run.err
    record = strict_json(run.out)
    python: Selection = select(pictures, N, match={str(table): 2, "image": 1}, match_columns=("age,sex",), **SMALL)
    assert [file["path"] for file in record["files"]] == list(python.chosen)
    blocks = record["score"]["searched"]["blocks"]
    assert [one["name"] for one in blocks] == ["random-cnn 1", "random-cnn 2", "known.csv", "image"]
    assert {column["name"] for column in blocks[2]["columns"]} == {"age", "sex=f", "sex=m"}
    text = imgsubset("score", pictures, tmp_path / "one", "--workers=0").out
    assert "known.csv" in text
    assert "sex=f" in text
    (tmp_path / "jobs.toml").write_text(
        f"[defaults]\nn = {N}\nworkers = 0\ncandidates = 64\nsteps = 40\n"
        'device = "cpu"\nnetworks = 2\nchannels = [4, 6]\n'
        f'size = 16\n[jobs.one]\nsource = "{pictures}"\ndestination = "batched"\n'
        'match = {"known.csv" = 2, image = 1}\nmatch-columns = "known.csv:age,sex"\n'
    )
    run = imgsubset("batch", tmp_path / "jobs.toml", "--json")
    assert run.code == 0, run.err
    result = strict_json(run.out)["jobs"][0]["result"]
    assert [file["path"] for file in result["files"]] == list(python.chosen)
    clash = imgsubset("select", pictures, "-n", 3, "--mode=none", "--match", table, "--list", table)
    assert clash.code == 2
    assert "--match" in clash.err


def test_reading_asks_for_no_more_pixels_than_are_matched(pictures: Path) -> None:
    assert read(pictures, Options(**SMALL)).seen == {}
