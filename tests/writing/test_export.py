from __future__ import annotations

import errno
import hashlib
import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest
from conftest import create, normal_user, selection_of, strict_json, tree

from imgsubset import Selection, export
from imgsubset.errors import OutputError, UsageError
from imgsubset.files import PARTIAL_PREFIX
from imgsubset.sources.listing import list_images
from imgsubset.tasks.verify import verify
from imgsubset.writing.destination import check_destination_free, open_destination
from imgsubset.writing.staging import JOURNAL_NAME

module = importlib.import_module("imgsubset.writing.export")  # the package's attribute of this name is the function
CHOSEN = ("6.bmp", "a/1.jpg", "a/deep/er/3.webp", "b/1.jpg", "b/4.gif", "b/5.TIFF")


@pytest.fixture
def chosen(folder: Path) -> Selection:
    return selection_of(folder, CHOSEN)


def check_complete(
    folder: Path, destination: Path, chosen: tuple[str, ...] = CHOSEN, foreign: Collection[str] = ()
) -> None:
    """The destination holds the chosen files, byte by byte, a manifest that is true, and nothing else."""
    assert set(tree(destination)) == {*chosen, "manifest.json", *foreign}
    for path in chosen:
        assert (destination / path).read_bytes() == (folder / path).read_bytes()
    files = strict_json((destination / "manifest.json").read_bytes())["files"]
    assert [file["path"] for file in files] == sorted(chosen, key=os.fsencode)
    for file in files:
        assert file["sha256"] == hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest()


def check_no_half_file(folder: Path, destination: Path) -> None:
    """Whatever stands under a final name is whole; a manifest never stands without its files."""
    found = tree(destination)
    for path, (digest, _, _) in found.items():
        if not path.startswith(PARTIAL_PREFIX) and path != "manifest.json":
            assert digest == hashlib.sha256((folder / path).read_bytes()).hexdigest(), path
    if "manifest.json" in found:
        for file in strict_json((destination / "manifest.json").read_bytes())["files"]:
            assert found[file["path"]][0] == file["sha256"]


# What arrives


def test_copies_are_identical_and_keep_their_relative_paths(folder: Path, chosen: Selection, tmp_path: Path) -> None:
    result = export(chosen, tmp_path / "new" / "subset")
    check_complete(folder, tmp_path / "new" / "subset")
    assert result.destination == tmp_path / "new" / "subset"
    assert result.hashes == {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in CHOSEN}


def test_modification_times_and_modes_are_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "a/1.jpg").chmod(0o440)
    (folder / "b/1.jpg").chmod(0o604)
    chosen = selection_of(folder, CHOSEN)
    export(chosen, tmp_path / "out")
    before, after = tree(folder), tree(tmp_path / "out")
    assert {path: after[path] for path in CHOSEN} == {path: before[path] for path in CHOSEN}


def test_the_source_is_left_as_it_was(folder: Path, chosen: Selection, tmp_path: Path) -> None:
    before = tree(folder)
    export(chosen, tmp_path / "out")
    export(chosen, tmp_path / "out", overwrite=True)
    assert tree(folder) == before


@pytest.mark.parametrize(
    "name",
    [
        "new\nline.png",
        "\udcff\udcfe.png",
        "-n.png",
        "\x1b[31m.png",
        " a b .png",
        "\u0065\u0301.png",
        "manifest.json.png",
    ],
)
def test_names_of_any_bytes_arrive_and_are_recoverable_from_the_manifest(tmp_path: Path, name: str) -> None:
    create(tmp_path / "source" / name, b"content")
    export(selection_of(tmp_path / "source", [name]), tmp_path / "out")
    record = strict_json((tmp_path / "out" / "manifest.json").read_bytes())
    assert os.fsencode(record["files"][0]["path"]) == os.fsencode(name)
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == sorted([os.fsencode(name), b"manifest.json"])


