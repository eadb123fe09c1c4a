"""Signals in every stage of a run, a kill in any of them, and streams that are no terminal, full, closed or left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Run, noise, strict_json, tree
from forked import Forked
from PIL import Image
from terminal import on_terminal

from imgsubset import Options, export, select
from imgsubset.features import ingest
from imgsubset.files import PARTIAL_PREFIX

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc here")]
IMAGES = 70
SECONDS = 120.0  # within which a signal ends the program, however slow the machine is
FAST = ("-n", 5, "--candidates", 64, "--chains", 1, "--size", 16, "--device", "cpu", "--workers", 2)

# The program creates a file when it reaches a stage, and is slow there.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path

from imgsubset import cli, files
from imgsubset.decoding import workers
from imgsubset.sources import listing
from imgsubset.search.exchange import Exchanges
from imgsubset.writing import copying

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored, and nohup
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path.insert(0, sys.argv.pop(1))  # decoding processes have it in their command lines, by which they are found again
stage, reached, seconds, ignored = sys.argv.pop(1), sys.argv.pop(1), float(sys.argv.pop(1)), sys.argv.pop(1)
if ignored:
    signal.signal(getattr(signal, ignored), signal.SIG_IGN)

def slow(inner):
    def wait(*arguments, **named):
        Path(reached).touch()
        time.sleep(seconds)
        return inner(*arguments, **named)
    return wait

def slow_copy(file, cancelled, copy, inner=copying.hash_stream):
    return inner(file, slow(cancelled), copy)

if stage == "list":
    listing._Walk._visit = slow(listing._Walk._visit)
elif stage == "decode":
    workers.WORKER_CODE = (
        "import sys, time; sys.path[:] = sys.argv[2:]; from pathlib import Path\\n"
        "import imgsubset.decoding.workers as d\\n"
        "def decode(path, sizes, real=d.decode_image):\\n"
        f"    Path({reached!r}).touch(); time.sleep({seconds})\\n"
        "    return real(path, sizes)\\n"
        "d.decode_image = decode; d.serve(sys.argv[1])"
    )
elif stage == "search":
    Exchanges.step = slow(Exchanges.step)
elif stage == "copy":
    files.BLOCK_BYTES = 8
    copying.hash_stream = slow_copy
cli.main()
"""
# So long that no machine gets out of the stage by itself, but where a signal waits for the step that is under way.
SLOW = {"list": 1000.0, "decode": 1000.0, "search": 0.2, "copy": 0.5}
STEPS = {"search": 10_000_000}


@dataclass
class Started:
    """A run in a folder of its own."""

    process: Forked
    folder: Path
    source: dict[str, tuple[str, int, int]]

    def wait(self) -> Started:
        """Until it is in its stage."""
        until = time.monotonic() + 240
        while not (self.folder / "reached").exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.1)
        return self

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def end(self, seconds: float = SECONDS) -> tuple[int, str]:
        """Wait for it; its exit code and what it said."""
        _, error = self.process.communicate(timeout=seconds)
        return self.process.returncode, error.decode()

    def others(self) -> list[str]:
        """Command lines of living processes that belong to it."""
        lines = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) not in (os.getpid(), self.process.pid):
                try:
                    line = Path("/proc", pid, "cmdline").read_bytes()
                except OSError:
                    continue
                if os.fsencode(self.folder) in line:
                    lines.append(line.decode(errors="replace"))
        return lines

    def left(self) -> list[str]:
        """Temporary files."""
        return [path for path in tree(self.folder) if path.startswith("tmp/") or PARTIAL_PREFIX in path]


Begin = Callable[..., Started]


