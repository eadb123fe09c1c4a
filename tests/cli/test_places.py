"""Words of a command line that would make it write over what it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, create, tree

Program = Callable[..., Run]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("{s} {d} --cache {s}", "--cache '{s}' is SRC '{s}'"),
        ("{s} {d} --cache {s}/.cache", "--cache '{s}/.cache' lies in SRC '{s}'"),
        ("{s} {d} --cache {s}/../link/cache", "lies in SRC"),
        ("{s} {d} --cache {d}", "--cache '{d}' is DST '{d}'"),
        ("{s} {d} --cache {d}/cache", "lies in DST"),
        ("{s} {d}/sub --cache {d}", "DST '{d}/sub' lies in --cache '{d}'"),
        ("{s} {d} --list {d}/manifest.json", "--list '{d}/manifest.json' lies in DST '{d}'"),
        ("{s} {d} --list {d}/list.txt", "lies in DST"),
        ("{s} {d} --keep {k} --list {k}", "--list '{k}' is --keep '{k}'"),
        ("{s} {d} --drop {k} --list {k}", "is --drop"),
        ("{s} {d} --stratify --labels {k} --list {k}", "is --labels"),
        ("{s} {d} --coco {k} --list {k}", "is --coco"),
        ("{s} {d} --embeddings {k} --paths {l} --list {k}", "is --embeddings"),
        ("{s} {d} --embeddings {k} --paths {l} --list {l}", "is --paths"),
        ("{k} {d} --list {k}", "--list '{k}' is SRC '{k}'"),
        ("{s} {d} --list {c}/list --cache {c}", "--list '{c}/list' lies in --cache '{c}'"),
    ],
)
def test_what_is_written_is_not_what_is_read(
    imgsubset: Program, folder: Path, tmp_path: Path, words: str, text: str
) -> None:
    names = {"s": folder, "d": tmp_path / "out", "k": tmp_path / "keep", "l": tmp_path / "paths", "c": tmp_path / "c"}
    for name in "kl":
        create(names[name], b"6.bmp\n")
    names["c"].mkdir()
    (tmp_path / "link").symlink_to("source")
    before, all_names = tree(tmp_path), sorted(tmp_path.rglob("*"))
    run = imgsubset("select", *words.format(**names).split(), "-n", 3)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert text.format(**names) in run.err
    assert (tree(tmp_path), sorted(tmp_path.rglob("*"))) == (before, all_names)


def test_other_commands_write_no_cache_into_what_they_read(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    for command in (["split", folder, tmp_path / "out", "a=2"], ["score", folder, folder], ["compare", folder, folder]):
        run = imgsubset(*command, "--cache", folder / "c")
        assert (run.code, run.err.count("\n")) == (2, 1)
        assert "lies in SRC" in run.err
    assert not (folder / "c").exists()


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ('[jobs.one]\ndestination = "out"\nlist = "-"', "'list' in [jobs.one] of"),
        ('[jobs.one]\ndestination = "out"\nlist = "out/list"', "lies in DST"),
        ('[jobs.one]\ndestination = "out"\ncache = "source"', "is SRC"),
        ('[jobs.one]\ndestination = "a"\nlist = "l"\n[jobs.two]\ndestination = "b"\nlist = "./l"', "the same list"),
    ],
)
def test_a_batch_is_held_to_the_same(imgsubset: Program, folder: Path, tmp_path: Path, lines: str, text: str) -> None:
    jobs = create(tmp_path / "jobs.toml", f'[defaults]\nsource = "source"\nn = 3\n{lines}\n'.encode())
    names = sorted(tmp_path.rglob("*"))
    run = imgsubset("batch", jobs)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert text in run.err
    assert sorted(tmp_path.rglob("*")) == names
