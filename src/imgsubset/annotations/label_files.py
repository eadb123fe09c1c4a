"""Label files that travel with images: files beside them, and Hugging Face's metadata.jsonl and metadata.csv.

A sidecar of `a.jpg` is a file with the very same stem (`a.txt`), or with the full name and one more suffix
(`a.jpg.json`), in the same folder or in the sibling tree of the YOLO and VOC conventions: the last folder named
`images` becomes `labels`, and `JPEGImages` becomes `Annotations`, `SegmentationClass` and `SegmentationObject`. Names
are compared byte by byte, so `image_130` never takes what belongs to `image_1300`. All of it lies in the source.
This module only reads. Paths are relative to the source, with `/`.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import threading
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from posixpath import basename, dirname, join, normpath, split, splitext
from typing import Any

from imgsubset.errors import InputError, UsageError
from imgsubset.sources.images import IMAGE_SUFFIXES, Listing

LABEL_FOLDERS = {"images": ("labels",), "JPEGImages": ("Annotations", "SegmentationClass", "SegmentationObject")}
METADATA_FILE_NAMES = ("metadata.jsonl", "metadata.csv")  # of Hugging Face's imagefolder; never sidecars, but filtered
TEMPLATE_FIELDS = ("{dir}", "{stem}", "{name}")
_FIELD_PATTERN = re.compile(r"\{.*?\}")


def find_masks(paths: Sequence[str], mode: str = "auto") -> dict[str, str]:
    """The images of a source that are labels of others, and so never candidates; each with the folder that says so.

    They lie in a tree of labels beside the tree of images, as in SIBLINGS; or a template leads to them from another
    image, if `mode` is a pattern. Raises UsageError for a pattern that `sidecars` would refuse.
    """
    folders = {dirname(path) for path in paths}
    trees = {tree for folder in folders for tree in list_ancestors(folder)}
    labels = {join(dirname(tree), label) for tree in trees for label in LABEL_FOLDERS.get(basename(tree), ())}
    inside = {folder: tree for folder in folders for tree in list_ancestors(folder) if tree in labels}
    found = {path: inside[dirname(path)] for path in paths if dirname(path) in inside} if inside else {}
    if mode not in ("auto", "none"):
        templates, images = _parse_templates(mode), frozenset(paths)
        for path in paths:
            for target in _fill_templates(templates, path):
                if target in images and target != path:
                    found[target] = dirname(target) or "."
    return found


def find_sidecars(
    source: Listing, chosen: Sequence[str], everything: Collection[str], mode: str = "auto"
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
    templates = () if mode == "auto" else _parse_templates(mode)
    stem_of = source.members.stem if source.members is not None else _stem
    wanted = {path: _list_locations(path, templates, stem_of) for path in chosen}
    keys = {place for places in wanted.values() for place in places}
    # Unless a template says so, a picture beside a picture is no label, even if it is no candidate.
    beside = frozenset() if templates else {dirname(path) for path in chosen}
    named: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for folder in {folder for folder, _ in keys}:
        for name in _list_names(source, folder):
            stem, suffix = stem_of(name), splitext(name)[1]
            key = folder, name if templates else stem
            if (
                key not in keys
                or name in METADATA_FILE_NAMES
                or (folder in beside and suffix.lower() in IMAGE_SUFFIXES)
            ):
                continue
            if source.has(join(folder, name)):
                named[key].append(join(folder, name))
    images = frozenset(everything)
    found = {path: {label for place in places for label in named.get(place, ())} for path, places in wanted.items()}
    return {path: tuple(sorted(labels - images, key=os.fsencode)) for path, labels in found.items()}


def is_outside_source(source: Listing, label: str, image: str) -> bool:
    """Whether a label file of an image is a link out of the source, or lies in a folder that is one.

    A link to a folder with images makes that folder part of the source, with all that lies in it. An archive has none.
    """
    if source.members is not None:
        return False
    folders = (part for part in list_ancestors(dirname(label)) if part in list_ancestors(dirname(image)))
    homes = (os.path.realpath(source.locate(folder)) for folder in {"", max(folders, key=len)})
    real = os.path.realpath(source.locate(label))
    return not any(os.path.commonpath([home, real]) == home for home in homes)


def list_ancestors(folder: str) -> list[str]:
    """The source itself, and the folders that lead to one in it."""
    return ["", *(folder.rsplit("/", dropped)[0] for dropped in range(folder.count("/") + 1))]


def _stem(name: str) -> str:
    return splitext(name)[0]


def _list_locations(path: str, templates: Sequence[str], stem_of: Callable[[str], str]) -> list[tuple[str, str]]:
    """Folders to look in for an image's sidecars, each with a stem to look for; with templates, with a name."""
    if templates:
        return [split(target) for target in _fill_templates(templates, path)]
    folder, name = split(path)
    folders, parts = [folder], folder.split("/")
    for images, labels in LABEL_FOLDERS.items():
        if images in parts:
            last = len(parts) - 1 - parts[::-1].index(images)
            folders += ["/".join([*parts[:last], label, *parts[last + 1 :]]) for label in labels]
    return [(place, stem) for place in folders for stem in (stem_of(name), name)]


