from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, create, listing_of, smooth, strict_json
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsubset import Options, score, select
from imgsubset.annotations.boxes import Box, parse_voc_boxes, parse_yolo_boxes
from imgsubset.annotations.objects import read_object_columns
from imgsubset.annotations.yolo import read_class_names, read_keypoint_length
from imgsubset.errors import ImgsubsetError, InputError
from imgsubset.tasks.select import select_into

VOC = """<annotation><size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>dog</name><difficult>1</difficult>
<bndbox><xmin>20</xmin><ymin>10</ymin><xmax>120</xmax><ymax>60</ymax></bndbox></object>
<object><name>cat</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>200</xmax><ymax>100</ymax></bndbox></object>
</annotation>"""


def found(
    folder: Path, files: dict[str, str | bytes], images: Sequence[str], **reading: Any
) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """The columns of images in a folder with these files."""
    for path in images:
        create(folder / path)
    for path, content in files.items():
        create(folder / path, content.encode() if isinstance(content, str) else content)
    columns, notes = read_object_columns(listing_of(folder, images), images, Options(**reading))
    assert all(column.numbers is None or np.isfinite(column.numbers).all() for column in columns)
    return {one.name: list(one.texts) if one.numbers is None else one.numbers.tolist() for one in columns}, notes


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("3 0.5 0.4 0.2 0.1", Box("3", 0.5, 0.4, 0.2, 0.1)),
        ("3 0.5 0.4 0.2 0.1 0.93", Box("3", 0.5, 0.4, 0.2, 0.1)),  # with a confidence
        ("0 0.1 0.2 0.5 0.2 0.3 0.6", Box("0", 0.3, 0.4, 0.4, 0.4)),  # an outline of three points
        ("1 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5", Box("1", 0.2, 0.3, 0.2, 0.4)),  # a turned box
        ("0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.9 0.9 0", Box("0", 0.5, 0.5, 0.2, 0.2)),  # two keypoints, seen and not
        ("2.0 0.5 0.4 0.2 0.1", Box("2", 0.5, 0.4, 0.2, 0.1)),
        ("0 1.004 0.5 0.2 0.2", Box("0", 1.004, 0.5, 0.2, 0.2)),  # rounded
    ],
)
def test_a_line_is_a_box(line: str, box: Box) -> None:
    (read,), odd, poses = parse_yolo_boxes(f"\n{line}\n\n")
    assert odd == []
    assert bool(poses) == (line.count(" ") == 10)  # which may be an outline of five points
    assert read.name == box.name
    assert read[1:] == pytest.approx(box[1:])


def test_keypoints_are_told_from_outlines_by_the_data_set() -> None:
    line = "0 0.5 0.5 0.2 0.2 0.1 0.1 0.9 0.9"  # of two keypoints without a third number, or of four points
    assert parse_yolo_boxes(line, 4) == ([Box("0", 0.5, 0.5, 0.2, 0.2)], [], [])
    assert parse_yolo_boxes(line).boxes[0][1:] == pytest.approx((0.5, 0.5, 0.8, 0.8))
    three = "0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.9 0.9 0 0.3 0.3 1"  # an outline has no odd number of numbers
    assert parse_yolo_boxes(three) == parse_yolo_boxes(three, 9) == ([Box("0", 0.5, 0.5, 0.2, 0.2)], [], [])
    ten = "0 0.1 0.1 0.9 0.1 0.9 0.9 1 0.9 0.1 1"
    assert parse_yolo_boxes(ten) == ([Box("0", 0.1, 0.1, 0.9, 0.1)], [], [1])
    assert parse_yolo_boxes(ten, 51).boxes[0][1:] == pytest.approx((0.55, 0.55, 0.9, 0.9))


@pytest.mark.parametrize(
    "line",
    [
        *("0", "0 1 1 1", "0 1 1 1 1 1 1 0.5", "0 a b c d"),
        *(
            "x 1 1 1 1",
            "-1 1 1 1 1",
            "0.5 1 1 1 1",
            "1e9 1 1 1 1",
            "nan 1 1 1 1",
            "inf 1 1 1 1",
            "9" * 5000 + " 1 1 1 1",
        ),
        *("0 320 200 64 48", "0 0.5 0.5 -0.1 0.1", "0 0.5 nan 0.2 0.1", "0 0.5 0.5 nan 0.1", "0 0.5 0.5 1e308 0.1"),
        *("0 0.1 0.1 0.5 inf 0.9 0.1", "0 0.1 0.1 0.5 nan 0.9 0.1", "0 0.1 0.1 0.5 1.2 0.9 0.1"),
    ],
)
def test_lines_that_say_no_object_are_counted(line: str) -> None:
    assert parse_yolo_boxes(f"0 0.5 0.5 0.1 0.1\n{line}") == ([Box("0", 0.5, 0.5, 0.1, 0.1)], [2], [])


