"""Labelled data sets of the usual layouts, from a folder through the program to a subset that is as usable."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Run, create, smooth, strict_json, tree
from forked import Forked
from PIL import Image

from imgsubset import Options, export, score, select, split
from imgsubset.errors import OutputError, UsageError
from imgsubset.files import PARTIAL_PREFIX

Program = Callable[..., Run]
FAST = {"candidates": 16, "chains": 1, "steps": 4, "size": 16, "channels": (8,), "device": "cpu", "workers": 0}
ARGUMENTS = "--candidates 16 --chains 1 --steps 4 --size 16 --channels 8 --device cpu --workers 0".split()
NUMBERS = (1, 13, 130, 1300, 2, 20, 21, 210, 2100, 3)


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth(seed, 12, 12).save(path)


def mask(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 5, (12, 12), dtype=np.uint8), "L").save(path)


DESCRIBED = {"classes.txt", "data.yaml"}  # what goes with any subset of a YOLO set


def yolo(root: Path) -> Path:
    for part in ("train", "val"):
        for number in NUMBERS:
            picture(root / f"images/{part}/image_{number}.jpg", number)
            create(root / f"labels/{part}/image_{number}.txt", f"{number % 3} 0.5 0.5 0.{number}1 0.2\n".encode())
        create(root / f"labels/{part}/image_.txt", b"nobody's")
    create(root / "classes.txt", b"cat\ndog\n")
    create(root / "data.yaml", b"nc: 3\n")
    return root


def voc(root: Path) -> Path:
    for number in NUMBERS:
        picture(root / f"VOC/JPEGImages/image_{number}.jpg", number)
        create(
            root / f"VOC/Annotations/image_{number}.xml",
            f"<annotation>\r\n<filename>image_{number}.jpg</filename></annotation>".encode(),
        )
        if number % 2 == 0:
            mask(root / f"VOC/SegmentationClass/image_{number}.png", number)
            mask(root / f"VOC/SegmentationObject/image_{number}.png", number + 1)
    create(root / "VOC/ImageSets/Main/train.txt", b"image_130\nimage_1300\n")
    return root


def imagefolder(root: Path) -> Path:
    for part in ("train", "test"):
        rows = []
        for number in NUMBERS:
            picture(root / part / f"image_{number}.png", number)
            rows.append(json.dumps({"file_name": f"image_{number}.png", "text": f"naïve {number}"}) + "\n")
        create(root / part / "metadata.jsonl", "".join(rows).encode())
    create(root / "README.md", b"not about an image")
    return root


def coco(root: Path) -> Path:
    images, notes = [], []
    for place, number in enumerate(NUMBERS):
        picture(root / "set" / "val" / f"image_{number}.jpg", number)
        images.append({"id": number, "file_name": f"image_{number}.jpg", "width": 12, "height": 12})
        notes += [{"id": 100 * place + k, "image_id": number, "bbox": [1, 2, 3, 4.5]} for k in range(3)]
    record = {"info": {}, "images": images, "annotations": notes, "categories": [{"id": 1, "name": "cat"}]}
    create(root / "instances.json", json.dumps(record).encode())
    return root / "set"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def chosen(out: Path) -> list[str]:
    return [file["path"] for file in strict_json((out / "manifest.json").read_bytes())["files"]]


def extras(out: Path) -> set[str]:
    return {file["path"] for file in strict_json((out / "manifest.json").read_bytes())["extras"]}


def run_select(imgsubset: Program, source: Path, out: Path, *more: object, n: object = 7) -> list[str]:
    """Select, check what must always hold, and return the chosen images."""
    before = tree(source)
    run = imgsubset("select", source, out, "-n", n, *more, *ARGUMENTS)
    assert run.code == 0, run
    assert tree(source) == before
    assert imgsubset("verify", out).code == 0
    assert set(tree(out)) == {*chosen(out), *extras(out), "manifest.json"}
    return chosen(out)


def same(source: Path, out: Path, paths: Sequence[str]) -> None:
    for path in paths:
        assert (out / path).read_bytes() == (source / path).read_bytes(), path


# The layouts


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_yolo_labels_arrive(imgsubset: Program, tmp_path: Path, out: Path, seed: int) -> None:
    source = yolo(tmp_path / "yolo")
    images = run_select(imgsubset, source, out, "--seed", seed)
    labels = [path.replace("images/", "labels/").replace(".jpg", ".txt") for path in images]
    assert extras(out) == {*labels, *DESCRIBED}
    same(source, out, [*images, *labels, "classes.txt"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [13, 130, 1300])
def test_numbers_that_begin_alike_stay_apart(imgsubset: Program, tmp_path: Path, out: Path, number: int) -> None:
    source = yolo(tmp_path / "yolo")
    keep = create(tmp_path / "keep.txt", f"images/val/image_{number}.jpg\n".encode())
    assert run_select(imgsubset, source, out, "--keep", keep, n=1) == [f"images/val/image_{number}.jpg"]
    assert extras(out) == {f"labels/val/image_{number}.txt", *DESCRIBED}


def test_voc_annotations_and_masks_arrive_and_masks_are_never_chosen(
    imgsubset: Program, tmp_path: Path, out: Path
) -> None:
    source = voc(tmp_path / "voc")
    images = run_select(imgsubset, source, out, n=10)
    assert images == sorted(f"VOC/JPEGImages/image_{number}.jpg" for number in NUMBERS)
    record = strict_json((out / "manifest.json").read_bytes())
    assert record["counts"]["usable"] == 10
    masks = {f"VOC/Segmentation{kind}/image_{number}.png" for kind in ("Class", "Object") for number in (130, 1300)}
    assert masks < extras(out)
    assert len(extras(out)) == 10 + 2 * sum(number % 2 == 0 for number in NUMBERS)
    same(source, out, [*images, *extras(out)])
    for path in extras(out):
        if path.endswith(".xml"):
            name = ElementTree.parse(out / path).getroot().findtext("filename")
            assert name == f"{Path(path).stem}.jpg"
    # The masks in the subset's folder are no images that its score would miss in the source.
    found = strict_json(imgsubset("score", source, out, "--json", *ARGUMENTS[6:]).out)
    assert found["n"] == 10
    assert found["counts"]["foreign"] == 0


@pytest.mark.slow
def test_the_score_of_a_subset_with_masks_is_that_of_its_images(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = voc(tmp_path / "voc")
    images = run_select(imgsubset, source, out, n=4)
    loss = strict_json((out / "manifest.json").read_bytes())["score"]["loss"]
    assert score(source, out).score.loss == pytest.approx(loss, rel=1e-9)
    assert score(source, out).paths == tuple(images)


def test_metadata_of_an_imagefolder_is_cut_to_the_chosen(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = imagefolder(tmp_path / "data")
    images = run_select(imgsubset, source, out)
    assert extras(out) == {f"{path.split('/')[0]}/metadata.jsonl" for path in images}
    counts = strict_json((out / "manifest.json").read_bytes())["counts"]
    assert (counts["labels"], counts["unlabelled"]) == (0, 0)
    for part in ("train", "test"):
        rows = (source / part / "metadata.jsonl").read_bytes().splitlines(keepends=True)
        kept = [row for row in rows if f"{part}/{json.loads(row)['file_name']}" in images]
        content = (out / part / "metadata.jsonl").read_bytes() if kept else b""
        assert content == b"".join(kept)


def test_metadata_csv_above_the_images(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = imagefolder(tmp_path / "data")
    (source / "train/metadata.jsonl").unlink()
    lines = [f'train/image_{number}.png,"{number},\n{number}"\r\n' for number in NUMBERS]
    create(source / "metadata.csv", ("\ufefffile_name,text\r\n" + "".join(lines)).encode())
    keep = create(tmp_path / "keep", b"train/image_130.png\ntrain/image_3.png\n")
    images = run_select(imgsubset, source, out, "--keep", keep)
    content = (out / "metadata.csv").read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
    assert [row["file_name"] for row in rows] == [
        f"train/image_{number}.png" for number in NUMBERS if f"train/image_{number}.png" in images
    ]
    assert "130,\n130" in [row["text"] for row in rows]


def test_a_coco_file_is_cut_to_the_chosen(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = coco(tmp_path)
    images = run_select(imgsubset, source, out, "--coco", tmp_path / "instances.json", n=4)
    assert extras(out) == {"annotations/instances.json"}
    whole = strict_json((tmp_path / "instances.json").read_bytes())
    kept = strict_json((out / "annotations/instances.json").read_bytes())
    names = {Path(path).name for path in images}
    assert kept["images"] == [image for image in whole["images"] if image["file_name"] in names]
    ids = {image["id"] for image in kept["images"]}
    assert len(ids) == 4
    assert kept["annotations"] == [note for note in whole["annotations"] if note["image_id"] in ids]
    assert (kept["info"], kept["categories"]) == (whole["info"], whole["categories"])


@pytest.mark.slow
def test_annotations_that_are_matched_go_along(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source, file = coco(tmp_path), "annotations/instances_val.json"
    record = strict_json((tmp_path / "instances.json").read_bytes())
    record["annotations"] = [note | {"category_id": 1} for note in record["annotations"][:-7]]
    lacking = record["images"].pop()["file_name"]
    record["annotations"] = [note for note in record["annotations"] if note["image_id"] != NUMBERS[-1]]
    create(source / file, json.dumps(record).encode())
    create(source / "annotations/instances_train.json", b'{"images": []}')  # about no image that is chosen
    keep = create(tmp_path / "keep", f"val/{lacking}\n".encode())
    images = run_select(imgsubset, source, out, "--match", "objects", "--keep", keep, n=4)
    assert extras(out) == {file}
    written = strict_json((out / file).read_bytes())["images"]
    assert {f"val/{image['file_name']}" for image in written} == {*images} - {f"val/{lacking}"}
    counts = strict_json((out / "manifest.json").read_bytes())["counts"]
    assert (counts["labels"], counts["unlabelled"]) == (0, 1)
    words = ("--match", "objects", "--keep", keep, *ARGUMENTS)
    assert "nothing to do" in imgsubset("select", source, out, "-n", 4, *words).out
    run = imgsubset("select", source, out, "-n", 4, *words, "--seed", 1, "--overwrite")
    assert f"\nLabels: {file} went along; 1 image has no label.\n" in run.out
    run_select(imgsubset, source, out, "--match", "objects", "--sidecars", "none", "--overwrite", n=4)
    assert extras(out) == set()
    for number in NUMBERS:
        create(source / f"val/image_{number}.txt", f"{number % 3} 0.5 0.5 0.{number}1 0.2\n".encode())
    create(source / file, b"{")
    run_select(imgsubset, source, out, "--match", "objects", "--overwrite", n=4)
    (note,) = (one for one in strict_json((out / "manifest.json").read_bytes())["warnings"] if file in one)
    assert note.endswith("; the subset gets no part of it")


@pytest.mark.slow
@pytest.mark.parametrize(("content", "code"), [(b"{", 3), (b"[]", 3), (None, 3), (b'{"images": [{"id": 1}]}', 3)])
def test_a_coco_file_that_is_none(
    imgsubset: Program, tmp_path: Path, out: Path, content: bytes | None, code: int
) -> None:
    source = coco(tmp_path)
    file = tmp_path / "bad.json"
    if content is not None:
        create(file, content)
    run = imgsubset("select", source, out, "-n", 4, "--coco", file, *ARGUMENTS)
    assert (run.code, run.out) == (code, "")
    assert "bad.json" in run.err
    assert not out.exists()


# Options


@pytest.mark.slow
def test_without_sidecars_only_images_arrive(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    run_select(imgsubset, voc(tmp_path / "voc"), out, "--sidecars", "none")
    assert extras(out) == set()
    run_select(imgsubset, imagefolder(tmp_path / "data"), tmp_path / "other", "--sidecars=none")
    assert extras(tmp_path / "other") == set()


@pytest.mark.slow
def test_templates_say_what_belongs_to_an_image(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    for number in NUMBERS:
        picture(source / f"x/image_{number}.png", number)
        create(source / f"x/image_{number}.txt", b"not asked for")
        create(source / f"boxes/x/image_{number}.box", str(number).encode())
        mask(source / f"x/masks/image_{number}_mask.png", number)
    pattern = "boxes/{dir}/{stem}.box, {dir}/masks/{stem}_mask.png, {dir}/none/{name}.json"
    images = run_select(imgsubset, source, out, "--sidecars", pattern)
    stems = [Path(path).stem for path in images]
    assert extras(out) == {f"boxes/x/{stem}.box" for stem in stems} | {f"x/masks/{stem}_mask.png" for stem in stems}
    same(source, out, [*images, *extras(out)])
    assert score(source, out).paths == tuple(images)


@pytest.mark.parametrize(
    "pattern", ["atuo", "{stem", "{stme}.txt", "/abs/{stem}.txt", "../{stem}.txt", "*.txt", "{stem}.txt,", ""]
)
def test_templates_that_make_no_sense(imgsubset: Program, tmp_path: Path, out: Path, pattern: str) -> None:
    run = imgsubset("select", yolo(tmp_path / "yolo"), out, "-n", 3, "--sidecars", pattern, *ARGUMENTS)
    assert (run.code, run.out) == (2, "")
    assert "sidecars" in run.err
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["symlink", "hardlink"])
def test_sidecars_are_linked_as_images_are(imgsubset: Program, tmp_path: Path, out: Path, mode: str) -> None:
    source = yolo(tmp_path / "yolo")
    images = run_select(imgsubset, source, out, "--mode", mode)
    labels = extras(out)
    assert len(labels) == len(images) + len(DESCRIBED)
    for path in [*images, *(labels - {"data.yaml"})]:  # which is written
        assert (out / path).samefile(source / path)
        assert (out / path).is_symlink() == (mode == "symlink")
    data = imagefolder(tmp_path / "data")
    run_select(imgsubset, data, tmp_path / "other", "--mode", mode)
    for path in extras(tmp_path / "other"):  # what is written is no link to what it was cut from
        assert not (tmp_path / "other" / path).is_symlink()
        assert not (tmp_path / "other" / path).samefile(data / path)


def test_a_sidecar_that_is_a_link_arrives_as_a_file(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    picture(source / "a.png", 1)
    create(tmp_path / "elsewhere.txt", b"label")
    (source / "a.txt").symlink_to(tmp_path / "elsewhere.txt")
    run_select(imgsubset, source, out, "--follow-labels", n=1)
    assert not (out / "a.txt").is_symlink()
    assert (out / "a.txt").read_bytes() == b"label"


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["a b", "naïve 猫", "{stem}", "%s", "a\nb", "-a", "[a]", os.fsdecode(b"\xff\xe9")])
def test_sidecars_of_odd_names_arrive(imgsubset: Program, tmp_path: Path, out: Path, stem: str) -> None:
    source = tmp_path / "source"
    create(source / "x" / f"{stem}.txt", b"label")
    picture(source / "x" / f"{stem}.png", 1)
    run_select(imgsubset, source, out, n=1)
    assert extras(out) == {f"x/{stem}.txt"}


@pytest.mark.slow
def test_labels_are_verified(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    run_select(imgsubset, yolo(tmp_path / "yolo"), out)
    first, second, *_ = sorted(extras(out))
    create(out / first, b"changed")
    (out / second).unlink()
    run = imgsubset("verify", out, "--json")
    assert run.code == 7
    found = strict_json(run.out)
    assert found["checked"] == 14 + len(DESCRIBED)
    assert [one["path"] for one in found["changed"]] == [first]
    assert found["missing"] == [second]


# Runs after others


@pytest.mark.slow
def test_overwrite_removes_the_sidecars_of_an_earlier_run(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = yolo(tmp_path / "yolo")
    run_select(imgsubset, source, out, n=12)
    create(out / "labels/train/mine.txt", b"mine")
    run = imgsubset("select", source, out, "-n", 3, "--seed", 9, "--overwrite", *ARGUMENTS)
    assert run.code == 0, run
    expected = {*chosen(out), *extras(out), "manifest.json", "labels/train/mine.txt"}
    assert set(tree(out)) == expected
    assert len(expected) == 8 + len(DESCRIBED)
    run = imgsubset("select", source, out, "-n", 3, "--seed", 9, "--overwrite", "--sidecars", "none", *ARGUMENTS)
    assert set(tree(out)) == {*chosen(out), "manifest.json", "labels/train/mine.txt"}


def test_an_identical_run_does_nothing(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = coco(tmp_path)
    for number in NUMBERS:
        create(source / f"val/image_{number}.txt", str(number).encode())
    arguments = ("select", source, out, "-n", 3, "--coco", tmp_path / "instances.json", *ARGUMENTS)
    assert imgsubset(*arguments).code == 0
    before = tree(out)
    assert "nothing to do" in imgsubset(*arguments).out
    assert tree(out) == before


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a label here", "a label there", "a new label there", "coco", "metadata"])
def test_a_run_is_not_done_if_labels_have_changed(imgsubset: Program, tmp_path: Path, out: Path, what: str) -> None:
    source = coco(tmp_path)
    names = [f"image_{number}.jpg" for number in NUMBERS]
    for name in names:
        create(source / f"val/{name}.txt", b"old")
    create(source / "val/metadata.csv", ("file_name,x\n" + "".join(f"{name},1\n" for name in names)).encode())
    arguments = ("select", source, out, "-n", 3, "--coco", tmp_path / "instances.json", *ARGUMENTS)
    assert imgsubset(*arguments).code == 0
    image = chosen(out)[0]
    if what == "a label here":
        (out / f"{image}.txt").unlink()
    elif what == "a label there":
        create(source / f"{image}.txt", b"new and longer")
    elif what == "a new label there":
        create(source / f"{image}.json", b"{}")
    elif what == "coco":
        file = tmp_path / "instances.json"
        file.write_bytes(file.read_bytes().replace(b"cat", b"dog!"))
    else:
        file = source / "val/metadata.csv"
        file.write_bytes(file.read_bytes().replace(b",1\n", b",22\n"))
    assert "nothing to do" not in imgsubset(*arguments).out
    assert imgsubset(*arguments, "--overwrite").code == 0
    if what.endswith("there"):
        written = {path for path in tree(out) if path.startswith(f"{image}.")}
        assert written == {path for path in tree(source) if path.startswith(f"{image}.")}
        same(source, out, sorted(written))


def test_a_label_that_is_called_like_the_manifest(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    for name in ("manifest", "b/manifest"):
        picture(source / f"{name}.png", len(name))
        create(source / f"{name}.json", b"{}")
    run = imgsubset("select", source, out, "-n", 2, *ARGUMENTS)
    assert (run.code, run.out) == (5, "")
    assert "'manifest.json'" in run.err
    assert not out.exists()
    assert run_select(imgsubset, source, out, "--exclude", "/manifest.png", n=1) == ["b/manifest.png"]
    assert extras(out) == {"b/manifest.json"}


def test_a_label_that_is_called_like_the_ranking(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    picture(source / "ranked.png", 1)
    create(source / "ranked.txt", b"label")
    run = imgsubset("select", source, out, "-n", 1, "--ranked", *ARGUMENTS)
    assert (run.code, run.out) == (5, "")
    assert "'ranked.txt'" in run.err
    run_select(imgsubset, source, out, n=1)
    assert (out / "ranked.txt").read_bytes() == b"label"


@pytest.mark.parametrize("name", ["manifest.json", "metadata.csv"])
def test_a_coco_file_may_have_any_name(imgsubset: Program, tmp_path: Path, out: Path, name: str) -> None:
    source = coco(tmp_path)
    create(source / "metadata.csv", b"file_name\n" + b"".join(b"val/image_%d.jpg\n" % number for number in NUMBERS))
    shutil.copy(tmp_path / "instances.json", tmp_path / name)
    run_select(imgsubset, source, out, "--coco", tmp_path / name, n=4)
    assert extras(out) == {"metadata.csv", f"annotations/{name}"}


KILLED = """
import os, signal, sys
from imgsubset import Options, export, select
source, destination, call, count = sys.argv[1:]
real, calls = getattr(os, call), 0
selection = select(source, 10, Options(candidates=16, steps=0, size=16, device="cpu", workers=0))

