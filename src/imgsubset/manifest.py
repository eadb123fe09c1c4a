"""A selection as plain data: what `--json` prints and what manifest.json holds beside the copies."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterable, Mapping

from imgsubset.selection import Score, Selection

NAME = "manifest.json"
FORMAT = 1  # raised when a reader of an older one would misread it
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pillow")


def describe(
    selection: Selection, hashes: Mapping[str, str] | None = None, extras: Iterable[str] = ()
) -> dict[str, object]:
    """The record of a selection, for json.dumps.

    hashes  SHA-256 of the chosen files as they were copied, by relative path; None if nothing was copied
    extras  names of the files that were written beside the copies

    Paths are relative to the source. Bytes of a name that are no UTF-8 stand as lone surrogates, as Python's
    os.fsencode turns back into the bytes.
    """
    from importlib.metadata import version  # 25 ms, which every decoding process would wait for

    ranks = {path: rank for rank, path in enumerate(selection.ranked, 1)}
    return {
        "format": FORMAT,
        "program": {"name": "imgsubset", "version": version("imgsubset")},
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "device": selection.device,
        "source": os.path.abspath(selection.source),  # noqa: PTH100 (resolve would follow links)
        "n": len(selection.indices),
        "options": dataclasses.asdict(selection.options),
        "counts": {
            "usable": len(selection.paths),
            "chosen": len(selection.indices),
            "rejected": len(selection.rejected),
            "ignored": selection.ignored,
        },
        "score": describe_score(selection.score),
        "interrupted": selection.interrupted,
        "warnings": list(selection.warnings),
        "rejected": [dataclasses.asdict(file) for file in selection.rejected],
        "trace": [dataclasses.asdict(point) for point in selection.trace],
        "seconds": selection.seconds,
        "files": [
            {"path": path, "rank": ranks[path]} | ({"sha256": hashes[path]} if hashes is not None else {})
            for path in selection.chosen
        ],
        "extras": list(extras),
    }


def describe_score(score: Score) -> dict[str, object]:
    """The record of a score, for json.dumps."""
    ratios = score.ratios()
    return {
        "loss": score.loss,
        "effective_size": score.effective_size,
        "divergences": {
            name: {
                "value": value,
                "random_mean": score.random_mean[name],
                "random_std": score.random_std[name],
                "ratio": ratios[name],
            }
            for name, value in score.divergences.items()
        },
    }