def test_linked_files_arrive_as_files(folder: Path, tmp_path: Path) -> None:
    (folder / "link.jpg").symlink_to("a/1.jpg")
    export(selection_of(folder, ["link.jpg"]), tmp_path / "out")
    assert not (tmp_path / "out" / "link.jpg").is_symlink()
    assert (tmp_path / "out" / "link.jpg").read_bytes() == (folder / "a/1.jpg").read_bytes()


def test_the_manifest_gets_its_name_last(chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, named = os.link, []

    def watched(source: str, target: str, **options: Any) -> None:
        named.append({path for path in tree(tmp_path / "out") if not path.startswith(PARTIAL_PREFIX)})
        link(source, target, **options)

    monkeypatch.setattr(os, "link", watched)
    export(chosen, tmp_path / "out")
    assert (named[0], named[-1], len(named)) == (set(), set(CHOSEN), 7)


def test_the_manifest_says_what_was_done(folder: Path, chosen: Selection, tmp_path: Path) -> None:
    export(chosen, tmp_path / "out")
    record = strict_json((tmp_path / "out" / "manifest.json").read_bytes())
    assert record["source"] == str(folder)
    assert record["n"] == 6
    nothing = dict.fromkeys(("rejected", "ignored", "copies", "labels"), 0)
    assert record["counts"] == {"usable": 8, "chosen": 6, "unlabelled": 6, **nothing}
    assert record["options"]["weights"] == {"kl": 1, "js": 1, "wasserstein": 1, "hellinger": 1, "frechet": 1}
    assert record["options"]["seed"] == 0
    assert set(record["libraries"]) == {"python", "torch", "torchvision", "numpy", "scipy", "pillow"}
    assert record["program"] == {"name": "imgsubset", "version": importlib.import_module("imgsubset").__version__}


def test_progress_is_told_of_every_copy(chosen: Selection, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    export(chosen, tmp_path / "out", progress=lambda *news: told.append(news))
    assert told == [("copy", 1, 6)] * 6


def test_a_ranking_is_written_when_asked_for(folder: Path, chosen: Selection, tmp_path: Path) -> None:
    shuffled = ("b/4.gif", "6.bmp", "a/1.jpg")
    export(selection_of(folder, shuffled), tmp_path / "out", ranked=True)
    check_complete(folder, tmp_path / "out", shuffled, {"ranked.txt"})
    assert (tmp_path / "out" / "ranked.txt").read_text() == "b/4.gif\n6.bmp\na/1.jpg\n"
    files = strict_json((tmp_path / "out" / "manifest.json").read_bytes())["files"]
    assert {file["path"]: file["rank"] for file in files} == {"b/4.gif": 1, "6.bmp": 2, "a/1.jpg": 3}
    export(chosen, tmp_path / "out", overwrite=True)
    check_complete(folder, tmp_path / "out")


# What is refused

PLACES: dict[str, tuple[str, type[Exception], str]] = {
    "the source": ("source", UsageError, "is the source itself"),
    "the source by another name": ("source/a/..", UsageError, "is the source itself"),
    "the source by a link": ("link", UsageError, "is the source itself"),
    "inside": ("source/a/out", UsageError, "lies inside the source"),
    "inside by a link": ("link/a/out", UsageError, "lies inside the source"),
    "containing": (".", UsageError, "contains the source"),
    "containing by a link": ("up", UsageError, "contains the source"),
    "a file": ("file", OutputError, "exists and is not a folder"),
    "a dangling link": ("dangling", OutputError, "exists and is not a folder"),
    "below a file": ("file/out", OutputError, "Not a directory"),
    "not empty": ("full", OutputError, "is not empty: it holds 'sub/notes.txt'"),
    "holding a link": ("linked", OutputError, "is not empty: it holds 'x'"),
}


def make_places(tmp_path: Path) -> None:
    """What PLACES speaks of, beside the folder `source`."""
    (tmp_path / "link").symlink_to("source")
    (tmp_path / "up").symlink_to(tmp_path)
    create(tmp_path / "file", b"content")
    (tmp_path / "dangling").symlink_to("nowhere")
    create(tmp_path / "full" / "sub" / "notes.txt", b"notes")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "x").symlink_to("../full/sub")


@pytest.mark.parametrize("place", PLACES)
def test_a_useless_destination_is_refused_and_nothing_is_changed(
    folder: Path, chosen: Selection, tmp_path: Path, place: str
) -> None:
    make_places(tmp_path)
    path, error, text = PLACES[place]
    before, names = tree(tmp_path), sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=text) as caught:
        export(chosen, tmp_path / path)
    assert f"'{tmp_path / path}'" in str(caught.value)
    assert (tree(tmp_path), sorted(tmp_path.rglob("*"))) == (before, names)


