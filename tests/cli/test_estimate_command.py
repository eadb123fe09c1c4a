"""imgsubset estimate: what it prints, and how it fails."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Run, strict_json

from imgsubset.results.as_json import RECORD_KEYS

Program = Callable[..., Run]
FAST = ("--workers", 0, "--no-cache", "--networks", 1, "--channels", "4", "--size", 16, "--device", "cpu")
SEARCH = ("--candidates", 8, "--steps", 2)


@pytest.fixture
def subset(imgsubset: Program, pictures: Path, tmp_path: Path) -> Path:
    """30 of 120 pictures in three classes."""
    run = imgsubset("select", pictures, tmp_path / "out", "-n", 30, "--stratify", *FAST, *SEARCH)
    assert run.code == 0, run.err
    return tmp_path / "out"


def results(subset: Path, *columns: str) -> list[str]:
    """A table of results on a subset, the same in all columns: three of four are right."""
    paths = sorted(str(path.relative_to(subset)) for path in subset.rglob("*.png"))
    rows = [[path, *["yes" if place % 4 else "no"] * len(columns)] for place, path in enumerate(paths)]
    return [",".join(row) for row in (["path", *columns], *rows)]


def write(file: Path, lines: list[str]) -> Path:
    file.write_text("\n".join(lines))
    return file


def test_a_line_a_result(imgsubset: Program, pictures: Path, subset: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "r.csv", results(subset, "one", "two"))
    run = imgsubset("estimate", pictures, subset, file, *FAST)
    assert (run.code, run.err) == (0, "")
    heading, _, *lines = run.out.splitlines()
    assert heading == f"30 of 120 images of {pictures}: {subset}"
    for name, line in zip(("one", "two"), lines, strict=False):
        assert line.startswith(f"{name}: 0.7")
        assert " on the subset, 0.7" in line
        assert " estimated for the whole (0.5" in line
        assert ", 95 %), as exact as " in line
        assert line.endswith(" random images")
    assert lines[3] == "one - two: 0 estimated for the whole (0 to 0, 95 %): not decided"
    assert "drawn at random" not in run.out


@pytest.mark.slow
def test_json_fields_and_silence(imgsubset: Program, pictures: Path, subset: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "r.csv", results(subset, "one", "two"))
    record = strict_json(imgsubset("estimate", pictures, subset, file, "--json", *FAST).out)
    assert set(record) == set(RECORD_KEYS["estimated"])
    assert [one["name"] for one in record["estimates"]] == ["one", "two"]
    assert (record["differences"][0]["first"], record["differences"][0]["decided"]) == ("one", False)
    assert record["options"]["stratify"] is True
    some = imgsubset("estimate", pictures, subset, file, "--json", "--fields", "estimates,n", "--columns", "two", *FAST)
    fields = strict_json(some.out)
    assert (fields.keys(), fields["n"]) == ({"n", "estimates"}, 30)
    (one,), (_, same) = fields["estimates"], record["estimates"]
    assert one == {name: value if name == "name" else pytest.approx(value) for name, value in same.items()}
    assert imgsubset("estimate", pictures, subset, file, "-q", *FAST) == Run(0, "", "")


@pytest.mark.slow
def test_how_others_were_drawn_is_told(
    imgsubset: Program, pictures: Path, subset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "r.csv", results(subset, "one"))
    chosen = strict_json(imgsubset("estimate", pictures, subset, file, "--json", *FAST).out)
    (subset / "manifest.json").unlink()
    plain = strict_json(imgsubset("estimate", pictures, subset, file, "--json", *FAST).out)
    assert plain["estimates"][0]["error"] != chosen["estimates"][0]["error"]
    assert (chosen["chosen"], plain["chosen"]) == (True, False)
    by_class = strict_json(imgsubset("estimate", pictures, subset, file, "--stratify", "--json", *FAST).out)
    assert by_class["estimates"] == chosen["estimates"]
    text = imgsubset("estimate", pictures, subset, file, "--stratify", *FAST).out
    assert "The intervals are right if the subset was drawn at random." in text
    listed = "\n".join(str(path) for path in subset.rglob("*.png"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(listed.encode())))
    piped = strict_json(imgsubset("estimate", pictures, "-", file, "--stratify", "--json", *FAST).out)
    assert piped["estimates"] == chosen["estimates"]
    both = imgsubset("estimate", "-", "-", file, *FAST)
    assert (both.code, both.out) == (2, "")


HOSTILE = {
    "nothing": (b"", 3),
    "one column": (b"path\na.png\n", 3),
    "not UTF-8": (b"path,x\n\xff\xfe,1\n", 3),
    "NUL": (b"path,x\na\0b,1\n", 3),
    "open quote": (b'path,x\n"a,1\n', 3),
    "a line too long": (b"path,x\na,1,2\n", 3),
    "names twice": (b"path,x,x\na,1,2\n", 3),
    "many columns": (b"path," + b",".join(b"%d" % k for k in range(20_000)) + b"\n", 3),
    "a huge field": (b"path,x\na," + b"1" * 300_000 + b"\n", 3),
    "escape": (b"path,x\n\x1b[31ma,1\n", 3),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0\0", 3),
}


@pytest.mark.parametrize(("content", "code"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_gets_one_line(
    imgsubset: Program, pictures: Path, tmp_path: Path, content: bytes, code: int
) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    run = imgsubset("estimate", pictures, pictures, tmp_path / "r.csv", *FAST)
    assert (run.code, run.out) == (code, "")
    assert run.err.startswith("imgsubset: error: ")
    assert run.err.count("\n") == 1
    assert len(run.err) < 5_000
    assert "\x1b" not in run.err


@pytest.mark.slow
def test_failures_have_their_codes(imgsubset: Program, pictures: Path, subset: Path, tmp_path: Path) -> None:
    lines = results(subset, "one")
    file, whole = write(tmp_path / "r.csv", lines[:-1]), write(tmp_path / "s.csv", lines)
    for arguments, code, words in (
        ((subset, file), 3, "lack 1 of the 30 images of the subset"),
        ((subset, tmp_path / "gone.csv"), 3, "cannot read results"),
        ((subset, tmp_path), 2, "is none of .csv"),
        ((tmp_path / "gone", whole), 3, "gone"),
        ((subset, file, "--columns", "three"), 2, "have no column 'three'"),
        ((subset, file, "--columns", ","), 2, "are not names separated by commas"),
        ((subset, whole, "--stratify", "--labels", "x.csv"), 3, "x.csv"),
        ((subset, file, "--fields", "n"), 2, "--fields goes with --json"),
        ((subset, file, "--cache", file), 2, "--cache"),
    ):
        more = FAST[:2] + FAST[3:] if "--cache" in arguments else FAST
        run = imgsubset("estimate", pictures, *arguments, *more)
        assert (run.code, run.out) == (code, ""), run.err
        assert words in run.err
        assert run.err.count("\n") == 1
    run = imgsubset("estimate", pictures, subset, file, "--json", *FAST)
    assert strict_json(run.out)["exit_code"] == 3