def test_voc_boxes_are_parts_of_the_image() -> None:
    dog, cat = parse_voc_boxes(VOC.encode())
    assert (dog.name, *dog[1:]) == (
        "dog",
        pytest.approx(0.35),
        pytest.approx(0.35),
        pytest.approx(0.5),
        pytest.approx(0.5),
    )
    assert cat == Box("cat", 0.5, 0.5, 1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<annotation>",
        b"<html></html>",
        b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
        *('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'.encode(kind) for kind in ("utf-16-le", "utf-16")),
        VOC.replace("dog", "").encode(),
        b"<annotation>" * 100_000,
        b"\xff\xfe" + VOC.encode("utf-16-le")[:99],
    ],
)
def test_what_is_no_voc_label(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_voc_boxes(content)


@pytest.mark.parametrize(
    ("old", "new", "box"),
    [
        ("<width>200", "<width>0", Box("dog")),
        ("<width>200</width>", "", Box("dog")),
        ("<width>200", "<width>nan", Box("dog")),
        ("<xmin>20", "<xmin>inf", Box("dog")),
        ("<xmin>20</xmin>", "", Box("dog")),
        ("<xmin>20", "<xmin>220", Box("dog", 0.8, 0.35, 0.4, 0.5)),  # from 120 to the edge
        ("<xmax>120", "<xmax>-1", Box("dog", 0.05, 0.35, 0.1, 0.5)),
        ("<width>200", "<width>10", Box("dog")),  # of another picture
        ("<ymax>60", "<ymax>10", Box("dog")),
        ("</bndbox></object>", "</bndbox><part><name>head</name></part></object>", Box("dog", 0.35, 0.35, 0.5, 0.5)),
    ],
)
def test_boxes_are_cut_to_the_image(old: str, new: str, box: Box) -> None:
    dog = parse_voc_boxes(VOC.replace(old, new, 1).encode())[0]
    assert (dog.name, dog.has_box) == ("dog", box.has_box)
    assert dog[1:] == pytest.approx(box[1:])


@given(st.binary(max_size=100), st.text(max_size=100))
@settings(max_examples=200, deadline=None)
def test_no_label_is_too_odd(content: bytes, text: str) -> None:
    boxes, odd, _ = parse_yolo_boxes(text)
    assert len(boxes) + len(odd) <= len(text) + 1
    with contextlib.suppress(ValueError):
        parse_voc_boxes(content)


def test_columns_count_objects_and_sum_up_their_boxes(tmp_path: Path) -> None:
    images = ("images/a.jpg", "images/b.jpg", "images/c.jpg")
    files = {
        "labels/a.txt": "0 0.5 0.5 0.2 0.2\n0 0.1 0.2 0.1 0.3\n1 0.5 0.6 1 0.5\n",
        "labels/b.txt": "",
        "data.yaml": "train: images\nnames:\n  0: dog\n  1: 'big cat'\n",
    }
    columns, notes = found(tmp_path, files, images)
    assert columns == {
        "number of objects": [3, 0, 0],
        "object": [("big cat", "dog"), (), ()],
        "number of dog": [2, 0, 0],  # of no image are there two big cats
        "sum of box x": [pytest.approx(1.1), 0, 0],
        "sum of box y": [pytest.approx(1.3), 0, 0],
        "sum of box width": [pytest.approx(1.3), 0, 0],
        "sum of box height": [1, 0, 0],
    }
    assert notes == ("1 of 3 images have no label file, and count as without objects",)


def test_voc_labels_lie_in_annotations(tmp_path: Path) -> None:
    images = ("JPEGImages/a.jpg", "JPEGImages/b.jpg")
    columns, notes = found(tmp_path, {"Annotations/a.xml": VOC, "Annotations/b.xml": "<annotation>"}, images)
    assert columns["object"] == [("cat", "dog"), ()]
    assert "number of dog" not in columns  # it says no more
    assert notes[0].startswith("1 label cannot be read and is left out: 'Annotations/b.xml': not XML")


def test_of_several_label_files_of_an_image_one_kind_is_read(tmp_path: Path) -> None:
    line = "0 0.5 0.5 0.1 0.1\n"
    images = ("images/a.jpg", "images/b.jpg", "images/c.jpg")
    files = {"labels/a.txt": line, "images/a.txt": 2 * line, "images/b.txt": line, "images/c.xml": VOC}
    files |= {"labels/b.txt": "", "images/a.xml": "<annotation/>", "labels/c.txt": "no label\n"}
    columns, notes = found(tmp_path, files, images)
    assert columns["number of objects"] == [2, 1, 2]
    assert columns["object"] == [("0",), ("0",), ("cat", "dog")]
    assert notes == (
        "1 label cannot be read and is left out: 'labels/c.txt', line 1",
        "1 image has objects in label files of several kinds, and one of these is read: 'images/a.txt' and "
        "'images/a.xml'",
    )
    columns, notes = found(tmp_path, {}, images, sidecars="labels/{stem}.txt,images/{stem}.xml")
    assert columns["number of objects"] == [1, 0, 2]


def test_lines_that_may_be_poses_or_outlines_are_told(tmp_path: Path) -> None:
    files = {"a.txt": "0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.9 0.9 0\n"}
    _, notes = found(tmp_path, files, ("a.jpg",))
    assert notes == ("'a.txt', line 1 and its like are taken for poses, not outlines, as no kpt_shape says which",)
    assert found(tmp_path, {"data.yaml": "train: .\nnames: [a]\nkpt_shape: [2, 3]\n"}, ("a.jpg",))[1] == ()


def test_of_very_many_classes_the_rarest_are_pooled(tmp_path: Path) -> None:
    lines = [f"{kind} 0.5 0.5 0.1 0.1\n" for kind in range(1100)]
    columns, notes = found(tmp_path, {"a.txt": "".join(lines), "b.txt": "".join(lines[:1])}, ("a.jpg", "b.jpg"))
    assert columns["number of objects"] == [1100, 1]
    assert len(columns["object"][0]) == 1001
    assert columns["object"][1] == ("0",)
    assert columns["number of other classes"] == [100, 0]
    assert notes == ("of 1,100 classes of objects the 100 of fewest images are pooled",)


def coco(names: Sequence[str]) -> str:
    record = {
        "images": [{"id": number, "file_name": name, "width": 100, "height": 50} for number, name in enumerate(names)],
        "categories": [{"id": 7, "name": "dog"}],
        "annotations": [
            {"image_id": 0, "category_id": 7, "bbox": [10, 10, 20, 20]},
            {"image_id": 0, "category_id": 9, "bbox": [0, 0, 100, 50]},
            {"image_id": 1, "category_id": 7},
            {"image_id": 77, "category_id": 7, "bbox": [0, 0, 1, 1]},
        ],
    }
    return json.dumps(record)


@pytest.mark.parametrize("where", ["annotations/instances_train.json", "_annotations.coco.json", "given"])
def test_coco_objects(tmp_path: Path, where: str) -> None:
    images = ("a.jpg", "b.jpg", "c.jpg")
    words = {"coco": str(create(tmp_path / "x.json", coco(images[:2]).encode()))} if where == "given" else {}
    columns, notes = found(tmp_path, {} if words else {where: coco(images[:2])}, images, **words)
    assert columns["number of objects"] == [2, 1, 0]
    assert columns["object"] == [("dog", "9"), ("dog",), ()]
    assert columns["sum of box x"] == [pytest.approx(0.7), 0, 0]
    assert columns["sum of box height"] == [pytest.approx(1.4), 0, 0]
    assert [note.partition(" in '")[0] for note in notes] == [
        "1 of 3 images have no entry",
        "1 object has no box inside the image, and count without it, as",
    ]


def test_several_coco_files_are_about_other_images(tmp_path: Path) -> None:
    images = ("train/a.jpg", "train/b.jpg", "valid/a.jpg", "valid/b.jpg")
    files = {f"{part}/_annotations.coco.json": coco(("a.jpg", "b.jpg")) for part in ("train", "valid")}
    columns, notes = found(tmp_path / "beside", files, images)
    assert columns["number of objects"] == [2, 1, 2, 1]
    assert len(notes) == 1
    files = {
        f"annotations/instances_{part}.json": coco((f"{part}/a.jpg", f"{part}/b.jpg")) for part in ("train", "valid")
    }
    assert found(tmp_path / "tree", files, images)[0] == columns
    assert found(tmp_path / "caption", files | {"train/a.txt": "two dogs\n"}, images)[0] == columns
    with pytest.raises(
        InputError, match=r"which of 'annotations/instances_train.json' and 'train/_annotations.coco.json"
    ):
        found(tmp_path / "tree", {"train/_annotations.coco.json": coco(("a.jpg", "b.jpg"))}, images)


ODD = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=4)
ODD = ODD | st.sampled_from([10**400, -1, "\ud800", "x" * 9999, {}, [[]], [0, 0, 10**400, 1], [1, 1, 1, 1]])


