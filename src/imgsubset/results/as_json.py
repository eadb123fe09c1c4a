"""Results as plain data: what `--json` prints and what manifest.json holds beside the copies."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsubset.files import describe_file
from imgsubset.inputs import Labels
from imgsubset.options import FIELDS, MATCH_TERMS, NOTHING, SELECTION, Options
from imgsubset.results.comparison import Comparison, Distance, Overlap
from imgsubset.results.records import (
    Embedded,
    Estimate,
    Estimated,
    Export,
    Placed,
    Result,
    Scored,
    Selection,
    Verification,
)
from imgsubset.results.scores import Measured, Score
from imgsubset.sources.images import RejectedFile

if TYPE_CHECKING:
    from imgsubset.features.cache import CacheEntry

MANIFEST_FORMAT = 2  # of the manifest; raised when a reader of an older one would misread it
_COMMON_KEYS = ("program", "libraries", "device", "options", "warnings", "seconds")
RECORD_KEYS = {  # of the records that the functions below make
    "placed": ("format", *_COMMON_KEYS, "source", "source_digest", "n", "request", "counts", "classes", "tables",
               "score", "interrupted", "rejected", "trace", "files", "extras", "destination"),
    "scored": (*_COMMON_KEYS, "source", "subset", "n", "counts", "score", "rejected", "foreign", "files"),
    "comparison": (*_COMMON_KEYS, "first", "second", "counts", "loss", "divergences", "overlaps", "kid", "rejected"),
    "estimated": (*_COMMON_KEYS, "source", "subset", "n", "counts", "chosen", "estimates", "differences",
                  "rejected", "foreign", "files"),
    "embedded": (*_COMMON_KEYS, "source", "shard", "cache", "counts", "rejected"),
    "verification": ("folder", "checked", "missing", "changed", "extra", "good"),
}  # fmt: skip
RUNNING = [name for name, option in FIELDS.items() if option.metadata["affects"] == NOTHING]
RECORDED_LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pillow")


def make_request(
    n: str, options: Options, embeddings: Mapping[str, object] | None, mode: str, ranked: bool
) -> dict[str, Any]:
    """All that was asked for, but for the source and the destination: of equal requests one result is enough."""
    files = {"labels": describe_file(options.labels), "coco": describe_file(options.coco)}
    files |= {f"match {name}": describe_file(name) for name, _ in options.match if name not in MATCH_TERMS}
    asked = describe_options(options, SELECTION)
    return {"n": n, "options": asked, "files": files, "embeddings": embeddings, "mode": mode, "ranked": ranked}


def describe_options(options: Options, level: int = NOTHING) -> dict[str, Any]:
    """The options that decide so much, see `imgsubset.options`, as JSON gives them back."""
    values = options.affecting(level) | {
        "weights": dataclasses.asdict(options.weights),
        "features": dict(options.features),
        "match": dict(options.match),
    }
    if isinstance(labels := options.labels, Labels) and "labels" in values:
        values["labels"] = labels.describe()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def describe_selection(selection: Selection, exported: Export | None = None, ranked: bool = False) -> dict[str, Any]:
    """The record of a selection, for json.dumps: the manifest.

    exported  what was written; None: nothing
    ranked    whether ranked.txt was asked for

    Paths are relative to the source. Bytes of a name that are no UTF-8 stand as lone surrogates, as Python's
    os.fsencode turns back into the bytes.
    """
    mode = exported.mode if exported else "none"
    ranks = {path: rank for rank, path in enumerate(selection.ranked, 1)}
    hashes, extras = (exported.hashes, exported.extras) if exported else ({}, {})
    return {
        "format": MANIFEST_FORMAT,
        **_describe_result(selection, selection.size),
        "warnings": [*selection.warnings, *(exported.warnings if exported else ())],
        "source": selection.source.origin,
        "source_digest": selection.source.digest,
        "n": len(selection.rows),
        "request": make_request(selection.asked, selection.options, selection.embeddings, mode, ranked),
        "counts": {
            "usable": len(selection.paths),
            "chosen": len(selection.rows),
            "rejected": len(selection.rejected),
            "ignored": selection.source.ignored,
            "cached": selection.cached,
            "copies": selection.copies,
            "labels": exported.labels if exported else None,
            "unlabelled": exported.unlabelled if exported else None,
        },
        "classes": {name: {"source": all_of, "subset": here} for name, (all_of, here) in selection.classes.items()},
        "tables": [*selection.tables],
        "score": describe_score(selection.score),
        "interrupted": selection.interrupted,
        "rejected": _describe_rejected(selection.rejected),
        "trace": [dataclasses.asdict(point) for point in selection.trace],
        "files": [
            {"path": path, "rank": ranks[path]} | ({"sha256": hashes[path]} if path in hashes else {})
            for path in selection.chosen
        ],
        "extras": [{"path": path, "sha256": digest} for path, digest in extras.items()],
    }


def manifest_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the record of a selection that is the same in every run of one command on one machine: without times,
    the state of the cache, and options that affect nothing."""
    return {
        **{key: value for key, value in record.items() if key != "seconds"},
        "options": {name: value for name, value in record["options"].items() if name not in RUNNING},
        "counts": {name: count for name, count in record["counts"].items() if name != "cached"},
        "trace": [{key: value for key, value in point.items() if key != "seconds"} for point in record["trace"]],
    }


def describe_export_result(placed: Placed) -> dict[str, Any]:
    """The record of a selection and of where it is, for json.dumps."""
    where = None if placed.destination is None else str(placed.destination)
    return {"seconds": {}, **placed.record, "destination": where}


