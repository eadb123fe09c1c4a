"""Several archives as one source."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from archives import png, tar_of, zip_of
from conftest import create

from imgsubset.annotations.label_files import find_sidecars
from imgsubset.errors import InputError, UsageError
from imgsubset.sources.containers import expand_pattern, is_shard_pattern
from imgsubset.sources.listing import list_images
from imgsubset.sources.python_sources import read_stored_classes


@pytest.mark.parametrize(
    "pattern",
    ["{000..012}.tar", "a{8..11}-{b,,cc}x{2..0}", "{07..9}", "{0..3}", "{3..11}", "{1..01}", "x{a,b}{1..1}.tar"],
)
def test_patterns_stand_for_what_a_shell_has_them_stand_for(pattern: str) -> None:
    assert is_shard_pattern(pattern)
    printed = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert expand_pattern(pattern) == printed.stdout.splitlines()


@pytest.mark.parametrize("name", ["a.tar", "{}.tar", "{a}.tar", "{1..a}", "a..b"])
def test_other_names_are_no_patterns(name: str) -> None:
    assert not is_shard_pattern(name)


def test_a_folder_called_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    create(tmp_path / "{0..1}" / "a.png")
    assert list_images(tmp_path / "{0..1}").paths == ("a.png",)


def test_too_many_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match="stands for more than 100,000 files"):
        list_images("{0..99999999999999999999}-{1..9}.tar")


def test_paths_are_as_in_the_archives_unless_two_share_one(tmp_path: Path) -> None:
    contents = [{f"{number}.png": png(number), f"{number}.cls": b"%d" % number} for number in range(4)]
    for number, content in enumerate(contents):
        create(tmp_path / f"s{number}.tar", (tar_of, zip_of)[number % 2](content))
    names = [tmp_path / f"s{number}.tar" for number in range(4)]
    whole = list_images(tmp_path / "s{0..3}.tar")
    assert whole.paths == ("0.png", "1.png", "2.png", "3.png")
    assert [(whole.open(path).read(), whole.stamp(path).size) for path in whole.paths] == [
        (content, len(content)) for content in (png(number) for number in range(4))
    ]
    assert list_images(names).paths == whole.paths == list_images(reversed(names)).paths
    listed = create(tmp_path / "list.txt", "\n".join(map(str, names)).encode())
    assert list_images(listed).paths == whole.paths
    create(tmp_path / "s4.tar", tar_of({"../3.png": b"", "2.png": png(9)}))
    twice = list_images(tmp_path / "s{0..4}.tar")
    assert twice.paths == ("s0/0.png", "s1/1.png", "s2/2.png", "s3/3.png", "s4/2.png")
    assert [file.path for file in twice.rejected] == ["../3.png"]
    assert list_images([names[0], names[0]]).paths == ("0.png",)


def test_members_of_one_sample_go_together(tmp_path: Path) -> None:
    files = "1.jpg 1.cls 1.json 1.left.txt 10.jpg 10.cls a/1.left.jpg a/1.right.jpg a/1.cls a/1.seg.npy 1".split()
    path = create(tmp_path / "s0.tar", tar_of(dict.fromkeys(files, b"")))
    source = list_images([path])
    assert find_sidecars(source, source.paths, source.paths) == {
        "1.jpg": ("1", "1.cls", "1.json", "1.left.txt"),
        "10.jpg": ("10.cls",),
        "a/1.left.jpg": ("a/1.cls", "a/1.seg.npy"),
        "a/1.right.jpg": ("a/1.cls", "a/1.seg.npy"),
    }
    assert find_sidecars(list_images(path), ["1.jpg"], source.paths) == {"1.jpg": ("1", "1.cls", "1.json")}


@pytest.mark.parametrize("name", ["s-0.tar", "s-{0,0}.tar"])
def test_the_classes_are_those_of_the_samples(tmp_path: Path, name: str) -> None:
    def classes(**contents: bytes) -> object:
        pictures = {f"{sample}.png": b"" for sample in ("1", "a/2")}
        create(tmp_path / "s-0.tar", tar_of(pictures | {key.replace("_", "/"): one for key, one in contents.items()}))
        found = read_stored_classes(list_images(tmp_path / name))
        return found and found.by_path()

    assert classes() is None
    assert classes(**{"1.cls": b"7\n", "a_2.cls": "\u00fc b".encode()}) == {"1.png": "7", "a/2.png": "\u00fc b"}
    for lone in ({}, {"a_2.cls": b"\n"}, {"a_2.cls": b"x" * 1001}, {"2.cls": b"1"}):
        with pytest.raises(InputError, match=r"^source '.*' has no class for 1 of its 2 images, such as 'a/2\.png'; "):
            classes(**{"1.cls": b"7", **lone})


def test_a_shard_that_is_missing_or_none_is_named(tmp_path: Path) -> None:
    create(tmp_path / "s0.tar", tar_of({"a.png": png(0)}))
    with pytest.raises(InputError, match=r"^cannot read '.*/s1.tar' of source '.*/s\{0..2\}.tar': No such file"):
        list_images(tmp_path / "s{0..2}.tar")
    for content, what in ((b"", "is an empty file"), (b"x" * 999, "cannot be read as a tar archive")):
        create(tmp_path / "s1.tar", content)
        with pytest.raises(InputError, match=f"^source '.*/s1.tar' {what}"):
            list_images(tmp_path / "s{0..1}.tar")
    create(tmp_path / "s2.txt", b"a.png")
    with pytest.raises(InputError, match="no tar or zip archive"):
        list_images(str(tmp_path / "s{2,3}.txt"))


def test_a_shard_that_is_cut_off_is_named(tmp_path: Path) -> None:
    whole = tar_of({f"{number}.png": png(number) for number in range(3)})
    create(tmp_path / "s0.tar", whole)
    create(tmp_path / "s1.tar", tar_of({"x.png": png(5)})[:512])
    found = list_images(tmp_path / "s{0..1}.tar")
    assert found.paths == ("0.png", "1.png", "2.png")
    assert [file.path for file in found.rejected] == ["x.png"]
    assert [file.reason.partition(":")[0] for file in found.ignored_files] == ["s1.tar"]
