"""Label files to the objects in an image: each a class and a box, in parts of the image's width and height."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from imgsubset.errors import InputError
from imgsubset.reading.coco import named_images

VISIBLE = (0.0, 1.0, 2.0)  # what the third number of a keypoint can be


class Box(NamedTuple):
    """An object: its class, the centre of its box, and the width and height of that, all in parts of the image's."""

    name: str
    x: float
    y: float
    width: float
    height: float


def of_corners(name: str, xs: Sequence[float], ys: Sequence[float]) -> Box:
    """The upright box around some points."""
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return Box(name, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def yolo_boxes(text: str, keypoints: int | None = None) -> tuple[list[Box], list[int]]:
    """The objects in a label file of YOLO's trainers, and the lines, counted from 1, that say none.

    keypoints  how many numbers the keypoints of an object are, if the data set says so

    A line is a class and: a box, x y width height, perhaps with a confidence; the corners of a turned box; the points
    of an outline; or a box and keypoints, whose third numbers tell whether they are seen.
    """
    found, odd = [], []
    for line, words in enumerate(map(str.split, text.splitlines()), 1):
        if not words:
            continue
        try:
            name, numbers = str(int(float(words[0]))), [float(word) for word in words[1:]]
        except (ValueError, OverflowError):
            odd.append(line)
            continue
        box = _yolo_box(name, numbers, keypoints) if all(map(math.isfinite, numbers)) else None
        if box is None:
            odd.append(line)
        else:
            found.append(box)
    return found, odd


def _yolo_box(name: str, numbers: list[float], keypoints: int | None) -> Box | None:
    count = len(numbers)
    seen = count > 4 and (count - 4) % 3 == 0 and all(number in VISIBLE for number in numbers[6::3])
    if count in (4, 5) or (count - 4 == keypoints if keypoints is not None else seen):
        return Box(name, *numbers[:4])
    if count >= 6 and count % 2 == 0:
        return of_corners(name, numbers[::2], numbers[1::2])
    return None


def voc_boxes(content: bytes) -> list[Box]:
    """The objects in a label file of Pascal VOC, difficult ones too. Raises ValueError for what is none."""
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # no label has them, and they can grow without bounds
        raise ValueError("a document type is not read")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError, RecursionError) as error:
        raise ValueError(f"not XML: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"its root is '{root.tag}', not 'annotation'")
    width, height = (_number(root, f"size/{side}") for side in ("width", "height"))
    found = []
    for element in root.iter("object"):
        name = (element.findtext("name") or "").strip()
        xs, ys = ([_number(element, f"bndbox/{axis}{end}") for end in ("min", "max")] for axis in "xy")
        if not name:
            raise ValueError("an object without a name")
        found.append(of_corners(name, [x / width for x in xs], [y / height for y in ys]))
    return found


def _number(element: ElementTree.Element, path: str) -> float:
    value = float(element.findtext(path) or "nan")
    if not math.isfinite(value) or (path.startswith("size") and value <= 0):
        raise ValueError(f"no number in {path}")
    return value


def coco_boxes(
    file: str | os.PathLike[str], wanted: Collection[str], everything: Collection[str]
) -> tuple[dict[str, list[Box]], int]:
    """The objects in a COCO file by the path of their image, of wanted images that it names, and how many annotations
    have no box.

    everything  the images of the source, which decide what a file name can mean

    Raises InputError for a file that is no such JSON.
    """
    record, paths = named_images(file, wanted, everything)
    found: defaultdict[str, list[Box]] = defaultdict(list, {path: [] for path in paths.values()})
    odd = 0
    try:
        names = {one["id"]: str(one["name"]) for one in record.get("categories", ())}
        sizes = {one["id"]: (float(one["width"]), float(one["height"])) for one in record["images"]}
        for one in record.get("annotations", ()):
            if (path := paths.get(one["image_id"])) is None:
                continue
            try:
                left, top, width, height = map(float, one["bbox"])
                across, down = sizes[one["image_id"]]
                numbers = ((left + width / 2) / across, (top + height / 2) / down, width / across, height / down)
            except (KeyError, TypeError, ValueError, ZeroDivisionError):
                odd += 1
                continue
            if all(map(math.isfinite, numbers)):
                category = one["category_id"]
                found[path].append(Box(names.get(category, str(category)), *numbers))
            else:
                odd += 1
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"'{os.fspath(file)}' is no COCO file of objects: {type(error).__name__} {error}; images need 'width' and "
            "'height', annotations 'bbox' and 'category_id'"
        ) from None
    return dict(found), odd
