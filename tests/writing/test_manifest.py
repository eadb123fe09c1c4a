"""Manifests of format 1, as the version before the rooms wrote them, and what makes one unreadable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, tree

from imgsubset.divergence_weights import Weights
from imgsubset.errors import InputError
from imgsubset.options import LOSS, Options
from imgsubset.sources.listing import list_images
from imgsubset.writing.manifest import read_manifest

Program = Callable[..., Run]
CHOSEN = ("6.bmp", "b/4.gif")
WORDS = {"candidates": 64, "chains": 1, "steps": 8, "size": 16, "channels": [8, 8], "device": "cpu"}
ASKED: dict[str, Any] = {
    "weights": {"kl": 1.0, "js": 0.0, "wasserstein": 0.0, "hellinger": 0.0, "frechet": 2.0},
    "candidates": 64,
    "chains": 1,
    "steps": 8,
    "time_limit": None,
    "seed": 0,
    "device": "cpu",
    "size": 16,
    "channels": [8, 8],
    "kernel_size": 3,
    "temperature": 1.0,
    "friction": 1.0,
    "langevin_time": 0.1,
    "target_loss": None,
    "target_size": None,
    "stratify": False,
    "stratify_by": "first",
    "stratify_as": "share",
    "labels": None,
    "group_by": None,
    "include": ["*.bmp", "*.gif", "*.png"],
    "exclude": [],
    "keep": [],
    "drop": [],
    "dedupe": False,
    "sidecars": "auto",
    "coco": None,
    "strict": False,
}
SCORE = {"loss": 0.25, "percentile": 1.5, "effective_size": 3.5, "divergences": {}}


def old(source: Path, out: Path) -> dict[str, Any]:
    """Two copies in a destination and the manifest that the old version wrote beside them."""
    for name in CHOSEN:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes((source / name).read_bytes())
    counts = {"usable": 4, "chosen": 2, "rejected": 0, "ignored": 4, "cached": 0, "copies": 0}
    listing = list_images(source)
    kept = listing.without({path for path in listing.paths if Path(path).suffix not in (".bmp", ".gif", ".png")})
    record = {
        "format": 1,
        "program": {"name": "imgsubset", "version": version("imgsubset")},
        "libraries": {"python": "3.11.7", "torch": "2.6.0"},
        "device": "cpu",
        "source": str(source),
        "source_digest": kept.digest,
        "n": 2,
        "options": {**ASKED, "resume": None, "workers": 0, "cache": "/somewhere", "cache_verify": False},
        "request": {
            "n": "2",
            "options": ASKED,
            "files": {"labels": None, "coco": None},
            "embeddings": None,
            "mode": "copy",
            "ranked": False,
        },
        "counts": counts,
        "classes": {},
        "score": SCORE,
        "interrupted": False,
        "warnings": [],
        "rejected": [],
        "trace": [],
        "seconds": {"list": 0.1},
        "files": [
            {"path": path, "rank": rank, "sha256": hashlib.sha256((source / path).read_bytes()).hexdigest()}
            for rank, path in zip((2, 1), CHOSEN, strict=True)
        ],
        "extras": [],
    }
    (out / "manifest.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def test_a_manifest_of_the_old_version_is_read(folder: Path, tmp_path: Path) -> None:
    record = old(folder, tmp_path / "out")
    for place in (tmp_path / "out", tmp_path / "out" / "manifest.json"):
        found = read_manifest(place)
        assert found.record == record
        assert tuple(found.hashes) == CHOSEN
        assert found.extras == {}
        assert found.options == Options(
            size=16,
            networks=1,
            activation="relu",
            channels=(8, 8),
            weights=Weights(1, 0, 0, 0, 2),
            include=("*.bmp", "*.gif", "*.png"),
            match={"image": 0},
        )


@pytest.mark.parametrize(("embeddings", "expected"), [(None, 7), ({"values": "e.npy"}, 0)])
def test_the_one_seed_of_the_old_version_was_the_network_s_too(
    folder: Path, tmp_path: Path, embeddings: object, expected: int
) -> None:
    record = old(folder, tmp_path / "out")
    record["options"]["seed"], record["request"]["embeddings"] = 7, embeddings
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(json.dumps(record))
    assert read_manifest(manifest).options.feature_seed == expected
    added = {"features": {"hog": 1}, "networks": 2, "stride": [2], "activation": "abs", "pool": [], "taps": "last"}
    added |= {"weights_file": "w.pth", "held_out": False, "feature_seed": 3, "kernel_size": [3]}
    added |= {"match": {}, "match_columns": []}
    newer = record | {"format": 2, "options": record["options"] | added}
    manifest.write_text(json.dumps(newer))
    assert (read_manifest(manifest).options.feature_seed, read_manifest(manifest).options.weights_file) == (3, "w.pth")
    for name in Options().affecting(LOSS):
        manifest.write_text(json.dumps(newer | {"options": {k: v for k, v in newer["options"].items() if k != name}}))
        assert getattr(read_manifest(manifest).options, name) == getattr(Options(match="image=0"), name)


def test_a_manifest_that_lacks_an_option_still_answers_the_request(
    imgsubset: Program, folder: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "out" / "manifest.json"
    assert imgsubset("select", folder, tmp_path / "out", "-n", 2).code == 0
    record = json.loads(manifest.read_text())
    del record["options"]["held_out"], record["request"]["options"]["held_out"]
    manifest.write_text(json.dumps(record))
    assert imgsubset("score", folder, tmp_path / "out").code == 0
    assert "nothing to do" in imgsubset("select", folder, tmp_path / "out", "-n", 2).out


def test_what_the_old_version_wrote_is_verified_and_never_replaced_unasked(
    imgsubset: Program, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    old(folder, out)
    assert imgsubset("verify", out).code == 0
    before = tree(out)
    words = [f"--include={pattern}" for pattern in ("*.bmp", "*.gif", "*.png")]
    words += "--candidates 64 --chains 1 --steps 8 --size 16 --channels 8,8 --device cpu".split()
    assert imgsubset("select", folder, out, "-n", 2, "--weights", "kl=1,frechet=2", *words).code == 5
    assert tree(out) == before


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("format", 3, "has format 3; this version reads formats 1 to 2"),
        ("files", None, "is not one of imgsubset's: TypeError"),
        ("files", [{"path": "../x"}], "which is no path in a folder"),
        ("files", [{"path": "/x"}], "which is no path in a folder"),
        ("files", [{"path": "a\0"}], "which is no path in a folder"),
        ("files", [{"path": ""}], "which is no path in a folder"),
        ("extras", [{"path": "x"}], "KeyError 'sha256'"),
        ("options", None, "TypeError"),
        ("options", {**ASKED, "size": "0"}, "size '0' is not"),
        ("options", {**ASKED, "channels": [8, "8"]}, "channels .* makes no sense"),
        ("options", {**ASKED, "include": "*.png"}, "include .* makes no sense"),
        ("options", {**ASKED, "weights": [1, 1, 1, 1, 1]}, "weights .* makes no sense"),
        ("options", {**ASKED, "weights": {"kl": 10**400}}, r"weight kl=10{50,}\.\.\. is not a finite number"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_an_input_error(
    folder: Path, tmp_path: Path, key: str, value: object, text: str
) -> None:
    record = old(folder, tmp_path / "out") | {key: value}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=text) as caught:
        read_manifest(tmp_path / "out")
    assert f"manifest '{tmp_path / 'out' / 'manifest.json'}'" in str(caught.value)