def _list_names(source: Listing, folder: str) -> list[str]:
    try:
        return source.names(folder)
    except OSError as error:  # labels must not be lost without a word
        where = source.locate(folder)
        raise InputError(f"cannot look for labels in '{where}': {error.strerror or error}") from None


def _parse_templates(pattern: str) -> tuple[str, ...]:
    """The templates of a pattern, checked."""
    templates = tuple(part.strip() for part in pattern.split(","))
    fields = _FIELD_PATTERN.findall(pattern)
    if unknown := [field for field in fields if field not in TEMPLATE_FIELDS]:
        raise UsageError(f"unknown field '{unknown[0]}' in sidecars '{pattern}'; known: {', '.join(TEMPLATE_FIELDS)}")
    for template in templates:
        if not template or template.startswith("/") or "*" in template or "?" in template:
            raise UsageError(f"sidecars '{template}' is no path in the source; write one such as 'labels/{{stem}}.txt'")
    if not fields:  # a misspelt `auto`, for one
        raise UsageError(f"sidecars '{pattern}' is neither auto, none nor paths such as 'labels/{{stem}}.txt'")
    return templates


def _fill_templates(templates: Sequence[str], path: str) -> Iterator[str]:
    """What templates stand for, for one image."""
    folder, name = split(path)
    values = dict(zip(TEMPLATE_FIELDS, (folder, splitext(name)[0], name), strict=True))
    for template in templates:
        # For an image in no folder, `{dir}/` leaves a slash in front.
        target = normpath(_FIELD_PATTERN.sub(lambda field: values[field[0]], template).lstrip("/"))
        if target.split("/", 1)[0] == "..":
            raise UsageError(f"sidecars '{template}' leads out of the source for the image '{path}'")
        yield target


def list_metadata_paths(chosen: Sequence[str]) -> list[str]:
    """Where metadata about chosen images can be: in their folders and above them."""
    folders = {up for path in chosen for up in list_ancestors(dirname(path))}
    return [join(folder, name) for folder in sorted(folders, key=os.fsencode) for name in METADATA_FILE_NAMES]


