from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import create, listing_of, normal_user

from imgsubset.errors import InputError
from imgsubset.sources.listing import Listing, RejectedFile, list_images, list_paths, parse_paths

NAMES = ("a/1.png", "a/2.png", "b/1.png", "c.dat")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a few files; a listing opens none of them."""
    folder = tmp_path / "here"
    for name in NAMES:
        create(folder / name, name.encode())
    monkeypatch.chdir(folder)
    return folder


def listed(content: bytes, path: str = "list.txt") -> Listing:
    Path(path).write_bytes(content)
    return list_images(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n\r\n\n", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\nb", ["a", "b"]),
        (b"\n\na\n\n\nb\n\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a b \n c\n", ["a b ", " c"]),
        (b"a\0b\0", ["a", "b"]),
        (b"a\0\0b", ["a", "b"]),
        (b"\0", []),
        (b"a\nb\0c\r\0", ["a\nb", "c\r"]),
        (b"b\na\nb\n", ["b", "a", "b"]),
        ("ä/ö 画.png\n".encode(), ["ä/ö 画.png"]),
        (b"\xff\xfe.png\n", ["\udcff\udcfe.png"]),
        (b"#a\n'b'\n", ["#a", "'b'"]),
    ],
)
def test_a_text_is_split_into_paths(content: bytes, expected: list[str]) -> None:
    assert parse_paths(content) == expected
    assert [os.fsencode(path) for path in parse_paths(content)] == [os.fsencode(path) for path in expected]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
@pytest.mark.parametrize("last", [True, False])
def test_a_text_file_names_the_images(here: Path, end: bytes, last: bool) -> None:
    content = end.join([b"b/1.png", b"", b"a/2.png", b"./a//1.png", b"b/../a/2.png"])
    found = listed(content + end * last)
    assert found == listing_of(Path(), ("a/1.png", "a/2.png", "b/1.png"), "list.txt", explicit=True)


def test_a_text_file_that_begins_with_a_byte_order_mark_is_read_without_it(here: Path) -> None:
    assert listed(b"\xef\xbb\xbfa/1.png\r\na/2.png\r\n").paths == ("a/1.png", "a/2.png")


def test_paths_are_sorted_by_their_bytes_whatever_they_are_called(here: Path) -> None:
    names = [
        "Z.png",
        "a.png",
        "z.png",
        "é.png",
        "画.png",
        "\udcff.png",
        "-x.png",
        " .png",
        "a\nb.png",
        "*.png",
        "~.png",
    ]
    for name in names:
        create(Path("odd") / name)
    found = listed(b"\0".join(os.fsencode(f"odd/{name}") for name in names))
    assert found.paths == tuple(sorted((f"odd/{name}" for name in names), key=os.fsencode))
    assert found.rejected == ()
    assert found == dataclasses.replace(list_images([f"odd/{name}" for name in names]), name="list.txt")


def test_an_empty_text_names_no_image(here: Path) -> None:
    assert listed(b"") == listing_of(Path(), (), "list.txt", explicit=True)
    assert list_images([]).paths == ()


@pytest.mark.parametrize("as_path", [True, False])
def test_paths_given_one_by_one_stay_as_they_are(here: Path, as_path: bool) -> None:
    names = ["b/1.png", "a/1.png", "c.dat"]
    found = list_images(iter([Path(name) for name in names] if as_path else names))
    assert found == listing_of(Path(), ("a/1.png", "b/1.png", "c.dat"), "list of paths", explicit=True)


def test_a_listing_is_returned_as_it_is(here: Path) -> None:
    one = listing_of(Path("nowhere"), ("x", "a"), "mine")
    assert list_images(one) is one


def test_a_text_list_is_named_as_the_user_wrote_it(here: Path) -> None:
    create(here / "sub" / "list.txt", b"a/1.png\n")
    assert list_images("sub/../sub/list.txt").name == "sub/../sub/list.txt"
    assert list_images(Path("sub/list.txt")).paths == ("a/1.png",)  # from the current folder, not the list's


@pytest.mark.parametrize(
    ("paths", "root", "relative"),
    [
        (["{here}/a/1.png", "{here}/a/2.png"], "{here}/a", ["1.png", "2.png"]),
        (["{here}/a/1.png", "{here}/b/1.png"], "{here}", ["a/1.png", "b/1.png"]),
        (["{here}/a/1.png"], "{here}/a", ["1.png"]),
        (["{here}/a/1.png", "b/1.png"], "{here}", ["a/1.png", "b/1.png"]),
        (["../here/a/1.png", "../here/b/1.png"], ".", ["a/1.png", "b/1.png"]),
        (["../other/x.png", "a/1.png"], "{parent}", ["here/a/1.png", "other/x.png"]),
        (["{here}/a/1.png", "a/1.png", "../here/a/1.png"], "{here}/a", ["1.png"]),
        (["{here}/a/1.png", "{parent}/hereabouts/1.png"], "{parent}", ["here/a/1.png", "hereabouts/1.png"]),
    ],
)
def test_paths_from_elsewhere_are_relative_to_their_deepest_common_folder(
    here: Path, paths: list[str], root: str, relative: list[str]
) -> None:
    create(here.parent / "other" / "x.png")
    create(here.parent / "hereabouts" / "1.png")
    fields = {"here": here, "parent": here.parent}
    found = list_images([path.format(**fields) for path in paths])
    assert (found.root, found.paths, found.rejected) == (Path(root.format(**fields)), tuple(relative), ())


@pytest.mark.parametrize("name", ["..x.png", "...", "..x/1.png"])
def test_a_name_that_begins_with_two_dots_leads_nowhere_up(here: Path, name: str) -> None:
    create(here / name)
    found = list_images([name, "a/1.png"])
    assert found.root == Path()
    assert found.paths == tuple(sorted([name, "a/1.png"]))


def test_up_from_a_linked_folder_is_up_from_where_it_leads(here: Path) -> None:
    create(here / "deep" / "right.png")
    create(here / "deep" / "in" / "x.png")
    create(here / "right.png", b"wrong")
    Path("link").symlink_to("deep/in")
    found = list_images(["link/../right.png"])
    files = [found.root / path for path in found.paths]
    assert not files or files[0].samefile("deep/right.png")


def test_what_is_no_file_is_rejected_with_a_reason(here: Path) -> None:
    os.mkfifo("pipe")
    Path("dangling").symlink_to("nowhere")
    Path("self").symlink_to("self")
    Path("good").symlink_to("a/1.png")
    names = ["gone.png", "a", "pipe", "dangling", "self", "good", "c.dat/x.png", "x" * 300, "."]
    found = list_images(names)
    assert found.paths == ("good",)
    assert found.ignored == 0
    reasons = {file.path: file.reason for file in found.rejected}
    assert [file.path for file in found.rejected] == sorted(set(names) - {"good"})
    assert reasons["gone.png"] == reasons["dangling"] == "No such file or directory"
    assert reasons["a"] == reasons["pipe"] == reasons["."] == "not a regular file"
    assert reasons["c.dat/x.png"] == "Not a directory"
    assert "too long" in reasons["x" * 300]
    assert "symbolic links" in reasons["self"]


@pytest.mark.parametrize("paths", [["a/1.png", "a\0b.png"], ["a\0b.png"]])
def test_a_path_that_cannot_exist_is_rejected_too(here: Path, paths: list[str]) -> None:
    assert [file.path for file in list_images(paths).rejected] == ["a\0b.png"]


def test_a_rejected_path_counts_once(here: Path) -> None:
    found = listed(b"gone\n./gone\na/../gone\n")
    assert found.rejected == (RejectedFile("gone", "No such file or directory"),)


def test_an_image_as_a_source_is_refused(here: Path) -> None:
    for name in ("a/1.png", "X.JPEG"):
        create(here / name, b"a/1.png\n")
        with pytest.raises(InputError, match="is one file"):
            list_images(name)


def test_a_file_too_large_for_a_list_is_refused_unread(here: Path) -> None:
    with open("huge.txt", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="is one file"):
        list_images("huge.txt")


def test_a_fifo_or_a_device_as_a_source_is_refused(here: Path) -> None:
    os.mkfifo("pipe")
    for name in ("pipe", "/dev/null"):
        with pytest.raises(InputError, match=r"cannot read source '.*': not a regular file"):
            list_images(name)


@pytest.mark.parametrize("source", ["gone.txt", "a/1.png/x", "x" * 300, "self"])
def test_a_source_that_cannot_be_read_is_an_input_error(here: Path, source: str) -> None:
    Path("self").symlink_to("self")
    with pytest.raises(InputError, match=r"cannot read source '.*': \w"):
        list_images(source)


def test_a_text_file_that_may_not_be_read_is_an_input_error(open_folder: Path) -> None:
    path = create(open_folder / "list.txt", b"a\n")
    path.chmod(0)
    with normal_user(open_folder), pytest.raises(InputError, match="Permission denied"):
        list_images(path)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd"])  # as bash and zsh write it
def test_the_output_of_a_command_is_a_list(here: Path, folder: str) -> None:
    if not os.path.isdir(folder):
        pytest.skip(f"no {folder} here")
    reading, writing = os.pipe()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as file:
            file.write(b"a/1.png\n" * 50_000 + b"b/1.png\n")  # more than a pipe holds

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = list_images(f"{folder}/{reading}")
    finally:
        os.close(reading)
        writer.join()
    assert (found.paths, found.root, found.explicit) == (("a/1.png", "b/1.png"), Path(), True)


@pytest.mark.slow
def test_a_process_substitution_is_a_list(here: Path) -> None:
    program = "import sys; from imgsubset.sources.listing import list_images; print(list_images(sys.argv[1]).paths)"
    shell = f"'{sys.executable}' -c '{program}' <(printf 'b/1.png\\na/1.png\\n')"
    try:
        run = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no bash here")
    assert (run.stdout, run.stderr) == ("('a/1.png', 'b/1.png')\n", "")


ALTERATIONS: dict[str, Callable[[Path], object]] = {
    "one more": lambda root: create(root / "a" / "0.png"),
    "one less": lambda root: (root / "a/1.png").unlink(),
    "another name": lambda root: (root / "a/1.png").rename(root / "a/3.png"),
    "another folder": lambda root: (root / "a").rename(root / "d"),
    "another size": lambda root: resize(root / "b/1.png"),
    "another time": lambda root: os.utime(root / "b/1.png", ns=(0, (root / "b/1.png").stat().st_mtime_ns + 1)),
}


def resize(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("alter", ALTERATIONS.values(), ids=ALTERATIONS)
def test_the_digest_tells_a_changed_source(here: Path, alter: Callable[[Path], object]) -> None:
    before = list_images(here).digest
    alter(here)
    assert list_images(here).digest != before


def test_the_digest_depends_on_nothing_else(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list_images(here)
    assert len(before.digest) == 64
    assert dataclasses.replace(before, name="x", rejected=(RejectedFile("x", "y"),), ignored=7).digest == before.digest
    create(here / "notes.txt", b"new")
    create(here / ".hidden.png")
    (here / "a/1.png").chmod(0o600)
    os.utime(here / "a/2.png", ns=(7, (here / "a/2.png").stat().st_mtime_ns))
    assert list_images(here).digest == before.digest
    assert list_images([name for name in NAMES if name != "c.dat"]).digest == before.digest
    here.rename(here.parent / "there")
    monkeypatch.chdir(here.parent)
    assert list_images("there").digest == before.digest
    assert before.digest == before.digest


def test_the_digest_is_of_the_files_as_they_were_listed(here: Path) -> None:
    first = list_images(NAMES)
    (here / "c.dat").write_bytes(b"another size")
    second = list_images(NAMES)
    (here / "c.dat").unlink()
    assert len({first.digest, second.digest, list_images(NAMES).digest}) == 3


def test_the_digest_does_not_run_names_together(tmp_path: Path) -> None:
    for folder, names in (("one", ["ab", "c"]), ("two", ["a", "bc"])):
        for name in names:
            os.utime(create(tmp_path / folder / name), ns=(0, 0))
    one, two = (list_paths(sorted(map(str, (tmp_path / folder).iterdir())), "x") for folder in ("one", "two"))
    assert one.paths == ("ab", "c")
    assert one.digest != two.digest


def test_the_digest_does_not_run_a_name_and_a_size_together(tmp_path: Path) -> None:
    digests = set()
    for name, size in (("a1", 2), ("a", 12)):
        path = create(tmp_path / f"{size}" / name, bytes(size))
        os.utime(path, ns=(0, 0))
        digests.add(listing_of(path.parent, (name,)).digest)
    assert len(digests) == 2


def test_the_real_path_of_a_folder_is_asked_for_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: asked.append(str(path)) or real(path))
    names = [f"../here/{folder}/{number}.png" for folder in "ab" for number in (1, 2)]
    assert list_images(names).paths == ("a/1.png", "a/2.png", "b/1.png")
    assert len(asked) == len(set(asked)) <= 3


def test_progress_is_told_of_many_images(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgsubset.sources.listing.PROGRESS_STEP_IMAGES", 50)
    told: list[tuple[str, int, int]] = []
    list_images(pictures, lambda stage, done, total, note="": told.append((stage, done, total)))
    assert told == [("list", 50, 0)] * 2  # of 120
