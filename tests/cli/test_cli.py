from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import Run, create, noise, normal_user, smooth, strict_json, tree, without_times
from forked import MAIN, Forked
from PIL import Image

import imgsubset as package
from imgsubset import cli, errors
from imgsubset.cli import signals
from imgsubset.cli.terminal import ProgressBar
from imgsubset.options import FIELDS, IMAGE_STATS_WEIGHT
from imgsubset.search.exchange import Exchanges

Program = Callable[..., Run]
FEATURES = ("--size", 16, "--channels", "8,8", "--device", "cpu")
FAST = ("--candidates", 16, "--chains", 1, "--steps", 4, *FEATURES, "--workers", 0)


def files(run: Run) -> list[str]:
    """The chosen files that a run with --json names."""
    assert run.code == 0, run.err
    return [file["path"] for file in strict_json(run.out)["files"]]


# Before any work

LIGHT = """
import sys
from imgsubset import cli
sys.argv = ["imgsubset", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as ended:
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "torchvision", "scipy", "numpy"})
    print("\\n", ended.code or 0, loaded)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["select", "--help"], 0),
        (["demo", "--help"], 0),
        (["select", "src", "dst"], 2),
        (["select", "src", "dst", "-n", "3", "--weights", "kl=-1"], 2),
        (["select", "absent", "dst", "-n", "3"], 3),
    ],
    ids=str,
)
def test_what_needs_no_mathematics_answers_without_torch(arguments: list[str], code: int) -> None:
    run = subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, check=False, text=True)
    assert run.stdout.splitlines()[-1:] == [f" {code} []"], run.stderr


def test_help_tells_every_exit_code(imgsubset: Program) -> None:
    run = imgsubset("--help")
    assert (run.code, run.err) == (0, "")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = sorted({0, 129, 130, 141, 143, *(kind.exit_code for kind in kinds)})
    lines = run.out[run.out.index("Exit codes:") :].splitlines()[1:]
    assert [int(line.split()[0]) for line in lines if line.strip()] == codes


def test_version_is_the_packages(imgsubset: Program) -> None:
    assert imgsubset("--version") == Run(0, f"imgsubset, version {package.__version__}\n", "")


@pytest.mark.parametrize("name", ["select", "demo"])
def test_every_option_has_a_help_and_every_field_an_option(imgsubset: Program, name: str) -> None:
    command = cli.program.commands[name]
    options = [option for option in command.params if isinstance(option, click.Option)]
    text = imgsubset(name, "--help").out
    for option in options:
        assert option.help, option.name
        assert option.opts[-1] in text
    fields = set(FIELDS)
    assert name == "demo" or fields <= {option.name for option in options}


@pytest.mark.parametrize("field", FIELDS)
def test_defaults_are_those_of_the_library(
    imgsubset: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str
) -> None:
    seen: list[package.Options] = []

    def watch(source: Path, n: str, options: package.Options, **_: object) -> None:
        seen.append(options)
        raise errors.InputError("seen")

    monkeypatch.setattr("imgsubset.tasks.select.select", watch)
    create(tmp_path / "a" / "x.jpg")
    assert imgsubset("select", tmp_path / "a", tmp_path / "b", "-n", 3, "--no-cache").code == 3
    expected = (("image", IMAGE_STATS_WEIGHT),) if field == "match" else getattr(package.Options(), field)
    assert getattr(seen[0], field) == expected


# Failures: the exit code, and one line that repeats the input

WRONG: list[tuple[list[object], str]] = [
    (["-n", "0"], "n '0'"),
    (["-n", "-1"], "n '-1'"),
    (["-n", "abc"], "n 'abc'"),
    (["-n", "1.5"], "n '1.5'"),
    (["-n", "0%"], "n '0%'"),
    (["-n", "101%"], "n '101%'"),
    (["-n", "3", "--weights", "kl=-1"], "weight kl=-1"),
    (["-n", "3", "--weights", "js=nan"], "weight js=nan"),
    (["-n", "3", "--weights", "frechet=inf"], "weight frechet=inf"),
    (["-n", "3", "--weights", "kl=x"], "weight 'kl=x'"),
    (["-n", "3", "--weights", "kl=1,chi=2"], "unknown divergence 'chi'"),
    (["-n", "3", "--weights", "kl=1,kl=2"], "'kl' is named twice"),
    (["-n", "3", "--weights", "1,2,3"], "weights '1,2,3' are 3 numbers"),
    (["-n", "3", "--weights", "kl=0"], "all weights are 0"),
    (["-n", "3", "--weights", "0,0,0,0,0"], "all weights are 0"),
    (["-n", "3", "--candidates", "0"], "candidates 0"),
    (["-n", "3", "--chains", "0"], "chains 0"),
    (["-n", "3", "--steps", "-1"], "steps -1"),
    (["-n", "3", "--time-limit", "0"], "time_limit 0"),
    (["-n", "3", "--time-limit", "5d"], "time limit '5d'"),
    (["-n", "3", "--seed", "-1"], "seed -1"),
    (["-n", "3", "--size", "7"], "size 7"),
    (["-n", "3", "--kernel-size", "4"], "kernel_size (4,)"),
    (["-n", "3", "--temperature", "nan"], "temperature nan"),
    (["-n", "3", "--friction", "-1"], "friction -1"),
    (["-n", "3", "--langevin-time", "inf"], "langevin_time inf"),
    (["-n", "3", "--channels", "16,0"], "channels (16, 0)"),
    (["-n", "3", "--channels", "16,x"], "channels '16,x'"),
    (["-n", "3", "--workers", "-1"], "workers -1"),
]


def check_failure(run: Run, code: int, culprit: str) -> None:
    assert run.code == code
    assert run.out == ""
    assert run.err.startswith("imgsubset: error: ")
    assert run.err.count("\n") == 1
    assert run.err.endswith("\n")
    assert culprit in run.err


@pytest.mark.parametrize(("arguments", "culprit"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_a_usage_error_is_exit_code_2_and_names_the_culprit(
    imgsubset: Program, pictures: Path, tmp_path: Path, arguments: list[object], culprit: str
) -> None:
    check_failure(imgsubset("select", pictures, tmp_path / "out", *arguments), 2, culprit)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ([], "-n"),
        (["-n", "3", "--candidates", "many"], "'many'"),
        (["-n", "3", "--device", "tpu"], "'tpu'"),
        (["-n", "3", "--candidate"], "--candidate"),
        (["-n", "3", "more"], "more"),
    ],
    ids=str,
)
def test_a_command_line_that_cannot_be_parsed_is_exit_code_2(
    imgsubset: Program, pictures: Path, tmp_path: Path, arguments: list[object], culprit: str
) -> None:
    run = imgsubset("select", pictures, tmp_path / "out", *arguments)
    assert (run.code, run.out) == (2, "")
    assert culprit in run.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["select", "", "out"], "'SRC'"),
        (["select", "in", ""], "'[DST]'"),
        (["select", "in", "--list", ""], "'--list'"),
        (["select", "in", "--keep="], "'--keep'"),
        (["select", "in", "--cache", ""], "'--cache'"),
        (["verify", ""], "'DST'"),
        (["compare", "in", ""], "'B'"),
        (["estimate", "in", "in", ""], "'RESULTS'"),
    ],
    ids=str,
)
def test_an_empty_path_is_not_the_current_folder(imgsubset: Program, words: list[str], culprit: str) -> None:
    more = ("-n", 3) if words[0] == "select" else ()
    check_failure(imgsubset(*words, *more), 2, f"Invalid value for {culprit}: the path is empty")


@pytest.mark.parametrize(
    "words",
    [["-n", "3", "--seed", "9" * 100_000], ["-n", "3", "--" + "x" * 100_000], ["-n", "9" * 1_000]],
    ids=["value", "name", "number"],
)
def test_an_endless_word_is_cut_in_the_message(imgsubset: Program, pictures: Path, words: list[str]) -> None:
    run = imgsubset("select", pictures, *words)
    assert run.code == 2
    assert "characters ...]" in run.err
    assert len(run.err) < 1_100


def test_an_unavailable_device_is_a_usage_error(
    imgsubset: Program, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = importlib.import_module("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_failure(imgsubset("select", pictures, tmp_path / "out", "-n", 3, "--device", "cuda"), 2, "device 'cuda'")


@pytest.mark.parametrize(
    ("source", "n", "culprit"),
    [
        ("absent", 1, "absent': No such file"),
        ("file", 1, "no images in source"),
        ("empty", 1, "no images in source"),
        ("bad", 1, "'x.jpg': empty file"),
        ("some", 3, "n = 3 images are asked for, but the source has only 2 usable ones"),
        ("some", 4, "n = 4 images are asked for, but the source has only 3 usable ones"),
    ],
)
def test_an_unusable_source_is_exit_code_3(
    imgsubset: Program, tmp_path: Path, source: str, n: int, culprit: str
) -> None:
    create(tmp_path / "file")
    create(tmp_path / "empty" / "notes.txt")
    create(tmp_path / "bad" / "x.jpg")
    create(tmp_path / "some" / "x.jpg")
    for number in range(2):
        Image.fromarray(noise(number, 9, 9)).save(tmp_path / "some" / f"{number}.png")
    run = imgsubset("select", tmp_path / source, tmp_path / "out", "-n", n, *FAST)
    check_failure(run, 3, culprit)
    assert not (tmp_path / "out").exists()


def test_a_destination_in_use_is_exit_code_5(imgsubset: Program, pictures: Path, tmp_path: Path) -> None:
    create(tmp_path / "out" / "notes.txt", b"mine")
    check_failure(imgsubset("select", pictures, tmp_path / "out", "-n", 3, *FAST), 5, "it holds 'notes.txt'")
    check_failure(imgsubset("select", pictures, tmp_path / "out/notes.txt", "-n", 3, *FAST), 5, "is not a folder")
    assert list(tree(tmp_path / "out")) == ["notes.txt"]


def test_a_destination_in_the_source_is_exit_code_2(imgsubset: Program, folder: Path) -> None:
    before = tree(folder)
    check_failure(imgsubset("select", folder, folder / "out", "-n", 3, *FAST), 2, f"'{folder / 'out'}' lies inside")
    assert tree(folder) == before


def test_a_failure_in_a_copy_is_exit_code_5(
    imgsubset: Program, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importlib.import_module("imgsubset.writing.export"), "copy_or_link", full)
    run = imgsubset("select", pictures, tmp_path / "out", "-n", 3, *FAST)
    check_failure(run, 5, f"cannot write to '{tmp_path / 'out'}': No space left on device")


def test_an_interrupt_is_exit_code_130(
    imgsubset: Program, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("imgsubset.tasks.select.select", interrupted)
    run = imgsubset("select", pictures, tmp_path / "out", "-n", 3)
    assert (run.code, run.out, run.err.strip()) == (130, "", "imgsubset: interrupted")


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """Ctrl-C as a terminal has it: a background shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupting(calls: list[Any]) -> Callable[..., Any]:
    """A step of the search whose second call meets a Ctrl-C; what it was called with goes to a list."""
    step = Exchanges.step

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    return interrupted