def filter_metadata(source: Listing, chosen: Sequence[str], but: Collection[str] = ()) -> dict[str, bytes]:
    """Every metadata.jsonl and metadata.csv in or above the chosen images' folders, with only their rows, by path.

    A row stays if the image that its `file_name` names, relative to the file's folder, is chosen; without that
    field, if all files in its `*_file_name`, `file_names` and `*_file_names` are. Rows keep their bytes and order; a
    header and a byte order mark stay. A file without such fields follows another convention and is left out, as is
    one without a row that stays, and those in `but`. Raises InputError that names the file and the line at fault.
    """
    wanted = frozenset(chosen)
    filtered = {}
    for path in list_metadata_paths(chosen):
        if path in but:
            continue
        try:
            with source.open(path) as file:
                content = file.read()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):  # the latter: it is no regular file
                continue
            raise InputError(f"cannot read '{source.locate(path)}': {error.strerror or error}") from None
        if kept := _filter_rows(content, source.locate(path), dirname(path), wanted):
            filtered[path] = kept
    return filtered


def read_metadata_images(path: str, content: bytes) -> set[str]:
    """The images that the rows of a metadata file are about."""
    body = content.removeprefix(BOM_UTF8)
    rows = _iter_csv_rows(body, path) if path.endswith(".csv") else _iter_jsonl_rows(body, path)
    return {normpath(join(dirname(path), name)) for line, _, row in rows if line for name in _get_file_names(row) or ()}


def _filter_rows(content: bytes, where: str, folder: str, wanted: Collection[str]) -> bytes:
    """The rows of a metadata file that are about wanted images, after its header; empty if there are none."""
    body = content.removeprefix(BOM_UTF8)
    head, kept = [content[: len(content) - len(body)]], []
    rows = _iter_csv_rows(body, where) if where.endswith(".csv") else _iter_jsonl_rows(body, where)
    for place, (line, raw, row) in enumerate(rows):
        names = _get_file_names(row)
        if names is None and place == 0:
            return b""
        if names is None or not all(isinstance(name, str) for name in names):
            raise InputError(f"'{where}', line {line}: 'file_name' does not say which image this is about")
        if line == 0:
            head.append(raw)
        elif names and all(normpath(join(folder, name)) in wanted for name in names):
            kept.append(raw)
    return b"".join(head + kept) if kept else b""


def _get_file_names(row: dict[str, Any]) -> list[Any] | None:
    """What a row of metadata is about; None if it has no field for that."""
    if "file_name" in row:
        return [row["file_name"]]
    keys = [key for key in row if key == "file_names" or key.endswith(("_file_name", "_file_names"))]
    values = [row[key] if isinstance(row[key], list) else [row[key]] for key in keys if row[key] is not None]
    return [name for value in values for name in value] if keys else None


def _iter_jsonl_rows(content: bytes, where: str) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
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


def _iter_csv_rows(content: bytes, where: str) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """The line that each record ends in, its bytes, and its fields by their columns; the header, as line 0."""
    lines = io.StringIO(content.decode(errors="surrogateescape"), newline="").readlines()
    rows, problem = _parse_csv(lines, len(content) + 1)
    header: list[str] = []
    end = 0
    for row, last in rows:
        start, end = end, last
        raw = "".join(lines[start:end]).lstrip("\r\n").encode(errors="surrogateescape")
        number = end if header else 0
        header = header or row
        if len(row) != len(header):
            raise InputError(f"'{where}', line {end}: {len(row)} fields, but {len(header)} columns")
        yield number, raw, dict(zip(header, row, strict=True))
    if problem:
        raise InputError(f"'{where}', {problem}")


_field_limit_lock = threading.Lock()


def _parse_csv(lines: list[str], largest: int) -> tuple[list[tuple[list[str], int]], str]:
    """Rows of fields of at most this size, with the lines that they end in, and what ends them early, if anything."""
    reader = csv.reader(lines, strict=True)  # else an open quote would swallow the rest
    rows: list[tuple[list[str], int]] = []
    with _field_limit_lock:  # a setting of the whole process: 128 KiB, which is little for a mask written as text
        before = csv.field_size_limit(largest)
        try:
            rows.extend((row, reader.line_num) for row in filter(None, reader))
        except csv.Error as error:
            return rows, f"line {reader.line_num}: {error}"
        finally:
            csv.field_size_limit(before)
    return rows, ""
