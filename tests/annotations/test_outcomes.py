"""Results of a model: what is read, and what gets one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgsubset.annotations.model_results import read_model_results
from imgsubset.errors import InputError, UsageError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str, name: str = "r.csv") -> Path:
        (tmp_path / name).write_text(text, newline="")
        return tmp_path / name

    return to_file


def test_numbers_and_words_of_a_table(write: Write) -> None:
    file = write("path,right,loss,text\na.jpg,yes,0.5,cat\nb.jpg, No ,1e-3,dog\nc.jpg,TRUE,-2,\nd.jpg,0,3,x\n")
    found = read_model_results(file)
    assert found.paths == ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    assert found.columns == {"right": [1, 0, 1, 0], "loss": [0.5, 0.001, -2, 3]}
    assert found.notes == (f"columns 'text' of results '{file}' hold no numbers and are left out",)
    assert found.places[2] == "line 4"
    some = read_model_results(file, ["loss"])
    assert (some.columns, some.notes) == ({"loss": found.columns["loss"]}, ())


def test_other_tables(write: Write) -> None:
    lines = write('{"image": "a", "ok": true, "iou": 0.25}\n\n{"iou": 1, "image": "b", "ok": false}\n', "r.jsonl")
    found = read_model_results(lines)
    assert (found.paths, found.columns) == (("a", "b"), {"ok": [1, 0], "iou": [0.25, 1]})
    assert found.places == ("line 1", "line 3")
    assert read_model_results(write("x\tfile\n1\ta\n", "r.tsv")).columns == {"x": [1]}


IN_MEMORY: dict[str, Any] = {
    "lists": {"ok": [1, 0, 1], "loss": [0.5, 2, 3.5]},
    "booleans": {"ok": (True, False, True), "loss": iter([0.5, 2, 3.5])},
    "arrays": {"ok": np.array([True, False, True]), "loss": np.array([0.5, 2, 3.5], np.float32)},
    "tensors": {"ok": torch.tensor([1, 0, 1]), "loss": [torch.tensor(0.5), np.float64(2), 3.5]},
}


@pytest.mark.parametrize("given", IN_MEMORY.values(), ids=IN_MEMORY)
def test_lists_in_order(given: Any) -> None:
    found = read_model_results(given)
    assert (found.paths, found.columns) == (None, {"ok": [1, 0, 1], "loss": [0.5, 2, 3.5]})
    assert found.places[1] == "element 1"


def test_numbers_by_path() -> None:
    found = read_model_results(
        {"a.jpg": 1, Path("b.jpg"): np.float32(0.5), "c.jpg": torch.tensor(2), "d": True, "e": "yes"}
    )
    assert found.paths == ("a.jpg", "b.jpg", "c.jpg", "d", "e")
    assert found.columns == {"result": [1, 0.5, 2, 1, 1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,loss\na,1\nb,nan\n", "r.csv', line 3, column 'loss': 'nan' is no finite number"),
        ("path,loss\na,1\n\nb,inf\n", "r.csv', line 4, column 'loss': 'inf' is no finite number"),
        ("path,loss\na,1\nb,\n", "r.csv', line 3, column 'loss': there is nothing"),
        ('path,loss\n"a\nb",1\nc,oops\n', "r.csv', line 4, column 'loss': 'oops' is no finite number"),
        ("path,loss\na,1\nb,1e101\n", "line 3, column 'loss': '1e101' is no finite number"),
        ("path,loss\na,1\nb,1_000\n", "line 3, column 'loss': '1_000' is no finite number"),
        ("path,label\na,cat\nb,dog\n", "have no column of numbers beside the paths"),
        ("path\na\nb\n", "have no column of numbers beside the paths"),
        ("path,loss\n", "has no rows"),
        ("", "has no rows"),
        ("path,loss,loss\na,1,2\n", "several columns 'loss'"),
        ("path,loss\na,1,2\n", "line 2: 3 fields"),
        ('path,loss\n"a,1\n', "line 2: unexpected end"),
    ],
)
def test_a_bad_file_gets_one_line(write: Write, text: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_model_results(write(text))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_missing_is_named(write: Write, tmp_path: Path) -> None:
    file = write("path,loss,label\na,1,cat\n")
    with pytest.raises(UsageError, match=r"have no column 'los'; did you mean 'loss'\?"):
        read_model_results(file, ["los"])
    with pytest.raises(UsageError, match="have no column 'IoU'; there are loss, label"):
        read_model_results(file, ["IoU"])
    with pytest.raises(InputError, match="line 2, column 'label': 'cat' is no finite number"):
        read_model_results(file, ["label"])
    with pytest.raises(InputError, match=r"cannot read results '.*gone.csv'"):
        read_model_results(tmp_path / "gone.csv")
    with pytest.raises(UsageError, match=r"none of \.csv"):
        read_model_results(write("path,loss\na,1\n", "r.txt"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "are not a table file"),
        ([1, 2], "are not a table file"),
        (None, "are not a table file"),
        ({"a": [1, 2], "b": [1]}, "columns of unlike lengths: 'a' 2, 'b' 1"),
        ({"a": [1, 2], "b": 1}, "some values of the dict are lists"),
        ({1: [1, 2]}, "neither names of columns nor paths"),
    ],
)
def test_bad_values_are_usage_errors(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_model_results(given)


@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "x", [1], 1j, pytest.param(10**400, id="huge")])
def test_bad_numbers_in_memory_are_named(bad: Any) -> None:
    with pytest.raises(InputError, match="the results, element 1, column 'loss'"):
        read_model_results({"loss": [1, bad]})
    with pytest.raises((InputError, UsageError), match=r"the results, 'b', column 'result'|are lists"):
        read_model_results({"a": 1, "b": bad})
