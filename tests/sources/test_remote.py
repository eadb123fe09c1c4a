"""Sources behind URLs, in fsspec's file system in memory, which only this process can read."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fsspec
import pytest
from archives import png, tar_of, zip_of
from fsspec.implementations.memory import MemoryFileSystem

from imgsubset import export, select, select_into
from imgsubset.decoding.workers import decode_chunks
from imgsubset.errors import InputError, UsageError
from imgsubset.features.feature_spaces import N_SAMPLED_REMOTE_FILES, SMALL_RESOLUTION, choose_resolution
from imgsubset.sources.listing import list_images
from imgsubset.sources.remote import parse_url

FAST: dict[str, Any] = {
    **{"candidates": 8, "chains": 1, "steps": 2, "size": 8, "channels": (8,), "networks": 1, "held_out": False},
    **{"device": "cpu", "cache": None},
}
PICTURES = {f"{'ab'[number % 2]}/{number}.png": png(number) for number in range(40)}


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    for name, content in PICTURES.items():
        system.pipe_file(f"/bucket/{name}", content)
    yield system
    system.rm("/", recursive=True)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_each_file_is_fetched_once_and_once_more_if_it_is_copied(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    asked: Counter[str] = Counter()
    inner = MemoryFileSystem.cat_file

    def counted(system: Any, path: str, *rest: Any, **words: Any) -> bytes:
        asked[path.removeprefix("/bucket/")] += 1
        return inner(system, path, *rest, **words)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    found = select("memory://bucket", 5, **FAST, workers=workers)
    assert asked == dict.fromkeys(PICTURES, 1)
    export(found, tmp_path / "out")
    assert asked == {name: 1 + (name in found.chosen) for name in PICTURES}
    assert {name: (tmp_path / "out" / name).read_bytes() for name in found.chosen} == {
        name: PICTURES[name] for name in found.chosen
    }


def test_a_path_is_a_url_too_and_a_file_of_that_name_is_not(memory: Any, tmp_path: Path, monkeypatch: Any) -> None:
    assert list_images(Path("memory://bucket")).name == "memory://bucket"
    assert list_images("memory://bucket").paths == tuple(sorted(PICTURES))
    assert [parse_url(name) for name in ("a/b", "/a:/b", "a:b", "C:\\x", "s3:/b/c", "s3:///b", "")] == [
        *([None] * 4),
        "s3://b/c",
        None,
        None,
    ]
    (tmp_path / "s3:" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_url("s3://b") is None


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_an_archive_is_fetched_and_gone_in_the_end(
    memory: Any, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory.pipe_file(f"/bucket/all{suffix}", {".tar": tar_of, ".zip": zip_of}[suffix](PICTURES))
    url = f"memory://bucket/all{suffix}"
    listing = list_images(url)
    assert listing.name == listing.origin == url
    assert listing.paths == tuple(sorted(PICTURES))
    assert listing.open("a/0.png").read() == PICTURES["a/0.png"]
    assert os.listdir(tmp_path)
    del listing
    assert not os.listdir(tmp_path)


def test_shards_behind_a_url_are_one_source(memory: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = [*PICTURES]
    for number in range(3):
        memory.pipe_file(f"/shards/s-{number}.tar", tar_of({name: PICTURES[name] for name in names[number::3]}))
    assert list_images("memory://shards/s-{0..2}.tar").paths == tuple(sorted(PICTURES))
    memory.pipe_file("/shards/s-1.tar", b"x" * 1000)
    with pytest.raises(InputError, match=r"source 'memory://shards/s-1.tar' cannot be read as a tar archive"):
        list_images("memory://shards/s-{0..2}.tar")
    with pytest.raises(InputError, match=r"cannot read source 'memory://shards/s-3.tar'"):
        list_images("memory://shards/s-{0..3}.tar")
    assert not os.listdir(tmp_path)


def test_hostile_names_lead_nowhere(memory: Any, tmp_path: Path) -> None:
    for name in ("../up.png", "a//b.png", ".hidden/x.png", "n" * 300 + ".png", "a/b.png/c.png"):
        memory.store[f"/bucket/{name}"] = memory.store["/bucket/a/0.png"]
    found = list_images("memory://bucket")
    assert {*found.paths} == {*PICTURES, "a/b.png"}
    assert {file.path for file in found.rejected} == {"../up.png", "n" * 300 + ".png", "a/b.png/c.png"}


@pytest.mark.slow
def test_files_that_fail_or_change_are_rejected(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = list_images("memory://bucket")
    memory.pipe_file("/bucket/a/0.png", b"other")
    memory.rm("/bucket/b/1.png")
    inner = MemoryFileSystem.cat_file

    def failing(system: Any, path: str, *rest: Any, **words: Any) -> bytes:
        if path.endswith("a/2.png"):
            raise RuntimeError("no\ncredentials")
        return inner(system, path, *rest, **words)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", failing)
    with decode_chunks([listing.file(f"{'ab'[number % 2]}/{number}.png") for number in range(4)], [8], 1) as chunks:
        (chunk,) = chunks
    first, second, third, last = chunk.outcomes
    assert (first, third) == ("has changed since it was listed", "no credentials")
    assert isinstance(second, str)
    assert not isinstance(last, str)


@pytest.mark.slow
def test_the_cache_knows_files_behind_a_url(memory: Any, tmp_path: Path) -> None:
    for file in memory.store.values():  # what was changed this moment is not cached
        file.created = datetime(2020, 1, 2, 3, 4, 5, 678901, timezone.utc)
    words = FAST | {"cache": str(tmp_path / "cache"), "workers": 0}
    assert select("memory://bucket", 5, **words).cached == 0
    assert select("memory://bucket", 6, **words).cached == 40
    memory.pipe_file("/bucket/a/0.png", PICTURES["a/0.png"])  # written anew
    assert select("memory://bucket", 6, **words).cached == 39


def test_what_cannot_be_read_is_one_line(memory: Any, tmp_path: Path) -> None:
    for url, error, text in (
        ("memory://nowhere", InputError, "cannot read source 'memory://nowhere': there is nothing there"),
        ("nosuch://x", UsageError, "source 'nosuch://x': Protocol not known: nosuch"),
        ("s3://x/y", UsageError, r"source 's3://x/y': Install s3fs .*: pip install 'imgsubset\[remote\]'"),
    ):
        if url.startswith("s3"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(sys.modules, "s3fs", None)
                with pytest.raises(error, match=text):
                    list_images(url)
        else:
            with pytest.raises(error, match=text):
                list_images(url)
    with pytest.raises(UsageError, match="destination 's3://x' is a URL; a subset is written to a folder"):
        select_into("memory://bucket", 3, "s3://x", **FAST)
    with pytest.raises(UsageError, match="mode 'symlink' needs files to link to"):
        select_into("memory://bucket", 3, tmp_path / "out", mode="symlink", **FAST)


def test_the_resolution_follows_from_a_few_files(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    inner = MemoryFileSystem.cat_file
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *words: asked.append(1) or inner(*words))
    assert choose_resolution(list_images("memory://bucket"), "auto") == SMALL_RESOLUTION
    assert len(asked) == N_SAMPLED_REMOTE_FILES < len(PICTURES)
