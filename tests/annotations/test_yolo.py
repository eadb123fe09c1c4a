from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import create

from imgsubset.annotations.yolo import (
    find_class_files,
    group_folders_by_split,
    make_data_yaml,
    parse_split_name,
    read_class_names,
)
from imgsubset.sources.listing import list_images

OLD = """\
%YAML 1.1
---
# Pets
"path": ../datasets/pets
train:
  - images/train
  - images/more
val: &val images/val  # 20
minival: *val
test:

names:
  0: no
  1: 'dög, big'
download: |
  import os
kpt_shape: [17, 3]
"""


@pytest.mark.parametrize(
    ("name", "part"),
    [("train", "train"), ("Training", "train"), ("val", "val"), ("valid", "val"), ("validation", "val"),
     ("test", "test"), ("train2017", "train"), ("trainer", None), ("a", None), ("", None)],
)  # fmt: skip
def test_a_folder_is_a_part_by_its_name(name: str, part: str | None) -> None:
    assert parse_split_name(name) == part


@pytest.mark.parametrize(
    ("paths", "parts"),
    [
        (["images/train/a.jpg", "images/train/x/b.jpg"], {"train": ["images/train"]}),
        (["images/train/a.jpg", "images/val/b.jpg"], {"train": ["images/train"], "val": ["images/val"]}),
        (["valid/images/a.jpg", "test/images/b.jpg"], {"val": ["valid/images"], "test": ["test/images"]}),
        (["images/a.jpg", "images/x/b.jpg"], {"train": ["images"]}),
        (["x/a.jpg", "b.jpg"], {"train": [".", "x"]}),
    ],
)
def test_parts_are_told_by_the_folders(paths: list[str], parts: dict[str, list[str]]) -> None:
    assert group_folders_by_split(paths) == parts


def test_the_description_of_a_source_is_kept_but_for_its_places(tmp_path: Path) -> None:
    create(tmp_path / "pets.yaml", OLD.encode())
    create(tmp_path / "other.yaml", b"names: [x]\n")
    found = make_data_yaml(list_images(tmp_path), {"train": ["images/train"], "test": ["t", 'u"']})
    assert found is not None
    name, content = found
    assert name == "pets.yaml"
    assert content.startswith(b"# Written by imgsubset for the images in this folder.\ntrain: images/train\n")
    assert "dög, big" in content.decode()
    written = yaml.safe_load(content)
    assert written == {
        "train": "images/train",
        "val": "images/train",
        "test": ["t", 'u"'],
        "minival": "images/val",
        "names": {0: "no", 1: "dög, big"},
        "kpt_shape": [17, 3],
    }
    assert list(written)[-3:] == ["minival", "names", "kpt_shape"]
    create(tmp_path / "again/pets.yaml", content)  # of a subset of the subset
    assert make_data_yaml(list_images(tmp_path / "again"), {"train": ["images/train"], "test": ["t", 'u"']}) == found


@pytest.mark.parametrize(
    "content",
    [
        "\"names\": [cat]\n'val': x",
        "  names: [cat]\n  val: x\n",
        "{names: [cat],\nval: x}",
        '{"names": ["cat"], "val": 3}',
    ],
)
def test_a_description_may_be_any_mapping(tmp_path: Path, content: str) -> None:
    create(tmp_path / "data.yaml", content.encode())
    found = make_data_yaml(list_images(tmp_path), {"train": ["\udcff"]})
    assert found is not None
    assert yaml.safe_load(found[1]) == {"train": "\udcff", "val": "\udcff", "names": ["cat"]}


def test_without_a_description_the_names_are_those_of_the_classes(tmp_path: Path) -> None:
    create(tmp_path / "images/a.jpg")
    assert make_data_yaml(list_images(tmp_path), {"train": ["images"]}) is None
    create(tmp_path / "labels/classes.txt", 'cat\r\n"dög"\n\n'.encode())
    assert make_data_yaml(list_images(tmp_path), {"train": ["images"]}) == (
        "data.yaml",
        b"# Written by imgsubset for the images in this folder.\n"
        b"train: images\nval: images\n" + "names:\n- cat\n- '\"dög\"'\n".encode(),
    )


def test_an_empty_line_in_a_list_of_classes_has_a_number(tmp_path: Path) -> None:
    create(tmp_path / "images/a.jpg")
    create(tmp_path / "classes.txt", b"\ncat\n \ndog\n\n\n")
    listing = list_images(tmp_path)
    assert read_class_names(listing) == {"1": "cat", "3": "dog"}
    found = make_data_yaml(listing, {"train": ["images"]})
    assert found is not None
    assert yaml.safe_load(found[1])["names"] == ["0", "cat", "2", "dog"]


def test_a_source_that_is_no_yolo_set_has_no_description(tmp_path: Path) -> None:
    create(tmp_path / "x/a.jpg")
    create(tmp_path / "classes.txt", b"cat\n")
    create(tmp_path / "config.yaml", b"names: x\nseed: 1\n")
    create(tmp_path / "big.yaml", b"names: x\ntrail: y\n" + b"#" * (1 << 20))
    create(tmp_path / "odd.yaml", bytes(range(256)))
    assert make_data_yaml(list_images(tmp_path), {"train": ["x"]}) is None


def test_files_of_class_names_are_found_above_images_and_labels(tmp_path: Path) -> None:
    for name in ("classes.txt", "s/labels/classes.txt", "s/images/train/obj.names", "other/classes.txt"):
        create(tmp_path / name)
    create(tmp_path / "s/images/train/a.jpg")
    found = find_class_files(list_images(tmp_path), ["s/images/train/a.jpg"])
    assert found == ["classes.txt", "s/images/train/obj.names", "s/labels/classes.txt"]
