"""Sources that are no folders: the same subset as of the folder that they were made from, and all that goes with it."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import Run, create, fill, smooth, tree

from imgsubset import Selection, compare, estimate, export, score, select, select_into, split_into
from imgsubset.errors import UsageError
from imgsubset.sources.images import IMAGE_SUFFIXES

FAST: dict[str, Any] = {
    **{"candidates": 32, "chains": 1, "steps": 8, "size": 16, "channels": (8,), "networks": 1, "held_out": False},
    **{"device": "cpu", "workers": 0, "cache": None},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in class folders, with labels of several kinds."""
    root = fill(tmp_path_factory.mktemp("containers") / "folder")
    for number in range(60):
        path = root / f"{'abc'[number % 3]}/more{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        smooth(number, 12 + number % 5, 12).save(path)
        create(path.with_suffix(".txt"), b"0 0.5 0.5 0.2 0.2\n")
    rows = [json.dumps({"file_name": f"a/more{number:02}.png", "text": "x"}) for number in range(0, 60, 3)]
    create(root / "metadata.jsonl", "\n".join(rows).encode())
    create(root / "classes.txt", b"thing\n")
    create(root / "notes.md", b"")
    for name in pictures_in(root):
        create((root / name).with_suffix(".cls"), class_of(name).encode())
    return root


def class_of(name: str) -> str:
    """The first folder, which is the class in a folder; archives and tables say it of themselves."""
    return name.split("/")[0] if "/" in name else "."


def pictures_in(folder: Path) -> list[str]:
    return [name for name in files(folder) if Path(name).suffix.lower() in IMAGE_SUFFIXES]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def in_tar(folder: Path, target: Path, names: Iterable[str]) -> Path:
    with tarfile.open(target, "w") as archive:
        for name in names:
            archive.add(folder / name, name)
    return target


def in_zip(folder: Path, target: Path, names: Iterable[str]) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(folder / name, name)
    return target


def as_tar(folder: Path, place: Path) -> Path:
    return in_tar(folder, place / "all.tar", reversed(files(folder)))


def as_zip(folder: Path, place: Path) -> Path:
    return in_zip(folder, place / "all.zip", files(folder))


def as_shards(folder: Path, place: Path, shards: int = 10) -> str:
    """Samples dealt to tar archives."""
    samples = sorted({name.partition(".")[0] for name in files(folder)})
    for number in range(shards):
        mine = {*samples[number::shards]}
        in_tar(folder, place / f"s-{number:03}.tar", [name for name in files(folder) if name.partition(".")[0] in mine])
    return f"{place}/s-{{000..{shards - 1:03}}}.tar"


def as_list(folder: Path, place: Path) -> list[Path]:
    as_shards(folder, place, 3)
    return sorted(place.iterdir())


