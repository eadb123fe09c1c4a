"""YOLO datasets: the names of the classes, and the data.yaml that trainers read.

Paths are relative to the source, with `/`. Trainers find label files themselves: they read `labels` for the last
`images` in the path of an image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from posixpath import dirname, join
from types import NoneType
from typing import Any

import yaml

from imgsubset.annotations.label_files import LABEL_FOLDERS, list_ancestors
from imgsubset.errors import InputError, one_line, shorten
from imgsubset.sources.images import Listing

CLASS_FILE_NAMES = ("classes.txt", "obj.names")  # of files with a class a line
DATA_YAML = "data.yaml"  # where the source has none under another name
DATA_YAML_HEADER = "# Written by imgsubset for the images in this folder."
_LOCATION_KEYS = (
    "path",
    "train",
    "val",
    "test",
    "download",
)  # keys of the source's description that are not true of a subset
_SPLIT_PATTERN = re.compile(r"(train|val|test)(?:ing|id|idation)?[0-9]*", re.IGNORECASE)
_MAX_FILE_BYTES = 1 << 20  # bytes of a description: what is longer is some other file
_MAX_NODES = 50_000  # of a description: it takes seconds to read them
_MAX_ALIASES = 10  # merged into each other, they multiply what they stand for
_STRING_TAG, _NULL_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"


def find_class_files(source: Listing, chosen: Sequence[str]) -> list[str]:
    """The files with names of classes in or above the folders of the chosen images and of their labels."""
    folders = {up for path in chosen for up in list_ancestors(dirname(path))}
    folders |= {join(dirname(folder), "labels") for folder in folders if folder.split("/")[-1] == "images"}
    paths = (join(folder, name) for folder in folders for name in CLASS_FILE_NAMES)
    return sorted((path for path in paths if source.has(path)), key=os.fsencode)


def parse_split_name(name: str) -> str | None:
    """Which of train, val and test a folder of this name is, as in `valid` or `train2017`; None if it is none."""
    match = _SPLIT_PATTERN.fullmatch(name)
    return match and match[1].lower()


def group_folders_by_split(chosen: Iterable[str]) -> dict[str, list[str]]:
    """The folders of the chosen images that are train, val and test, by their names; a folder without is train."""
    parts: dict[str, set[str]] = {}
    for folder in {dirname(path) for path in chosen}:
        words = folder.split("/")
        marks = [place for place, word in enumerate(words) if word == "images" or parse_split_name(word)]
        whole = "/".join(words[: marks[-1] + 1]) if marks else folder
        part = next((found for word in words if (found := parse_split_name(word))), "train")
        parts.setdefault(part, set()).add(whole or ".")
    return {part: sorted(folders) for part, folders in parts.items()}


def make_data_yaml(source: Listing, parts: Mapping[str, Sequence[str]]) -> tuple[str, bytes] | None:
    """The name and content of a description of images in these folders; None if the source is no YOLO set.

    parts  folders by train, val and test; trainers insist on the first two, so one of them stands for the other

    The description of the source is kept but for comments and where its images are; without one the names are those of
    classes.txt beside `images`.

    Raises InputError for a description of the source that cannot be read.
    """
    name, content = read_data_yaml(source) or (DATA_YAML, _make_names_entry(source))
    if not content:
        return None
    train = parts.get("train") or parts.get("val") or parts.get("test") or ["."]
    places = {"train": train, "val": parts.get("val") or train} | ({"test": parts["test"]} if "test" in parts else {})
    written = {part: folders[0] if len(folders) == 1 else list(folders) for part, folders in places.items()}
    written |= {key: value for key, value in content.items() if key not in _LOCATION_KEYS}
    return name, f"{DATA_YAML_HEADER}\n{yaml.safe_dump(written, sort_keys=False, allow_unicode=True)}".encode()


def _make_names_entry(source: Listing) -> dict[str, list[str]]:
    """A description from the names of classes beside the source's folder `images`; empty if there are none."""
    if not any("images" in dirname(path).split("/") for path in source.paths):
        return {}
    for path in (join(folder, name) for folder in ("", *LABEL_FOLDERS["images"]) for name in CLASS_FILE_NAMES):
        if names := _read_class_list(source, path):
            return {"names": [name or str(number) for number, name in enumerate(names)]}
    return {}


