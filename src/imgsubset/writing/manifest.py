"""The manifest of a subset in a folder or a tar archive: its name, its format, and reading it back."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from imgsubset.errors import InputError
from imgsubset.files import Stamps
from imgsubset.options import LOSS, Options
from imgsubset.results.as_json import MANIFEST_FORMAT
from imgsubset.sources.archive_members import Members, index_members
from imgsubset.sources.containers import detect_container_kind, iter_members
from imgsubset.sources.images import Listing, RejectedFile

TAR_SUFFIX = ".tar"


def has_tar_name(destination: str | os.PathLike[str]) -> bool:
    """Whether a destination is to be a tar archive: it is so called, and no folder."""
    return os.fspath(destination).lower().endswith(TAR_SUFFIX) and not os.path.isdir(destination)  # noqa: PTH112 (never raises)


def is_tar(place: str | os.PathLike[str]) -> bool:
    """Whether a tar archive is there."""
    with contextlib.suppress(OSError, ValueError):
        return detect_container_kind(place) == TAR_SUFFIX
    return False


def open_exported_files(place: str | os.PathLike[str]) -> Listing:
    """All files in a folder or a tar archive, hidden ones too, to be asked for by their paths, images or not.

    `rejected` has what is in the archive that is no file, and what is wrong with it. Raises OSError, and InputError for
    an archive that cannot be read.
    """
    name, root = str(place), Path(place)
    if not is_tar(place):
        return Listing(name, root, (), Stamps())
    found, notes = index_members(iter_members(place, TAR_SUFFIX))
    odd = [(path, why) for path, why in found.items() if isinstance(why, str)] + notes
    members = Members({path: one for path, one in found.items() if not isinstance(one, str)})
    rejected = tuple(RejectedFile(path or name, why) for path, why in odd)
    return Listing(name, root, (), Stamps(), rejected, members=members)


MANIFEST_NAME = "manifest.json"
NAME_IN_TAR = "imgsubset-manifest"  # without a dot, for readers of a WebDataset take no such member for a sample
# What a manifest of format 1 does not say: it speaks of one network, whose search saw the number that it records.
FORMAT_1_DEFAULTS = {
    "features": {"random-cnn": 1.0},
    "networks": 1,
    "stride": [2],
    "activation": "relu",
    "pool": [],
    "taps": "last",
}
FORMAT_1_DEFAULTS |= {"weights_file": None, "held_out": False, "match": {}, "match_columns": []}


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    path     of the manifest; of one in an archive, as if that were a folder
    record   all of it, as it was written
    hashes   SHA-256 of each chosen file, by its path relative to the source and to the manifest's folder alike; None
             where nothing was copied
    extras   SHA-256 of each other file that was written beside the copies, by its path
    options  those that decide what a loss is; where and how to work is not a manifest's to say
    """

    path: Path
    record: dict[str, Any]
    hashes: dict[str, str | None]
    extras: dict[str, str]
    options: Options


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read a manifest, or the one in a folder or a tar archive.

    Raises InputError if there is none or it is not one that this version understands.
    """
    file = Path(path)
    try:
        there = open_exported_files(file)
        packed = there.members is not None
        if packed or os.path.isdir(file):  # noqa: PTH112 (Path raises for names too long)
            file = file / name_in(there)
        if not packed and not stat.S_ISREG(file.stat().st_mode):
            raise InputError(f"manifest '{file}' is not a regular file")
        record = json.loads(there.open(file.name).read() if packed else file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read manifest '{file}': {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"manifest '{file}' is not JSON: {error}") from None
    try:
        if record["format"] not in range(1, MANIFEST_FORMAT + 1):
            raise InputError(
                f"manifest '{file}' has format {record['format']}; this version reads formats 1 to {MANIFEST_FORMAT}"
            )
        hashes = {check_relative_path(entry["path"]): entry.get("sha256") for entry in record["files"]}
        extras = {check_relative_path(entry["path"]): str(entry["sha256"]) for entry in record["extras"]}
        return Manifest(file, record, hashes, extras, _parse_options(record))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"manifest '{file}' is not one of imgsubset's: {type(error).__name__} {error}") from None


def name_in(there: Listing) -> str:
    """What the manifest in a folder or an archive is called; archives of earlier versions have it as a folder has."""
    members = there.members
    return (
        MANIFEST_NAME if members is None or (MANIFEST_NAME in members and NAME_IN_TAR not in members) else NAME_IN_TAR
    )


def check_relative_path(path: object) -> str:
    """A path that leads to a file in the manifest's folder, and not out of it."""
    if (
        not isinstance(path, str)
        or "\0" in path
        or not Path(path).parts
        or Path(path).is_absolute()
        or ".." in Path(path).parts
    ):
        raise ValueError(f"lists {path!r}, which is no path in a folder")
    os.fsencode(path)
    return path


