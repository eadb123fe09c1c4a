"""Compressed tar archives as sources: the same as the plain one, and nothing is left in the temporary folder."""

from __future__ import annotations

import bz2
import contextlib
import gc
import gzip
import io
import json
import lzma
import os
import random
import shutil
import tempfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from archives import png, tar_of
from conftest import create

from imgsubset import export, select, select_into
from imgsubset.decoding.workers import decode_chunks
from imgsubset.errors import InputError, UsageError
from imgsubset.files import Stamp
from imgsubset.sources import archives
from imgsubset.sources.archive_members import file_from_json, file_to_json, make_sendable
from imgsubset.sources.listing import list_images

FAST: dict[str, Any] = {
    **{"candidates": 8, "chains": 1, "steps": 2, "size": 8, "channels": (8,), "networks": 1, "held_out": False},
    **{"device": "cpu", "workers": 0},
}
GOOD = {f"{'ab'[number % 2]}/{number}.png": png(number) for number in range(12)} | {"a/0.txt": b"label of a/0"}
KINDS: dict[str, Callable[[bytes], bytes]] = {
    "tar.gz": gzip.compress,
    "tar.bz2": partial(bz2.compress, compresslevel=1),
    "tar.xz": lzma.compress,
}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder of a test, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    gc.collect()
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_tar_is_listed_and_read_as_the_plain_one(tmp_path: Path, temporary: Path, kind: str) -> None:
    whole = tar_of(GOOD)
    half = len(whole) // 3
    plain = list_images(create(tmp_path / "x.tar", whole))
    several = KINDS[kind](whole[:half]) + KINDS[kind](whole[half:])  # streams one after another
    for content in (KINDS[kind](whole), several):
        found = list_images(file := create(tmp_path / "odd name", content))
        assert len([*temporary.iterdir()]) == 1
        assert (found.paths, found.rejected, found.ignored_files) == (plain.paths, (), ())
        for path in GOOD:
            assert found.open(path).read() == GOOD[path]
            assert found.stamp(path) == Stamp(len(GOOD[path]), file.stat().st_mtime_ns)
        del found


def test_many_blocks_and_padding_between_streams(tmp_path: Path, temporary: Path) -> None:
    files = GOOD | {"large.bin": random.Random(0).randbytes(1 << 20) + bytes(1 << 20)}
    whole = tar_of(files)
    padded = lzma.compress(whole[:5000]) + bytes(8) + lzma.compress(whole[5000:]) + bytes(4)
    for content in (padded, bz2.compress(whole), gzip.compress(whole) + bytes(100)):
        found = list_images(create(tmp_path / "x", content))
        assert found.open("large.bin").read() == files["large.bin"]
        assert found.ignored_files == ()


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_cache_knows_members_by_the_archive(tmp_path: Path, temporary: Path, workers: int) -> None:
    file = create(tmp_path / "x.tgz", gzip.compress(tar_of(GOOD)))
    os.utime(file, ns=(10**18, 10**18))  # the cache trusts no file of this very moment
    words = FAST | {"workers": workers, "cache": str(tmp_path / "cache")}
    first = select(file, 3, **words)
    (tmp_path / "x.tar").write_bytes(tar_of(GOOD))
    again, plain = select(file, 3, **words), select(tmp_path / "x.tar", 3, **words)
    assert (first.cached, again.cached, plain.cached) == (0, 12, 0)
    assert first.chosen == again.chosen == plain.chosen
    export(again, tmp_path / "out")
    assert {path: (tmp_path / "out" / path).read_bytes() for path in first.chosen} == {
        path: GOOD[path] for path in first.chosen
    }
    os.utime(file, ns=(5, 5))
    assert select(file, 3, **words).cached == 0
    del first, again  # and with them the temporary file


def test_what_another_process_is_told_has_the_stamp_of_the_archive(tmp_path: Path, temporary: Path) -> None:
    file = create(tmp_path / "x.tgz", gzip.compress(tar_of(GOOD)))
    os.utime(file, ns=(7, 7))
    found = list_images(file)
    one = found.file("a/0.png")
    assert file_from_json(json.loads(json.dumps(file_to_json(make_sendable(one)))), iter(())) == one
    with decode_chunks([one], [8], 0) as chunks:
        (chunk,) = chunks
    assert chunk.outcomes[0].stamp == found.stamp("a/0.png") == Stamp(len(GOOD["a/0.png"]), 7)  # type: ignore[union-attr]


def test_shards_may_be_compressed(tmp_path: Path, temporary: Path) -> None:
    create(tmp_path / "s-0.tar.gz", gzip.compress(tar_of({"0.png": png(0), "x.png": png(1)})))
    create(tmp_path / "s-1.tar.gz", gzip.compress(tar_of({"1.png": png(2), "x.png": png(3)})))
    found = list_images(str(tmp_path / "s-{0..1}.tar.gz"))
    assert found.paths == ("s-0/0.png", "s-0/x.png", "s-1/1.png", "s-1/x.png")
    files = [str(tmp_path / f"s-{number}.tar.gz") for number in range(2)]
    assert list_images(files).paths == found.paths


