from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import create, normal_user, smooth, tree

from imgsubset import Options, export, select
from imgsubset.errors import InputError
from imgsubset.files import PARTIAL_PREFIX
from imgsubset.sources.listing import RejectedFile
from imgsubset.tasks.verify import verify
from imgsubset.writing.export import EXPORT_MODES

OPTIONS = Options(workers=0, candidates=8, steps=2, device="cpu", channels=(4,), size=16)
OTHER = "its content is not what was copied"
CONTENT = b"what the manifest is told of"
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source and exports of all of it in every mode, to be copied from."""
    root = tmp_path_factory.mktemp("made")
    for number, name in enumerate(["a/1.png", "a/deep/2.png", "b/3.png", "4.png", "b/\udcff ä.png"]):
        path = create(root / "source" / name)
        smooth(number, 16, 16).save(path)
    selection = select(root / "source", 5, OPTIONS)
    for mode in EXPORT_MODES:
        export(selection, root / mode, mode=mode, ranked=True)
    return root


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """An export of this test's own, with five pictures and ranked.txt."""
    return Path(shutil.copytree(made / "copy", tmp_path / "out"))


def alter(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    record = json.loads(path.read_bytes())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("mode", EXPORT_MODES)
def test_an_export_is_what_its_manifest_says(made: Path, mode: str) -> None:
    before = tree(made / mode)
    found = verify(made / mode)
    assert found.good
    assert (found.folder, found.checked, found.missing, found.changed, found.extra) == (made / mode, 6, (), (), ())
    assert tree(made / mode) == before


def test_progress_counts_every_file(out: Path) -> None:
    calls = []
    verify(str(out), lambda stage, done, total, note="": calls.append((stage, done, total)))
    assert calls == [("verify", 1, 6)] * 6


@pytest.mark.parametrize("name", ["a/1.png", "b/\udcff ä.png", "ranked.txt"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_flipped_byte_is_found(out: Path, name: str, place: int) -> None:
    path = out / name
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = verify(out)
    assert not found.good
    assert (found.missing, found.changed, found.extra) == ((), (RejectedFile(name, OTHER),), ())


@pytest.mark.parametrize("content", [b"", b"x" * 3_000_000])
def test_other_content_is_found(out: Path, content: bytes) -> None:
    (out / "4.png").write_bytes(content)
    assert verify(out).changed == (RejectedFile("4.png", OTHER),)


def test_metadata_do_not_matter(out: Path) -> None:
    os.utime(out / "4.png", ns=(0, 0))
    (out / "4.png").chmod(0o600)
    assert verify(out).good


def test_missing_files_are_found(out: Path) -> None:
    for name in ("b/3.png", "ranked.txt"):
        (out / name).unlink()
    shutil.rmtree(out / "a")
    found = verify(out)
    assert found.missing == ("a/1.png", "a/deep/2.png", "b/3.png", "ranked.txt")
    assert (found.good, found.changed, found.extra, found.checked) == (False, (), (), 6)


def test_a_renamed_file_is_missing_and_extra(out: Path) -> None:
    (out / "4.png").rename(out / "5.png")
    found = verify(out)
    assert (found.missing, found.changed, found.extra) == (("4.png",), (), ("5.png",))


EXTRA = [
    "new.png",
    "a/deep/er/new.png",
    ".hidden",
    "b/.hidden.png",
    "notes.txt",
    "a/manifest.json",
    ".imgsubset-incomplete.json",
    f"a/{PARTIAL_PREFIX}0123",
    "\udcfe.png",
    "a\nb",
]


@pytest.mark.parametrize("name", EXTRA)
def test_any_other_file_is_found(out: Path, name: str) -> None:
    create(out / name)
    found = verify(out)
    assert not found.good
    assert (found.missing, found.changed, found.extra) == ((), (), (name,))


def test_caches_of_ultralytics_are_no_extra_files(out: Path) -> None:
    def label(record: dict[str, Any]) -> None:
        label = out / "labels/val.v1/1.txt"
        digest = hashlib.sha256(create(label, CONTENT).read_bytes()).hexdigest()
        record["extras"].append({"path": "labels/val.v1/1.txt", "sha256": digest})
        image = next(file for file in record["files"] if file["path"] == "4.png")
        image["path"] = "images/train/4.png"
        create(out / image["path"], (out / "4.png").read_bytes())
        (out / "4.png").unlink()

    alter(out, label)
    for name in ("labels/val.cache", "labels/train.cache"):
        create(out / name)
    assert verify(out).good
    other = ["a.cache", "images/train.cache", "labels.cache", "labels/val.v1/1.cache", "labels/x.cache", "x/val.cache"]
    for name in other:
        create(out / name)
    assert verify(out).extra == tuple(other)


def test_links_and_fifos_that_are_not_listed_are_found(out: Path, tmp_path: Path) -> None:
    create(tmp_path / "elsewhere" / "x.png")
    (out / "a" / "folder").symlink_to(tmp_path / "elsewhere")
    (out / "dangling").symlink_to("nowhere")
    (out / "loop").symlink_to(".")
    os.mkfifo(out / "pipe")
    (out / "empty" / "folder").mkdir(parents=True)
    assert verify(out).extra == ("a/folder", "dangling", "loop", "pipe")


def test_what_has_taken_the_place_of_a_file_is_found(out: Path) -> None:
    for name in ("4.png", "a/1.png", "b/3.png", "a/deep/2.png"):
        (out / name).unlink()
    os.mkfifo(out / "4.png")
    (out / "a/1.png").mkdir()
    (out / "b/3.png").symlink_to("3.png")
    (out / "a/deep/2.png").symlink_to("nowhere")
    found = verify(out)
    assert found.missing == ("a/deep/2.png",)
    assert [file.path for file in found.changed] == ["4.png", "a/1.png", "b/3.png"]
    assert found.changed[0].reason == "not a regular file"
    assert found.changed[1].reason in ("not a regular file", "Is a directory")
    assert found.extra == ()


def test_a_fifo_in_the_place_of_a_folder_does_not_hang(out: Path) -> None:
    shutil.rmtree(out / "a")
    os.mkfifo(out / "a")
    found = verify(out)
    assert {*found.missing, *(file.path for file in found.changed)} == {"a/1.png", "a/deep/2.png"}
    assert found.extra == ("a",)


def test_everything_that_is_wrong_is_named_at_once(out: Path) -> None:
    (out / "4.png").write_bytes(b"")
    (out / "b/3.png").unlink()
    for name in ("z", "y"):
        create(out / name)
    found = verify(out)
    assert found.missing == ("b/3.png",)
    assert found.changed == (RejectedFile("4.png", OTHER),)
    assert found.extra == ("y", "z")


def test_links_are_followed(made: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", tmp_path / "source"
    shutil.copytree(made / "source", source)
    export(select(source, 5, OPTIONS), out, mode="symlink")
    assert (out / "4.png").is_symlink()
    assert verify(out).good
    (source / "4.png").write_bytes(b"new")
    (source / "b/3.png").unlink()
    found = verify(out)
    assert (found.missing, found.changed, found.extra) == (("b/3.png",), (RejectedFile("4.png", OTHER),), ())


def test_the_folder_may_be_a_link(out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out")
    assert verify(tmp_path / "link").good


def test_a_file_that_may_not_be_read_is_named(made: Path, open_folder: Path) -> None:
    out = Path(shutil.copytree(made / "copy", open_folder / "out"))
    (out / "4.png").chmod(0)
    with normal_user(open_folder):
        found = verify(out)
    assert found.changed == (RejectedFile("4.png", "Permission denied"),)
    assert not found.good


def test_a_folder_that_may_not_be_read_is_no_crash(made: Path, open_folder: Path) -> None:
    out = Path(shutil.copytree(made / "copy", open_folder / "out"))
    (out / "a" / "deep").chmod(0)
    with normal_user(open_folder), contextlib.suppress(InputError):
        assert not verify(out).good


@pytest.mark.parametrize("name", ["4.png", "a/1.png"])
def test_no_descriptor_stays_open(out: Path, name: str) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc here")
    (out / name).unlink()
    (out / name).mkdir()
    verify(out)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        assert verify(out).changed[0].path == name
    assert len(os.listdir("/proc/self/fd")) == before


# Manifests


@pytest.mark.parametrize("missing", ["folder", "manifest", "fifo", "folder in its place", "dangling"])
def test_without_a_manifest_there_is_nothing_to_check(out: Path, missing: str) -> None:
    path = out / "manifest.json"
    path.unlink()
    if missing == "folder":
        shutil.rmtree(out)
    elif missing == "fifo":
        os.mkfifo(path)
    elif missing == "folder in its place":
        path.mkdir()
    elif missing == "dangling":
        path.symlink_to("nowhere")
    with pytest.raises(InputError, match="manifest"):
        verify(out)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"3",
        b'"text"',
        b"\xff",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": 1, "files": 3, "extras": [], "options": {}}',
        b'{"format": 1, "files": [1], "extras": [], "options": {}}',
        b'{"format": 1, "files": [], "extras": [], "options": {}}',
        b'{"format": 1, "files": [], "extras": [], "options": null}',
        b'{"name": "An app", "icons": [{"src": "a.png"}]}',
    ],
)
def test_a_manifest_that_is_none_of_ours_is_an_input_error(out: Path, content: bytes) -> None:
    (out / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest '.*manifest\.json' is not"):
        verify(out)


@pytest.mark.parametrize("number", [0, 3, 99, "1", None])
def test_another_format_is_named(out: Path, number: object) -> None:
    alter(out, lambda record: record.update(format=number))
    with pytest.raises(InputError, match=f"has format {number}; this version reads formats 1 to 2"):
        verify(out)


def test_unknown_entries_are_no_error(out: Path) -> None:
    alter(out, lambda record: record.update(new=[1], options=record["options"] | {"new": 2}))
    assert verify(out).good


@pytest.mark.parametrize(
    "options",
    [
        {"size": 2},
        {"size": 16.5},
        {"size": "16"},
        {"channels": [4.5]},
        {"channels": 4},
        {"weights": {"kl": -1}},
        {"weights": {"new": 1}},
        {"feature_seed": -1},
        {"kernel_size": True},
        {"kernel_size": 2},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_an_input_error(out: Path, options: dict[str, object]) -> None:
    alter(out, lambda record: record["options"].update(options))
    with pytest.raises(InputError, match="is not one of imgsubset's"):
        verify(out)


@pytest.mark.parametrize("key", ["files", "extras"])
@pytest.mark.parametrize(
    "path", ["../outside", "{outside}", "a/../../outside", "linked/../../outside", "a\0b", "", "."]
)
def test_a_forged_path_is_never_good_and_leads_to_no_file_outside(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, path: str
) -> None:
    outside = create(tmp_path / "outside", CONTENT)
    if path.startswith("linked"):
        (out / "linked").symlink_to("a")
    entry = {"path": path.format(outside=outside), "sha256": HASH}
    alter(out, lambda record: record[key].append(entry))
    opened: list[Path] = []
    real = os.open

    def watched(name: Any, *arguments: Any, **options: Any) -> int:
        opened.append(Path(os.path.realpath(name)))
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", watched)
    with contextlib.suppress(InputError):
        assert not verify(out).good
    assert outside not in opened


def test_a_path_that_is_written_otherwise_is_the_same_file_or_an_error(out: Path) -> None:
    (out / "ranked.txt").unlink()
    alter(out, lambda record: record.update(extras=[]))
    alter(out, lambda record: [entry.update(path=f"./{entry['path']}") for entry in record["files"]])
    try:
        found = verify(out)
    except InputError:
        return
    assert not found.missing
    assert bool(found.extra) != found.good


def test_a_manifest_given_as_the_folder_is_read_or_refused(out: Path) -> None:
    with contextlib.suppress(InputError):
        assert verify(out / "manifest.json").good


def test_a_manifest_of_a_selection_that_was_not_copied_is_no_word_on_the_content(out: Path) -> None:
    def forget(record: dict[str, Any]) -> None:
        for entry in record["files"]:
            del entry["sha256"]

    alter(out, forget)
    try:
        found = verify(out)
    except InputError:
        return
    assert OTHER not in {file.reason for file in found.changed}
    assert not found.good
