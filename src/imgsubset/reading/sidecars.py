"""Labels that travel with the images: files beside them, and metadata and COCO files cut to the chosen images.

A sidecar of `a.jpg` is a file with the very same stem (`a.txt`), or with the full name and one more suffix
(`a.jpg.json`), in the same folder or in the sibling tree of the YOLO and VOC conventions: the last folder named
`images` becomes `labels`, and `JPEGImages` becomes `Annotations`, `SegmentationClass` and `SegmentationObject`. Names
are compared byte by byte, so `image_130` never takes what belongs to `image_1300`. All of it lies in the source.
This module only reads. Paths are relative to the source, with `/`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from posixpath import basename, dirname, join, normpath, split, splitext
from typing import Any

from imgsubset.errors import InputError, UsageError
from imgsubset.files import read_whole
from imgsubset.reading.listing import SUFFIXES

SIBLINGS = {"images": ("labels",), "JPEGImages": ("Annotations", "SegmentationClass", "SegmentationObject")}
METADATA = ("metadata.jsonl", "metadata.csv")  # of Hugging Face's imagefolder; never sidecars, but filtered
FIELDS = ("{dir}", "{stem}", "{name}")
BOM = b"\xef\xbb\xbf"
_FIELD = re.compile(r"\{.*?\}")


@dataclass(frozen=True)
class Filtered:
    """A file of labels with only what belongs to the chosen images.

    path      where it goes, relative to the destination
    content   its bytes
    unlisted  chosen images that a COCO file says nothing about
    """

    path: str
    content: bytes
    unlisted: tuple[str, ...] = ()


def masks(paths: Sequence[str], mode: str = "auto") -> set[str]:
    """The images of a source that are labels of others, and so never candidates.

    They lie in a tree of labels beside the tree of images, as in SIBLINGS; or a template leads to them from another
    image, if `mode` is a pattern. Raises UsageError for a pattern that `sidecars` would refuse.
    """
    trees = {tree for folder in {dirname(path) for path in paths} for tree in _upwards(folder)}
    labels = {join(dirname(tree), label) for tree in trees for label in SIBLINGS.get(basename(tree), ())}
    found = {path for path in paths if not labels.isdisjoint(_upwards(dirname(path)))}
    if mode not in ("auto", "none"):
        templates, images = _templates(mode), frozenset(paths)
        for path in paths:
            found.update(target for target in _filled(templates, path) if target in images and target != path)
    return found


def sidecars(
    root: Path, chosen: Sequence[str], everything: Collection[str], mode: str = "auto"
) -> dict[str, tuple[str, ...]]:
    """The sidecars of each chosen image, sorted; images that share a stem share sidecars.

    everything  the candidates of the source, which are never sidecars
    mode        auto; none; or comma-separated templates of paths in the source, such as `labels/{dir}/{stem}.txt`,
                where `{dir}`, `{stem}` and `{name}` are the image's folder, stem and file name

    A sidecar is a regular file or a link to one, and not hidden. Each folder concerned is listed once.
    Raises UsageError for a pattern that makes no sense, InputError for a folder that cannot be listed.
    """
    if mode == "none":
        return dict.fromkeys(chosen, ())
    templates = () if mode == "auto" else _templates(mode)
    wanted = {path: _places(path, templates) for path in chosen}
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for folder, key in chain.from_iterable(wanted.values()):
        keys[folder].add(key)
    # Unless a template says so, a picture beside a picture is no label, even if it is no candidate.
    beside = frozenset() if templates else {dirname(path) for path in chosen}
    names = {at: _names(root / at, own, not templates, SUFFIXES if at in beside else ()) for at, own in keys.items()}
    images = frozenset(everything)
    found = {}
    for path, places in wanted.items():
        paths = {join(folder, name) for folder, key in places for name in names[folder].get(key, ())}
        found[path] = tuple(sorted(paths - images, key=os.fsencode))
    return found


def _upwards(folder: str) -> list[str]:
    """The source itself, and the folders that lead to one in it."""
    return ["", *(folder.rsplit("/", dropped)[0] for dropped in range(folder.count("/") + 1))]


def _places(path: str, templates: Sequence[str]) -> list[tuple[str, str]]:
    """Folders to look in for an image's sidecars, each with a stem to look for; with templates, with a name."""
    if templates:
        return [split(target) for target in _filled(templates, path)]
    folder, name = split(path)
    folders, parts = [folder], folder.split("/")
    for images, labels in SIBLINGS.items():
        if images in parts:
            last = len(parts) - 1 - parts[::-1].index(images)
            folders += ["/".join([*parts[:last], label, *parts[last + 1 :]]) for label in labels]
    return [(place, stem) for place in folders for stem in (splitext(name)[0], name)]