@pytest.mark.parametrize("place", [place for place in PLACES if place not in ("not empty", "holding a link")])
def test_overwrite_does_not_allow_a_useless_destination(
    folder: Path, chosen: Selection, tmp_path: Path, place: str
) -> None:
    make_places(tmp_path)
    path, error, text = PLACES[place]
    before = tree(tmp_path)
    with pytest.raises(error, match=text):
        export(chosen, tmp_path / path, overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", PLACES)
def test_a_useless_destination_is_found_out_before_any_work(folder: Path, tmp_path: Path, place: str) -> None:
    make_places(tmp_path)
    path, error, text = PLACES[place]
    before, names = tree(tmp_path), sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=text), open_destination(list_images(folder), tmp_path / path) as held:
        check_destination_free(held)
    assert (tree(tmp_path), sorted(tmp_path.rglob("*"))) == (before, names)


def test_an_empty_folder_or_a_link_to_one_is_used(folder: Path, chosen: Selection, tmp_path: Path) -> None:
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("empty")
    export(chosen, tmp_path / "link")
    check_complete(folder, tmp_path / "empty")


def test_a_full_disk_is_found_out_before_anything_is_copied(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = sum((chosen.source.root / path).stat().st_size for path in CHOSEN) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=f"has {free:,} bytes free, but the chosen images take {free + 1:,}"):
        export(chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_destination_that_may_not_be_written_is_an_output_error(folder: Path, open_folder: Path) -> None:
    source, destination = open_folder / "source", open_folder / "out"
    shutil.copytree(folder, source)
    destination.mkdir(mode=0o555)
    with normal_user(open_folder), pytest.raises(OutputError, match=r"out'.*Permission denied"):
        export(selection_of(source, CHOSEN), destination)
    assert tree(destination) == {}


# Overwriting


def test_overwrite_replaces_the_earlier_selection_and_keeps_foreign_files(
    folder: Path, chosen: Selection, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(chosen, out)
    for name in ("notes.txt", "a/deep/my.jpg"):
        create(out / name, b"mine")
    later = ("a/2.png", "b/1.jpg")
    with pytest.raises(OutputError, match="--overwrite"):
        export(selection_of(folder, later), out)
    export(selection_of(folder, later), out, overwrite=True)
    check_complete(folder, out, later, {"notes.txt", "a/deep/my.jpg"})
    assert (out / "notes.txt").read_bytes() == (out / "a/deep/my.jpg").read_bytes() == b"mine"
    assert not (out / "a/deep/er").exists()


def test_overwrite_keeps_a_foreign_file_named_like_a_ranking(folder: Path, chosen: Selection, tmp_path: Path) -> None:
    export(chosen, tmp_path / "out")
    create(tmp_path / "out" / "ranked.txt", b"mine")
    export(chosen, tmp_path / "out", overwrite=True)
    check_complete(folder, tmp_path / "out", foreign={"ranked.txt"})


def names_it_and_changes_nothing(chosen: Selection, out: Path, text: str) -> None:
    """An export refuses to overwrite a destination, with this text, and leaves it as it was."""
    before, names = tree(out), sorted(out.rglob("*"))
    with pytest.raises(OutputError, match=text):
        export(chosen, out, overwrite=True)
    assert (tree(out), sorted(out.rglob("*"))) == (before, names)


@pytest.mark.parametrize("path", ["a/1.jpg", "a", "a/deep/er/3.webp/notes.txt"])
def test_overwrite_keeps_foreign_files_that_are_in_the_way(chosen: Selection, tmp_path: Path, path: str) -> None:
    create(tmp_path / "out" / path, b"mine")
    names_it_and_changes_nothing(chosen, tmp_path / "out", "move it away first")


@pytest.mark.parametrize("path", ["a/1.jpg", "b/4.gif"])  # the one is in the later selection too, the other is not
def test_overwrite_keeps_copies_that_were_changed_since(
    folder: Path, chosen: Selection, tmp_path: Path, path: str
) -> None:
    out = tmp_path / "out"
    export(chosen, out)
    (out / path).write_bytes(b"mine")
    names_it_and_changes_nothing(selection_of(folder, ["a/1.jpg", "a/2.png"]), out, f"'{path}' in destination")
    (out / path).unlink()
    export(selection_of(folder, ["a/1.jpg", "a/2.png"]), out, overwrite=True)
    check_complete(folder, out, ("a/1.jpg", "a/2.png"))


@pytest.mark.parametrize("mode", ["copy", "symlink", "hardlink"])
@pytest.mark.parametrize("later", ["copy", "symlink", "hardlink"])
def test_overwrite_replaces_links_although_the_source_changed(
    folder: Path, chosen: Selection, tmp_path: Path, mode: str, later: str
) -> None:
    out = tmp_path / "out"
    export(chosen, out, mode=mode)
    with (folder / "6.bmp").open("ab") as file:
        file.write(b"more")
    before = tree(folder)
    export(selection_of(folder, CHOSEN), out, mode=later, overwrite=True)
    assert verify(out).good
    assert tree(folder) == before
    assert (out / "6.bmp").is_symlink() == (later == "symlink")


FORGED = [b"", b"{", b"null", b"[]", b"{}", b'{"files": 3}', b'{"files": ["a"]}', b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("content", FORGED, ids=range(len(FORGED)))
def test_a_manifest_that_is_none_of_ours_stays(chosen: Selection, tmp_path: Path, content: bytes) -> None:
    create(tmp_path / "out" / "manifest.json", content)
    names_it_and_changes_nothing(chosen, tmp_path / "out", "'manifest.json' that is none of imgsubset's")


@pytest.mark.parametrize(
    "listed",
    ["../outside.txt", "{absolute}", "linked/outside.txt", "a/../../outside.txt", "", ".", "sub", "\0", "x" * 300,
     "sub/kept.txt"],
)  # fmt: skip
def test_a_forged_manifest_removes_nothing(chosen: Selection, tmp_path: Path, listed: str) -> None:
    outside = create(tmp_path / "elsewhere" / "outside.txt", b"mine")
    for place in (tmp_path / "outside.txt", tmp_path / "out" / "sub" / "kept.txt"):
        create(place, b"mine")
    (tmp_path / "out" / "linked").symlink_to("../elsewhere")
    digest = hashlib.sha256(b"mine" if "kept" not in listed else b"thesis").hexdigest()
    files = [{"path": listed.format(absolute=outside), "sha256": digest}]
    record = {"program": {"name": "imgsubset"}, "request": {"mode": "copy"}, "source": "/", "extras": []}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(record | {"files": files}))
    before = tree(tmp_path)
    names_it_and_changes_nothing(chosen, tmp_path / "out", "move it away first")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "path",
    [".imgsubset-incomplete.json", f"{PARTIAL_PREFIX}0123456789abcdef", f"a/{PARTIAL_PREFIX}0123",
     f"{PARTIAL_PREFIX}1-2-host/thesis.txt", f"{PARTIAL_PREFIX}1-2-host/0", f"{PARTIAL_PREFIX}1-2-host/{JOURNAL_NAME}"],
)  # fmt: skip
def test_foreign_files_with_names_like_ours_stay(folder: Path, chosen: Selection, tmp_path: Path, path: str) -> None:
    out = tmp_path / "out"
    thesis = create(out / "docs" / "thesis.txt", b"mine")
    claim = {"path": "docs/thesis.txt", "sha256": hashlib.sha256(b"mine").hexdigest(), "original": None}
    create(out / path, json.dumps({"files": [claim], "new": [], "earlier": [claim]}).encode())
    before = tree(out)
    with pytest.raises(OutputError, match="not empty"):
        export(chosen, out)
    assert tree(out) == before
    export(chosen, out, overwrite=True)
    check_complete(folder, out, foreign={"docs/thesis.txt", path})
    assert thesis.read_bytes() == b"mine"


# Links in the destination


def test_a_linked_folder_in_the_destination_is_not_written_through(chosen: Selection, tmp_path: Path) -> None:
    create(tmp_path / "elsewhere" / "1.jpg", b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to("../elsewhere")
    with pytest.raises(OutputError, match="leads through a symbolic link"):
        export(chosen, tmp_path / "out", overwrite=True)
    assert {path: digest for path, (digest, _, _) in tree(tmp_path / "elsewhere").items()} == {
        "1.jpg": hashlib.sha256(b"mine").hexdigest()
    }


@pytest.mark.parametrize("name", ["a/1.jpg", "manifest.json"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_under_a_name_to_be_written_stays_and_is_not_written_through(
    chosen: Selection, tmp_path: Path, name: str, dangling: bool
) -> None:
    outside = tmp_path / "outside"
    if not dangling:
        outside.write_bytes(b"mine")
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).symlink_to(outside)
    names_it_and_changes_nothing(chosen, tmp_path / "out", f"holds.*'{name}'")
    assert outside.exists() != dangling
    assert dangling or outside.read_bytes() == b"mine"


@pytest.mark.parametrize("call", ["copystat", "rename"])
def test_a_link_that_is_swapped_in_for_a_waiting_copy_is_not_followed(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    victim = create(tmp_path / "victim", b"mine")
    victim.chmod(0o600)
    before = tree(tmp_path)["victim"]
    owner = shutil if call == "copystat" else os
    real = getattr(owner, call)

    def swapped(*arguments: Any, **options: Any) -> None:
        for path in [*(tmp_path / "out").glob(f"{PARTIAL_PREFIX}*/?")]:
            path.unlink()
            path.symlink_to(victim)
        real(*arguments, **options)

    monkeypatch.setattr(owner, call, swapped)
    monkeypatch.setattr(module, "N_IO_THREADS", 1)
    export(chosen, tmp_path / "out")
    assert tree(tmp_path)["victim"] == before


def test_a_name_that_is_taken_meanwhile_is_not_replaced(
    folder: Path, chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = create(tmp_path / "outside", b"mine")
    link = os.link

    def late(source: str, target: str, **options: Any) -> None:
        if target == "3.webp":
            os.symlink(outside, target, dir_fd=options["dst_dir_fd"])
        link(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "link", late)
        with pytest.raises(OutputError, match=r"a file of this name has appeared.*3\.webp"):
            export(chosen, tmp_path / "out")
    assert outside.read_bytes() == b"mine"
    assert (tmp_path / "out/a/deep/er/3.webp").is_symlink()
    assert "manifest.json" not in tree(tmp_path / "out")
    (tmp_path / "out/a/deep/er/3.webp").unlink()
    with open_destination(list_images(folder), tmp_path / "out"):
        check_complete(folder, tmp_path / "out")


def test_a_file_system_without_hard_links_is_enough(
    folder: Path, chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(module.os, "link", refuse)
    export(chosen, tmp_path / "out")
    check_complete(folder, tmp_path / "out")


# Faults


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def shrink(path: Path) -> None:
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change(path: Path) -> None:
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def turn_into_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("alter", "text"),
    [
        (grow, "changed while"),
        (shrink, "changed while"),
        (change, "changed while"),
        (turn_into_fifo, "not a regular file"),
        (Path.unlink, "cannot be read any more: No such file"),
    ],
)
def test_a_file_that_changed_since_it_was_decoded_is_detected(
    folder: Path, chosen: Selection, tmp_path: Path, alter: Callable[[Path], None], text: str
) -> None:
    alter(folder / "b/1.jpg")
    with pytest.raises(OutputError, match=text) as caught:
        export(chosen, tmp_path / "out")
    assert f"'{folder / 'b/1.jpg'}'" in str(caught.value)
    names = set(tree(tmp_path / "out"))
    assert "b/1.jpg" not in names
    assert "manifest.json" not in names
    assert not [name for name in names if PARTIAL_PREFIX in name]


@pytest.mark.slow
@pytest.mark.parametrize("k", range(1, 7))
def test_an_error_in_a_copy_leaves_no_partial_file_and_the_next_run_completes(
    folder: Path, chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == k:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(module, "N_IO_THREADS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(OutputError, match=r"out': No space left on device"):
            export(chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(chosen, tmp_path / "out")
    check_complete(folder, tmp_path / "out")


def test_a_copy_that_was_corrupted_on_the_way_is_detected(
    folder: Path, chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copystat = shutil.copystat

    def corrupt(source: int, target: int) -> None:
        if os.path.samestat(os.fstat(source), (folder / "b/4.gif").stat()):
            (byte,) = os.pread(target, 1, 10)
            os.pwrite(target, bytes([byte ^ 1]), 10)
        copystat(source, target)

    monkeypatch.setattr(shutil, "copystat", corrupt)
    with pytest.raises(OutputError, match=r"the copy of '.*b/4\.gif' differs"):
        export(chosen, tmp_path / "out")
    names = set(tree(tmp_path / "out"))
    assert "b/4.gif" not in names
    assert "manifest.json" not in names
    assert not [name for name in names if PARTIAL_PREFIX in name]


# For each line of its input, a process that exports and is killed before or after some call; answers with its end.
KILLED = """
import itertools, json, os, signal, sys
sys.path[:0] = sys.argv[1:]
from pathlib import Path
from conftest import selection_of
from imgsubset import export

def run(source, destination, call, when, count, overwrite, chosen):
    real, calls = getattr(os, call), itertools.count(1)

    def deadly(*arguments, **options):
        last = next(calls) == count
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, call, deadly)
    export(selection_of(Path(source), chosen), destination, overwrite=overwrite)

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            run(*json.loads(line))
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killed() -> Iterator[Callable[..., int]]:
    """Export in a process that is killed on the way; its exit code."""
    tests = str(Path(conftest.__file__).parent)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, tests]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def export_killed(folder: Path, out: Path, *rest: object) -> int:
            process.stdin.write(json.dumps([str(folder), str(out), *rest]) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield export_killed
        process.stdin.close()


# Six copies, the manifest, the journal, its folder twice, the four folders with copies, the destination twice.
MOMENTS = [
    *[("fsync", "before", count) for count in (1, 2, 6, 7, 8, 9, 10, 11, 14, 15, 16)],
    *[("link", when, count) for when in ("before", "after") for count in (1, 4, 7)],
]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_killed_export_leaves_no_half_file_and_the_next_one_completes(
    killed: Callable[..., int], folder: Path, tmp_path: Path, moment: tuple[str, str, int]
) -> None:
    assert killed(folder, tmp_path / "out", *moment, False, CHOSEN) == -signal.SIGKILL
    before = tree(folder)
    check_no_half_file(folder, tmp_path / "out")
    begun = [path for path in tree(tmp_path / "out") if Path(path).name == JOURNAL_NAME]
    assert bool(begun) == (moment[0] == "link" or moment[2] >= 10)
    with open_destination(list_images(folder), tmp_path / "out"):
        assert bool(tree(tmp_path / "out")) == bool(begun)
    if not begun:
        export(selection_of(folder, CHOSEN), tmp_path / "out")
    check_complete(folder, tmp_path / "out")
    assert tree(folder) == before


# Two copies, the manifest, the journal, its folder twice, two folders, the destination twice.
@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 11))
def test_a_killed_overwrite_keeps_foreign_files_and_the_next_one_completes(
    killed: Callable[..., int], folder: Path, chosen: Selection, tmp_path: Path, count: int
) -> None:
    out, later = tmp_path / "out", ("a/2.png", "b/1.jpg")
    export(chosen, out)
    create(out / "a" / "notes.txt", b"mine")
    assert killed(folder, out, "fsync", "before", count, True, later) == -signal.SIGKILL
    assert (out / "a/notes.txt").read_bytes() == b"mine"
    if count <= 5:  # the earlier selection is whole, whatever waits beside it
        found = verify(out)
        assert (found.checked, found.missing, found.changed, found.extra) == (6, (), (), ("a/notes.txt",))
    export(selection_of(folder, later), out, overwrite=True)
    check_complete(folder, out, later, {"a/notes.txt"})


@pytest.mark.slow
def test_a_killed_export_with_foreign_files_since_is_refused(
    killed: Callable[..., int], folder: Path, chosen: Selection, tmp_path: Path
) -> None:
    assert killed(folder, tmp_path / "out", "fsync", "before", 3, False, CHOSEN) == -signal.SIGKILL
    create(tmp_path / "out" / "notes.txt", b"mine")
    with pytest.raises(OutputError, match=r"holds 'notes\.txt'"):
        export(chosen, tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"notes.txt"}


@pytest.mark.slow
@pytest.mark.parametrize(("call", "calls"), [("unlink", 11), ("rename", 2), ("link", 3), ("fsync", 9), ("rmdir", 1)])
def test_a_signal_at_any_call_is_heeded_with_the_old_or_the_new_selection_whole(
    folder: Path, chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, calls: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    later, real = ("a/2.png", "b/1.jpg"), getattr(os, call)
    for last in itertools.count(1):
        out, left = tmp_path / f"{last}", itertools.count(last, -1)
        export(chosen, out)

        def interrupted(*arguments: Any, left: Iterator[int] = left, **options: Any) -> None:
            real(*arguments, **options)
            if next(left) == 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, call, interrupted)
            try:
                export(selection_of(folder, later), out, overwrite=True)
                break
            except KeyboardInterrupt:
                pass
        assert not [*out.glob(f"{PARTIAL_PREFIX}*")]
        check_complete(folder, out, later if "a/2.png" in tree(out) else CHOSEN)
        assert "a/2.png" in tree(out) or call in ("fsync", "rename")
    assert last > calls


@pytest.mark.parametrize("fault", ["copy", "space", "changed"])
def test_a_failed_overwrite_leaves_the_earlier_selection(
    folder: Path, chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    export(chosen, tmp_path / "out")
    before, later = tree(tmp_path / "out"), selection_of(folder, ["a/2.png", "b/1.jpg"])
    if fault == "copy":
        monkeypatch.setattr(shutil, "copystat", lambda *_: os.close(-1))
    elif fault == "space":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 0, 9))  # type: ignore[attr-defined]
    else:
        grow(folder / "b/1.jpg")
    texts = {"copy": "Bad file", "space": "9 bytes free.*beside the earlier selection", "changed": "changed while"}
    with pytest.raises(OutputError, match=texts[fault]):
        export(later, tmp_path / "out", overwrite=True)
    assert tree(tmp_path / "out") == before
    assert verify(tmp_path / "out").good