def test_a_destination_may_not_hold_or_be_the_archive(tmp_path: Path, temporary: Path) -> None:
    file = create(tmp_path / "in" / "x.tgz", gzip.compress(tar_of(GOOD)))
    with pytest.raises(UsageError, match=f"contains '{file}' of source"):
        select_into(file, 3, tmp_path / "in", **FAST)


# Hostile ones


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_cut_off_gives_what_is_whole_and_says_so(tmp_path: Path, temporary: Path, kind: str) -> None:
    pictures = {f"{number}.png": random.Random(number).randbytes(60_000) for number in range(8)}  # of several blocks
    content = KINDS[kind](tar_of(pictures))
    file = create(tmp_path / f"x.{kind}", content[: len(content) // 2])
    found = list_images(file)
    assert 0 < len(found.paths) < 8
    reasons = " ".join(one.reason for one in found.ignored_files)
    assert "damaged where it is unpacked: " in reasons
    for path in found.paths:
        assert found.open(path).read() == pictures[path]


def test_a_wrong_checksum_is_told(tmp_path: Path, temporary: Path) -> None:
    content = bytearray(gzip.compress(tar_of(GOOD)))
    content[-8] ^= 1
    found = list_images(create(tmp_path / "x.tgz", bytes(content)))
    assert len(found.paths) == 12
    (note,) = found.ignored_files
    assert "CRC check failed" in note.reason


def test_what_is_no_compressed_tar_is_one_line(tmp_path: Path, temporary: Path, imgsubset: Callable[..., Any]) -> None:
    large = io.BytesIO()
    with lzma.open(large, "w", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]) as stream:
        stream.write(tar_of(GOOD))
    contents = {
        "text.tar.gz": gzip.compress(b"a.png\n" * 500),
        "zeros.tgz": gzip.compress(bytes(10240)),
        "nothing.tar.gz": gzip.compress(b""),
        "cut.tar.xz": lzma.compress(tar_of(GOOD))[:40],
        "page.tar.bz2": b"<html>",
        "memory.tar.xz": large.getvalue(),
        "twice.tar.gz": gzip.compress(gzip.compress(tar_of(GOOD))),
        "z.tar.zst": b"\x28\xb5\x2f\xfd" + bytes(20),
        "links.tgz": gzip.compress(tar_of({"a.png": b""}, type=b"2", linkname="/etc/passwd")),
        "header.tgz": gzip.compress(tar_of({"a" * 300 + ".png": b""})[:700]),
    }
    for name, content in contents.items():
        run = imgsubset("select", create(tmp_path / name, content), tmp_path / "out", "-n", 1)
        assert (run.code, run.out, run.err.count("\n")) == (3, "", 1), (name, run)
        assert name in run.err
        assert "imgsubset-" not in run.err
    assert not (tmp_path / "out").exists()


Usage = namedtuple("Usage", "total used free")


def test_a_bomb_ends_where_the_disk_would_be_more_than_half_full(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def usage(folder: str) -> Usage:
        (file,) = temporary.iterdir()
        seen.append(file.stat().st_size)
        return Usage(1 << 30, 0, (6 << 20) - seen[-1])

    monkeypatch.setattr(shutil, "disk_usage", usage)
    bomb = tar_of({"a.png": bytes(10 << 20)})
    for kind, pack in KINDS.items():
        with pytest.raises(InputError, match=r"takes more than .* bytes once unpacked, and '.*' has .* free"):
            list_images(create(tmp_path / f"x.{kind}", pack(bomb)))
        assert [*temporary.iterdir()] == []
    assert max(seen) <= 4 << 20


@pytest.mark.parametrize("what", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_if_unpacking_ends_early(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, what: BaseException
) -> None:
    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise what

    inner = archives._unpack
    monkeypatch.setattr(archives, "_unpack", lambda path, file, target: inner(path, file, Full()))
    file = create(tmp_path / "x.tgz", gzip.compress(tar_of(GOOD)))
    if isinstance(what, OSError):
        with pytest.raises(InputError, match=r"x\.tgz' cannot be unpacked to .*: No space left on device"):
            list_images(file)
    else:
        with pytest.raises(KeyboardInterrupt):
            list_images(file)
    assert [*temporary.iterdir()] == []


def test_random_damage_is_one_line_or_leaves_good_pictures(tmp_path: Path, temporary: Path) -> None:
    dice = random.Random(5)
    for number in range(90):
        content = bytearray([*KINDS.values()][number % 3](tar_of(GOOD)))
        for _ in range(dice.randint(1, 3)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        with contextlib.suppress(InputError):
            found = list_images(create(tmp_path / "x", bytes(content)))
            for path in found.paths:
                found.open(path).close()
        found = None