@given(record=st.fixed_dictionaries({"categories": ODD, "width": ODD, "id": ODD, "name": ODD, "bbox": ODD}))
@settings(max_examples=100, deadline=None)
def test_no_coco_file_is_too_odd(tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any]) -> None:
    content = json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.jpg", "width": record["width"], "height": 9}],
            "categories": record["categories"] or [{"id": record["id"], "name": record["name"]}],
            "annotations": [{"image_id": 1, "category_id": record["id"], "bbox": record["bbox"]}],
        }
    )
    folder = tmp_path_factory.getbasetemp() / "coco"
    with contextlib.suppress(InputError):
        assert found(folder, {"instances.json": content}, ("a.jpg",))[0]["number of objects"] == [1]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "no image of source .* has a label file"),
        ({"a.txt": "a photo of a dog\n", "b.txt": ""}, r"no label file says an object: 'a\.txt', line 1"),
        ({"a.txt": "0 320 200 64 48\n"}, r"no label file says an object: 'a\.txt', line 1"),  # in pixels
        ({"a.txt": ""}, "no label file says an object$"),
        (
            {"instances_a.json": coco(["a.jpg"]), "annotations/instances_b.json": coco(["a.jpg"])},
            "which of 'instances_a.json' and 'annotations/instances_b.json'. both name 'a.jpg'; --coco says so",
        ),
        (
            {"instances.json": '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1}]}'},
            "is no COCO file of objects: KeyError 'category_id'",
        ),
        ({"a.txt": b"\xff\xfe0"}, "'a.txt': not UTF-8"),
        ({"a.txt": b"0" * (17 << 20)}, "'a.txt': more than 16 MB are no label"),
    ],
)
def test_what_says_no_objects(tmp_path: Path, files: dict[str, str | bytes], why: str) -> None:
    with pytest.raises(InputError, match=why) as raised:
        found(tmp_path, files, ("a.jpg", "b.jpg"))
    assert "\n" not in str(raised.value)