def _describe_result(result: Result, size: int | None = None) -> dict[str, Any]:
    from importlib.metadata import version  # 25 ms, which every decoding process would wait for

    options = describe_options(result.options)
    return {
        "program": {"name": "imgsubset", "version": version("imgsubset")},
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in RECORDED_LIBRARIES},
        "device": result.device,
        "options": options if size is None else options | {"size": size},  # as measured, where it was `auto`
        "warnings": list(result.warnings),
        "seconds": result.seconds,
    }


def _describe_rejected(files: Iterable[RejectedFile]) -> list[dict[str, str]]:
    return [dataclasses.asdict(file) for file in files]


def describe_score(score: Score) -> dict[str, Any]:
    """The record of a score, for json.dumps."""
    searched = [_describe_block(one) for one in score.searched]
    return {
        "loss": score.loss,
        "percentile": score.percentile,
        "effective_size": score.effective_size,
        "effective_range": score.effective_range and list(score.effective_range),
        **_describe_divergences(score),
        "searched": {"loss": score.searched_loss, "blocks": searched},
        "held_out": [
            {"network": one.name, "loss": one.loss, "effective_size": one.effective_size} for one in score.held_out
        ],
    }


def _describe_block(block: Measured) -> dict[str, Any]:
    columns = [dataclasses.asdict(column) | {"off": column.z_score} for column in block.columns]
    plain = {"name": block.name, "weight": block.weight, "loss": block.loss, **_describe_divergences(block)}
    return plain | ({"columns": columns} if columns else {})


def _describe_divergences(of: Score | Measured) -> dict[str, Any]:
    columns = {
        "value": of.divergences,
        "random_mean": of.random_mean,
        "random_std": of.random_std,
        "ratio": of.ratios(),
    }
    return {"divergences": {name: {key: column[name] for key, column in columns.items()} for name in of.divergences}}


def describe_score_result(scored: Scored) -> dict[str, Any]:
    """The record of a subset that was scored, for json.dumps."""
    return {
        **_describe_result(scored, scored.size),
        "source": scored.source.origin,
        "subset": scored.subset,
        "n": len(scored.paths),
        "counts": {"usable": scored.total, "rejected": len(scored.rejected), "foreign": len(scored.foreign)},
        "score": describe_score(scored.score),
        "rejected": _describe_rejected(scored.rejected),
        "foreign": _describe_rejected(scored.foreign),
        "files": [{"path": path} for path in scored.paths],
    }


def describe_estimate_result(estimated: Estimated) -> dict[str, Any]:
    """The record of what results on a subset say of the whole, for json.dumps."""
    return {
        **_describe_result(estimated),
        "source": estimated.source.origin,
        "subset": estimated.subset,
        "n": len(estimated.paths),
        "counts": {"usable": estimated.total, "rejected": len(estimated.rejected), "foreign": len(estimated.foreign)},
        "chosen": estimated.chosen,
        "estimates": [{"name": one.name} | _describe_estimate(one) for one in estimated.estimates],
        "differences": [
            {"first": one.first, "second": one.second} | _describe_estimate(one) | {"decided": one.decided}
            for one in estimated.differences
        ],
        "rejected": _describe_rejected(estimated.rejected),
        "foreign": _describe_rejected(estimated.foreign),
        "files": [{"path": path} for path in estimated.paths],
    }


def _describe_estimate(one: Estimate) -> dict[str, float | None]:
    return {name: getattr(one, name) for name in ("subset", "value", "error", "low", "high", "equivalent")}


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """The record of a comparison, for json.dumps."""
    return {
        **_describe_result(comparison, comparison.size),
        "first": comparison.first.name,
        "second": comparison.second.name,
        "counts": {"first": comparison.sizes[0], "second": comparison.sizes[1]},
        "loss": dataclasses.asdict(comparison.loss),
        "divergences": _describe_measures(comparison.divergences),
        "overlaps": _describe_measures(comparison.overlaps),
        "kid": {name: dataclasses.asdict(one) | {"differs": one.differs} for name, one in comparison.kid.items()},
        "rejected": {
            name: _describe_rejected(files)
            for name, files in zip(("first", "second"), comparison.rejected, strict=True)
        },
    }


def _describe_measures(figures: Mapping[str, Distance | Overlap]) -> dict[str, Any]:
    return {
        name: dataclasses.asdict(one) | {"ratio": one.ratio, "differs": one.differs} for name, one in figures.items()
    }


def describe_embed_result(embedded: Embedded) -> dict[str, Any]:
    """The record of a piece of a source that is in the cache, for json.dumps."""
    names = ("images", "decoded", "cached")
    return {
        **_describe_result(embedded, embedded.size),
        "source": embedded.source.origin,
        "shard": dict(zip(("index", "of"), embedded.shard, strict=True)),
        "cache": embedded.cache,
        "counts": {name: getattr(embedded, name) for name in names} | {"rejected": len(embedded.rejected)},
        "rejected": _describe_rejected(embedded.rejected),
    }


def describe_verification(found: Verification) -> dict[str, Any]:
    """The record of a verification, for json.dumps."""
    return dataclasses.asdict(found) | {"folder": str(found.folder), "good": found.good}


def describe_cache(folder: Path, kept: Sequence[CacheEntry]) -> dict[str, Any]:
    """The record of what a cache folder holds, for json.dumps."""
    files = [
        {
            "path": str(one.path),
            "recipe": one.recipe,
            "images": one.images,
            "bytes": one.bytes,
            "used": datetime.fromtimestamp(one.last_used).astimezone().isoformat(timespec="seconds"),
        }
        for one in kept
    ]
    return {"folder": str(folder), "bytes": sum(one.bytes for one in kept), "files": files}
