from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import create, normal_user, strict_json
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from imgsubset.errors import InputError, UsageError
from imgsubset.reading.listing import list_images
from imgsubset.reading.sidecars import Filtered, filtered_coco, filtered_metadata, masks, sidecars

BOM = b"\xef\xbb\xbf"
CAPTION = "two lines,\nand a comma"


def fill(root: Path, paths: Iterable[str]) -> list[str]:
    """Empty files; returns their paths."""
    paths = list(paths)
    for path in paths:
        create(root / path)
    return paths


def found(root: Path, chosen: Iterable[str], mode: str = "auto") -> dict[str, tuple[str, ...]]:
    """The sidecars of images of a folder, as a run finds them."""
    paths = list_images(root).paths
    candidates = [path for path in paths if path not in masks(paths, mode)]
    chosen = list(chosen)
    assert set(chosen) <= set(candidates)
    return sidecars(root, chosen, candidates, mode)


def metadata(root: Path, chosen: Iterable[str]) -> dict[str, bytes]:
    """The content of the filtered metadata, by path."""
    return {file.path: file.content for file in filtered_metadata(root, list(chosen))}


def coco(*names: str, **more: Any) -> dict[str, Any]:
    """A COCO file of these images, with ids 10, 20, ... and two annotations each, in turns."""
    images = [{"id": 10 * number, "file_name": name, "width": 8, "height": 8} for number, name in enumerate(names, 1)]
    notes = [{"id": 900 - number, "image_id": images[number % len(images)]["id"]} for number in range(2 * len(images))]
    return {"info": {"year": 2024}, "images": images, "annotations": notes, **more}


def filtered(folder: Path, record: Any, chosen: Iterable[str], everything: Iterable[str]) -> tuple[Any, Filtered]:
    """What is left of a COCO file, parsed and as it is."""
    file = folder / "instances.json"
    file.write_bytes(record if isinstance(record, bytes) else json.dumps(record).encode())
    result = filtered_coco(file, list(chosen), list(everything))
    return strict_json(result.content), result


# Which file belongs to which image


def test_a_sidecar_has_the_same_stem_or_the_whole_name(tmp_path: Path) -> None:
    beside = [f"a.{suffix}" for suffix in ("txt", "xml", "json", "npy", "npz", "csv", "md", "yaml", "anything")]
    beside += ["a.jpg.txt", "a.jpg.json", "a", "a."]
    others = ["a.seg.json", "a.jpg.seg.json", "A.txt", "a .txt", "ab.txt", "_a.txt", ".a.txt", "deep/a.txt"]
    fill(tmp_path, ["a.jpg", *beside, *others])
    assert found(tmp_path, ["a.jpg"]) == {"a.jpg": tuple(sorted(beside))}


def test_a_longer_number_is_another_image(tmp_path: Path) -> None:
    numbers = (13, 130, 1300)
    fill(tmp_path, [f"x/image_{number}{suffix}" for number in numbers for suffix in (".jpg", ".txt", ".jpg.json")])
    for number in numbers:
        expected = f"x/image_{number}.jpg.json", f"x/image_{number}.txt"
        assert found(tmp_path, [f"x/image_{number}.jpg"]) == {f"x/image_{number}.jpg": expected}


