from __future__ import annotations

import json
import os
import tracemalloc
from codecs import BOM_UTF8
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import strict_json

from imgsubset.annotations.coco import filter_coco
from imgsubset.errors import InputError


def coco(*names: str, **more: Any) -> dict[str, Any]:
    """A COCO file of these images, with ids 10, 20, ... and two annotations each, in turns."""
    images = [{"id": 10 * number, "file_name": name, "width": 8, "height": 8} for number, name in enumerate(names, 1)]
    notes = [{"id": 900 - number, "image_id": images[number % len(images)]["id"]} for number in range(2 * len(images))]
    return {"info": {"year": 2024}, "images": images, "annotations": notes, **more}


def filtered(folder: Path, record: Any, chosen: Iterable[str], everything: Iterable[str]) -> Any:
    """What is left of a COCO file, parsed."""
    file = folder / "instances.json"
    file.write_bytes(record if isinstance(record, bytes) else json.dumps(record).encode())
    content, named = filter_coco(file, list(chosen), list(everything))
    assert named <= {*chosen}
    assert content.isascii()
    return strict_json(content)


def test_coco_keeps_ids_order_and_all_other_entries(tmp_path: Path) -> None:
    names = ["val/z.jpg", "val/image_1300.jpg", "val/image_130.jpg", "train/z.jpg"]
    more = {"categories": [{"id": 7, "name": "naïve 猫"}], "licenses": [], "mine": {"a": [1.5, None, 2**70]}}
    record = coco(*names, **more)
    record["annotations"][2]["segmentation"] = [[1, 2.25, 3]]
    kept = filtered(tmp_path, record, ["train/z.jpg", "val/image_130.jpg"], names)
    assert list(kept) == list(record)
    assert kept["images"] == [record["images"][2], record["images"][3]]
    assert kept["annotations"] == [record["annotations"][place] for place in (2, 3, 6, 7)]
    assert {key: kept[key] for key in ("info", *more)} == {"info": {"year": 2024}, **more}


def test_coco_without_annotations_stays_without(tmp_path: Path) -> None:
    kept = filtered(tmp_path, {"images": [{"id": "x", "file_name": "a.jpg"}]}, ["a.jpg"], ["a.jpg"])
    assert kept == {"images": [{"id": "x", "file_name": "a.jpg"}]}


@pytest.mark.parametrize(
    ("name", "everything", "meant"),
    [
        ("x/a.jpg", ["x/a.jpg", "a.jpg", "y/x/a.jpg"], "x/a.jpg"),
        ("a.jpg", ["x/a.jpg", "a.jpg"], "a.jpg"),
        ("./x//a.jpg", ["x/a.jpg"], "x/a.jpg"),
        ("a.jpg", ["x/y/a.jpg", "x/y/xx_a.jpg", "x/a.jpg.jpg", "aa.jpg"], "x/y/a.jpg"),
        ("y/a.jpg", ["x/y/a.jpg", "xy/a.jpg", "z/a.jpg"], "x/y/a.jpg"),
        ("image_130.jpg", ["x/image_1300.jpg", "x/xx_image_130.jpg", "x/Image_130.jpg"], None),
        ("train2017/a.jpg", ["images/a.jpg", "images/aa.jpg"], "images/a.jpg"),
        ("/data/coco/train/a.jpg", ["train/a.jpg", "val/a.jpg"], "train/a.jpg"),
        ("../images/a.jpg", ["images/a.jpg"], "images/a.jpg"),
        ("train2017/a.jpg", ["x/a.jpg", "y/a.jpg"], None),  # no guess
        (os.fsdecode(b"\xff.jpg"), [os.fsdecode(b"x/\xff.jpg"), "x/\ufffd.jpg"], os.fsdecode(b"x/\xff.jpg")),
        ("", ["a.jpg"], None),
    ],
)
def test_what_a_coco_file_name_means(tmp_path: Path, name: str, everything: list[str], meant: str | None) -> None:
    kept = filtered(tmp_path, coco(name), everything, everything)
    assert [image["file_name"] for image in kept["images"]] == ([name] if meant else [])
    assert len(kept["annotations"]) == (2 if meant else 0)
    others = [path for path in everything if path != meant]
    kept = filtered(tmp_path, coco(name), others, everything)
    assert kept["images"] == kept["annotations"] == []