@pytest.mark.slow
@pytest.mark.usefixtures("default_sigint")
def test_the_first_interrupt_of_a_search_exports_the_best_so_far(
    imgsubset: Program, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Exchanges, "step", interrupting(calls))
    run = imgsubset("select", pictures, tmp_path / "out", "-n", 5, *FAST, "--steps", 1_000_000)
    assert run.code == 130
    assert "ending the search with the best so far" in run.err
    manifest = strict_json((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["interrupted"] is True
    assert [point["method"] for point in manifest["trace"]].count("exchanges") == len(calls) == 2
    assert set(tree(tmp_path / "out")) == {"manifest.json", *(file["path"] for file in manifest["files"])}


@pytest.mark.parametrize(
    ("stage", "searching"),
    [
        ("draw", True),
        ("exchange", True),
        ("train: draw", True),
        ("draw: exchange", True),
        ("exchange n=1,000", True),
        ("decode", False),
        ("rank", False),
        ("draw: rank", False),
        ("copy", False),
    ],
)
def test_an_interrupt_asks_the_search_to_end_and_ends_any_other_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str, searching: bool
) -> None:
    def leave(number: int) -> None:
        raise signals.EndedBySignal(number)

    monkeypatch.setattr(signals, "exit_on_signal", leave)
    interrupt = signals.Interrupt(ProgressBar(quiet=True))
    assert interrupt() is False  # as the search asks
    interrupt.progress(stage, 1, 2)
    if searching:
        interrupt.handle(signal.SIGINT, None)
        assert interrupt() is True
        assert "ending the search with the best so far" in capsys.readouterr().err
    with pytest.raises(signals.EndedBySignal):
        interrupt.handle(signal.SIGINT, None)


@pytest.mark.slow
@pytest.mark.usefixtures("default_sigint")
@pytest.mark.parametrize("parts", [[], ["one=5", "two=7", "three=9"]], ids=["select", "split"])
def test_what_an_interrupted_run_has_copied_is_replaced_by_the_same_command(
    imgsubset: Program, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str]
) -> None:
    def arguments(out: Path) -> list[object]:
        what = ["split", pictures, out, *parts] if parts else ["select", pictures, out, "-n", 5]
        return [*what, *FAST, "--steps", 200]

    def manifests(out: Path) -> list[dict[str, Any]]:
        files = sorted(out.rglob("manifest.json"))
        return [strict_json(file.read_text()) for file in files]

    assert imgsubset(*arguments(tmp_path / "undisturbed")).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Exchanges, "step", interrupting([]))
        assert imgsubset(*arguments(tmp_path / "out")).code == 130
    assert [found["interrupted"] for found in manifests(tmp_path / "out")] == [True] * max(1, len(parts))
    run = imgsubset(*arguments(tmp_path / "out"))
    assert (run.code, run.err) == (0, "")
    for found, expected in zip(manifests(tmp_path / "out"), manifests(tmp_path / "undisturbed"), strict=True):
        assert (found["files"], found["score"]) == (expected["files"], expected["score"])
        assert found["interrupted"] is False
    assert set(tree(tmp_path / "out")) == set(tree(tmp_path / "undisturbed"))
    assert "nothing to do" in imgsubset(*arguments(tmp_path / "out")).out


