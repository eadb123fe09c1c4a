"""What a program that calls the tasks can rely on beside their results."""

from __future__ import annotations

import csv
import json
import signal
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import create

import imgsubset as package
from imgsubset import compare, export, score, select, select_into, split, split_into, verify
from imgsubset.errors import ImgsubsetError, UsageError
from imgsubset.search import find

FAST: dict[str, Any] = {
    **{"candidates": 16, "chains": 1, "steps": 4, "size": 16, "channels": (8,), "networks": 1},
    **{"device": "cpu", "workers": 0},
}


# Upgrades


@pytest.mark.slow
def test_what_another_version_placed_stands_and_tells_it(pictures: Path, tmp_path: Path) -> None:
    first = select_into(pictures, 5, tmp_path / "out", **FAST)
    assert first.version == package.__version__
    manifest = tmp_path / "out" / "manifest.json"
    record = json.loads(manifest.read_bytes())
    manifest.write_text(json.dumps(record | {"program": {"name": "imgsubset", "version": "0.0.1"}}))
    again = select_into(pictures, 5, tmp_path / "out", **FAST)
    assert (again.done, again.version, again.chosen) == (True, "0.0.1", first.chosen)
    anew = select_into(pictures, 5, tmp_path / "out", overwrite=True, **FAST)
    assert (anew.done, anew.version) == (False, package.__version__)


def test_a_request_with_other_options_is_another_whatever_the_version(pictures: Path, tmp_path: Path) -> None:
    """As where a later version has one more option that decides what is chosen."""
    select_into(pictures, 5, tmp_path / "out", **FAST)
    manifest = tmp_path / "out" / "manifest.json"
    record = json.loads(manifest.read_bytes())
    del record["request"]["options"]["steps"]
    manifest.write_text(json.dumps(record))
    with pytest.raises(ImgsubsetError, match="is not empty"):
        select_into(pictures, 5, tmp_path / "out", **FAST)


# Progress


@pytest.mark.slow
def test_bars_are_shown_to_who_asks(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], few_deals: None
) -> None:
    select(pictures, 5, progress=True, **FAST)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "decode: 100%" in shown.err
    assert "120/120" in shown.err
    split_into(pictures, {"a": "10%", "b": "5%"}, tmp_path / "parts", progress=True, **FAST)
    assert "copy: 100%" in capsys.readouterr().err
    for call in (
        lambda: compare(pictures, tmp_path / "parts" / "a", progress=True, **FAST),
        lambda: score(pictures, tmp_path / "parts" / "a", progress=True, **FAST),
        lambda: verify(tmp_path / "parts" / "a", progress=True),
    ):
        call()
        assert "100%" in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_is_printed_unasked(pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for words in ({}, {"progress": False}, {"progress": None}):
        placed = select_into(pictures, 5, tmp_path / f"out{len(words)}", **FAST, overwrite=True, **words)  # type: ignore[arg-type]
        export(placed.selection, tmp_path / "again", overwrite=True)  # type: ignore[arg-type]
    verify(tmp_path / "out0")
    assert capfd.readouterr() == ("", "")


def test_a_function_is_told_of_progress(pictures: Path) -> None:
    told: list[tuple[str, int, int]] = []
    select(pictures, 5, progress=lambda stage, done, total, note="": told.append((stage, done, total)), **FAST)
    assert sum(done for stage, done, _ in told if stage == "decode") == 120
    with pytest.raises(UsageError, match="progress 'yes' is neither True or False nor a function"):
        select(pictures, 5, progress="yes", **FAST)  # type: ignore[arg-type]


# What is not touched


def settings() -> tuple[object, ...]:
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return (
        torch.get_num_threads(),
        csv.field_size_limit(),
        handlers,
        list(warnings.filters),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        sys.getrecursionlimit(),
        sys.excepthook,
    )


@pytest.fixture
def labelled(pictures: Path, tmp_path: Path) -> Path:
    """Tables of labels beside the images, which are read with a limit of their own."""
    root = tmp_path / "labelled"
    root.symlink_to(pictures)
    lines = "".join(f"class{number % 3}/{number:03d}.png,{number % 2}\n" for number in range(120))
    return create(tmp_path / "labels.csv", f"path,label\n{lines}".encode())


def fails(*_: object, **__: object) -> None:
    raise RuntimeError("amid the search")


@pytest.mark.slow
def test_no_setting_of_the_process_is_changed(
    pictures: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_deals: None
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", torch.set_num_threads)  # found by name in the tasks too
    torch.set_num_threads(3)
    try:
        before = settings()
        words = FAST | {"stratify": True, "labels": str(labelled)}
        calls: list[Callable[[], object]] = [
            lambda: select_into(pictures, 6, tmp_path / "out", **words),
            lambda: split(pictures, {"a": "20%", "b": "10%"}, **FAST),
            lambda: score(pictures, tmp_path / "out", **FAST),
            lambda: compare(pictures, tmp_path / "out", **FAST),
            lambda: verify(tmp_path / "out"),
            lambda: select(pictures, 500, **FAST),
            lambda: select(pictures, 5, **FAST | {"stratify": True, "labels": str(tmp_path)}),
            lambda: select(pictures, 5, extractor=fails, **FAST),  # type: ignore[arg-type]
        ]
        for call in calls[:5]:
            call()
            assert settings() == before
        for call in calls[5:]:
            with pytest.raises((ImgsubsetError, RuntimeError)):
                call()
            assert settings() == before
        monkeypatch.setattr(find, "find", fails)
        with pytest.raises(RuntimeError, match="amid the search"):
            select(pictures, 5, **FAST)
        assert settings() == before
    finally:
        torch.set_num_threads(1)


@pytest.mark.slow
def test_calls_at_once_are_as_calls_in_turn(pictures: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sizes = [5, 9, 20, 40]
        words = FAST | {"candidates": 64, "steps": 20}
        in_turn = [select(pictures, n, **words) for n in sizes]
        with ThreadPoolExecutor(4) as pool:
            at_once = [*pool.map(lambda n: select(pictures, n, **words), sizes)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert [one.ranked for one in at_once] == [one.ranked for one in in_turn]
    assert [one.score for one in at_once] == [one.score for one in in_turn]
