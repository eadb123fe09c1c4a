from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from conftest import score_like

from imgsubset.cli.output import fit_to_terminal
from imgsubset.results.as_json import describe_score
from imgsubset.results.text import EIGHTH_BLOCKS, FULL_BLOCK, format_bar, metadata_lines, score_lines


@pytest.mark.parametrize(
    ("ratio", "blocks", "eighths"),
    [(0, 0, 0), (1, 24, 0), (0.5, 12, 0), (1 / 24 / 8, 0, 1), (0.1, 2, 3), (1.25, 30, 0)],
)
def test_a_bar_is_as_long_as_its_ratio(ratio: float, blocks: int, eighths: int) -> None:
    assert format_bar(ratio) == (FULL_BLOCK * blocks + EIGHTH_BLOCKS[eighths]).rstrip()


def test_a_bar_of_many_is_cut_and_says_so() -> None:
    assert format_bar(7) == FULL_BLOCK * 40 + ">"
    assert format_bar(float("inf")) == FULL_BLOCK * 40 + ">"


def test_the_verdict_comes_first_then_what_differs_most() -> None:
    score = score_like(0.25, 400)
    lines = score_lines(score, 100)
    assert lines[0].startswith("These 100 images represent the look of the folder like about 400 random ones")
    assert [line.split()[0] for line in lines[3:-1]] == [*score.divergences]  # all as large
    assert lines[-1].split()[:2] == ["loss", "0.250"]
    assert len(score_lines(score, 100, verbose=True)[3].split()) == 5


def test_no_size_is_told_of_where_only_the_search_looked() -> None:
    score = replace(score_like(0.25, 400), held_out=())
    text = "\n".join(score_lines(score, 100))
    assert text.startswith("These 100 images have loss 0.250 in the random-cnn to be matched; a random subset has 1.\n")
    assert "400" not in text
    assert "400" not in json.dumps(describe_score(score))


def test_each_feature_that_was_asked_for_has_a_line() -> None:
    score = score_like(0.25, 400)
    (one,) = score.searched
    networks = [replace(one, name=f"random-cnn {k}", weight=0.25, loss=0.2 * k) for k in (1, 2)]
    assert metadata_lines(replace(score, searched=(*networks,)), verbose=False) == []
    features = [replace(one, name=name, weight=0.25, loss=loss) for name, loss in (("hog", 0.5), ("python:a:b", 0.7))]
    lines = metadata_lines(replace(score, searched=(*networks, *features)), verbose=False)
    expected = [["random-cnn", "0.50", "0.300"], ["hog", "0.25", "0.500"], ["python:a:b", "0.25", "0.700"]]
    assert [line.split() for line in lines[1:5]] == [["matched", "weight", "loss"], *expected]
    alone = replace(score, searched=(replace(one, name="embeddings"),))
    assert len(metadata_lines(alone, verbose=False)) == 4
    assert metadata_lines(replace(alone, held_out=()), verbose=False) == []  # the verdict says it


@pytest.mark.parametrize(
    ("encoding", "drawn"),
    [("utf-8", f"{FULL_BLOCK}{FULL_BLOCK}{EIGHTH_BLOCKS[3]}"), ("ascii", "##"), ("latin-1", "##")],
)
def test_bars_are_of_characters_that_there_are(encoding: str, drawn: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert fit_to_terminal(f"kl {FULL_BLOCK}{FULL_BLOCK}{EIGHTH_BLOCKS[3]}", stream) == f"kl {drawn}"
    assert fit_to_terminal(FULL_BLOCK, None) == "#"
