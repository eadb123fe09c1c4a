"""A command of several processes: who prints, what each ends with, and two that are started in earnest."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from conftest import Run, create, smooth, strict_json, tree
from forked import MAIN, Forked

import imgsubset as package
from imgsubset import InputError
from imgsubset.cli import distributed_run
from imgsubset.cli.distributed_run import run_distributed
from imgsubset.cli.signals import FATAL_SIGNALS, EndedBySignal
from imgsubset.distributed import HeartbeatMonitor, ProcessGroup, ProcessInfo, RunEnd

MASTER = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
FAST = ("--candidates=16", "--chains=1", "--steps=4", "--size=16", "--channels=8,8", "--device=cpu", "--workers=0")


class LeftError(Exception):
    """os._exit was called, with this code."""


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in FATAL_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ProcessGroup]:
    """This process as one of three, that has met the others and leaves in order."""

    def joined(number: int, serve: Callable[[ProcessGroup], None] = lambda ranks: None) -> ProcessGroup:
        store = dist.HashStore()
        place = ProcessInfo(number, 3, number)
        one = ProcessGroup(place, 1, HeartbeatMonitor(store, place, lambda end: None, beat=0.01))
        monkeypatch.setattr(distributed_run, "read_process_info", lambda environ: place)
        monkeypatch.setattr(distributed_run, "join_group", lambda place, words, ended: one)
        monkeypatch.setattr(one, "leave", lambda: None)
        monkeypatch.setattr("imgsubset.features.distributed_ingest.serve_requests", serve)

        def leave(code: int) -> None:
            raise LeftError(code)

        monkeypatch.setattr(os, "_exit", leave)
        return one

    return joined


def fail(error: BaseException) -> Any:
    raise error


def code_of(run: Callable[[], int] = lambda: 0) -> int:
    """What the process ends with."""
    try:
        return run_distributed(run)
    except LeftError as left:
        return int(left.args[0])


def test_a_process_alone_meets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed_run, "join_group", lambda *arguments: pytest.fail("there is nobody"))
    assert run_distributed(lambda: 3) == 3


def test_an_odd_environment_is_a_usage_error(imgsubset: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**MASTER, "RANK": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert run_distributed(lambda: pytest.fail("it has no place")) == 2
    assert imgsubset().code == 2


def test_who_does_not_meet_the_others_says_so(
    rank: Callable[..., ProcessGroup], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["imgsubset", "select", "--json"])
    for number in range(2):
        rank(number)
        monkeypatch.setattr(
            distributed_run, "join_group", lambda *arguments: fail(InputError("rank 2 of 3 did not come"))
        )
        assert code_of(lambda: pytest.fail("it has no place")) == 3
        out, err = capsys.readouterr()
        assert err == "imgsubset: error: rank 2 of 3 did not come\n"
        assert strict_json(out) == {"error": "rank 2 of 3 did not come", "exit_code": 3} if number == 0 else out == ""


def test_in_order_all_end_with_0_and_rank_0_does_the_work(rank: Callable[..., ProcessGroup]) -> None:
    done: list[str] = []
    rank(0)
    assert code_of(lambda: done.append("the work") or 0) == 0
    rank(1, lambda ranks: done.append("help"))
    assert code_of(lambda: pytest.fail("rank 0 does it")) == 0
    assert done == ["the work", "help"]


def test_what_rank_0_ends_with_is_what_all_end_with(
    rank: Callable[..., ProcessGroup], capsys: pytest.CaptureFixture[str]
) -> None:
    one = rank(0)
    assert code_of(lambda: 6) == 6
    assert one.watch.over == RunEnd("", 6)
    other = rank(2, lambda ranks: fail(InputError("")))
    other.watch.end("", 6)
    assert code_of() == 6
    assert capsys.readouterr().err == ""  # rank 0 has said why


def test_what_another_rank_cannot_do_is_said_by_all(
    rank: Callable[..., ProcessGroup], capsys: pytest.CaptureFixture[str]
) -> None:
    one = rank(1, lambda ranks: fail(InputError("the GPU has too little memory")))
    assert code_of() == 3
    assert one.watch.over == RunEnd("rank 1: the GPU has too little memory", 3)
    assert capsys.readouterr().err == "imgsubset: error: rank 1: the GPU has too little memory\n"
    one = rank(1, lambda ranks: fail(MemoryError()))
    assert code_of() == 1
    assert "too little memory" in capsys.readouterr().err
    one = rank(1, lambda ranks: fail(ZeroDivisionError()))
    assert code_of() == 1
    err = capsys.readouterr().err
    assert "Traceback" in err  # a bug
    assert err.endswith("imgsubset: error: rank 1 failed: ZeroDivisionError\n")


def test_a_signal_of_the_watch_is_the_end_that_it_found(
    rank: Callable[..., ProcessGroup], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["imgsubset", "select", "--json"])
    for number in range(2):
        one = rank(number, lambda ranks: fail(EndedBySignal(signal.SIGTERM)))
        one.watch.end("rank 2 is gone")
        assert code_of(lambda: fail(EndedBySignal(signal.SIGTERM))) == 1
        out, err = capsys.readouterr()
        assert err == "imgsubset: error: rank 2 is gone\n"
        assert strict_json(out) == {"error": "rank 2 is gone", "exit_code": 1} if number == 0 else out == ""


def test_a_signal_from_outside_ends_all(rank: Callable[..., ProcessGroup], capsys: pytest.CaptureFixture[str]) -> None:
    one = rank(0)
    assert code_of(lambda: fail(EndedBySignal(signal.SIGINT))) == 130
    assert one.watch.over == RunEnd("", 130)
    assert capsys.readouterr().err == "imgsubset: interrupted\n"
    one = rank(1, lambda ranks: fail(EndedBySignal(signal.SIGTERM)))
    assert code_of() == 143
    assert one.watch.over is not None
    assert one.watch.over.message.startswith("rank 1 was ended by a signal; ")
    assert capsys.readouterr().err.startswith("imgsubset: error: rank 1 was ended by a signal; ")


def test_ctrl_c_is_for_rank_0_to_hear(rank: Callable[..., ProcessGroup]) -> None:
    rank(1, lambda ranks: signal.raise_signal(signal.SIGINT))
    assert code_of() == 0


def test_an_end_reaches_a_main_thread_that_waits(
    rank: Callable[..., ProcessGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed_run, "GRACE_SECONDS", 0.0)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    monkeypatch.setattr(os, "_exit", ended.append)
    distributed_run._interrupt_main_thread(RunEnd("", 7))
    assert ended == [signal.SIGTERM, 7]


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """For a process of its own."""
    source = str(Path(package.__file__).parents[1])
    plain = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return {**plain, "PYTHONPATH": os.pathsep.join([source, str(tmp_path)]), "OMP_NUM_THREADS": "1", **more}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(60):
        smooth(number, 16, 16).save(create(tmp_path / f"source/{number % 3}/{number:02d}.png"))
    create(tmp_path / "source/0/bad.png", b"no picture")
    return tmp_path / "source"


@pytest.mark.slow
@pytest.mark.usefixtures("accurate")
def test_two_ranks_of_torchrun_choose_and_write_the_same(
    imgsubset: Callable[..., Run], source: Path, tmp_path: Path
) -> None:
    words = [*("select", source), *("-n", 6, "--json", "--cache", tmp_path / "cache", *FAST)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together = subprocess.run(
        [*torchrun, "-m", "imgsubset", *map(str, words), str(tmp_path / "together")],
        env=environment(tmp_path),
        capture_output=True,
        check=False,
        timeout=240,
    )
    assert together.returncode == 0, together.stderr
    found = strict_json(together.stdout)  # of rank 0 alone
    alone = imgsubset(*words, tmp_path / "alone")
    expected = strict_json(alone.out)
    assert expected["counts"]["cached"] == 60  # both ranks have filled the cache
    for name in ("files", "score", "rejected", "n"):
        assert found[name] == expected[name]
    written = [
        {path: digest for path, (digest, _, _) in tree(tmp_path / name).items() if path != "manifest.json"}
        for name in ("together", "alone")
    ]
    assert len(written[0]) == 6
    assert written[0] == written[1]


@pytest.mark.slow
def test_a_rank_of_srun_that_is_killed_ends_the_others(source: Path, tmp_path: Path) -> None:
    create(tmp_path / "killer.py").write_text(
        "import os, signal\n"
        "def maps(pixels):\n"
        "    if os.environ['SLURM_PROCID'] == '1':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return pixels.permute(0, 3, 1, 2).float()\n"
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    path, command = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); ",
        ["select", source, "-n", 6, "--mode", "none"],
    )
    processes = [
        Forked(
            path + MAIN,
            *(*command, "--features", "python:killer:maps"),
            env=environment(
                tmp_path,
                MASTER_ADDR="localhost",
                MASTER_PORT=port,
                SLURM_PROCID=str(number),
                SLURM_STEP_NUM_TASKS="2",
                SLURM_LOCALID=str(number),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(2)
    ]
    try:
        out, err = processes[0].communicate(timeout=240)
        assert (processes[0].returncode, out) == (1, b""), err
        assert err.splitlines()[-1] == b"imgsubset: error: rank 1 is gone"
        assert processes[1].wait(60) == -signal.SIGKILL
    finally:
        for process in processes:
            process.kill()
            process.communicate()
