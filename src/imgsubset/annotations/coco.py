"""COCO files: the part that is about the selected images.

Paths are relative to the source, with `/`.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from posixpath import basename, dirname, join, normpath
from typing import Any

from imgsubset.annotations.label_files import list_ancestors
from imgsubset.errors import InputError
from imgsubset.files import read_input_file
from imgsubset.sources.images import Listing

COCO_FILE_PATTERN = re.compile(r"(?:.*instances.*|_annotations\.coco)\.json", re.IGNORECASE)
COCO_FOLDER = "annotations"  # of a COCO set; a file in any other folder is about the images in that


def filter_coco(
    file: str | os.PathLike[str], chosen: Collection[str], everything: Collection[str], content: bytes | None = None
) -> tuple[bytes, frozenset[str]]:
    """A COCO file with only the chosen images and their annotations, and which of them it names.

    Ids, order and other entries are kept. See `named_images`, which says what it raises too.
    """
    record, ids = match_coco_images(file, chosen, everything, content)
    record["images"] = [image for image in record["images"] if image["id"] in ids]
    if "annotations" in record:
        record["annotations"] = [entry for entry in record["annotations"] if entry["image_id"] in ids]
    return json.dumps(record).encode(), frozenset(ids.values())


def match_coco_images(
    file: str | os.PathLike[str], chosen: Collection[str], everything: Collection[str], content: bytes | None = None
) -> tuple[dict[str, Any], dict[Any, str]]:
    """What a COCO file holds, and by their ids in it the paths of the chosen images.

    everything  the images of the source, which decide what a file name can mean
    content     of the file, if it is read already

    A `file_name` means the image of that path; else the only one whose path ends in it, folder by folder; else the
    only one whose path ends in the longest tail of it that fits any, unless another name fits that one as well.
    Raises InputError for a file that is no such JSON, and if a chosen image and another one fit a `file_name`.
    """
    try:
        record = json.loads(read_input_file(file, f"'{file}'") if content is None else content)
        if not isinstance(record["images"], list):
            raise TypeError
        named = dict.fromkeys((image["id"], normpath(image["file_name"])) for image in record["images"])
        frozenset(entry["image_id"] for entry in record.get("annotations", ()))  # what is wrong fails here
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{file}' is not JSON: {error}") from None
    except (TypeError, LookupError):
        raise InputError(f"'{file}' is no COCO file: images need 'id', 'file_name', annotations 'image_id'") from None
    kept = _match_file_names(
        dict.fromkeys(name for _, name in named), frozenset(chosen), frozenset(everything), str(file)
    )
    ids = {key: kept[name] for key, name in named if name in kept}
    for key, name in named:
        if key in ids and name not in kept:  # nobody can tell whose the annotations are
            raise InputError(f"'{name}' and a chosen image have the same id {key!r} in '{file}'")
    return record, ids


def _list_path_tails(path: str, longest: int) -> list[tuple[int, str]]:
    """A path, and what is left of it as folders are dropped from its front, with how many; none of more characters."""
    starts = [0, *(place + 1 for place, character in enumerate(path) if character == "/")]
    return [(dropped, path[at:]) for dropped, at in enumerate(starts) if len(path) - at <= longest]


def _match_file_names(
    names: Collection[str], chosen: Collection[str], everything: Collection[str], file: str
) -> dict[str, str]:
    """The names that mean a chosen image, with its path."""
    longest = max(map(len, everything), default=0)  # no longer tail fits, and all of a long path would fill the memory
    wanted = {tail for name in names for _, tail in _list_path_tails(name, longest)}
    fits: defaultdict[str, list[str]] = defaultdict(list)
    for path in everything:
        for tail in wanted.intersection(tail for _, tail in _list_path_tails(path, longest)):
            fits[tail].append(path)
    claims: defaultdict[str, defaultdict[tuple[int, int], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        dropped, tail = next((one for one in _list_path_tails(name, longest) if one[1] in fits), (0, name))
        found = [tail] if tail in everything else sorted(fits.get(tail, ()), key=os.fsencode)
        hit = next((path for path in found if path in chosen), None)
        if hit is not None and len(found) == 1:
            claims[hit][dropped, -len(tail)].append(name)  # the least of these is the closest fit
        elif hit is not None and not dropped:
            other = next(path for path in found if path != hit)
            raise InputError(f"'{name}' in '{file}' can be '{hit}' or '{other}'")
    closest = {hit: ranks[min(ranks)] for hit, ranks in claims.items()}
    return {own[0]: hit for hit, own in closest.items() if len(own) == 1}


def find_coco_files(listing: Listing, paths: Sequence[str]) -> list[str]:
    """The COCO files beside or above images of a source, and in folders named so there."""
    above = {up for path in paths for up in list_ancestors(dirname(path))}
    folders = sorted(above | {join(up, COCO_FOLDER) for up in above}, key=os.fsencode)
    try:
        return [
            join(one, name)
            for one in folders
            for name in sorted(listing.names(one))
            if COCO_FILE_PATTERN.fullmatch(name)
        ]
    except OSError as error:
        raise InputError(f"cannot look for labels in '{listing.name}': {error.strerror or error}") from None


def read_coco_file(listing: Listing, file: str) -> tuple[str, list[str], bytes]:
    """Read a COCO file in a source: where it is, the images that it can be about, and its content.

    Raises InputError.
    """
    folder, where = dirname(file), listing.locate(file)
    home = dirname(folder) if basename(folder) == COCO_FOLDER else folder
    inside = [path for path in listing.paths if not home or path.startswith(f"{home}/")]
    try:
        with listing.open(file) as opened:
            return where, inside, opened.read()
    except OSError as error:
        raise InputError(f"cannot read '{where}': {error.strerror or error}") from None
