"""A search that was killed and goes on from its checkpoint, and checkpoints that are not what they should be."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, create, normal_user, smooth, strict_json, tree

from imgsubset import Options, Selection, checkpoint, export, select
from imgsubset.errors import InputError, OutputError
from imgsubset.files import PARTIAL
from imgsubset.search import loop
from imgsubset.search.exchange import Exchanges

OPTIONS = Options(candidates=64, chains=2, steps=200, size=16, channels=(6, 8), device="cpu", workers=0)
N = 9


class Killed(BaseException):
    """What no handler of an error sees, as a kill."""


@pytest.fixture(autouse=True)
def _every_round_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def cut_off(
    monkeypatch: pytest.MonkeyPatch, source: Path, state: Path, rounds: int, options: Options = OPTIONS, n: Any = N
) -> None:
    """Search until that many rounds of exchanges are done, then no more."""
    step, done = Exchanges.step, []

    def deadly(self: Exchanges, fraction: float) -> loop.Round:
        done.append(fraction)
        if len(done) > rounds:
            raise Killed
        return step(self, fraction)

    with monkeypatch.context() as patch:
        patch.setattr(Exchanges, "step", deadly)
        with pytest.raises(Killed):
            select(source, n, replace(options, resume=str(state)))
    assert state.is_file() == (rounds > 0)


def resumed(source: Path, state: Path, options: Options = OPTIONS, n: Any = N) -> Selection:
    return select(source, n, replace(options, resume=str(state)))


def essence(selection: Selection) -> tuple[Any, ...]:
    """All of a selection but what it took."""
    trace = tuple(replace(point, seconds=0.0) for point in selection.trace)
    return selection.chosen, selection.ranking, selection.score, trace, selection.interrupted, selection.warnings


@pytest.fixture(scope="module")
def uninterrupted(pictures: Path) -> Selection:
    return select(pictures, N, OPTIONS)


# The same result


def test_a_run_with_a_checkpoint_is_the_run_without(pictures: Path, uninterrupted: Selection, state: Path) -> None:
    assert essence(resumed(pictures, state)) == essence(uninterrupted)
    assert essence(resumed(pictures, state)) == essence(uninterrupted)  # of a search that was over


@pytest.mark.parametrize("rounds", [0, 1, 2, 7, 15])
def test_a_search_that_was_cut_off_ends_as_if_it_had_not(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, uninterrupted: Selection, state: Path, rounds: int
) -> None:
    cut_off(monkeypatch, pictures, state, rounds)
    assert essence(resumed(pictures, state)) == essence(uninterrupted)


def test_a_search_may_be_cut_off_again_and_again(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, uninterrupted: Selection, state: Path
) -> None:
    for _ in range(4):
        cut_off(monkeypatch, pictures, state, 3)
    found = resumed(pictures, state)
    assert essence(found) == essence(uninterrupted)
    assert [point.seconds for point in found.trace if point.method == "exchanges"] == sorted(
        point.seconds for point in found.trace if point.method == "exchanges"
    )


@pytest.mark.parametrize(
    "options",
    [{"stratify": "share"}, {"group_by": r"class\d/0?(\d)"}, {"keep": ("class0/000.png",)}, {"dedupe": True}],
    ids=str,
)
def test_constrained_searches_are_resumed_too(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, state: Path, options: dict[str, Any]
) -> None:
    asked = replace(OPTIONS, **options)
    cut_off(monkeypatch, pictures, state, 4, asked)
    assert essence(resumed(pictures, state, asked)) == essence(select(pictures, N, asked))


def test_a_search_that_was_stopped_goes_on(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, uninterrupted: Selection, state: Path
) -> None:
    asked = iter([False] * 8 + [False, False, True])
    stopped = select(pictures, N, replace(OPTIONS, resume=str(state)), stop=lambda: next(asked))
    assert stopped.interrupted
    assert essence(resumed(pictures, state)) == essence(uninterrupted)


def test_how_it_is_run_may_change(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, uninterrupted: Selection, state: Path, tmp_path: Path
) -> None:
    cut_off(monkeypatch, pictures, state, 5)
    other = replace(OPTIONS, workers=2, cache=str(tmp_path / "cache"), cache_verify=True, strict=True)
    assert essence(resumed(pictures, state, other)) == essence(uninterrupted)


class StoppedClock:
    """A second passes with each look at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1.0
        return self.now


