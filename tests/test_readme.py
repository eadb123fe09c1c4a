"""The README and the pages that it leads to say what the program does: their commands run as pasted.

Only the searches are smaller than those of somebody who pastes, and the comparisons: their length is no matter of the
pages.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from PIL import Image

import imgsubset as package

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {page.name: page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "examples").glob("*.md")))}
SMALL = {"candidates": 16, "steps": 4}
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
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "photos")
    np.save(tmp_path / "emb.npy", random.normal(size=(120, 8)))
    (tmp_path / "paths.txt").write_text("\n".join(paths[:120]))
    labels = [f"{path},{'night' if number % 5 else 'day'}" for number, path in enumerate(paths[:120])]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *labels]))
    known = [f"{path},{number % 90},{'fm'[number % 2]}" for number, path in enumerate(paths[:120])]
    (tmp_path / "patients.csv").write_text("\n".join(["path,age,sex", *known]))
    results = [f"{path},{number % 3 > 0:d},{number % 2}" for number, path in enumerate(paths[:120])]
    (tmp_path / "results.csv").write_text("\n".join(["path,large,small", *results]))
    scores = [f"{path},{random.uniform():.3f},{random.normal():.3f}" for path in paths[:120]]
    (tmp_path / "scores.csv").write_text("\n".join(["path,p,margin", *scores]))
    for path in paths[:60]:
        image, label = (tmp_path / "yolo" / kind / Path(path).name for kind in ("images", "labels"))
        for file in (image, label):
            file.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes((tmp_path / "photos" / path).read_bytes())
        boxes = [f"{random.integers(2)} 0.5 0.5 0.2 {random.uniform(0.1, 1):.2f}\n" for _ in range(random.integers(3))]
        label.with_suffix(".txt").write_text("".join(boxes))
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


def blocks(language: str, page: str = "") -> list[str]:
    """The code of a language in a page, or in all of them."""
    texts = [PAGES[page]] if page else PAGES.values()
    return [block for text in texts for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)]


def test_the_reference_of_options_is_made_from_the_commands() -> None:
    spec = importlib.util.spec_from_file_location("options_page", ROOT / "examples" / "options.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert PAGES["options.md"] == module.page()


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert README.count("\n") <= 180
    for name, text in PAGES.items():
        folder = ROOT if name == "README.md" else ROOT / "examples"
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert link.startswith("https://") or (folder / link).exists(), f"{name}: {link}"


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
@pytest.mark.parametrize("page", [name for name in PAGES if blocks("console", name)])
def test_the_command_lines_run_as_pasted(page: str, photos: Path, imgsubset: Callable[..., Run]) -> None:
    lines = [line[2:] for block in blocks("console", page) for line in block.splitlines() if line.startswith("$ ")]
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
@pytest.mark.usefixtures("few_deals")
@pytest.mark.parametrize("page", [name for name in PAGES if blocks("python", name)])
def test_the_python_examples_run_as_pasted(page: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("select", "select_into", "split", "split_into"):
        monkeypatch.setattr(package, name, with_a_small_search(getattr(package, name)))
    for number, code in enumerate(blocks("python", page)):
        exec(compile(code, f"example {number}", "exec"), {"__name__": "__main__"})
