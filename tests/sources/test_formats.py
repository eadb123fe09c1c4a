from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, create, listing_of, smooth

from imgsubset.annotations.filters import list_candidates
from imgsubset.decoding.decode import decode_image, explain_failure
from imgsubset.errors import BadFilesError, InputError
from imgsubset.options import Options
from imgsubset.sources.images import UNSUPPORTED_IMAGE_SUFFIXES, describe_unsupported_name
from imgsubset.sources.listing import list_images

FAST = "--candidates 16 --chains 1 --steps 8 --size 16 --channels 8 --device cpu --workers 0".split()


def archives() -> dict[str, bytes]:
    """Archives of one small file, by suffix."""
    buffer, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("a.jpg", b"x")
    with tarfile.open(fileobj=tar, mode="w") as tarred:
        tarred.addfile(tarfile.TarInfo("a.jpg"))
    return {".zip": buffer.getvalue(), ".tar": tar.getvalue(), ".gz": gzip.compress(b"x")}


CONTENT = archives() | {
    ".7z": b"7z\xbc\xaf\x27\x1c\0\x04",
    ".rar": b"Rar!\x1a\x07\x01\0",
    ".parquet": b"PAR1\x15\x04",
    ".avif": b"\0\0\0 ftypavif\0\0\0\0",
    ".heic": b"\0\0\0\x24ftypheic\0\0\0\0",
    ".dcm": bytes(128) + b"DICM\x02\0",
}


ARCHIVES = {  # which are sources of their own
    ".parquet": CONTENT[".parquet"],
    ".zip": b"PK\x03\x04 and no more",
    ".tar": b"x" * 257 + b"ustar\0" + bytes(600),
}
# which are sources of their own
REFUSED = [suffix for suffix in CONTENT if suffix not in ARCHIVES]


@pytest.mark.parametrize("suffix", ARCHIVES)
@pytest.mark.parametrize("name", ["photos", "photos.zip", "photos.tar"])
def test_an_archive_that_is_none_is_refused(tmp_path: Path, suffix: str, name: str) -> None:
    source = create(tmp_path / name, ARCHIVES[suffix])
    with pytest.raises(
        InputError, match=f"^source '.*' cannot be read as {describe_unsupported_name('x' + suffix).partition(',')[0]}"
    ):
        list_images(source)


@pytest.mark.parametrize("suffix", [*REFUSED, ".CR2", ".nef", ".tgz"])
def test_a_source_that_is_not_read_is_refused_by_its_name(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match=f"^source '.*' is {describe_unsupported_name('x' + suffix)}$"):
        list_images(create(tmp_path / f"photos{suffix}", b"a.jpg\n"))


@pytest.mark.parametrize("suffix", REFUSED)
def test_a_source_that_is_not_read_is_refused_by_its_content(tmp_path: Path, suffix: str) -> None:
    source = create(tmp_path / "photos", CONTENT[suffix])
    with pytest.raises(InputError, match=f"^source '.*' is {describe_unsupported_name('x' + suffix)}$"):
        list_images(source)


@pytest.mark.parametrize("first", ["PAR1_a.png", "BZh.png", "PK.png", "ustar.png", "x.zip"])
def test_a_list_whose_first_path_looks_like_a_format_is_a_list(tmp_path: Path, first: str) -> None:
    assert [file.path for file in list_images(create(tmp_path / "list", f"{first}\n".encode())).rejected] == [first]


def test_a_folder_called_like_an_archive_is_a_folder(tmp_path: Path) -> None:
    create(tmp_path / "x.zip/y.tar/a.jpg")
    assert list_images(tmp_path / "x.zip").paths == ("y.tar/a.jpg",)


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    for suffix in (*CONTENT, ".txt", ".JXL"):
        create(tmp_path / f"x{suffix}")
    found = list_images(tmp_path)
    named = {file.path: file.reason for file in (*found.rejected, *found.ignored_files)}
    assert named == {f"x{suffix}": describe_unsupported_name(f"x{suffix}") for suffix in (*CONTENT, ".JXL")}
    assert (
        {Path(file.path).suffix.lower() for file in found.rejected}
        == {".avif", ".dcm", ".heic", ".jxl"}
        <= UNSUPPORTED_IMAGE_SUFFIXES
    )
    assert found.ignored == 7  # the archives and the text


@pytest.mark.parametrize("suffix", [".zip", ".avif", ".dcm"])
def test_a_file_that_is_not_read_is_named_under_an_images_name(tmp_path: Path, suffix: str) -> None:
    file = create(tmp_path / "a.jpg", CONTENT[suffix])
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever Pillow raises)
        decode_image(file, [8])
    assert explain_failure(caught.value, file) == describe_unsupported_name("x" + suffix)


def test_hidden_images_and_folders_are_known(tmp_path: Path) -> None:
    for name in ("a.png", "..\\b.png", "..c.png", ".d/e.png", ".f.txt"):
        create(tmp_path / name)
    assert list_images(tmp_path).paths == ("a.png",)
    assert list_images(tmp_path).hidden == ("..\\b.png", "..c.png", ".d")


def test_what_is_excluded_is_not_rejected_either(tmp_path: Path) -> None:
    for name in ("a.png", "b.avif", "c/d.heic"):
        create(tmp_path / name)
    for options, left in [
        ({}, ["b.avif", "c/d.heic"]),
        ({"exclude": ("*.avif",)}, ["c/d.heic"]),
        ({"exclude": ("c/",)}, ["b.avif"]),
        ({"include": ("*.png",)}, []),
    ]:
        found = list_candidates(tmp_path, Options(**options))  # type: ignore[arg-type]
        assert (found.paths, [file.path for file in found.rejected]) == (("a.png",), left)


def test_folders_of_labels_are_named_with_their_number_of_pictures() -> None:
    paths = ("x/images/a.png", "x/labels/a.png", "x/labels/b/c.png")
    listing = listing_of(Path("source"), paths)
    (found,) = list_candidates(listing, Options()).ignored_files
    assert found.path == "x/labels"
    assert found.reason.startswith("2 pictures in it are taken for labels")
    (found,) = list_candidates(listing, Options(exclude=("b/",))).ignored_files
    assert found.reason.startswith("1 picture in it is taken for a label")


@pytest.mark.slow
def test_the_summary_names_what_is_passed_over(imgsubset: Callable[..., Run], tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / "images").mkdir(exist_ok=True)
        smooth(number, 16, 16).save(tmp_path / f"images/{number}.png")
    for name in ("b.zip", "labels/1.png", ".hidden.png"):
        create(tmp_path / name)
    run = imgsubset("select", tmp_path, "--mode", "none", "-n", 3, "--strict", *FAST)
    assert run.code == 0, run
    assert (
        "\npassed over 2 files:\n  b.zip: a zip archive, which is not looked into; give it as a source of its own"
        in run.out
    )
    assert "  labels: 1 picture in it is taken for a label" in run.out
    assert "hidden" not in run.out
    verbose = imgsubset("select", tmp_path, "--mode", "none", "-n", 3, "-v", *FAST)
    assert verbose.out.endswith("\nhidden: .hidden.png\n")
    create(tmp_path / "c.avif")
    assert imgsubset("select", tmp_path, "--mode", "none", "-n", 3, "--strict", *FAST).code == BadFilesError.exit_code