def test_a_time_limit_is_the_same_in_all(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, state: Path, uninterrupted: Selection
) -> None:
    # In units of the clock: the draws end by their number, and the exchanges by the limit.
    options = replace(OPTIONS, steps=5000, time_limit=30.0)

    def rounds(selection: Selection) -> int:
        return sum(point.method == "exchanges" for point in selection.trace)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", StoppedClock())
        whole = select(pictures, N, options)
        patch.setattr(loop, "time", StoppedClock())
        cut_off(patch, pictures, state, rounds(whole) // 2, options)
        patch.setattr(loop, "time", StoppedClock())
        assert rounds(resumed(pictures, state, options)) == pytest.approx(rounds(whole), rel=0.2)


# The program

PROGRAM = """
import os, signal, sys
from imgsubset import checkpoint, cli

checkpoint.SAVE_SECONDS = 0.0
rounds, save, count = int(sys.argv.pop(1)), checkpoint.FileCheckpoint.save, 0

def deadly(self, state, last=False):
    global count
    save(self, state, last)
    count += 1
    if count == rounds:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.FileCheckpoint.save = deadly
cli.main()
"""


@pytest.mark.timeout(120)
def test_a_killed_program_is_started_again(
    imgsubset: Callable[..., Run], pictures: Path, state: Path, tmp_path: Path
) -> None:
    before = tree(pictures)
    fast = ["-n", N, "--candidates", 64, "--steps", 200, "--size", 16, "--device", "cpu"]
    arguments = ["select", pictures, tmp_path / "out", *fast, "--resume", state]
    killed = subprocess.run([sys.executable, "-c", PROGRAM, "6", *map(str, arguments)], check=False)
    assert killed.returncode == -9
    assert state.is_file()
    assert not (tmp_path / "out").exists()
    assert imgsubset(*arguments).code == 0
    assert not state.exists()  # of no use any more
    whole = imgsubset("select", pictures, tmp_path / "whole", *fast)
    assert whole.code == 0
    one, other = (strict_json((tmp_path / name / "manifest.json").read_text()) for name in ("out", "whole"))
    for name in ("files", "score"):
        assert one[name] == other[name]
    assert tree(pictures) == before


def test_a_finished_search_is_kept_until_its_files_are_copied(
    imgsubset: Callable[..., Run], pictures: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["select", pictures, tmp_path / "out", "-n", N, "--steps", 100, "--candidates", 64, "--resume", state]

    def full(*_: object, **__: object) -> None:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("imgsubset.cli.run.export", full)
        assert imgsubset(*arguments).code == 5
    assert state.is_file()
    with monkeypatch.context() as patch:
        patch.setattr(Exchanges, "step", full)  # nothing is left to search
        assert imgsubset(*arguments).code == 0
    assert not state.exists()


@pytest.mark.parametrize("more", [["-n", "auto", "--target-loss", "0.5"]], ids=str)
def test_resume_goes_with_a_number(
    imgsubset: Callable[..., Run], pictures: Path, state: Path, tmp_path: Path, more: list[str]
) -> None:
    run = imgsubset("select", pictures, tmp_path / "out", *more, "--resume", state)
    assert (run.code, run.out) == (2, "")
    assert "resume" in run.err


# What is refused


@pytest.fixture(scope="module")
def kept(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint of a search that was cut off."""
    state = tmp_path_factory.mktemp("kept") / "state"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
        cut_off(patch, pictures, state, 5)
    return state.read_bytes()


OTHERS: dict[str, tuple[dict[str, Any], Any]] = {
    "seed": ({"seed": 1}, N),
    "n": ({}, N + 1),
    "steps": ({"steps": 300}, N),
    "chains": ({"chains": 3}, N),
    "candidates": ({"candidates": 65}, N),
    "weights": ({"weights": replace(OPTIONS.weights, kl=2.0)}, N),
    "temperature": ({"temperature": 0.5}, N),
    "stratify": ({"stratify": "share"}, N),
    "size": ({"size": 32}, N),
    "channels": ({"channels": (8, 8)}, N),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_search_is_refused(pictures: Path, state: Path, kept: bytes, name: str) -> None:
    state.write_bytes(kept)
    change, n = OTHERS[name]
    with pytest.raises(InputError, match=f"'{state}' belongs to another search: its {name} is"):
        resumed(pictures, state, replace(OPTIONS, **change), n)
    assert state.read_bytes() == kept


def test_a_checkpoint_of_another_source_is_refused(pictures: Path, state: Path, kept: bytes, tmp_path: Path) -> None:
    state.write_bytes(kept)
    shutil.copytree(pictures, tmp_path / "other")
    with pytest.raises(InputError, match="belongs to another search: its source is"):
        resumed(tmp_path / "other", state)


def test_a_checkpoint_of_a_source_that_changed_is_refused(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, state: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(pictures, source)
    cut_off(monkeypatch, source, state, 2)
    kept = state.read_bytes()
    smooth(999, 12, 12).save(source / "class0" / "000.png")
    with pytest.raises(InputError, match="belongs to another search: its files of images is"):
        resumed(source, state)
    assert state.read_bytes() == kept


@pytest.mark.parametrize("name", ["FORMAT", "version", "torch"])
def test_an_older_checkpoint_is_refused(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, state: Path, kept: bytes, name: str
) -> None:
    state.write_bytes(kept)
    if name == "FORMAT":
        monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    elif name == "version":
        monkeypatch.setattr("imgsubset.tasks.select.version", lambda _: "999")
    else:
        monkeypatch.setattr("torch.__version__", "999")
    with pytest.raises(InputError, match=r"belongs to another search: its .*; delete it, or give another file"):
        resumed(pictures, state)


def test_a_checkpoint_of_other_labels_is_refused(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, state: Path, tmp_path: Path
) -> None:
    names = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png"))
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n" + "".join(f"{name},{number % 2}\n" for number, name in enumerate(names)))
    options = replace(OPTIONS, stratify="share", labels=str(labels))
    cut_off(monkeypatch, pictures, state, 2, options, 10)
    labels.write_text("path,label\n" + "".join(f"{name},{number // 60}\n" for number, name in enumerate(names)))
    with pytest.raises(InputError):
        resumed(pictures, state, options, 10)


def test_a_checkpoint_of_another_extractor_is_refused(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, state: Path
) -> None:
    cut_off(monkeypatch, pictures, state, 2)
    with pytest.raises(InputError):
        select(
            *(pictures, N, replace(OPTIONS, resume=str(state))),
            extractor=lambda pixels: pixels.float().permute(0, 3, 1, 2)[:, :, :4],
        )


def check_damaged(pictures: Path, state: Path, content: bytes) -> None:
    """A damaged checkpoint is an error that names it, or harmless; it is never a wrong result or another error."""
    state.write_bytes(content)
    with pytest.raises(InputError, match=f"checkpoint '{state}' is damaged or none of imgsubset's") as caught:
        resumed(pictures, state)
    assert "\n" not in str(caught.value)
    assert state.read_bytes() == content


LOADED = "IMGSUBSET_TEST_PICKLE_LOADED"


def pickled() -> bytes:
    class Deadly:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, (f"__import__('os').environ.__setitem__('{LOADED}', '1')",)

    buffer = io.BytesIO()
    np.save(buffer, np.array([Deadly()], object), allow_pickle=True)
    return buffer.getvalue()


def with_array(kept: bytes, name: str, content: bytes) -> bytes:
    """A checkpoint in which another content stands for an array."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(kept)) as old, zipfile.ZipFile(buffer, "w") as new:
        for one in old.namelist():
            new.writestr(one, content if one == f"{name}.npy" else old.read(one))
    return buffer.getvalue()


FOREIGN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"a text\n",
    "JSON": lambda _: b"{}",
    "an array": lambda _: _npy(np.zeros(3)),
    "another archive": lambda _: _npz(x=np.zeros(3)),
    "an archive of another record": lambda _: _npz(record=np.frombuffer(b"[1]", np.uint8)),
    "a pickle": lambda _: pickle.dumps({"rows": [1]}),
    "an array of objects": lambda _: pickled(),
    "a pickle for rows": lambda kept: with_array(kept, "rows", pickled()),
    "a pickle for a method's": lambda kept: with_array(kept, "method.members", pickled()),
    "a text for rows": lambda kept: with_array(kept, "rows", b"text"),
    "rows of texts": lambda kept: with_array(kept, "rows", _npy(np.array(["a"]))),
    "a vast array": lambda kept: with_array(kept, "rows", _vast()),
}


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _vast() -> bytes:
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    return b"\x93NUMPY\x01\0" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_checkpoint_is_refused(
    pictures: Path, state: Path, kept: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LOADED, raising=False)
    check_damaged(pictures, state, FOREIGN[kind](kept))
    assert LOADED not in os.environ


def test_a_truncated_checkpoint_is_refused(pictures: Path, state: Path, kept: bytes) -> None:
    for length in {*range(1, len(kept), len(kept) // 7), len(kept) - 1, len(kept) - 22}:
        check_damaged(pictures, state, kept[:length])


def test_no_flipped_byte_changes_the_state(pictures: Path, state: Path, kept: bytes) -> None:
    """Loaded alone, which takes a moment, at some hundred places; what is not refused is just what was saved."""

    def load(content: bytes) -> str:
        state.write_bytes(content)
        return repr(loaded(checkpoint.FileCheckpoint(state, {}).load()))

    def loaded(found: loop.State | None) -> Any:
        assert found is not None
        values = dataclasses.asdict(found)
        return [(name, values[name]) for name in sorted(values)], {
            name: tensor.numpy().tobytes() for name, tensor in found.method.items()
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.FileCheckpoint, "_check", lambda *_: None)
        expected = load(kept)
        refused = 0
        places = {*range(0, len(kept), max(1, len(kept) // 300)), *range(60), *range(len(kept) - 60, len(kept))}
        for place in sorted(places):
            for mask in (0xFF, 0x01):
                content = bytearray(kept)
                content[place] ^= mask
                try:
                    found = load(bytes(content))
                except InputError:
                    refused += 1
                else:
                    assert found == expected, (place, mask)
    assert refused > len(places)


# Files that cannot be read or written


@pytest.mark.parametrize("place", ["folder", "file/below", "n" * 300])
def test_a_checkpoint_that_cannot_be_read_is_an_input_error(pictures: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    create(tmp_path / "file")
    with pytest.raises(InputError, match=f"cannot read checkpoint '{tmp_path / place}'"):
        resumed(pictures, tmp_path / place)


def test_a_checkpoint_that_cannot_be_written_is_an_output_error(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write checkpoint '.*absent/state': No such file"):
        resumed(pictures, tmp_path / "absent" / "state")


def test_a_checkpoint_is_never_half_written(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, state: Path, kept: bytes, uninterrupted: Selection
) -> None:
    state.write_bytes(kept)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("imgsubset.files.os.fsync", full)
        with pytest.raises(OutputError, match="cannot write checkpoint"):
            resumed(pictures, state)
    assert state.read_bytes() == kept
    assert [path for path in os.listdir(state.parent) if path.startswith(PARTIAL)] == []
    assert essence(resumed(pictures, state)) == essence(uninterrupted)


def test_a_checkpoint_that_cannot_be_removed_is_no_traceback(
    imgsubset: Callable[..., Run], pictures: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, shut = open_folder / "source", open_folder / "shut"
    shutil.copytree(pictures, source)
    for folder in (source, *source.iterdir()):
        folder.chmod(0o755)
    shut.mkdir(mode=0o755)
    arguments = ["select", source, open_folder / "out", "-n", N, "--resume", shut / "state"]
    arguments += ["--candidates", 64, "--steps", 20, "--no-cache", "--workers", 0]
    create(open_folder / "out" / "notes.txt")
    with monkeypatch.context() as patch:
        patch.setattr("imgsubset.cli.run.check_destination", lambda *_: None)
        assert imgsubset(*arguments).code == 5  # which leaves the state of a finished search
    assert (shut / "state").is_file()
    "".encode("cp437")  # what zipfile uses; the other user may not be able to import it
    with normal_user(open_folder):
        run = imgsubset(*arguments[:2], *arguments[3:], "--mode", "none")
    assert run.code in (0, 5)


def test_a_checkpoint_within_the_source_is_refused(imgsubset: Callable[..., Run], folder: Path) -> None:
    before = tree(folder)
    run = imgsubset("select", folder, "-n", 3, "--mode", "none", "--steps", 50, "--resume", folder / "state")
    assert (run.code, run.out) == (2, "")
    assert tree(folder) == before


@pytest.mark.timeout(20, method="signal")
def test_a_fifo_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    code = "import sys; from imgsubset.checkpoint import FileCheckpoint; FileCheckpoint(sys.argv[1], {}).load()"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "fifo")], capture_output=True, check=False, timeout=4
    )
    assert b"InputError" in run.stderr


# A search that was stopped


def stopped(source: Path, state: Path) -> Selection:
    """The best so far of a search that is asked to end after a few rounds of exchanges."""
    asked: list[int] = []
    return select(
        *(source, N, replace(OPTIONS, resume=str(state))),
        stop=lambda: len(asked) > 12 or asked.append(1) is not None,
    )


def test_a_search_that_was_stopped_goes_on_however_young_its_state(
    pictures: Path, state: Path, uninterrupted: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 1e9)
    part = stopped(pictures, state)
    assert part.interrupted
    assert len(part.trace) < len(uninterrupted.trace)
    assert essence(resumed(pictures, state)) == essence(uninterrupted)


@pytest.mark.parametrize(("seed", "code"), [("0", 0), ("1", 5)])
def test_what_it_came_to_takes_the_place_of_the_best_so_far(
    imgsubset: Callable[..., Run], pictures: Path, tmp_path: Path, state: Path, seed: str, code: int
) -> None:
    export(stopped(pictures, state), tmp_path / "out")
    arguments = "--candidates 64 --chains 2 --steps 200 --size 16 --channels 6,8 --device cpu".split()
    run = imgsubset("select", pictures, tmp_path / "out", "-n", N, *arguments, "--seed", seed, "--resume", state)
    assert run.code == code, run.err
    interrupted = json.loads((tmp_path / "out" / "manifest.json").read_bytes())["interrupted"]
    assert interrupted is (code == 5)  # another request is refused, and changes nothing
