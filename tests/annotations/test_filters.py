from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, listing_of, strict_json

from imgsubset.annotations.filters import filter_candidates
from imgsubset.errors import UsageError
from imgsubset.options import Options

PATHS = ("a.jpg", "a.png", "b/a.jpg", "b/c/a.jpg", "b/c/d.png", "c/a.png", "c/b.jpg", "d.png")


def kept(paths: tuple[str, ...] = PATHS, **options: object) -> tuple[str, ...]:
    """What is left of these paths, filtered once or twice."""
    listing = listing_of(Path("source"), paths, ignored=5)
    wanted = Options(**options)  # type: ignore[arg-type]
    found = filter_candidates(listing, wanted)
    assert found.ignored - 5 == len(paths) - len(found.paths)
    assert filter_candidates(found, wanted) is found
    return found.paths


@pytest.mark.parametrize(
    ("patterns", "matched"),
    [
        (["*.png"], {"a.png", "b/c/d.png", "c/a.png", "d.png"}),
        (["/*.png"], {"a.png", "d.png"}),
        (["a.*"], {"a.jpg", "a.png", "b/a.jpg", "b/c/a.jpg", "c/a.png"}),
        (["b/"], {"b/a.jpg", "b/c/a.jpg", "b/c/d.png"}),
        (["c"], {"b/c/a.jpg", "b/c/d.png", "c/a.png", "c/b.jpg"}),
        (["/c"], {"c/a.png", "c/b.jpg"}),
        (["b/c"], {"b/c/a.jpg", "b/c/d.png"}),
        (["b/*"], {"b/a.jpg", "b/c/a.jpg", "b/c/d.png"}),
        (["b/*.jpg"], {"b/a.jpg"}),
        (["b/**/*.jpg"], {"b/a.jpg", "b/c/a.jpg"}),
        (["**/c/*.png"], {"b/c/d.png", "c/a.png"}),
        (["b/**"], {"b/a.jpg", "b/c/a.jpg", "b/c/d.png"}),
        (["?.png"], {"a.png", "b/c/d.png", "c/a.png", "d.png"}),
        (["[b-d].*"], {"b/c/d.png", "c/b.jpg", "d.png"}),
        (["*.png", "!a.png"], {"b/c/d.png", "d.png"}),
        (["*.png", "!/a.png"], {"b/c/d.png", "c/a.png", "d.png"}),
        (["!a.png", "*.png"], {"a.png", "b/c/d.png", "c/a.png", "d.png"}),
        (["*.png", "!a.png", "c/a.png"], {"b/c/d.png", "c/a.png", "d.png"}),
        (["A.JPG", "none/", "#a.jpg", "\\*.jpg"], set()),
    ],
)
def test_patterns_go_by_the_rules_of_gitignore(patterns: list[str], matched: set[str]) -> None:
    assert kept(exclude=tuple(patterns)) == tuple(path for path in PATHS if path not in matched)
    assert kept(include=tuple(patterns)) == tuple(path for path in PATHS if path in matched)


def test_a_folder_named_last_is_excluded_whatever_was_said_before() -> None:
    assert kept(exclude=("*.jpg", "!b/*.jpg", "b/")) == ("a.png", "c/a.png", "d.png")


def test_include_and_exclude_combine() -> None:
    assert kept(include=("*.png",), exclude=("/c/",)) == ("a.png", "b/c/d.png", "d.png")
    assert kept(include=("b/", "c/"), exclude=("*.jpg", "!b/a.jpg")) == ("b/a.jpg", "b/c/d.png", "c/a.png")
    assert kept(include=("*.png",), exclude=("*.png",)) == ()


@pytest.mark.parametrize("name", ["a b.png", "a[1].png", "naïve.png", "\udcff.png", "!a.png", "#a.png", "a\\b.png"])
def test_odd_names_are_matched_like_others(name: str) -> None:
    paths = (f"x/{name}", "z.jpg")
    assert kept(paths, exclude=("*.png",)) == ("z.jpg",)
    assert kept(paths, include=("x/",)) == (f"x/{name}",)
    escaped = "".join("\\" + c if c in "[]!#\\" else c for c in name)
    assert kept(paths, exclude=(escaped,)) == ("z.jpg",)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_makes_no_sense_is_named(option: str) -> None:
    with pytest.raises(UsageError, match=r"^pattern '!': "):
        kept(**{option: ("*.png", "!")})


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_masks_are_no_candidates_in_any_mode(mode: str) -> None:
    paths = ("v/Annotations/a.png", "v/JPEGImages/a.jpg", "v/SegmentationClass/a.png", "w/SegmentationClass/a.png")
    assert kept(paths, sidecars=mode) == ("v/JPEGImages/a.jpg", "w/SegmentationClass/a.png")
    assert kept(paths, sidecars=mode, include=("*.png",)) == ("w/SegmentationClass/a.png",)


def test_what_a_template_leads_to_is_no_candidate() -> None:
    paths = ("a.jpg", "b.jpg", "masks/a.png", "masks/c.png")
    assert kept(paths, sidecars="masks/{stem}.png") == ("a.jpg", "b.jpg", "masks/c.png")
    with pytest.raises(UsageError, match="leads out of the source"):
        kept(paths, sidecars="../{stem}.png")


FAST = "--candidates 64 --chains 1 --steps 40 --size 16 --channels 8 --device cpu --workers 0".split()


@pytest.mark.slow
def test_the_excluded_are_as_if_they_were_not_there(
    imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path
) -> None:
    plain = imgsubset("select", pictures / "class1", "-n", 5, "--mode", "none", "--json", *FAST)
    runs = [
        imgsubset("select", pictures, "-n", 5, "--mode", "none", "--json", *FAST, *more)
        for more in (["--include", "/class1/"], ["--exclude", "class0", "--exclude=class2/"], ["--exclude=*[05].png"])
    ]
    alone, one, two, other = (strict_json(run.out) for run in (plain, *runs))
    assert one["files"] == two["files"]
    assert [file["path"] for file in one["files"]] == [f"class1/{file['path']}" for file in alone["files"]]
    assert one["score"] == two["score"] == alone["score"]
    assert (one["counts"]["usable"], one["counts"]["ignored"]) == (40, 80)
    assert other["counts"]["usable"] == 96
    assert other["score"] != one["score"]


def test_patterns_that_leave_nothing_or_make_no_sense(
    imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path
) -> None:
    run = imgsubset("select", pictures, tmp_path / "out", "-n", 5, "--include", "*.jpg", *FAST)
    assert (run.code, run.out) == (3, "")
    assert "no images in source" in run.err
    run = imgsubset("select", pictures, tmp_path / "out", "-n", 5, "--exclude", "!", *FAST)
    assert (run.code, run.out) == (2, "")
    assert "'!'" in run.err
    assert not (tmp_path / "out").exists()


def test_a_class_of_characters_by_name_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"^pattern '\[\[:alpha:\]\]\*\.png': \[:alpha:\] is not understood"):
        kept(exclude=("[[:alpha:]]*.png",))
