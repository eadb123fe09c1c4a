"""Parquet tables of pictures as sources."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from archives import png
from conftest import create

from imgsubset import Options, select_into
from imgsubset.decoding.workers import decode_chunks
from imgsubset.errors import ImgsubsetError, InputError, UsageError
from imgsubset.sources.listing import list_images
from imgsubset.sources.parquet import ParquetTable
from imgsubset.sources.python_sources import read_stored_classes

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FAST: dict[str, Any] = {
    **{"candidates": 8, "chains": 1, "steps": 2, "size": 8, "channels": (8,), "networks": 1, "held_out": False},
    **{"device": "cpu", "workers": 0, "cache": None},
}
PICTURES = [png(number) for number in range(12)]


def written(path: Path, contents: Sequence[Any], names: Sequence[Any] | None = None, **words: Any) -> Path:
    """A table of pictures, four to a group of rows."""
    if names is None:
        column = pyarrow.array(contents, words.pop("type", pyarrow.binary()))
    else:
        rows = [
            {"bytes": content, "path": name} if content != "" else None
            for content, name in zip(contents, names, strict=True)
        ]
        column = pyarrow.array(rows, pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))
    table = pyarrow.table({"label": pyarrow.array(range(len(contents))), "image": column})
    parquet.write_table(table, path, row_group_size=4, **words)
    return path


def content_of(path: Path) -> dict[str, bytes]:
    listing = list_images(path)
    return {name: listing.open(name).read() for name in listing.paths}


@pytest.mark.parametrize("dictionary", [True, False])
def test_pictures_are_known_by_their_paths(tmp_path: Path, dictionary: bool) -> None:
    names = [f"{'ab'[number % 2]}/{11 - number:02}.png" for number in range(12)]
    path = written(tmp_path / "x.parquet", PICTURES, names, use_dictionary=dictionary)
    assert content_of(path) == dict(zip(names, PICTURES, strict=True))


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_pictures_without_paths_are_known_by_numbers(tmp_path: Path, kind: Any) -> None:
    expected = {f"{number:02}.png": content for number, content in enumerate(PICTURES)}
    assert content_of(written(tmp_path / "x.parquet", PICTURES, type=kind)) == expected
    assert content_of(written(tmp_path / "y", PICTURES, [None] * 12)) == expected
    for paths in ([None] * 12, range(12)):  # as pyarrow has them where no type is given
        rows = [{"bytes": content, "path": path} for content, path in zip(PICTURES, paths, strict=True)]
        parquet.write_table(pyarrow.Table.from_pylist([{"image": row} for row in rows]), tmp_path / "z.parquet")
        assert content_of(tmp_path / "z.parquet") == expected


def test_odd_paths_are_replaced_by_numbers(tmp_path: Path) -> None:
    long = "f" * 300 + ".png"
    names = ["../a.png", "/b.png", "c.png", "c.png", "d.txt", "", "e\0.png", long, "g.png", None, "h.PNG", "."]
    found = content_of(written(tmp_path / "x.parquet", PICTURES, names))
    assert {*found} == {"g.png", "h.PNG", *(f"{number:02}.png" for number in range(12) if number not in (8, 10))}
    assert found["g.png"] == PICTURES[8]
    assert found["09.png"] == PICTURES[9]


CLASS = {"names": ["cat", "dog"], "_type": "ClassLabel"}


@pytest.mark.parametrize(
    ("column", "kinds", "feature", "expected"),
    [
        ("label", [3, 0, 3], None, ["3", "0", "3"]),
        ("label", ["x", "", "x"], None, ["x", "", "x"]),
        ("label", pyarrow.array(["x", "y", "x"]).dictionary_encode(), None, ["x", "y", "x"]),
        ("kind", [1, 0, 1], CLASS, ["dog", "cat", "dog"]),
        ("label", [1, 0, -1], CLASS, ["dog", "cat", "-1"]),
        ("label", [1, 0, 2], {"_type": "Value", "dtype": "int64"}, ["1", "0", "2"]),
        ("label", [1, 0, 2], {"names": 3, "_type": "ClassLabel"}, ["1", "0", "2"]),
        ("label", [1, 0, 2], "ClassLabel", ["1", "0", "2"]),
        ("kind", [1, 0, 2], None, None),
        ("label", [1.5, 2.5, 0.5], None, None),
        ("label", [None, None, None], None, None),
        ("label", pyarrow.array([None] * 3, pyarrow.int64()), None, None),
    ],
)
def test_a_column_of_classes_is_read(tmp_path: Path, column: str, kinds: Any, feature: Any, expected: Any) -> None:
    table = pyarrow.table({column: kinds, "image": PICTURES[:3]})
    if feature is not None:
        features = {"image": {"_type": "Image"}, column: feature}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    found = read_stored_classes(list_images(tmp_path / "x.parquet"))
    assert (found and [*found.by_path().values()]) == expected


def test_an_image_without_a_class_is_named(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"label": [1, None, 0], "image": PICTURES[:3]}), tmp_path / "x.parquet")
    listing, other = list_images(tmp_path / "x.parquet"), list_images(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"^source '.*' has no class for 1 of its 3 images, such as '1\.png'; leave"):
        read_stored_classes(listing)
    os.utime(tmp_path / "x.parquet", ns=(1, 1))
    with pytest.raises(InputError, match=r"^cannot read the class of '0\.png' in source '.*': its table has changed"):
        read_stored_classes(other)


def test_each_group_of_rows_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{(7 * number) % 12:02}.png" for number in range(12)]  # not in the order of the rows
    path = written(tmp_path / "x.parquet", PICTURES, names)
    read: list[int] = []
    inner = ParquetTable._read
    monkeypatch.setattr(ParquetTable, "_read", lambda table, group: read.append(group) or inner(table, group))
    select_into(path, 3, None, Options(**FAST))
    assert read == [0, 1, 2]


def test_a_table_of_paths_without_pictures_is_refused(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(12)]
    what = r"^source '.*x\.parquet' holds paths of images without the images; choose their folder or a text file"
    with pytest.raises(InputError, match=what):
        list_images(written(tmp_path / "x.parquet", [None] * 12, names))
    some = written(tmp_path / "y.parquet", [*[None] * 11, PICTURES[11]], names)
    silent = written(tmp_path / "z.parquet", [None] * 12, names, write_statistics=False)
    for file in (some, silent):  # then only who reads the rows knows
        with pytest.raises(OSError, match="no picture"):
            list_images(file).open("0.png")


@pytest.mark.slow
def test_a_row_without_a_picture_is_rejected(tmp_path: Path) -> None:
    path = written(tmp_path / "x.parquet", ["", None, b"no picture", *PICTURES[3:]], [f"{n}.png" for n in range(12)])
    listing = list_images(path)
    with decode_chunks([listing.file(name) for name in ("00.jpg", "1.png", "2.png", "3.png")], [8], 1) as chunks:
        (chunk,) = chunks
    assert [one if isinstance(one, str) else "" for one in chunk.outcomes] == [
        *("no picture", "no picture", "not an image of a supported format (JPEG, PNG, WEBP, BMP, GIF, TIFF)", "")
    ]


def test_a_table_that_changes_is_not_read_any_more(tmp_path: Path) -> None:
    path = written(tmp_path / "x.parquet", PICTURES)
    listing = list_images(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(OSError, match="its table has changed"):
        listing.open("09.png")


@pytest.mark.slow
def test_a_large_value_in_every_row_takes_its_size_once(tmp_path: Path) -> None:
    path, places = tmp_path / "x.parquet", pyarrow.array([0] * 4000, pyarrow.int32())
    table = pyarrow.table({"image": pyarrow.DictionaryArray.from_arrays(places, [bytes(1 << 20)])})  # 4 GB
    for stored in (True, False):
        parquet.write_table(table, path, row_group_size=4000, store_schema=stored)
        assert path.stat().st_size < 1 << 20
        listing = list_images(path)
        assert len(listing.open("0003.jpg").read()) == 1 << 20


def test_what_is_no_table_of_pictures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pyarrow.table({"label": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="as a Parquet table of pictures: no column has bytes, of label"):
        list_images(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"Parquet needs a library: pip install 'imgsubset\[parquet\]'"):
        list_images(tmp_path / "x.parquet")


def test_damaged_tables_end_in_one_line(tmp_path: Path) -> None:
    whole = written(tmp_path / "x.parquet", PICTURES, [f"{number}.png" for number in range(12)]).read_bytes()
    codes = []
    for seed in range(60):
        draw = random.Random(seed)
        content = bytearray(whole[: draw.randrange(len(whole))] if seed % 4 == 0 else whole)
        for _ in range(draw.choice([1, 5, 50])):
            content[draw.randrange(len(content) // 2 if seed % 2 else 0, len(content))] = draw.randrange(256)
        code, message = outcome(create(tmp_path / f"{seed}.parquet", bytes(content)))
        codes.append(code)
        assert "\n" not in message
        assert len(message) < 600
    assert {*codes} >= {-3, 12}


def outcome(path: Path) -> tuple[int, str]:
    """How many pictures were listed and tried, or minus an exit code; and the error."""
    try:
        listing = list_images(path)
        with decode_chunks([listing.file(name) for name in listing.paths], [8], 0) as chunks:
            return sum(len(chunk.outcomes) for chunk in chunks), ""
    except ImgsubsetError as error:
        return -error.exit_code, str(error)
