from __future__ import annotations

import csv
import io
import json
import os
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import pytest
from conftest import create, listing_of, normal_user

from imgsubset.annotations import label_files
from imgsubset.annotations.label_files import filter_metadata
from imgsubset.errors import InputError

CAPTION = "two lines,\nand a comma"


def test_metadata_jsonl_keeps_the_chosen_rows_byte_by_byte(tmp_path: Path) -> None:
    rows = [
        b'{"file_name":  "image_130.jpg", "text": "caf\\u00e9"}\n',
        b'{"file_name": "image_1300.jpg"}\n',
        b"\n",
        b'  {"n": 1.50, "file_name": "./deep/b.jpg", "mask_file_name": "gone.png"}  \r\n',
        '{"file_name": "naïve 猫.jpg"}\n'.encode(),
        b'{"file_name": "deep/../a.jpg"}',
    ]
    create(tmp_path / "train/metadata.jsonl", b"".join(rows))
    chosen = ["train/a.jpg", "train/deep/b.jpg", "train/image_130.jpg", "train/naïve 猫.jpg"]
    content = filter_metadata(listing_of(tmp_path), chosen)
    assert content == {"train/metadata.jsonl": rows[0] + rows[3] + rows[4] + rows[5]}
    names = [json.loads(line)["file_name"] for line in content["train/metadata.jsonl"].splitlines()]
    assert names == ["image_130.jpg", "./deep/b.jpg", "naïve 猫.jpg", "deep/../a.jpg"]


def test_metadata_of_every_folder_above_a_chosen_image_counts(tmp_path: Path) -> None:
    for folder in ("", "x/", "x/y/", "z/"):
        prefix = "x/y/"[len(folder) :] if folder != "z/" else "../x/y/"
        create(tmp_path / f"{folder}metadata.jsonl", json.dumps({"file_name": f"{prefix}a.jpg"}).encode())
    create(tmp_path / "x/metadata.csv", b"file_name\ny/a.jpg\ny/ab.jpg\n")
    assert list(filter_metadata(listing_of(tmp_path), ["x/y/a.jpg"])) == [
        "metadata.jsonl",
        "x/metadata.jsonl",
        "x/metadata.csv",
        "x/y/metadata.jsonl",
    ]
    assert filter_metadata(listing_of(tmp_path), ["x/y/a.jpg"])["x/metadata.csv"] == b"file_name\ny/a.jpg\n"
    assert filter_metadata(listing_of(tmp_path), []) == {}