@pytest.mark.parametrize(
    ("n", "more", "code"),
    [
        (3, ["--weights", "kl=-1"], 2),
        (3, ["--channels", "x"], 2),
        (3, ["--size", "1"], 2),
        (0, [], 2),
        (999, [], 3),
    ],
    ids=str,
)
def test_json_of_a_failure_is_one_object(
    imgsubset: Program, pictures: Path, tmp_path: Path, n: int, more: list[str], code: int
) -> None:
    run = imgsubset("select", pictures, tmp_path / "out", "-n", n, "--json", *more)
    assert run.code == code
    record = strict_json(run.out)
    assert set(record) == {"error", "exit_code"}
    assert record["exit_code"] == code
    assert run.err == f"imgsubset: error: {record['error']}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["absent", "out", "-n", "3"], 3, b"absent"),
        ([".", "out", "-n", "3"], 2, b"out"),
        (["pictures", "out", "-n", "x"], 2, b"n 'x'"),
        (["pictures", "full", "-n", "3"], 5, b"full"),
        (["pictures", "out", "-n", "3", "--strict"], 4, b"'empty.png': empty file"),
    ],
    ids=str,
)
def test_a_process_ends_with_its_exit_code_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, error: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    create(tmp_path / "pictures" / "empty.png")
    for number in range(4):
        Image.fromarray(noise(number, 9, 9)).save(tmp_path / "pictures" / f"{number}.png")
    create(tmp_path / "full" / "notes.txt")
    run = Forked(MAIN, "select", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, complaint = run.communicate()
    assert (run.returncode, said) == (code, b"")
    assert complaint.count(b"\n") == 1
    assert complaint.startswith(b"imgsubset: error: ")
    assert error in complaint
    assert not (tmp_path / "out").exists()


# Selections


@pytest.mark.slow
def test_a_selection_is_copied_and_summed_up(imgsubset: Program, pictures: Path, tmp_path: Path) -> None:
    before = tree(pictures)
    run = imgsubset("select", pictures, tmp_path / "out", "-n", 10, *FAST)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith(f"10 of 120 images of {pictures}, copied to {tmp_path / 'out'}\n")
    for word in ("kl", "js", "wasserstein", "hellinger", "frechet", "loss", "These 10 images represent", "time: "):
        assert f"\n{word}" in run.out
    manifest = strict_json((tmp_path / "out" / "manifest.json").read_text())
    found = tree(tmp_path / "out")
    assert len(manifest["files"]) == 10
    assert {file["path"]: file["sha256"] for file in manifest["files"]} == {
        path: digest for path, (digest, _, _) in found.items() if path != "manifest.json"
    }
    assert {path: before[path] for path in found if path != "manifest.json"} == {
        path: values for path, values in found.items() if path != "manifest.json"
    }
    assert tree(pictures) == before


@pytest.mark.slow
def test_json_of_a_success_is_one_object_and_the_manifest(imgsubset: Program, pictures: Path, tmp_path: Path) -> None:
    run = imgsubset("select", pictures, tmp_path / "out", "-n", 10, "--json", *FAST)
    assert (run.code, run.err) == (0, "")
    record = strict_json(run.out)
    assert record.pop("destination") == str(tmp_path / "out")
    assert without_times(record) == strict_json((tmp_path / "out" / "manifest.json").read_text())


@pytest.mark.slow
def test_quiet_prints_nothing(imgsubset: Program, pictures: Path, tmp_path: Path) -> None:
    assert imgsubset("select", pictures, tmp_path / "out", "-n", 3, "-q", *FAST) == Run(0, "", "")
    assert len(tree(tmp_path / "out")) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("n", "count"), [("10%", 12), ("0.1%", 1), ("100%", 120), ("7", 7), (" 7 ", 7)])
