"""A machine with too little of something: one line that says of what, and exit code 1."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import NOBODY, Run, fill
from forked import Forked

from imgsubset.cli import evaluate
from imgsubset.cli.terminal import (
    DISK_SPACE_ADVICE,
    MEMORY_ADVICE,
    OPEN_FILES_ADVICE,
    THREADS_ADVICE,
    check_memory_limit,
    explain_resource_error,
)
from imgsubset.errors import ImgsubsetError

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
FOUND = [
    (MemoryError(), MEMORY_ADVICE),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY_ADVICE),
    (RuntimeError(ALLOCATOR), MEMORY_ADVICE),
    (RuntimeError("could not create a primitive"), MEMORY_ADVICE),
    (RuntimeError("can't start new thread"), THREADS_ADVICE),
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), THREADS_ADVICE),
    (OSError(errno.EMFILE, "Too many open files"), OPEN_FILES_ADVICE),
    (OSError(errno.EMFILE, "Too many open files", "/dev/null"), OPEN_FILES_ADVICE + ": '/dev/null'"),
    (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), DISK_SPACE_ADVICE + ": '/tmp/x'"),
]


@pytest.mark.parametrize(("error", "said"), FOUND)
def test_what_is_lacking_is_told(error: Exception, said: str) -> None:
    assert explain_resource_error(error) == said
    outer = ValueError("outer")
    outer.__cause__ = error
    assert explain_resource_error(outer) == said


@pytest.mark.parametrize(
    "error", [ImportError("no module named x"), ValueError("x"), RuntimeError("a bug"), OSError(errno.EIO, "x")]
)
def test_other_errors_are_not_explained_away(error: Exception) -> None:
    assert explain_resource_error(error) is None


def test_a_library_that_cannot_be_loaded_is_named() -> None:
    error = ImportError("libtorch_cpu.so: failed to map segment from shared object")
    advice = ImportError("pages of advice, and at their end: failed to map segment from shared object")
    advice.__cause__ = error
    said = explain_resource_error(error)
    assert said is not None
    assert "(libtorch_cpu.so: failed to map segment from shared object)" in said
    assert explain_resource_error(advice) == said


@pytest.mark.parametrize(("error", "said"), FOUND[::2])
def test_the_command_line_says_it_in_one_line(
    imgsubset: Callable[..., Run], folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(evaluate, "verify", fail)
    run = imgsubset("verify", folder)
    assert (run.code, run.err) == (1, f"imgsubset: error: {said}\n")
    run = imgsubset("verify", folder, "--json")
    assert json.loads(run.out) == {"error": said, "exit_code": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")
@pytest.mark.parametrize(("limit", "loads"), [(1 << 30, False), (2 << 30, True), (-1, True)])
def test_whether_torch_can_be_loaded_is_tried_where_memory_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, loads: bool
) -> None:
    import resource

    wants = "import os, resource\nresource.getrlimit(resource.RLIMIT_AS)[0] > 1 << 30 or os.abort()\n"
    (tmp_path / "torch.py").write_text(wants)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (limit if kind == resource.RLIMIT_AS else resource.RLIM_INFINITY, -1)
    )
    if loads:
        check_memory_limit()
    else:
        with pytest.raises(ImgsubsetError, match=r"torch cannot be loaded with the 1\.07 GB .* \(ulimit -v\)$"):
            check_memory_limit()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")
@pytest.mark.parametrize("limit", ["ulimit -v 300000", "ulimit -v 3300000", "ulimit -d 300000", "ulimit -n 8"])
def test_a_run_with_hardly_anything_ends_in_one_line(pictures: Path, limit: str) -> None:
    command = f'{limit}; "$0" -m imgsubset select "$1" -n 9 --mode none --no-cache --device cpu'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(["bash", "-c", command, sys.executable, str(pictures)],
                         capture_output=True, text=True, env=environment, check=False)  # fmt: skip
    lines = run.stderr.splitlines()
    assert (run.returncode, len(lines)) in [(1, 1), (0, 0)], run.stderr


WITHOUT_PROCESSES = f"""
import os, resource
from imgsubset.cli import main
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
os.geteuid() or os.setuid({NOBODY})  # root has no such limit
main()
"""
WITHOUT_THREADS = """
import signal, threading
from imgsubset.cli import evaluate, main
def fail(*arguments):
    raise RuntimeError("can't start new thread")
def interrupted(*arguments):  # as OpenBLAS does where a thread cannot be started
    threading.Thread.start = fail
    signal.raise_signal(signal.SIGINT)
evaluate.verify = interrupted
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments", "said"),
    [
        (WITHOUT_PROCESSES, ("select", "-n", 1, "--mode", "none", "--no-cache"), "no decoding process can be started"),
        (WITHOUT_THREADS, ("verify",), THREADS_ADVICE),
    ],
)
def test_where_nothing_can_be_started_that_is_told(
    open_folder: Path, program: str, arguments: tuple[object, ...], said: str
) -> None:
    command, *others = arguments
    run = Forked(program, command, fill(open_folder), *others, stderr=subprocess.PIPE)
    complaint = run.communicate()[1].decode()
    assert (run.returncode, complaint.count("\n")) == (1, 1), complaint
    assert complaint.startswith(f"imgsubset: error: {said}")
    assert "; raise the limit (ulimit " in complaint