def test_images_of_one_stem_share_their_sidecar_and_are_none(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg", "a.png", "a.txt", "a.png.txt"])
    assert found(tmp_path, ["a.jpg", "a.png"]) == {"a.jpg": ("a.txt",), "a.png": ("a.png.txt", "a.txt")}


def test_a_picture_beside_a_picture_is_no_sidecar_even_if_it_is_no_candidate(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg", "a.PNG", "a.txt"])
    assert sidecars(tmp_path, ["a.jpg"], ["a.jpg"]) == {"a.jpg": ("a.txt",)}


def test_an_image_of_the_source_is_no_sidecar_whatever_its_suffix(tmp_path: Path) -> None:
    fill(tmp_path, ["images/a.jpg", "images/a.raw", "labels/a.txt", "labels/a.dat"])
    everything = ["images/a.jpg", "images/a.raw", "labels/a.dat"]  # named one by one
    assert sidecars(tmp_path, ["images/a.jpg"], everything) == {"images/a.jpg": ("labels/a.txt",)}


@pytest.mark.parametrize("mode", ["auto", "{dir}/{stem}.txt"])
def test_a_folder_a_dangling_link_and_a_fifo_are_no_sidecars(tmp_path: Path, mode: str) -> None:
    fill(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "deep/labels"])
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "b.txt").symlink_to("nowhere")
    (tmp_path / "c.txt").symlink_to("c.txt")
    os.mkfifo(tmp_path / "d.txt")
    (tmp_path / "e.txt").symlink_to("deep/labels")
    everything = [f"{stem}.jpg" for stem in "abcde"]
    assert found(tmp_path, everything, mode) == {**dict.fromkeys(everything, ()), "e.jpg": ("e.txt",)}


@pytest.mark.parametrize(
    "stem",
    [
        "a b",
        " a",
        "naïve 猫",
        "{stem}",
        "{",
        "%s",
        "a'b",
        'a"b',
        "a\nb",
        "a.b.c",
        "-a",
        "[a]",
        os.fsdecode(b"\xff\xe9"),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "{dir}/{stem}.txt"])
def test_names_may_hold_anything(tmp_path: Path, stem: str, mode: str) -> None:
    fill(tmp_path, [f"{stem}/{stem}.jpg", f"{stem}/{stem}.txt", "a/a.txt", "a.txt"])
    assert found(tmp_path, [f"{stem}/{stem}.jpg"], mode) == {f"{stem}/{stem}.jpg": (f"{stem}/{stem}.txt",)}


def test_letters_that_look_the_same_are_not(tmp_path: Path) -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    fill(tmp_path, [f"{composed}.jpg", f"{decomposed}.txt"])
    if len(os.listdir(tmp_path)) == 2 and f"{decomposed}.txt" in os.listdir(tmp_path):
        assert sidecars(tmp_path, [f"{composed}.jpg"], [f"{composed}.jpg"]) == {f"{composed}.jpg": ()}


stems = st.text(st.sampled_from("aA1._ -é"), min_size=1, max_size=4).filter(lambda stem: stem[0] != ".")
suffixes = st.sampled_from([".txt", ".xml", ".json", ".npy", ".jpg.txt", ".png.json", ".tar.gz", ""])


