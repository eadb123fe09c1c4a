"""Columns from label files: how many objects of each class an image has, how large they are, and where."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import dirname, splitext

import numpy as np

from imgsubset.annotations.boxes import NO_CLASS_NAMES, Box, parse_voc_boxes, parse_yolo_boxes, read_coco_boxes
from imgsubset.annotations.coco import find_coco_files, read_coco_file
from imgsubset.annotations.columns import Column
from imgsubset.annotations.label_files import find_sidecars
from imgsubset.annotations.yolo import read_class_names, read_keypoint_length
from imgsubset.errors import InputError, shorten
from imgsubset.options import Options
from imgsubset.sources.images import Listing

MAX_LABEL_BYTES = 16 << 20  # of a label file: what is longer is some other file
MAX_OBJECT_CLASSES = 1_000  # each is up to two columns of all images
OTHER_CLASSES = "other classes"


@dataclass
class _LabelContents:
    """What label files say, while they are read.

    boxes       the objects by image
    unreadable  labels that cannot be read, with reasons
    ambiguous   those that may as well be outlines
    notes       what else a user should know
    """

    boxes: dict[str, list[Box]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_object_columns(
    listing: Listing, paths: Sequence[str], options: Options
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Numbers about the objects in images of a source, and what a user should know.

    Columns: the number of objects; sums over an image's boxes of the centre's x and y, width and height, in parts of
    the image's; the classes that it has objects of; and the number of objects of each class of which any image has
    several, the most common class first. Sums add up over images, so that a subset that has the means of all images has
    their mean box too. An object without a box, or with one outside the image, adds nothing to them.

    Labels are those of `options.coco`; or else the sidecars of the images (YOLO's lines, VOC's XML); or else the COCO
    files in the source, in its folder `annotations` or beside images. An image without a label file has no objects.

    Raises InputError if there are none, or if none of them says an object.
    """
    found = _LabelContents()
    if options.coco is not None:
        found.boxes = read_coco_boxes(options.coco, paths, listing.paths)
        found.notes += _describe_missing(len(found.boxes), len(paths), f"entry in '{options.coco}'")
    else:
        beside = find_sidecars(listing, paths, listing.paths, options.sidecars)
        labels = {path: [one for one in some if _suffix(one) in LABEL_READERS] for path, some in beside.items()}
        if any(labels.values()):
            _read_label_files(found, listing, labels)
        if not any(found.boxes.values()) and (files := find_coco_files(listing, paths)):
            found = _read_coco(listing, paths, files)
        elif not any(labels.values()):
            raise InputError(_explain_no_labels(listing))
    if not any(found.boxes.values()):
        why = f"label file says an object: {found.unreadable[0]}" if found.unreadable else "label file says an object"
        raise InputError(f"match 'objects': no {why}")
    if found.unreadable:
        are = "label cannot be read and is left out", "labels cannot be read and are left out"
        found.notes.insert(0, f"{_format_count(len(found.unreadable), *are)}: {found.unreadable[0]}")
    if found.ambiguous:
        found.notes.append(
            f"{found.ambiguous[0]} and its like are taken for poses, not outlines, as no kpt_shape says which"
        )
    if nowhere := [path for path, boxes in found.boxes.items() for box in boxes if not box.has_box]:
        have = _format_count(len(nowhere), "object has", "objects have")
        found.notes.append(f"{have} no box inside the image, and count without it, as in '{nowhere[0]}'")
    columns, notes = _make_columns([found.boxes.get(path, []) for path in paths])
    return columns, (*found.notes, *notes)


def _format_count(count: int, one: str, several: str) -> str:
    return f"1 {one}" if count == 1 else f"{count:,} {several}"


def _describe_missing(known: int, total: int, what: str) -> list[str]:
    return [f"{total - known:,} of {total:,} images have no {what}, and count as without objects"] * (known < total)


def _suffix(path: str) -> str:
    return splitext(path)[1].lower()


# Label files beside images


def _read_label_files(found: _LabelContents, listing: Listing, labels: Mapping[str, Sequence[str]]) -> None:
    """Read the label files of each image; of those that say the same in several ways only one kind."""
    keypoints, names = None, NO_CLASS_NAMES
    try:
        keypoints, names = read_keypoint_length(listing), read_class_names(listing)
    except InputError as error:
        found.notes.append(f"{error}; classes of objects go by their numbers")
    by_kind: dict[str, dict[tuple[bool, str], list[Box]]] = {}
    for path, files in labels.items():
        kinds = by_kind.setdefault(path, {})
        for file in files:
            boxes = LABEL_READERS[_suffix(file)](found, listing, file, keypoints, names)
            if boxes:
                kind = dirname(file) == dirname(path), _suffix(file)
                kinds.setdefault(kind, []).extend(boxes)
    images = Counter(kind for kinds in by_kind.values() for kind in kinds)
    order = sorted(images, key=lambda kind: (-images[kind], kind))
    found.boxes = {path: next((kinds[one] for one in order if one in kinds), []) for path, kinds in by_kind.items()}
    if twice := [path for path, kinds in by_kind.items() if len(kinds) > 1]:
        have = _format_count(len(twice), "image has", "images have")
        both = _format_files(labels[twice[0]])
        found.notes.append(f"{have} objects in label files of several kinds, and one of these is read: {both}")
    found.notes += _describe_missing(sum(map(bool, labels.values())), len(labels), "label file")