def make_source(folder: Path) -> dict[str, tuple[str, int, int]]:
    (folder / "source" / "sub").mkdir(parents=True)
    for number in range(IMAGES):
        Image.fromarray(noise(number, 9, 9)).save(folder / "source" / ("sub" if number % 2 else ".") / f"{number}.png")
    return tree(folder / "source")


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start a run that will be slow in a stage; several may start at once, each in a folder of a name."""
    runs: list[Started] = []

    def start(stage: str, seconds: float | None = None, ignored: str = "", name: str = "run") -> Started:
        folder = tmp_path / name
        (folder / "tmp").mkdir(parents=True)
        source = make_source(folder)
        arguments = [stage, folder / "reached", SLOW[stage] if seconds is None else seconds, ignored, "select"]
        arguments += [folder / "source", folder / "out", *FAST, "--steps", STEPS.get(stage, 8)]
        environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
        process = Forked(PROGRAM, folder / "none", *arguments, stderr=subprocess.PIPE, env=environment)
        runs.append(Started(process, folder, source))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.communicate()


def check_rerun(imgsubset: Callable[..., Run], folder: Path) -> list[str]:
    """The same command, undisturbed, makes the whole selection and leaves nothing else; the files that it chooses."""
    run = imgsubset("select", folder / "source", folder / "out", *FAST, "--steps", 8)
    assert (run.code, run.err) == (0, "")
    files = [file["path"] for file in strict_json((folder / "out" / "manifest.json").read_text())["files"]]
    assert len(files) == 5
    assert set(tree(folder / "out")) == {*files, "manifest.json"}
    assert imgsubset("verify", folder / "out").code == 0
    return files


@pytest.mark.parametrize("stage", SLOW)
def test_a_signal_ends_any_stage_in_order(begin: Begin, imgsubset: Callable[..., Run], stage: str) -> None:
    names = ["SIGINT", "SIGTERM"] + ["SIGHUP"] * (stage == "list")  # all go one way
    runs = {name: begin(stage, name=name) for name in names}
    for name, started in runs.items():
        started.wait()
        number = getattr(signal, name)
        assert bool(started.others()) == (stage == "decode")  # else the search for children would find none anyway
        os.killpg(started.process.pid, number)  # as a terminal does: to every process of the group
        code, error = started.end()
        assert code == 128 + number
        assert started.others() == []
        assert started.left() == []
        assert tree(started.folder / "source") == started.source
        if (stage, name) == ("search", "SIGINT"):
            assert "ending the search with the best so far" in error
            manifest = strict_json((started.out / "manifest.json").read_text())
            assert manifest["interrupted"] is True
            assert set(tree(started.out)) == {"manifest.json", *(file["path"] for file in manifest["files"])}
            continue
        assert error == "imgsubset: interrupted\n"
        assert not started.out.exists()
        if stage == "copy":
            check_rerun(imgsubset, started.folder)


def test_a_run_killed_in_any_stage_is_completed_by_the_next(
    begin: Begin, imgsubset: Callable[..., Run], tmp_path: Path
) -> None:
    make_source(tmp_path)
    undisturbed = check_rerun(imgsubset, tmp_path)
    # The decoding processes leave when they have decoded what they are at.
    runs = [begin("decode", 0.2, name="decode"), *(begin(stage, name=stage) for stage in ("list", "search", "copy"))]
    for started in runs:
        started.wait().process.kill()
        assert started.process.wait() == -signal.SIGKILL
    for started in runs:
        until = time.monotonic() + SECONDS
        while started.others():
            assert time.monotonic() < until, "decoding processes outlive their parent"
            time.sleep(0.05)
        assert [path for path in tree(started.folder) if path.startswith("tmp/")] == []
        assert "manifest.json" not in tree(started.out)
        assert check_rerun(imgsubset, started.folder) == undisturbed
        assert tree(started.folder / "source") == started.source


# It ends, as by a kill, when it has been told that so many images are decoded.
DYING = """
import os, sys
from imgsubset import select
from imgsubset.features import ingest

ingest.STORE_BATCH_IMAGES = int(sys.argv[1])
left = int(sys.argv[2])

def progress(stage, done, total, note=""):
    global left
    left -= done if stage == "decode" else 0
    if left <= 0:
        os._exit(9)

select(sys.argv[3], 5, cache=sys.argv[4], size=16, device="cpu", workers=1, progress=progress)
"""


def test_a_run_killed_while_it_decodes_decodes_little_again(imgsubset: Callable[..., Run], tmp_path: Path) -> None:
    assert ingest.STORE_BATCH_IMAGES == 2048  # what the README and the cache speak of
    stored, decoded, total = 64, 160, 320
    (tmp_path / "source").mkdir()
    for number in range(total):
        Image.fromarray(noise(number, 9, 9)).save(tmp_path / "source" / f"{number}.png")
        os.utime(tmp_path / "source" / f"{number}.png", ns=(10**18, 10**18 + 1))
    where = (tmp_path / "source", tmp_path / "cache")
    assert Forked(DYING, stored, decoded, *where).wait(SECONDS) == 9
    arguments = ("select", tmp_path / "source", "--mode", "none", "--json", *FAST, "--steps", 8)
    again, fresh = imgsubset(*arguments, "--cache", tmp_path / "cache"), imgsubset(*arguments, "--no-cache")
    assert (again.code, fresh.code) == (0, 0)
    found, expected = strict_json(again.out), strict_json(fresh.out)
    assert decoded - stored < found["counts"]["cached"] <= decoded
    assert found["files"] == expected["files"]
    assert found["score"] == expected["score"]


def test_a_second_interrupt_of_the_search_leaves_at_once(begin: Begin) -> None:
    started = begin("search", seconds=1000).wait()
    started.process.send_signal(signal.SIGINT)
    assert started.process.stderr is not None
    said = b""
    while b"Ctrl-C again" not in said:
        said += os.read(started.process.stderr.fileno(), 1000)
    assert started.process.poll() is None
    started.process.send_signal(signal.SIGINT)
    code, error = started.end()
    assert (code, error.strip()) == (130, "imgsubset: interrupted")
    assert not started.out.exists()
    assert started.left() == []


def test_a_second_signal_does_not_wait_for_what_the_first_waits_for(
    begin: Begin, imgsubset: Callable[..., Run]
) -> None:
    seconds = {"SIGINT": begin("copy", 1000, name="int"), "SIGTERM": begin("copy", 1000, name="term")}
    for second, started in seconds.items():
        started.wait().process.send_signal(signal.SIGINT)  # a copy to a disk that does not answer
        with pytest.raises(subprocess.TimeoutExpired):
            started.process.wait(0.5)
        started.process.send_signal(getattr(signal, second))
        assert started.end()[0] == 128 + getattr(signal, second)
        assert started.others() == []
        check_rerun(imgsubset, started.folder)


def test_a_signal_that_the_parent_ignores_stays_ignored(begin: Begin) -> None:
    started = begin("search", ignored="SIGHUP").wait()  # as nohup does
    started.process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        started.process.wait(0.5)
    started.process.send_signal(signal.SIGTERM)
    assert started.end() == (143, "imgsubset: interrupted\n")


# Streams

SELECT = ("-n", 3, "--candidates", 8, "--chains", 1, "--steps", 2, "--size", 16, "--device", "cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A selection, of which `verify` soon says something; to be read only."""
    root = tmp_path_factory.mktemp("finished")
    (root / "few").mkdir()
    for number in range(12):
        Image.fromarray(noise(number, 9, 9)).save(root / "few" / f"{number}.png")
    (root / "few" / "bad.png").touch()
    options = Options(candidates=8, chains=1, steps=2, size=16, device="cpu", workers=0)
    export(select(root / "few", 3, options), root / "out")
    return root / "out"


