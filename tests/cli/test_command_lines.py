"""Command lines made up at random: each ends with a documented exit code and, if it fails, with one line.

IMGSUBSET_FUZZ is how many of them, as in test_fuzz.py.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from conftest import Run, create, smooth, strict_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgsubset import cli
from imgsubset.errors import EXIT_CODES

EXAMPLES = int(os.environ.get("IMGSUBSET_FUZZ", "0"))
SMALL = ["--size=16", "--channels=4,4", "--device=cpu", "--workers=0", "--no-cache"]
SEARCH = [*SMALL, "--candidates=8", "--steps=2", "--chains=1"]
STARTS = {  # what makes sense, and is over soon
    "select": ["source", "out", "-n", "3", *SEARCH],
    "split": ["source", "sets", "a=2", "b=3", *SEARCH],
    "score": ["source", "list.txt", *SMALL],
    "estimate": ["source", "list.txt", "results.csv", *SMALL],
    "compare": ["source", "list.txt", *SMALL],
    "verify": ["out"],
    "batch": ["jobs.toml"],
    "embed": ["source", "--size=16", "--channels=4,4", "--device=cpu", "--workers=0"],
    "cache info": [],
    "cache clear": [],
}
SENSIBLE = {
    **{key: ["list.txt", "-", "new.txt"] for key in ("paths", "keep", "drop", "list_file")},
    **{key: ["first", "parent", "([a-c])"] for key in ("stratify_by", "group_by")},
    **{key: ["0", "1", "9"] for key in ("max_loss", "min_size", "target_loss", "target_size")},
    **{key: ["0", "3"] for key in ("pca", "steps", "seed", "feature_seed")},
    **{key: ["*.png", "a*", "!a.png"] for key in ("include", "exclude")},
    **{key: ["kept"] for key in ("cache", "folder")},
    "n": ["1", "50%", "auto"],
    "mode": ["symlink", "hardlink", "none"],
    "fields": ["n", "n,score", "done", "good", "jobs", "loss"],
    "embeddings": ["emb.npy"],
    "labels": ["labels.csv"],
    "coco": ["coco.json"],
    "time_limit": ["1s", "0.1"],
    "weights": ["kl=1", "1,1,1,1,1"],
}
WORDS = [
    *("source", "out", "absent", "list.txt", "emb.npy", "-", "--", "", ".", "..", "/dev/null", "source/a.png", "~"),
    *("0", "-1", "3", "10%", "0.1", "1e9", "nan", "inf", "9" * 30, "auto", "none", "a=1", "=", "kl=nan", "1,2,3"),
    *("(", "([a-z]+)", "[", "*", "é", "\udcff", "x\ny", "a" * 300, "--wat", "--resume", "-h", "--help", "-qv", "-n3"),
]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command line that makes sense, with a few more words that may not."""
    name = draw(st.sampled_from([*STARTS]))
    command: click.Command = cli.program
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    options = [one for one in command.params if isinstance(one, click.Option)]
    words = [*name.split(), *STARTS[name]]
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.integers(0, 5)):
            option = draw(st.sampled_from(options))
            words.append(draw(st.sampled_from(option.opts)))
            if not option.is_flag:
                sensible = SENSIBLE.get(option.name or "", WORDS)
                words.append(draw(st.sampled_from(sensible) | st.sampled_from(WORDS)))
        else:
            words.append(draw(st.sampled_from(WORDS)))
    return [*words, *draw(st.sampled_from([[], ["--json"]]))]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the words speak of."""
    root = tmp_path_factory.mktemp("here")
    (root / "source").mkdir()
    for number, name in enumerate("abcdefgh"):
        smooth(number, 12, 12).save(root / "source" / f"{name}.png")
    create(root / "list.txt", b"source/a.png\nsource/b.png\n")
    create(root / "results.csv", b"path,x\na.png,1\nb.png,0\n")
    create(root / "labels.csv", b"path,label\na.png,x\n")
    create(root / "coco.json", b'{"images": [], "annotations": []}')
    keys = "n = 2\nsize = 16\nchannels = '4,4'\nworkers = 0\nsteps = 2\ncandidates = 8\nmode = 'none'\n"
    create(root / "jobs.toml", f"[defaults]\n{keys}[jobs.one]\nsource = 'source'\n".encode())
    np.save(root / "emb.npy", np.random.default_rng(0).normal(size=(2, 3)))
    return root


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("few_deals")
@settings(
    max_examples=EXAMPLES or 50,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(words=command_lines())
def test_any_command_line_ends_in_order(
    here: Path, imgsubset: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"source/a.png\n")))
    run = imgsubset(*words)
    assert run.code in {*EXIT_CODES} - {1}
    if run.code:
        assert run.err.startswith("imgsubset: error: ")
        assert run.err.count("\n") == 1
    if words[-1] == "--json" and run.out.startswith("{"):
        strict_json(run.out)