@settings(max_examples=60, deadline=None)
@given(st.lists(stems, min_size=2, max_size=6, unique_by=str.lower), st.lists(suffixes, min_size=1, unique=True))
def test_sidecars_of_different_images_never_mix(stems: list[str], suffixes: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = [f"{stem}.jpg" for stem in stems]
        files = fill(root, {stem + suffix for stem in stems for suffix in suffixes if stem + suffix not in (".", "..")})
        assume(not {file.lower() for file in files} & {image.lower() for image in images})
        fill(root, images)
        result = sidecars(root, images, images)
        assert list(result) == images
        for image, stem in zip(images, stems, strict=True):
            # What comes before a file's last dot is the stem or the name: said in other words than the module's.
            own = {
                file for file in files if file.rpartition(".")[0] in (stem, image) or (file == stem and "." not in file)
            }
            assert {file for file in result[image] if not file.startswith(".")} == own
        owners = Counter(file for image in images for file in result[image])
        shared = {file for file, count in owners.items() if count > 1}
        assert all(file.rpartition(".")[0] in stems and file.rpartition(".")[0] in images for file in shared)


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = fill(tmp_path, [f"{part}/images/{number}.jpg" for part in ("train", "val") for number in range(300)])
    fill(tmp_path, [image.replace("images", "labels").replace(".jpg", ".txt") for image in images])
    fill(tmp_path, [f"elsewhere/{number}.txt" for number in range(50)])
    listed: Counter[str] = Counter()
    scandir = os.scandir

    def counting(path: Path) -> Any:
        listed[str(path)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    asked: Counter[str] = Counter()
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: asked.update([str(path)]) or is_file(path))
    chosen = images[::3]
    result = sidecars(tmp_path, chosen, images)
    assert all(len(labels) == 1 for labels in result.values())
    folders = [tmp_path / part / kind for part in ("train", "val") for kind in ("images", "labels")]
    assert listed == {str(folder): 1 for folder in folders}
    assert set(asked.values()) == {1}
    assert len(asked) == len(chosen)
    sidecars(tmp_path, chosen, images, "{dir}/../labels/{stem}.txt,{dir}/../labels/{stem}.xml")
    assert listed == {str(folder): 1 + (folder.name == "labels") for folder in folders}


def test_none_looks_nowhere(tmp_path: Path) -> None:
    assert sidecars(tmp_path / "absent", ["a.jpg"], ["a.jpg"], "none") == {"a.jpg": ()}


@pytest.mark.parametrize("mode", ["auto", "labels/{stem}.txt"])
def test_a_folder_of_labels_that_cannot_be_listed_is_an_error(open_folder: Path, mode: str) -> None:
    fill(open_folder, ["images/a.jpg", "labels/a.txt"])
    (open_folder / "labels").chmod(0)
    with normal_user(open_folder), pytest.raises(InputError, match=r"^cannot look for labels in '.*/labels': "):
        sidecars(open_folder, ["images/a.jpg"], ["images/a.jpg"], mode)


# YOLO and VOC


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.jpg", "labels/a.txt"),
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("set/images/train/deep/a.jpg", "set/labels/train/deep/a.txt"),
        ("images/x/images/y/a.jpg", "images/x/labels/y/a.txt"),  # the last one, as YOLO has it
    ],
)
def test_yolo_layouts(tmp_path: Path, image: str, label: str) -> None:
    decoys = ["labels/val/a.txt", "labels/x/images/y/a.txt", "labels/train/aa.txt", "classes.txt", "a.txt"]
    fill(tmp_path, [image, *(decoy for decoy in decoys if decoy != label), image.replace("a.jpg", "b.jpg")])
    create(tmp_path / label, b"0 0.5 0.5 0.25 0.25\n")
    assert found(tmp_path, [image]) == {image: (label,)}
    number, *box = (tmp_path / label).read_text().split()
    assert (int(number), *map(float, box)) == (0, 0.5, 0.5, 0.25, 0.25)


def test_a_folder_whose_name_only_resembles_images_has_no_sibling(tmp_path: Path) -> None:
    images = ["Images/a.jpg", "my_images/a.jpg", "images2/a.jpg"]
    fill(tmp_path, [*images, "labels/a.txt", "Labels/a.txt", "my_labels/a.txt", "labels2/a.txt"])
    assert found(tmp_path, images) == dict.fromkeys(images, ())


def test_a_file_in_place_of_a_folder_of_labels_is_none(tmp_path: Path) -> None:
    fill(tmp_path, ["images/train/a.jpg", "labels"])
    assert found(tmp_path, ["images/train/a.jpg"]) == {"images/train/a.jpg": ()}


def test_yolo_labels_beside_the_source_are_out_of_reach(tmp_path: Path) -> None:
    fill(tmp_path, ["images/a.jpg", "labels/a.txt"])
    assert found(tmp_path / "images", ["a.jpg"]) == {"a.jpg": ()}


def test_voc(tmp_path: Path) -> None:
    voc = "VOCdevkit/VOC2012"
    for stem in ("2007_000032", "2007_0000321"):
        note = f"<annotation><filename>{stem}.jpg</filename></annotation>"
        create(tmp_path / voc / "Annotations" / f"{stem}.xml", note.encode())
        kinds = ("JPEGImages", "jpg"), ("SegmentationClass", "png"), ("SegmentationObject", "png")
        fill(tmp_path, [f"{voc}/{kind}/{stem}.{suffix}" for kind, suffix in kinds])
    fill(tmp_path, [f"{voc}/ImageSets/Main/train.txt"])
    image = f"{voc}/JPEGImages/2007_000032.jpg"
    kinds = ("Annotations", "xml"), ("SegmentationClass", "png"), ("SegmentationObject", "png")
    labels = tuple(f"{voc}/{kind}/2007_000032.{suffix}" for kind, suffix in kinds)
    assert found(tmp_path, [image]) == {image: labels}
    assert ElementTree.parse(tmp_path / labels[0]).findtext("filename") == "2007_000032.jpg"


