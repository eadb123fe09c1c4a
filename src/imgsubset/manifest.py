"""The manifest beside a subset: its name, its format, and reading it back."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgsubset.errors import InputError
from imgsubset.options import Options, Weights

NAME = "manifest.json"
FORMAT = 1  # raised when a reader of an older one would misread it


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    path     of the manifest
    record   all of it, as it was written
    hashes   SHA-256 of each chosen file, by its path relative to the source and to the manifest's folder alike; None
             where nothing was copied
    extras   SHA-256 of each other file that was written beside the copies, by its path
    options  that the selection was made with
    """

    path: Path
    record: dict[str, Any]
    hashes: dict[str, str | None]
    extras: dict[str, str]
    options: Options


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read a manifest, or the one in a folder.

    Raises InputError if there is none or it is not one that this version understands.
    """
    file = Path(path)
    file = file / NAME if file.is_dir() else file
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise InputError(f"manifest '{file}' is not a regular file")
        record = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read manifest '{file}': {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"manifest '{file}' is not JSON: {error}") from None
    try:
        if record["format"] != FORMAT:
            raise InputError(f"manifest '{file}' has format {record['format']}; this version reads format {FORMAT}")
        hashes = {str(entry["path"]): entry.get("sha256") for entry in record["files"]}
        extras = {str(entry["path"]): str(entry["sha256"]) for entry in record["extras"]}
        return Manifest(file, record, hashes, extras, _options(record["options"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"manifest '{file}' is not one of imgsubset's: {type(error).__name__} {error}") from None


def _options(record: dict[str, Any]) -> Options:
    """Options from their record, without those that a newer or older version knows."""
    known = {field.name for field in dataclasses.fields(Options)}
    values = {name: value for name, value in record.items() if name in known}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Options(**values | {"weights": Weights(**record["weights"])})
