"""Pieces of a source in the cache, which a later selection takes from there."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, create, read, smooth, strict_json

from imgsubset import BadFilesError, InputError, Options, OutputError, UsageError, embed, select
from imgsubset.features import ingest
from imgsubset.features.distributed_ingest import shard_indices

Program = Callable[..., Run]
WORDS: dict[str, Any] = {"workers": 0, "device": "cpu", "channels": (4, 6), "size": 16}
LINE = ("--workers=0", "--device=cpu", "--channels=4,6", "--size=16")
SEARCH: dict[str, Any] = {"candidates": 16, "steps": 4}
TOTAL = 23


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Pictures that were there before, and two files that are none."""
    root = tmp_path / "source"
    for number in range(TOTAL):
        path = create(root / f"{'ab'[number % 2]}/{number:02d}.png", b"")
        smooth(number, 16, 16).save(path)
    for name in ("bad.png", "worse.jpg"):
        create(root / "b" / name, b"no picture")
    for path in root.rglob("*.*"):
        os.utime(path, ns=(0, time.time_ns() - 10**10))
    return root


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each run decodes."""
    module = importlib.import_module("imgsubset.features.distributed_ingest")
    real, seen = module.decode_chunks, []

    def watch(files: Sequence[bytes], *rest: Any) -> Any:
        seen.append(len(files))
        return real(files, *rest)

    monkeypatch.setattr(module, "decode_chunks", watch)
    return seen


@pytest.mark.slow
def test_pieces_in_any_order_are_what_a_selection_decodes(source: Path, tmp_path: Path, decodings: list[int]) -> None:
    alone = select(source, 5, **WORDS, **SEARCH)
    cache = str(tmp_path / "cache")
    pieces = [embed(source, shard=(index, 3), cache=cache, **WORDS) for index in (3, 1, 2)]
    assert decodings == [25, *(len(shard_indices(25, index, 3)) for index in (2, 0, 1))]
    assert sum(one.decoded for one in pieces) == TOTAL
    assert sorted(file.path for one in pieces for file in one.rejected) == ["b/bad.png", "b/worse.jpg"]
    assert [one.cached for one in pieces] == [0, 0, 0]
    warm = select(source, 5, cache=cache, **WORDS, **SEARCH)
    assert decodings[4:] == [2]  # what is no picture is in no cache
    assert (warm.cached, warm.chosen, warm.score) == (TOTAL, alone.chosen, alone.score)


def test_a_large_piece_is_done_in_stretches(
    source: Path, tmp_path: Path, decodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgsubset.features.load.MAX_IMAGES_PER_STEP", 10)
    told: dict[str, list[int]] = {}

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        seen = told.setdefault(stage, [0, total])
        seen[0] += done

    cache = str(tmp_path / "cache")
    found = embed(source, cache=cache, progress=progress, **WORDS)
    assert decodings == [10, 10, 5]
    assert told["decode"] == [TOTAL + 2, TOTAL + 2]
    assert (found.images, found.decoded, found.cached) == (TOTAL + 2, TOTAL, 0)
    assert [file.path for file in found.rejected] == ["b/bad.png", "b/worse.jpg"]
    again = embed(source, cache=cache, **WORDS)
    assert (again.images, again.decoded, again.cached) == (TOTAL + 2, 0, TOTAL)
    assert decodings[3:] == [0, 0, 2]


def test_a_piece_that_was_cut_off_is_done_again_and_nothing_else(
    source: Path, tmp_path: Path, decodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "cache")
    first = embed(source, shard="1/2", cache=cache, **WORDS)
    monkeypatch.setattr(ingest, "STORE_BATCH_IMAGES", 4)

    def killed(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "decode":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(source, shard="2/2", cache=cache, progress=killed, **WORDS)
    embed(source, shard="2/2", cache=cache, **WORDS)
    again = [embed(source, shard=f"{index}/2", cache=cache, **WORDS) for index in (1, 2)]
    assert [one.decoded for one in again] == [0, 0]
    assert again[0].cached == first.decoded
    assert sum(one.cached for one in again) == TOTAL


def test_the_resolution_is_that_of_the_whole(tmp_path: Path) -> None:
    for number in range(4):
        side = 16 if number < 2 else 80  # half of them: the source is not one of small pictures, the first piece is
        smooth(number, side, side).save(create(tmp_path / f"source/{number}.png"))
    words = {**WORDS, "size": "auto", "cache": str(tmp_path / "cache")}
    assert [embed(tmp_path / "source", shard=(index, 2), **words).size for index in (1, 2)] == [64, 64]


@pytest.mark.slow
def test_what_else_is_matched_of_the_pixels_is_kept_too(source: Path, tmp_path: Path, decodings: list[int]) -> None:
    words = {**WORDS, "match": {"image": 1}, "cache": str(tmp_path / "cache"), "exclude": ("bad.png", "worse.jpg")}
    embed(source, **words)
    assert select(source, 5, **words, **SEARCH).cached == TOTAL
    assert decodings == [TOTAL, 0]


def test_more_pieces_than_images_leave_some_empty(source: Path, tmp_path: Path) -> None:
    found = embed(source, shard=(30, 30), cache=str(tmp_path / "cache"), **WORDS)
    assert (found.images, found.decoded, found.cached, found.rejected) == (0, 0, 0, ())
    assert repr(found) == f"Embedded(piece 30 of 30 of {str(source)!r}: 0 images, 0 decoded, 0 cached)"


@pytest.mark.parametrize(
    "shard", ["0/3", "4/3", "1", "", "a/b", "1/0", "-1/3", "1/3/4", "1.0/3", "٣/٤", (0, 1), 3, None]
)
def test_a_shard_that_makes_no_sense_is_a_usage_error(source: Path, tmp_path: Path, shard: Any) -> None:
    with pytest.raises(UsageError, match="is not i/K with i from 1 to K"):
        embed(source, shard=shard, cache=str(tmp_path / "cache"), **WORDS)


def test_what_could_not_be_used_later_is_refused_before_work(
    source: Path, tmp_path: Path, decodings: list[int]
) -> None:
    with pytest.raises(UsageError, match="cache='FOLDER'"):
        embed(source, **WORDS)
    with pytest.raises(UsageError, match="never cached"):
        embed(source, cache=str(tmp_path / "cache"), features="python:imgsubset.nothing", **WORDS)
    create(tmp_path / "file")
    with pytest.raises(OutputError, match=r"nothing is cached in .*file"):
        embed(source, cache=str(tmp_path / "file"), **WORDS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        embed(tmp_path / "empty", cache=str(tmp_path / "cache"), **WORDS)
    assert decodings == []


def test_a_disk_that_fills_up_is_an_error(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imgsubset.features.cache import Cache

    def full(self: Cache, records: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Cache, "_write", full)
    with pytest.raises(OutputError, match="No space left"):
        embed(source, cache=str(tmp_path / "cache"), **WORDS)


def test_strict_fails_for_the_piece_that_has_the_bad_files(source: Path, tmp_path: Path) -> None:
    where = shard_indices(25, 0, 25)  # one image each
    assert where == [0]
    embed(source, shard=(1, 25), cache=str(tmp_path / "cache"), strict=True, **WORDS)
    with pytest.raises(BadFilesError, match=r"b/worse\.jpg"):
        embed(source, shard=(25, 25), cache=str(tmp_path / "cache"), strict=True, **WORDS)


def test_the_command_tells_of_its_piece_and_select_finds_it(imgsubset: Program, source: Path, tmp_path: Path) -> None:
    run = imgsubset("embed", source, "--shard", "2/2", "--cache", tmp_path / "cache", "--json", *LINE)
    assert (run.code, run.err) == (0, "")
    record = strict_json(run.out)
    assert record["shard"] == {"index": 2, "of": 2}
    assert record["counts"] == {"images": 12, "decoded": 11, "cached": 0, "rejected": 1}
    assert [file["path"] for file in record["rejected"]] == ["b/bad.png"]
    run = imgsubset("embed", source, "--cache", tmp_path / "cache", *LINE)
    assert run.out.startswith(f"25 of 25 images of {source}: 12 decoded, 11 in the cache before\n\ntime: ")
    assert run.out.endswith(
        "skipped 2 files:\n"
        + "".join(
            f"  b/{name}: not an image of a supported format (JPEG, PNG, WEBP, BMP, GIF, TIFF)\n"
            for name in ("bad.png", "worse.jpg")
        )
    )
    assert read(source, Options(**WORDS, cache=str(tmp_path / "cache"))).cached == TOTAL


def test_a_command_that_makes_no_sense_is_exit_code_2(imgsubset: Program, source: Path, tmp_path: Path) -> None:
    for words, culprit in (
        (["--shard", "5/4"], "shard '5/4'"),
        (["--cache", source / "kept"], "lies in SRC"),
        (["--no-cache"], "--no-cache"),
    ):
        run = imgsubset("embed", source, *words, *LINE)
        assert (run.code, run.out) == (2, "")
        assert culprit in run.err
        assert run.err.count("\n") == 1
    assert not (source / "kept").exists()
