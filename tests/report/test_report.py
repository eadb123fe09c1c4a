"""Reports: one page that shows what the record says, loads nothing, and is taken by no name for anything but text."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from conftest import Run, create, smooth
from PIL import Image

from imgsubset import Options, Selection, compare, export, score, select, split
from imgsubset.annotations.filters import list_candidates
from imgsubset.cli import report_files
from imgsubset.decoding.decode import MAX_THUMBNAIL_BYTES, THUMBNAIL_SIDE
from imgsubset.decoding.thumbnails import JpegThumbnail, make_thumbnails
from imgsubset.divergence_weights import Weights
from imgsubset.errors import OutputError, UsageError
from imgsubset.features.load import load_features
from imgsubset.features.metadata_encoding import MetadataChannels
from imgsubset.report import gather, page
from imgsubset.report.gather import _compute_contributions, make_metadata_histograms
from imgsubset.report.svg import _ticks
from imgsubset.report.write import write_csv, write_plot, write_report
from imgsubset.results.as_json import describe_selection
from imgsubset.search.quadratic import quadratic_form
from imgsubset.statistics.objective import make_objective

SMALL: dict[str, Any] = {
    **{"workers": 0, "candidates": 64, "steps": 20, "device": "cpu"},
    **{"networks": 2, "channels": (4, 6), "size": 16},
}
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'x' {{ 7 * 7 }}.png"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """What a page holds: its tags, their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def values(self) -> dict[str, float]:
        """The numbers of its tables that the record has too, by their places there."""
        cells = self.of("td")
        return {str(one["data-key"]): float(one["data-value"] or "nan") for one in cells if one.get("data-key")}

    def of(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of all tags of a kind."""
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def source(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in folders, of which one has a hostile name and two are copies."""
    root = tmp_path_factory.mktemp("reported") / "source"
    shutil.copytree(pictures, root)
    smooth(500, 40, 20).save(root / "class0" / HOSTILE.replace("/", "\u2044"))
    shutil.copy(root / "class1" / "001.png", root / "class1" / "copy.png")
    return root


@pytest.fixture(scope="module")
def selection(source: Path) -> Selection:
    return select(source, 30, evidence=True, match="image", **SMALL)


@pytest.fixture(scope="module")
def text(selection: Selection, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    write_report(selection, file, made=[("command", "imgsubset <b>")])
    return file.read_text()


@pytest.mark.slow
def test_the_page_shows_the_figures_of_the_record(selection: Selection, text: str) -> None:
    record = describe_selection(selection)
    values = Page(text).values
    for key, value in values.items():
        of: Any = record
        for part in key.split("."):
            of = of[part]
        assert value == of, key
    assert len(values) == 15
    size = selection.score.effective_size
    assert f"like about {size:,.0f} random ones" in Page(text).text
    embedded = re.search(r"<summary>The record of it.*?<pre>(.*?)</pre>", text, re.DOTALL)
    assert embedded is not None
    assert json.loads(html.unescape(embedded[1])) == json.loads(json.dumps(record))


def test_names_are_text_and_nothing_is_loaded(text: str) -> None:
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "b"} & {tag for tag, _ in page.tags}
    assert "<script>alert(1)<" not in text
    assert "49" not in [word.strip(".png") for word in page.text.split() if "alert" in word]
    assert "imgsubset <b>" in page.text
    assert all((image.get("src") or "").startswith("data:image/jpeg;base64,") for image in page.of("img"))
    assert not re.search(r"(?:href|src)=\"(?!data:image/jpeg)", text)
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)
    (policy,) = [one["content"] or "" for one in page.of("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert f"style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_a_page_is_utf8_whatever_names_are(folder: Path, tmp_path: Path) -> None:
    create(folder / "bad\udcffdir" / "1.png", (folder / "7.png").read_bytes())
    report = tmp_path / "report.html"
    write_report(select(folder, 4, stratify=True, evidence=True, **SMALL), report, made=[("odd \ud800", "word")])
    text = report.read_text("utf-8")
    assert "bad\ufffddir" in text
    assert "odd \ufffd" in text


def test_the_images_are_those_chosen_in_rank_order(selection: Selection, text: str) -> None:
    images = Page(text).of("img")
    assert tuple(image["alt"] for image in images[:30]) == selection.ranked
    for image in images:
        jpeg = b64decode((image["src"] or "").partition(",")[2])
        assert len(jpeg) <= MAX_THUMBNAIL_BYTES
        assert max(Image.open(BytesIO(jpeg)).size) == THUMBNAIL_SIDE
    notes = [image["alt"] for image in images[-2:]]
    assert notes == ["class1/001.png", "class1/copy.png"]


def test_small_pictures_keep_their_shape_and_tell_their_brightness(tmp_path: Path) -> None:
    Image.new("RGB", (300, 100), (255, 255, 255)).save(tmp_path / "white.png")
    pixels = np.zeros((100, 50, 3), np.uint8)
    pixels[50:] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    white, half, broken, gone = make_thumbnails(
        [tmp_path / name for name in ("white.png", "half.png", "broken.png", "x.png")]
    )
    assert broken is gone is None
    assert white is not None
    assert Image.open(BytesIO(white.jpeg)).size == (96, 32)
    assert (white.brightness, white.contrast) == pytest.approx((1, 0), abs=0.01)
    assert half is not None
    assert Image.open(BytesIO(half.jpeg)).size == (48, 96)
    assert (half.brightness, half.contrast) == pytest.approx((0.5, 0.5), abs=0.03)


def test_the_subset_stands_among_random_ones(selection: Selection) -> None:
    assert selection.evidence is not None
    held_out, searched, *columns = selection.evidence.strip_plots
    assert held_out.subset == pytest.approx(selection.score.loss, rel=1e-4)
    assert searched.subset == pytest.approx(selection.score.searched_loss, rel=1e-4)
    for strip in (held_out, searched):
        assert np.mean(strip.random) == pytest.approx(1, abs=0.2)
    assert searched.fraction_closer == 0
    assert len(columns) == 5
    met = {f"{one.name} ({block.name})": one for block in selection.score.searched for one in block.columns}
    for strip in columns:
        assert (strip.subset, strip.whole) == pytest.approx((met[strip.name].subset, met[strip.name].source))
        assert np.std(strip.random) == pytest.approx(met[strip.name].random_std, rel=0.25)


def test_shares_are_those_of_the_images(selection: Selection) -> None:
    assert selection.evidence is not None
    shares = {of.title: of for of in selection.evidence.shares}
    assert shares.keys() == {"brightness", "contrast", "sharpness", "file size", "saturation", "classes, by folder"}
    for of in shares.values():
        for one in (of.whole, of.subset, of.random):
            assert sum(one) == pytest.approx(1)
    chosen = [path.split("/")[0] for path in selection.chosen]
    folders = shares["classes, by folder"]
    assert folders.subset == tuple(chosen.count(name) / 30 for name in folders.names)


def test_what_is_matched_is_shown_by_its_numbers_and_values() -> None:
    known = {
        "t.csv": MetadataChannels(
            ("weight", "length", "city=x", "city=y", "brightness"),
            np.array([[0, 1, 1, 0, 0.5], [1, 1, 1, 0, 0.6], [2, 5, 0, 1, 0.7], [8, 1, 1, 1, 0.8]]),
        )
    }
    length, weight, values = make_metadata_histograms(
        known, (range(4), [0, 2], [3])
    )  # means are off by 1 of 2; by 1.75 of 3.1
    assert (weight.title, weight.sampled) == ("weight", 4)
    assert (weight.names[0], weight.names[-1]) == ("0", "8")
    assert (weight.whole[0], weight.whole[-1], weight.subset[0], weight.random[-1]) == (0.25, 0.25, 0.5, 1)
    assert length.title == "length"
    assert (values.names, values.whole, values.subset, values.random) == (
        *(("city=x", "city=y"), (0.75, 0.5), (0.5, 0.5), (1, 1)),
    )


def test_a_long_record_is_named_by_its_place(selection: Selection, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(page, "MAX_EMBEDDED_CHARACTERS", 100)
    exported = export(selection, tmp_path / "a #&b" / "subset")
    write_report(selection, tmp_path / "r" / ".." / "report.html", exported)
    (link,) = Page((tmp_path / "report.html").read_text()).of("a")
    assert (tmp_path / unquote(link["href"] or "")).resolve() == exported.destination / "manifest.json"
    write_report(selection, tmp_path / "alone.html")
    assert not Page((tmp_path / "alone.html").read_text()).of("a")


@pytest.mark.slow
def test_parts_of_a_split_share_the_pictures_of_the_sample(source: Path, monkeypatch: Any) -> None:
    made: list[bytes] = []

    def thumbnails_of(files: Any) -> list[JpegThumbnail | None]:
        made.extend(files)
        return make_thumbnails(files)

    monkeypatch.setattr(gather, "make_thumbnails", thumbnails_of)
    found = split(source, {"a": 20, "b": 30}, evidence=True, **SMALL)
    assert len(made) == len(set(made))
    assert all(part.evidence and len(part.evidence.chosen) == len(part.chosen) for part in found.values())


def test_what_an_image_contributes_is_what_its_absence_costs(source: Path) -> None:
    """To second order: against the squared length of the mean of z without it."""
    options = Options(**SMALL)
    read = load_features(list_candidates(source, options), options).standardise()
    goal = make_objective(read.blocks, 12, Weights())
    rows = torch.arange(0, 120, 10)
    found = _compute_contributions(read, goal, rows)
    z = quadratic_form(goal).embed(rows).double()
    for place, row in enumerate(rows.tolist()):
        without = torch.cat([z[:place], z[place + 1 :]]).mean(0).square().sum() - z.mean(0).square().sum()
        assert found[read.paths[row]] == pytest.approx(float(without), rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_a_line_an_image(selection: Selection, source: Path, tmp_path: Path) -> None:
    write_csv(selection, tmp_path / "images.csv")
    with (tmp_path / "images.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["path"] for row in rows] == list(selection.paths)
    assert {row["path"]: int(row["rank"]) for row in rows if row["chosen"] == "1"} == {
        path: rank for rank, path in enumerate(selection.ranked, 1)
    }
    assert all((row["contribution"] == "") == (row["chosen"] == "0") for row in rows)
    assert {row["class"] for row in rows} == {"class0", "class1", "class2"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_one_figure(selection: Selection, tmp_path: Path, name: str, start: bytes) -> None:
    write_plot(selection, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_what_cannot_be_shown(selection: Selection, source: Path, tmp_path: Path) -> None:
    plain = select(source, 5, **SMALL)
    with pytest.raises(UsageError, match="without evidence=True"):
        write_report(plain, tmp_path / "a.html")
    with pytest.raises(UsageError, match=r"plot 'a\.gif' is none of"):
        write_plot(selection, "a.gif")
    with pytest.raises(OutputError, match="is a folder"):
        write_report(selection, tmp_path)
    with pytest.raises(OutputError, match="No such file"):
        write_report(selection, tmp_path / "gone" / "a.html")


@pytest.mark.slow
def test_a_score_has_the_same_report(selection: Selection, source: Path, tmp_path: Path) -> None:
    export(selection, tmp_path / "out")
    found = score(source, tmp_path / "out", evidence=True, workers=0)
    assert found.evidence is not None
    assert selection.evidence is not None
    assert found.evidence.strip_plots == selection.evidence.strip_plots
    assert found.evidence.ranked == selection.evidence.ranked
    write_report(found, tmp_path / "a.html")
    assert f"30 of 122 images of {source}" in Page((tmp_path / "a.html").read_text()).text


@pytest.mark.slow
def test_from_the_command_line(
    imgsubset: Callable[..., Run], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "--workers=0",
        "--candidates=64",
        "--steps=20",
        "--device=cpu",
        "--networks=2",
        "--channels=4,6",
        "--size=16",
    ]
    files = ["--report", tmp_path / "a.html", "--plot", tmp_path / "a.png", "--csv", tmp_path / "a.csv"]
    out = tmp_path / "out"
    assert imgsubset("select", source, out, "-n", 10, *files, *words).code == 0
    first = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").unlink()
    again = imgsubset("select", source, out, "-n", 10, *files, *words)
    assert "already holds" in again.out
    assert (tmp_path / "a.csv").read_text() == first
    assert imgsubset("score", source, out, "--report", tmp_path / "b.html").code == 0
    for option, place, why in (
        ("--report", source / "a.html", "would change the source"),
        ("--report", out / "a.html", "lies in DST"),
        ("--csv", tmp_path / "gone" / "a.csv", "lies in none"),
        ("--plot", tmp_path / "a.gif", "is none of"),
    ):
        run = imgsubset("select", source, out, "-n", 11, option, place, *words)
        assert (run.code, why in run.err) == (2, True), run.err
    same = imgsubset("select", source, out, "-n", 11, "--report", tmp_path / "c", "--csv", tmp_path / "c", *words)
    assert same.code == 2
    monkeypatch.setattr(report_files, "find_spec", lambda name: None)
    run = imgsubset("select", source, out, "-n", 11, "--report", tmp_path / "a.html", *words)
    assert (run.code, "pip install 'imgsubset[report]'" in run.err) == (2, True)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.2, 3.3, [1, 2, 3]), (-1, 1, [-1, -0.5, 0, 0.5, 1]), (5, 5, [5])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert _ticks(low, high) == pytest.approx(expected)


@pytest.fixture(scope="module")
def darker(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Darkened, blurred and larger copies of half of the pictures."""
    root = tmp_path_factory.mktemp("darker") / "darker"
    root.mkdir()
    for number, path in enumerate(sorted(source.rglob("*.png"))[::2]):
        picture = Image.open(path).convert("RGB").resize((6, 6)).resize((60, 60), Image.Resampling.BICUBIC)
        picture.point(lambda value: value // 3).save(root / f"{number}.bmp")
    return root


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
def test_two_folders(source: Path, darker: Path, tmp_path: Path) -> None:
    found = compare(source, darker, evidence=True, **{**SMALL, "candidates": 1024})
    report_files = found.contrast
    assert report_files is not None
    assert [strip.name for strip in report_files.strip_plots] == [
        "loss",
        "kl",
        "js",
        "wasserstein",
        "hellinger",
        "frechet",
    ]
    assert report_files.strip_plots[0].subset == found.loss.value
    assert np.mean(report_files.strip_plots[0].random) == pytest.approx(found.loss.floor_mean)
    words = " ".join(report_files.words)
    assert all(word in words for word in ("darker", "blurrier", "larger files"))
    assert "brighter" not in words
    assert "less of class class0 (0% against 34%)" in words
    assert [len(images) for images in report_files.dissimilar] == [24, 24]
    assert {image.path for image in report_files.dissimilar[0]} <= {path.name for path in darker.iterdir()}
    assert {image.note for image in report_files.dissimilar[1]} <= {
        "brighter",
        "sharper",
        "smaller files",
        "more contrast",
    }
    write_report(found, tmp_path / "a.html")
    page = Page((tmp_path / "a.html").read_text())
    assert "differ by more than chance" in page.text
    assert page.values == {"loss.value": found.loss.value} | {
        f"{kind}.{name}.value": of.value
        for kind, figures in (("divergences", found.divergences), ("overlaps", found.overlaps))
        for name, of in figures.items()
    }
    assert "than by chance lies where darker has few images: recall, coverage." in page.text
    assert compare(source, darker, **SMALL).contrast is None


@pytest.mark.slow
def test_parts_and_jobs_are_a_row_each(imgsubset: Callable[..., Run], source: Path, tmp_path: Path) -> None:
    words = [
        "--workers=0",
        "--candidates=64",
        "--steps=20",
        "--device=cpu",
        "--networks=2",
        "--channels=4,6",
        "--size=16",
    ]
    run = imgsubset(
        "split", source, tmp_path / "parts", "a=20", "b=30", "--report", tmp_path / "a.html", "--json", *words
    )
    assert run.code == 0, run.err
    page = Page((tmp_path / "a.html").read_text())
    parts = json.loads(run.out)["parts"]
    assert page.values == {f"{name}.score.loss": part["score"]["loss"] for name, part in parts.items()}
    assert len(page.of("img")) == 50
    (tmp_path / "jobs.toml").write_text(
        f'[defaults]\nn = 9\nsource = "{source}"\nworkers = 0\ncandidates = 16\nsteps = 2\nsize = 16\nnetworks = 1\n'
        '[jobs.good]\ndestination = "good"\nreport = "good.html"\n[jobs.bad]\nsource = "gone"\ndestination = "bad"\n'
    )
    assert imgsubset("batch", tmp_path / "jobs.toml", "--report", tmp_path / "b.html").code == 8
    text = Page((tmp_path / "b.html").read_text()).text
    assert "1 of 2 are there" in text
    assert "cannot read source" in text
    assert (tmp_path / "good.html").exists()


@pytest.mark.slow
def test_estimates_are_a_page_too(imgsubset: Callable[..., Run], source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    selection = select(source, 20, **SMALL)
    export(selection, out)
    with (tmp_path / "r.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "<i>a</i>", "b"])
        rows.writerows((path, place % 2, int(place % 3 > 0)) for place, path in enumerate(selection.chosen))
    run = imgsubset("estimate", source, out, tmp_path / "r.csv", "--report", tmp_path / "a.html", "--json")
    assert run.code == 0, run.err
    record = json.loads(run.out)
    page = Page((tmp_path / "a.html").read_text())
    assert "<i>a</i>" in page.text
    assert not page.of("i")
    assert page.values == {
        f"{kind}.{place}.{name}": one[name]
        for kind in ("estimates", "differences")
        for place, one in enumerate(record[kind])
        for name in ("subset", "value", "low", "high")
    }


def browse(file: Path, width: int, script: str, folder: Path) -> Any:
    """What a script finds in a page that a browser shows, as it does offline."""
    probe = folder / "probe.html"
    # The page allows no script, so that another page looks into it.
    probe.write_text(
        f'<iframe id="f" src="{file.name}" width="{width}" height="900" style="border:0"></iframe><pre id="o"></pre>'
        "<script>f.onload=()=>{const d=f.contentDocument;"
        f"o.textContent=JSON.stringify((()=>{{{script}}})())}}</script>"
    )
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000",
               "--enable-logging=stderr", "--dump-dom", probe.as_uri()]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="o">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found is not None, run.stderr[-2000:]
    assert not re.findall(r"CONSOLE.*", run.stderr)
    return json.loads(html.unescape(found[1]))


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_a_browser_shows_it(text: str, width: int, tmp_path: Path) -> None:
    if BROWSER is None:
        assert not os.environ.get("CI"), "CI needs Chromium: apt-get install chromium"
        pytest.skip("no Chromium: the page was looked at by no browser")
    (tmp_path / "report.html").write_text(text)
    script = """
        const wide = [...d.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, svg')
            && e.getBoundingClientRect().right > d.documentElement.clientWidth + 1);
        return {
            images: [...d.images].map(i => i.naturalWidth),
            titles: [...d.querySelectorAll('h2')].map(h => h.textContent),
            wide: wide.map(e => e.tagName), scrolls: d.documentElement.scrollWidth > d.documentElement.clientWidth,
            tables: d.querySelectorAll('table thead th[scope=col]').length,
            figures: [...d.querySelectorAll('svg[role=img]')].every(s => s.getAttribute('aria-label')),
            loaded: f.contentWindow.performance.getEntriesByType('resource')
                .filter(e => !e.name.startsWith('data:')).map(e => e.name),
            styled: getComputedStyle(d.body).maxWidth,
        };"""
    found = browse(tmp_path / "report.html", width, script, tmp_path)
    assert found["images"]
    assert min(found["images"]) > 0
    assert found["titles"] == [
        "How good is this subset?",
        "Where does it still differ?",
        "What is in it?",
        "How was it made?",
    ]
    assert (found["wide"], found["scrolls"], found["loaded"]) == ([], False, [])
    assert found["tables"] > 8
    assert found["figures"]
    assert found["styled"] != "none"
