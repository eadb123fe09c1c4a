from __future__ import annotations

import errno
import importlib
import io
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Run, create, noise, strict_json, tree, without_times
from PIL import Image

import imgsubset as package
from imgsubset.files import PARTIAL_PREFIX
from imgsubset.sources.listing import Listing

Program = Callable[..., Run]
FEATURES = ("--size", 16, "--channels", "8,8", "--device", "cpu")
FAST = ("--candidates", 16, "--chains", 1, "--steps", 4, *FEATURES, "--workers", 0)
MODES = ("copy", "symlink", "hardlink")
LINKS = ("symlink", "hardlink")
export = importlib.import_module("imgsubset.writing.export")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Set what the next run reads from its standard input."""
    return lambda content: monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def check_failure(run: Run, code: int, culprit: str) -> None:
    assert (run.code, run.out) == (code, ""), run
    assert run.err.startswith("imgsubset: error: ")
    assert run.err.count("\n") == 1
    assert culprit in run.err


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """What every file, link and folder is, its inode and its modification time included."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path)] = status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode, content
    return found


def manifest_of(out: Path) -> dict[str, Any]:
    record = strict_json((out / "manifest.json").read_text())
    assert isinstance(record, dict)
    return record


def chosen(out: Path) -> list[str]:
    return [file["path"] for file in manifest_of(out)["files"]]


def check_placed(source: Path, out: Path, mode: str, extra: tuple[str, ...] = ()) -> None:
    """Every image that the manifest lists is there as the mode says, with its source's content, and nothing else."""
    for path in chosen(out):
        image, origin = out / path, source / path
        assert image.read_bytes() == origin.read_bytes()
        assert image.is_symlink() == (mode == "symlink")
        if mode == "symlink":
            assert os.readlink(image) == os.path.abspath(origin)
        if mode == "hardlink":
            assert image.samefile(origin)
        if mode == "copy":
            assert not image.samefile(origin)
            assert image.stat().st_mtime_ns == origin.stat().st_mtime_ns
    assert set(tree(out)) == {*chosen(out), "manifest.json", *extra}
    assert manifest_of(out)["request"]["mode"] == mode