@pytest.mark.parametrize(
    ("images", "label"),
    [
        ("JPEGImages", "SegmentationClass"),
        ("JPEGImages", "SegmentationObject"),
        ("JPEGImages", "Annotations"),  # DAVIS and YouTube-VOS keep their masks there
        ("images", "labels"),
    ],
)
def test_masks_are_sidecars_and_no_candidates(tmp_path: Path, images: str, label: str) -> None:
    paths = fill(tmp_path, [f"set/{folder}/deep/{stem}.png" for folder in (images, label) for stem in ("a", "ab")])
    assert masks(paths) == masks(paths, "none") == {f"set/{label}/deep/a.png", f"set/{label}/deep/ab.png"}
    image = f"set/{images}/deep/a.png"
    assert found(tmp_path, [image]) == {image: (f"set/{label}/deep/a.png",)}


def test_without_the_sibling_folder_a_mask_is_an_image() -> None:
    assert masks(["SegmentationClass/a.png", "x/JPEGImages/a.jpg", "labels/a.png", "y/images/a.png"]) == set()
    assert masks(["a.png", "JPEGImages.png", "SegmentationClass/a.png", "images2/a.png", "labels/a.png"]) == set()
    assert masks([]) == set()


# Patterns


@pytest.mark.parametrize(
    ("pattern", "image", "label"),
    [
        ("labels/{dir}/{stem}.txt", "x/a.jpg", "labels/x/a.txt"),
        ("labels/{dir}/{stem}.txt", "a.jpg", "labels/a.txt"),
        ("{dir}/{stem}.txt", "a.jpg", "a.txt"),
        ("{dir}/{name}.json", "x/y/a.jpg", "x/y/a.jpg.json"),
        ("{dir}/../labels/{stem}.txt", "train/x/a.jpg", "train/labels/a.txt"),
        ("./{dir}//{stem}_mask.txt", "x/a.jpg", "x/a_mask.txt"),
        ("{dir}_gt/{stem}.txt", "x/a.jpg", "x_gt/a.txt"),
        ("{stem}/{stem}.txt", "x/a.jpg", "a/a.txt"),
        ("{dir}/classes.txt", "x/a.jpg", "x/classes.txt"),
        ("gone/{stem}.md , {dir}/{stem}.txt", "x/a.jpg", "x/a.txt"),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, image: str, label: str) -> None:
    fill(tmp_path, [image, label, "a.xml", "x/a.xml", "x/ab.txt", "labels/x/a.txt.bak"])
    assert found(tmp_path, [image], pattern) == {image: (label,)}


def test_a_pattern_may_find_several_and_replaces_the_conventions(tmp_path: Path) -> None:
    fill(tmp_path, ["images/a.jpg", "labels/a.txt", "images/a.txt", "images/a.xml", "classes.txt"])
    result = found(tmp_path, ["images/a.jpg"], "{dir}/{stem}.xml,{dir}/{stem}.txt,classes.txt,{dir}/{name}")
    assert result == {"images/a.jpg": ("classes.txt", "images/a.txt", "images/a.xml")}


def test_a_pattern_finds_neither_hidden_nor_metadata_files(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg", ".a.txt", "metadata.csv", "metadata.jsonl"])
    assert found(tmp_path, ["a.jpg"], "{dir}/.{stem}.txt,metadata.csv,metadata.jsonl") == {"a.jpg": ()}


def test_pictures_that_a_pattern_leads_to_are_masks(tmp_path: Path) -> None:
    images = fill(tmp_path, ["x/a.jpg", "x/ab.jpg", "gt/x/a.png", "gt/x/ab.png", "gt/x/other.png", "x/a.png"])
    assert masks(images, "gt/{dir}/{stem}.png") == {"gt/x/a.png", "gt/x/ab.png"}
    assert masks(images) == masks(images, "{dir}/{name}") == set()
    assert found(tmp_path, ["x/a.jpg"], "gt/{dir}/{stem}.png") == {"x/a.jpg": ("gt/x/a.png",)}
    assert found(tmp_path, ["x/a.jpg"], "{dir}/{stem}.png") == {"x/a.jpg": ("x/a.png",)}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("labels/{folder}/{stem}.txt", r"^unknown field '{folder}' in .*; known: {dir}, {stem}, {name}$"),
        ("{stem}.txt,{stem!r}.txt", "unknown field '{stem!r}'"),
        ("{}.txt", "unknown field '{}'"),
        ("{dir}/{stem}.*", "no path in the source"),
        ("{dir}/?{stem}.txt", "no path in the source"),
        ("/labels/{stem}.txt", "no path in the source"),
        ("{stem}.txt,", "'' is no path in the source"),
        ("", "'' is no path in the source"),
        ("Auto", "'Auto' is neither auto, none nor paths"),
        ("../labels/{stem}.txt", "'../labels/{stem}.txt' leads out of the source for the image 'x/a.jpg'"),
        ("{dir}/../../{stem}.txt", "leads out of the source for the image 'x/a.jpg'"),
    ],
)
@pytest.mark.parametrize(
    "check", [lambda root, mode: masks(["x/a.jpg"], mode), lambda root, mode: found(root, ["x/a.jpg"], mode)]
)
def test_patterns_that_make_no_sense(
    tmp_path: Path, pattern: str, message: str, check: Callable[[Path, str], object]
) -> None:
    fill(tmp_path / "source", ["x/a.jpg", "x/a.txt"])
    fill(tmp_path, ["a.txt", "labels/a.txt"])
    with pytest.raises(UsageError, match=message.replace("{", r"\{").replace("?", r"\?")):
        check(tmp_path / "source", pattern)


