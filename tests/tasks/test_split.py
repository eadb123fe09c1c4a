from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, create, smooth, strict_json, tree

from imgsubset import Embeddings, Options, Selection, score, split, split_into
from imgsubset.errors import InputError, OutputError, UsageError
from imgsubset.search import find
from imgsubset.tasks.inputs import resolve_part_sizes

FAST = {"candidates": 16, "chains": 1, "steps": 4, "size": 16, "channels": (8,), "device": "cpu", "workers": 0}
ARGUMENTS = "--candidates 16 --chains 1 --steps 4 --size 16 --channels 8 --device cpu --workers 0".split()
THREE = {"train": "80%", "val": "10%", "test": "10%"}
WORDS = ("train=80%", "val=10%", "test=10%")


def check_disjoint(parts: dict[str, Selection], complete: bool = True) -> None:
    chosen = [path for part in parts.values() for path in part.chosen]
    assert len(set(chosen)) == len(chosen)
    if complete:
        assert sorted(chosen) == sorted(next(iter(parts.values())).paths)


def sizes_of(parts: dict[str, Selection]) -> dict[str, int]:
    return {name: len(part.indices) for name, part in parts.items()}


# Sizes


@pytest.mark.parametrize(
    ("parts", "usable", "sizes"),
    [
        (THREE, 100, [80, 10, 10]),
        (THREE, 101, [81, 10, 10]),
        (THREE, 15, [12, 2, 1]),
        ({"a": "33.3%", "b": "33.3%", "c": "33.4%"}, 10, [3, 3, 4]),
        ({"a": "50%", "b": "50%"}, 7, [4, 3]),
        ({"a": 3, "b": "4", "c": " 50% "}, 20, [3, 4, 10]),
        ({"a": 3, "b": "50%"}, 7, [3, 4]),
        ({"only": "100%"}, 13, [13]),
        ({"only": 13}, 13, [13]),
        ({"a": "0.5%"}, 1000, [5]),
    ],
)
def test_sizes_of_parts(parts: dict[str, int | str], usable: int, sizes: list[int]) -> None:
    assert resolve_part_sizes(parts, usable) == dict(zip(parts, sizes, strict=True))


@pytest.mark.slow
def test_whole_percentages_of_100_take_every_image_of_any_source() -> None:
    for first in range(1, 99):
        for second in range(1, 100 - first):
            parts = {"a": f"{first}%", "b": f"{second}%", "c": f"{100 - first - second}%"}
            for usable in (100, 1237, 10**6 + 1):
                assert sum(resolve_part_sizes(parts, usable).values()) == usable


@pytest.mark.parametrize(
    "size", ["0", "-1", "1.5", "0%", "-5%", "%", "x", "nan%", "inf%", "1e400%", "ten", "", "0x10", "9" * 400]
)
def test_a_size_that_makes_no_sense(size: str) -> None:
    with pytest.raises((UsageError, InputError), match="part"):
        resolve_part_sizes({"good": 1, "part": size}, 1000)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "/a", "a/", "../a", "a\\b", "a\0b"])
def test_a_part_whose_name_is_no_folder(name: str) -> None:
    with pytest.raises(UsageError, match="is no possible name of a folder"):
        resolve_part_sizes({name: "10%"}, 100)


def test_parts_that_are_none_or_too_many() -> None:
    with pytest.raises(UsageError, match="a split needs parts"):
        resolve_part_sizes({}, 100)
    with pytest.raises(InputError, match="the parts take 11 images, but the source has only 10"):
        resolve_part_sizes({"a": 5, "b": "60%"}, 10)
    with pytest.raises(InputError, match="part 'b=1%' of 10 images is none"):
        resolve_part_sizes({"a": "50%", "b": "1%"}, 10)


# From Python


@pytest.mark.slow
def test_a_split_is_disjoint_complete_and_deterministic(pictures: Path) -> None:
    parts = split(pictures, THREE, Options(**FAST))
    assert list(parts) == list(THREE)
    assert sizes_of(parts) == {"train": 96, "val": 12, "test": 12}
    check_disjoint(parts)
    again = split(pictures, THREE, Options(**FAST))
    assert {name: part.ranking for name, part in parts.items()} == {n: part.ranking for n, part in again.items()}
    other = split(pictures, THREE, Options(**FAST, seed=1))
    assert parts["val"].chosen != other["val"].chosen
    for part in parts.values():
        loss = score(pictures, [pictures / path for path in part.chosen], Options(**FAST)).score.loss
        assert part.score.loss == pytest.approx(loss, rel=1e-9)


