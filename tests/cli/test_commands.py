from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Run, create, deal, noise, normal_user, strict_json, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

Program = Callable[..., Run]
FEATURES = ("--size", 16, "--channels", "8,8", "--device", "cpu")
FAST = ("--candidates", 16, "--chains", 1, "--steps", 4, *FEATURES, "--workers", 0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def out(imgsubset: Program, folder: Path, tmp_path: Path) -> Path:
    """A finished selection of four of the eight pictures."""
    assert imgsubset("select", folder, tmp_path / "out", "-n", 4, "-q", *FAST) == Run(0, "", "")
    return tmp_path / "out"


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Set what the next run reads from its standard input."""
    return lambda content: monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def check_error_line(run: Run, *culprits: str) -> None:
    assert run.err.startswith("imgsubset: error: "), run
    assert run.err.count("\n") == 1
    for culprit in culprits:
        assert culprit in run.err


def check_failure(run: Run, code: int, *culprits: str) -> None:
    assert (run.code, run.out) == (code, ""), run
    check_error_line(run, *culprits)


def chosen(out: Path) -> list[str]:
    return [file["path"] for file in strict_json((out / "manifest.json").read_text())["files"]]


# The highest loss that is allowed


def select_gated(folder: Path, root: Path) -> tuple[object, ...]:
    return "select", folder, root / "gated", "-n", 4, *FAST


def score_gated(folder: Path, root: Path) -> tuple[object, ...]:
    return "score", folder, root / "out", *FEATURES


def compare_gated(folder: Path, root: Path) -> tuple[object, ...]:
    return "compare", folder, root / "out", *FEATURES


def loss_of(record: dict[str, Any]) -> float:
    loss = record["score"]["loss"] if "score" in record else record["loss"]["value"]
    assert isinstance(loss, float)
    return loss


GATED = pytest.mark.parametrize("gated", [select_gated, score_gated, compare_gated])


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
@GATED
def test_a_loss_above_the_highest_is_exit_code_6_beside_the_results(
    imgsubset: Program, folder: Path, out: Path, tmp_path: Path, gated: Callable[..., tuple[object, ...]]
) -> None:
    arguments = gated(folder, tmp_path)
    failed = imgsubset(*arguments, "--json", "--max-loss", "1e-9")
    assert failed.code == 6
    check_error_line(failed, "--max-loss 1e-09")
    loss = loss_of(strict_json(failed.out))
    assert loss > 1e-9
    assert not (tmp_path / "gated").exists()
    for below, code in ((loss * (1 - 1e-9), 6), (loss, 0), (1000, 0), ("inf", 0)):
        run = imgsubset(*arguments, "--json", "--max-loss", repr(below) if isinstance(below, float) else below)
        assert run.code == code, below
        assert loss_of(strict_json(run.out)) == loss
        assert (run.err == "") == (code == 0)


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
@GATED
def test_the_results_are_printed_though_they_are_bad(
    imgsubset: Program, folder: Path, out: Path, tmp_path: Path, gated: Callable[..., tuple[object, ...]]
) -> None:
    before = tree(tmp_path)
    run = imgsubset(*gated(folder, tmp_path), "--max-loss=0", "--no-cache")
    assert run.code == 6
    check_error_line(run, "loss ", "--max-loss 0")
    for word in ("kl", "frechet", "loss", "time: "):
        assert f"\n{word}" in run.out
    quiet = imgsubset(*gated(folder, tmp_path), "--max-loss=0", "--no-cache", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (6, "", run.err)
    assert tree(tmp_path) == before


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
@GATED
def test_a_highest_loss_that_is_no_number_lets_nothing_pass(
    imgsubset: Program, folder: Path, out: Path, tmp_path: Path, gated: Callable[..., tuple[object, ...]]
) -> None:
    assert imgsubset(*gated(folder, tmp_path), "--max-loss", "nan", "--no-cache").code == 2
    assert imgsubset(*gated(folder, tmp_path), "--max-loss", "low", "--no-cache").code == 2
    assert not (tmp_path / "gated").exists()


@pytest.mark.slow
def test_a_selection_above_the_highest_loss_leaves_nothing(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    arguments = (*select_gated(folder, tmp_path), "--list", tmp_path / "list", "--ranked", "--json")
    run = imgsubset(*arguments, "--max-loss", "1e-9")
    assert run.code == 6
    record = strict_json(run.out)
    assert record["destination"] is None
    assert len(record["files"]) == 4
    assert not any("sha256" in file for file in record["files"])
    assert not (tmp_path / "gated").exists()
    assert not (tmp_path / "list").exists()


@pytest.mark.slow
def test_a_gate_keeps_an_earlier_selection_from_being_replaced(
    imgsubset: Program, folder: Path, out: Path, tmp_path: Path
) -> None:
    before = tree(out)
    run = imgsubset("select", folder, out, "-n", 3, "--overwrite", "--max-loss", "1e-9", *FAST)
    assert run.code == 6
    assert tree(out) == before


def test_a_stricter_gate_on_what_is_done_already(imgsubset: Program, folder: Path, out: Path, tmp_path: Path) -> None:
    arguments = ("select", folder, out, "-n", 4, *FAST, "--list", tmp_path / "list")
    before = tree(out)
    run = imgsubset(*arguments, "--max-loss", "1e-9")
    assert run.code == 6
    check_error_line(run, "--max-loss")
    assert "already holds" in run.out
    assert not (tmp_path / "list").exists()
    assert len(strict_json(imgsubset(*arguments, "--max-loss", "1e-9", "--json").out)["files"]) == 4
    assert imgsubset(*arguments, "--max-loss", 1000).code == 0
    assert (tmp_path / "list").exists()
    assert tree(out) == before


# verify


def flip(out: Path) -> str:
    path = chosen(out)[1]
    content = bytearray((out / path).read_bytes())
    content[len(content) // 2] ^= 1
    (out / path).write_bytes(content)
    return path


def lose(out: Path) -> str:
    path = chosen(out)[0]
    (out / path).unlink()
    return path


def add(out: Path) -> str:
    return str(create(out / "a" / "more.txt").relative_to(out))


def block(out: Path) -> str:
    path = chosen(out)[2]
    (out / path).unlink()
    os.mkfifo(out / path)
    return path


def test_a_good_subset_is_verified(imgsubset: Program, out: Path) -> None:
    before = tree(out)
    run = imgsubset("verify", out)
    assert (run.code, run.err) == (0, "")
    assert run.out == f"{out}: all 4 files are what the manifest says\n"
    record = strict_json(imgsubset("verify", out, "--json").out)
    assert record == {"folder": str(out), "checked": 4, "missing": [], "changed": [], "extra": [], "good": True}
    assert imgsubset("verify", out, "-q") == Run(0, "", "")
    assert tree(out) == before


@pytest.mark.slow
@pytest.mark.parametrize(("alter", "kind"), [(flip, "changed"), (lose, "missing"), (add, "extra"), (block, "changed")])
def test_a_subset_that_is_not_what_it_was_is_exit_code_7(
    imgsubset: Program, out: Path, alter: Callable[[Path], str], kind: str
) -> None:
    path = alter(out)
    run = imgsubset("verify", out)
    assert run.code == 7
    check_error_line(run, f"'{out}'", f"1 {kind}")
    assert kind in run.out
    assert path in run.out
    quiet = imgsubset("verify", out, "-q")
    assert (quiet.code, quiet.out, quiet.err) == (7, "", run.err)
    as_json = imgsubset("verify", out, "--json")
    assert (as_json.code, as_json.err) == (7, run.err)
    record = strict_json(as_json.out)
    found = {name: record[name] for name in ("missing", "changed", "extra")}
    if kind == "changed":
        found["changed"] = [file["path"] for file in record["changed"]]
    assert found == {"missing": [], "changed": [], "extra": []} | {kind: [path]}
    assert record["good"] is False


@pytest.mark.slow
def test_all_that_is_wrong_is_told_at_once(imgsubset: Program, out: Path) -> None:
    paths = [flip(out), lose(out), add(out)]
    for number in range(12):
        create(out / f"\x1b[31m{number}")
    run = imgsubset("verify", out)
    assert run.code == 7
    check_error_line(run, "1 missing, 1 changed, 13 extra")
    assert all(char.isprintable() or char == "\n" for char in run.out + run.err)
    assert "-v shows all" in run.out
    verbose = imgsubset("verify", out, "-v").out
    assert all(path in verbose for path in paths)
    assert verbose.count("\\x1b[31m") == 12 > run.out.count("\\x1b[31m")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"null", b"{}", b'{"format": 999}', b"[" * 100_000])
def test_a_folder_without_a_manifest_cannot_be_verified(
    imgsubset: Program, tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / "x").mkdir()
    if content is not None:
        create(tmp_path / "x" / "manifest.json", content)
    check_failure(imgsubset("verify", tmp_path / "x"), 3, "manifest.json")
    check_failure(imgsubset("verify", tmp_path / "absent"), 3, "absent")
    record = strict_json(imgsubset("verify", tmp_path / "x", "--json").out)
    assert record["exit_code"] == 3


@pytest.mark.slow
def test_a_manifest_itself_is_verified_as_its_folder(imgsubset: Program, out: Path) -> None:
    run = imgsubset("verify", out / "manifest.json")
    assert (run.code, run.err) == (0, "")
    assert "all 4 files are what the manifest says" in run.out
    path = lose(out)
    run = imgsubset("verify", out / "manifest.json")
    assert (run.code, path in run.out) == (7, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "code"), [("\0", 3), ("\ud800", 3), ("", 3), (".", 3), ("x" * 5000, 7), (3, 3), ("a/1.jpg/x", 7)]
)
def test_a_forged_path_in_a_manifest_is_no_traceback(imgsubset: Program, out: Path, path: object, code: int) -> None:
    record = strict_json((out / "manifest.json").read_text())
    record["files"][0]["path"] = path
    (out / "manifest.json").write_text(json.dumps(record))
    run = imgsubset("verify", out)
    assert run.code == code
    check_error_line(run)
    assert imgsubset("verify", out, "--json").code == code


@pytest.mark.slow
def test_a_folder_that_cannot_be_searched_is_one_line(imgsubset: Program, open_folder: Path, out: Path) -> None:
    copy = out.rename(open_folder / "out") if out.stat().st_dev == open_folder.stat().st_dev else None
    if copy is None:
        pytest.skip("two file systems")
    (copy / "shut").mkdir()
    (copy / "shut").chmod(0)
    with normal_user(open_folder):
        run = imgsubset("verify", copy)
    assert run.code == 3
    check_error_line(run, "shut")


# The cache


def cached(run: Run) -> tuple[int, int]:
    """How many of the usable images came from the cache, and how many there are."""
    assert run.code == 0, run
    counts = strict_json(run.out)["counts"]
    return counts["cached"], counts["usable"]


@pytest.fixture
def look(imgsubset: Program, folder: Path) -> Callable[..., Run]:
    """Select without copying."""
    return lambda *more: imgsubset("select", folder, "-n", 4, "--mode", "none", "--json", *FAST, *more)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The paths that each run decodes."""
    source = importlib.import_module("imgsubset.features.distributed_ingest")
    real, seen = source.decode_chunks, []

    def watch(files: Sequence[bytes], *rest: Any) -> Any:
        seen.append(tuple(os.path.basename(os.fsdecode(file)) for file in files))
        return real(files, *rest)

    monkeypatch.setattr(source, "decode_chunks", watch)
    return seen


@pytest.mark.slow
def test_a_second_run_decodes_nothing_and_chooses_the_same(
    look: Callable[..., Run], decodings: list[tuple[str, ...]]
) -> None:
    first, second, without = look(), look(), look("--no-cache")
    assert (cached(first), cached(second), cached(without)) == ((0, 8), (8, 8), (0, 8))
    assert [len(paths) for paths in decodings] == [8, 0, 8]
    results = [strict_json(run.out) for run in (first, second, without)]
    for name in ("files", "score"):
        assert results[0][name] == results[1][name] == results[2][name]


@pytest.mark.slow
def test_one_changed_file_is_decoded_again(
    look: Callable[..., Run], folder: Path, decodings: list[tuple[str, ...]]
) -> None:
    look()
    Image.fromarray(noise(77, 25, 18)).save(folder / "6.bmp")
    os.utime(folder / "6.bmp", ns=(0, 1_500_000_000_000_000_001))
    assert cached(look()) == (7, 8)
    assert cached(look()) == (8, 8)
    (folder / "7.png").rename(folder / "8.png")
    assert cached(look()) == (7, 8)
    assert decodings[1:] == [("6.bmp",), (), ("8.png",)]


@pytest.mark.slow
def test_other_features_share_nothing(look: Callable[..., Run]) -> None:
    look()
    assert cached(look("--feature-seed", 1)) == (0, 8)
    assert cached(look("--size", 17)) == (0, 8)
    assert cached(look("--channels", "4,8")) == (0, 8)
    assert cached(look("--kernel-size", 5)) == (0, 8)
    assert cached(look("--weights", "kl=1", "--seed", 1)) == (8, 8)


@pytest.mark.parametrize("option", ["--cache-verify", "--resume=state"])
def test_an_option_that_was_taken_out_is_told_what_became_of_it(
    imgsubset: Program, folder: Path, tmp_path: Path, option: str
) -> None:
    run = imgsubset("select", folder, tmp_path / "out", "-n", 3, option)
    check_failure(run, 2, f"no such option {option.split('=')[0]}: it was taken out, since ")


@pytest.mark.slow
def test_no_cache_creates_nothing(look: Callable[..., Run], tmp_path: Path) -> None:
    before = set(tree(tmp_path))
    assert cached(look("--no-cache")) == (0, 8)
    assert cached(look("--no-cache", "--cache", tmp_path / "kept")) == (0, 8)
    assert set(tree(tmp_path)) == before
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
def test_the_cache_is_where_it_is_asked_to_be(look: Callable[..., Run], tmp_path: Path) -> None:
    assert cached(look("--cache", tmp_path / "kept")) == (0, 8)
    assert not (tmp_path / "cache").exists()
    assert len(list((tmp_path / "kept").iterdir())) == 4 + 3 + 1  # what is searched, what measures, and looks
    assert cached(look()) == (0, 8)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 4 + 3 + 1
    assert cached(look("--cache", tmp_path / "kept")) == (8, 8)


@pytest.mark.parametrize(
    "arguments",
    [("--older-than", word) for word in ("", "d", "-1d", "30y", "1e3d", "nan", "30 days", "30G")]
    + [("--max-size", word) for word in ("", "G", "-1", "2d", "1e9", "2GG", "\u0662G")],
)
def test_an_amount_that_makes_no_sense_clears_nothing(
    imgsubset: Program, tmp_path: Path, arguments: tuple[str, str]
) -> None:
    check_failure(imgsubset("cache", "clear", "--cache", tmp_path, *arguments), 2, f"{arguments[0]} '{arguments[1]}'")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["default", "named"])