def as_parquet(folder: Path, place: Path) -> Path:
    """Pictures alone, in an order of their own."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = pictures_in(folder)
    names.sort(key=lambda name: name[::-1])
    rows = [{"bytes": (folder / name).read_bytes(), "path": name} for name in names]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"label": pyarrow.array([*map(class_of, names)]), "image": pyarrow.array(rows, kind)})
    parquet.write_table(table, place / "all.parquet", row_group_size=9)
    return place / "all.parquet"


def in_memory(folder: Path, place: Path) -> str:
    """Behind a URL that nothing but this process can read."""
    memory = fsspec.filesystem("memory")
    for name in files(folder):
        memory.pipe_file(f"{place}/all/{name}", (folder / name).read_bytes())
    return f"memory:/{place}/all"


KINDS = {"tar": as_tar, "zip": as_zip, "shards": as_shards, "list": as_list, "parquet": as_parquet, "url": in_memory}


@pytest.fixture(scope="module", params=KINDS)
def source(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return KINDS[request.param](folder, tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module", params=["zip", "parquet"])
def one_of_them(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return KINDS[request.param](folder, tmp_path_factory.mktemp("made"))


def digests(root: Path) -> dict[str, str]:
    return {path: found[0] for path, found in tree(root).items() if path != "manifest.json"}


@pytest.fixture(scope="module")
def chosen(folder: Path) -> Selection:
    return select(folder, 12, stratify=True, exclude=("*.gif",), **FAST)


@pytest.mark.slow
def test_the_same_subset_is_chosen_with_all_that_goes_with_it(
    folder: Path, source: Any, chosen: Selection, tmp_path: Path
) -> None:
    found = select(source, 12, stratify=True, exclude=("*.gif",), **FAST)
    assert found.chosen == chosen.chosen
    assert found.ranked == chosen.ranked
    assert found.score == chosen.score
    assert found.classes == chosen.classes
    there, here = export(chosen, tmp_path / "there"), export(found, tmp_path / "here")
    if "parquet" in str(source):  # which has pictures alone
        assert here.hashes == there.hashes
        return
    assert digests(tmp_path / "here") == digests(tmp_path / "there")
    assert (here.hashes, here.extras) == (there.hashes, there.extras)
    assert sum(path.endswith(".cls") for path in here.extras) > 6
    assert here.hashes == {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in found.chosen}


@pytest.mark.slow
def test_a_second_run_decodes_nothing_and_a_finished_one_does_nothing(source: Any, tmp_path: Path) -> None:
    words = FAST | {"cache": str(tmp_path / "cache"), "stratify": True}
    first = select_into(source, 5, tmp_path / "out", **words)
    assert first.selection is not None
    assert first.selection.cached == 0
    assert select_into(source, 5, tmp_path / "out", **words).done
    measured = estimate(source, tmp_path / "out", {"x": [1.0, 2.0, 3.0, 4.0, 5.0]}, cache=words["cache"])
    assert measured.options.stratify
    again = select(source, 6, **words)
    assert again.cached == len(again.paths)


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
def test_subsets_are_found_in_a_source_that_is_no_folder(
    folder: Path, one_of_them: Any, chosen: Selection, tmp_path: Path
) -> None:
    source = one_of_them
    export(chosen, tmp_path / "out")
    scored = score(source, tmp_path / "out")
    assert (scored.paths, scored.foreign) == (tuple(sorted(chosen.chosen)), ())
    whole = score(folder, source, **FAST)
    assert (len(whole.paths), whole.foreign) == (68, ())
    measured = estimate(source, select(source, 12, **FAST), {"x": [float(number) for number in range(12)]}, **FAST)
    assert len(measured.paths) == 12
    assert compare(folder, source, **FAST).loss.value == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_split_copies_all(one_of_them: Any, folder: Path, tmp_path: Path) -> None:
    source = one_of_them
    split_into(source, {"train": 58, "val": 10}, tmp_path / "out", **FAST)
    there = {name for part in ("train", "val") for name in files(tmp_path / "out" / part)}
    labels = () if "parquet" in str(source) else (".cls",)
    assert {name for name in files(folder) if name.endswith((".png", ".jpg", *labels))} <= there


@pytest.mark.parametrize("mode", ["symlink", "hardlink"])
def test_links_need_files(source: Any, folder: Path, tmp_path: Path, mode: str) -> None:
    with pytest.raises(UsageError, match=f"^mode '{mode}' needs files to link to, and source '.*' is no folder; copy"):
        select_into(source, 5, tmp_path / "out", mode=mode, **FAST)
    assert not os.path.exists(tmp_path / "out")


def test_a_destination_around_an_archive_is_refused(one_of_them: Any, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^destination '.*' contains '.*' of source"):
        select_into(one_of_them, 5, Path(one_of_them).parent, overwrite=True, **FAST)


@pytest.mark.slow
def test_objects_are_matched_by_labels_in_an_archive(folder: Path, tmp_path: Path) -> None:
    words = {"match": {"objects": 1.0}} | FAST
    coco = {
        "images": [{"id": number, "file_name": f"{'abc'[number % 3]}/more{number:02}.png"} for number in range(60)],
        "annotations": [{"image_id": number, "bbox": [0, 0, 5, 5], "category_id": 1} for number in range(30)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    home = tmp_path / "home"
    for name in files(folder):
        if "/more" in name and name.endswith(".png"):
            create(home / name, (folder / name).read_bytes())
    create(home / "annotations/instances.json", json.dumps(coco).encode())
    assert select(as_zip(home, tmp_path), 40, **words).chosen == select(home, 40, **words).chosen


@pytest.mark.slow
def test_an_archive_on_the_command_line(imgsubset: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    source = as_zip(folder, tmp_path)
    words = ["--candidates", 8, "--steps", 2, "--size", 16, "--channels", 8, "--networks", 1]
    report = tmp_path / "r.html"
    run = imgsubset("select", source, tmp_path / "out", "-n", 5, "--include", "a/", "--report", report, *words)
    assert run.code == 0, run
    assert imgsubset("verify", tmp_path / "out").code == 0
    assert imgsubset("score", source, tmp_path / "out").code == 0
    run = imgsubset("select", source, "--mode", "none", "-n", 5, "--list", source, *words)
    assert run.code == 2
    run = imgsubset("select", source, tmp_path / "no", "-n", 5, "--mode", "symlink", *words)
    assert (run.code, run.err.count("\n")) == (2, 1)
