"""Zip and tar archives as sources: the same files as in a folder, and nothing hostile gets through."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archives import add, png, tar_of, zip_of
from conftest import create, selection_of, tree

from imgsubset import Options, export, select_into
from imgsubset.decoding.workers import decode_chunks
from imgsubset.errors import ImgsubsetError, InputError
from imgsubset.sources.archives import iter_tar_entries
from imgsubset.sources.listing import list_images

GOOD = {f"{'ab'[number % 2]}/{number}.png": png(number) for number in range(8)} | {"a/0.txt": b"label of a/0"}


MAKERS = {"tar": tar_of, "zip": zip_of}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_is_listed_as_the_folder_that_it_was_made_from(tmp_path: Path, kind: str) -> None:
    files = GOOD | dict.fromkeys((".hidden.png", ".git/x.png", "c.heic", "d.tar.gz", "e.txt", "f/g/h.GIF"), b"")
    for name, content in files.items():
        create(tmp_path / "folder" / name, content)
    archive = create(tmp_path / f"x.{kind}", MAKERS[kind](files))
    folder, found = list_images(tmp_path / "folder"), list_images(archive)
    for field in ("paths", "rejected", "ignored", "ignored_files", "hidden"):
        assert getattr(found, field) == getattr(folder, field), field
    assert found.name == str(archive)
    for path in GOOD:
        with found.open(path) as file:
            assert file.read() == files[path]
        assert found.stamp(path).size == len(files[path])
    for name in ("", "a", "f/g", "nowhere"):
        names = {entry for entry in folder.names(name) if (tmp_path / "folder" / name / entry).is_file()}
        assert {*found.names(name)} == names


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_members_are_decoded_as_files_are(tmp_path: Path, workers: int) -> None:
    files = [tmp_path / "folder" / name for name in GOOD]
    for file in files:
        create(file, GOOD[str(file.relative_to(tmp_path / "folder"))])
    with decode_chunks([os.fsencode(file) for file in files], [8], workers) as chunks:
        (expected,) = chunks
    for kind, make in MAKERS.items():
        listing = list_images(create(tmp_path / f"x.{kind}", make(GOOD)))
        with decode_chunks([listing.file(name) for name in GOOD], [8], workers) as chunks:
            (found,) = chunks
        assert found.pixels == expected.pixels
        assert [getattr(one, "numbers", one) for one in found.outcomes] == [
            getattr(one, "numbers", one) for one in expected.outcomes
        ]


LONG = f"{'f' * 90}/{'g' * 90}/{'h' * 90}.png"  # more than the 100 and 155 bytes of a header


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_headers_say_what_pythons_own_reader_says(tmp_path: Path, format: int) -> None:
    names = ["a.png", f"{'f' * 99}/{'x' * 90}.png", "ü.png", "./b//c.png", "\udcff.png", "empty.png", "d" * 100]
    if format != tarfile.USTAR_FORMAT:
        names += [LONG, "x/" * 200 + "a.png"]
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=format, errors="surrogateescape") as archive:
        for number, name in enumerate(names):
            add(archive, name, b"" if name == "empty.png" else bytes(500 * number + 1), mtime=1e9 + number / 7)
            add(archive, f"folder{number}", type=tarfile.DIRTYPE)
        add(archive, "link.png", type=tarfile.SYMTYPE, linkname="a.png" * 40 if format != tarfile.USTAR_FORMAT else "a")
        add(archive, "device.png", type=tarfile.CHRTYPE)
    with tarfile.open(path, errors="surrogateescape") as archive:
        expected = [(one.name, one.offset_data, one.size, one.isreg()) for one in archive if not one.isdir()]
    with path.open("rb") as file:
        found = [entry for entry in iter_tar_entries(file.fileno()) if entry is not None]
    assert [(os.fsdecode(one.name), one.start, one.size, not one.problem) for one in found] == expected
    assert len(expected) == len(names) + 2


def test_extended_headers_are_read_up_to_what_makes_no_sense(tmp_path: Path) -> None:
    good = b"12 path=abc\n"
    for records, name in {
        good: "abc",
        b"11 x=1234567\n" + good: "plain",  # a length that ends amid a record
        good + b"0 x=1\n": "abc",
        b"9999999 x=" + good: "plain",
        b"99999999999 x=" + good: "plain",
        b"30 comment=" + b"x" * 18 + b"\n" + good: "abc",
        b"7 path\n" + good: "plain",
        b"x" * 600: "plain",
    }.items():
        header = tarfile.TarInfo("header")
        header.type, header.size = b"x", len(records)
        content = header.tobuf() + records.ljust(1024, b"\0") + tarfile.TarInfo("plain").tobuf()
        if len(records) <= 512:
            content = header.tobuf() + records.ljust(512, b"\0") + tarfile.TarInfo("plain").tobuf()
        with create(tmp_path / "x.tar", content).open("rb") as file:
            (entry,) = iter_tar_entries(file.fileno())
        assert entry is not None
        assert entry.name.decode() == name, records


def test_a_size_of_8_gigabytes_and_more_is_read(tmp_path: Path) -> None:
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("a.png")
        info.size = 9 << 30
        path = create(tmp_path / "x.tar", info.tobuf(format))
        with path.open("rb") as file:
            (entry,) = iter_tar_entries(file.fileno())
        assert entry is not None
        assert (entry.size, entry.problem) == (9 << 30, "cut off: the archive ends in it")


def reasons(path: Path) -> dict[str, str]:
    found = list_images(path)
    return {file.path: file.reason for file in (*found.rejected, *found.ignored_files)}


def test_members_that_are_no_files_are_named(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        twice = "twice.png", "twice.png", "f.png", "f.png/x.png"
        for name in ("ok.png", "/etc/a.png", "../b.png", "a/../../c.png", *twice):
            add(archive, name, png(1))
        add(archive, "l.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "h.png", type=tarfile.LNKTYPE, linkname="ok.png")
        add(archive, "p.png", type=tarfile.FIFOTYPE)
        add(archive, "n" * 300 + ".png", png(2))
        add(archive, "s.png", b"x", pax_headers={"GNU.sparse.major": "1"})
        add(archive, "../labels.txt", b"x")
    found = list_images(path := create(tmp_path / "x.tar", made.getvalue()))
    assert found.paths == ("f.png", "ok.png", "twice.png")
    link, out = "a link, which is not followed in an archive", "leads out of the archive"
    assert reasons(path) == {
        **{"/etc/a.png": out, "../b.png": out, "a/../../c.png": out, "l.png": link, "h.png": link},
        "twice.png": "is in the archive more than once; the last one counts",
        "f.png/x.png": "lies in a folder of which the archive makes a file, too",
        "p.png": "not a regular file",
        "n" * 300 + ".png": "longer than the name of a file can be",
        "s.png": "a sparse file, which is not read from an archive",
        "../labels.txt": out,
    }


def test_members_of_a_zip_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("lzma.png", png(0), zipfile.ZIP_LZMA)
        archive.writestr("ok.png", png(1))
        archive.writestr("../out.png", png(1))
        archive.writestr("secret.png", png(1))
        archive.getinfo("secret.png").flag_bits |= 1
        archive.writestr("bomb.png", bytes(1 << 20), zipfile.ZIP_DEFLATED)
        archive.getinfo("bomb.png").file_size = 1 << 40
    assert list_images(path).paths == ("ok.png",)
    assert reasons(path) == {
        "link.png": "a link, which is not followed in an archive",
        "lzma.png": "compressed by method 14, which is not read: only stored and deflated members are",
        "../out.png": "leads out of the archive",
        "secret.png": "encrypted",
        "bomb.png": f"{1 << 40:,} bytes, more than the 536,870,912 of a member that is read",
    }


def test_members_of_a_zip_that_share_their_bytes_are_not_read(tmp_path: Path) -> None:
    content = bytearray(zip_of({f"{number}.png": bytes(1000) for number in range(9)}))
    first = content.index(b"PK\x01\x02")
    for at in [at for at in range(first, len(content)) if content[at : at + 4] == b"PK\x01\x02"][:3]:
        content[at + 42 : at + 46] = bytes(4)  # where its header is: where that of the first one is
    path = create(tmp_path / "x.zip", bytes(content))
    assert list_images(path).paths == tuple(f"{number}.png" for number in range(3, 9))
    assert {*reasons(path).values()} == {"shares its bytes with another member of the archive"}


@pytest.mark.parametrize("size", [1 << 10, 1 << 28])  # less than there is; far more
def test_a_member_that_unpacks_to_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(1 << 20))
        archive.getinfo("bomb.png").file_size = size
    listing = list_images(path)
    with pytest.raises(OSError, match="its content is not what its archive says"):
        listing.open("bomb.png")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_that_changes_is_not_read_any_more(tmp_path: Path, kind: str) -> None:
    path = create(tmp_path / f"x.{kind}", MAKERS[kind](GOOD))
    listing = list_images(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(OSError, match="its archive has changed"):
        listing.open("a/0.png")


FAST: dict[str, Any] = {
    **{"candidates": 8, "chains": 1, "steps": 2, "size": 8, "channels": (8,), "networks": 1, "held_out": False},
    **{"device": "cpu", "workers": 0, "cache": None},
}
OUTSIDE = f"{tempfile.gettempdir()}/imgsubset-outside-{os.getpid()}.png"
NAMES = (
    *("../out.png", OUTSIDE, "a/../../out.png", "\udcff\udcfe.png", "A/0.PNG", "a/0.png", "a/0.png/x.png", ""),
    *(".", "./", "a//0.png", "x\n.png", "manifest.json", "y" * 300 + ".png", "z/" * 3000 + "z.png", "\\..\\out.png"),
)


def hostile_tar(draw: random.Random) -> bytes:
    made = io.BytesIO()
    kinds = [tarfile.REGTYPE] * 4 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"S", b"Z"]
    with tarfile.open(fileobj=made, mode="w", format=draw.choice([1, 2]), errors="surrogateescape") as archive:
        for name, content in draw.sample([*GOOD.items()], draw.randint(0, 8)):
            add(archive, name, content)
        for name in draw.sample(NAMES, 5):
            add(archive, name, png(1), type=draw.choice(kinds), linkname="../" * 9 + "etc/passwd")
    return made.getvalue()


def hostile_zip(draw: random.Random) -> bytes:
    made = io.BytesIO()
    method = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in draw.sample([*GOOD.items()], draw.randint(0, 8)):
            archive.writestr(name, content)
        for name in draw.sample([name for name in NAMES if name.isascii() and name not in archive.NameToInfo], 4):
            info = zipfile.ZipInfo(name)
            info.external_attr = draw.choice([0, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFREG]) << 16
            archive.writestr(info, png(1))
            info.flag_bits |= draw.choice([0, 0, 1, 1 << 11])
            info.file_size = draw.choice([info.file_size, 0, 1 << 27, 1 << 40])
    return made.getvalue()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """An archive as it was, cut off, with bytes changed, a number of any size in it, repeated, or inside another."""
    kind, changed = draw.randrange(7), bytearray(content)
    if kind == 1:
        return content[: draw.randrange(len(content))]
    if kind == 2:
        for _ in range(20):
            changed[draw.randrange(len(content))] = draw.randrange(256)
    if kind == 3:
        at = draw.randrange(len(content) - 8)
        changed[at : at + 8] = draw.choice([bytes(8), b"\xff" * 8, b"77777777", struct.pack("<q", 1 << 40)])
    if kind == 4:
        return content + content
    if kind == 5:
        return draw.choice([tar_of, zip_of])({"inner.zip": content, "inner.png": content, "ok.png": png(3)})
    return bytes(changed)


@pytest.mark.slow
def test_no_hostile_archive_gets_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 archives: each ends well or in one line of an error that is foreseen, and nothing else is on the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # most of the time otherwise
    codes = []
    for seed in range(300):
        draw = random.Random(seed)
        content = damaged(draw.choice([hostile_tar, hostile_zip])(draw), draw)
        home = tmp_path / str(seed)
        source = create(home / draw.choice(["x.tar", "x.zip", "x", "x.png"]), content)
        code, message, made = attempt(source, home / "out", whole=seed % 30 == 0)
        codes.append(code)
        assert len(message) < 600, seed
        assert "\n" not in message.replace("x\n.png", ""), seed  # which the command line prints as \\n
        assert {path.name for path in home.iterdir()} == {source.name, *(["out"] if made else [])}, seed
        assert {*tree(home / "out")} - {"a/0.txt"} == made, seed
        assert {path.name for path in tmp_path.iterdir()} == {str(number) for number in range(seed + 1)}, seed
    assert {*codes} == {0, 3}
    assert 60 < codes.count(3) < 240  # both ways are gone
    assert not os.path.exists(OUTSIDE)


def attempt(source: Path, destination: Path, whole: bool) -> tuple[int, str, set[str]]:
    """The exit code of copying all usable images of a source, or of a whole selection of one; what that says, and the
    files that it should make."""
    try:
        if whole:
            return 0, "", {*select_into(source, 1, destination, Options(**FAST)).chosen, "manifest.json"}
        listing = list_images(source)
        with decode_chunks([listing.file(path) for path in listing.paths], [8], 0) as chunks:
            outcomes = [outcome for chunk in chunks for outcome in chunk.outcomes]
        stamps = {
            path: one.stamp for path, one in zip(listing.paths, outcomes, strict=True) if not isinstance(one, str)
        }
        if not stamps:
            return 3, "", set()
        rows = tuple(range(len(stamps)))
        made_up = {"rows": rows, "ranked_rows": rows, "paths": tuple(stamps), "stamps": tuple(stamps.values())}
        export(replace(selection_of(source.parent, [source.name]), source=listing, **made_up), destination)
    except ImgsubsetError as error:
        return error.exit_code, str(error), set()
    return 0, "", {*stamps, "manifest.json"}


def test_hostile_archives_are_one_line_on_the_command_line(tmp_path: Path, imgsubset: Callable[..., Any]) -> None:
    contents = {
        "empty.tar": b"",
        "empty.zip": b"",
        "page.zip": b"<html>",
        "cut.zip": zip_of(GOOD)[:-30],
        "bytes.zip": zip_of({"ü.png": b""}).replace("ü".encode(), b"\xff\xfe"),
        "none.tar": bytes(10240),
        "nothing.zip": zip_of({}),
        "links.tar": tar_of({"a.png": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "x.tar.gz": b"\x1f\x8b\x08",
    }
    for name, content in contents.items():
        run = imgsubset("select", create(tmp_path / name, content), tmp_path / "out", "-n", 1)
        assert (run.code, run.out, run.err.count("\n")) == (3, "", 1), (name, run)
        assert name in run.err
    assert {path.name for path in tmp_path.iterdir()} == {*contents}


def test_a_tar_that_is_cut_off_says_so_and_keeps_what_is_whole(tmp_path: Path) -> None:
    whole = tar_of(GOOD)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        last = archive.getmembers()[-2]
    found = list_images(create(tmp_path / "x.tar", whole[: last.offset_data + 9]))
    assert len(found.paths) == 7
    assert [(file.path, file.reason) for file in found.rejected] == [(last.name, "cut off: the archive ends in it")]
    unended = list_images(create(tmp_path / "y.tar", whole[: last.offset]))
    assert [file.path for file in unended.ignored_files] == ["y.tar"]
    with pytest.raises(InputError, match="cannot be read as a tar archive: no member begins at byte 0"):
        list_images(create(tmp_path / "z.tar", b"x" + whole[1:]))