def shell(redirection: str, *arguments: object) -> tuple[int, str, str]:
    """Run the program with its streams redirected by a shell; exit code, stdout and stderr."""
    program = [sys.executable, "-m", "imgsubset", *map(str, arguments)]
    run = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash", *program],
        capture_output=True,
        check=False,
        timeout=240,
    )
    return run.returncode, run.stdout.decode(), run.stderr.decode()


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        ("<&-", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        (">/dev/full", 5, "imgsubset: error: cannot write to stdout: No space left on device\n"),
        (">/dev/full 2>/dev/full", 5, ""),
    ],
)
def test_a_stream_that_is_closed_or_full_gets_no_traceback(
    finished: Path, redirection: str, code: int, error: str
) -> None:
    found = shell(redirection, "verify", finished)
    assert (found[0], found[2]) == (code, error)


def unread(*arguments: object) -> tuple[int, bytes]:
    """Run the program with nobody at the other end of its stdout; exit code and stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "imgsubset", *map(str, arguments)],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            timeout=240,
        )
    finally:
        os.close(writing)
    return run.returncode, run.stderr


def test_a_reader_that_has_left_is_an_exit_code(finished: Path) -> None:
    assert unread("verify", finished) == (141, b"")


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_that_nobody_reads_gets_no_traceback(argument: str) -> None:
    assert unread(argument) == (141, b"")


def test_decoding_works_though_all_streams_are_closed(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    code, _, error = shell(">&- 2>&- <&-", "select", finished.with_name("few"), again, *SELECT, "--no-cache")
    assert (code, error) == (0, "")
    assert set(tree(again)) == set(tree(finished))


@pytest.mark.parametrize("argument", ["--help", "--version"])
@pytest.mark.parametrize(
    ("redirection", "code", "expected"),
    [
        (">&-", 0, ""),
        (">/dev/full", 5, "imgsubset: error: cannot write to stdout: No space left on device\n"),
        ("1</dev/null", 5, "imgsubset: error: cannot write to stdout: Bad file descriptor\n"),
    ],
)
def test_help_gets_no_traceback(argument: str, redirection: str, code: int, expected: str) -> None:
    assert shell(redirection, argument) == (code, "", expected)


AT_EXIT = """
import os, signal, threading, time
from imgsubset.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with it ignored
def interrupt():
    threading.main_thread().join()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)  # and the interpreter waits for this thread
threading.Thread(target=interrupt).start()
main()
"""


def test_a_signal_while_the_interpreter_ends_gets_no_traceback(finished: Path) -> None:
    run = Forked(AT_EXIT, "verify", finished, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, error = run.communicate()
    assert (run.returncode, error) == (-signal.SIGINT, b"")
    assert said.endswith(b"all 3 files are what the manifest says\n")


@pytest.mark.parametrize(
    "environment", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "40"}], ids=str
)
def test_a_terminal_gets_what_it_can_show(finished: Path, environment: dict[str, str]) -> None:
    bars = environment["TERM"] != "dumb"
    source = finished.with_name("few")
    run = on_terminal(40, "select", source, *SELECT, "--mode", "none", "--no-cache", **environment)
    written = run.written.replace(b"\r\n", b"\n")
    assert run.code == 0, written
    assert (b"decode:" in written, b"\r" in written) == (bars, bars)
    assert b"\x1b[3" not in written  # no colour
    if bars:
        text = written.decode()[: written.rindex(b"\r")].replace("\x1b[A", "")
        assert max(len(line) for part in text.split("\r") for line in part.splitlines()) <= 40
    else:
        assert all(char.isprintable() or char == "\n" for char in written.decode())