def test_dots_in_a_name_do_not_lead_out(tmp_path: Path) -> None:
    fill(tmp_path, ["..a/b.jpg", "..a/b.txt"])
    assert sidecars(tmp_path, ["..a/b.jpg"], [], "{dir}/{stem}.txt") == {"..a/b.jpg": ("..a/b.txt",)}


# metadata.jsonl and metadata.csv


def test_metadata_jsonl_keeps_the_chosen_rows_byte_by_byte(tmp_path: Path) -> None:
    rows = [
        b'{"file_name":  "image_130.jpg", "text": "caf\\u00e9"}\n',
        b'{"file_name": "image_1300.jpg"}\n',
        b"\n",
        b'  {"n": 1.50, "file_name": "./deep/b.jpg", "mask_file_name": "gone.png"}  \r\n',
        '{"file_name": "naïve 猫.jpg"}\n'.encode(),
        b'{"file_name": "deep/../a.jpg"}',
    ]
    create(tmp_path / "train/metadata.jsonl", b"".join(rows))
    chosen = ["train/a.jpg", "train/deep/b.jpg", "train/image_130.jpg", "train/naïve 猫.jpg"]
    content = metadata(tmp_path, chosen)
    assert content == {"train/metadata.jsonl": rows[0] + rows[3] + rows[4] + rows[5]}
    names = [json.loads(line)["file_name"] for line in content["train/metadata.jsonl"].splitlines()]
    assert names == ["image_130.jpg", "./deep/b.jpg", "naïve 猫.jpg", "deep/../a.jpg"]


