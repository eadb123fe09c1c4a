from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any, TypeAlias

import numpy as np
import pytest
from conftest import create, noise
from PIL import Image

from imgsubset.decoding import workers as pool
from imgsubset.decoding.decode import ImageInfo, decode_image, explain_failure
from imgsubset.decoding.workers import Chunk, chunk_length, decode_chunks
from imgsubset.errors import ImgsubsetError, InputError
from imgsubset.sources.listing import list_images

Processes: TypeAlias = list[subprocess.Popen[bytes]]
SIDE = 8
POPEN = subprocess.Popen  # as it is before a test wraps it
KILL = POPEN.kill
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


def files(root: Path, paths: Sequence[str] | None = None) -> list[bytes]:
    """Those of a folder, or of its images of these paths."""
    return [os.fsencode(root / path) for path in (list_images(root).paths if paths is None else paths)]


def collect(root: Path, workers: int | None, size: int = SIDE) -> list[Chunk]:
    with decode_chunks(files(root), [size], workers) as chunks:
        return list(chunks)


def alone(path: Path, size: int) -> tuple[bytes, ImageInfo | str]:
    """What a file decodes to by itself; no pixels and the reason if it does not."""
    try:
        image = decode_image(path, [size])
        return image.pixels[0], image.info
    except Exception as error:
        return b"", explain_failure(error, path)