# Modes


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_each_mode_brings_the_images_and_verify_is_content(
    imgsubset: Program, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tree(folder)
    run = imgsubset("select", "source", "out", "-n", 5, "--mode", mode, *FAST)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith(f"5 of 8 images of source, {'copied to' if mode == 'copy' else 'linked from'} out\n")
    monkeypatch.chdir("/")
    check_placed(folder, tmp_path / "out", mode)
    assert tree(folder) == before
    assert len(chosen(tmp_path / "out")) == 5
    assert imgsubset("verify", tmp_path / "out").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--ranked"], ["--mode", "symlink"], ["--mode", "hardlink", "--ranked"]], ids=str)
def test_json_of_a_selection_is_its_manifest(imgsubset: Program, folder: Path, tmp_path: Path, more: list[str]) -> None:
    run = imgsubset("select", folder, tmp_path / "out", "-n", 3, "--json", *more, *FAST)
    record = strict_json(run.out)
    assert record.pop("destination") == str(tmp_path / "out")
    assert without_times(record) == manifest_of(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_ranked_adds_one_file_that_verify_knows(imgsubset: Program, folder: Path, tmp_path: Path, mode: str) -> None:
    out = tmp_path / "out"
    assert imgsubset("select", folder, out, "-n", 5, "--mode", mode, "--ranked", *FAST).code == 0
    check_placed(folder, out, mode, ("ranked.txt",))
    ranks = {file["path"]: file["rank"] for file in manifest_of(out)["files"]}
    assert (out / "ranked.txt").read_text().splitlines() == sorted(ranks, key=lambda path: ranks[path])
    assert imgsubset("verify", out).code == 0
    (out / "ranked.txt").write_text("a/1.jpg\n")
    assert imgsubset("verify", out).code == 7


@pytest.mark.slow
@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("first", MODES)
def test_overwriting_one_mode_by_another_never_writes_to_the_source(
    imgsubset: Program, folder: Path, tmp_path: Path, first: str, second: str
) -> None:
    before, inodes = tree(folder), {path: path.stat().st_ino for path in folder.rglob("*")}
    out = tmp_path / "out"
    for mode in (first, second):
        run = imgsubset("select", folder, out, "-n", 5, "--mode", mode, "--overwrite", *FAST)
        assert (run.code, run.err) == (0, "")
        check_placed(folder, out, mode)
        assert imgsubset("verify", out).code == 0
    assert tree(folder) == before
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == inodes
    links = {path: (folder / path).stat().st_nlink for path in chosen(out)}
    assert set(links.values()) == {2 if second == "hardlink" else 1}


@pytest.mark.parametrize("mode", MODES)
def test_a_foreign_hard_link_to_a_source_in_the_destination_stays(
    imgsubset: Program, folder: Path, tmp_path: Path, mode: str
) -> None:
    before = tree(folder)
    for path in before:
        (tmp_path / "out" / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / path, tmp_path / "out" / path)
    run = imgsubset("select", folder, tmp_path / "out", "-n", "100%", "--mode", mode, "--overwrite", *FAST)
    check_failure(run, 5, "which no earlier selection can be shown to have put there")
    assert tree(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_source_file_that_is_a_link(
    imgsubset: Program, folder: Path, tmp_path: Path, mode: str, absolute: bool
) -> None:
    real = tmp_path / "elsewhere" / "real.png"
    real.parent.mkdir()
    Image.fromarray(noise(99, 20, 18)).save(real)
    (folder / "a" / "linked.png").symlink_to(real if absolute else "../../elsewhere/real.png")
    out = tmp_path / "out"
    run = imgsubset("select", folder, out, "-n", "100%", "--mode", mode, *FAST)
    assert (run.code, run.err) == (0, "")
    image = out / "a" / "linked.png"
    assert image.read_bytes() == real.read_bytes()
    assert image.is_symlink() == (mode == "symlink")
    assert image.samefile(real) == (mode != "copy")
    assert imgsubset("verify", out).code == 0
    assert imgsubset("select", folder, out, "-n", "100%", "--mode", mode, *FAST).out.count("nothing to do") == 1


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_a_hard_link_that_cannot_be_made_says_what_to_do_instead(
    imgsubset: Program, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    arguments = ("select", folder, tmp_path / "out", "-n", 3, "--mode", "hardlink", *FAST)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        run = imgsubset(*arguments)
    check_failure(run, 5, "cannot make a hard link to")
    assert "copy or symlink instead" in run.err
    assert not (tmp_path / "out").exists()
    assert imgsubset(*arguments).code == 0
    check_placed(folder, tmp_path / "out", "hardlink")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("mode", LINKS)
def test_a_run_that_ended_amid_its_links_is_completed_by_the_next(
    imgsubset: Program,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    k: int,
    fault: BaseException,
) -> None:
    real, calls = export.copy_or_link, []

    def failing(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == k:
            raise fault
        return real(*arguments, **named)

    monkeypatch.setattr(export, "N_IO_THREADS", 1)
    arguments = ("select", folder, tmp_path / "out", "-n", 5, "--mode", mode, *FAST)
    before = tree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(export, "copy_or_link", failing)
        assert imgsubset(*arguments).code == (5 if isinstance(fault, OSError) else 130)
    assert not (tmp_path / "out").exists()
    run = imgsubset(*arguments)
    assert (run.code, run.err) == (0, "")
    assert "nothing to do" not in run.out
    check_placed(folder, tmp_path / "out", mode)
    assert tree(folder) == before


@pytest.mark.parametrize("mode", LINKS)
def test_a_source_that_changes_before_it_is_linked_is_detected(
    imgsubset: Program, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    real = export.copy_or_link

    def late(source: Listing, path: str, *arguments: Any, **named: Any) -> Any:
        os.utime(source.locate(path), ns=(0, 10**18))
        return real(source, path, *arguments, **named)

    monkeypatch.setattr(export, "copy_or_link", late)
    run = imgsubset("select", folder, tmp_path / "out", "-n", 3, "--mode", mode, *FAST)
    check_failure(run, 5, "changed while imgsubset was at work")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_mode_none_writes_nothing_and_needs_no_destination(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    bare = imgsubset("select", folder, "-n", 3, "--mode", "none", "--no-cache", *FAST)
    named = imgsubset("select", folder, tmp_path / "out", "-n", 3, "--mode", "none", "--no-cache", *FAST)
    for run in (bare, named):
        assert (run.code, run.err) == (0, "")
        assert run.out.startswith(f"3 of 8 images of {folder}, nothing copied\n")
    assert tree(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", MODES)
def test_other_modes_need_a_destination(imgsubset: Program, folder: Path, mode: str) -> None:
    check_failure(imgsubset("select", folder, "-n", 3, "--mode", mode, *FAST), 2, "destination")


# Lists


@pytest.mark.slow
def test_a_list_names_paths_that_open_from_the_current_folder(
    imgsubset: Program, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert imgsubset("select", "source", "out", "-n", 5, "--list", "list.txt", *FAST).code == 0
    text = (tmp_path / "list.txt").read_text()
    assert text.endswith("\n")
    assert text.splitlines() == [f"source/{path}" for path in chosen(tmp_path / "out")]
    for line in text.splitlines():
        assert Path(line).samefile(folder / os.path.relpath(line, "source"))
    monkeypatch.chdir(folder)
    assert imgsubset("select", ".", "../other", "-n", 5, "--list", "../list.txt", *FAST).code == 0
    assert (tmp_path / "list.txt").read_text().splitlines() == chosen(tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("null", [False, True])
def test_a_list_to_stdout_sends_the_summary_to_stderr(
    imgsubset: Program, folder: Path, tmp_path: Path, null: bool
) -> None:
    run = imgsubset("select", folder, tmp_path / "out", "-n", 3, "--list", "-", *["-0"] * null, *FAST)
    assert run.code == 0
    end = "\0" if null else "\n"
    assert run.out == "".join(f"{folder}/{path}{end}" for path in chosen(tmp_path / "out"))
    assert run.err.startswith(f"3 of 8 images of {folder}, copied to")
    quiet = imgsubset("select", folder, tmp_path / "two", "-n", 3, "--list", "-", *["-0"] * null, "-q", *FAST)
    assert (quiet.code, quiet.out, quiet.err) == (0, run.out, "")


def test_a_list_and_json_cannot_share_stdout(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    run = imgsubset("select", folder, tmp_path / "out", "-n", 3, "--list", "-", "--json", *FAST)
    assert run.code == 2
    assert strict_json(run.out)["exit_code"] == 2
    assert run.err.startswith("imgsubset: error: ")
    assert run.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    run = imgsubset("select", folder, tmp_path / "out", "-n", 3, "--list", tmp_path / "list", "--json", *FAST)
    named = [f"{folder}/{file['path']}" for file in strict_json(run.out)["files"]]
    assert (tmp_path / "list").read_text().splitlines() == named


def test_null_without_a_list_is_a_usage_error(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    check_failure(imgsubset("select", folder, tmp_path / "out", "-n", 3, "-0", *FAST), 2, "--list")


@pytest.mark.slow
def test_a_ranked_list_is_in_the_order_of_the_ranks(imgsubset: Program, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the second time, all is done already
        assert imgsubset("select", pictures, out, "-n", 10, "--ranked", "--list", tmp_path / "list", *FAST).code == 0
        ranks = {f"{pictures}/{file['path']}": file["rank"] for file in manifest_of(out)["files"]}
        assert sorted(ranks.values()) == list(range(1, 11))
        lines = (tmp_path / "list").read_text().splitlines()
        assert lines == sorted(ranks, key=lambda path: ranks[path]) != sorted(ranks)
        assert [f"{pictures}/{line}" for line in (out / "ranked.txt").read_text().splitlines()] == lines
        (tmp_path / "list").unlink()
    plain = imgsubset("select", pictures, "--mode", "none", "-n", 10, "--list", "-", "-q", *FAST)
    assert plain.out.splitlines() == sorted(lines)


def test_a_dry_run_writes_the_list_alone(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    run = imgsubset("select", folder, tmp_path / "out", "-n", 3, "--dry-run", "--list", tmp_path / "list", *FAST)
    assert run.code == 0
    assert len((tmp_path / "list").read_text().splitlines()) == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_a_list_names_can_be_scored_and_selected(
    imgsubset: Program, folder: Path, tmp_path: Path, stdin: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.rename(folder / "7.png", folder / "new\nline.png")
    first = imgsubset("select", "source", "out", "-n", 7, "--json", "--list", "list", "-0", *FAST)
    loss = strict_json(first.out)["score"]["loss"]
    content = imgsubset("select", "source", "--mode", "none", "-n", 7, "--list", "-", "-0", "-q", *FAST).out.encode()
    assert content == (tmp_path / "list").read_bytes()
    assert content.count(b"\0") == 7
    for subset in ("-", "list", "out", "out/manifest.json"):
        stdin(content)
        scored = imgsubset("score", "source", subset, "--json", *FEATURES)
        assert (scored.code, scored.err) == (0, "")
        assert strict_json(scored.out)["score"]["loss"] == loss
    stdin(content)
    again = imgsubset("select", "-", "again", "-n", "100%", *FAST)
    assert (again.code, again.err) == (0, "")
    digests = {path: value[0] for path, value in tree(folder).items()}
    found = {path: value[0] for path, value in tree(tmp_path / "again").items() if path != "manifest.json"}
    assert found == {f"source/{path}": digests[path] for path in chosen(tmp_path / "out")}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file", "folder", "root"])
def test_a_name_with_a_newline_needs_nul_bytes(imgsubset: Program, folder: Path, tmp_path: Path, place: str) -> None:
    if place == "root":
        folder = folder.rename(tmp_path / "new\nroot")
    else:
        create(folder / "b" / "new\nfolder" / "x.png" if place == "folder" else folder / "new\nline.png")
    arguments = ("select", folder, tmp_path / "out", "-n", 3, "--list", tmp_path / "list", *FAST)
    check_failure(imgsubset(*arguments), 2, "newline")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "list").exists()
    assert imgsubset(*arguments, "-0").code == 0
    named = (tmp_path / "list").read_bytes().split(b"\0")
    assert named.pop() == b""
    assert len(named) == 3
    assert all(Path(os.fsdecode(path)).is_file() for path in named)


@pytest.mark.parametrize("name", ["absent/list", "folder", "file/list", ""])
def test_a_list_that_cannot_be_written_is_one_line(
    imgsubset: Program, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    create(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    run = imgsubset("select", folder, "-n", 3, "--mode", "none", "--list", name, *FAST)
    check_failure(run, 2, name)
    assert not [path for path in tree(tmp_path) if PARTIAL_PREFIX in path]


def test_a_list_goes_into_a_fifo_and_does_not_replace_it(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        run = imgsubset("select", folder, "-n", 3, "--mode", "none", "--list", tmp_path / "fifo", *FAST)
        content = os.read(reader, 1 << 16)
    finally:
        os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "fifo").lstat().st_mode)
    assert (run.code, content.count(b"\n")) == (0, 3)


def test_a_list_does_not_replace_an_image_of_the_source(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    before = tree(folder)
    run = imgsubset("select", folder, "-n", 3, "--mode", "none", "--list", folder / "a" / "1.jpg", *FAST)
    assert tree(folder) == before
    check_failure(run, 2, "1.jpg")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_a_source_from_stdin(
    imgsubset: Program,
    folder: Path,
    tmp_path: Path,
    stdin: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
    end: bytes,
) -> None:
    monkeypatch.chdir(folder)
    names = [b"b/5.TIFF", b"a/1.jpg", b"./a/1.jpg", b"absent.png", b"6.bmp"]
    stdin(end.join(names) + end + end)
    run = imgsubset("select", "-", tmp_path / "out", "-n", "100%", "--json", *FAST)
    assert (run.code, run.err) == (0, "")
    record = strict_json(run.out)
    assert [file["path"] for file in record["files"]] == ["6.bmp", "a/1.jpg", "b/5.TIFF"]
    assert [file["path"] for file in record["rejected"]] == ["absent.png"]
    assert set(tree(tmp_path / "out")) == {"6.bmp", "a/1.jpg", "b/5.TIFF", "manifest.json"}


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\0", b"absent.png\n", b"\xff\xfe\n", b"a" * 5000])
def test_an_empty_or_senseless_stdin_is_unusable(
    imgsubset: Program, folder: Path, tmp_path: Path, stdin: Callable[[bytes], None], content: bytes
) -> None:
    stdin(content)
    check_failure(imgsubset("select", "-", tmp_path / "out", "-n", 1, *FAST), 3, "no images in source '-'")


def test_a_closed_stdin_is_unusable(imgsubset: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    run = imgsubset("select", "-", tmp_path / "out", "-n", 1, *FAST)
    check_failure(run, 3, "-")


@pytest.mark.slow
def test_a_destination_within_the_root_of_a_list_is_fine(
    imgsubset: Program, folder: Path, tmp_path: Path, stdin: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    content = b"a/1.jpg\nb/1.jpg\n7.png\n"
    for expected in ("copied to", "nothing to do"):
        stdin(content)
        run = imgsubset("select", "-", "a/out", "-n", 2, *FAST)
        assert (run.code, run.err) == (0, "")
        assert expected in run.out
    stdin(b"\n".join(reversed(content.split())))
    assert "nothing to do" in imgsubset("select", "-", "a/out", "-n", 2, *FAST).out
    check_placed(folder, folder / "a" / "out", "copy")


@pytest.mark.parametrize("destination", ["a", ".", "a/deep/er"])
def test_a_destination_that_contains_listed_images_is_refused(
    imgsubset: Program,
    folder: Path,
    stdin: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
    destination: str,
) -> None:
    monkeypatch.chdir(folder)
    before = tree(folder)
    stdin(b"a/1.jpg\nb/1.jpg\na/deep/er/3.webp")
    run = imgsubset("select", "-", destination, "-n", 2, "--overwrite", *FAST)
    check_failure(run, 2, f"destination '{destination}'")
    assert tree(folder) == before


def test_a_destination_that_contains_listed_links_is_refused(
    imgsubset: Program, folder: Path, tmp_path: Path, stdin: Callable[[bytes], None]
) -> None:
    out = tmp_path / "out"
    assert imgsubset("select", folder, out, "-n", 3, "--mode", "symlink", *FAST).code == 0
    before = tree(out)
    stdin("\n".join([f"{folder}/6.bmp", *(f"{out}/{path}" for path in chosen(out))]).encode())
    check_failure(imgsubset("select", "-", out, "-n", 2, "--overwrite", *FAST), 2, f"destination '{out}'")
    assert tree(out) == before


# The same again


@pytest.fixture(params=MODES)
def done(imgsubset: Program, folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[object, ...]:
    """The arguments of a finished selection into out."""
    arguments = ("select", folder, tmp_path / "out", "-n", 3, "--mode", request.param, *FAST)
    assert imgsubset(*arguments).code == 0
    return arguments


COPIED = pytest.mark.parametrize("done", ["copy"], indirect=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [[], ["--workers", 2], ["--no-cache"], ["--cache", "elsewhere"], ["--seed", 0], ["-v"]],
    ids=str,
)
def test_the_same_run_does_nothing(
    imgsubset: Program,
    done: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: list[object],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.import_module("imgsubset.tasks.select"), "select", None)
    before = snapshot(tmp_path / "out")
    run = imgsubset(*done, *more)
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith(f"{tmp_path / 'out'} already holds these 3 images, with loss ")
    assert run.out.endswith("; nothing to do\n")
    assert imgsubset(*done, *more, "-q") == Run(0, "", "")
    record = strict_json(imgsubset(*done, *more, "--json").out)
    assert record.pop("destination") == str(tmp_path / "out")
    assert without_times(record) == manifest_of(tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


@pytest.mark.slow
@COPIED
def test_what_another_version_made_stands_and_is_named(
    imgsubset: Program, done: tuple[object, ...], tmp_path: Path
) -> None:
    edit(program={"name": "imgsubset", "version": "0.0.1"})(tmp_path / "out")
    before = snapshot(tmp_path / "out")
    run = imgsubset(*done)
    assert (run.code, run.err) == (0, "")
    assert run.out.endswith("; nothing to do (written by imgsubset 0.0.1; --overwrite makes it anew)\n")
    assert snapshot(tmp_path / "out") == before
    assert imgsubset(*done, "--overwrite").code == 0
    assert manifest_of(tmp_path / "out")["program"]["version"] == package.__version__


@pytest.mark.slow
@COPIED
def test_the_same_run_from_elsewhere_does_nothing(
    imgsubset: Program, done: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "source" / "a")
    assert "nothing to do" in imgsubset("select", "..", "../../out", *done[3:]).out
    create(tmp_path / "source" / "notes.txt")
    assert "nothing to do" in imgsubset(*done).out


@pytest.mark.slow
@pytest.mark.parametrize("ranked", [False, True])
def test_the_same_run_writes_the_same_list(imgsubset: Program, pictures: Path, tmp_path: Path, ranked: bool) -> None:
    arguments = ("select", pictures, tmp_path / "out", "-n", 10, *["--ranked"] * ranked, *FAST)
    first = imgsubset(*arguments, "--list", "-")
    again = imgsubset(*arguments, "--list", "-")
    assert first.out == again.out != ""
    assert "nothing to do" in again.err


def check_not_recognised(imgsubset: Program, arguments: tuple[object, ...], out: Path) -> None:
    before = snapshot(out)
    check_failure(imgsubset(*arguments), 5, f"destination '{out}' is not empty")
    assert snapshot(out) == before


@pytest.mark.slow
@COPIED
@pytest.mark.parametrize(
    "more",
    [
        ["--seed", 1],
        ["-n", 4],
        ["--weights", "kl=1"],
        ["--mode", "symlink"],
        ["--ranked"],
        ["--steps", 41],
        ["--size", 17],
        ["--time-limit", "1h"],
    ],
    ids=str,
)
def test_another_request_is_not_taken_for_the_same(
    imgsubset: Program, done: tuple[object, ...], tmp_path: Path, more: list[object]
) -> None:
    check_not_recognised(imgsubset, (*done, *more), tmp_path / "out")


def of_source(alter: Callable[[Path, str], None], chosen_one: bool) -> Callable[[Path], None]:
    """Alter a file of the source, a chosen one or not."""

    def change(root: Path) -> None:
        paths = chosen(root / "out")
        path = next(path for path in tree(root / "source") if (path in paths) == chosen_one)
        alter(root / "source", path)

    return change


def touch(source: Path, path: str) -> None:
    os.utime(source / path)


def remove(source: Path, path: str) -> None:
    (source / path).unlink()


def add(source: Path, path: str) -> None:
    (source / "new.png").write_bytes((source / path).read_bytes())


def grow(source: Path, path: str) -> None:
    status = (source / path).stat()
    (source / path).write_bytes((source / path).read_bytes() + b"x")
    os.utime(source / path, ns=(status.st_atime_ns, status.st_mtime_ns))


def rename(source: Path, path: str) -> None:
    (source / path).rename(source / path.replace(".", "_."))


@pytest.mark.slow
@COPIED
@pytest.mark.parametrize("chosen_one", [False, True])
@pytest.mark.parametrize("alter", [touch, remove, add, grow, rename])
def test_a_changed_source_is_not_taken_for_the_same(
    imgsubset: Program,
    done: tuple[object, ...],
    tmp_path: Path,
    alter: Callable[[Path, str], None],
    chosen_one: bool,
) -> None:
    of_source(alter, chosen_one)(tmp_path)
    check_not_recognised(imgsubset, done, tmp_path / "out")


def test_a_source_that_changed_during_the_run_is_not_taken_for_the_same(
    imgsubset: Program, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("select", folder, tmp_path / "out", "-n", 3, *FAST)
    place = export._copy_or_link_all

    def late(source: Path, out: Path, stamps: dict[str, object], *rest: Any) -> Any:
        other = next(path for path in tree(folder) if path not in stamps)
        Image.fromarray(noise(1234, 20, 20)).save(folder / other)
        return place(source, out, stamps, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(export, "_copy_or_link_all", late)
        assert imgsubset(*arguments).code == 0
    check_not_recognised(imgsubset, arguments, tmp_path / "out")


def delete_copy(out: Path) -> None:
    (out / chosen(out)[0]).unlink()


def truncate_copy(out: Path) -> None:
    os.truncate(out / chosen(out)[1], 10)


def edit(**values: object) -> Callable[[Path], None]:
    """Replace values of the manifest, or drop those that are `...`."""

    def change(out: Path) -> None:
        record = manifest_of(out) | values
        kept = {name: value for name, value in record.items() if value is not ...}
        (out / "manifest.json").write_text(json.dumps(kept))

    change.__name__ = f"edit {values}"
    return change


def edit_file(**values: object) -> Callable[[Path], None]:
    """The same for the first file in the manifest."""

    def change(out: Path) -> None:
        files = manifest_of(out)["files"]
        files[0] = {name: value for name, value in (files[0] | values).items() if value is not ...}
        edit(files=files)(out)

    change.__name__ = f"edit file {values}"
    return change


def content(text: bytes) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        (out / "manifest.json").write_bytes(text)

    change.__name__ = f"content {text!r}"
    return change


@pytest.mark.slow
@COPIED
@pytest.mark.parametrize(
    "alter",
    [
        delete_copy,
        truncate_copy,
        lambda out: (out / "manifest.json").unlink(),
        edit(program={"name": "imgsubset", "version": None}),
        edit(score={"loss": 0.5}),
        edit(request=...),
        edit(source_digest=...),
        edit(format=999),
        edit(score=...),
        edit(score={"loss": None}),
        edit(score={"loss": "low"}),
        edit(files=3),
        edit_file(path="\0"),
        edit_file(path="\ud800"),
        edit_file(path=...),
        edit_file(rank=...),
        edit_file(rank=None),
        *map(content, (b"", b"{", b"null", b"[]", b"{}", b"\xff")),
    ],
    ids=lambda alter: getattr(alter, "__name__", "?"),
)
def test_what_is_not_whole_is_not_taken_for_the_same(
    imgsubset: Program, done: tuple[object, ...], tmp_path: Path, alter: Callable[[Path], None]
) -> None:
    alter(tmp_path / "out")
    check_not_recognised(imgsubset, done, tmp_path / "out")


@pytest.mark.slow
def test_the_best_so_far_of_an_interrupted_search_gives_way(
    imgsubset: Program, done: tuple[object, ...], tmp_path: Path
) -> None:
    edit(interrupted=True)(tmp_path / "out")
    run = imgsubset(*done)
    assert (run.code, run.err) == (0, "")
    assert "nothing to do" not in run.out
    assert strict_json((tmp_path / "out" / "manifest.json").read_text())["interrupted"] is False
    edit(interrupted=True, request={})(tmp_path / "out")  # of another request
    check_failure(imgsubset(*done), 5, "is not empty")


@pytest.mark.slow
def test_a_lost_ranking_is_not_taken_for_the_same(imgsubset: Program, folder: Path, tmp_path: Path) -> None:
    arguments = ("select", folder, tmp_path / "out", "-n", 3, "--ranked", *FAST)
    assert imgsubset(*arguments).code == 0
    assert "nothing to do" in imgsubset(*arguments).out
    (tmp_path / "out" / "ranked.txt").unlink()
    check_not_recognised(imgsubset, arguments, tmp_path / "out")


@pytest.mark.slow
@COPIED
def test_overwrite_does_the_same_again(imgsubset: Program, done: tuple[object, ...], tmp_path: Path) -> None:
    before = snapshot(tmp_path / "out")
    assert "nothing to do" not in imgsubset(*done, "--overwrite").out
    after = snapshot(tmp_path / "out")
    assert set(before) == set(after)
    assert before != after


@pytest.mark.slow
@pytest.mark.parametrize("mode", LINKS)
def test_links_whose_source_is_gone_are_not_taken_for_the_same(
    imgsubset: Program, folder: Path, tmp_path: Path, mode: str
) -> None:
    arguments = ("select", folder, tmp_path / "out", "-n", 3, "--mode", mode, *FAST)
    assert imgsubset(*arguments).code == 0
    (folder / chosen(tmp_path / "out")[0]).unlink()
    before = tree(tmp_path / "out")
    check_failure(imgsubset(*arguments), 5, "is not empty")
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_a_finished_destination_is_the_same_bytes_in_every_run(
    imgsubset: Program, folder: Path, tmp_path: Path, name: str
) -> None:
    found = []
    for run, workers in (("cold", 1), ("warm", 2)):
        out = tmp_path / run / name
        out.parent.mkdir()
        assert imgsubset("select", folder, out, "-n", 4, "--ranked", "--workers", workers).code == 0
        files = [out] if out.is_file() else [path for path in sorted(out.rglob("*")) if path.is_file()]
        found.append({path.relative_to(out): path.read_bytes() for path in files})
    assert found[0] == found[1]
