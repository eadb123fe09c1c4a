"""Label files to the objects in an image: a class and a box each, as fractions of the image's width and height."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

from imgsubset.annotations.coco import match_coco_images
from imgsubset.errors import InputError

KEYPOINT_VISIBILITIES = (0.0, 1.0, 2.0)  # what the third number of a keypoint can be
BOX_TOLERANCE = 0.01  # how far numbers of YOLO may lie outside the image: its trainers allow as much, for rounding
NO_CLASS_NAMES: Mapping[str, str] = {}
MAX_CLASS_NUMBER = 1_000_000  # a larger number at the start of a line is none of a class


class Box(NamedTuple):
    """An object: its class, the centre of its box, and the width and height of that, all in parts of the image's; of an
    object whose box is not known they are 0."""

    name: str
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def has_box(self) -> bool:
        """Whether its box is known."""
        return self[1:] != (0, 0, 0, 0)


class YoloLabels(NamedTuple):
    """What the lines of a label file of YOLO's trainers say.

    boxes       the objects
    unreadable  the lines, counted from 1, that say none
    ambiguous   those that may as well be outlines
    """

    boxes: list[Box]
    unreadable: list[int]
    ambiguous: list[int]


def parse_yolo_boxes(text: str, keypoints: int | None = None, names: Mapping[str, str] = NO_CLASS_NAMES) -> YoloLabels:
    """The objects in a label file of YOLO's trainers.

    keypoints  how many numbers the keypoints of an object are, if the data set says so
    names      of the classes, by their numbers

    A line is a class and: a box, x y width height, perhaps with a confidence; the corners of a turned box; the points
    of an outline; or a box and keypoints. These are told from an outline by how many numbers they are; if the data set
    does not say that, by the third number of each, which tells whether it is seen. A box outside the image is none.
    """
    found = YoloLabels([], [], [])
    for line, words in enumerate(map(str.split, text.splitlines()), 1):
        if not words:
            continue
        try:
            kind, *numbers = map(float, words)
        except ValueError:
            found.unreadable.append(line)
            continue
        box, sure = _parse_yolo_box(numbers, keypoints)
        if box is None or not (0 <= kind < MAX_CLASS_NUMBER and kind.is_integer()):
            found.unreadable.append(line)
            continue
        if not sure:
            found.ambiguous.append(line)
        name = str(int(kind))
        found.boxes.append(Box(names.get(name, name), *box))
    return found


def _parse_yolo_box(numbers: list[float], keypoints: int | None) -> tuple[tuple[float, ...] | None, bool]:
    """The box in the numbers of a line, None if there is none; and whether they can mean nothing else."""
    count = len(numbers)
    seen = count > 4 and (count - 4) % 3 == 0 and all(number in KEYPOINT_VISIBILITIES for number in numbers[6::3])
    outline, sure = count >= 6 and count % 2 == 0, True
    if count in (4, 5) or (count - 4 == keypoints if keypoints is not None else seen):
        sure = keypoints is not None or not (seen and outline)
        box = tuple(numbers[:4])
    elif outline and all(map(math.isfinite, numbers)):
        box = _bounding_box(numbers[::2], numbers[1::2])
    else:
        return None, sure
    inside = (
        min(box) >= -BOX_TOLERANCE
        and max(box) <= 1 + BOX_TOLERANCE
        and min(box[2:]) >= 0
        and all(map(math.isfinite, box))
    )
    return box if inside else None, sure


def _bounding_box(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, ...]:
    """Centre, width and height of the upright box around some points."""
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def box_from_corners(name: str, xs: Sequence[float], ys: Sequence[float]) -> Box:
    """An object whose box has these corners, cut to the image; without a box if nothing is left of it."""
    corners = (*xs, *ys)
    if not all(map(math.isfinite, corners)):
        return Box(name)
    x, y, width, height = _bounding_box(*([min(max(one, 0.0), 1.0) for one in some] for some in (xs, ys)))
    return Box(name, x, y, width, height) if width > 0 and height > 0 else Box(name)


def parse_voc_boxes(content: bytes) -> list[Box]:
    """The objects in a label file of Pascal VOC, difficult ones too. Raises ValueError for what is none."""
    plain = content.replace(b"\0", b"")  # of UTF-16
    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:  # no label has them, and they can grow without bounds
        raise ValueError("a document type is not read")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError, RecursionError) as error:
        raise ValueError(f"not XML: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"its root is '{root.tag}', not 'annotation'")
    width, height = (_as_finite(root.findtext(f"size/{side}")) for side in ("width", "height"))
    found = []
    for element in root.iter("object"):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise ValueError("an object without a name")
        xs, ys = ([_as_finite(element.findtext(f"bndbox/{axis}{end}")) for end in ("min", "max")] for axis in "xy")
        known = width > 0 and height > 0
        found.append(box_from_corners(name, [x / width for x in xs], [y / height for y in ys]) if known else Box(name))
    return found


def _as_finite(value: Any) -> float:
    """A finite number, NaN for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def read_coco_boxes(
    file: str | os.PathLike[str], wanted: Collection[str], everything: Collection[str], content: bytes | None = None
) -> dict[str, list[Box]]:
    """The objects in a COCO file by the path of their image, of wanted images that it names.

    everything  the images of the source, which decide what a file name can mean
    content     of the file, if it is read already

    Raises InputError for a file that is no such JSON.
    """
    record, paths = match_coco_images(file, wanted, everything, content)
    found: defaultdict[str, list[Box]] = defaultdict(list, {path: [] for path in paths.values()})
    try:
        names = {one["id"]: str(one["name"]) for one in record.get("categories", ())}
        sizes = {one["id"]: (_as_finite(one.get("width")), _as_finite(one.get("height"))) for one in record["images"]}
        for one in record.get("annotations", ()):
            if (path := paths.get(one["image_id"])) is not None:
                category = one["category_id"]
                name = names.get(category, str(category))
                found[path].append(_parse_coco_box(name, one.get("bbox"), sizes[one["image_id"]]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"'{os.fspath(file)}' is no COCO file of objects: {type(error).__name__} {error}; categories need 'id' and "
            "'name', annotations 'image_id' and 'category_id'"
        ) from None
    return dict(found)


def _parse_coco_box(name: str, box: Any, size: tuple[float, float]) -> Box:
    if not isinstance(box, list) or len(box) != 4 or not min(size) > 0:
        return Box(name)
    left, top, width, height = map(_as_finite, box)
    if not (width >= 0 and height >= 0):
        return Box(name)
    return box_from_corners(name, [left / size[0], (left + width) / size[0]], [top / size[1], (top + height) / size[1]])