def test_metadata_of_every_folder_above_a_chosen_image_counts(tmp_path: Path) -> None:
    for folder in ("", "x/", "x/y/", "z/"):
        prefix = "x/y/"[len(folder) :] if folder != "z/" else "../x/y/"
        create(tmp_path / f"{folder}metadata.jsonl", json.dumps({"file_name": f"{prefix}a.jpg"}).encode())
    create(tmp_path / "x/metadata.csv", b"file_name\ny/a.jpg\ny/ab.jpg\n")
    assert list(metadata(tmp_path, ["x/y/a.jpg"])) == [
        "metadata.jsonl",
        "x/metadata.jsonl",
        "x/metadata.csv",
        "x/y/metadata.jsonl",
    ]
    assert metadata(tmp_path, ["x/y/a.jpg"])["x/metadata.csv"] == b"file_name\ny/a.jpg\n"
    assert metadata(tmp_path, []) == {}


@pytest.mark.parametrize("bom", [b"", BOM])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_metadata_csv_keeps_the_chosen_rows_byte_by_byte(tmp_path: Path, bom: bytes, end: str) -> None:
    header = f"text,file_name{end}"
    caption = CAPTION.replace("\n", end)
    rows = [
        f'"{caption}",image_130.jpg{end}',
        f"plain,image_1300.jpg{end}",
        f'"gone.jpg,{end}{end}x",image_13.jpg{end}',
        f'"  "" said","deep/naïve ""b"".jpg"{end}',
        f"{end}",
        f"last,a.jpg{end}",
    ]
    create(tmp_path / "metadata.csv", bom + (header + "".join(rows)).encode())
    chosen = ["image_130.jpg", 'deep/naïve "b".jpg', "a.jpg"]
    content = metadata(tmp_path, chosen)["metadata.csv"]
    assert content == bom + (header + rows[0] + rows[3] + rows[5]).encode()
    parsed = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    assert [row["file_name"] for row in parsed] == chosen
    assert [row["text"] for row in parsed] == [caption, '  " said', "last"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_byte_order_mark_stays_when_the_first_row_goes(tmp_path: Path, name: str) -> None:
    rows = {"metadata.jsonl": b'{"file_name": "%s"}\n', "metadata.csv": b"%s\n"}[name]
    header = b"file_name\n" if name == "metadata.csv" else b""
    create(tmp_path / name, BOM + header + rows % b"b.jpg" + rows % b"a.jpg")
    assert metadata(tmp_path, ["a.jpg"]) == {name: BOM + header + rows % b"a.jpg"}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_names_in_metadata_need_not_be_utf_8(tmp_path: Path, name: str) -> None:
    rows = {"metadata.jsonl": b'{"file_name": "%s"}\n', "metadata.csv": b"%s\n"}[name]
    content = (b"file_name\n" if name == "metadata.csv" else b"") + rows % b"\xff\xe9.jpg"
    create(tmp_path / name, content + rows % b"\xff.jpg")
    assert metadata(tmp_path, [os.fsdecode(b"\xff\xe9.jpg")]) == {name: content}


def test_metadata_without_a_chosen_row_is_left_out(tmp_path: Path) -> None:
    create(tmp_path / "metadata.jsonl", b'{"file_name": "b.jpg"}\n')
    create(tmp_path / "metadata.csv", b"file_name\nb.jpg\n")
    assert metadata(tmp_path, ["a.jpg"]) == {}
    assert set(metadata(tmp_path, ["b.jpg"])) == {"metadata.jsonl", "metadata.csv"}


@pytest.mark.parametrize(
    ("row", "stays"),
    [
        ({"file_name": "a.jpg", "mask_file_name": "gone.png"}, True),
        ({"file_name": "gone.jpg", "mask_file_name": "a.jpg"}, False),
        ({"left_file_name": "a.jpg", "right_file_name": "b.jpg"}, True),
        ({"left_file_name": "a.jpg", "right_file_name": "gone.jpg"}, False),
        ({"left_file_name": "a.jpg", "right_file_name": None}, True),
        ({"file_names": ["a.jpg", "b.jpg"]}, True),
        ({"file_names": ["a.jpg", "gone.jpg"]}, False),
        ({"frames_file_names": ["b.jpg"], "label_file_name": "a.jpg", "profile_name": 5}, True),
        ({"file_names": []}, False),
    ],
)
def test_rows_about_several_images(tmp_path: Path, row: dict[str, Any], stays: bool) -> None:
    create(tmp_path / "metadata.jsonl", json.dumps(row).encode())
    assert metadata(tmp_path, ["a.jpg", "b.jpg"]) == ({"metadata.jsonl": json.dumps(row).encode()} if stays else {})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", b"image;text\na.jpg;one, two\n"),
        ("metadata.csv", b'profile_name,x\na.jpg,"1"2,3\n'),
        ("metadata.csv", b""),
        ("metadata.csv", BOM + b"\n\n"),
        ("metadata.jsonl", b'{"image": "a.jpg", "profile_name": "a.jpg"}\n'),
        ("metadata.jsonl", b""),
    ],
)
def test_metadata_of_another_convention_is_left_out(tmp_path: Path, name: str, content: bytes) -> None:
    create(tmp_path / name, content)
    assert metadata(tmp_path, ["a.jpg"]) == {}


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("metadata.jsonl", b'{"file_name": "a.jpg"}\n\n{"file_name": \n', 3),
        ("metadata.jsonl", b'{"file_name": "a.jpg"}\n["a.jpg"]\n', 2),
        ("metadata.jsonl", b'{"file_name": "a.jpg"}\n{"name": "a.jpg"}\n', 2),
        ("metadata.jsonl", b'{"file_name": 5}\n', 1),
        ("metadata.jsonl", b'{"file_names": [["a.jpg"]]}\n', 1),
        ("metadata.jsonl", b'{"file_name": "a.jpg"}\n' + b"[" * 100_000, 2),
        ("metadata.csv", b'text,file_name\n"x\n",a.jpg\nb,c,a.jpg\n', 4),
        ("metadata.csv", b"text,file_name\nb,a.jpg\na.jpg\n", 3),
        ("metadata.csv", b'text,file_name\nb,a.jpg\n"open,a.jpg\n', 3),
        ("metadata.csv", b'text,file_name\n"x"y,a.jpg\n', 2),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, name: str, content: bytes, line: int) -> None:
    create(tmp_path / "x" / name, content)
    limit = csv.field_size_limit()
    with pytest.raises(InputError, match=rf"^'.*x/{name}', line {line}: ") as caught:
        filtered_metadata(tmp_path, ["x/a.jpg"])
    assert "\n" not in str(caught.value)
    assert csv.field_size_limit() == limit