@pytest.mark.slow
def test_parts_that_do_not_cover_the_source(pictures: Path) -> None:
    parts = split(pictures, {"a": "20%", "b": 30, "c": "10%"}, Options(**FAST))
    assert sizes_of(parts) == {"a": 24, "b": 30, "c": 12}
    check_disjoint(parts, complete=False)
    alone = split(pictures, {"a": 15}, Options(**FAST))
    assert sizes_of(alone) == {"a": 15}
    assert alone["a"].score.searched_loss < 0.6


@pytest.mark.slow
def test_the_small_parts_are_far_closer_than_those_of_a_random_split(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    paths = [create(tmp_path / f"{number:04d}.png", b"x").name for number in range(600)]
    values = dice.normal(size=(600, 6)) @ dice.normal(size=(6, 6)) + dice.exponential(size=(600, 6))
    embeddings = Embeddings(values, paths)
    options = Options(candidates=256, steps=160, device="cpu")
    parts = split(tmp_path, THREE, options, embeddings=embeddings)
    check_disjoint(parts)
    order = random.Random(0).sample(paths, 600)
    for name, own in [("val", order[:60]), ("test", order[60:120])]:
        at_random = score(tmp_path, [tmp_path / path for path in own], options, embeddings=embeddings).score.loss
        assert parts[name].score.loss < at_random / 3
    assert parts["train"].score.loss < 1


@pytest.mark.slow
def test_every_part_keeps_the_shares_of_the_classes(tmp_path: Path) -> None:
    for number in range(100):
        folder = "a" if number < 53 else "b" if number < 83 else "c" if number < 97 else "d"
        (tmp_path / folder).mkdir(exist_ok=True)
        smooth(number, 10, 10).save(tmp_path / folder / f"{number}.png")
    parts = split(tmp_path, THREE, Options(stratify=True, **FAST))
    check_disjoint(parts)
    source = {"a": 53, "b": 30, "c": 14, "d": 3}
    for name, part in parts.items():
        counts = Counter(path[0] for path in part.chosen)
        assert part.classes == {label: (there, counts[label]) for label, there in source.items()}
        for label, there in source.items():
            assert abs(counts[label] - there * len(part.indices) / 100) < (1.5 if name != "train" else 2.5)
            assert counts[label] >= 1  # three images of d, three parts


def grouped(root: Path, sizes: list[int]) -> Path:
    """Tiny pictures in folders of so many."""
    for group, size in enumerate(sizes):
        (root / f"g{group:02d}").mkdir(parents=True)
        for number in range(size):
            smooth(1000 * group + number, 10, 10).save(root / f"g{group:02d}" / f"{number}.png")
    return root


def check_whole(parts: dict[str, Selection]) -> None:
    owners = Counter(group for part in parts.values() for group in {Path(path).parent for path in part.chosen})
    assert set(owners.values()) == {1}


@pytest.mark.slow
def test_no_group_is_in_two_parts(tmp_path: Path) -> None:
    dice = random.Random(0)
    root = grouped(tmp_path, [dice.randint(1, 9) for _ in range(30)])
    parts = split(root, THREE, Options(group_by="parent", **FAST))
    check_disjoint(parts)
    check_whole(parts)
    total = sum(sizes_of(parts).values())
    assert abs(len(parts["val"].indices) - total / 10) <= 1
    assert abs(len(parts["test"].indices) - total / 10) <= 1
    again = split(root, THREE, Options(group_by="parent", **FAST))
    assert [part.chosen for part in again.values()] == [part.chosen for part in parts.values()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "asked"),
    [
        ([26, 12, 12], {"a": 21, "b": 28}),  # a is nearest with 24, which leaves 26 for b
        ([25, 25], {"a": "80%", "b": "20%"}),
        ([10, 10, 10], {"a": 4, "b": 4, "c": 4}),
        ([6, 6, 6, 2], {"a": "50%", "b": "25%", "c": "25%"}),
    ],
)
def test_parts_that_groups_cannot_meet_exactly(tmp_path: Path, sizes: list[int], asked: dict[str, int | str]) -> None:
    parts = split(grouped(tmp_path, sizes), asked, Options(group_by="parent", **FAST))
    check_disjoint(parts, complete=False)
    check_whole(parts)
    assert all(size > 0 for size in sizes_of(parts).values())


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{"a": "40%", "b": "30%", "c": "30%"}, {"a": "30%", "b": "30%", "c": "30%"}])
def test_fewer_groups_than_parts_are_too_few(tmp_path: Path, asked: dict[str, int | str]) -> None:
    root = grouped(tmp_path, [15, 15])
    with pytest.raises(InputError):
        split(root, asked, Options(group_by="parent", **FAST))


