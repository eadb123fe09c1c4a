"""A tar archive as destination: what holds of a folder holds of it."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import re
import tarfile
from collections import namedtuple
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from archives import png, tar_of
from conftest import create, selection_of, tree

from imgsubset import Selection, export, score, select, select_into, split_into, verify
from imgsubset.errors import InputError, OutputError, UsageError
from imgsubset.files import PARTIAL_PREFIX, Stamp
from imgsubset.sources import archive_members
from imgsubset.sources.listing import list_images
from imgsubset.writing import tar_export
from imgsubset.writing.destination import open_destination

MANIFEST = "imgsubset-manifest"
NAMES = {"manifest.json": MANIFEST, "ranked.txt": "imgsubset-ranked"}
CHOSEN = ("6.bmp", "a/1.jpg", "a/deep/er/3.webp", "b/1.jpg", "b/4.gif", "b/5.TIFF")
FAST: dict[str, Any] = {
    **{"candidates": 8, "chains": 1, "steps": 1, "size": 16, "channels": (4,), "networks": 1, "held_out": False},
    **{"device": "cpu", "workers": 0, "cache": None},
}


@pytest.fixture
def chosen(folder: Path) -> Selection:
    found = selection_of(folder, CHOSEN)
    for path in CHOSEN:
        create((folder / path).with_suffix(".txt"), b"label of " + path.encode())
    return found


def in_tar(file: Path) -> dict[str, bytes]:
    """The content of the members, in their order, by Python's own reader."""
    with tarfile.open(file, errors="surrogateescape") as archive:
        found = {one.name: archive.extractfile(one) for one in archive}
        return {name: content.read() for name, content in found.items() if content}


def alone(file: Path, *others: Path) -> bool:
    """Whether nothing but these is in the folder of a file."""
    return {*file.parent.iterdir()} == {file, *others}


# What arrives


def test_an_archive_holds_what_a_folder_would_and_the_manifest_last(chosen: Selection, tmp_path: Path) -> None:
    placed = export(chosen, tmp_path / "new" / "out", ranked=True)
    packed = export(chosen, file := tmp_path / "packed" / "out.tar", ranked=True)
    extras = {NAMES.get(path, path): digest for path, digest in placed.extras.items()}
    assert (packed.hashes, packed.extras, packed.labels) == (placed.hashes, extras, placed.labels)
    assert packed.destination == file
    found = in_tar(file)
    assert [*found] == [
        *("6.bmp", "6.txt", "a/1.jpg", "a/1.txt", "a/deep/er/3.txt", "a/deep/er/3.webp"),
        *("b/1.jpg", "b/1.txt", "b/4.gif", "b/4.txt", "b/5.TIFF", "b/5.txt", "imgsubset-ranked", MANIFEST),
    ]
    folder = tmp_path / "new" / "out"
    assert {NAMES.get(path, path) for path in tree(folder)} == {*found}
    for path in {*tree(folder)} - {"manifest.json"}:
        assert found[NAMES.get(path, path)] == (folder / path).read_bytes()
    ours, other = json.loads(found[MANIFEST]), json.loads((folder / "manifest.json").read_bytes())
    assert (ours["files"], ours["request"]) == (other["files"], other["request"])
    assert verify(file).good
    assert alone(file)


def test_headers_say_size_and_time_and_nothing_of_who_or_when(chosen: Selection, tmp_path: Path) -> None:
    source = Path(chosen.source.name)
    export(chosen, file := tmp_path / "out.tar")
    with tarfile.open(file) as archive:
        for one in archive:
            assert (one.uid, one.gid, one.uname, one.gname, one.mode, one.isreg()) == (0, 0, "", "", 0o644, True)
            if one.name != MANIFEST:
                status = (source / one.name).stat()
                assert (one.size, one.mtime) == (status.st_size, int(status.st_mtime))
    assert file.stat().st_size % tarfile.RECORDSIZE == 0