def _read_class_list(source: Listing, path: str) -> list[str]:
    """The names in a file with a class a line, empty where a line is; empty lines at the end are no classes."""
    content = _read_file(source, path)
    text = os.fsdecode(content).removeprefix("\ufeff") if len(content) <= _MAX_FILE_BYTES else ""
    return [line.strip() for line in text.rstrip().splitlines()]


def _read_file(source: Listing, path: str) -> bytes:
    """A small file of the source, the beginning of one that is not small; empty if there is none."""
    try:
        with source.open(path) as file:
            return file.read(_MAX_FILE_BYTES + 1)
    except OSError:
        return b""


class _LimitedLoader(yaml.SafeLoader):
    """A safe loader that stops at documents that are too large."""

    nodes = aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.nodes += 1
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.nodes > _MAX_NODES or self.aliases > _MAX_ALIASES:
            most = f"{_MAX_ALIASES} aliases" if self.aliases > _MAX_ALIASES else f"{_MAX_NODES:,} entries"
            raise yaml.YAMLError(f"it has more than {most}")
        return super().compose_node(parent, index)


def read_data_yaml(source: Listing) -> tuple[str, dict[Any, Any]] | None:
    """Read the description of the source: the name of the file and what it holds; None if there is none.

    The names of classes are as they are written: `no` is a name, not a Boolean.

    Raises InputError if the only one is not valid YAML.
    """
    problem = ""
    files = [name for name in source.names("") if name.lower().endswith((".yaml", ".yml"))]
    for name in sorted(files, key=lambda name: (name != DATA_YAML, os.fsencode(name))):
        content = _read_file(source, name)
        words = {*re.findall(rb"\w+", content.replace(b"\0", b""))}  # of UTF-16
        if b"names" not in words or words.isdisjoint((b"train", b"val")):
            continue
        try:
            found = _parse_yaml(content)
        except Exception as error:  # of many kinds, all from damaged files
            problem = problem or f"'{name}' of source '{source.name}' cannot be read as YAML: {_format_error(error)}"
            continue
        if isinstance(found, dict) and "names" in found and ("train" in found or "val" in found):
            return name, found
    if problem:
        raise InputError(problem)
    return None


@lru_cache(maxsize=1)  # it takes seconds, and is asked for several times in a row
def _parse_yaml(content: bytes) -> Any:
    """The document in a YAML file, with the names of classes as texts. Raises exceptions of many kinds."""
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"more than {_MAX_FILE_BYTES >> 20} MB are no description")
    loader = _LimitedLoader(content)
    try:
        root = loader.get_single_node()
        for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
            if key.value == "names" and isinstance(value, yaml.CollectionNode):
                value.value = [
                    (one[0], _as_text(one[1])) if isinstance(one, tuple) else _as_text(one) for one in value.value
                ]
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def _as_text(node: yaml.Node) -> yaml.Node:
    """A node, whose value is as it is written if it is a scalar but null."""
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL_TAG:
        return node
    return yaml.ScalarNode(_STRING_TAG, node.value, node.start_mark, node.end_mark)


def _format_error(error: Exception) -> str:
    """What is wrong with a YAML file, on one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return shorten(one_line(error), 300)


def read_class_names(source: Listing) -> dict[str, str]:
    """The names of classes by their number, as the description of the source or its lists of names have them; none if
    the lists differ.

    Raises InputError for a description that cannot be read.
    """
    described = read_data_yaml(source)
    if described is None:
        lists = {tuple(_read_class_list(source, path)) for path in find_class_files(source, source.paths)} - {()}
        return {str(number): name for number, name in enumerate(lists.pop()) if name} if len(lists) == 1 else {}
    file, content = described
    names = content["names"]
    names = dict(enumerate(names)) if isinstance(names, list) else names
    with suppress(AttributeError, TypeError, ValueError, OverflowError):
        if all(isinstance(name, (str, NoneType)) for name in names.values()):
            return {str(int(number)): name for number, name in names.items() if name}
    raise InputError(
        f"'names' in '{file}' of source '{source.name}' is neither a list of class names nor class names by number"
    )


def read_keypoint_length(source: Listing) -> int | None:
    """How many numbers the keypoints of an object are, if the description of the source says so.

    Raises InputError for a description that cannot be read.
    """
    _, content = read_data_yaml(source) or ("", {})
    shape = content.get("kpt_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(type(one) is int for one in shape):
        return int(shape[0] * shape[1])
    return None
