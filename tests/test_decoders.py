from __future__ import annotations

import gc
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from conftest import create, noise
from PIL import Image

from imgsubset import decoders
from imgsubset.decoders import Chunk, chunk_length, decoded
from imgsubset.errors import InputError
from imgsubset.images import Stamp, decode, reason
from imgsubset.listing import list_images

Processes: TypeAlias = list[subprocess.Popen[bytes]]
SIDE = 8
BAD = {
    10: (b"", "empty file"),
    50: (b"<html>", "an HTML page, not an image"),
    139: (b"x", "not an image of a supported format (JPEG, PNG, WEBP, BMP, GIF, TIFF)"),
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """140 files, five chunks: pictures, broken ones, and names that a careless protocol would break."""
    root = tmp_path_factory.mktemp("many")
    for number in range(140):
        path = root / f"{number:03d}.png"
        if number in BAD:
            path.write_bytes(BAD[number][0])
        else:
            Image.fromarray(noise(number, 9, 7)).save(path)
    return root


def collect(root: Path, workers: int | None, size: int = SIDE) -> list[Chunk]:
    with decoded(root, list_images(root).paths, size, workers) as chunks:
        return list(chunks)


def alone(path: Path, size: int) -> tuple[bytes, Stamp | str]:
    """What a file decodes to by itself; no pixels and the reason if it does not."""
    try:
        return decode(path, size)
    except Exception as error:
        return b"", reason(error, path)


def check(root: Path, chunks: list[Chunk], size: int = SIDE) -> None:
    """Compare with decoding each file by itself."""
    paths = list_images(root).paths
    length = chunk_length(size)
    assert [chunk.start for chunk in chunks] == list(range(0, len(paths), length))
    outcomes = [outcome for chunk in chunks for outcome in chunk.outcomes]
    assert len(outcomes) == len(paths)
    for position, (path, outcome) in enumerate(zip(paths, outcomes, strict=True)):
        pixels = chunks[position // length].pixels
        assert len(pixels) == length * size * size * 3
        begin = position % length * size * size * 3
        expected, stamp = alone(root / path, size)
        assert outcome == stamp
        assert expected in (b"", pixels[begin : begin + size * size * 3])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """The decoding processes that are started."""
    processes: Processes = []
    popen = subprocess.Popen

    def recorded(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(decoders.subprocess, "Popen", recorded)
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_chunks_hold_what_each_file_decodes_to(many: Path, started: Processes, workers: int) -> None:
    chunks = collect(many, workers)
    check(many, chunks)
    assert len(started) == workers
    outcomes = [outcome for chunk in chunks for outcome in chunk.outcomes]
    assert {number: outcome for number, outcome in enumerate(outcomes) if not isinstance(outcome, Stamp)} == {
        number: why for number, (_, why) in BAD.items()
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_names_of_any_bytes_are_decoded(tmp_path: Path, workers: int) -> None:
    names = ["new\nline.png", "\udcff\udcfe.png", "-n.png", "tab\t\x1b[31m.png", "é.png", "sub/\udcff/x.png"]
    names += ["n" * 251 + ".png"]
    content = tmp_path / "content"
    Image.fromarray(noise(0, 9, 9)).save(content, "PNG")
    root = tmp_path / "source"
    for name in names:
        create(root / name, content.read_bytes())
    chunks = collect(root, workers)
    check(root, chunks)
    assert [isinstance(outcome, Stamp) for chunk in chunks for outcome in chunk.outcomes] == [True] * len(names)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_chunk_of_the_longest_paths_is_decoded(tmp_path: Path, workers: int) -> None:
    deep = str(tmp_path)
    while len(deep) < 3840:
        deep += "/" + "d" * 120
    deep += "/" + "d" * (4094 - len(deep))  # the longest path that a folder can be opened by
    try:
        os.makedirs(deep)
        descriptor = os.open(deep, os.O_RDONLY)
    except OSError as error:
        pytest.skip(f"the file system takes no such name: {error.strerror}")
    try:
        for number in range(chunk_length(SIDE)):
            os.close(os.open(f"{number:03d}".rjust(251, "f") + ".png", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    finally:
        os.close(descriptor)
    outcomes = [outcome for chunk in collect(tmp_path, workers) for outcome in chunk.outcomes]
    assert outcomes == ["File name too long"] * chunk_length(SIDE)


@pytest.mark.parametrize("workers", [1, 2])
def test_slots_are_used_again_when_there_are_more_chunks(
    many: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(decoders, "SHARED_BYTES", 1)
    paths = list_images(many).paths
    pool = decoders._Pool(many, paths, SIDE, workers)
    try:
        assert pool.slots == 2 * workers < pool.chunk_count == 5
        check(many, list(pool.chunks()))
    finally:
        pool.close()


def test_a_large_size_makes_chunks_of_fewer_images(tmp_path: Path) -> None:
    for number in range(5):
        Image.fromarray(noise(number, 9, 9)).save(tmp_path / f"{number}.png")
    size = 512
    assert chunk_length(size) == 2
    check(tmp_path, collect(tmp_path, 2, size), size)


def test_no_more_processes_start_than_there_are_chunks(many: Path, started: Processes) -> None:
    collect(many, 50)
    assert len(started) == 5


def test_few_images_start_no_process_unless_told_to(tmp_path: Path, started: Processes) -> None:
    for number in range(decoders.FEW - 1):
        (tmp_path / f"{number}.png").write_bytes(b"")
    collect(tmp_path, None)
    assert started == []
    (tmp_path / "one more.png").write_bytes(b"")
    collect(tmp_path, None)
    assert len(started) == min(decoders.usable_cores(), 2)


@pytest.mark.parametrize("workers", [0, 3])
def test_no_image_is_no_chunk(tmp_path: Path, workers: int) -> None:
    assert collect(tmp_path, workers) == []


def open_files() -> int | None:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None


class ConsumerError(Exception):
    pass


def leave_by_exception(chunks: Iterator[Chunk], processes: Processes) -> None:
    next(chunks)
    raise ConsumerError


def leave_early(chunks: Iterator[Chunk], processes: Processes) -> None:
    next(chunks)


def leave_at_once(chunks: Iterator[Chunk], processes: Processes) -> None:
    pass


def leave_when_stuck(chunks: Iterator[Chunk], processes: Processes) -> None:
    for process in processes:
        process.send_signal(signal.SIGSTOP)


def leave_at_the_end(chunks: Iterator[Chunk], processes: Processes) -> None:
    assert len(list(chunks)) == 5


@pytest.mark.timeout(60)
@pytest.mark.parametrize("leave", [leave_by_exception, leave_early, leave_at_once, leave_at_the_end, leave_when_stuck])
def test_no_process_and_no_open_file_is_left(many: Path, started: Processes, leave: Any) -> None:
    before = open_files()
    try:
        with decoded(many, list_images(many).paths, SIDE, 3) as chunks:
            assert [process.poll() for process in started] == [None] * 3
            leave(chunks, started)
    except ConsumerError:
        assert leave is leave_by_exception
    assert len(started) == 3
    assert None not in [process.returncode for process in started]
    assert open_files() == before


def test_a_process_that_cannot_be_started_leaves_no_other_behind(
    many: Path, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen

    def third_fails(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if len(started) == 2:
            raise OSError(11, "Resource temporarily unavailable")
        return popen(*arguments, **options)

    before = open_files()
    monkeypatch.setattr(decoders.subprocess, "Popen", third_fails)
    with pytest.raises(OSError, match="Resource temporarily unavailable"):
        collect(many, 3)
    gc.collect()  # what was left open is found out here and not in another test
    assert len(started) == 2
    assert None not in [process.returncode for process in started]
    assert open_files() == before


@pytest.mark.timeout(60)
def test_the_death_of_all_processes_is_an_error_and_no_hang(
    many: Path, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "SERVE", "import sys; sys.exit(1)")
    with pytest.raises(InputError, match="a decoding process failed"):
        collect(many, 2)
    assert {process.returncode for process in started} <= {1, -signal.SIGKILL}


@pytest.mark.timeout(60)
def test_a_process_killed_at_a_file_is_an_error_that_names_it(tmp_path: Path, started: Processes) -> None:
    Image.new("RGB", (12_000, 12_000)).save(tmp_path / "b.png", compress_level=1)  # a second's work
    for name in ("a.png", *(f"c{number:03d}.png" for number in range(80))):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    paths = list_images(tmp_path).paths
    with decoded(tmp_path, paths, SIDE, 2) as chunks:
        pool = chunks.gi_frame.f_locals["self"]  # type: ignore[attr-defined]
        while (claim := decoders._get_claim(pool.memory, 0, SIDE))[1] != 1:
            time.sleep(0.001)
        os.kill(claim[0], signal.SIGKILL)
        with pytest.raises(InputError, match=r"the process decoding 'b\.png' was killed by signal 9"):
            list(chunks)


def test_the_shared_pixels_need_no_room_in_shared_memory(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, length: int) -> None:
        if os.path.realpath(f"/proc/self/fd/{descriptor}").startswith("/dev/shm"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoders.os, "posix_fallocate", full, raising=False)
    check(many, collect(many, 1))


def test_pixels_do_not_depend_on_the_neighbours(many: Path) -> None:
    paths = list_images(many).paths
    with decoded(many, paths[3:5], SIDE, 0) as chunks:
        (chunk,) = list(chunks)
    expected = np.frombuffer(decode(many / paths[4], SIDE)[0], np.uint8)
    assert (np.frombuffer(chunk.pixels, np.uint8)[SIDE * SIDE * 3 :][: SIDE * SIDE * 3] == expected).all()
