"""One run at a time in a destination."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, selection_of, tree

from imgsubset import export, select_into
from imgsubset.errors import OutputError
from imgsubset.files import PARTIAL_PREFIX
from imgsubset.sources.listing import list_images
from imgsubset.tasks.split import split_into
from imgsubset.tasks.verify import verify
from imgsubset.writing.destination import open_destination
from imgsubset.writing.lock import lock_destination

Program = Callable[..., Run]
WORDS: dict[str, Any] = {
    "candidates": 8, "chains": 1, "steps": 1, "size": 16, "channels": (4,), "device": "cpu", "workers": 0,
}  # fmt: skip
FAST = "--candidates 8 --chains 1 --steps 1 --size 16 --channels 4 --device cpu --workers 0 --no-cache".split()


def refused(path: Path) -> Any:
    """The error of a destination that this process holds."""
    who = rf" \(process {os.getpid()} on {platform.node()}\)" if Path("/proc/locks").exists() else ""
    return pytest.raises(OutputError, match=f"destination '{path}' is in use by another run{who}; wait until it ends")


def test_a_second_run_is_refused_whatever_it_asks_for(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with open_destination(list_images(folder), out):
        for more in ({"n": 3}, {"n": 4}, {"n": 3, "overwrite": True}):
            with refused(out):
                select_into(folder, destination=out, **more, **WORDS)
        with refused(out):
            export(selection_of(folder, ["6.bmp"]), out)
        with refused(out):
            split_into(folder, {"out": 2, "other": 2}, out.parent, **WORDS)
        run = imgsubset("select", folder, out, "-n", 3, *FAST)
        assert (run.code, run.out, run.err.count("\n")) == (5, "", 1)
        assert "is in use by another run" in run.err
        assert list(tmp_path.rglob("new/*")) == [out]
    assert not (tmp_path / "new").exists()
    select_into(folder, 3, out, **WORDS)
    assert verify(out).good


def test_a_link_to_the_destination_and_other_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    with lock_destination(tmp_path / "out"):
        with refused(tmp_path / "link"):
            select_into(folder, 3, tmp_path / "link", **WORDS)
        select_into(folder, 3, tmp_path / "other", **WORDS)
    assert (tmp_path / "out").is_dir()  # it was there before


def test_a_run_that_begins_while_another_copies_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way in which two runs can meet: the second begins at a copy of the first, and at a name."""
    for call in ("fsync", "link"):
        out, real, met = tmp_path / call, getattr(os, call), []

        def meeting(*arguments: Any, out: Path = out, real: Any = real, met: list[Any] = met, **more: Any) -> None:
            if len(met) < 2:
                met.append(len(met))
                with refused(out):
                    export(selection_of(folder, ["7.png"]), out, overwrite=bool(met[-1]))
            real(*arguments, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, meeting)
            patch.setattr("imgsubset.writing.export.N_IO_THREADS", 1)
            export(selection_of(folder, ["6.bmp", "a/1.jpg"]), out)
        assert met == [0, 1]
        assert set(tree(out)) == {"6.bmp", "a/1.jpg", "manifest.json"}
        assert verify(out).good


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_without_locks_runs_see_each_other_by_what_waits_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    out, real, met = tmp_path / "out", os.fsync, []

    def no_lock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    def meeting(descriptor: int) -> None:
        if not met:
            met.append(descriptor)
            with pytest.raises(
                OutputError, match=rf"process {os.getpid()} on .*; if it is no more, remove '{PARTIAL_PREFIX}"
            ):
                export(selection_of(folder, ["7.png"]), out)
        real(descriptor)

    monkeypatch.setattr(fcntl, "flock", no_lock)
    monkeypatch.setattr(sys.modules["imgsubset.writing.export"].os, "fsync", meeting)
    export(selection_of(folder, ["6.bmp", "a/1.jpg"]), out)
    assert met
    assert set(tree(out)) == {"6.bmp", "a/1.jpg", "manifest.json"}
    (out / "manifest.json").unlink()
    for path in ("6.bmp", "a/1.jpg"):
        (out / path).unlink()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    fresh = out / "fresh"
    fresh.mkdir()
    (fresh / "0").write_bytes(b"half")
    fresh.rename(out / f"{PARTIAL_PREFIX}{fresh.stat().st_ino}-{int(dead.stdout)}-{platform.node()}")
    export(selection_of(folder, ["6.bmp"]), out)
    assert set(tree(out)) == {"6.bmp", "manifest.json"}


def test_a_folder_that_is_removed_just_when_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gone = fcntl.flock, []

    def late(folder: int, how: int) -> None:
        real(folder, how)
        if not gone:
            gone.append((tmp_path / "out").rmdir())

    monkeypatch.setattr(fcntl, "flock", late)
    with lock_destination(tmp_path / "out") as held:
        assert os.path.samestat(os.fstat(held.folder), (tmp_path / "out").stat())
    assert not (tmp_path / "out").exists()


# Ends when its input does.
HOLDING = """
import sys
from pathlib import Path
from imgsubset.writing.lock import lock_destination
with lock_destination(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_lock_dies_with_its_process(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", HOLDING, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=f"process {process.pid} on" if Path("/proc/locks").exists() else "use"):
            select_into(folder, 3, out, **WORDS)
        process.kill()
    select_into(folder, 3, out, **WORDS)
    assert verify(out).good