@pytest.mark.slow
def test_dropped_and_excluded_images_and_copies_are_in_no_part(pictures: Path, tmp_path: Path) -> None:
    root = shutil.copytree(pictures, tmp_path / "source")
    shutil.copy(root / "class1/001.png", root / "class2/copy.png")
    options = Options(drop=("class0/000.png",), exclude=("class1/*7.png",), dedupe=True, **FAST)
    parts = split(root, THREE, options)
    check_disjoint(parts, complete=False)
    chosen = {path for part in parts.values() for path in part.chosen}
    left_out = {"class0/000.png", "class2/copy.png", *(f"class1/{number:03d}.png" for number in (7, 37, 67, 97))}
    assert chosen == {path.relative_to(root).as_posix() for path in root.rglob("*.png")} - left_out
    assert sizes_of(parts) == {"train": 92, "val": 12, "test": 11}


@pytest.mark.parametrize("options", [{"keep": ("class0/000.png",)}, {"target_loss": 0.5}, {"target_size": 5.0}])
def test_what_a_split_does_not_take(pictures: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="a split takes neither"):
        split(pictures, THREE, Options(**options, **FAST))


@pytest.mark.slow
def test_an_interrupted_split_gives_way_as_a_whole(pictures: Path, tmp_path: Path) -> None:
    partly = split_into(pictures, THREE, tmp_path / "sets", Options(**FAST), stop=lambda: True)
    assert all(part.interrupted for part in partly.values())  # the rest too, which follows from the others
    whole = split_into(pictures, THREE, tmp_path / "sets", Options(**FAST))
    assert not any(part.done or part.interrupted for part in whole.values())
    chosen = [path for part in whole.values() for path in part.chosen]
    assert len(set(chosen)) == len(chosen) == 120
    for name, part in whole.items():
        assert set(tree(tmp_path / "sets" / name)) == {"manifest.json", *part.chosen}


@pytest.mark.slow
def test_parts_of_another_split_are_not_completed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split_into(pictures, THREE, tmp_path / "sets", Options(**FAST))
    shutil.rmtree(tmp_path / "sets/val")
    before = tree(tmp_path / "sets")
    search, other = find.find, Options(candidates=3, steps=0)
    monkeypatch.setattr(find, "find", lambda *a, **more: search(a[0], other, *a[2:], **more))  # as time limits do
    with pytest.raises(OutputError, match=r"train' holds part of another split; --overwrite"):
        split_into(pictures, THREE, tmp_path / "sets", Options(**FAST))
    assert tree(tmp_path / "sets") == before


# Through the program