def test_an_image_of_the_source_that_was_not_chosen_can_make_a_coco_name_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^'a\.jpg' in '.*instances\.json' can be 'val/a\.jpg' or 'train/a\.jpg'$"):
        filtered(tmp_path, coco("a.jpg"), ["val/a.jpg"], ["train/a.jpg", "val/a.jpg", "b.jpg"])
    kept = filtered(tmp_path, coco("a.jpg", "b.jpg"), ["b.jpg"], ["train/a.jpg", "val/a.jpg", "b.jpg"])
    assert [image["id"] for image in kept["images"]] == [20]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["a.jpg", "train/a.jpg"], ["train/a.jpg"]),  # the closer one
        (["val/a.jpg", "a.jpg"], ["a.jpg"]),
        (["a.jpg", "./a.jpg"], ["a.jpg", "./a.jpg"]),  # the same one twice
        (["val/a.jpg", "test/a.jpg"], []),  # either may be meant
    ],
)
def test_several_coco_names_for_one_image(tmp_path: Path, names: list[str], kept: list[str]) -> None:
    for order in (names, names[::-1]):
        record = filtered(tmp_path, coco(*order), ["train/a.jpg"], ["train/a.jpg"])
        assert sorted(image["file_name"] for image in record["images"]) == sorted(kept)


def test_an_id_that_two_coco_images_share(tmp_path: Path) -> None:
    record = coco("a.jpg", "b.jpg", "c.jpg")
    record["images"][1]["id"] = 10
    with pytest.raises(InputError, match=r"^'b\.jpg' and a chosen image have the same id 10 in '.*instances\.json'$"):
        filtered(tmp_path, record, ["a.jpg"], ["a.jpg", "b.jpg", "c.jpg"])
    kept = filtered(tmp_path, record, ["c.jpg"], ["a.jpg", "b.jpg", "c.jpg"])
    assert len(kept["annotations"]) == 2


@pytest.mark.parametrize("start", [BOM_UTF8, b"\n "])
def test_coco_files_may_begin_with_a_byte_order_mark_or_space(tmp_path: Path, start: bytes) -> None:
    kept = filtered(tmp_path, start + json.dumps(coco("a.jpg")).encode(), ["a.jpg"], ["a.jpg"])
    assert kept == coco("a.jpg")


@pytest.mark.parametrize(
    "record",
    [
        *([], 5, None, {}, {"images": None}, {"images": {}}, {"images": [5]}, {"images": "a.jpg"}),
        {"images": [{"id": 1}]},
        {"images": [{"file_name": "a.jpg"}]},
        {"images": [{"id": 1, "file_name": 5}]},
        {"images": [{"id": [1], "file_name": "a.jpg"}]},
        coco("a.jpg", annotations=None),
        coco("a.jpg", annotations=[{"id": 1}]),
        coco("a.jpg", annotations=[{"image_id": {}}]),
        coco("a.jpg", annotations={"id": 1}),
    ],
)
def test_json_that_is_no_coco(tmp_path: Path, record: Any) -> None:
    with pytest.raises(InputError, match=r"^'.*instances\.json' is no COCO file: [^\n]*$"):
        filtered(tmp_path, record, ["a.jpg"], ["a.jpg"])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\x80", b"[" * 100_000, b"a.jpg 1 2 3 4\n"])
def test_what_is_no_json_is_no_coco(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"^'.*instances\.json' is not JSON: [^\n]*$"):
        filtered(tmp_path, content, ["a.jpg"], ["a.jpg"])


def test_a_coco_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read '.*gone\.json': No such file"):
        filter_coco(tmp_path / "gone.json", ["a.jpg"], ["a.jpg"])
    with pytest.raises(InputError, match=r"^cannot read '"):
        filter_coco(str(tmp_path), ["a.jpg"], ["a.jpg"])


@pytest.mark.slow
def test_a_name_in_very_many_folders_takes_little_memory(tmp_path: Path) -> None:
    names = ["a/" * 50_000 + "x.jpg", "a/b/x.jpg"]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": [{"id": number, "file_name": name} for number, name in enumerate(names)]}))
    tracemalloc.start()
    kept = json.loads(filter_coco(file, ["b/x.jpg"], ["b/x.jpg", "y.jpg"])[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [image["id"] for image in kept["images"]] == [1]
    assert peak < 50_000_000
