"""What pictures look like in numbers is matched by default, beside random CNNs, unless a user says otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, smooth, strict_json
from torch import Tensor

from imgsubset import Options, Selection, embed, estimate, score, select, split
from imgsubset.cli.batch import read_jobs
from imgsubset.errors import InputError, OutputError, UsageError
from imgsubset.inputs import Embeddings
from imgsubset.options import IMAGE_STATS_WEIGHT
from imgsubset.results.as_text import selection_summary
from imgsubset.results.scores import Score
from imgsubset.tasks.inputs import required_feature_views, resolve_inputs
from imgsubset.tasks.select import select_into

SMALL: dict[str, Any] = {
    **{"workers": 0, "candidates": 32, "steps": 10, "device": "cpu"},
    **{"networks": 2, "channels": (4, 6), "size": 16},
}
N, NONE = 30, {"image": 0.0}
NETWORKS = {"random-cnn 1": 1 / 2, "random-cnn 2": 1 / 2}
BOTH = {"random-cnn 1": 2 / 5, "random-cnn 2": 2 / 5, "image": 1 / 5}


@pytest.fixture(scope="module")
def found(pictures: Path) -> Selection:
    """With all that is done by default."""
    return select(pictures, N, **SMALL)


def weights(of: Score) -> dict[str, float]:
    return {one.name: one.weight for one in of.searched}


def embedded(folder: Path) -> Embeddings:
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    return Embeddings(np.random.default_rng(0).normal(size=(len(paths), 5)), paths)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, {"image": 0.25}),
        ({"match": "hardness"}, {"hardness": 1, "image": 0.25}),
        ({"match": ["a.csv=2", "objects"]}, {"a.csv": 2, "objects": 1, "image": 0.25}),
        ({"match": "image"}, {"image": 1}),
        ({"match": ["image=3", "hardness"]}, {"image": 3, "hardness": 1}),
        ({"match": "image=0"}, NONE),
        ({"match": {"image": 0, "hardness": 2}}, {"image": 0, "hardness": 2}),
        ({"features": "hog"}, NONE),
        ({"features": "hog", "match": "hardness"}, {"hardness": 1, "image": 0}),
        ({"features": "hog", "match": "image"}, {"image": 1}),
        ({"features": "random-cnn=1,hog=3"}, {"image": 0.25}),
        ({"networks": 1}, {"image": 0.25}),
        ({"preset": "fast"}, {"image": 0.25}),
        ({"preset": "thorough"}, {"image": 0.25}),
        ({"preset": "image-randomer"}, NONE),
        ({"preset": "image-randomiser"}, NONE),
        ({"preset": "image-randomer", "match": "hardness"}, {"hardness": 1, "image": 0.25}),
    ],
)
def test_the_terms_are_the_user_s_and_image(pictures: Path, words: dict[str, Any], expected: dict[str, float]) -> None:
    _, options, _ = resolve_inputs(pictures, Options(**words))
    assert dict(options.match) == expected
    assert resolve_inputs(pictures, options)[1] == options
    assert ("image" in required_feature_views(options)) == (expected["image"] > 0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, NONE),
        ({"held_out": True}, NONE),
        ({"match": "image"}, {"image": 1}),
        ({"features": "embeddings=1,hog=1"}, NONE),
        ({"features": "embeddings=1,random-cnn=1"}, {"image": 0.25}),
    ],
)
def test_embeddings_alone_are_matched_alone(pictures: Path, words: dict[str, Any], expected: dict[str, float]) -> None:
    assert dict(resolve_inputs(pictures, Options(**words), embedded(pictures))[1].match) == expected


def test_nothing_but_image_may_have_a_weight_of_0() -> None:
    assert Options(match="image=0").match == (("image", 0),)
    assert Options(match=["hardness=0", "image=0"]).match == (("image", 0),)
    assert Options(match={"objects": 0, "image": 1}).match == (("image", 1),)
    with pytest.raises(UsageError, match=r"match 'hardness=0\.0' name nothing with a weight above 0"):
        Options(match="hardness=0")
    with pytest.raises(UsageError, match="features 'image=0' name nothing"):
        Options(features="image=0")


def test_it_is_a_block_like_any_other_and_its_default_spelled_out_is_the_same(pictures: Path, found: Selection) -> None:
    assert weights(found.score) == pytest.approx(BOTH)
    spelt = select(pictures, N, match={"image": IMAGE_STATS_WEIGHT}, **SMALL)
    assert (spelt.chosen, spelt.score, spelt.options) == (found.chosen, found.score, found.options)
    alone = select(pictures, N, match={"image": 0}, **SMALL)
    assert weights(alone.score) == pytest.approx(NETWORKS)
    assert {column.name for column in found.score.searched[-1].columns} == {
        "file size", "brightness", "contrast", "sharpness", "saturation"
    }  # fmt: skip
    asked = score(pictures, list(alone.chosen), match="image", **SMALL)
    assert found.score.searched[-1].loss < asked.score.searched[-1].loss / 3


def test_an_extractor_of_the_caller_s_stands_in_for_random_networks(pictures: Path) -> None:
    def extractor(pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2).float()

    found = select(pictures, N, extractor=extractor, **SMALL)
    assert weights(found.score) == pytest.approx({"extractor": 4 / 5, "image": 1 / 5})


@pytest.mark.slow
def test_parts_and_the_smallest_size_match_it_too(pictures: Path) -> None:
    for part in split(pictures, {"a": 20, "b": "50%"}, **SMALL).values():
        assert weights(part.score) == pytest.approx(BOTH)
    found = select(pictures, "auto", target_loss=0.9, **SMALL)
    assert weights(found.score) == pytest.approx(BOTH)


def test_pieces_of_a_source_are_kept_with_it(pictures: Path, tmp_path: Path) -> None:
    words = SMALL | {"cache": str(tmp_path / "cache")}
    embed(pictures, **words)
    assert select(pictures, N, **words).cached == 120


def test_it_makes_estimates_more_exact(pictures: Path, found: Selection) -> None:
    """Of what follows from the brightness nothing is uncertain."""
    light = {str(path): float(np.asarray(smooth(int(path.stem), 12, 12).convert("L")).mean()) for path in
             (pictures / one for one in found.paths)}  # fmt: skip
    results = {"light": [light[str(pictures / path)] for path in found.chosen]}
    whole = np.mean([*light.values()])
    (one,) = estimate(pictures, found, results).estimates
    (other,) = estimate(pictures, found, results, match={"image": 0}, features="hog").estimates
    assert one.low < whole < one.high
    assert one.error < other.error / 3


# Records


def without_image(manifest: Path) -> None:
    """Make it the manifest of a version that matched nothing by default."""
    record = json.loads(manifest.read_text())
    for options in (record["options"], record["request"]["options"]):
        del options["match"]["image"]
    manifest.write_text(json.dumps(record))


@pytest.mark.parametrize(("words", "expected"), [({}, {"image": 0.25}), ({"match": {"image": 0}}, {"image": 0})])
def test_a_manifest_says_which_weight_it_has(
    pictures: Path, tmp_path: Path, words: dict[str, Any], expected: dict[str, float]
) -> None:
    placed = select_into(pictures, N, tmp_path / "out", **words, **SMALL)
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert record["options"]["match"] == record["request"]["options"]["match"] == expected
    assert placed.selection is not None
    found = score(pictures, tmp_path / "out")
    assert found.score == placed.selection.score
    assert dict(found.options.match) == expected
    assert select_into(pictures, N, tmp_path / "out", **words, **SMALL).done


def test_a_manifest_that_does_not_speak_of_it_was_made_without(pictures: Path, tmp_path: Path) -> None:
    placed = select_into(pictures, N, tmp_path / "out", match={"image": 0}, **SMALL)
    without_image(tmp_path / "out" / "manifest.json")
    assert placed.selection is not None
    assert score(pictures, tmp_path / "out").score == placed.selection.score
    with pytest.raises(OutputError, match="is not empty"):  # the new request is another
        select_into(pictures, N, tmp_path / "out", **SMALL)
    assert select_into(pictures, N, tmp_path / "out", match={"image": 0}, **SMALL).done


def test_a_recorded_default_goes_with_the_networks(pictures: Path, tmp_path: Path) -> None:
    select_into(pictures, N, tmp_path / "out", **SMALL)
    assert weights(score(pictures, tmp_path / "out", features="hog").score) == {"hog": 1}
    usual = {name: getattr(Options(), name) for name in ("size", "networks", "channels")}
    found = score(pictures, tmp_path / "out", embeddings=embedded(pictures), **usual)
    assert (weights(found.score), found.size) == ({"embeddings": 1}, None)
    select_into(pictures, N, tmp_path / "asked", match="image", **SMALL)
    assert weights(score(pictures, tmp_path / "asked", features="hog").score) == {"hog": 1 / 2, "image": 1 / 2}


# Sources in which little of it varies


def test_where_a_subset_is_too_small_for_it_it_is_left_out_without_a_word(pictures: Path) -> None:
    """Of 3 in 120 each number is as rare as a value of a text that the subset may well lack."""
    found = select(pictures, 3, **SMALL)
    assert weights(found.score) == NETWORKS
    assert found.warnings == ()
    with pytest.raises(InputError, match="nothing in match 'image' varies"):
        select(pictures, 3, match="image", **SMALL)


def test_what_does_not_vary_is_told_of_only_where_it_was_asked_for(pictures: Path, found: Selection) -> None:
    assert found.warnings == ()
    (note,) = select(pictures, N, match="image", **SMALL).warnings
    assert note == "3 columns, such as column 'width', do not vary enough to be matched"


def test_pictures_that_are_all_the_same_are_one_warning(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / "same").mkdir(exist_ok=True)
        smooth(1, 12, 12).save(tmp_path / "same" / f"{number}.png")
    (note,) = select(tmp_path / "same", 4, **SMALL).warnings
    assert note == "all images look the same to the network, so every subset is as close as any other"


# What is shown


def test_a_summary_has_one_line_of_it(pictures: Path, found: Selection, tmp_path: Path) -> None:
    worst = found.score.searched[-1].columns[0]
    expected = (
        "Means of size, brightness, sharpness and such: off by at most "
        f"{abs(worst.z_score):.2f} of a random subset's error ({worst.name})."
    )
    lines = selection_summary(found, None).split("\n")
    assert expected in lines
    assert not any(line.startswith(("matched", "column", worst.name)) for line in lines)
    for lines in (
        selection_summary(found, None, verbose=True).split("\n"),
        selection_summary(select(pictures, N, match="image", **SMALL), None).split("\n"),
    ):
        assert expected not in lines
        assert sum(line.split()[0] == "image" for line in lines if line) == 1
        assert sum(line.startswith(("file size", "brightness")) for line in lines) == 2
    (tmp_path / "known.csv").write_text(
        "path,age\n" + "".join(f"{path},{place % 7}\n" for place, path in enumerate(found.paths))
    )
    lines = selection_summary(select(pictures, N, match=tmp_path / "known.csv", **SMALL), None).split("\n")
    assert [
        line.split()[0] for line in lines if line.startswith(("features", "known.csv", "image", "age", "bright"))
    ] == ["features", "known.csv", "image", "age"]
    assert any(line.startswith("Means of size, brightness") for line in lines)


def test_a_report_puts_it_in_its_tables(pictures: Path, found: Selection) -> None:
    shown = score(pictures, list(found.chosen), evidence=True, **SMALL).evidence
    asked = score(pictures, list(found.chosen), match="image", evidence=True, **SMALL).evidence
    assert shown is not None
    assert asked is not None
    assert [strip.name.partition(" ")[0] for strip in shown.strip_plots] == ["Loss", "Loss"]
    assert len(asked.strip_plots) == 7
    assert {one.title for one in shown.shares} >= {"saturation", "brightness"}


# Words of the command line


def test_the_command_line_and_a_batch_say_it_alike(
    pictures: Path, tmp_path: Path, imgsubset: Callable[..., Run]
) -> None:
    jobs = tmp_path / "jobs.toml"
    head = f"source = '{pictures}'\nn = 3\nmode = 'none'\n"
    spelt: Mapping[str, dict[str, float]] = {
        "": {},
        "match = 'image=0'": {"image": 0},
        "match = {image = 0}": {"image": 0},
        "match = ['image=2', 'hardness']": {"image": 2, "hardness": 1},
    }
    jobs.write_text("".join(f"[jobs.{place}]\n{head}{line}\n" for place, line in enumerate(spelt)))
    found = [dict(job.options.match) for job in read_jobs(jobs).values()]
    assert found == [*spelt.values()]
    run = imgsubset("select", pictures, "-n", 9, "--mode=none", "--json", "--match=image=0", "--workers=0", "--size=16",
                    "--steps=0", "--candidates=8")  # fmt: skip
    record = strict_json(run.out)
    assert record["options"]["match"] == record["request"]["options"]["match"] == {"image": 0}
    assert [one["name"] for one in record["score"]["searched"]["blocks"]] == [f"random-cnn {k}" for k in (1, 2, 3, 4)]