def test_long_fields_are_taken_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    content = b"file_name,mask\na.jpg," + b"1 2 " * 100_000 + b"\n"
    assert len(content) > limit
    create(tmp_path / "metadata.csv", content)
    assert metadata(tmp_path, ["a.jpg"]) == {"metadata.csv": content}
    assert csv.field_size_limit() == limit


def test_metadata_is_no_sidecar_of_an_image_of_that_name(tmp_path: Path) -> None:
    fill(tmp_path, ["metadata.jpg", "metadata.csv", "metadata.jsonl", "metadata.txt"])
    assert found(tmp_path, ["metadata.jpg"]) == {"metadata.jpg": ("metadata.txt",)}


def test_metadata_that_is_no_readable_file(open_folder: Path) -> None:
    os.mkfifo(open_folder / "metadata.csv")
    (open_folder / "metadata.jsonl").mkdir()
    assert filtered_metadata(open_folder, ["a.jpg"]) == []
    create(open_folder / "x/metadata.csv", b"file_name\na.jpg\n").chmod(0)
    with normal_user(open_folder), pytest.raises(InputError, match=r"^cannot read '.*x/metadata\.csv': "):
        filtered_metadata(open_folder, ["x/a.jpg"])


# COCO


def test_coco_keeps_ids_order_and_all_other_entries(tmp_path: Path) -> None:
    names = ["val/z.jpg", "val/image_1300.jpg", "val/image_130.jpg", "train/z.jpg"]
    more = {"categories": [{"id": 7, "name": "naïve 猫"}], "licenses": [], "mine": {"a": [1.5, None, 2**70]}}
    record = coco(*names, **more)
    record["annotations"][2]["segmentation"] = [[1, 2.25, 3]]
    kept, result = filtered(tmp_path, record, ["train/z.jpg", "val/image_130.jpg"], names)
    assert result.path == "instances.json"
    assert result.unlisted == ()
    assert list(kept) == list(record)
    assert kept["images"] == [record["images"][2], record["images"][3]]
    assert kept["annotations"] == [record["annotations"][place] for place in (2, 3, 6, 7)]
    assert {key: kept[key] for key in ("info", *more)} == {"info": {"year": 2024}, **more}
    assert result.content.isascii()