def test_labels_outside_the_source_are_pointed_to(tmp_path: Path) -> None:
    create(tmp_path / "labels/train/a.txt", b"0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match=rf"; '{tmp_path}' has images/ and labels/: give that$"):
        found(tmp_path / "images/train", {}, ("a.jpg",))


def test_names_are_those_of_the_lists_if_these_agree(tmp_path: Path) -> None:
    images = ("s/images/a.jpg", "t/images/a.jpg")
    files = {f"{part}/labels/a.txt": "1 0.5 0.5 0.1 0.1\n" for part in "st"}
    lists = {f"{part}/labels/classes.txt": "dog\ncat\n" for part in "st"}
    assert found(tmp_path, files | lists, images)[0]["object"] == [("cat",)] * 2
    assert found(tmp_path, {"s/labels/classes.txt": "dog\npig\n"}, images)[0]["object"] == [("1",)] * 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("names: [dog, 'big cat', \"x\"]\ntrain: a\n", {"0": "dog", "1": "big cat", "2": "x"}),
        ("train: a\nnames:\n- dog\n- cat # small\n", {"0": "dog", "1": "cat"}),
        ('train: a\nnames:\n  3: dog\n  5: "a: b"\nnc: 2\n', {"3": "dog", "5": "a: b"}),
        ("train: a\nnames: [dog,\n  cat]\n", {"0": "dog", "1": "cat"}),
        ("train: a\n", {}),
        ('names: ["bear, black", "bear, brown"]\ntrain: a\n', {"0": "bear, black", "1": "bear, brown"}),
        ("train: a\nnames: {0: no, 1: 3, '2': 'it''s', 03: 2020-01-01, 4: , 5: ~}\n",
         {"0": "no", "1": "3", "2": "it's", "3": "2020-01-01"}),
        ('{"val": "a", "names": ["on", "off"]}', {"0": "on", "1": "off"}),
        ('%YAML 1.2\n---\n  "names": # two\n  - &x "a\\tb"\n  - >-\n    c\n    d\n  - *x\n  ? train\n  : x\n',
         {"0": "a\tb", "1": "c d", "2": "a\tb"}),
    ],
)  # fmt: skip
def test_names_of_classes(tmp_path: Path, content: str, expected: dict[str, str]) -> None:
    create(tmp_path / "data.yaml", content.encode())
    assert read_class_names(listing_of(tmp_path, ())) == expected


