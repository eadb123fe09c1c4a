from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import create, normal_user, read, smooth

from imgsubset import Options, export, select
from imgsubset.features.load import SourceFeatures
from imgsubset.sources.listing import RejectedFile, list_images
from imgsubset.tasks.existing_subset import SubsetMembers, match_files, match_manifest
from imgsubset.writing.manifest import read_manifest

OPTIONS = Options(workers=0, candidates=8, steps=2, device="cpu", channels=(4,), size=16)
NAMES = ("a/1.png", "a/2.png", "b/1.png", "b/deep/3.png", "twin/x.png", "twin/y.png", "z.png")
SOME = ("a/2.png", "b/1.png", "b/deep/3.png")
TWINS = ("twin/x.png", "twin/y.png")


@pytest.fixture(autouse=True)
def source_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures, of which two are the same, and one that cannot be decoded; the current folder is the one above."""
    for number, name in enumerate(NAMES):
        path = create(tmp_path / "source" / name)
        smooth(4 if name in TWINS else number, 16, 16).save(path)
    create(tmp_path / "source" / "broken.png", b"no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "source"


@pytest.fixture
def source(source_folder: Path) -> SourceFeatures:
    return read("source", OPTIONS)


def copy(names: Sequence[str], rename: Callable[[str], str] = str, folder: str = "subset") -> Path:
    for name in names:
        target = Path(folder, rename(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("source", name), target)
    return Path(folder)


def check(found: SubsetMembers, names: Sequence[str], source: SourceFeatures, foreign: Sequence[str] = ()) -> None:
    assert [source.paths[row] for row in found.rows] == sorted(names)
    assert [file.path for file in found.foreign] == sorted(foreign)
    assert all(file.reason for file in found.foreign)


RENAMES: dict[str, Callable[[str], str]] = {
    "the same": str,
    "flattened": lambda path: path.replace("/", "_"),
    "numbered": lambda path: f"{NAMES.index(path)}.png",
    "in other folders": lambda path: f"new/{path}",
    "with other endings": lambda path: f"{path}.JPG",
    "swapped": lambda path: NAMES[(NAMES.index(path) + 1) % len(NAMES)],
}


@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES)
@pytest.mark.parametrize("names", [SOME, NAMES, ("z.png",), TWINS], ids=len)
def test_copies_are_found_whatever_they_are_called(
    source: SourceFeatures, rename: Callable[[str], str], names: Sequence[str]
) -> None:
    check(match_files(list_images(copy(names, rename)), source), names, source)


def test_metadata_do_not_matter(source: SourceFeatures) -> None:
    copy(SOME)
    for path in Path("subset").rglob("*.png"):
        os.utime(path, ns=(0, 0))
        path.chmod(0o600)
    check(match_files(list_images("subset"), source), SOME, source)


def test_the_source_is_a_subset_of_itself(source: SourceFeatures) -> None:
    check(match_files(list_images("source"), source), NAMES, source, ["broken.png"])


def test_a_folder_of_the_source_is_a_subset_of_it(source: SourceFeatures) -> None:
    check(match_files(list_images("source/b"), source), SOME[1:], source)
    check(match_files(list_images("source/twin"), source), TWINS, source)


def as_listed(names: Sequence[str], form: str) -> list[str]:
    forms = {
        "from the current folder": "source/{}",
        "from the source": "{}",
        "absolute": "{here}/source/{}",
        "roundabout": "./source/../source//{}",
        "from above": "../{up}/source/{}",
    }
    return [forms[form].format(name, here=Path.cwd(), up=Path.cwd().name) for name in names]


FORMS = ("from the current folder", "from the source", "absolute", "roundabout", "from above")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("names", [SOME, NAMES, TWINS], ids=len)
def test_a_list_of_paths_starts_anywhere(source: SourceFeatures, form: str, names: Sequence[str]) -> None:
    paths = as_listed(names, form)
    Path("list.txt").write_text("\n".join(paths))
    for subset in ("list.txt", paths, [Path(path) for path in paths[::-1]]):
        check(match_files(list_images(subset), source), names, source)


def test_paths_from_here_and_from_the_source_may_be_mixed(source: SourceFeatures) -> None:
    paths = ["source/a/2.png", "b/1.png", "z.png"]
    check(match_files(list_images(paths), source), ["a/2.png", "b/1.png", "z.png"], source)


def test_of_paths_from_everywhere_none_is_lost(source: SourceFeatures) -> None:
    paths = [str(Path.cwd() / "source/a/2.png"), "source/z.png", "b/1.png"]
    found = match_files(list_images(paths), source)
    assert {"a/2.png", "z.png"} <= {source.paths[row] for row in found.rows}
    assert len(found.rows) + len(found.foreign) == 3


def test_a_list_names_just_the_file_of_two_that_are_the_same(source: SourceFeatures) -> None:
    for name in TWINS:
        for form in FORMS:
            check(match_files(list_images(as_listed([name], form)), source), [name], source)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["a/same.png", "b/same.png"])
def test_a_list_names_just_the_file_of_two_of_the_same_name(source_folder: Path, form: str, name: str) -> None:
    for folder in ("a", "b"):
        smooth(77, 16, 16).save(source_folder / folder / "same.png")
    source = read("source", OPTIONS)
    check(match_files(list_images(as_listed([name], form)), source), [name], source)
    check(
        match_files(list_images(source_folder / name[0]), source), [x for x in source.paths if x[0] == name[0]], source
    )


def test_a_listed_path_that_exists_nowhere_is_foreign(source: SourceFeatures) -> None:
    found = match_files(list_images(["source/a/2.png", "gone.png", "source/gone.png"]), source)
    check(found, ["a/2.png"], source, ["gone.png", "source/gone.png"])
    assert found.foreign[0].reason == "No such file or directory"


def test_a_listed_file_that_cannot_be_decoded_is_foreign_with_the_reason(source: SourceFeatures) -> None:
    for path in ("source/broken.png", "broken.png"):
        found = match_files(list_images([path, "source/z.png"]), source)
        check(found, ["z.png"], source, [path])


def test_a_copy_of_what_cannot_be_decoded_says_so(source: SourceFeatures) -> None:
    copy(["broken.png", "z.png"])
    found = match_files(list_images("subset"), source)
    check(found, ["z.png"], source, ["broken.png"])
    assert "cannot be used in the source either" in found.foreign[0].reason


def test_an_unknown_file_is_foreign(source: SourceFeatures) -> None:
    copy(SOME)
    smooth(99, 16, 16).save("subset/new.png")
    found = match_files(list_images("subset"), source)
    check(found, SOME, source, ["new.png"])
    assert found.foreign[0].reason == "not in the source 'source'"


@pytest.mark.parametrize("alter", ["another picture", "a byte of the same size", "cut"])
def test_other_content_under_a_known_name_is_foreign(source: SourceFeatures, alter: str) -> None:
    path = copy(SOME) / "b/1.png"
    content = bytearray(path.read_bytes())
    if alter == "another picture":
        smooth(99, 16, 16).save(path)
    else:
        content[-1] ^= 1
        path.write_bytes(content[:-1] if alter == "cut" else content)
    found = match_files(list_images("subset"), source)
    check(found, ["a/2.png", "b/deep/3.png"], source, ["b/1.png"])
    assert found.foreign[0].reason == "of other content than in the source 'source'"


def test_a_picture_of_the_same_pixels_in_another_file_is_foreign(source: SourceFeatures) -> None:
    Path("subset").mkdir()
    smooth(6, 16, 16).save("subset/z.bmp")
    check(match_files(list_images("subset"), source), [], source, ["z.bmp"])


def test_a_second_copy_of_one_image_is_foreign(source: SourceFeatures) -> None:
    copy(SOME)
    copy(["a/2.png"], lambda _: "0.png")
    found = match_files(list_images("subset"), source)
    check(found, SOME, source, ["0.png"])
    assert found.foreign[0].reason == "another copy of 'a/2.png'"


@pytest.mark.parametrize(
    ("names", "foreign"),
    [
        (["1.png"], []),
        (["1.png", "2.png"], []),
        (["1.png", "2.png", "3.png"], ["3.png"]),
        (["twin/y.png", "0.png"], []),
        (["twin/x.png", "twin/y.png", "0.png"], ["0.png"]),
    ],
)
def test_as_many_copies_match_as_the_source_has(source: SourceFeatures, names: list[str], foreign: list[str]) -> None:
    for name in names:
        copy(["twin/x.png"], lambda _, name=name: name)  # type: ignore[misc]
    found = match_files(list_images("subset"), source)
    assert [file.path for file in found.foreign] == foreign
    expected = TWINS[: len(names)] if "twin/y.png" not in names or len(names) > 1 else TWINS[1:]
    assert {source.paths[row] for row in found.rows} == set(expected)


def test_of_equal_files_the_one_of_the_same_name_is_meant(source: SourceFeatures) -> None:
    copy(["twin/y.png"], lambda _: "new/y.png")
    check(match_files(list_images("subset"), source), ["twin/y.png"], source)
    shutil.rmtree("subset")
    copy(["twin/x.png"], lambda _: "a/y.png")
    check(match_files(list_images("subset"), source), ["twin/y.png"], source)


@pytest.mark.parametrize("symbolic", [True, False])
@pytest.mark.parametrize("rename", [RENAMES["the same"], RENAMES["numbered"]])
def test_links_into_the_source_are_its_images(
    source: SourceFeatures, symbolic: bool, rename: Callable[[str], str]
) -> None:
    names = [*SOME, *TWINS]
    for name in names:
        target = Path("subset", rename(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        original = Path.cwd() / "source" / name
        target.symlink_to(original) if symbolic else target.hardlink_to(original)
    check(match_files(list_images("subset"), source), names, source)


def test_a_link_to_a_folder_of_the_source_is_followed(source: SourceFeatures) -> None:
    Path("subset").mkdir()
    Path("subset/linked").symlink_to(Path.cwd() / "source" / "b")
    check(match_files(list_images("subset"), source), SOME[1:], source)


def test_a_source_behind_a_link_is_the_same(source_folder: Path) -> None:
    Path("link").symlink_to("source")
    source = read("link", OPTIONS)
    for paths in (as_listed(NAMES, "absolute"), as_listed(NAMES, "from the source"), copy(NAMES)):
        check(match_files(list_images(paths), source), NAMES, source)


def test_a_source_given_as_a_list_is_matched_too(source_folder: Path) -> None:
    source = read([f"source/{name}" for name in NAMES], OPTIONS)
    assert source.paths[0] == "source/a/1.png"
    found = match_files(list_images(copy(SOME)), source)
    assert [source.paths[row] for row in found.rows] == [f"source/{name}" for name in SOME]
    found = match_files(list_images([f"source/{name}" for name in SOME]), source)
    assert [source.paths[row] for row in found.rows] == [f"source/{name}" for name in SOME]


def test_odd_names_are_matched(source_folder: Path) -> None:
    names = ["\udcff.png", "a\nb.png", "ä 画.png", "-x.png"]
    for number, name in enumerate(names):
        smooth(50 + number, 16, 16).save(create(source_folder / name))
    source = read("source", OPTIONS)
    check(match_files(list_images(copy(names)), source), names, source)
    Path("list").write_bytes(b"\0".join(os.fsencode(f"source/{name}") for name in names))
    check(match_files(list_images("list"), source), names, source)


def test_files_that_cannot_be_read_are_foreign(source: SourceFeatures) -> None:
    copy(["z.png"])
    os.mkfifo("subset/pipe.png")
    Path("subset/dangling.png").symlink_to("nowhere")
    check(match_files(list_images("subset"), source), ["z.png"], source, ["dangling.png", "pipe.png"])


def test_a_subset_that_changes_after_it_was_listed_is_foreign(source: SourceFeatures) -> None:
    copy(SOME)
    listing = list_images("subset")
    Path("subset/a/2.png").unlink()
    Path("subset/b/1.png").unlink()
    os.mkfifo("subset/b/1.png")
    check(match_files(listing, source), ["b/deep/3.png"], source, ["a/2.png", "b/1.png"])


def test_a_file_of_the_subset_that_may_not_be_read_is_foreign(open_folder: Path) -> None:
    shutil.copytree("source", open_folder / "source")
    copy(["z.png", "a/1.png"], folder=str(open_folder / "subset"))
    source = read(open_folder / "source", OPTIONS)
    (open_folder / "subset" / "z.png").chmod(0)
    with normal_user(open_folder):
        found = match_files(list_images(open_folder / "subset"), source)
    check(found, ["a/1.png"], source, ["z.png"])
    assert found.foreign[0].reason == "Permission denied"


# Manifests


@pytest.fixture
def exported(source_folder: Path) -> Path:
    export(select("source", len(SOME), OPTIONS), "out")
    return Path("out")


def chosen(folder: Path) -> list[str]:
    return [entry["path"] for entry in json.loads((folder / "manifest.json").read_bytes())["files"]]


def test_a_manifest_names_the_images_even_without_its_copies(source: SourceFeatures, exported: Path) -> None:
    names = chosen(exported)
    assert len(names) == len(SOME)
    check(match_manifest(read_manifest(exported), source), names, source)
    (exported / "manifest.json").rename("alone.json")
    shutil.rmtree(exported)
    check(match_manifest(read_manifest("alone.json"), source), names, source)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["changed", "gone", "undecodable", "unknown"])
def test_what_a_manifest_lists_and_the_source_has_no_more_is_foreign(exported: Path, fault: str) -> None:
    names = chosen(exported)
    path = Path("source", names[0])
    expected = ""
    if fault == "changed":
        smooth(99, 16, 16).save(path)
        expected = "not what it was when it was chosen"
    elif fault == "gone":
        path.unlink()
        expected = "not in the source 'source'"
    elif fault == "undecodable":
        path.write_bytes(b"no picture")
        expected = "cannot be used in the source either: "
    else:
        record = json.loads((exported / "manifest.json").read_bytes())
        record["files"].append({"path": "Zebra.png", "rank": 9, "sha256": "0" * 64})
        (exported / "manifest.json").write_text(json.dumps(record))
        expected, names = "not in the source 'source'", ["Zebra.png", *names]
    source = read("source", OPTIONS)
    found = match_manifest(read_manifest(exported), source)
    check(found, names[1:], source, names[:1])
    assert found.foreign[0].reason.startswith(expected)


def test_a_file_that_goes_while_it_is_matched_is_foreign(source: SourceFeatures, exported: Path) -> None:
    names = chosen(exported)
    Path("source", names[0]).unlink()
    found = match_manifest(read_manifest(exported), source)
    assert found.foreign == (RejectedFile(names[0], "No such file or directory"),)


@pytest.mark.slow
def test_a_manifest_without_hashes_is_matched_by_paths(source: SourceFeatures, exported: Path) -> None:
    manifest = read_manifest(exported)
    paths_alone = dataclasses.replace(manifest, hashes=dict.fromkeys(manifest.hashes))
    check(match_manifest(paths_alone, source), chosen(exported), source)


@pytest.mark.slow
def test_a_folder_with_a_manifest_is_matched_by_its_files(source: SourceFeatures, exported: Path) -> None:
    names = chosen(exported)
    (exported / names[0]).unlink()
    check(match_files(list_images(exported), source), names[1:], source)