def _format_files(paths: Sequence[str]) -> str:
    return " and ".join(f"'{shorten(path, 300)}'" for path in paths[:2])


def _read_yolo(
    found: _LabelContents, listing: Listing, file: str, keypoints: int | None, names: Mapping[str, str]
) -> list[Box]:
    name = shorten(file, 300)
    try:
        labels = parse_yolo_boxes(_read_content(listing, file).decode("utf-8-sig"), keypoints, names)
    except (OSError, ValueError) as error:
        found.unreadable.append(f"'{name}': {_format_error(error)}")
        return []
    found.unreadable += [f"'{name}', line {line}" for line in labels.unreadable]
    found.ambiguous += [f"'{name}', line {line}" for line in labels.ambiguous]
    return labels.boxes


def _read_voc(found: _LabelContents, listing: Listing, file: str, *_: object) -> list[Box]:
    try:
        return parse_voc_boxes(_read_content(listing, file))
    except (OSError, ValueError) as error:
        found.unreadable.append(f"'{shorten(file, 300)}': {_format_error(error)}")
        return []


def _read_content(listing: Listing, file: str) -> bytes:
    with listing.open(file) as opened:
        content = opened.read(MAX_LABEL_BYTES + 1)
    if len(content) > MAX_LABEL_BYTES:
        raise ValueError(f"more than {MAX_LABEL_BYTES >> 20} MB are no label")
    return content


def _format_error(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return str(getattr(error, "strerror", None) or " ".join(str(error).split()))


LABEL_READERS: dict[str, Callable[..., list[Box]]] = {".txt": _read_yolo, ".xml": _read_voc}
"""By suffix what reads a label file: the objects in it."""


# COCO files in the source


def _read_coco(listing: Listing, paths: Sequence[str], files: Sequence[str]) -> _LabelContents:
    """Read the COCO files in a source. Raises InputError for two about one image."""
    found, origin = _LabelContents(), dict[str, str]()
    for file in files:
        where, inside, content = read_coco_file(listing, file)
        for path, boxes in read_coco_boxes(where, {*paths}.intersection(inside), inside, content).items():
            if (first := origin.setdefault(path, file)) != file:
                raise InputError(
                    f"match 'objects': which of '{first}' and '{file}'? both name '{path}'; --coco says so"
                )
            found.boxes[path] = boxes
    found.notes += _describe_missing(len(found.boxes), len(paths), f"entry in {_format_files(files)}")
    return found


def _explain_no_labels(listing: Listing) -> str:
    """What was looked for in vain."""
    head, images, tail = os.path.join(os.path.abspath(listing.root), "").rpartition("/images/")  # noqa: PTH100, PTH118
    outside = images and os.path.isdir(os.path.join(head, "labels", tail))  # noqa: PTH112, PTH118
    hint = f"; '{head}' has images/ and labels/: give that" if outside else ""
    return (
        f"match 'objects': no image of source '{listing.name}' has a label file (.txt of YOLO or .xml of VOC, beside "
        "it or in labels/ or Annotations/), and there is no COCO file (instances*.json); --coco and --sidecars say "
        f"where labels are{hint}"
    )


# Objects to columns


def _make_columns(boxes: Sequence[Sequence[Box]]) -> tuple[tuple[Column, ...], list[str]]:
    """The columns of images with these objects, and what a user should know."""
    total = len(boxes)
    every = {box.name for some in boxes for box in some}
    short = {name: shorten(name.encode(errors="replace").decode(), 100) for name in every}
    sets = [{short[box.name] for box in some} for some in boxes]
    images = Counter(name for names in sets for name in names)
    order = sorted(images, key=lambda name: (-images[name], name))
    place = {name: min(rank, MAX_OBJECT_CLASSES) for rank, name in enumerate(order)}
    order[MAX_OBJECT_CLASSES:] = [OTHER_CLASSES] * (len(order) > MAX_OBJECT_CLASSES)
    rows = np.repeat(np.arange(total), [len(some) for some in boxes])
    kinds = np.array([place[short[box.name]] for some in boxes for box in some])
    numbers = np.array([box[1:] for some in boxes for box in some])
    columns = [Column("number of objects", np.bincount(rows, minlength=total).astype(np.float64))]
    for axis, what in enumerate(("x", "y", "width", "height")):
        columns.append(Column(f"sum of box {what}", np.bincount(rows, numbers[:, axis], total)))
    texts = tuple(tuple(order[rank] for rank in sorted({place[name] for name in names})) for names in sets)
    columns.append(Column("object", texts=texts))
    by_class = np.argsort(kinds, kind="stable")
    for kind, some in enumerate(np.split(rows[by_class], np.cumsum(np.bincount(kinds, minlength=len(order)))[:-1])):
        counts = np.bincount(some, minlength=total).astype(np.float64)
        if counts.max() > 1:  # else they are what the column of classes says
            columns.append(Column(f"number of {order[kind]}", counts))
    pooled = len(images) - MAX_OBJECT_CLASSES
    notes = [f"of {len(images):,} classes of objects the {pooled:,} of fewest images are pooled"] if pooled > 0 else []
    return tuple(columns), notes
