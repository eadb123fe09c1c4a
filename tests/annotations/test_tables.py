from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import create
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsubset.annotations.tables import MAX_COLUMNS, TABLE_PARSERS, Table, parse_number, read_table
from imgsubset.errors import ImgsubsetError, InputError, UsageError
from imgsubset.options import TABLE_SUFFIXES


def read(folder: Path, content: bytes | str, name: str = "t.csv") -> Table:
    """A table of this content."""
    return read_table(create(folder / name, content.encode() if isinstance(content, str) else content))


def test_the_kinds_of_tables_are_those_of_the_options() -> None:
    assert tuple(TABLE_PARSERS) == TABLE_SUFFIXES


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "path,age,sex\na.png,31,f\nb/c.png,,m\n"),
        ("t.CSV", "\ufeffpath,age,sex\r\na.png,31,f\r\n\r\nb/c.png,,m"),
        ("t.csv", 'age;"path";sex\n31;a.png;f\n;"b/c.png";m\n'),
        ("t.csv", "age,image,sex\n31,a.png,f\n,b/c.png,m\n"),
        ("t.tsv", "age\tfile\tsex\n31\ta.png\tf\n\tb/c.png\tm\n"),
        ("t.csv", "name,age,sex\na.png,31,f\nb/c.png,,m\n"),
    ],
)
def test_texts_between_separators(tmp_path: Path, name: str, content: str) -> None:
    table = read(tmp_path, content, name)
    assert table.paths == ("a.png", "b/c.png")
    assert table.columns == {"age": ("31", ""), "sex": ("f", "m")}
    assert table.lines == ((2, 4) if "\r\n\r\n" in content else (2, 3))


def test_objects_a_line_may_lack_keys(tmp_path: Path) -> None:
    rows = [{"path": "a.png", "age": 31, "tags": ["x", "y"]}, {"age": None, "path": "b.png", "new": True}]
    table = read(tmp_path, "\n\n".join(map(json.dumps, rows)), "t.jsonl")
    assert table.paths == ("a.png", "b.png")
    assert table.lines == (1, 3)
    assert table.columns == {"age": (31, None), "tags": (["x", "y"], None), "new": (None, True)}


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"image": ["a.png", "b.png"], "age": [31, None], "tags": [["x"], ["x", "y"]]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.paths == ("a.png", "b.png")
    assert table.columns == {"age": (31, None), "tags": (["x"], ["x", "y"])}
    with pytest.raises(InputError, match="is not a Parquet file"):
        read(tmp_path, b"PAR1 and so on", "bad.parquet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("t.csv", b"", "has no rows"),
        ("t.csv", b"path,age\n", "has no rows"),
        ("t.csv", b"path,age\na.png,1\nb.png,\xff\n", r"line 3: byte 0xff is not UTF-8"),
        ("t.csv", "path,age\na.png,1\n".encode("utf-16"), r"line 1: byte 0xff is not UTF-8"),
        ("t.csv", b"path,age,age\na.png,1,2\n", "has several columns 'age'"),
        ("t.csv", b"path,age\na.png,1\nb.png\n", r"line 3: 1 fields, where the header has 2"),
        ("t.csv", b"path,age\na.png,1,2\n", r"line 2: 3 fields, where the header has 2"),
        ("t.csv", b'path,age\n"a.png,1\n', r"line 2: "),
        ("t.csv", b"path,age\na.png,1\n,2\n", r"line 3: there is no path in column 'path'"),
        ("t.csv", b"path,age\n" + b"x" * 200_000 + b",1\n", r"line 2: field larger"),
        (
            "t.csv",
            b",".join(b"c%d" % place for place in range(10**6)) + b"\n",
            f"has 1,000,000 columns; {MAX_COLUMNS:,}",
        ),
        ("t.jsonl", b'{"path": "a.png"}\n{"path": \n', r"line 2: not JSON"),
        ("t.jsonl", b"[1]\n", r"line 1: not an object"),
        ("t.jsonl", b"[" * 100_000, r"line 1: not JSON"),
        ("t.jsonl", b'{"path": 3}\n', r"line 1: there is no path"),
        ("t.jsonl", b'{"path": "a\\u0000b"}\n', r"line 1: there is no path"),
    ],
)
def test_what_is_no_table_is_told_in_a_line(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why) as raised:
        read(tmp_path, content, name)
    assert "\n" not in str(raised.value)
    assert name in str(raised.value)


def test_other_kinds_of_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"table 't\.xlsx' is none of \.csv, "):
        read_table("t.xlsx")
    with pytest.raises(InputError, match="No such file"):
        read_table(tmp_path / "gone.csv")


@pytest.mark.slow
@given(st.binary(max_size=200), st.sampled_from(TABLE_SUFFIXES))
@settings(max_examples=200, deadline=None)
def test_no_content_is_too_odd(tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str) -> None:
    file = tmp_path_factory.getbasetemp() / f"odd{suffix}"
    file.write_bytes(content)
    try:
        table = read_table(file)
    except ImgsubsetError as error:
        message = str(error)
    else:
        message = ""
        assert all(len(column) == len(table.paths) for column in table.columns.values())
    assert "\n" not in message


@pytest.mark.parametrize(
    ("entry", "number"),
    [
        ("3", 3.0),
        (" -1e3 ", -1000.0),
        (7, 7.0),
        (True, 1.0),
        ("x", None),
        ("1_000", None),
        (["1"], None),
        ("0x10", None),
    ],
)
def test_what_is_a_number(entry: object, number: float | None) -> None:
    assert parse_number(entry) == number


@pytest.mark.parametrize("entry", ["", "  ", "nan", "NaN", None, float("nan")])
def test_what_says_nothing(entry: object) -> None:
    number = parse_number(entry)
    assert number is not None
    assert number != number
