"""What YOLO's trainers need beside images and labels: the names of the classes, and a description of the data set.

Paths are relative to the source, with `/`. Labels are found by the trainers themselves: they read `labels` for the last
`images` in the path of an image.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from posixpath import dirname, join

from imgsubset.reading.contents import Listing
from imgsubset.reading.sidecars import SIBLINGS, upwards

NAMES = ("classes.txt", "obj.names")  # of files with a class a line
DESCRIPTION = "data.yaml"  # where the source has none under another name
HEADER = "# Written by imgsubset for the images in this folder."
_PLACES = ("path", "train", "val", "test", "download")  # keys of the source's description that are not true of a subset
_KEY = re.compile(r"([A-Za-z_][\w-]*)\s*:")
_PART = re.compile(r"(train|val|test)(?:ing|id|idation)?[0-9]*", re.IGNORECASE)
_KEYPOINTS = re.compile(r"kpt_shape\s*:\s*\[\s*(\d+)\s*,\s*(\d+)\s*\]")
_MOST = 1 << 20  # bytes of a description: what is longer is some other file


def class_files(source: Listing, chosen: Sequence[str]) -> list[str]:
    """The files with names of classes in or above the folders of the chosen images and of their labels."""
    folders = {up for path in chosen for up in upwards(dirname(path))}
    folders |= {join(dirname(folder), "labels") for folder in folders if folder.split("/")[-1] == "images"}
    paths = (join(folder, name) for folder in folders for name in NAMES)
    return sorted((path for path in paths if source.has(path)), key=os.fsencode)


def part_of(name: str) -> str | None:
    """Which of train, val and test a folder of this name is, as in `valid` or `train2017`; None if it is none."""
    match = _PART.fullmatch(name)
    return match and match[1].lower()


def parts_of(chosen: Iterable[str]) -> dict[str, list[str]]:
    """The folders of the chosen images that are train, val and test, by their names; a folder without is train."""
    parts: dict[str, set[str]] = {}
    for folder in {dirname(path) for path in chosen}:
        words = folder.split("/")
        marks = [place for place, word in enumerate(words) if word == "images" or part_of(word)]
        whole = "/".join(words[: marks[-1] + 1]) if marks else folder
        part = next((found for word in words if (found := part_of(word))), "train")
        parts.setdefault(part, set()).add(whole or ".")
    return {part: sorted(folders) for part, folders in parts.items()}


def description(source: Listing, parts: Mapping[str, Sequence[str]]) -> tuple[str, bytes] | None:
    """The name and content of a description of images in these folders; None if the source is no YOLO set.

    parts  folders by train, val and test; trainers insist on the first two, so one of them stands for the other

    The description of the source is kept but for where its images are; without one the names are those of classes.txt
    beside `images`.
    """
    name, lines = _described(source) or (DESCRIPTION, _from_names(source))
    if not lines:
        return None
    train = parts.get("train") or parts.get("val") or parts.get("test") or ["."]
    places = {"train": train, "val": parts.get("val") or train} | ({"test": parts["test"]} if "test" in parts else {})
    values = {part: folders[0] if len(folders) == 1 else list(folders) for part, folders in places.items()}
    lines = [HEADER, *(f"{part}: {json.dumps(value, ensure_ascii=False)}" for part, value in values.items()), *lines]
    return name, os.fsencode("\n".join(lines) + "\n")


def _described(source: Listing) -> tuple[str, list[str]] | None:
    """The name of the source's description, and its lines but for where the images are."""
    files = [name for name in source.names("") if name.lower().endswith((".yaml", ".yml"))]
    for name in sorted(files, key=lambda name: (name != DESCRIPTION, os.fsencode(name))):
        lines, keys, keep = [], set(), True
        for line in _text(source, name).splitlines():
            if match := _KEY.match(line):
                keys.add(match[1])
                keep = match[1] not in _PLACES
            if (keep or line.startswith("#")) and line not in (HEADER, "---"):
                lines.append(line)
        if "names" in keys and not keys.isdisjoint(("train", "val")):
            return name, lines
    return None


def _from_names(source: Listing) -> list[str]:
    """The lines of a description from the names of classes beside the source's folder `images`."""
    if not any("images" in dirname(path).split("/") for path in source.paths):
        return []
    for path in (join(folder, name) for folder in ("", *SIBLINGS["images"]) for name in NAMES):
        if names := _listed(source, path):
            return [f"names: {json.dumps(names, ensure_ascii=False)}"]
    return []


def _listed(source: Listing, path: str) -> list[str]:
    """The names in a file with a class a line."""
    return [line.strip() for line in _text(source, path).splitlines() if line.strip()]


def _text(source: Listing, path: str) -> str:
    """A small text file of the source; empty if there is none."""
    try:
        if source.stamp(path).size > _MOST:
            return ""
        with source.open(path) as file:
            return os.fsdecode(file.read()).removeprefix("\ufeff")
    except OSError:
        return ""


def class_list(source: Listing) -> dict[str, str]:
    """The names of classes by their number, as the description of the source or its lists of names have them; none if
    the lists differ."""
    _, lines = _described(source) or (DESCRIPTION, [])
    start = next((place for place, line in enumerate(lines) if line.startswith("names:")), None)
    if start is None:
        lists = {tuple(_listed(source, path)) for path in class_files(source, source.paths)} - {()}
        return {str(number): name for number, name in enumerate(lists.pop())} if len(lists) == 1 else {}
    inline = lines[start].partition(":")[2].strip()
    if inline.startswith("["):
        listed = " ".join([inline, *(line for line in lines[start + 1 :] if not _KEY.match(line))]).partition("]")[0]
        names = [_bare(word) for word in listed.strip("[").split(",")]
        return {str(number): name for number, name in enumerate(names) if name}
    found: dict[str, str] = {}
    for line in lines[start + 1 :]:
        word = line.strip()
        if word and not word.startswith("#"):
            if not (line[0].isspace() or word.startswith("-")):
                break
            number, colon, name = word.partition(":")
            if word.startswith("-"):
                found[str(len(found))] = _bare(word[1:])
            elif colon:
                found[number.strip()] = _bare(name)
    return found


def _bare(word: str) -> str:
    """A name of YAML without quotes and comment."""
    word = word.strip()
    if word[:1] in ("'", '"') and word[:1] in word[1:]:
        return word[1 : word.index(word[0], 1)]
    return word.partition(" #")[0].strip()


def number_of_keypoints(source: Listing) -> int | None:
    """How many numbers the keypoints of an object are, if the description of the source says so."""
    _, lines = _described(source) or ("", [])
    match = next((found for line in lines if (found := _KEYPOINTS.match(line))), None)
    return match and int(match[1]) * int(match[2])