@pytest.mark.slow
def test_each_part_has_its_images_its_manifest_and_its_score(
    imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path
) -> None:
    run = imgsubset("split", pictures, tmp_path / "sets", *WORDS, "--stratify", "--json", *ARGUMENTS)
    assert (run.code, run.err) == (0, "")
    found = strict_json(run.out)
    assert found["done"] is False
    assert list(found["parts"]) == ["train", "val", "test"]
    assert set(tmp_path.joinpath("sets").iterdir()) == {tmp_path / "sets" / name for name in THREE}
    everything = []
    for name, size in [("train", 96), ("val", 12), ("test", 12)]:
        folder = tmp_path / "sets" / name
        manifest = strict_json((folder / "manifest.json").read_bytes())
        record = found["parts"][name]
        assert record["destination"] == str(folder)
        assert manifest["n"] == record["n"] == size
        assert manifest["score"] == record["score"]
        assert manifest["files"] == record["files"]
        assert manifest["classes"]["class0"] == {"source": 40, "subset": size // 3}
        everything += [file["path"] for file in manifest["files"]]
        assert set(tree(folder)) == {"manifest.json", *(file["path"] for file in manifest["files"])}
        assert imgsubset("verify", folder).code == 0
        scored = imgsubset("score", pictures, folder, "--json")
        assert strict_json(scored.out)["score"]["loss"] == pytest.approx(record["score"]["loss"], rel=1e-9)
    assert len(everything) == len(set(everything)) == 120
    for path in everything:
        copies = [tmp_path / "sets" / name / path for name in THREE if (tmp_path / "sets" / name / path).exists()]
        assert [copy.read_bytes() for copy in copies] == [(pictures / path).read_bytes()]


@pytest.mark.slow
def test_the_summary_tells_of_every_part(imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path) -> None:
    run = imgsubset("split", pictures, tmp_path / "sets", *WORDS, *ARGUMENTS)
    for name, size in [("train", 96), ("val", 12), ("test", 12)]:
        assert re.search(rf"^{name} +{size} ", run.out, re.MULTILINE)


@pytest.mark.slow
def test_a_finished_split_is_left_alone(imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    assert imgsubset("split", pictures, sets, *WORDS, "-q", *ARGUMENTS) == Run(0, "", "")
    before = tree(sets)
    run = imgsubset("split", pictures, sets, *WORDS, *ARGUMENTS)
    assert (run.code, run.err) == (0, "")
    assert "already holds this split" in run.out
    found = strict_json(imgsubset("split", pictures, sets, *WORDS, "--json", *ARGUMENTS).out)
    assert found["done"] is True
    assert set(found["parts"]) == set(THREE)
    assert tree(sets) == before
    run = imgsubset("split", pictures, sets, *WORDS, *ARGUMENTS, "--seed", 5)
    assert (run.code, run.out) == (5, "")
    assert tree(sets) == before


@pytest.mark.slow
def test_a_split_of_which_a_part_is_missing_is_completed(
    imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path
) -> None:
    sets = tmp_path / "sets"
    assert imgsubset("split", pictures, sets, *WORDS, "-q", *ARGUMENTS).code == 0
    before = {path: entry[0] for path, entry in tree(sets).items() if not path.endswith("manifest.json")}
    shutil.rmtree(sets / "test")
    assert imgsubset("split", pictures, sets, *WORDS, "-q", *ARGUMENTS) == Run(0, "", "")
    assert {path: one[0] for path, one in tree(sets).items() if not path.endswith("manifest.json")} == before


@pytest.mark.slow
def test_overwrite_replaces_a_split_and_keeps_foreign_files(
    imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path
) -> None:
    sets = tmp_path / "sets"
    assert imgsubset("split", pictures, sets, *WORDS, "-q", *ARGUMENTS).code == 0
    create(sets / "val/notes.txt", b"mine")
    other = ("split", pictures, sets, "train=20", "val=10", "test=7", "--seed", 3, "-q", *ARGUMENTS)
    run = imgsubset(*other)
    assert (run.code, run.out) == (5, "")
    assert imgsubset(*other, "--overwrite") == Run(0, "", "")
    assert (sets / "val/notes.txt").read_bytes() == b"mine"
    for name, size in [("train", 20), ("val", 10), ("test", 7)]:
        assert len(list((sets / name).rglob("*.png"))) == size
    assert imgsubset("verify", sets / "train").code == 0


@pytest.mark.slow
def test_a_dry_run_of_a_split_writes_nothing(imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path) -> None:
    dry = strict_json(imgsubset("split", pictures, tmp_path / "x", *WORDS, "--dry-run", "--json", *ARGUMENTS).out)
    assert not (tmp_path / "x").exists()
    real = strict_json(imgsubset("split", pictures, tmp_path / "x", *WORDS, "--json", *ARGUMENTS).out)
    for name in THREE:
        assert dry["parts"][name]["destination"] is None
        chosen = [[file["path"] for file in found["parts"][name]["files"]] for found in (dry, real)]
        assert chosen[0] == chosen[1]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["symlink", "hardlink"])
def test_a_split_by_links(imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path, mode: str) -> None:
    if mode == "hardlink":
        pictures = shutil.copytree(pictures, tmp_path / "source")
    assert imgsubset("split", pictures, tmp_path / "sets", *WORDS, "--mode", mode, "-q", *ARGUMENTS).code == 0
    files = list((tmp_path / "sets").rglob("*.png"))
    assert len(files) == 120
    for file in files:
        assert file.samefile(pictures / file.parent.name / file.name)
        assert file.is_symlink() == (mode == "symlink")


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["=5"],
        ["train="],
        ["train=5", "train=6"],
        ["train=5", "=6"],
        ["../train=5"],
        ["a/b=5"],
        ["..=5"],
        [".hidden=5"],
        ["train=0"],
        ["train=five"],
        ["train=80%", "val=30%"],
        ["train=100.5%"],
        ["train=" + "9" * 400],
    ],
)
def test_odd_parts_are_usage_errors(
    imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path, words: list[str]
) -> None:
    run = imgsubset("split", pictures, tmp_path / "sets", *words, *ARGUMENTS)
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("imgsubset: error: ")
    assert run.err.count("\n") == 1
    assert str(1 << 62)[:5] not in run.err.replace(",", "")
    assert not (tmp_path / "sets").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["train=33%", "val=56%", "test=11%"], ["a=34%", "b=55%", "c=11%"]])
