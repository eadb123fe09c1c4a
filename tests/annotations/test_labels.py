from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import create, listing_of, normal_user

from imgsubset.annotations.classes import find_apparent_groups, parse_classes, parse_groups, read_labels
from imgsubset.errors import InputError, UsageError

PATHS = ("a.png", "x/b.png", "x/deep/c.png", "y/b.png")


def read(folder: Path, content: bytes | str, paths: tuple[str, ...] = PATHS, name: str = "labels.csv") -> list[str]:
    """The classes that a file of this content says."""
    file = create(folder / name, content.encode() if isinstance(content, str) else content)
    return read_labels(listing_of(folder, paths), paths, file)


def test_the_class_is_the_first_folder() -> None:
    assert parse_classes(PATHS) == [".", "x", "x", "y"]
    assert parse_classes((" /a.png", "\n/b.png", "../c.png")) == [" ", "\n", ".."]


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na.png,1\nx/b.png,2\nx/deep/c.png,1\ny/b.png,2\n",
        "path,label\r\na.png,1\r\nx/b.png,2\r\nx/deep/c.png,1\r\ny/b.png,2",
        "\ufeffpath,label\na.png,1\nx/b.png,2\nx/deep/c.png,1\ny/b.png,2\n",
        'label,path\n1,"a.png"\n"2",x/b.png\n1,x/deep/c.png\n2,y/b.png\n',
        'note,path,label\n"two\nlines",a.png,1\n",",x/b.png,2\n"a ""b""",x/deep/c.png,1\n,y/b.png,2\n',
        "path,label\ny/b.png,2\ngone.png,3\nx/deep/c.png,1\n\nx/b.png,2\na.png,1\na.png,1\n",
        "path,label\n./a.png,1\nx//b.png,2\nx/./deep/../deep/c.png,1\ny/b.png,2\n",
        "path;label\na.png;1\nx/b.png;2\nx/deep/c.png;1\ny/b.png;2\n",
        "file\tlabel\na.png\t1\nx/b.png\t2\nx/deep/c.png\t1\ny/b.png\t2\n",
        "path,label\n{root}/a.png,1\n./s/x/b.png,2\n{root}/x/../x/deep/c.png,1\ns/y/b.png,2\n../gone.png,3\n",
    ],
    ids=[
        "plain",
        "crlf",
        "bom",
        "quoted",
        "columns",
        "extra rows",
        "other spelling",
        "semicolons",
        "tabs",
        "from where",
    ],
)
@pytest.mark.parametrize("name", ["labels.csv", "labels", "labels.txt"])
def test_labels_of_a_csv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path / "s", content.replace("{root}", str(tmp_path / "s")), name=name) == ["1", "2", "1", "2"]


@pytest.mark.parametrize("name", ["labels.tsv", "labels.jsonl"])
def test_labels_of_other_tables(tmp_path: Path, name: str) -> None:
    content = "path\tlabel\na.png\t1\nb.png\t\n"
    if name.endswith("l"):
        content = '{"path": "a.png", "label": 1}\n{"path": "b.png"}\n'
    assert read(tmp_path, content, ("a.png", "b.png"), name) == ["1", ""]


def test_labels_may_hold_anything(tmp_path: Path) -> None:
    paths = ('a "b",\nc.png', os.fsdecode(b"\xff.png"), "naïve.png")
    content = b'path,label\n"a ""b"",\nc.png","cat, ""big"""\n\xff.png,\xfe\nna\xc3\xafve.png,\n'
    assert read(tmp_path, content, paths) == ['cat, "big"', os.fsdecode(b"\xfe"), ""]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("path,label\na.png,1\nx/b.png,2\n", r"lack 2 images of the source: 'x/deep/c\.png'"),
        ("path,label\na.png,1\nb.png,2\n./a.png,2\n", r"line 4: 'a\.png' has two labels"),
        ("path,class\na.png,1\n", "have no column 'label'"),
        ("path,label\na.png\n", "line 2: 1 fields, where the header has 2"),
        ("", "has no rows"),
        ('path,label\n"a.png,1\n', r"line 2: "),
        ('path,label\n"a.png"x,1\n', r"line 2: "),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, content: str, why: str) -> None:
    with pytest.raises(InputError, match=rf"^labels '.*labels\.csv',? {why}"):
        read(tmp_path, content)


