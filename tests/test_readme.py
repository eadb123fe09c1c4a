"""The README says what the program does: its commands run as pasted, and no option is missing.

Only the searches are smaller than those of somebody who pastes: their length is no matter of the README.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from conftest import Run
from PIL import Image

import imgsubset as package
from imgsubset import cli, errors

README = (Path(__file__).parent.parent / "README.md").read_text()
SMALL = {"candidates": 64, "steps": 20}
SEARCHING = ("select", "split", "demo")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the examples speak of: two folders of pictures, embeddings, a file of jobs."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(180):
        path = f"{number % 3}/patient{number // 6}_{number}.png"
        folder = tmp_path / ("photos" if number < 120 else "others")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cells = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((40, 30)).save(folder / path)
        paths.append(path)
    np.save(tmp_path / "emb.npy", random.normal(size=(120, 8)))
    (tmp_path / "paths.txt").write_text("\n".join(paths[:120]))
    labels = [f"{path},{'night' if number % 5 else 'day'}" for number, path in enumerate(paths[:120])]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *labels]))
    known = [f"{path},{number % 90},{'fm'[number % 2]}" for number, path in enumerate(paths[:120])]
    (tmp_path / "patients.csv").write_text("\n".join(["path,age,sex", *known]))
    results = [f"{path},{number % 3 > 0:d},{number % 2}" for number, path in enumerate(paths[:120])]
    (tmp_path / "results.csv").write_text("\n".join(["path,large,small", *results]))
    (tmp_path / "keep.txt").write_text(paths[0])
    (tmp_path / "drop.txt").write_text(paths[1])
    coco = {"images": [{"id": number, "file_name": path} for number, path in enumerate(paths[:120])], "annotations": []}
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    jobs = "".join(blocks("toml"))
    assert jobs.count("[defaults]") == 1
    small = "".join(f"\n{name} = {value}" for name, value in SMALL.items())
    (tmp_path / "jobs.toml").write_text(jobs.replace("[defaults]", f"[defaults]{small}"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(group: click.Group, prefix: str = "imgsubset") -> dict[str, click.Command]:
    """All commands by what a user writes."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        inner = isinstance(command, click.Group)
        found |= commands(command, f"{prefix} {name}") if inner else {f"{prefix} {name}": command}
    return found


@pytest.mark.parametrize(("name", "command"), commands(cli.program).items())
def test_every_command_and_option_is_in_the_readme(name: str, command: click.Command) -> None:
    assert f"| `{name} " in README or f", `{name}`" in README or f"| `{name}`" in README
    rows = re.findall(r"^\| (`-[^|]*) \| ([^|]*) \|", README, flags=re.MULTILINE)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and name != "imgsubset demo":
            row = re.compile(rf".*`{max(parameter.opts, key=len)}[ `]")
            of = [owner for names, owners in rows if row.match(names) for owner in owners.split(", ")]
            assert name.removeprefix("imgsubset ") in of, parameter.opts


def test_the_exit_codes_are_those_of_the_errors() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| ([^|]*) \|$", README, flags=re.MULTILINE))
    codes = {error.exit_code for error in vars(errors).values() if isinstance(error, type)}
    assert {int(code) for code in rows} == codes | {0, 129, 130, 141, 143}
    assert {int(code): meaning.replace("`", "") for code, meaning in rows.items()} == errors.EXIT_CODES


@pytest.mark.slow
def test_the_command_lines_run_as_pasted(photos: Path, imgsubset: Callable[..., Run]) -> None:
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "imgsubset"
        if arguments[0] in SEARCHING:
            arguments += [f"--{name}={value}" for name, value in SMALL.items() if f"--{name}" not in line]
        run = imgsubset(*arguments)
        assert run.code == 0, run.err


def with_a_small_search(task: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **named: task(*arguments, **named | SMALL)


@pytest.mark.slow
def test_the_python_examples_run_as_pasted(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("select", "select_into", "split", "split_into"):
        monkeypatch.setattr(package, name, with_a_small_search(getattr(package, name)))
    assert blocks("python")
    for number, code in enumerate(blocks("python")):
        exec(compile(code, f"example {number}", "exec"), {"__name__": "__main__"})
