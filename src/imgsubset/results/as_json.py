"""Results as plain data: what `--json` prints and what manifest.json holds beside the copies."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from typing import Any

from imgsubset.options import Options, identity
from imgsubset.tasks.compare import Comparison
from imgsubset.tasks.score import Score, Scored
from imgsubset.tasks.select import Selection
from imgsubset.tasks.verify import Verification
from imgsubset.writing.manifest import FORMAT

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pillow")
# Options that say where and how work is done, and change no result.
INDIFFERENT = ("workers", "cache", "cache_verify", "resume")


def request(
    n: int | str, options: Options, embeddings: Mapping[str, object] | None, mode: str, ranked: bool
) -> dict[str, Any]:
    """All that was asked for, but for the source and the destination: of equal requests one result is enough."""
    asked = {name: value for name, value in describe_options(options).items() if name not in INDIFFERENT}
    files = {name: identity(asked[name]) for name in ("labels", "coco")}
    return {"n": str(n), "options": asked, "files": files, "embeddings": embeddings, "mode": mode, "ranked": ranked}


def describe_options(options: Options) -> dict[str, Any]:
    """The record of options, as JSON gives it back."""
    values = dataclasses.asdict(options).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


def describe(selection: Selection, mode: str = "none", ranked: bool = False) -> dict[str, Any]:
    """The record of a selection, for json.dumps.

    mode    how the files come to the destination, and `ranked` whether ranked.txt does

    Paths are relative to the source. Bytes of a name that are no UTF-8 stand as lone surrogates, as Python's
    os.fsencode turns back into the bytes.
    """
    return {
        "format": FORMAT,
        **_program(),
        "device": selection.device,
        "source": os.path.abspath(selection.source.root),  # noqa: PTH100 (resolve would follow links)
        "source_digest": selection.source.digest,
        "n": len(selection.indices),
        "options": describe_options(selection.options),
        "request": request(selection.asked, selection.options, selection.embeddings, mode, ranked),
        "counts": {
            "usable": len(selection.paths),
            "chosen": len(selection.indices),
            "rejected": len(selection.rejected),
            "ignored": selection.source.ignored,
            "cached": selection.cached,
            "copies": selection.copies,
        },
        "classes": {
            name: {"source": everywhere, "subset": here} for name, (everywhere, here) in selection.classes.items()
        },
        "score": describe_score(selection.score),
        "interrupted": selection.interrupted,
        "warnings": list(selection.warnings),
        "rejected": [dataclasses.asdict(file) for file in selection.rejected],
        "trace": [dataclasses.asdict(point) for point in selection.trace],
        "seconds": selection.seconds,
        **describe_files(selection),
    }


def describe_files(
    selection: Selection, hashes: Mapping[str, str] | None = None, extras: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The part of the record that lists files: the chosen ones, and `extras`, which were written beside them.

    Both are given by relative path with their SHA-256; without, nothing was copied.
    """
    ranks = {path: rank for rank, path in enumerate(selection.ranked, 1)}
    return {
        "files": [
            {"path": path, "rank": ranks[path]} | ({"sha256": hashes[path]} if hashes is not None else {})
            for path in selection.chosen
        ],
        "extras": [{"path": path, "sha256": digest} for path, digest in (extras or {}).items()],
    }


def _program() -> dict[str, Any]:
    from importlib.metadata import version  # 25 ms, which every decoding process would wait for

    return {
        "program": {"name": "imgsubset", "version": version("imgsubset")},
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }


def describe_score(score: Score) -> dict[str, Any]:
    """The record of a score, for json.dumps."""
    ratios = score.ratios()
    return {
        "loss": score.loss,
        "percentile": score.percentile,
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


def describe_scored(scored: Scored) -> dict[str, Any]:
    """The record of a subset that was scored, for json.dumps."""
    return {
        **_program(),
        "device": scored.device,
        "source": os.path.abspath(scored.source.root),  # noqa: PTH100
        "subset": scored.subset,
        "n": len(scored.paths),
        "options": describe_options(scored.options),
        "counts": {"usable": scored.total, "rejected": len(scored.rejected), "foreign": len(scored.foreign)},
        "score": describe_score(scored.score),
        "warnings": list(scored.warnings),
        "rejected": [dataclasses.asdict(file) for file in scored.rejected],
        "foreign": [dataclasses.asdict(file) for file in scored.foreign],
        "seconds": scored.seconds,
        "files": [{"path": path} for path in scored.paths],
    }


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """The record of a comparison, for json.dumps."""
    return {
        **_program(),
        "device": comparison.device,
        "first": comparison.first.name,
        "second": comparison.second.name,
        "counts": {"first": comparison.sizes[0], "second": comparison.sizes[1]},
        "options": describe_options(comparison.options),
        "loss": dataclasses.asdict(comparison.loss),
        "divergences": {
            name: dataclasses.asdict(one) | {"ratio": one.ratio, "differs": one.differs}
            for name, one in comparison.divergences.items()
        },
        "warnings": list(comparison.warnings),
        "rejected": {
            name: [dataclasses.asdict(file) for file in files]
            for name, files in zip(("first", "second"), comparison.rejected, strict=True)
        },
        "seconds": comparison.seconds,
    }


def describe_verification(found: Verification) -> dict[str, Any]:
    """The record of a verification, for json.dumps."""
    return dataclasses.asdict(found) | {"folder": str(found.folder), "good": found.good}
