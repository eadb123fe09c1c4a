"""Ctrl-C during the search exports the best so far; a second one, or one in another stage, leaves at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import noise
from PIL import Image

# The program sends itself SIGINT at the given call of the given method.
PROGRAM = """
import os, signal, sys
import imgsubset.cli.run
from imgsubset import cli
from imgsubset.features import source
from imgsubset.search.exchange import Exchanges

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
where, calls = sys.argv.pop(1), [int(call) for call in sys.argv.pop(1).split(",")]
places = {"search": (Exchanges, "step"), "ingest": (source, "_from_images"), "copy": (imgsubset.cli.run, "export")}
owner, name = places[where]
inner, count = getattr(owner, name), 0

def interrupted(*arguments, **named):
    global count
    count += 1
    if count in calls:
        os.kill(os.getpid(), signal.SIGINT)
    return inner(*arguments, **named)

setattr(owner, name, interrupted)
cli.main()
"""


def run(folder: Path, where: str, calls: str, steps: int = 1_000_000) -> tuple[int, str, Path]:
    source, destination = folder / "source", folder / "out"
    source.mkdir()
    for number in range(70):
        Image.fromarray(noise(number, 9, 9)).save(source / f"{number}.png")
    arguments = ["select", str(source), str(destination), "-n", "5", "--candidates", "64", "--steps", str(steps)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, where, calls, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
    )
    return done.returncode, done.stderr, destination


def test_the_first_interrupt_of_a_search_exports_the_best_so_far(tmp_path: Path) -> None:
    code, stderr, destination = run(tmp_path, "search", "2")
    assert code == 130
    assert "ending the search with the best so far" in stderr
    manifest = json.loads((destination / "manifest.json").read_text())
    assert manifest["interrupted"] is True
    assert len([point for point in manifest["trace"] if point["method"] == "exchanges"]) == 2
    assert all((destination / file["path"]).is_file() for file in manifest["files"])


@pytest.mark.parametrize("where", ["ingest", "copy"])
def test_an_interrupt_of_another_stage_leaves_nothing_behind(tmp_path: Path, where: str) -> None:
    code, stderr, destination = run(tmp_path, where, "1", steps=40)
    assert code == 130
    assert stderr.strip() == "imgsubset: interrupted"
    assert not destination.exists()