def test_info_counts_and_clear_deletes(
    imgsubset: Program, look: Callable[..., Run], tmp_path: Path, where: str
) -> None:
    kept = tmp_path / "kept"
    more = [] if where == "default" else ["--cache", kept]

    def info() -> dict[str, Any]:
        run = imgsubset("cache", "info", "--json", *more)
        assert (run.code, run.err) == (0, "")
        record = strict_json(run.out)
        assert isinstance(record, dict)
        return record

    assert info()["files"] == []
    look(*more)
    look("--feature-seed", 1, *more)
    record = info()
    root = Path(record["folder"])
    assert root == kept if where == "named" else root.is_relative_to(tmp_path / "cache")
    of_role: dict[str, list[tuple[int, int]]] = {}
    for file in record["files"]:
        role = file["recipe"].get("role", "looks").split()[0]
        of_role.setdefault(role, []).append((file["recipe"].get("seed", 0), file["images"]))
    assert {role: sorted(found) for role, found in of_role.items()} == {
        "searched": [(0, 8)] * 4 + [(1, 8)] * 4,
        "held-out": [(0, 16)] * 3,
        "looks": [(0, 16)],
    }
    for file in record["files"]:
        assert file["bytes"] == sum(one.stat().st_size for one in Path(file["path"]).iterdir())
    text = imgsubset("cache", "info", *more).out
    assert text.startswith(f"{root}: {sum(file['bytes'] for file in record['files']):,} bytes\n")
    assert text.count("random-cnn") == len(record["files"]) - 1
    create(root / "notes.txt", b"mine")
    create(root / "sub" / "moments.sqlite", b"mine")
    for kept_all in (("--older-than", "1h"), ("--max-size", "1G")):
        assert imgsubset("cache", "clear", *more, *kept_all).out == f"freed 0 bytes in {root}\n"
    assert imgsubset("cache", *more).out == text
    cleared = imgsubset("cache", "clear", *more, "--json")
    assert (cleared.code, cleared.err) == (0, "")
    assert strict_json(cleared.out) == {
        "folder": str(root),
        "freed_bytes": sum(file["bytes"] for file in record["files"]),
    }
    assert info()["files"] == []
    assert set(tree(root)) == {"notes.txt", "sub/moments.sqlite"}
    assert imgsubset("cache", "clear", *more).out == f"freed 0 bytes in {root}\n"
    assert cached(look(*more)) == (0, 8)