def test_the_same_request_gives_the_same_bytes(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_export, "N_IO_THREADS", 2)
    first = export(chosen, tmp_path / "1.tar")
    export(chosen, tmp_path / "2.tar")
    one, two = in_tar(tmp_path / "1.tar"), in_tar(tmp_path / "2.tar")
    end = sum(512 + -(-len(content) // 512) * 512 for path, content in one.items() if path != MANIFEST)
    assert (tmp_path / "1.tar").read_bytes()[:end] == (tmp_path / "2.tar").read_bytes()[:end]
    assert [*one] == [*two]
    assert first.hashes.keys() == {*CHOSEN}


def test_long_and_odd_names(tmp_path: Path) -> None:
    names = [f"{'f' * 120}/{'ü' * 60}.png", "a\udcff.png", " b .png", "c\n.png"]
    for number, name in enumerate(names):
        create(tmp_path / "source" / name, bytes([number]) * 600)
    export(selection_of(tmp_path / "source", names), file := tmp_path / "out.tar")
    assert {*in_tar(file)} == {*names, MANIFEST}
    assert verify(file).good
    assert {*list_images(file).paths} == {*names}


def test_it_is_a_source_again_and_a_shard(chosen: Selection, tmp_path: Path) -> None:
    export(chosen, file := tmp_path / "out-0.tar")
    again = list_images(file)
    assert {*again.paths} == {*CHOSEN}
    shard = list_images([str(file)])
    assert shard.members is not None
    assert shard.members.samples
    few = select(file, 3, **FAST)
    export(few, other := tmp_path / "few.tar")
    labels = {str(Path(path).with_suffix(".txt")) for path in few.chosen}
    assert {*in_tar(other)} == {*few.chosen, *labels, MANIFEST}


def test_members_of_one_sample_are_beside_each_other(tmp_path: Path) -> None:
    pictures = ["a.png", "a-1.png", "a/b.png", "ab.png", "A.png"]
    for name in pictures:
        create(tmp_path / "source" / name, name.encode())
    chosen = selection_of(tmp_path / "source", pictures)
    for name in ("a.txt", "a.png.json", "a-1.txt", "a/b.txt", "A.cls"):
        create(tmp_path / "source" / name, name.encode())
    export(chosen, file := tmp_path / "out.tar")
    found = [*in_tar(file)]
    assert len(found) == 11
    keys = [re.match(r"(?:.*/)?[^.]*", name)[0] for name in found]  # type: ignore[index]
    assert len([*groupby(keys)]) == len({*keys}) == 6


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """An archive of 200 samples, with a ranking."""
    for number in range(210):
        create(tmp_path / f"source/{number:03}.png", png(number % 7))
    chosen = selection_of(tmp_path / "source", [f"{number:03}.png" for number in range(5, 205)])
    for number in range(210):
        create(tmp_path / f"source/{number:03}.cls", b"%d" % (number % 7))
    export(chosen, tmp_path / "shard-0.tar", ranked=True)
    return tmp_path / "shard-0.tar"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_finds_the_samples_and_nothing_else(shard: Path) -> None:
    library = pytest.importorskip("webdataset")
    samples = library.WebDataset(str(shard), shardshuffle=False)
    pairs = [*samples.to_tuple("png", "cls")]
    assert pairs == [(png(number % 7), b"%d" % (number % 7)) for number in range(5, 205)]
    batches = [*samples.decode("pil").to_tuple("png", "cls").batched(40, partial=False)]
    assert [len(classes) for _, classes in batches] == [40] * 5
    assert {*batches[0][1]} == {*range(7)}
    del samples
    gc.collect()  # the library leaves files open


@pytest.mark.slow
def test_hugging_face_finds_the_samples_and_nothing_else(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    library = pytest.importorskip("datasets")
    words: dict[str, Any] = {"data_files": str(shard), "split": "train", "cache_dir": str(shard.parent / "cache")}
    rows = library.load_dataset("webdataset", **words)
    assert {*rows.column_names} == {"png", "cls", "__key__", "__url__"}
    assert rows["cls"][:] == [number % 7 for number in range(5, 205)]
    assert [picture.size for picture in rows["png"]] == [(9, 8)] * 200
    streamed = [*library.load_dataset("webdataset", streaming=True, **words)]
    assert [row["__key__"] for row in streamed] == [f"{number:03}" for number in range(5, 205)]


LAYOUTS = {
    "classes.txt": ("a.png", "classes.txt"),
    "data.yaml": ("images/train/a.png", "images/train/a.txt", "data.yaml"),
    "labels/train/a.txt": ("images/train/a.png", "labels/train/a.txt"),
    "Annotations/a.xml": ("JPEGImages/a.png", "Annotations/a.xml"),
    "metadata.jsonl": ("a.png", "metadata.jsonl"),
    "x/metadata.csv": ("x/a.png", "x/metadata.csv"),
    "annotations/coco.json": ("a.png",),
}


@pytest.mark.parametrize("at", LAYOUTS)
def test_labels_that_would_be_samples_of_their_own_are_refused_at_once(tmp_path: Path, at: str) -> None:
    contents = {
        "data.yaml": b"train: images/train\nnames: [x]\n",
        "metadata.jsonl": b'{"file_name": "a.png"}\n',
        "x/metadata.csv": b"file_name\na.png\n",
    }
    for path in LAYOUTS[at]:
        create(tmp_path / "source" / path, contents.get(path, png(1) if path.endswith("png") else b"x"))
    coco = create(tmp_path / "coco.json", b'{"images": [{"id": 1, "file_name": "a.png"}]}')
    words = FAST | ({"coco": str(coco)} if at == "annotations/coco.json" else {})
    with pytest.raises(UsageError, match=rf"would take '{at}' for a sample without a picture; choose a folder$"):
        select_into(tmp_path / "source", 1, tmp_path / "out.tar", stop=pytest.fail, **words)
    assert not (tmp_path / "out.tar").exists()
    assert select_into(tmp_path / "source", 1, tmp_path / "out", **words).chosen


def test_an_archive_of_an_earlier_version_is_read_and_replaced(chosen: Selection, tmp_path: Path) -> None:
    export(chosen, file := tmp_path / "to" / "out.tar")
    content = in_tar(file)
    file.write_bytes(tar_of(content | {"manifest.json": content.pop(MANIFEST)}))
    assert verify(file).good
    export(chosen, file, overwrite=True)
    assert {*in_tar(file)} == {*content, MANIFEST}


def test_selecting_into_it_twice_does_nothing_and_score_reads_it(pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.tar"
    first = select_into(pictures, 5, file, **FAST)
    before = file.read_bytes(), file.stat().st_mtime_ns
    again = select_into(pictures, 5, file, **FAST)
    assert (first.done, again.done, again.chosen) == (False, True, first.chosen)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    found = score(pictures, file, device="cpu", workers=0, cache=None)
    assert found.score.loss == pytest.approx(first.loss, rel=1e-6)
    kept = select(pictures, 8, keep=str(file), **FAST)
    assert {*first.chosen} <= {*kept.chosen}
    with pytest.raises(OutputError, match=r"out\.tar' exists; choose another"):
        select_into(pictures, 6, file, **FAST)
    more = select_into(pictures, 6, file, overwrite=True, **FAST)
    assert {*in_tar(file)} == {*more.chosen, MANIFEST}
    assert len(more.chosen) == 6
    assert alone(file)


def test_the_best_so_far_of_the_same_request_gives_way(pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.tar"
    select_into(pictures, 5, file, stop=lambda: True, **FAST | {"steps": 50})
    assert json.loads(in_tar(file)[MANIFEST])["interrupted"]
    assert not select_into(pictures, 5, file, **FAST | {"steps": 50}).done
    assert not json.loads(in_tar(file)[MANIFEST])["interrupted"]


def test_from_the_command_line_and_a_batch(pictures: Path, tmp_path: Path, imgsubset: Callable[..., Any]) -> None:
    jobs = create(
        tmp_path / "jobs.toml",
        f'[jobs.a]\nsource = "{pictures}"\ndestination = "deep/a.tar"\nn = 3\nsize = "16"\nchannels = 4\n'
        'candidates = 8\nchains = 1\nsteps = 1\nno-cache = true\nworkers = 0\ndevice = "cpu"\n'.encode(),
    )
    for status in ("done", "skipped"):
        run = imgsubset("batch", jobs, "--json")
        assert run.code == 0, run.err
        assert json.loads(run.out)["jobs"][0]["status"] == status
    file = tmp_path / "deep" / "a.tar"
    run = imgsubset("verify", file)
    assert (run.code, run.out.count("\n")) == (0, 1)
    run = imgsubset("select", pictures, tmp_path / "b.tar", "-n", 3, "--mode", "symlink")
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert "'symlink' makes links" in run.err


def test_parts_of_a_split_are_archives_if_they_are_called_so(pictures: Path, tmp_path: Path) -> None:
    parts = split_into(pictures, {"train.tar": 6, "test.tar": 3}, tmp_path / "sets", **FAST)
    for name, part in parts.items():
        assert {*in_tar(tmp_path / "sets" / name)} == {*part.chosen, MANIFEST}
    again = split_into(pictures, {"train.tar": 6, "test.tar": 3}, tmp_path / "sets", **FAST)
    assert all(part.done for part in again.values())
    with pytest.raises(UsageError, match=r"a split is several subsets: choose a folder, .* as in train\.tar=80%"):
        split_into(pictures, {"train": 6, "test": 3}, tmp_path / "sets.tar", **FAST)
    assert not (tmp_path / "sets.tar").exists()


# What must not be


def test_a_folder_that_is_called_so_is_a_folder(chosen: Selection, tmp_path: Path) -> None:
    (tmp_path / "out.tar").mkdir()
    export(chosen, tmp_path / "out.tar")
    assert verify(tmp_path / "out.tar").good
    assert (tmp_path / "out.tar" / "6.bmp").is_file()


@pytest.mark.parametrize("name", ["out.tar.gz", "out.TGZ", "out.zip", "out.tar.zst"])
def test_archives_of_other_kinds_are_not_written(chosen: Selection, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name}' is of a kind of archive that is not written; \.tar is"):
        export(chosen, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_an_archive_of_the_source_is_refused(tmp_path: Path, pictures: Path) -> None:
    content = tar_of({str(file.relative_to(pictures)): file.read_bytes() for file in [*pictures.rglob("*.png")][:9]})
    files = [create(tmp_path / f"s-{number}.tar", content) for number in range(2)]
    link = tmp_path / "link.tar"
    link.symlink_to(files[1])
    for source in (files[1], str(tmp_path / "s-{0..1}.tar")):
        for destination in (files[1], link):
            for overwrite in (False, True):
                with pytest.raises(UsageError, match=r"destination '.*' is '.*s-1\.tar' of source"):
                    select_into(source, 3, destination, overwrite=overwrite, **FAST)
    with pytest.raises(UsageError, match="lies inside the source"):
        select_into(pictures, 3, pictures / "out.tar", **FAST)
    assert files[1].read_bytes() == content
    assert alone(files[0], files[1], link)


FOREIGN = {
    "text": b"somebody's",
    "empty": b"",
    "another tar": tar_of({"6.bmp": b"", "manifest.json": b"{}"}),
    "a tar of nothing": tar_of({}),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_file_is_never_replaced(chosen: Selection, tmp_path: Path, what: str) -> None:
    file = create(tmp_path / "to" / "out.tar", FOREIGN[what])
    before = tree(file.parent)
    with pytest.raises(OutputError, match="exists; choose another"):
        export(chosen, file)
    with pytest.raises(OutputError, match="none of imgsubset's; move it away first"):
        export(chosen, file, overwrite=True)
    assert tree(file.parent) == before


def changed_member(content: dict[str, bytes]) -> bytes:
    return tar_of(content | {"a/1.jpg": b"painted over"})


def foreign_member(content: dict[str, bytes]) -> bytes:
    return tar_of({"mine.txt": b"mine"} | content)


def missing_member(content: dict[str, bytes]) -> bytes:
    return tar_of({path: one for path, one in content.items() if path != "a/1.jpg"})


def linked_member(content: dict[str, bytes]) -> bytes:
    made = io.BytesIO(tar_of(content))
    with tarfile.open(fileobj=made, mode="a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a/1.jpg"
        archive.addfile(link)
    return made.getvalue()


@pytest.mark.parametrize(
    ("change", "at"),
    [
        (changed_member, "a/1.jpg"),
        (foreign_member, "mine.txt"),
        (missing_member, "a/1.jpg"),
        (linked_member, "link.png"),
    ],
)
def test_an_archive_that_was_changed_is_named_and_stays(
    chosen: Selection, tmp_path: Path, change: Callable[[dict[str, bytes]], bytes], at: str
) -> None:
    export(chosen, file := tmp_path / "to" / "out.tar")
    file.write_bytes(change(in_tar(file)))
    before = tree(file.parent)
    with pytest.raises(OutputError, match=f"'{at}' in destination '{file}' is not as an earlier selection left it"):
        export(chosen, file, overwrite=True)
    assert tree(file.parent) == before
    found = verify(file)
    assert not found.good
    assert at in (*found.missing, *found.extra, *(one.path for one in found.changed))


def test_an_archive_that_is_cut_off_is_no_subset(chosen: Selection, tmp_path: Path) -> None:
    export(chosen, file := tmp_path / "to" / "out.tar")
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(OutputError, match="none of imgsubset's"):
        export(chosen, file, overwrite=True)
    with pytest.raises(InputError, match=r"cannot read manifest '.*/out\.tar/imgsubset-manifest': No such file"):
        verify(file)


def test_a_second_run_is_refused_and_other_archives_are_not(chosen: Selection, folder: Path, tmp_path: Path) -> None:
    file, link = tmp_path / "to" / "out.tar", tmp_path / "link.tar"
    link.symlink_to(file)
    with open_destination(list_images(folder), file):
        for name in (file, link):
            with pytest.raises(OutputError, match=f"destination '{name}' is in use by another run"):
                export(chosen, name)
        export(chosen, file.with_name("other.tar"))
    assert alone(file.with_name("other.tar"))
    export(chosen, link)
    assert link.is_symlink()
    assert verify(file).good


def test_where_nothing_can_be_locked_a_run_sees_the_other(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_export, "lock_descriptor", lambda file, path: False)
    file = tmp_path / "to" / "out.tar"
    left = rf"another run may be at work on .*; if it is no more, remove '{PARTIAL_PREFIX}"
    with open_destination(chosen.source, file), pytest.raises(OutputError, match=left):
        export(chosen, file)
    export(chosen, file)
    assert alone(file)


def test_what_a_killed_run_left_is_removed_by_the_next(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it wrote, and between the two names that a whole archive has for a moment."""
    file = tmp_path / "to" / "out.tar"
    with open_destination(chosen.source, file) as held:
        assert isinstance(held, tar_export.LockedTarDestination)
        waiting = file.with_name(held.partial_name)
    create(waiting, b"half an archive")
    export(chosen, file)
    assert alone(file)
    os.link(file, waiting)
    before = file.read_bytes()
    with pytest.raises(OutputError, match="exists; choose another"):
        export(chosen, file)
    assert alone(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("what", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
@pytest.mark.parametrize("where", ["iter_tar_members", "_link_archive", "hash_stream"])
def test_an_end_before_it_has_its_name_leaves_nothing(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, what: BaseException
) -> None:
    def ends(*rest: Any, **words: Any) -> Any:
        raise what

    monkeypatch.setattr(tar_export, where, ends)
    with pytest.raises(KeyboardInterrupt if isinstance(what, KeyboardInterrupt) else OutputError):
        export(chosen, tmp_path / "new" / "out.tar")
    assert not (tmp_path / "new").exists()


def test_a_name_that_is_taken_meanwhile_is_not_replaced(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, inner = tmp_path / "to" / "out.tar", tar_export._link_archive

    def taken(held: tar_export.LockedTarDestination) -> bool:
        create(file, b"somebody's")
        return inner(held)

    monkeypatch.setattr(tar_export, "_link_archive", taken)
    with pytest.raises(OutputError, match="has appeared or changed meanwhile"):
        export(chosen, file)
    assert file.read_bytes() == b"somebody's"
    assert alone(file)


def test_without_links_it_is_renamed(chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*rest: Any, **words: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    export(chosen, file := tmp_path / "to" / "out.tar")
    assert verify(file).good
    assert alone(file)


def test_a_file_that_changed_since_it_was_decoded_is_detected(folder: Path, chosen: Selection, tmp_path: Path) -> None:
    for change in (lambda file: os.utime(file, ns=(5, 5)), lambda file: file.write_bytes(file.read_bytes() + b"x")):
        change(folder / "a/1.jpg")
        with pytest.raises(OutputError, match=r"a/1\.jpg' changed while imgsubset was at work"):
            export(chosen, tmp_path / "new" / "out.tar")
    (folder / "a/1.jpg").unlink()
    with pytest.raises(OutputError, match=r"a/1\.jpg' cannot be read any more"):
        export(chosen, tmp_path / "new" / "out.tar")
    assert not (tmp_path / "new").exists()


def test_a_copy_that_was_corrupted_on_the_way_is_detected(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tar_export.iter_tar_members

    def corrupted(path: str, file: Any, status: os.stat_result) -> Any:
        found = [*inner(path, file, status)]
        os.pwrite(file.fileno(), b"\0", found[2][1].start)
        return inner(path, file, os.fstat(file.fileno()))

    monkeypatch.setattr(tar_export, "iter_tar_members", corrupted)
    with pytest.raises(OutputError, match=r"the copy of 'a/1\.jpg' in '.*' differs from it when read back"):
        export(chosen, tmp_path / "new" / "out.tar")
    assert not (tmp_path / "new").exists()


Usage = namedtuple("Usage", "total used free")


def test_too_little_space_is_found_out_before_copying(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(9000, 0, 1234))
    with pytest.raises(OutputError, match=r"out\.tar' has 1,234 bytes free, but the chosen images take [0-9,]+"):
        export(chosen, tmp_path / "new" / "out.tar")
    assert not (tmp_path / "new").exists()


def test_a_file_that_no_reader_would_take_is_refused(
    chosen: Selection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tar_export.MAX_MEMBER_BYTES == archive_members.MAX_MEMBER_BYTES
    monkeypatch.setattr(tar_export, "MAX_MEMBER_BYTES", 8)
    with pytest.raises(OutputError, match="more than the 8 that are read of a member of an archive; choose a folder"):
        export(chosen, tmp_path / "new" / "out.tar")
    assert not (tmp_path / "new").exists()


def test_times_before_1970_and_after_are_kept(tmp_path: Path) -> None:
    for name, time in {"a.png": -5 * 10**9, "b.png": 2**33 * 10**9}.items():
        os.utime(create(tmp_path / "source" / name, b"x"), ns=(time, time))
    chosen = selection_of(tmp_path / "source", ["a.png", "b.png"])
    assert chosen.stamps[0] == Stamp(1, -5 * 10**9)
    export(chosen, file := tmp_path / "out.tar")
    with tarfile.open(file) as archive:
        assert [one.mtime for one in archive][:2] == [-5, 2**33]
    assert verify(file).good