LAUGHS = "".join(f"a{level}: &a{level} {{<<: [{f'*a{level - 1}, ' * 9}]}}\n" for level in range(1, 9))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("train: a\nnames: [a\n", r"'data\.yaml' .* as YAML: line 3: expected ',' or '\]'"),
        ("train: a\nnames: [a: b: c]\n", "as YAML: line 2: "),
        ("train: a\nnames: a\n---\nb\n", "as YAML: line 3: but found another document"),
        ("train: !!timestamp a\nnames: [a]\n", "as YAML: "),
        ("train: a\nnames: !!python/object:os.system [a]\n", "as YAML: line 2: could not determine a constructor"),
        ("train: a\nnames: " + "[" * 5000, "nested too deeply"),
        ("a0: &a0 {x: 1}\n" + LAUGHS + "train: a\nnames: [a]\n", "more than 10 aliases"),
        pytest.param(
            "train: a\nnames: [" + 60_000 * "a," + "]\n", "more than 50,000 entries", marks=pytest.mark.slow, id="many"
        ),
        ("train: a\nnames: [a]\n#" + (1 << 20) * "x", "more than 1 MB"),
        ("train: a\nnames: coco.names\n", "'names' in 'data.yaml' .* is neither a list of class names nor"),
        ("train: a\nnames: {cat: 0, dog: 1}\n", "'names' in 'data.yaml' .* is neither"),
        ("train: a\nnames: [[a, b], c]\n", "'names' in 'data.yaml' .* is neither"),
    ],
)
def test_where_names_cannot_be_read_classes_go_by_their_numbers(tmp_path: Path, content: str, why: str) -> None:
    files = {"a.txt": "1 0.5 0.5 0.1 0.1\n", "classes.txt": "dog\ncat\n", "data.yaml": content}
    columns, notes = found(tmp_path, files, ("a.jpg",))
    assert columns["object"] == [("1",)]
    (note,) = notes
    assert re.search(why, note)
    assert note.endswith("; classes of objects go by their numbers")
    assert "\n" not in note


def test_keypoints_of_a_description(tmp_path: Path) -> None:
    listing = listing_of(tmp_path, ())
    assert read_keypoint_length(listing) is None
    create(tmp_path / "data.yaml", b"train: a\nkpt_shape: [17, 3]\nnames: [person]\n")
    assert read_keypoint_length(listing) == 51
    create(tmp_path / "data.yaml", b"train: a\nkpt_shape:\n- 2\n- 3\nnames: [person]\n")
    assert read_keypoint_length(listing) == 6


@pytest.mark.slow
def test_a_subset_has_the_objects_of_the_whole(tmp_path: Path, imgsubset: Callable[..., Run]) -> None:
    random = np.random.default_rng(0)
    source = tmp_path / "source"
    for number in range(60):
        path = create(source / "images" / f"{number:02d}.png")
        smooth(number, 12, 12).save(path)
        lines = [f"{random.integers(3)} 0.5 0.5 {random.uniform(0.1, 1):.2f} 0.5\n" for _ in range(random.integers(4))]
        create(source / "labels" / f"{number:02d}.txt", "".join(lines).encode())
    words: dict[str, Any] = {"workers": 0, "candidates": 64, "steps": 30, "size": 16, "networks": 2, "channels": (4, 6)}
    placed = select_into(source, 20, tmp_path / "out", match="objects", **words)
    assert placed.selection is not None
    (block,) = [one for one in placed.selection.score.searched if one.name == "objects"]
    assert block.loss < 0.3
    assert {"number of 0", "object=0", "object empty"} <= {column.name for column in block.columns}
    assert score(source, tmp_path / "out").score == placed.selection.score
    annotations = {
        "images": [{"id": one, "file_name": f"{one:02d}.png", "width": 9, "height": 9} for one in range(60)],
        "annotations": [{"image_id": one, "category_id": one % 3, "bbox": [1, 1, 2, 2]} for one in range(50)],
    }
    create(tmp_path / "instances.json", json.dumps(annotations).encode())
    found = select_into(source, 20, tmp_path / "coco", match="objects", coco=str(tmp_path / "instances.json"), **words)
    assert found.selection is not None
    run = imgsubset("score", source, tmp_path / "coco", "--json", "--workers=0")
    assert strict_json(run.out)["score"]["searched"]["loss"] == found.selection.score.searched_loss
    with pytest.raises(ImgsubsetError):
        select(source / "images", 5, Options(match="objects", sidecars="none", **words))
