"""What a command reads and what it writes must not be the same place, as the words of its line have it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgsubset.errors import UsageError

SOURCE_ARGUMENTS = ("source", "first", "second", "subset")
OUTPUT_FILE_OPTIONS = ("list_file", "report", "plot", "csv")
DISPLAY_NAMES = dict.fromkeys(SOURCE_ARGUMENTS, "SRC") | {
    "destination": "DST",
    "list_file": "--list",
    "results": "RESULTS",
}
INPUT_FILE_OPTIONS = ("keep", "drop", "labels", "coco", "embeddings", "paths", "results")


def check_path_conflicts(arguments: Mapping[str, Any]) -> None:
    """Refuse a --list or --cache that would change the source, the destination, or a file that is read.

    arguments  of a command, by name, as they were parsed; absent ones are None. A --list in the source is
               found out when that is listed

    Raises UsageError that names both.
    """
    real = {name: Path(os.path.realpath(value)) for name, value in arguments.items() if _is_path(name, value)}
    for term in arguments.get("match") or ():
        real[f"match {term}"] = Path(os.path.realpath(term.partition("=")[0]))
    tables = [name for name in real if name.startswith("match ")]
    if arguments.get("no_cache"):
        real.pop("cache", None)
    if arguments.get("mode") == "none" or arguments.get("dry_run"):
        real.pop("destination", None)

    files = [name for name in SOURCE_ARGUMENTS if name in real and os.path.isfile(real[name])]  # noqa: PTH113 (never raises)

    def clash(one: str, other: str) -> bool:
        return one != other and one in real and other in real and real[other] in (real[one], *real[one].parents)

    for one, others in {
        **dict.fromkeys(
            OUTPUT_FILE_OPTIONS, ("destination", "cache", *INPUT_FILE_OPTIONS, *tables, *files, *OUTPUT_FILE_OPTIONS)
        ),
        "cache": (*SOURCE_ARGUMENTS, "destination", *INPUT_FILE_OPTIONS, *tables),
        "destination": ("cache",),
    }.items():
        if other := next((other for other in others if clash(one, other)), None):
            how = "is" if real[one] == real[other] else "lies in"
            here, there = (_describe_path(name, arguments) for name in (one, other))
            raise UsageError(f"{here} {how} {there}; choose another place for it")


def _describe_path(name: str, arguments: Mapping[str, Any]) -> str:
    option, _, term = name.partition(" ")
    return f"{DISPLAY_NAMES.get(option, f'--{option}')} '{term or arguments[name]}'"


def _is_path(name: str, value: object) -> bool:
    known = (*SOURCE_ARGUMENTS, *INPUT_FILE_OPTIONS, *OUTPUT_FILE_OPTIONS, "destination", "cache")
    return name in known and isinstance(value, (str, Path)) and str(value) not in ("", "-")