def check(root: Path, chunks: list[Chunk], size: int = SIDE, refused: dict[str, str] | None = None) -> None:
    """Compare with decoding each file by itself, but for the files that were to be refused, and why."""
    paths = list_images(root).paths[: sum(len(chunk.outcomes) for chunk in chunks)]
    length = chunk_length(size)
    assert [chunk.start for chunk in chunks] == list(range(0, len(paths), length))
    outcomes = [outcome for chunk in chunks for outcome in chunk.outcomes]
    assert len(outcomes) == len(paths) > 0
    for position, (path, outcome) in enumerate(zip(paths, outcomes, strict=True)):
        (pixels,) = chunks[position // length].pixels.values()
        assert len(pixels) == length * size * size * 3
        begin = position % length * size * size * 3
        expected, known = (b"", refused[path]) if refused and path in refused else alone(root / path, size)
        assert outcome == known
        assert expected in (b"", pixels[begin : begin + size * size * 3])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """The decoding processes that are started."""
    processes: Processes = []
    popen = subprocess.Popen

    def recorded(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(pool.subprocess, "Popen", recorded)
    yield processes
    for process in processes:
        process.kill()
        process.wait()


WORKER = """
import os, signal, sys, time
sys.path[:] = sys.argv[2:]
import imgsubset.decoding.workers as d

def reach(name, seconds=1000):
    try:
        os.close(os.open(os.path.join({folder!r}, name), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return  # only the first time
    time.sleep(seconds)

def wait_for(name):
    while not os.path.exists(os.path.join({folder!r}, name)):
        time.sleep(0.005)

def decode(path, sizes, real=d.decode_image):
    name = os.fsdecode(os.path.basename(path))
{at_a_file}
    return real(path, sizes)

d.decode_image = decode
import multiprocessing.connection as c
SEND = c.Connection.send_bytes
{at_the_start}
d.serve(sys.argv[1])
"""
Misbehave: TypeAlias = Callable[..., Path]


@pytest.fixture
def misbehave(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Misbehave:
    """Have the decoding processes run some code before each file, where `name` is the file's name."""

    def patch(at_a_file: str, at_the_start: str = "", seconds: float = 3.0) -> Path:
        folder = tmp_path_factory.mktemp("reached")
        code = WORKER.format(folder=str(folder), at_a_file=indent(at_a_file, "    "), at_the_start=at_the_start)
        monkeypatch.setattr(pool, "WORKER_CODE", code)
        monkeypatch.setattr(pool, "MAX_DECODE_SECONDS", seconds)
        return folder

    return patch


def assert_gone(processes: Processes) -> None:
    assert processes
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_chunks_hold_what_each_file_decodes_to(many: Path, started: Processes, workers: int) -> None:
    chunks = collect(many, workers)
    check(many, chunks)
    assert len(started) == workers
    outcomes = [outcome for chunk in chunks for outcome in chunk.outcomes]
    assert {number: outcome for number, outcome in enumerate(outcomes) if not isinstance(outcome, ImageInfo)} == {
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
    assert [isinstance(outcome, ImageInfo) for chunk in chunks for outcome in chunk.outcomes] == [True] * len(names)


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
        names = [f"{number:03d}".rjust(251, "f") + ".png" for number in range(chunk_length(SIDE))]
        for name in names:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    finally:
        os.close(descriptor)
    with decode_chunks([os.fsencode(f"{deep}/{name}") for name in names], [SIDE], workers) as chunks:
        assert [list(chunk.outcomes) for chunk in chunks] == [["File name too long"] * chunk_length(SIDE)]
    assert {file.reason for file in list_images(tmp_path).rejected} == {"File name too long"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_chunks_that_wait_are_bounded(
    many: Path, started: Processes, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(pool, "MAX_QUEUED_BYTES", 1)
    check(many, collect(many, workers))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_several_sizes_come_from_one_opening(tmp_path: Path, workers: int) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise(1, 90, 70)).save(tmp_path / "a.jpg", exif=turned)
    Image.fromarray(noise(2, 33, 21)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"")
    with decode_chunks(files(tmp_path), [8, 48], workers) as chunks:
        (chunk,) = chunks
    assert [getattr(outcome, "numbers", outcome) for outcome in chunk.outcomes] == [
        *((70, 90, (tmp_path / "a.jpg").stat().st_size), (33, 21, (tmp_path / "b.png").stat().st_size)),
        "empty file",
    ]
    for size in (8, 48):
        assert len(chunk.pixels[size]) == chunk_length(48) * size * size * 3
        for number, name in enumerate(("a.jpg", "b.png")):
            begin = number * size * size * 3
            expected = decode_image(tmp_path / name, [8, 48]).pixels[(8, 48).index(size)]
            assert chunk.pixels[size][begin : begin + size * size * 3] == expected
    assert decode_image(tmp_path / "b.png", [8, 48]).pixels[0] == decode_image(tmp_path / "b.png", [8]).pixels[0]


@pytest.mark.slow
def test_a_large_size_makes_chunks_of_fewer_images(tmp_path: Path) -> None:
    for number in range(5):
        Image.fromarray(noise(number, 9, 9)).save(tmp_path / f"{number}.png")
    size = 512
    assert chunk_length(size) == 2
    check(tmp_path, collect(tmp_path, 2, size), size)


@pytest.mark.slow
def test_no_more_processes_start_than_there_are_chunks(many: Path, started: Processes) -> None:
    collect(many, 50)
    assert len(started) == 5


@pytest.mark.slow
def test_few_images_start_one_process_unless_told_otherwise(
    tmp_path: Path, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "usable_cores", lambda: 2)
    for number in range(pool.MIN_PARALLEL_IMAGES - 1):
        (tmp_path / f"{number}.png").write_bytes(b"")
    collect(tmp_path, 0)
    assert started == []
    collect(tmp_path, None)
    assert len(started) == 1
    (tmp_path / "one more.png").write_bytes(b"")
    collect(tmp_path, None)
    assert len(started) == 1 + 2


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


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("leave", [leave_by_exception, leave_early, leave_at_once, leave_at_the_end, leave_when_stuck])
def test_no_process_and_no_open_file_is_left(many: Path, started: Processes, leave: Any) -> None:
    before = open_files()
    try:
        with decode_chunks(files(many), [SIDE], 3) as chunks:
            assert [process.poll() for process in started] == [None] * 3
            leave(chunks, started)
    except ConsumerError:
        assert leave is leave_by_exception
    assert len(started) == 3
    assert None not in [process.returncode for process in started]
    assert open_files() == before


@pytest.mark.slow
def test_a_process_that_cannot_be_started_leaves_no_other_behind(
    many: Path, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen

    def third_fails(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if len(started) == 2:
            raise OSError(11, "Resource temporarily unavailable")
        return popen(*arguments, **options)

    before = open_files()
    monkeypatch.setattr(pool.subprocess, "Popen", third_fails)
    with pytest.raises(ImgsubsetError, match=r"started: Resource temporarily unavailable; .* --workers 0"):
        collect(many, 3)
    gc.collect()  # what was left open is found out here and not in another test
    assert len(started) == 2
    assert None not in [process.returncode for process in started]
    assert open_files() == before


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_processes_that_cannot_start_are_an_error_and_not_replaced(
    many: Path, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "WORKER_CODE", "import sys; sys.exit(1)")
    with pytest.raises(InputError, match="a decoding process failed"):
        collect(many, 2)
    assert len(started) == 2
    assert {process.returncode for process in started} <= {1, -signal.SIGKILL}
    assert_gone(started)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_processes_that_never_begin_are_an_error_and_no_hang(
    many: Path, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "WORKER_CODE", "import time; time.sleep(1000)")
    monkeypatch.setattr(pool, "MAX_DECODE_SECONDS", 1.0)
    with pytest.raises(InputError, match="the decoding processes have done nothing for 1 s"):
        collect(many, 2)
    assert_gone(started)


STUCK = ["sum(iter(int, 1))", "time.sleep(1000)", "os.kill(os.getpid(), signal.SIGSTOP)"]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("workers", "how"), [(3, STUCK[0]), (1, STUCK[1]), (3, STUCK[2])])
def test_a_file_at_which_a_process_is_stuck_is_refused(
    many: Path, started: Processes, misbehave: Misbehave, workers: int, how: str
) -> None:
    before = open_files()
    names = ("033.png", "040.png", "138.png")[: max(2, workers)]  # two of one chunk
    misbehave(f"if name in {names}: {how}")
    began = time.monotonic()
    chunks = collect(many, workers)
    assert time.monotonic() - began < 120
    check(many, chunks, refused=dict.fromkeys(names, "not decoded within 3 s"))
    assert len(started) == workers + len(names)
    assert_gone(started)
    assert open_files() == before


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_stuck_file_among_few_is_refused(many: Path, misbehave: Misbehave) -> None:
    misbehave("while name == '001.png': pass")
    with decode_chunks(files(many)[:3], [SIDE]) as chunks:
        check(many, list(chunks), refused={"001.png": "not decoded within 3 s"})


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_time_limit_is_of_each_file(many: Path, started: Processes, misbehave: Misbehave) -> None:
    misbehave("time.sleep(1.4)", seconds=4.0)  # all three together take longer
    with decode_chunks(files(many)[:3], [SIDE], 1) as chunks:
        check(many, list(chunks))
    assert len(started) == 1


DEATHS = {
    "os.kill(os.getpid(), signal.SIGKILL)": "was killed by signal 9",
    "os.kill(os.getpid(), signal.SIGSEGV)": "was killed by signal 11",
    "os._exit(3)": "failed",
}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("workers", "how"), [*zip((3, 1, 3), DEATHS, strict=True)])
def test_a_file_at_which_a_process_dies_is_refused(
    many: Path, started: Processes, misbehave: Misbehave, monkeypatch: pytest.MonkeyPatch, workers: int, how: str
) -> None:
    monkeypatch.setattr(pool, "MAX_QUEUED_BYTES", 1)
    before = open_files()
    names = ("000.png", "031.png", "077.png", "135.png")
    misbehave(f"if name in {names}: {how}", seconds=60)
    chunks = collect(many, workers)
    check(many, chunks, refused=dict.fromkeys(names, f"the process decoding it {DEATHS[how]}; is there enough memory?"))
    assert len(started) == workers + 4
    assert_gone(started)
    assert open_files() == before


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_file_at_which_a_process_is_killed_from_outside_is_refused(
    tmp_path: Path, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[Any] = []
    start = pool._Worker._start
    monkeypatch.setattr(pool._Worker, "_start", lambda worker: (workers.append(worker), start(worker)))
    Image.new("RGB", (12_000, 12_000)).save(tmp_path / "b.png", compress_level=1)  # a second's work
    for name in ("a.png", *(f"c{number:03d}.png" for number in range(80))):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with decode_chunks(files(tmp_path), [SIDE], 1) as chunks:
        (worker,) = workers
        while worker.shared[-1] != 2:
            time.sleep(0.001)
        os.kill(worker.process.pid, signal.SIGKILL)
        why = "the process decoding it was killed by signal 9; is there enough memory?"
        check(tmp_path, list(chunks), refused={"b.png": why})
    assert_gone(started)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_idle_process_that_is_killed_is_an_error(many: Path, started: Processes, misbehave: Misbehave) -> None:
    misbehave("", at_the_start="c.Connection = lambda *_: os.kill(os.getpid(), signal.SIGKILL)", seconds=60)
    with pytest.raises(InputError, match="a decoding process was killed by signal 9; is there enough memory"):
        collect(many, 2)
    assert_gone(started)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("workers", [1, 3])
def test_too_many_deaths_are_an_error(
    many: Path, started: Processes, misbehave: Misbehave, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    names = tuple(f"{number:03d}.png" for number in range(40, 44))
    misbehave(f"if name in {names}: os.kill(os.getpid(), signal.SIGKILL)", seconds=60)
    monkeypatch.setattr(pool, "MAX_LOST_PROCESSES", 4)
    why = "the process decoding it was killed by signal 9; is there enough memory?"
    check(many, collect(many, workers), refused=dict.fromkeys(names, why))
    monkeypatch.setattr(pool, "MAX_LOST_PROCESSES", 3)
    before = open_files()
    with pytest.raises(InputError) as raised:
        collect(many, workers)
    assert str(raised.value) == f"4 decoding processes were lost, the last at '{many / '043.png'}': {why}"
    assert len(started) == 2 * workers + 4 + 3
    assert_gone(started)
    assert open_files() == before


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("count", "at_a_file", "at_the_start"),
    [
        (32, "if name == '011.png': reach('end')", ""),
        (32, "", "c.Connection.send_bytes = lambda *given: (reach('end'), SEND(*given))"),
        (32, "", "c.Connection.send_bytes = lambda *given: (SEND(*given), reach('end'))"),
    ],
    ids=["at the next file", "before the result", "after the result"],
)
def test_a_process_that_goes_on_just_before_it_is_killed_loses_no_file(
    many: Path,
    started: Processes,
    misbehave: Misbehave,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    at_a_file: str,
    at_the_start: str,
) -> None:
    folder = misbehave(f"if name == '010.png': wait_for('go')\n{at_a_file}", at_the_start)

    def late(process: subprocess.Popen[bytes]) -> None:
        (folder / "go").touch()
        while not (folder / "end").exists():
            time.sleep(0.005)
        KILL(process)

    monkeypatch.setattr(POPEN, "kill", late)
    with decode_chunks(files(many)[:count], [SIDE], 1) as chunks:
        check(many, list(chunks))
    assert len(started) == 2
    assert_gone(started)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_process_that_no_signal_reaches_is_left_alone(
    many: Path, started: Processes, misbehave: Misbehave, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "KILL_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(POPEN, "kill", lambda process: process is started[0] or KILL(process))
    misbehave("if name == '010.png': time.sleep(1000)")
    try:
        check(many, collect(many, 1), refused={"010.png": "not decoded within 3 s"})
        assert started[0].poll() is None
        assert_gone(started[1:])
    finally:
        KILL(started[0])


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_looping_process_ends_although_its_parent_was_killed(many: Path, misbehave: Misbehave) -> None:
    folder = misbehave("while name == '010.png': reach('loop', 0)", "d.MAX_DECODE_SECONDS = 0.02")
    code = (
        "import sys; sys.path[:] = sys.argv[3:]; import imgsubset.decoding.workers as d; "
        "d.WORKER_CODE = sys.argv[2]\nwith d.decode_chunks([sys.argv[1] + '/010.png'], [8], 1) as chunks: list(chunks)"
    )
    arguments = [sys.executable, "-c", code, str(many), pool.WORKER_CODE, *sys.path]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE) as parent:
        while not (folder / "loop").exists():
            assert parent.poll() is None
            time.sleep(0.005)
        parent.kill()
        assert parent.stderr
        parent.stderr.read()  # ends when the last process that has it open does


def test_pixels_do_not_depend_on_the_neighbours(many: Path) -> None:
    paths = list_images(many).paths
    with decode_chunks(files(many, paths[3:5]), [SIDE], 0) as chunks:
        (chunk,) = list(chunks)
    expected = np.frombuffer(decode_image(many / paths[4], [SIDE]).pixels[0], np.uint8)
    assert (np.frombuffer(chunk.pixels[SIDE], np.uint8)[SIDE * SIDE * 3 :][: SIDE * SIDE * 3] == expected).all()
