"""What reaches stdout, and in which form."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, create, strict_json

from imgsubset.cli.output import fit_to_terminal
from imgsubset.results.as_json import RECORD_KEYS

Program = Callable[..., Run]
SMALL = ("--candidates", 8, "--chains", 1, "--steps", 2, "--size", 16, "--channels", "8,8", "--device", "cpu")
READING = (*SMALL[6:], "--workers", 0, "--no-cache")


class Terminal(io.StringIO):
    """A stream that says that it is one."""

    def isatty(self) -> bool:
        return True


def test_lines_end_between_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    text = "a  table of  columns\n\nNote: words that do not fit in a line\n" + "x" * 30
    broken = "a  table of  columns\n\nNote: words that do\nnot fit in a line\n" + "x" * 30
    assert fit_to_terminal(text, Terminal()) == broken
    assert fit_to_terminal(text, io.StringIO()) == text
    assert fit_to_terminal(text, None) == text


@pytest.fixture
def commands(folder: Path, tmp_path: Path, imgsubset: Program) -> dict[str, list[object]]:
    """Command lines by what they print."""
    out = tmp_path / "out"
    assert imgsubset("select", folder, out, "-n", 3, *SMALL, "--workers", 0, "--no-cache").code == 0
    keys = "size = 16\nchannels = '8,8'\nworkers = 0\nsteps = 2\ncandidates = 8\nmode = 'none'\n"
    jobs = create(tmp_path / "jobs.toml", f"[jobs.one]\nn = 2\nsource = 'source'\n{keys}".encode())
    return {
        "placed": ["select", folder, "--mode", "none", "-n", 2, *SMALL, "--workers", 0, "--no-cache"],
        "parts,done": ["split", folder, tmp_path / "sets", "a=3", "--dry-run", *SMALL, "--workers", 0, "--no-cache"],
        "scored": ["score", folder, out, *READING],
        "comparison": ["compare", folder, out, *READING],
        "verification": ["verify", out],
        "jobs": ["batch", jobs],
    }


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
@pytest.mark.parametrize("name", ["placed", "parts,done", "scored", "comparison", "verification", "jobs"])
def test_fields_are_those_of_the_object(imgsubset: Program, commands: dict[str, list[object]], name: str) -> None:
    keys = RECORD_KEYS.get(name) or tuple(name.split(","))
    whole = imgsubset(*commands[name], "--json")
    assert whole.code == 0, whole.err
    assert {*strict_json(whole.out)} == {*keys}
    some = imgsubset(*commands[name], "--json", "--fields", f"{keys[-1]}, {keys[0]}")
    assert some.code == 0, some.err
    assert {*strict_json(some.out)} == {keys[-1], keys[0]}


def test_a_field_that_is_none_is_named_with_those_that_are(imgsubset: Program, tmp_path: Path) -> None:
    run = imgsubset("verify", tmp_path, "--json", "--fields", "good,bad")
    assert run.code == 2
    for text in (run.err, strict_json(run.out)["error"]):
        assert "'bad' is not one of folder, checked, missing, changed, extra, good" in text
    assert run.err.count("\n") == 1


def test_fields_without_an_object_are_refused(imgsubset: Program, tmp_path: Path) -> None:
    run = imgsubset("verify", tmp_path, "--fields", "good")
    assert (run.code, run.out) == (2, "")
    assert "--fields goes with --json" in run.err