def test_n_is_a_number_or_a_percentage(imgsubset: Program, pictures: Path, tmp_path: Path, n: str, count: int) -> None:
    run = imgsubset("select", pictures, tmp_path / "out", "-n", n, "--dry-run", "--json", *FAST)
    assert len(set(files(run))) == count


@pytest.mark.slow
def test_a_dry_run_copies_nothing(imgsubset: Program, pictures: Path, tmp_path: Path) -> None:
    run = imgsubset("select", pictures, tmp_path / "out", "-n", 10, "--dry-run", *FAST)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith(f"10 of 120 images of {pictures}, nothing copied\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_dry_run_chooses_what_a_run_copies(imgsubset: Program, pictures: Path, tmp_path: Path) -> None:
    dry = imgsubset("select", pictures, tmp_path / "out", "-n", 10, "--dry-run", "--json", *FAST)
    wet = imgsubset("select", pictures, tmp_path / "out", "-n", 10, "--json", *FAST)
    assert files(dry) == files(wet) == sorted(set(tree(tmp_path / "out")) - {"manifest.json"})
    assert strict_json(dry.out)["destination"] is None


@pytest.mark.slow
def test_one_seed_chooses_the_same_files_and_another_others(imgsubset: Program, pictures: Path, tmp_path: Path) -> None:
    def chosen(seed: int, workers: int) -> list[str]:
        seeded = ("--seed", seed, "--workers", workers)
        return files(imgsubset("select", pictures, tmp_path / "x", "-n", 10, "--dry-run", "--json", *seeded, *FAST))

    assert chosen(5, 0) == chosen(5, 3) == chosen(5, 1)
    assert chosen(5, 0) != chosen(6, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("accurate")
def test_the_environment_and_the_place_change_nothing_and_streams_stay_clean(
    imgsubset: Program, pictures: Path, tmp_path: Path
) -> None:
    here = imgsubset("select", pictures, tmp_path / "x", "-n", 10, "--dry-run", "--json", *FAST)
    environment = {"LC_ALL": "C", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "4711", "PYTHONUTF8": "0"}
    environment |= {"OMP_NUM_THREADS": "3", "COLUMNS": "40"}
    command = [sys.executable, "-m", "imgsubset", "select", pictures, tmp_path / "out", "-n", 10, *FAST]
    run = subprocess.run(list(map(str, command)), capture_output=True, check=False, env={**os.environ, **environment})
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"\r" not in run.stdout
    assert b"\x1b" not in run.stdout
    manifest = strict_json((tmp_path / "out" / "manifest.json").read_text())
    assert [file["path"] for file in manifest["files"]] == files(here)


@pytest.mark.slow
def test_progress_bars_are_shown_on_a_terminal_alone(
    imgsubset: Program, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*more: str) -> str:
        terminal = io.StringIO()
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            assert imgsubset("select", pictures, tmp_path / "out", "-n", 3, "--overwrite", *FAST, *more).code == 0
        return terminal.getvalue()

    bars = shown()
    for stage in ("decode", "draw", "exchange", "copy"):
        assert f"{stage}:" in bars
    assert shown("-q") == ""


def test_all_usable_images_are_the_source_itself(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    create(folder / "broken.jpg")
    run = imgsubset("select", folder, tmp_path / "out", "-n", "100%", "--json", *FAST)
    assert len(files(run)) == 8
    score = strict_json(run.out)["score"]
    assert score["loss"] == 0
    assert score["effective_size"] == pytest.approx(8)
    assert {name: value["value"] for name, value in score["divergences"].items()} == pytest.approx(
        dict.fromkeys(["kl", "js", "wasserstein", "hellinger", "frechet"], 0), abs=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("kind", ["constant", "equal"])
def test_any_of_equal_images_are_the_source_itself(imgsubset: Program, tmp_path: Path, kind: str, n: int) -> None:
    (tmp_path / "source").mkdir()
    for number in range(30):
        picture = Image.new("RGB", (9, 9), "teal") if kind == "constant" else Image.fromarray(noise(0, 9, 9))
        picture.save(tmp_path / "source" / f"{number}.png")
    run = imgsubset("select", tmp_path / "source", tmp_path / "out", "-n", n, "--json", *FAST)
    assert len(files(run)) == n
    score = strict_json(run.out)["score"]
    assert (score["loss"], score["effective_size"]) == (0, pytest.approx(30))


@pytest.mark.slow
def test_overwrite_replaces_an_earlier_selection(imgsubset: Program, pictures: Path, tmp_path: Path) -> None:
    first = imgsubset("select", pictures, tmp_path / "out", "-n", 10, "--json", *FAST)
    create(tmp_path / "out" / "notes.txt", b"mine")
    assert imgsubset("select", pictures, tmp_path / "out", "-n", 5, *FAST).code == 5
    assert set(tree(tmp_path / "out")) == {*files(first), "notes.txt", "manifest.json"}
    second = imgsubset("select", pictures, tmp_path / "out", "-n", 5, "--json", "--overwrite", *FAST)
    assert set(tree(tmp_path / "out")) == {*files(second), "notes.txt", "manifest.json"}


# Folders that nobody has looked at

SKIPPED = {
    "bomb.png": "DecompressionBombError: Image size (400000000 pixels)",
    "dangling.jpg": "dangling link",
    "empty.jpg": "empty file",
    "fifo.png": "not a regular file",
    "page.jpg": "an HTML page, not an image",
    "pointer.jpg": "a Git LFS pointer, not the image: run 'git lfs pull'",
    "text.jpg": "not an image of a supported format",
    "truncated.jpg": "image file is truncated",
}
GOOD = ("animated.gif", "cmyk.jpg", "deep.png", "plain.jpg", "rotated.jpg")


@pytest.fixture
def nasty(tmp_path: Path, bomb: bytes) -> Path:
    source = tmp_path / "nasty"
    create(source / "bomb.png", bomb)
    (source / "dangling.jpg").symlink_to("nowhere")
    create(source / "empty.jpg")
    os.mkfifo(source / "fifo.png")
    create(source / "page.jpg", b"<!doctype html><html></html>")
    create(source / "pointer.jpg", b"version https://git-lfs.github.com/spec/v1\n")
    create(source / "text.jpg", b"a text")
    photo = smooth(0, 60, 40)
    photo.save(source / "plain.jpg")
    Image.fromarray(noise(2, 60, 40)).save(source / "truncated.jpg")
    os.truncate(source / "truncated.jpg", (source / "truncated.jpg").stat().st_size * 2 // 3)
    photo.convert("CMYK").save(source / "cmyk.jpg")
    Image.fromarray(noise(1, 30, 20, 1).astype("uint16") * 257).save(source / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(source / "rotated.jpg", exif=exif)
    photo.save(source / "animated.gif", save_all=True, append_images=[smooth(1, 60, 40)])
    return source


@pytest.mark.parametrize("workers", [0, 2])
def test_unusable_files_are_skipped_and_named_with_their_reasons(
    imgsubset: Program, nasty: Path, tmp_path: Path, workers: int
) -> None:
    run = imgsubset("select", nasty, tmp_path / "out", "-n", 5, "--workers", workers, *FAST)
    assert (run.code, run.err) == (0, "")
    lines = run.out.splitlines()
    start = lines.index("skipped 8 files:") + 1
    named = dict(line.strip().split(": ", 1) for line in lines[start:])
    assert list(named) == list(SKIPPED)
    for name, why in SKIPPED.items():
        assert named[name].startswith(why)
    assert set(tree(tmp_path / "out")) == {*GOOD, "manifest.json"}
    manifest = strict_json((tmp_path / "out" / "manifest.json").read_text())
    assert {file["path"]: file["reason"] for file in manifest["rejected"]} == named
    counts = {"usable": 5, "chosen": 5, "rejected": 8, "ignored": 0, "copies": 0}
    assert manifest["counts"] == counts | {"labels": 0, "unlabelled": 5}


def test_strict_makes_unusable_files_an_error_before_anything_is_copied(
    imgsubset: Program, nasty: Path, tmp_path: Path
) -> None:
    run = imgsubset("select", nasty, tmp_path / "out", "-n", 5, "--strict", *FAST)
    check_failure(run, 4, f"8 files of source '{nasty}' cannot be used: 'bomb.png': DecompressionBombError")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("more", "shown"), [([], 10), (["-v"], 12)], ids=str)
def test_verbose_shows_every_skipped_file(imgsubset: Program, tmp_path: Path, more: list[str], shown: int) -> None:
    source = tmp_path / "source"
    for number in range(12):
        create(source / f"bad{number:02d}.jpg")
        Image.fromarray(noise(number, 9, 9)).save(source / f"{number}.png")
    out = imgsubset("select", source, tmp_path / "out", "-n", 3, *FAST, *more).out
    assert out.count(": empty file") == shown
    assert ("... and 2 more; -v shows all of them" in out) == (shown < 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["\x1b[31mred.jpg", "\udcff.jpg", "new\nline.jpg", "\u202ereversed.jpg", "\x9b5m.jpg"])
@pytest.mark.parametrize("more", [[], ["--strict"]], ids=str)
def test_no_raw_byte_of_a_name_reaches_the_terminal(
    imgsubset: Program, tmp_path: Path, name: str, more: list[str]
) -> None:
    source = tmp_path / "source"
    create(source / name)
    Image.fromarray(noise(0, 9, 9)).save(source / "1.png")
    run = imgsubset("select", source, tmp_path / "out", "-n", 1, *FAST, *more)
    assert run.code == (4 if more else 0)
    text = run.out + run.err
    assert name not in text
    assert all(char.isprintable() or char == "\n" for char in text)
    assert name.encode("unicode_escape", "surrogatepass").decode() in text


def test_an_unreadable_folder_is_named_and_strict_fails(imgsubset: Program, open_folder: Path, folder: Path) -> None:
    source = open_folder / "source"
    create(source / "shut" / "1.jpg")
    for number in range(3):
        Image.fromarray(noise(number, 9, 9)).save(source / f"{number}.png")
    (source / "shut").chmod(0)
    arguments = ("select", source, open_folder / "out", "-n", 2, "--dry-run", *FAST)
    with normal_user(open_folder):
        lenient, strict = imgsubset(*arguments), imgsubset(*arguments, "--strict")
    assert lenient.code == 0
    assert "\n  shut: cannot read folder: Permission denied" in lenient.out
    check_failure(strict, 4, "'shut': cannot read folder: Permission denied")


@pytest.mark.slow
def test_a_reader_that_leaves_gets_no_traceback(pictures: Path, tmp_path: Path) -> None:
    arguments = ["select", pictures, tmp_path / "out", "-n", 3, *FAST]
    process = Forked(MAIN, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    process.wait()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
    assert "manifest.json" in tree(tmp_path / "out")


# The demo


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = importlib.import_module("imgsubset.cli.demo")
    counts = {name: count for name, (count, _) in demo.CLASSES.items()}
    assert sum(counts.values()) == 2000
    assert max(counts.values()) > 5 * min(counts.values())
    monkeypatch.setattr(demo, "CLASSES", {name: (count // 80, draw) for name, (count, draw) in demo.CLASSES.items()})


@pytest.mark.slow
@pytest.mark.usefixtures("small_demo")
def test_the_demo_draws_the_same_pictures_and_selects_from_them(imgsubset: Program, tmp_path: Path) -> None:
    run = imgsubset("demo", tmp_path / "one", "-n", 5, *FAST)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith("5 of 24 images of ")
    assert imgsubset("demo", tmp_path / "two", "-n", 5, "-q", *FAST) == Run(0, "", "")
    one, two = ({path: digest for path, (digest, _, _) in tree(tmp_path / name).items()} for name in ("one", "two"))
    for record in (one, two):
        assert record.pop("subset/manifest.json")
        assert record.pop("report.html")  # they tell times and places
    assert one == two
    assert len(one) == 24 + 5


@pytest.mark.usefixtures("small_demo")
def test_the_demo_refuses_a_folder_in_use(imgsubset: Program, tmp_path: Path) -> None:
    create(tmp_path / "source" / "mine.png", b"mine")
    check_failure(imgsubset("demo", tmp_path, *FAST), 5, f"'{tmp_path / 'source'}' exists")
    assert list(tree(tmp_path)) == ["source/mine.png"]


def test_json_never_holds_what_other_languages_refuse() -> None:
    with pytest.raises(AssertionError, match="NaN is no JSON"):
        strict_json(json.dumps({"x": float("nan")}))