def _names(folder: Path, keys: Collection[str], by_stem: bool, but: Collection[str]) -> dict[str, list[str]]:
    """The regular files of a folder whose stem (else: whose name) is one of the keys, by that; but for suffixes."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    try:
        # Without such a folder, its convention is not used here.
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                stem, suffix = splitext(entry.name)
                key = stem if by_stem else entry.name
                if key not in keys or suffix.lower() in but or entry.name.startswith(".") or entry.name in METADATA:
                    continue
                if Path(entry.path).is_file():  # for a link to itself, DirEntry.is_file raises
                    found[key].append(entry.name)
    except OSError as error:  # labels must not be lost without a word
        raise InputError(f"cannot look for labels in '{folder}': {error.strerror or error}") from None
    return found


def _templates(pattern: str) -> tuple[str, ...]:
    """The templates of a pattern, checked."""
    templates = tuple(part.strip() for part in pattern.split(","))
    fields = _FIELD.findall(pattern)
    if unknown := [field for field in fields if field not in FIELDS]:
        raise UsageError(f"unknown field '{unknown[0]}' in sidecars '{pattern}'; known: {', '.join(FIELDS)}")
    for template in templates:
        if not template or template.startswith("/") or "*" in template or "?" in template:
            raise UsageError(f"sidecars '{template}' is no path in the source; write one such as 'labels/{{stem}}.txt'")
    if not fields:  # a misspelt `auto`, for one
        raise UsageError(f"sidecars '{pattern}' is neither auto, none nor paths such as 'labels/{{stem}}.txt'")
    return templates


def _filled(templates: Sequence[str], path: str) -> Iterator[str]:
    """What templates stand for, for one image."""
    folder, name = split(path)
    values = dict(zip(FIELDS, (folder, splitext(name)[0], name), strict=True))
    for template in templates:
        # For an image in no folder, `{dir}/` leaves a slash in front.
        target = normpath(_FIELD.sub(lambda field: values[field[0]], template).lstrip("/"))
        if target.split("/", 1)[0] == "..":
            raise UsageError(f"sidecars '{template}' leads out of the source for the image '{path}'")
        yield target


def filtered_metadata(root: Path, chosen: Sequence[str]) -> list[Filtered]:
    """Every metadata.jsonl and metadata.csv in or above the chosen images' folders, with only their rows.

    A row stays if the image that its `file_name` names, relative to the file's folder, is chosen; without that
    field, if all files in its `*_file_name`, `file_names` and `*_file_names` are. Rows keep their bytes and order; a
    header and a byte order mark stay. A file without such fields follows another convention and is left out, as is
    one without a row that stays. Raises InputError that names the file and the line at fault.
    """
    wanted = frozenset(chosen)
    filtered = []
    for folder in sorted({up for path in chosen for up in _upwards(dirname(path))}, key=os.fsencode):
        for name in METADATA:
            where = root / folder / name
            try:
                content = where.read_bytes() if where.is_file() else b""
            except OSError as error:
                raise InputError(f"cannot read '{where}': {error.strerror or error}") from None
            if kept := _kept_rows(content, where, folder, wanted):
                filtered.append(Filtered(join(folder, name), kept))
    return filtered


def _kept_rows(content: bytes, where: Path, folder: str, wanted: Collection[str]) -> bytes:
    """The rows of a metadata file that are about wanted images, after its header; empty if there are none."""
    body = content.removeprefix(BOM)
    head, kept = [content[: len(content) - len(body)]], []
    rows = _csv_rows(body, where) if where.suffix == ".csv" else _jsonl_rows(body, where)
    for place, (line, raw, row) in enumerate(rows):
        names = _file_names(row)
        if names is None and place == 0:
            return b""
        if names is None or not all(isinstance(name, str) for name in names):
            raise InputError(f"'{where}', line {line}: 'file_name' does not say which image this is about")
        if line == 0:
            head.append(raw)
        elif names and all(normpath(join(folder, name)) in wanted for name in names):
            kept.append(raw)
    return b"".join(head + kept) if kept else b""


def _file_names(row: dict[str, Any]) -> list[Any] | None:
    """What a row of metadata is about; None if it has no field for that."""
    if "file_name" in row:
        return [row["file_name"]]
    keys = [key for key in row if key == "file_names" or key.endswith(("_file_name", "_file_names"))]
    values = [row[key] if isinstance(row[key], list) else [row[key]] for key in keys if row[key] is not None]
    return [name for value in values for name in value] if keys else None


def _jsonl_rows(content: bytes, where: Path) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode(errors="surrogateescape"))  # names of files may not be UTF-8
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(f"'{where}', line {number}: not a JSON object")
        yield number, line, row


def _csv_rows(content: bytes, where: Path) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """The line that each record ends in, its bytes, and its fields by their columns; the header, as line 0."""
    lines = io.StringIO(content.decode(errors="surrogateescape"), newline="").readlines()
    reader = csv.reader(lines, strict=True)  # else an open quote would swallow the rest
    limit = csv.field_size_limit(len(content) + 1)  # 128 KiB is little for a mask written as text
    header: list[str] = []
    end = 0
    try:
        for row in filter(None, reader):
            start, end = end, reader.line_num
            raw = "".join(lines[start:end]).lstrip("\r\n").encode(errors="surrogateescape")
            number = end if header else 0
            header = header or row
            if len(row) != len(header):
                raise InputError(f"'{where}', line {end}: {len(row)} fields, but {len(header)} columns")
            yield number, raw, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"'{where}', line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(limit)


def filtered_coco(file: str | os.PathLike[str], chosen: Sequence[str], everything: Collection[str]) -> Filtered:
    """A COCO file with only the chosen images and their annotations; ids, order and other entries are kept.

    everything  the images of the source, which decide what a file name can mean

    A `file_name` means the image of that path; else the only one whose path ends in it, folder by folder; else the
    only one whose path ends in the longest tail of it that fits any, unless another name fits that one as well.
    Raises InputError for a file that is no such JSON, and if a chosen image and another one fit a `file_name`.
    """
    try:
        record = json.loads(read_whole(file))
        if not isinstance(record["images"], list):
            raise TypeError
        named = dict.fromkeys((image["id"], normpath(image["file_name"])) for image in record["images"])
        frozenset(entry["image_id"] for entry in record.get("annotations", ()))  # what is wrong fails here
    except OSError as error:
        raise InputError(f"cannot read '{file}': {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{file}' is not JSON: {error}") from None
    except (TypeError, LookupError):
        raise InputError(f"'{file}' is no COCO file: images need 'id', 'file_name', annotations 'image_id'") from None
    located = _located(dict.fromkeys(name for _, name in named), chosen, everything, str(file))
    ids = {key for key, name in named if name in located}
    for key, name in named:
        if key in ids and name not in located:  # nobody can tell whose the annotations are
            raise InputError(f"'{name}' and a chosen image have the same id {key!r} in '{file}'")
    record["images"] = [image for image in record["images"] if normpath(image["file_name"]) in located]
    if "annotations" in record:
        record["annotations"] = [entry for entry in record["annotations"] if entry["image_id"] in ids]
    unlisted = tuple(sorted({*chosen}.difference(located.values()), key=os.fsencode))
    return Filtered(basename(os.fspath(file)), json.dumps(record).encode(), unlisted)


def _tails(path: str) -> list[str]:
    """A path, and what is left of it as folders are dropped from its front."""
    return [path.split("/", dropped)[-1] for dropped in range(path.count("/") + 1)]


def _located(names: Collection[str], chosen: Sequence[str], everything: Collection[str], file: str) -> dict[str, str]:
    """The chosen image that each name means; names that mean none are left out."""
    wanted = {tail for name in names for tail in _tails(name)}
    fits: defaultdict[str, list[str]] = defaultdict(list)
    for path in everything:
        for tail in wanted.intersection(_tails(path)):
            fits[tail].append(path)
    images, selected = frozenset(everything), frozenset(chosen)
    claims: defaultdict[str, defaultdict[tuple[int, int], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        dropped, tail = next(((count, tail) for count, tail in enumerate(_tails(name)) if tail in fits), (0, name))
        found = [tail] if tail in images else sorted(fits.get(tail, ()), key=os.fsencode)
        hit = next((path for path in found if path in selected), None)
        if hit is not None and len(found) == 1:
            claims[hit][dropped, -len(tail)].append(name)  # the least of these is the closest fit
        elif hit is not None and not dropped:
            other = next(path for path in found if path != hit)
            raise InputError(f"'{name}' in '{file}' can be '{hit}' or '{other}'")
    closest = {path: ranks[min(ranks)] for path, ranks in claims.items()}
    return {own[0]: path for path, own in closest.items() if len(own) == 1}