def test_coco_without_annotations_stays_without(tmp_path: Path) -> None:
    kept, _ = filtered(tmp_path, {"images": [{"id": "x", "file_name": "a.jpg"}]}, ["a.jpg"], ["a.jpg"])
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
    kept, result = filtered(tmp_path, coco(name), everything, everything)
    assert [image["file_name"] for image in kept["images"]] == ([name] if meant else [])
    assert len(kept["annotations"]) == (2 if meant else 0)
    assert set(everything) - set(result.unlisted) == ({meant} if meant else set())
    others = [path for path in everything if path != meant]
    kept, result = filtered(tmp_path, coco(name), others, everything)
    assert kept["images"] == kept["annotations"] == []
    assert set(result.unlisted) == set(others)


def test_an_image_of_the_source_that_was_not_chosen_can_make_a_coco_name_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^'a\.jpg' in '.*instances\.json' can be 'val/a\.jpg' or 'train/a\.jpg'$"):
        filtered(tmp_path, coco("a.jpg"), ["val/a.jpg"], ["train/a.jpg", "val/a.jpg", "b.jpg"])
    kept, _ = filtered(tmp_path, coco("a.jpg", "b.jpg"), ["b.jpg"], ["train/a.jpg", "val/a.jpg", "b.jpg"])
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
        record, result = filtered(tmp_path, coco(*order), ["train/a.jpg"], ["train/a.jpg"])
        assert sorted(image["file_name"] for image in record["images"]) == sorted(kept)
        assert result.unlisted == (() if kept else ("train/a.jpg",))


def test_images_that_a_coco_file_lacks_are_reported(tmp_path: Path) -> None:
    chosen = ["a.jpg", "b/image_1300.jpg", os.fsdecode(b"\xff.jpg")]
    _, result = filtered(tmp_path, coco("a.jpg", "b/image_130.jpg"), chosen, [*chosen, "b/image_130.jpg"])
    assert result.unlisted == ("b/image_1300.jpg", os.fsdecode(b"\xff.jpg"))


def test_an_id_that_two_coco_images_share(tmp_path: Path) -> None:
    record = coco("a.jpg", "b.jpg", "c.jpg")
    record["images"][1]["id"] = 10
    with pytest.raises(InputError, match=r"^'b\.jpg' and a chosen image have the same id 10 in '.*instances\.json'$"):
        filtered(tmp_path, record, ["a.jpg"], ["a.jpg", "b.jpg", "c.jpg"])
    kept, _ = filtered(tmp_path, record, ["c.jpg"], ["a.jpg", "b.jpg", "c.jpg"])
    assert len(kept["annotations"]) == 2


@pytest.mark.parametrize("start", [BOM, b"\n "])
def test_coco_files_may_begin_with_a_byte_order_mark_or_space(tmp_path: Path, start: bytes) -> None:
    kept, _ = filtered(tmp_path, start + json.dumps(coco("a.jpg")).encode(), ["a.jpg"], ["a.jpg"])
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
        filtered_coco(tmp_path / "gone.json", ["a.jpg"], ["a.jpg"])
    with pytest.raises(InputError, match=r"^cannot read '"):
        filtered_coco(str(tmp_path), ["a.jpg"], ["a.jpg"])
