"""How many objects of each class an image has, and how large they are and where, from the label files beside it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from posixpath import splitext

import numpy as np

from imgsubset.errors import InputError, shortened
from imgsubset.options import Reading
from imgsubset.reading.boxes import Box, coco_boxes, voc_boxes, yolo_boxes
from imgsubset.reading.columns import Column
from imgsubset.reading.listing import Listing
from imgsubset.reading.sidecars import sidecars
from imgsubset.reading.yolo import class_list, number_of_keypoints

COCO = re.compile(r"(?:.*instances.*|_annotations\.coco)\.json", re.IGNORECASE)
PLACES = ("", "annotations")  # folders of a source where a COCO file is looked for
MOST_BYTES = 16 << 20  # of a label file: what is longer is some other file


def objects(listing: Listing, paths: Sequence[str], reading: Reading) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Numbers about the objects in images of a source, and what a user should know.

    Columns: of each class the number of objects, and whether there are any, where that is not the same; the number of
    all; and sums over an image's boxes of width, height and the centre's x and y, in parts of the image's. Sums add up
    over images, so that a subset that has the means of all images has their mean box too.

    Labels are those of `reading.coco`; or else the sidecars of the images (YOLO's lines, VOC's XML); or else the one
    COCO file in the source or its folder `annotations`. An image without a label file has no objects.

    Raises InputError if there are none, or if none of them says an object.
    """
    if reading.coco is None:
        beside = sidecars(listing, paths, listing.paths, reading.sidecars)
        labels = {path: [one for one in found if splitext(one)[1] in READERS] for path, found in beside.items()}
        if any(labels.values()):
            found, notes = _beside(listing, labels)
            return _columns(paths, found), notes
    file = reading.coco or _only_coco(listing)
    found, odd = coco_boxes(file, paths, listing.paths)
    notes = (f"{odd:,} annotations in '{file}' have no box and are left out",) if odd else ()
    return _columns(paths, found), (*notes, *_without(len(paths) - len(found), file))


def _without(count: int, file: str) -> tuple[str, ...]:
    return (f"{count:,} images are not in '{file}', and count as without objects",) if count else ()


def _only_coco(listing: Listing) -> str:
    """The COCO file of a source. Raises InputError if there is none, or more than one."""
    found = ((folder, name) for folder in PLACES for name in listing.names(folder))
    names = [f"{folder}/{name}".lstrip("/") for folder, name in found if COCO.fullmatch(name)]
    if len(names) == 1:
        return listing.locate(names[0])
    if names:
        raise InputError(f"match 'objects': which of '{names[0]}' and '{names[1]}'? --coco says so")
    raise InputError(
        f"match 'objects': no image of source '{listing.name}' has a label file (.txt of YOLO or .xml of VOC, beside "
        "it or in labels/ or Annotations/), and there is no COCO file; --coco and --sidecars say where labels are"
    )


def _beside(listing: Listing, labels: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[Box]], tuple[str, ...]]:
    """The objects by image, from the label files of each."""
    keypoints, names = number_of_keypoints(listing), class_list(listing)
    found: dict[str, list[Box]] = {}
    odd: list[str] = []
    good = 0
    for path, files in labels.items():
        found[path] = []
        for file in files:
            boxes, problems = READERS[splitext(file)[1]](listing, file, keypoints)
            found[path] += [box._replace(name=names.get(box.name, box.name)) for box in boxes]
            odd += problems
            good += len(boxes)
    if odd and not good:
        raise InputError(f"match 'objects': no label file says an object: {odd[0]}")
    notes = []
    if odd:
        notes.append(f"{len(odd):,} labels cannot be read and are left out: {odd[0]}")
    if bare := sum(not files for files in labels.values()):
        notes.append(f"{bare:,} of {len(labels):,} images have no label file, and count as without objects")
    return found, tuple(notes)


def _yolo(listing: Listing, file: str, keypoints: int | None) -> tuple[list[Box], list[str]]:
    try:
        boxes, lines = yolo_boxes(_content(listing, file).decode("utf-8-sig"), keypoints)
    except (OSError, ValueError) as error:
        return [], [f"'{shortened(file, 300)}': {_why(error)}"]
    return boxes, [f"'{shortened(file, 300)}', line {line}" for line in lines]


def _voc(listing: Listing, file: str, _: int | None) -> tuple[list[Box], list[str]]:
    try:
        return voc_boxes(_content(listing, file)), []
    except (OSError, ValueError) as error:
        return [], [f"'{shortened(file, 300)}': {_why(error)}"]


def _content(listing: Listing, file: str) -> bytes:
    with listing.open(file) as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES >> 20} MB are no label")
    return content


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return str(getattr(error, "strerror", None) or " ".join(str(error).split()))


READERS: dict[str, Callable[[Listing, str, int | None], tuple[list[Box], list[str]]]] = {".txt": _yolo, ".xml": _voc}
"""By suffix what reads a label file: the objects, and what could not be read."""


def _columns(paths: Sequence[str], found: Mapping[str, Sequence[Box]]) -> tuple[Column, ...]:
    boxes = [found.get(path, ()) for path in paths]
    counts = [Counter(box.name for box in some) for some in boxes]
    names = sorted({name for count in counts for name in count}, key=os.fsencode)
    if not names:
        raise InputError("match 'objects': the label files say no object at all")
    columns = [Column("number of objects", np.array([float(len(some)) for some in boxes]))]
    for name in names:
        numbers = np.array([float(count[name]) for count in counts])
        columns.append(Column(f"number of {name}", numbers))
        if numbers.max() > 1:
            columns.append(Column(f"any {name}", (numbers > 0).astype(np.float64)))
    for place, what in enumerate(("x", "y", "width", "height"), 1):
        sums = np.array([sum(float(box[place]) for box in some) for some in boxes])
        columns.append(Column(f"sum of box {what}", sums))
    return tuple(columns)