def test_any_percentages_of_100_are_taken(
    imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path, words: list[str]
) -> None:
    run = imgsubset("split", pictures, tmp_path / "sets", *words, "--dry-run", "--json", *ARGUMENTS)
    assert run.code == 0, run
    assert sum(part["n"] for part in strict_json(run.out)["parts"].values()) == 120


@pytest.mark.parametrize("words", [["train=121"], ["a=100", "b=21"], ["a=100%", "b=1"], ["a=0.1%"]])
def test_parts_that_the_source_cannot_fill(
    imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path, words: list[str]
) -> None:
    run = imgsubset("split", pictures, tmp_path / "sets", *words, *ARGUMENTS)
    assert (run.code, run.out) == (3, "")
    assert not (tmp_path / "sets").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b", "naïve 猫", "-x-", "tr=ain", "a\nb", "manifest.json", "~"])
def test_parts_of_odd_names(imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path, name: str) -> None:
    if "=" in name:
        assert imgsubset("split", pictures, tmp_path / "sets", f"{name}=5", *ARGUMENTS).code == 2
        return
    run = imgsubset("split", *ARGUMENTS, "--", pictures, tmp_path / "sets", f"{name}=5")
    assert run.code == 0, run
    assert len(list((tmp_path / "sets" / name).rglob("*.png"))) == 5


def test_a_split_into_the_source_is_refused(imgsubset: Callable[..., Run], folder: Path) -> None:
    before = tree(folder)
    run = imgsubset("split", folder, folder / "sets", "a=3", *ARGUMENTS)
    assert (run.code, run.out) == (2, "")
    run = imgsubset("split", folder, folder.parent, f"{folder.name}=3", "--overwrite", *ARGUMENTS)
    assert (run.code, run.out) == (2, "")
    assert tree(folder) == before


# What parts share


@pytest.mark.slow
def test_copies_and_groups_in_several_parts_are_told(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for person in range(15):
        for number in range(3):
            smooth(10 * person + number, 16, 16).save(tmp_path / f"x/p{person}_{number}.png")
    shutil.copy(tmp_path / "x/p0_0.png", tmp_path / "x/p0_9.png")
    halves = {"a": "50%", "b": "50%"}
    for part in split(tmp_path, halves, Options(**FAST)).values():
        torn = [note for note in part.warnings if "in more than one part" in note]
        assert "look like 15 groups" in torn[-1]
        assert "--group-by '([A-Za-z]+[0-9]+)[-_][^/]*$'" in torn[-1]
    parts = split(tmp_path, halves, Options(group_by="(p[0-9]+)_", **FAST))
    assert not [note for part in parts.values() for note in part.warnings if "more than one part" in note]
    parts = split(tmp_path, halves, Options(dedupe=True, **FAST))
    for part in parts.values():
        assert "percentages are of the 45 images that may be chosen, of 46" in part.warnings
        assert not [note for note in part.warnings if "copies" in note]
    twins, torn = ("x/p0_0.png", "x/p0_9.png"), set()
    for seed in range(8):
        part = split(tmp_path, {"a": 23, "b": 23}, Options(seed=seed, **FAST))["a"]
        apart = sum(name in part.chosen for name in twins) == 1
        assert any(note.startswith("1 of 1 sets of exact copies are in more") for note in part.warnings) == apart
        torn.add(apart)
    assert torn == {True, False}
