from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import create, listing_of

from imgsubset.annotations.columns import Column, align_columns
from imgsubset.annotations.tables import read_table
from imgsubset.errors import InputError, UsageError

PATHS = ("a.png", "x/b.png", "x/c.png")


def columns(
    folder: Path, content: str, *wanted: str, name: str = "t.csv"
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """What a file of this content says of three images."""
    for path in PATHS:
        create(folder / path)
    return align_columns(read_table(create(folder / name, content.encode())), listing_of(folder, PATHS), PATHS, wanted)


def test_columns_are_lined_up_with_the_images(tmp_path: Path) -> None:
    absolute = tmp_path / "x" / "b.png"
    content = f"path,age,sex,tags\n{absolute},31,f,p|q\n./a.png, 4.5 ,m,\nx//c.png,,m,q|q| r\n"
    (age, sex, tags), notes = columns(tmp_path, content)
    assert age.numbers is not None
    np.testing.assert_array_equal(age.numbers, [4.5, 31, math.nan])
    assert sex.texts == (("m",), ("f",), ("m",))
    assert tags.texts == ((), ("p", "q"), ("q", "r"))
    assert notes == ()


def test_only_the_columns_that_are_wanted_in_their_order(tmp_path: Path) -> None:
    content = "path,a,b,c\na.png,1,2,3\nx/b.png,1,2,3\nx/c.png,1,2,3\n"
    assert [column.name for column in columns(tmp_path, content, "c", "a")[0]] == ["c", "a"]
    with pytest.raises(UsageError, match="has no column 'aa'; did you mean 'a'"):
        columns(tmp_path, content, "aa")
    with pytest.raises(UsageError, match="has no column 'zzz'; it has a, b, c"):
        columns(tmp_path, content, "zzz")


def test_rows_of_other_images_and_images_without_a_row_are_named(tmp_path: Path) -> None:
    (age,), notes = columns(tmp_path, "path,age\nx/c.png,3\ngone.png,4\n../out.png,5\n")
    assert age.numbers is not None
    np.testing.assert_array_equal(age.numbers, [math.nan, math.nan, 3])
    assert "2 rows of no image of the source: 'gone.png'" in notes[0]
    assert "lacks 2 images of the source, such as 'a.png'" in notes[1]


def test_two_rows_of_an_image_and_none_of_any_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has two rows of 'a\.png', in lines 2 and 4"):
        columns(tmp_path, "path,age\na.png,3\nx/b.png,4\n./a.png,3\n")
    with pytest.raises(InputError, match=r"is about no image of source .* its first path is 'b\.png'"):
        columns(tmp_path, "path,age\nb.png,3\n")


@pytest.mark.parametrize("number", ["inf", "-inf", "1e999", "1e200"])
def test_numbers_are_finite(tmp_path: Path, number: str) -> None:
    with pytest.raises(InputError, match=rf"line 3, column 'age': '{number}' is not finite"):
        columns(tmp_path, f"path,age\na.png,1\nx/b.png,{number}\nx/c.png,\n")


@pytest.mark.parametrize("number", ["9" * 309, "-" + "9" * 4300])
def test_whole_numbers_that_no_float_holds_are_not_finite(tmp_path: Path, number: str) -> None:
    content = f'{{"path": "a.png", "age": 1}}\n{{"path": "x/b.png", "age": {number}}}\n'
    with pytest.raises(InputError, match=r"line 2, column 'age': '-?9{200,}.* is not finite"):
        columns(tmp_path, content, name="t.jsonl")


def test_a_word_among_numbers_makes_texts_of_them_and_is_told(tmp_path: Path) -> None:
    (age,), notes = columns(tmp_path, "path,age\na.png,1\nx/b.png,unknown\nx/c.png,2\n")
    assert age.texts == (("1",), ("unknown",), ("2",))
    assert "line 3, column 'age': 'unknown' is no number" in notes[0]


def test_what_comes_round(tmp_path: Path) -> None:
    content = "path,hour@24,when\na.png,23.5,2024-03-01T06:30:00\nx/b.png,1,2024-12-31\nx/c.png,,2023-01-01 00:00:00Z\n"
    found, _ = columns(tmp_path, content, "hour@24", "when@24", "when@7", "when@12", "when@365")
    expected = [[23.5, 1, math.nan], [6.5, 0, 0], [4, 1, 6], [2, 11 + 30 / 31, 0], [60, 365, 0]]
    for column, numbers, period in zip(found, expected, (24, 24, 7, 12, 365), strict=True):
        assert column.period == period
        assert column.numbers is not None
        np.testing.assert_allclose(column.numbers, numbers)
    with pytest.raises(InputError, match="'2024-03-01T06:30:00' is neither a number nor a date"):
        columns(tmp_path, content, "when@30")
    with pytest.raises(UsageError, match="a period of 0"):
        columns(tmp_path, content, "when@0")


def test_lists_and_truth_in_objects(tmp_path: Path) -> None:
    content = (
        '{"path": "a.png", "t": ["p", 1], "ok": true}\n{"path": "x/b.png", "t": [], "ok": false}\n{"path": "x/c.png"}'
    )
    (tags, good), _ = columns(tmp_path, content, name="t.jsonl")
    assert tags.texts == (("p", "1"), (), ())
    assert good.numbers is not None
    np.testing.assert_array_equal(good.numbers, [1, 0, math.nan])