def deadly(*arguments, **options):
    global calls
    calls += 1
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

setattr(os, call, deadly)
export(selection, destination)
"""


# A sync each for the images, labels, manifest, journal and folders; a link for each file when all are whole.
@pytest.mark.slow
@pytest.mark.parametrize(("call", "count"), [("fsync", 9), ("link", 25), ("fsync", 34)])
def test_an_export_that_is_killed_among_its_labels_is_completed(
    imgsubset: Program, tmp_path: Path, out: Path, call: str, count: int
) -> None:
    source = voc(tmp_path / "voc")
    create(source / "VOC/JPEGImages/metadata.jsonl", b'{"file_name": "image_130.jpg"}\n')
    assert Forked(KILLED, source, out, call, count).wait(240) == -signal.SIGKILL
    for path in tree(out):
        if not path.startswith(PARTIAL_PREFIX):
            assert (out / path).read_bytes() == (source / path).read_bytes()
    assert imgsubset("verify", out).code == 3
    run_select(imgsubset, source, out, "--overwrite", n=10)  # the killed run, of other options, may be complete by then
    assert len(extras(out)) == 10 + 2 * sum(number % 2 == 0 for number in NUMBERS) + 1


def test_a_label_that_goes_or_changes_meanwhile_is_detected(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = yolo(tmp_path / "yolo")
    selection = select(source, 20, Options(**FAST))
    module = sys.modules["imgsubset.writing.destination"]
    find = module.find_sidecars

    def then_remove(*arguments: Any) -> Any:
        found = find(*arguments)
        (source / "labels/train/image_130.txt").unlink()
        return found

    monkeypatch.setattr(module, "find_sidecars", then_remove)
    with pytest.raises(OutputError, match=r"labels/train/image_130\.txt' cannot be read any more"):
        export(selection, out)
    assert not out.exists()


# Several things at once


@pytest.mark.slow
def test_parts_of_a_split_take_their_labels(imgsubset: Program, tmp_path: Path) -> None:
    source, sets = voc(tmp_path / "voc"), tmp_path / "sets"
    assert imgsubset("split", source, sets, "a=50%", "b=50%", "-q", *ARGUMENTS) == Run(0, "", "")
    everything = Counter(path for name in "ab" for path in (*chosen(sets / name), *extras(sets / name)))
    assert set(everything.values()) == {1}
    assert set(everything) == set(tree(source)) - {"VOC/ImageSets/Main/train.txt"}
    for name in "ab":
        assert imgsubset("verify", sets / name).code == 0
    run = imgsubset("split", source, sets, "a=50%", "b=50%", *ARGUMENTS)
    assert (run.code, "nothing to do" in run.out) == (0, True)


@pytest.mark.slow
def test_everything_together_from_python_and_from_the_program(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = yolo(tmp_path / "yolo")
    rows = ["path,label", *(f"images/{p}/image_{n}.jpg,{n % 2}" for p in ("train", "val") for n in NUMBERS)]
    labels = create(tmp_path / "labels.csv", "\n".join(rows).encode())
    keep = create(tmp_path / "keep", b"images/val/image_130.jpg\n")
    drop = create(tmp_path / "drop", b"images/val/image_1300.jpg\n")
    options = Options(
        stratify=True,
        stratify_as="equal",
        labels=str(labels),
        keep=("images/val/image_130.jpg",),
        drop=("images/val/image_1300.jpg",),
        exclude=("**/train/*_2.jpg",),
        dedupe=True,
        **FAST,
    )
    selection = select(source, 8, options)
    exported = export(selection, out)
    labels_too = {path.replace("images", "labels")[:-4] + ".txt" for path in selection.chosen}
    assert set(exported.extras) == {*labels_too, *DESCRIBED}
    assert set(exported.hashes) == set(selection.chosen)
    assert selection.copies == 9  # the parts have the same ten pictures, but for one that is excluded
    assert sum(here for _, here in selection.classes.values()) == 8
    assert {here for _, here in selection.classes.values()} == {4}
    assert len({Path(path).name for path in selection.chosen}) == 8
    words = (
        "--stratify",
        "--stratify-as=equal",
        "--labels",
        labels,
        "--keep",
        keep,
        "--drop",
        drop,
        "--exclude=**/train/*_2.jpg",
    )
    assert run_select(imgsubset, source, tmp_path / "other", *words, "--dedupe", n=8) == list(selection.chosen)
    parts = split(source, {"a": 4, "b": "20%"}, Options(stratify=True, stratify_by="parent", sidecars="none", **FAST))
    assert export(parts["a"], tmp_path / "a").extras == {}
    with pytest.raises(UsageError, match="stratify_as 'all' is not one of share, equal"):
        Options(stratify=True, stratify_as="all")


DEFAULTS = """
[defaults]
n = 4
candidates = 16
chains = 1
steps = 4
size = 16
channels = [8]
device = "cpu"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "usable", "counts"),
    [
        ('include = ["*.png"]\nstratify = true\nstratify-as = "equal"', 30, [2, 2]),
        ('include = ["a/*.png", "!a/1*.png"]', 9, [4]),
        ('exclude = "b/"', 20, [4]),
        ('stratify = true\nlabels = "labels.csv"', 30, None),
        ("include = []\nexclude = []", 30, None),
        ('keep = "keep.txt"\ndrop = "drop.txt"\ngroup-by = "parent"\nn = 10', 30, [10]),
        ("group_by = '(a|b)/'\nn = 20", 30, [20]),
        ("dedupe = true\nsidecars = 'none'", 30, None),
    ],
)
def test_constraints_in_a_batch(
    imgsubset: Program, tmp_path: Path, lines: str, usable: int, counts: list[int] | None
) -> None:
    for number in range(30):
        picture(tmp_path / "s" / ("a" if number < 20 else "b") / f"{number % 20}.png", number)
    paths = sorted(path.relative_to(tmp_path / "s").as_posix() for path in (tmp_path / "s").rglob("*.png"))
    create(tmp_path / "labels.csv", "\n".join(["path,label", *(f"{path},{path[2]}" for path in paths)]).encode())
    create(tmp_path / "keep.txt", b"b/1.png\n")
    create(tmp_path / "drop.txt", b"a/3.png\n")
    job = f'[jobs.one]\nsource = "s"\ndestination = "out"\n{lines}\n'
    defaults = DEFAULTS.replace("n = 4\n", "") if "\nn = " in lines else DEFAULTS
    create(tmp_path / "jobs.toml", (defaults + job).encode())
    run = imgsubset("batch", tmp_path / "jobs.toml", "--json")
    assert run.code == 0, run
    result = strict_json(run.out)["jobs"][0]
    assert result["status"] == "done", result
    assert result["result"]["counts"]["usable"] == usable
    if counts is not None:
        found = Counter(path[0] for path in chosen(tmp_path / "out"))
        assert sorted(found.values()) == counts
    again = strict_json(imgsubset("batch", tmp_path / "jobs.toml", "--json").out)["jobs"][0]
    assert again["status"] == "skipped"


