"""What stands on the screen of a terminal, during a run and after it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from terminal import drawn, on_terminal, open_terminal, wrapped

from imgsubset.cli.terminal import CLEAR_LINE, ProgressBar

WIDTHS = (40, 80, 120)
SEARCH = ("--candidates", 16, "--chains", 1, "--size", 16, "--device", "cpu", "--workers", 0)
ENDING = "imgsubset: ending the search with the best so far; Ctrl-C again to leave at once"


@contextlib.contextmanager
def stderr_on(columns: int) -> Iterator[Callable[[], list[str]]]:
    """A terminal in place of stderr; what is on its screen."""
    reader, end = open_terminal(columns)
    os.set_blocking(reader, False)
    written = b""

    def look() -> list[str]:
        nonlocal written
        with contextlib.suppress(BlockingIOError):
            while True:
                written += os.read(reader, 1 << 16)
        return drawn(written, columns)

    with open(end, "w") as stderr, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stderr", stderr)
        yield look
    os.close(reader)


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_bar_ends_at_100_percent_and_goes_when_the_next_begins(columns: int) -> None:
    with stderr_on(columns) as screen:
        bars = ProgressBar(quiet=False)
        for _ in range(50):
            bars("decode", 2, 100)
        (line,) = screen()
        assert "decode: 100%" in line
        bars("draw", 1, 10, "loss 0.5")
        bars("draw", 1, 10, "loss 0.4")  # and ends early
        bars("exchange", 5, 10)
        (line,) = screen()
        assert line.startswith("exchange:")
        bars("rank", 0, 10)
        assert screen() == [""]
        bars.close()


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_stage_that_comes_again_begins_anew(columns: int) -> None:
    with stderr_on(columns) as screen:
        bars = ProgressBar(quiet=False)
        bars("decode", 8, 8)
        bars("decode", 1, 4)
        (line,) = screen()
        assert re.match(r"decode: +\d?\d%", line)
        bars.close()
        assert screen() == [""]


def test_a_stage_without_an_end_says_how_far_it_is() -> None:
    with stderr_on(80) as screen:
        bars = ProgressBar(quiet=False)
        bars("list", 10_000, 0)
        bars("list", 10_000, 0)
        assert bars.bar is not None
        bars.bar.refresh()
        (line,) = screen()
        assert line.startswith("list: 20000 [")
        bars("decode", 1, 4)
        (line,) = screen()
        assert line.startswith("decode:")
        bars.close()
        assert screen() == [""]


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_line_and_what_is_typed_leave_no_trace_of_a_bar(columns: int) -> None:
    with stderr_on(columns) as screen:
        bars = ProgressBar(quiet=False)
        bars("exchange", 1, 4, "loss 0.1234")
        os.write(sys.stderr.fileno(), b"^C")
        bars.say("ending")
        assert screen() == ["ending"]
        bars("exchange", 3, 4, "loss 0.1234")
        assert [line.split(":")[0] for line in screen()] == ["ending", "exchange"]
        bars.close()
        assert screen() == ["ending"]


def command(name: str, pictures: Path, folder: Path, *search: object) -> tuple[list[object], list[str]]:
    """A command line, and what it prints besides bars and the summary."""
    if name == "select":
        return ["select", pictures, folder / "out", "-n", 10, *search], []
    if name == "split":
        return ["split", pictures, folder / "sets", "a=20%", "b=30%", "c=50%", *search], []
    keys = "".join(f"{key[2:]} = '{value}'\n" for key, value in zip(search[::2], search[1::2], strict=True))
    jobs = "".join(f"[jobs.{job}]\nn = 10\nsource = '{pictures}'\ndestination = '{job}'\n" for job in ("one", "two"))
    (folder / "jobs.toml").write_text(f"[defaults]\n{keys}{jobs}")
    return ["batch", folder / "jobs.toml"], ["[1/2] one", "[2/2] two"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ctrl_c", "columns"),
    [
        ("select", False, 40),
        ("select", True, 80),
        ("split", False, 120),
        ("split", True, 40),
        ("batch", False, 80),
        ("batch", True, 120),
    ],
)
def test_nothing_is_left_of_the_bars(name: str, ctrl_c: bool, columns: int, pictures: Path, tmp_path: Path) -> None:
    steps = 10_000_000 if ctrl_c else 4
    arguments, lines = command(name, pictures, tmp_path, *SEARCH, "--steps", steps)
    run = on_terminal(columns, *arguments, ctrl_c_at=b"exchange:" if ctrl_c else None)
    assert run.code == (130 if ctrl_c else 0), run.written
    if ctrl_c:
        lines = [*lines[:1], ENDING]
    summary = run.written.rpartition(CLEAR_LINE.encode())[2].decode().replace("\r\n", "\n")
    start = {"select": "10 of 120 images of ", "split": "120 of 120 images of ", "batch": "job "}[name]
    assert " ".join(summary.split()).startswith(start)
    assert "%|" not in summary
    assert run.screen == wrapped("\n".join([*lines, summary]), columns)
    assert b"decode: 100%" in run.written
