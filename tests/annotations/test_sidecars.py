from __future__ import annotations

import os
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import create, listing_of, normal_user
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from imgsubset.annotations.label_files import find_masks, find_sidecars
from imgsubset.errors import InputError, UsageError
from imgsubset.sources.listing import list_images


def fill(root: Path, paths: Iterable[str]) -> list[str]:
    """Empty files; returns their paths."""
    paths = list(paths)
    for path in paths:
        create(root / path)
    return paths


def found(root: Path, chosen: Iterable[str], mode: str = "auto") -> dict[str, tuple[str, ...]]:
    """The sidecars of images of a folder, as a run finds them."""
    paths = list_images(root).paths
    candidates = [path for path in paths if path not in find_masks(paths, mode)]
    chosen = list(chosen)
    assert set(chosen) <= set(candidates)
    return find_sidecars(listing_of(root), chosen, candidates, mode)


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
    assert find_sidecars(listing_of(tmp_path), ["a.jpg"], ["a.jpg"]) == {"a.jpg": ("a.txt",)}


def test_an_image_of_the_source_is_no_sidecar_whatever_its_suffix(tmp_path: Path) -> None:
    fill(tmp_path, ["images/a.jpg", "images/a.raw", "labels/a.txt", "labels/a.dat"])
    everything = ["images/a.jpg", "images/a.raw", "labels/a.dat"]  # named one by one
    assert find_sidecars(listing_of(tmp_path), ["images/a.jpg"], everything) == {"images/a.jpg": ("labels/a.txt",)}


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
        assert find_sidecars(listing_of(tmp_path), [f"{composed}.jpg"], [f"{composed}.jpg"]) == {f"{composed}.jpg": ()}


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
        result = find_sidecars(listing_of(root), images, images)
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
    listdir = os.listdir

    def counting(path: str) -> Any:
        listed[str(path)] += 1
        return listdir(path)

    monkeypatch.setattr(os, "listdir", counting)
    asked: Counter[str] = Counter()
    is_file = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: asked.update([str(path)]) or is_file(path))
    chosen = images[::3]
    result = find_sidecars(listing_of(tmp_path), chosen, images)
    assert all(len(labels) == 1 for labels in result.values())
    folders = [tmp_path / part / kind for part in ("train", "val") for kind in ("images", "labels")]
    assert listed == {str(folder): 1 for folder in folders}
    assert set(asked.values()) == {1}
    assert len(asked) == len(chosen)
    find_sidecars(listing_of(tmp_path), chosen, images, "{dir}/../labels/{stem}.txt,{dir}/../labels/{stem}.xml")
    assert listed == {str(folder): 1 + (folder.name == "labels") for folder in folders}


def test_none_looks_nowhere(tmp_path: Path) -> None:
    assert find_sidecars(listing_of(tmp_path / "absent"), ["a.jpg"], ["a.jpg"], "none") == {"a.jpg": ()}


@pytest.mark.parametrize("mode", ["auto", "labels/{stem}.txt"])
def test_a_folder_of_labels_that_cannot_be_listed_is_an_error(open_folder: Path, mode: str) -> None:
    fill(open_folder, ["images/a.jpg", "labels/a.txt"])
    (open_folder / "labels").chmod(0)
    with normal_user(open_folder), pytest.raises(InputError, match=r"^cannot look for labels in '.*/labels': "):
        find_sidecars(listing_of(open_folder), ["images/a.jpg"], ["images/a.jpg"], mode)


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
    wanted = dict.fromkeys([f"set/{label}/deep/a.png", f"set/{label}/deep/ab.png"], f"set/{label}")
    assert find_masks(paths) == find_masks(paths, "none") == wanted
    image = f"set/{images}/deep/a.png"
    assert found(tmp_path, [image]) == {image: (f"set/{label}/deep/a.png",)}


def test_without_the_sibling_folder_a_mask_is_an_image() -> None:
    assert find_masks(["SegmentationClass/a.png", "x/JPEGImages/a.jpg", "labels/a.png", "y/images/a.png"]) == {}
    assert find_masks(["a.png", "JPEGImages.png", "SegmentationClass/a.png", "images2/a.png", "labels/a.png"]) == {}
    assert find_masks([]) == {}


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
    assert find_masks(images, "gt/{dir}/{stem}.png") == {"gt/x/a.png": "gt/x", "gt/x/ab.png": "gt/x"}
    assert find_masks(images) == find_masks(images, "{dir}/{name}") == {}
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
    "check", [lambda root, mode: find_masks(["x/a.jpg"], mode), lambda root, mode: found(root, ["x/a.jpg"], mode)]
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
    assert find_sidecars(listing_of(tmp_path), ["..a/b.jpg"], [], "{dir}/{stem}.txt") == {"..a/b.jpg": ("..a/b.txt",)}


def test_metadata_is_no_sidecar_of_an_image_of_that_name(tmp_path: Path) -> None:
    fill(tmp_path, ["metadata.jpg", "metadata.csv", "metadata.jsonl", "metadata.txt"])
    assert found(tmp_path, ["metadata.jpg"]) == {"metadata.jpg": ("metadata.txt",)}