@pytest.mark.parametrize("bom", [b"", BOM_UTF8])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_metadata_csv_keeps_the_chosen_rows_byte_by_byte(tmp_path: Path, bom: bytes, end: str) -> None:
    header = f"text,file_name{end}"
    caption = CAPTION.replace("\n", end)
    rows = [
        f'"{caption}",image_130.jpg{end}',
        f"plain,image_1300.jpg{end}",
        f'"gone.jpg,{end}{end}x",image_13.jpg{end}',
        f'"  "" said","deep/naïve ""b"".jpg"{end}',
        f"{end}",
        f"last,a.jpg{end}",
    ]
    create(tmp_path / "metadata.csv", bom + (header + "".join(rows)).encode())
    chosen = ["image_130.jpg", 'deep/naïve "b".jpg', "a.jpg"]
    content = filter_metadata(listing_of(tmp_path), chosen)["metadata.csv"]
    assert content == bom + (header + rows[0] + rows[3] + rows[5]).encode()
    parsed = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    assert [row["file_name"] for row in parsed] == chosen
    assert [row["text"] for row in parsed] == [caption, '  " said', "last"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_byte_order_mark_stays_when_the_first_row_goes(tmp_path: Path, name: str) -> None:
    rows = {"metadata.jsonl": b'{"file_name": "%s"}\n', "metadata.csv": b"%s\n"}[name]
    header = b"file_name\n" if name == "metadata.csv" else b""
    create(tmp_path / name, BOM_UTF8 + header + rows % b"b.jpg" + rows % b"a.jpg")
    assert filter_metadata(listing_of(tmp_path), ["a.jpg"]) == {name: BOM_UTF8 + header + rows % b"a.jpg"}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_names_in_metadata_need_not_be_utf_8(tmp_path: Path, name: str) -> None:
    rows = {"metadata.jsonl": b'{"file_name": "%s"}\n', "metadata.csv": b"%s\n"}[name]
    content = (b"file_name\n" if name == "metadata.csv" else b"") + rows % b"\xff\xe9.jpg"
    create(tmp_path / name, content + rows % b"\xff.jpg")
    assert filter_metadata(listing_of(tmp_path), [os.fsdecode(b"\xff\xe9.jpg")]) == {name: content}


def test_metadata_without_a_chosen_row_is_left_out(tmp_path: Path) -> None:
    create(tmp_path / "metadata.jsonl", b'{"file_name": "b.jpg"}\n')
    create(tmp_path / "metadata.csv", b"file_name\nb.jpg\n")
    assert filter_metadata(listing_of(tmp_path), ["a.jpg"]) == {}
    assert set(filter_metadata(listing_of(tmp_path), ["b.jpg"])) == {"metadata.jsonl", "metadata.csv"}


@pytest.mark.parametrize(
    ("row", "stays"),
    [
        ({"file_name": "a.jpg", "mask_file_name": "gone.png"}, True),
        ({"file_name": "gone.jpg", "mask_file_name": "a.jpg"}, False),
        ({"left_file_name": "a.jpg", "right_file_name": "b.jpg"}, True),
        ({"left_file_name": "a.jpg", "right_file_name": "gone.jpg"}, False),
        ({"left_file_name": "a.jpg", "right_file_name": None}, True),
        ({"file_names": ["a.jpg", "b.jpg"]}, True),
        ({"file_names": ["a.jpg", "gone.jpg"]}, False),
        ({"frames_file_names": ["b.jpg"], "label_file_name": "a.jpg", "profile_name": 5}, True),
        ({"file_names": []}, False),
    ],
)
def test_rows_about_several_images(tmp_path: Path, row: dict[str, Any], stays: bool) -> None:
    create(tmp_path / "metadata.jsonl", json.dumps(row).encode())
    assert filter_metadata(listing_of(tmp_path), ["a.jpg", "b.jpg"]) == (
        {"metadata.jsonl": json.dumps(row).encode()} if stays else {}
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", b"image;text\na.jpg;one, two\n"),
        ("metadata.csv", b'profile_name,x\na.jpg,"1"2,3\n'),
        ("metadata.csv", b""),
        ("metadata.csv", BOM_UTF8 + b"\n\n"),
        ("metadata.jsonl", b'{"image": "a.jpg", "profile_name": "a.jpg"}\n'),
        ("metadata.jsonl", b""),
    ],
)
def test_metadata_of_another_convention_is_left_out(tmp_path: Path, name: str, content: bytes) -> None:
    create(tmp_path / name, content)
    assert filter_metadata(listing_of(tmp_path), ["a.jpg"]) == {}


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("metadata.jsonl", b'{"file_name": "a.jpg"}\n\n{"file_name": \n', 3),
        ("metadata.jsonl", b'{"file_name": "a.jpg"}\n["a.jpg"]\n', 2),
        ("metadata.jsonl", b'{"file_name": "a.jpg"}\n{"name": "a.jpg"}\n', 2),
        ("metadata.jsonl", b'{"file_name": 5}\n', 1),
        ("metadata.jsonl", b'{"file_names": [["a.jpg"]]}\n', 1),
        ("metadata.jsonl", b'{"file_name": "a.jpg"}\n' + b"[" * 100_000, 2),
        ("metadata.csv", b'text,file_name\n"x\n",a.jpg\nb,c,a.jpg\n', 4),
        ("metadata.csv", b"text,file_name\nb,a.jpg\na.jpg\n", 3),
        ("metadata.csv", b'text,file_name\nb,a.jpg\n"open,a.jpg\n', 3),
        ("metadata.csv", b'text,file_name\n"x"y,a.jpg\n', 2),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, name: str, content: bytes, line: int) -> None:
    create(tmp_path / "x" / name, content)
    limit = csv.field_size_limit()
    with pytest.raises(InputError, match=rf"^'.*x/{name}', line {line}: ") as caught:
        filter_metadata(listing_of(tmp_path), ["x/a.jpg"])
    assert "\n" not in str(caught.value)
    assert csv.field_size_limit() == limit


def test_long_fields_are_taken_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    content = b"file_name,mask\na.jpg," + b"1 2 " * 100_000 + b"\n"
    assert len(content) > limit
    create(tmp_path / "metadata.csv", content)
    assert filter_metadata(listing_of(tmp_path), ["a.jpg"]) == {"metadata.csv": content}
    assert csv.field_size_limit() == limit


def test_the_limit_of_others_stays_while_rows_are_used(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    rows = label_files._iter_csv_rows(b"file_name\na.jpg\nb.jpg\n", "metadata.csv")
    next(rows)
    assert csv.field_size_limit() == limit
    other = label_files._iter_csv_rows(b"file_name\na.jpg\n", "metadata.csv")
    next(other)
    assert len([*rows, *other]) == 3
    assert csv.field_size_limit() == limit


def test_metadata_that_is_no_readable_file(open_folder: Path) -> None:
    os.mkfifo(open_folder / "metadata.csv")
    (open_folder / "metadata.jsonl").mkdir()
    assert filter_metadata(listing_of(open_folder), ["a.jpg"]) == {}
    create(open_folder / "x/metadata.csv", b"file_name\na.jpg\n").chmod(0)
    with normal_user(open_folder), pytest.raises(InputError, match=r"^cannot read '.*x/metadata\.csv': "):
        filter_metadata(listing_of(open_folder), ["x/a.jpg"])
