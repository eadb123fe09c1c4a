"""Calls with arguments of every wrong kind: an error of ours, in one line, that names the argument."""

from __future__ import annotations

import pathlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imgsubset
from imgsubset.errors import ImgsubsetError, UsageError

FAST: dict[str, Any] = {
    **{"candidates": 4, "chains": 1, "steps": 1, "size": 16, "channels": (4,), "networks": 1},
    **{"device": "cpu", "workers": 0},
}


class Odd:
    """What nobody expects."""

    def __repr__(self) -> str:
        return "Odd"


WORDS = [  # of `select`, with what must be in the message
    ({"steps": 2.5}, "steps 2.5 is not a whole number from 0 to"),
    ({"steps": True}, "steps True"),
    ({"steps": [5]}, r"steps \[5\]"),
    ({"seed": "1"}, "seed '1'"),
    ({"candidates": None}, "candidates None"),
    ({"chains": torch.tensor([1.5])}, "chains tensor"),
    ({"size": 16.0}, "size 16.0"),
    ({"channels": "8"}, "channels '8'"),
    ({"channels": [8.0]}, r"channels \[8.0\]"),
    ({"kernel_size": None}, "kernel_size None"),
    ({"networks": "many"}, "networks 'many'"),
    ({"temperature": "warm"}, "temperature 'warm'"),
    ({"time_limit": "30s"}, "time_limit '30s'"),
    ({"time_limit": 1 + 2j}, "time_limit"),
    ({"strict": 1}, "strict 1 is not True or False"),
    ({"dedupe": "yes"}, "dedupe 'yes'"),
    ({"stratify": Odd()}, "stratify Odd"),
    ({"stratify": True, "stratify_by": 3}, "stratify_by 3"),
    ({"group_by": ["a"]}, r"group_by \['a'\]"),
    ({"keep": [1]}, r"keep \[1\]"),
    ({"keep": "a\0.txt"}, "keep 'a"),
    ({"drop": Path("gone.txt")}, "cannot read 'gone.txt': No such file"),
    ({"include": {"*.png": Odd()}.values()}, "include"),
    ({"device": torch.device("cpu")}, "device"),
    ({"cache": 3}, "cache 3"),
    ({"labels": "\0", "stratify": True}, "cannot read labels '\0': no file can have such a name"),
    ({"labels": "\ud800", "stratify": True}, "cannot read labels"),
    ({"labels": Odd(), "stratify": True}, "labels Odd are not a CSV file, a dict of classes by path, or a list"),
    ({"weights": [1, 2, 3, 4, 5]}, "weights"),
    ({"weights": {"kl": "x"}}, "weight 'kl=x' is not a number"),
    ({"weights": {3: 1}}, "unknown divergence '3'"),
    ({"features": 5}, "features 5 are not names"),
    ({"features": {"random-cnn": "x"}}, "weight 'random-cnn=x' in features"),
    ({"options": {"steps": 5}}, r"options {'steps': 5} are not Options"),
    ({"stop": 5}, "stop 5 is not a function"),
    ({"progress": 5}, "progress 5 is neither True or False nor a function"),
    ({"extractor": "resnet"}, "extractor 'resnet' is not a function"),
    ({"extractor": lambda pixels: None}, "the extractor gives NoneType for 32 images, not a tensor"),
    ({"extractor": lambda pixels: pixels.float().mean((1, 2))}, r"the extractor gives \(32, 3\) for 32 images"),
    ({"extractor": lambda pixels: [pixels[:1].float()]}, "the extractor gives list for 32 images"),
    ({"embeddings": 5}, "embeddings 5 are not an array or a tensor"),
    ({"embeddings": [["a"]]}, r"embeddings \[\['a'\]\] are not"),
    ({"embeddings": np.zeros((3, 2))}, "the embeddings have 3 rows, but the paths list 120 images"),
    ({"embeddings": np.zeros(120)}, r"array of shape \(120,\)"),
    ({"step": 5}, "unknown option 'step'; did you mean 'steps'"),
]


@pytest.mark.parametrize(("words", "text"), WORDS, ids=[re.sub(r"\W+", "-", text) for _, text in WORDS])
def test_an_option_of_a_wrong_kind_is_named(pictures: Path, words: dict[str, Any], text: str) -> None:
    paths = sorted(map(str, pictures.rglob("*.png")))
    given = FAST if "embeddings" not in words else {"device": "cpu"}
    with pytest.raises(ImgsubsetError, match=text) as caught:
        imgsubset.select(paths, 5, **{**given, **words})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "source", [None, 5, Odd(), [3], [None], [Odd()], torch.tensor(3), b"photos", ["\ud800"]], ids=str
)
def test_a_source_of_a_wrong_kind(source: Any) -> None:
    with pytest.raises(UsageError, match="source"):
        imgsubset.select(source, 5)
    with pytest.raises(UsageError, match="source"):
        imgsubset.compare(source, source)