@pytest.mark.parametrize("command", ["info", "clear"])
def test_a_cache_folder_that_is_none(imgsubset: Program, tmp_path: Path, command: str) -> None:
    create(tmp_path / "\x1b[31mfile", b"mine")
    arguments = ("cache", command, "--cache", tmp_path / "\x1b[31mfile")
    check_failure(imgsubset(*arguments), 3, "\\x1b[31mfile")
    assert strict_json(imgsubset(*arguments, "--json").out)["exit_code"] == 3
    absent = imgsubset("cache", command, "--cache", tmp_path / "absent", "--json")
    assert (absent.code, absent.err) == (0, "")
    assert not (tmp_path / "absent").exists()
    assert (tmp_path / "\x1b[31mfile").read_bytes() == b"mine"


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_a_note(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    create(tmp_path / "\x1b[31mfile", b"mine")
    arguments = ("select", folder, "-n", 4, "--mode", "none", "--cache", tmp_path / "\x1b[31mfile", *FAST)
    run = imgsubset(*arguments)
    assert (run.code, run.err) == (0, "")
    assert "nothing is cached" in run.out
    assert all(char.isprintable() or char == "\n" for char in run.out)
    assert "nothing is cached" in " ".join(strict_json(imgsubset(*arguments, "--json").out)["warnings"])


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
@pytest.mark.parametrize("command", ["score", "compare"])
def test_other_commands_use_the_cache_too(
    imgsubset: Program,
    look: Callable[..., Run],
    folder: Path,
    tmp_path: Path,
    decodings: list[tuple[str, ...]],
    command: str,
) -> None:
    look()
    if command == "compare":  # which looks at the Fourier transform beside what a selection looks at
        assert imgsubset(command, folder, folder, *FEATURES).code == 0
    decodings.clear()
    assert imgsubset(command, folder, folder, *FEATURES).code == 0
    assert [len(paths) for paths in decodings] == [0] * len(decodings)
    assert decodings
    assert imgsubset(command, folder, folder, "--no-cache", *FEATURES).code == 0
    assert len(decodings[-1]) == 8


# score and compare


def scored(run: Run) -> dict[str, Any]:
    assert (run.code, run.err) == (0, ""), run
    record = strict_json(run.out)
    assert isinstance(record, dict)
    return record


@pytest.mark.slow
def test_the_options_of_a_manifest_are_the_defaults_of_its_score(
    imgsubset: Program, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    chosen_with = (
        "--feature-seed",
        3,
        "--size",
        32,
        "--channels",
        "4,8",
        "--weights",
        "kl=1,frechet=2",
        "--kernel-size",
        5,
    )
    made = imgsubset("select", folder, out, "-n", 4, "--json", *FAST, *chosen_with)
    first = strict_json(made.out)
    for subset in (out, out / "manifest.json"):
        record = scored(imgsubset("score", folder, subset, "--json"))
        assert record["score"]["loss"] == first["score"]["loss"]
        assert record["score"]["divergences"] == first["score"]["divergences"]
        for name in ("feature_seed", "size", "channels", "weights", "kernel_size"):
            assert record["options"][name] == first["options"][name]
        assert record["files"] == [{"path": file["path"]} for file in first["files"]]
    # Options that are given count, even if they say what the default is.
    given = ("--feature-seed", 0, "--size", 64, "--weights", "1,1,1,1,1")
    record = scored(imgsubset("score", folder, out, "--json", *given))
    options = record["options"]
    assert (options["feature_seed"], options["size"], options["kernel_size"], options["channels"]) == (
        0,
        64,
        [5],
        [4, 8],
    )
    assert set(options["weights"].values()) == {1}
    assert record["score"]["loss"] != first["score"]["loss"]
    text = imgsubset("score", folder, out).out
    assert text.startswith(f"4 of 8 images of {folder}: {out}\n")
    assert f"{first['score']['loss']:.3f}" in text


@pytest.mark.slow
def test_where_the_cache_is_does_not_come_from_a_manifest(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    run = imgsubset("select", folder, tmp_path / "out", "-n", 4, "--cache", tmp_path / "kept", "--strict", *FAST)
    assert run.code == 0
    imgsubset("cache", "clear", "--cache", tmp_path / "kept")
    (tmp_path / "kept").rmdir()
    create(folder / "broken.png")
    assert scored(imgsubset("score", folder, tmp_path / "out", "--json"))["counts"]["rejected"] == 1
    assert not (tmp_path / "kept").exists()
    assert list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.slow
def test_foreign_files_of_a_subset(imgsubset: Program, folder: Path, out: Path) -> None:
    loss = scored(imgsubset("score", folder, out, "--json"))["score"]["loss"]
    Image.fromarray(noise(500, 20, 20)).save(out / "\x1b[31mforeign.png")
    run = imgsubset("score", folder, out)
    check_failure(run, 3, "\\x1b[31mforeign.png", "--skip-foreign")
    record = scored(imgsubset("score", folder, out, "--skip-foreign", "--json"))
    assert record["score"]["loss"] == loss
    assert (record["counts"]["foreign"], record["n"]) == (1, 4)
    assert [file["path"] for file in record["foreign"]] == ["\x1b[31mforeign.png"]
    text = imgsubset("score", folder, out, "--skip-foreign").out
    assert "\\x1b[31mforeign.png" in text
    assert "\x1b" not in text
    failed = imgsubset("score", folder, out, "--json")
    assert (failed.code, strict_json(failed.out)["exit_code"]) == (3, 3)


@pytest.mark.slow
def test_a_subset_of_none_of_the_source_is_unusable(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    create(tmp_path / "other" / "x.png")
    Image.fromarray(noise(500, 20, 20)).save(tmp_path / "other" / "x.png")
    for more in ([], ["--skip-foreign"]):
        check_failure(imgsubset("score", folder, tmp_path / "other", *more, *FEATURES), 3, "x.png")


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
@pytest.mark.parametrize("command", ["score", "compare"])
def test_stdin_is_read_once(imgsubset: Program, folder: Path, stdin: Callable[[bytes], None], command: str) -> None:
    names = "\n".join(str(path) for path in folder.rglob("*.*")).encode()
    stdin(names)
    check_failure(imgsubset(command, "-", "-", *FEATURES), 2, "'-'")
    for arguments in (("-", folder), (folder, "-")):
        stdin(names)
        record = scored(imgsubset(command, *arguments, "--json", *FEATURES))
        assert loss_of(record) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("few_deals")
def test_a_folder_is_no_distance_from_itself(imgsubset: Program, folder: Path) -> None:
    record = scored(imgsubset("compare", folder, folder, "--json", "--max-loss", 0, *FEATURES))
    assert record["loss"]["value"] == 0
    assert record["loss"]["p_value"] == 1
    for divergence in record["divergences"].values():
        assert (divergence["value"], divergence["differs"]) == (0, False)
    assert record["counts"] == {"first": 8, "second": 8}
    assert "samples of one distribution" in imgsubset("compare", folder, folder, *FEATURES).out


@pytest.mark.slow
def test_folders_that_differ_are_told_apart(
    imgsubset: Program, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal(monkeypatch, 120)
    for number in range(40):
        path = create(tmp_path / "noise" / f"{number}.png")
        Image.fromarray(noise(number, 12, 12)).save(path)
    run = imgsubset("compare", pictures, tmp_path / "noise", "--json", "--max-loss", 1.5, "--device", "cpu")
    assert run.code == 6
    record = strict_json(run.out)
    assert record["counts"] == {"first": 120, "second": 40}
    assert any(divergence["differs"] for divergence in record["divergences"].values())
    assert record["loss"]["p_value"] < 0.01


# Embeddings


@pytest.fixture
def embedded(folder: Path, tmp_path: Path) -> tuple[object, ...]:
    """The options for six features of each picture in the folder, in an order of their own."""
    paths = sorted(tree(folder), reverse=True)
    np.save(tmp_path / "emb.npy", np.random.default_rng(0).normal(size=(8, 6)))
    (tmp_path / "paths.txt").write_text("\n".join(paths))
    return "--embeddings", tmp_path / "emb.npy", "--paths", tmp_path / "paths.txt"


SEARCH = ("--candidates", 16, "--chains", 1, "--steps", 4, "--device", "cpu")


@pytest.mark.parametrize("command", ["select", "score"])
@pytest.mark.parametrize(
    ("kept", "more"),
    [
        (2, []),
        (0, ["--paths", "x"]),
        (0, ["--pca", 3]),
        (4, ["--pca", -1]),
        (4, ["--pca", 7]),
        (4, ["--size", 32]),
        (4, ["--channels", "4,8"]),
        (4, ["--kernel-size", 5]),
    ],
    ids=str,
)
def test_embedding_options_that_make_no_sense(
    imgsubset: Program,
    folder: Path,
    tmp_path: Path,
    embedded: tuple[object, ...],
    command: str,
    kept: int,
    more: list[object],
) -> None:
    (tmp_path / "out").mkdir()
    n = ["-n", 3] if command == "select" else []
    run = imgsubset(command, folder, tmp_path / "out", *n, *embedded[:kept], *more)
    check_failure(run, 2, str(more[0]).strip("-").replace("-", "_") if more else "--paths")
    assert not tree(tmp_path / "out")


@pytest.mark.slow
def test_a_selection_by_embeddings_and_its_score(
    imgsubset: Program, folder: Path, tmp_path: Path, embedded: tuple[object, ...], decodings: list[tuple[str, ...]]
) -> None:
    out = tmp_path / "out"
    arguments = ("select", folder, out, "-n", 4, *embedded, *SEARCH)
    made = imgsubset(*arguments, "--json")
    assert (made.code, made.err) == (0, "")
    first = strict_json(made.out)
    assert imgsubset("verify", out).code == 0
    record = scored(imgsubset("score", folder, out, *embedded, "--json"))
    assert record["score"]["loss"] == first["score"]["loss"]
    reduced = scored(imgsubset("score", folder, out, *embedded, "--pca", 3, "--json"))
    assert reduced["score"]["loss"] != first["score"]["loss"]
    assert "3 principal" in " ".join(reduced["warnings"])
    assert decodings == []
    assert scored(imgsubset("score", folder, out, "--json"))["score"]["loss"] != first["score"]["loss"]
    assert "nothing to do" in imgsubset(*arguments).out
    os.utime(tmp_path / "emb.npy", ns=(0, 0))
    check_failure(imgsubset(*arguments), 5, "is not empty")


@pytest.mark.slow
def test_a_size_in_a_manifest_does_not_forbid_embeddings(
    imgsubset: Program, folder: Path, out: Path, embedded: tuple[object, ...]
) -> None:
    assert scored(imgsubset("score", folder, out, *embedded, "--json"))["n"] == 4


def test_images_without_embeddings_are_left_out(
    imgsubset: Program, folder: Path, tmp_path: Path, embedded: tuple[object, ...]
) -> None:
    paths = (tmp_path / "paths.txt").read_text().splitlines()
    (tmp_path / "paths.txt").write_text("\n".join(paths[:5]))
    np.save(tmp_path / "emb.npy", np.random.default_rng(0).normal(size=(5, 6)))
    record = scored(imgsubset("select", folder, "-n", "100%", "--mode", "none", "--json", *embedded, *SEARCH))
    assert [file["path"] for file in record["files"]] == sorted(paths[:5])
    assert "3 images of the source have no embedding" in " ".join(record["warnings"])


def test_embeddings_of_more_than_the_source_lists_choose_from_the_source(
    imgsubset: Program, folder: Path, tmp_path: Path, embedded: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (tmp_path / "list").write_text("a/1.jpg\n7.png\n6.bmp\n")
    run = imgsubset("select", tmp_path / "list", "-n", "100%", "--mode", "none", "--json", *embedded, *SEARCH)
    assert (run.code, run.err) == (0, "")
    assert [file["path"] for file in strict_json(run.out)["files"]] == ["6.bmp", "7.png", "a/1.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("emb.npy", b""),
        ("emb.npy", b"PK\x03\x04"),
        ("emb.npy", b"\x93NUMPY"),
        ("paths.txt", b""),
        ("paths.txt", b"a/1.jpg\n"),
        ("paths.txt", b"\n".join([b"a/1.jpg"] * 8)),
        ("paths.txt", b"\n".join([b"../x.jpg"] * 8)),
        ("paths.txt", b"\n".join(b"%d" % number for number in range(8))),
    ],
)
@pytest.mark.parametrize("command", ["select", "score"])
def test_embeddings_that_cannot_be_used_are_exit_code_3(
    imgsubset: Program,
    folder: Path,
    tmp_path: Path,
    embedded: tuple[object, ...],
    name: str,
    content: bytes,
    command: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    more = ["-n", 3, "--mode", "none"] if command == "select" else []
    subset = [] if command == "select" else [folder]
    check_failure(imgsubset(command, folder, *subset, *more, *embedded), 3, name)


# Every failure


FAILING: list[tuple[list[str], int]] = [
    (["select", "absent", "out", "-n", "3"], 3),
    (["select", "source", "-n", "3"], 2),
    (["select", "source", "out", "-n", "auto"], 2),
    (["select", "source", "out", "-n", "3", "--target-loss", "0.5"], 2),
    (["select", "source", "out", "-n", "auto", "--target-loss", "0"], 2),
    (["select", "source", "out", "-n", "auto", "--target-loss", "nan"], 2),
    (["select", "source", "out", "-n", "auto", "--target-size", "-3"], 2),
    (["select", "source", "out", "-n", "auto", "--target-size", "3", "--target-loss", "1"], 2),
    (["select", "source", "out", "-n", "auto", "--target-size", "900"], 3),
    (["select", "source", "out", "-n", "3", "--list", "-", "--json"], 2),
    (["select", "source", "out", "-n", "3", "-0"], 2),
    (["select", "source", "out", "-n", "3", "--embeddings", "x"], 2),
    (["select", "source", "out", "-n", "3", "--embeddings", "absent", "--paths", "absent"], 3),
    (["select", "source", "full", "-n", "3"], 5),
    (["select", "source", "source/out", "-n", "3"], 2),
    (["select", "source/6.bmp", "out", "-n", "3"], 3),
    (["select", "source", "out", "-n", "99"], 3),
    (["select", "source", "out", "-n", "3", "--seed", "-1"], 2),
    (["select", "source", "out", "-n", "3", "--max-loss", "1e-9", *map(str, FAST)], 6),
    (["select", "source", "out", "-n", "3", "--strict", *map(str, FAST)], 4),
    (["score", "source", "absent"], 3),
    (["score", "absent", "source"], 3),
    (["score", "source", "full"], 3),
    (["score", "source", "full/notes.json"], 3),
    (["score", "source", "source", "--weights", "kl=-1"], 2),
    (["compare", "source", "source", "--max-loss", "-1"], 2),
    (["score", "-", "-"], 2),
    (["compare", "-", "-"], 2),
    (["compare", "source", "absent"], 3),
    (["compare", "source", "full"], 3),
    (["compare", "source", "source", "--size", "3"], 2),
    (["verify", "source"], 3),
    (["verify", "absent"], 3),
    (["cache", "info", "--cache", "full/notes.json"], 3),
    (["cache", "clear", "--cache", "full/notes.json"], 3),
    (["batch", "absent"], 3),
    (["batch", "full/notes.json"], 2),
    (["demo", "out", "-n", "0"], 2),
    (["demo", "full/notes.json"], 5),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"), FAILING, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_json_of_a_failure_is_one_object_and_its_text_one_line(
    imgsubset: Program, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    create(tmp_path / "full" / "notes.json", b"mine")
    create(folder / "broken.png")
    run = imgsubset(*(one for one in arguments if one != "--json"), "--json")
    assert run.code == code, run
    check_error_line(run)
    record = strict_json(run.out)
    if code != 6:
        assert set(record) == {"error", "exit_code"}
        assert record["exit_code"] == code
        assert run.err == f"imgsubset: error: {record['error']}\n"
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "notes.json").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "arguments",
    [
        ["select", "source", "out"],
        ["select", "source", "out", "-n", "3", "--candidates", "many"],
        ["select", "source", "out", "-n", "3", "--mode", "move"],
        ["select", "source", "out", "-n", "3", "--max-loss", "low"],
        ["select", "source", "out", "-n", "3", "--stepps", "3"],
        ["score", "source"],
        ["compare", "source", "out", "more"],
        ["verify"],
        ["cache", "info", "more"],
        ["batch"],
    ],
    ids=" ".join,
)
def test_json_of_a_line_that_cannot_be_parsed_is_one_object(imgsubset: Program, arguments: list[str]) -> None:
    run = imgsubset(*arguments, "--json")
    assert run.code == 2
    assert strict_json(run.out)["exit_code"] == 2
    check_error_line(run)


# Places that are odd in ways that tell one another's answers apart; and more, which are odd in the same ways.
ODDEST = ["full/notes.json", "loop", "fifo", "", "-", "a" * 300, "\udcff", "new\nline"]
MORE = ["absent", "source", "source/0.bmp", "full", "dangling", ".", "a/" * 3000, "\x1b[31m", "--", "~"]
FILES = ["full/notes.json", "loop", "fifo"]
# The arguments, the places, the exit code, and those of some places.
AT: list[tuple[list[str], list[str], int, dict[int, list[str]]]] = [
    (["select", "-n", "99", "--", "{}", "out"], ODDEST + MORE, 3, {2: ["", "."]}),
    (
        ["select", "-n", "99", "--", "source", "{}"],
        [*ODDEST, *MORE, "/"],
        3,
        {2: ["source", "source/0.bmp", "", ".", "/"], 5: [*FILES, "full", "dangling", "a" * 300, "a/" * 3000]},
    ),
    (["select", "-n", "3", "--mode", "none", "--embeddings", "{}", "--paths", "{}", "source"], ODDEST, 3, {2: [""]}),
    (["score", "--", "{}", "absent"], ODDEST, 3, {2: [""]}),
    (["score", "--", "absent", "{}"], ODDEST, 3, {2: [""]}),
    (["compare", "--", "{}", "absent"], ODDEST, 3, {2: [""]}),
    (["verify", "--", "{}"], [*ODDEST, *MORE, "/"], 3, {2: [""]}),
    (["batch", "--", "{}"], [*ODDEST, "/"], 3, {2: ["full/notes.json", ""]}),
    (["cache", "info", "--cache={}"], ODDEST, 0, {2: [""], 3: [*FILES, "a" * 300]}),
    (
        ["cache", "clear", "--cache={}"],
        ODDEST + MORE,
        0,
        {2: [""], 3: [*FILES, "source/0.bmp", "a" * 300, "a/" * 3000]},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "place", "code"),
    [
        (command, place, next((code for code, some in others.items() if place in some), usual))
        for command, places, usual, others in AT
        for place in places
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else ascii(value)[:22],
)
def test_no_odd_place_is_a_traceback(
    imgsubset: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stdin: Callable[[bytes], None],
    command: list[str],
    place: str,
    code: int,
) -> None:
    root = tmp_path / "root"
    for number in range(2):
        create(root / "source" / f"{number}.bmp")
        Image.fromarray(noise(number, 9, 9)).save(root / "source" / f"{number}.bmp")
    monkeypatch.chdir(root)
    create(root / "full" / "notes.json", b"mine")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    before = tree(root)
    stdin(b"")
    run = imgsubset(*(one.format(place) for one in command))
    assert run.code == code, run
    if code:
        check_error_line(run)
    assert all(char.isprintable() or char == "\n" for char in run.out + run.err)
    assert tree(root) == before


ODD = st.one_of(
    st.sampled_from(
        ["nan", "inf", "-inf", "-0", "1e999", "0x10", "1_0", "", " ", "auto", "-", "--", "%", "s", "=", ","]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)
OPTIONS = ["-n", "--weights", "--target-loss", "--target-size", "--time-limit", "--max-loss", "--mode", "--pca"]
OPTIONS += ["--cache", "--embeddings", "--paths", "--workers", "--channels", "--kernel-size", "--list", "--device"]


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options=st.dictionaries(st.sampled_from(OPTIONS), ODD, max_size=3), as_json=st.booleans())
def test_no_odd_value_is_a_traceback(
    imgsubset: Program, tmp_path: Path, options: dict[str, str], as_json: bool
) -> None:
    given = itertools.chain.from_iterable(({"-n": "3"} | options).items())
    run = imgsubset("select", *["--json"] * as_json, *given, "--", tmp_path / "absent", tmp_path / "out")
    assert run.code in (2, 3)
    assert all(char.isprintable() or char == "\n" for char in run.out)
    if not run.err.startswith("Usage: "):
        check_error_line(run)
        assert all(char.isprintable() or char == "\n" for char in run.err)
        assert (run.out != "") == as_json
        if as_json:
            assert strict_json(run.out)["exit_code"] == run.code
    assert not tree(tmp_path)