def test_a_file_of_labels_that_cannot_be_read(open_folder: Path) -> None:
    listing = listing_of(open_folder, PATHS)
    with pytest.raises(InputError, match=r"^cannot read labels '.*gone\.csv': No such file"):
        read_labels(listing, PATHS, open_folder / "gone.csv")
    with pytest.raises(InputError, match=r"^cannot read labels '"):
        read_labels(listing, PATHS, open_folder)
    create(open_folder / "secret.csv", b"path,label\n").chmod(0)
    with normal_user(open_folder), pytest.raises(InputError, match=r"^cannot read labels '.*secret\.csv': Permission"):
        read_labels(listing, PATHS, open_folder / "secret.csv")


def test_the_group_is_the_folder() -> None:
    assert parse_groups(PATHS, "parent") == [".", "x", "x/deep", "y"]


@pytest.mark.parametrize(
    ("rule", "together"),
    [
        (r"^([^_]+)_", [["p1_a.png", "p1_b.png"], ["x/p1_c.png"], ["p2_a.png"], ["lone.png"], ["other.png"]]),
        (r"([^_/]+)_[a-z]", [["p1_a.png", "p1_b.png", "x/p1_c.png"], ["p2_a.png"], ["lone.png"], ["other.png"]]),
        (r"p\d", [["p1_a.png", "p1_b.png", "x/p1_c.png"], ["p2_a.png"], ["lone.png"], ["other.png"]]),
        (r"(?:p)(\d)_(.)", [["p1_a.png", "p1_b.png", "x/p1_c.png"], ["p2_a.png"], ["lone.png"], ["other.png"]]),
        (r"_(a)?", [["p1_a.png", "p2_a.png"], ["p1_b.png"], ["x/p1_c.png"], ["lone.png"], ["other.png"]]),
        (r"_(z?)", [["p1_a.png", "p2_a.png", "p1_b.png", "x/p1_c.png"], ["lone.png"], ["other.png"]]),
        (r"zzz", [["p1_a.png"], ["p2_a.png"], ["p1_b.png"], ["x/p1_c.png"], ["lone.png"], ["other.png"]]),
    ],
)
def test_the_group_is_what_is_captured_first_and_the_unmatched_stand_alone(
    rule: str, together: list[list[str]]
) -> None:
    paths = ["lone.png", "other.png", "p1_a.png", "p1_b.png", "p2_a.png", "x/p1_c.png"]
    names = parse_groups(paths, rule)
    found: dict[str, list[str]] = {}
    for path, name in zip(paths, names, strict=True):
        found.setdefault(name, []).append(path)
    assert sorted(found.values()) == sorted(sorted(one) for one in together)


@pytest.mark.parametrize("rule", ["(", "[a", "*", "(?P<x", "a{2,1}"])
def test_a_rule_that_is_no_regular_expression(rule: str) -> None:
    with pytest.raises(UsageError, match=r"^group_by .*: not a regular expression: ") as caught:
        parse_groups(PATHS, rule)
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("parent", [".", "x", "x/deep", "y"]),
        (r"/(\w)\.", [".", "b", "c", "b"]),
        (r"[a-z]+\.", ["a.", "b.", "c.", "b."]),
    ],
)
def test_the_class_is_what_the_path_says(by: str, expected: list[str]) -> None:
    assert parse_classes(PATHS, by) == expected


@pytest.mark.parametrize(
    ("paths", "count"),
    [
        ([f"x/person{n}_{kind}_1.jpg" for n in range(20) for kind in ("virus", "bacteria")], 20),
        ([f"{n % 3}/p{n // 4}-{n}.png" for n in range(80)], 20),
        ([f"img_{n}.png" for n in range(80)], 0),
        ([f"IMG{n}_.png" for n in range(80)], 0),
        ([f"n{n // 8}/n{n // 8}_{n}.png" for n in range(80)], 0),
        ([f"val2017_{n}.png" for n in range(80)], 0),
        ([f"p{n}_{k}.png" for n in range(4) for k in "ab"] + [f"{n}.png" for n in range(80)], 0),
        ([], 0),
    ],
)
def test_groups_are_told_by_names_if_most_names_do(paths: list[str], count: int) -> None:
    assert len(find_apparent_groups(paths)) == count