def test_a_data_set_without_paths_is_refused_at_its_first_image() -> None:
    def pictures() -> Any:
        yield "picture", 0
        raise AssertionError("it may go on for ever")

    with pytest.raises(
        UsageError, match=r"element 0 is \('picture', 0\), not a path; a source is a folder, .* data set"
    ):
        imgsubset.select(pictures(), 5)


@pytest.mark.parametrize(
    "n", [None, 2.5, True, [5], Odd(), {"n": 5}, b"5", np.float64(5), torch.tensor([[1, 2]])], ids=str
)
def test_an_n_of_a_wrong_kind(pictures: Path, n: Any) -> None:
    with pytest.raises(UsageError, match="is neither a whole number of at least 1") as caught:
        imgsubset.select(pictures, n)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_numbers_of_arrays_are_numbers(pictures: Path) -> None:
    words = FAST | {"steps": np.int64(1), "seed": torch.tensor(3), "temperature": np.float32(0.5), "stratify": np.True_}
    selection = imgsubset.select(pictures, np.int64(5), **words)  # type: ignore[arg-type]
    plain = imgsubset.select(pictures, 5, **FAST | {"seed": 3, "temperature": 0.5, "stratify": True})
    assert selection.chosen == plain.chosen
    assert selection.options == plain.options
    assert [type(value) for value in (selection.options.seed, selection.options.temperature)] == [int, float]


@pytest.mark.parametrize("odd", [5, None, [1], Odd(), "\0"], ids=str)
def test_arguments_of_other_tasks(pictures: Path, tmp_path: Path, odd: Any) -> None:
    out = tmp_path / "out"
    selection = imgsubset.select(pictures, 5, **FAST)
    calls = {
        "parts": lambda: imgsubset.split(pictures, odd, **FAST),
        "part": lambda: imgsubset.split(pictures, {"a": [odd]}, **FAST),  # type: ignore[dict-item]
        "part '": lambda: imgsubset.split(pictures, {(odd,): 5} if odd != [1] else {1: 5}, **FAST),  # type: ignore[dict-item]
        "mode": lambda: imgsubset.select_into(pictures, 5, out, mode=odd, **FAST),
        "overwrite": lambda: imgsubset.select_into(pictures, 5, out, overwrite=odd, **FAST),
        "ranked": lambda: imgsubset.select_into(pictures, 5, out, ranked=odd, **FAST),
        "max_loss": lambda: imgsubset.select_into(pictures, 5, out, max_loss=[odd], **FAST),  # type: ignore[arg-type]
        "min_size": lambda: imgsubset.select_into(pictures, 5, out, min_size=[odd], **FAST),  # type: ignore[arg-type]
        "skip_foreign": lambda: imgsubset.score(pictures, pictures, skip_foreign=odd, **FAST),
        "skip_foreign .* is not": lambda: imgsubset.estimate(pictures, pictures, {"a": [1]}, skip_foreign=odd, **FAST),
        "results": lambda: imgsubset.estimate(pictures, pictures, odd, **FAST),
        "column": lambda: imgsubset.estimate(pictures, pictures, {"a": [1]}, columns=[odd], **FAST),
        "folder": lambda: imgsubset.verify(odd),
        "selection": lambda: imgsubset.export(odd, out),
        "destination": lambda: imgsubset.export(selection, odd),
        "paths of embeddings": lambda: imgsubset.Embeddings(np.zeros((2, 2)), [[odd]]),  # type: ignore[list-item]
        "pca": lambda: imgsubset.Embeddings(np.zeros((2, 2)), pca=[odd]),  # type: ignore[arg-type]
        "weight kl": lambda: imgsubset.Weights(kl=[odd]),  # type: ignore[arg-type]
    }
    for name, call in calls.items():
        with pytest.raises(UsageError, match=name) as caught:
            call()
        assert "\n" not in str(caught.value)
    for destination in ([1], Odd(), 5, "\0"):
        with pytest.raises(UsageError, match=r"destination .* is not the path of a folder"):
            imgsubset.split_into(pictures, {"a": 5}, destination, **FAST)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"destination .* is not the path of a folder"):
            imgsubset.select_into(pictures, 5, destination, **FAST)  # type: ignore[arg-type]
    assert not out.exists()


def test_paths_of_any_kind_are_paths(pictures: Path, tmp_path: Path) -> None:
    pure = pathlib.PurePosixPath(pictures)
    names = [Path("class0/000.png"), pathlib.PurePosixPath("class1/001.png")]
    selection = imgsubset.select(pure, 5, keep=names, cache=tmp_path / "cache", **FAST)
    assert {"class0/000.png", "class1/001.png"} <= {*selection.chosen}
    imgsubset.export(selection, pathlib.PurePosixPath(tmp_path / "out"))
    assert imgsubset.verify(pathlib.PurePosixPath(tmp_path / "out")).good