def test_a_batch_names_what_makes_no_sense(imgsubset: Program, tmp_path: Path) -> None:
    for line, culprit in [
        ('stratify = "all"', "all"),
        ('include = [["*.png"]]', "include"),
        ('group-by = "parent"\ndedupe = true', "dedupe"),
        ('labels = "labels.csv"', "labels"),
    ]:
        job = f'[jobs.one]\nsource = "s"\ndestination = "out"\n{line}\n'
        create(tmp_path / "jobs.toml", (DEFAULTS + job).encode())
        run = imgsubset("batch", tmp_path / "jobs.toml")
        assert (run.code, run.out) == (2, ""), line
        assert culprit in run.err


# What trainers read


@pytest.mark.slow
def test_a_yolo_subset_describes_itself(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = yolo(tmp_path / "yolo")
    (source / "labels/val/image_13.txt").unlink()
    run = imgsubset("select", source, out, "-n", 19, *ARGUMENTS)
    images = chosen(out)
    described = yaml.safe_load((out / "data.yaml").read_bytes())
    assert described == {"train": "images/train", "val": "images/val", "names": ["cat", "dog"]}
    lacking = sum(path == "images/val/image_13.jpg" for path in images)
    tail = "; 1 image has no label" if lacking else ""
    assert f"\nLabels: {19 - lacking} label files, classes.txt and data.yaml went along{tail}.\n" in run.out
    counts = strict_json((out / "manifest.json").read_bytes())["counts"]
    assert (counts["labels"], counts["unlabelled"]) == (19 - lacking, lacking)


@pytest.mark.slow
def test_a_description_that_cannot_be_read_is_named(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source = yolo(tmp_path / "yolo")
    create(source / "data.yaml", b"train: x\nnames: [a\n")
    note = (
        f"'data.yaml' of source '{source}' cannot be read as YAML: line 3: expected ',' or ']', but got '<stream end>'"
        "; the subset gets no data.yaml"
    )
    run_select(imgsubset, source, out)
    assert "data.yaml" not in extras(out)
    assert strict_json((out / "manifest.json").read_bytes())["warnings"] == [note]
    run = imgsubset("split", source, tmp_path / "sets", "train=50%", "val=50%", *ARGUMENTS)
    assert run.code == 0
    assert run.out.count(f"\nNote: {note}.\n") == 1
    assert not list((tmp_path / "sets").rglob("data.yaml"))


@pytest.mark.slow
def test_a_split_of_a_yolo_set_is_described_beside_its_parts(imgsubset: Program, tmp_path: Path) -> None:
    source, sets = yolo(tmp_path / "yolo"), tmp_path / "sets"
    words = ("split", source, sets, "train=50%", "valid=25%", "rest=25%")
    create(sets / "data.yaml", b"mine: 1\n")
    refused = imgsubset(*words, *ARGUMENTS)
    assert (refused.code, refused.out) == (5, "")
    assert "data.yaml' is there already" in refused.err
    (sets / "data.yaml").unlink()
    assert imgsubset(*words, *ARGUMENTS).code == 0
    found = yaml.safe_load((sets / "data.yaml").read_bytes())
    for key, name in (("train", "train"), ("val", "valid")):
        folders = found[key] if isinstance(found[key], list) else [found[key]]
        assert set(chosen(sets / name)) == {
            image.relative_to(sets / name).as_posix() for folder in folders for image in (sets / folder).rglob("*.jpg")
        }
        for path in chosen(sets / name):  # where a trainer looks: `labels` for the last `images`
            assert (sets / name / path.replace("images/", "labels/").replace(".jpg", ".txt")).is_file()
        assert imgsubset("verify", sets / name).code == 0
    assert found["names"] == ["cat", "dog"]
    before = tree(sets)
    assert "nothing to do" in imgsubset(*words, *ARGUMENTS).out
    assert tree(sets) == before


def test_labels_that_are_links_out_of_the_source_stay_behind(imgsubset: Program, tmp_path: Path, out: Path) -> None:
    source, secret = tmp_path / "source", create(tmp_path / "secret", b"private")
    elsewhere = tmp_path / "elsewhere"
    for number in range(4):
        picture(source / "images" / f"{number}.png", number)
        picture(elsewhere / "images" / f"{number}.png", 9 + number)
        create(elsewhere / "labels" / f"{number}.txt", b"theirs")
    create(source / "images" / "1.txt", b"mine")
    (source / "images" / "0.txt").symlink_to(secret)
    (source / "images" / "2.txt").symlink_to("1.txt")
    (source / "labels").symlink_to(tmp_path / "private")
    create(tmp_path / "private" / "3.txt", b"private")
    (source / "linked").symlink_to(elsewhere)
    (source / "metadata.jsonl").symlink_to(secret)
    run_select(imgsubset, source, out, n=8)
    theirs = {f"linked/labels/{number}.txt" for number in range(4)}
    assert extras(out) == {"images/1.txt", "images/2.txt", *theirs}
    (warning,) = strict_json((out / "manifest.json").read_bytes())["warnings"]
    assert warning.endswith(": 'images/0.txt', 'labels/3.txt', 'metadata.jsonl'")
    again = imgsubset("select", source, out, "-n", 8, *ARGUMENTS, "--overwrite")
    assert f"Note: {warning}." in again.out
    (source / "metadata.jsonl").unlink()
    run_select(imgsubset, source, tmp_path / "followed", "--follow-labels", n=8)
    assert extras(tmp_path / "followed") == {f"images/{number}.txt" for number in range(3)} | {"labels/3.txt"} | theirs
    assert (tmp_path / "followed" / "images" / "0.txt").read_bytes() == b"private"