def _parse_options(record: dict[str, Any]) -> Options:
    """The recorded options that decide what a loss is, of the types that they have by default."""
    recorded = dict(record["options"])
    if record["format"] == 1:
        # One seed was the search's and the network's, if there was a network.
        seed = 0 if record["request"]["embeddings"] else recorded["seed"]
        recorded |= FORMAT_1_DEFAULTS | {"feature_seed": seed, "kernel_size": [recorded["kernel_size"]]}
    recorded |= _parse_table_options(record)
    recorded["match"] = with_image_stats_weight(recorded.get("match", {}))
    classes = _parse_class_options(record, recorded)
    defaults = Options().affecting(LOSS)
    values = {name: recorded[name] for name in defaults if name in recorded}  # of newer options, the defaults
    for name, default in defaults.items():
        if name not in values:
            continue
        wanted: tuple[type, ...] = (type(default),)
        if name == "size":
            wanted = (int, str)
        elif name == "weights_file":
            wanted = (str, NoneType)
        elif name in ("weights", "features", "match"):
            wanted = (dict,)
        elif isinstance(default, tuple):
            wanted = (list,)
        inner = values[name] if name in ("channels", "kernel_size", "stride", "pool") else ()
        if type(values[name]) not in wanted or not all(type(one) is int for one in inner):
            raise TypeError(f"{name} {values[name]!r} makes no sense")
    return Options(**values, **classes)


def with_image_stats_weight(recorded: dict[str, Any]) -> dict[str, Any]:
    """The recorded terms of `match`; earlier versions matched `image` only where it is recorded."""
    return {**recorded, "image": recorded.get("image", 0)}


def _parse_class_options(record: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """The recorded options that say the classes and the objects, where these are matched; hardness no longer is where
    its classes were in memory."""
    labels = record["request"]["files"]["coco"] if "objects" in recorded["match"] else None
    words = {"coco": labels["path"]} if labels else {}
    if "hardness" not in recorded["match"]:
        return words
    if isinstance(recorded.get("labels"), dict):  # they were in memory
        recorded["match"] = {name: weight for name, weight in recorded["match"].items() if name != "hardness"}
        return words
    if recorded.get("labels") is not None:
        return words | {"labels": record["request"]["files"]["labels"]["path"]}
    return words | {"stratify_by": recorded.get("stratify_by", "first")}


def _parse_table_options(record: dict[str, Any]) -> dict[str, Any]:
    """The recorded tables, by the places where they were, as options."""
    tables = {table["name"]: table for table in record.get("tables", [])}
    if not tables:
        return {}
    match, columns = dict(record["options"]["match"]), []
    for table in tables.values():
        listed = io.StringIO()
        csv.writer(listed, lineterminator="").writerow(table["columns"])
        columns.append(f"{table['path']}:{listed.getvalue()}")
    return {
        "match": {tables[name]["path"] if name in tables else name: weight for name, weight in match.items()},
        "match_columns": columns,
    }
