from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Run, create, listing_of, noise, smooth, strict_json
from conftest import read as read_of
from PIL import Image
from sources import made_up_source

from imgsubset import Options, select
from imgsubset.features.load import SourceFeatures
from imgsubset.files import Stamp
from imgsubset.statistics.moments import Block, ImageMoments
from imgsubset.tasks.constraints import (
    MAX_DUPLICATE_DISTANCE,
    NearDuplicateIndex,
    find_exact_duplicates,
    resolve_constraints,
)

PICTURE = {"device": "cpu", "workers": 0}
FAST = Options(candidates=16, chains=1, steps=8, **PICTURE)
ARGUMENTS = ("--candidates", 16, "--chains", 1, "--steps", 8, "--device", "cpu", "--workers", 0)


def source_of(root: Path, table: torch.Tensor, channels: int) -> SourceFeatures:
    """A source whose moments are made up, with a file for each row that there is none for."""
    paths = tuple(f"{row:05d}.png" for row in range(len(table)))
    stamps = []
    for path in paths:
        if not (root / path).exists():
            create(root / path, path.encode())
        stamps.append(Stamp((root / path).stat().st_size, 0))
    blocks = (Block("made up", ImageMoments(table, 16)),)
    return SourceFeatures(listing_of(root, paths), blocks, paths, tuple(stamps), (), "cpu", 0)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 smooth pictures; of 4 there are copies by content, 6 were saved again at quality 60."""
    root = tmp_path_factory.mktemp("album")
    for number in range(36):
        smooth(number, 96, 80).save(root / f"{number:02d}.png")
    (root / "more").mkdir()
    shutil.copy(root / "03.png", root / "more/copy.png")
    shutil.copy(root / "03.png", root / "more/z.PNG")
    shutil.copy(root / "07.png", root / "00copy.png")
    shutil.copy(root / "11.png", root / "more/11.jpg")  # whatever it is called
    for number in range(20, 26):
        Image.open(root / f"{number:02d}.png").save(root / f"more/{number:02d}.jpg", quality=60)
    return root


COPIES = [{"03.png", "more/copy.png", "more/z.PNG"}, {"07.png", "00copy.png"}, {"11.png", "more/11.jpg"}]
NEARLY = [{f"{number:02d}.png", f"more/{number:02d}.jpg"} for number in range(20, 26)]


def test_copies_are_found_by_content_whatever_their_names(album: Path) -> None:
    read = read_of(album, FAST)
    found = find_exact_duplicates(read.standardise())
    assert [{read.paths[row] for row in rows} for rows in found] == [COPIES[1], COPIES[0], COPIES[2]]


def test_pictures_of_equal_moments_and_other_content_are_no_exact_copies(tmp_path: Path) -> None:
    picture = smooth(1, 20, 20)
    picture.save(tmp_path / "a.png", compress_level=1)
    picture.save(tmp_path / "b.png", compress_level=9)
    shutil.copy(tmp_path / "a.png", tmp_path / "c.png")
    smooth(2, 20, 20).save(tmp_path / "d.png")
    read = read_of(tmp_path, FAST).standardise()
    assert find_exact_duplicates(read) == [(0, 2)]
    assert NearDuplicateIndex(read.blocks).of(0) == [1, 2]


def test_copies_far_apart_in_a_source_with_a_half_filled_cache_are_found(tmp_path: Path) -> None:
    for number in range(150):
        smooth(number, 12, 12).save(tmp_path / f"{number:03d}.png")
        os.utime(tmp_path / f"{number:03d}.png", (1_500_000_000, 1_500_000_000))
    options = Options(size=16, cache=str(tmp_path / "cache"), **PICTURE)
    read_of(tmp_path, options)
    for number in range(0, 150, 10):
        shutil.copy(tmp_path / f"{number:03d}.png", tmp_path / f"z{number}.png")
    read = read_of(tmp_path, options)
    assert read.cached == 150
    assert len(find_exact_duplicates(read.standardise())) == 15
    assert len(find_exact_duplicates(read_of(tmp_path, Options(size=16, **PICTURE)).standardise())) == 15


def test_a_copy_that_has_gone_is_none(album: Path, tmp_path: Path) -> None:
    root = shutil.copytree(album, tmp_path / "album")
    read = read_of(root, FAST).standardise()
    (root / "07.png").unlink()
    assert len(find_exact_duplicates(read)) == 2


def test_near_copies_are_near_and_others_are_not(album: Path) -> None:
    read = read_of(album, FAST).standardise()
    near = NearDuplicateIndex(read.blocks)
    for row, path in enumerate(read.paths):
        twins = next((one for one in COPIES + NEARLY if path in one), {path})
        assert {read.paths[one] for one in near.of(row)} == twins - {path}


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_those_of_a_look_at_every_pair(seed: int) -> None:
    images = made_up_source(400, 12, seed)
    images = ImageMoments(torch.cat([images.table, images.table[::3] + 0.01 * seed]), images.positions)
    features = images.table[:, :12].double()
    apart = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist") / 12**0.5
    for radius in (MAX_DUPLICATE_DISTANCE, 0.4):
        near = NearDuplicateIndex((Block("made up", images),), radius)
        pairs = 0
        for row in range(0, len(images), 7):
            expected = [one for one in (apart[row] < radius).nonzero()[:, 0].tolist() if one != row]
            assert near.of(row) == expected
            pairs += len(expected)
        assert pairs > 20


@pytest.mark.slow
@pytest.mark.parametrize("equal", [2000, 1000])
def test_many_equal_images_take_little_time_and_memory(tmp_path: Path, equal: int) -> None:
    images = made_up_source(2000, 32)
    table = images.table.clone()
    table[:equal] = table[0]
    for row in range(equal):
        create(tmp_path / f"{row:05d}.png", b"the same")
    source = source_of(tmp_path, table, 32)
    tracemalloc.start()
    start = time.perf_counter()
    found = find_exact_duplicates(source)
    allowed = resolve_constraints(source, Options(dedupe=True))
    seconds = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [tuple(range(equal))]
    assert allowed.copies == equal - 1
    assert allowed.excluded == frozenset(range(1, equal))
    assert seconds < 60
    assert peak < 50_000_000


# Constant and equal pictures


@pytest.mark.slow
def test_constant_pictures_of_different_colours_are_different(tmp_path: Path) -> None:
    for number in range(24):
        colour = (10 * number, 7 * number % 256, 255 - 10 * number)
        Image.new("RGB", (30, 30), colour).save(tmp_path / f"{number:02d}.png")
    Image.new("RGB", (30, 30), (0, 0, 255)).save(tmp_path / "00.bmp")
    found = select(tmp_path, 24, Options(**vars(FAST) | {"dedupe": True}))
    assert len({"00.bmp", "00.png"} & set(found.chosen)) == 1
    assert found.copies == 0


@pytest.mark.slow
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (90, 3, 200)])
def test_a_folder_of_copies_of_one_picture(
    imgsubset: Callable[..., Run], tmp_path: Path, colour: tuple[int, int, int]
) -> None:
    for number in range(7):
        Image.new("RGB", (20, 20), colour).save(create(tmp_path / "s" / f"{number}.png"))
    assert select(tmp_path / "s", 3, FAST).copies == 6
    assert select(tmp_path / "s", 1, Options(**vars(FAST) | {"dedupe": True})).chosen == ("0.png",)
    run = imgsubset("select", tmp_path / "s", tmp_path / "out", "-n", 2, "--dedupe", *ARGUMENTS)
    assert (run.code, run.out) == (3, "")
    assert "only 1 of the source may be chosen" in run.err


# Through the program


@pytest.mark.slow
def test_copies_are_counted_everywhere(imgsubset: Callable[..., Run], album: Path, tmp_path: Path) -> None:
    run = imgsubset("select", album, tmp_path / "out", "-n", 5, *ARGUMENTS)
    assert "\nNote: 4 images of the source are exact copies of others.\n" in run.out
    assert strict_json((tmp_path / "out/manifest.json").read_bytes())["counts"]["copies"] == 4
    run = imgsubset("select", album, "-n", 5, "--mode", "none", "--json", *ARGUMENTS)
    assert strict_json(run.out)["counts"]["copies"] == 4


@pytest.mark.slow
def test_a_source_without_copies_says_nothing_of_them(imgsubset: Callable[..., Run], folder: Path) -> None:
    run = imgsubset("select", folder, "-n", 5, "--mode", "none", *ARGUMENTS)
    assert "exact copies" not in run.out


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_dedupe_never_chooses_two_copies_and_bars_nothing_else(album: Path, seed: int) -> None:
    options = Options(**vars(FAST) | {"dedupe": True, "seed": seed})
    found = select(album, 36, options)  # all but the copies
    for twins in COPIES + NEARLY:
        assert len(twins & set(found.chosen)) == 1
    assert found.copies == 4
    few = select(album, 12, options)
    assert all(len(twins & set(few.chosen)) <= 1 for twins in COPIES + NEARLY)


@pytest.mark.slow
def test_dedupe_leaves_the_first_by_path_unless_another_is_kept(album: Path) -> None:
    found = select(album, 36, Options(**vars(FAST) | {"dedupe": True}))
    assert set(found.chosen) == {path for path in found.paths if "/" not in path} - {"07.png"}
    kept = ("more/z.PNG", "07.png", "more/22.jpg")
    found = select(album, 36, Options(**vars(FAST) | {"dedupe": True, "keep": kept}))
    assert {"03.png", "more/copy.png", "00copy.png", "22.png"}.isdisjoint(found.chosen)
    assert set(kept) < set(found.chosen)


@pytest.mark.slow
def test_dedupe_takes_another_copy_of_what_is_dropped(album: Path) -> None:
    found = select(album, 36, Options(**vars(FAST) | {"dedupe": True, "drop": ("03.png", "21.png")}))
    assert {"03.png", "21.png"}.isdisjoint(found.chosen)
    assert {"more/copy.png", "more/21.jpg"} < set(found.chosen)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [("03.png", "more/z.PNG"), ("20.png", "more/20.jpg")])
def test_two_kept_copies_contradict_dedupe(
    imgsubset: Callable[..., Run], album: Path, tmp_path: Path, pair: tuple[str, str]
) -> None:
    keep = create(tmp_path / "keep.txt", "\n".join(pair).encode())
    run = imgsubset("select", album, tmp_path / "out", "-n", 9, "--dedupe", "--keep", keep, *ARGUMENTS)
    assert (run.code, run.out) == (2, "")
    assert all(f"'{path}'" in run.err for path in pair)
    assert imgsubset("select", album, tmp_path / "out", "-n", 9, "--keep", keep, *ARGUMENTS).code == 0


def test_dedupe_does_not_go_with_groups(imgsubset: Callable[..., Run], album: Path, tmp_path: Path) -> None:
    run = imgsubset("select", album, tmp_path / "out", "-n", 9, "--dedupe", "--group-by", "parent", *ARGUMENTS)
    assert (run.code, run.out) == (2, "")
    assert "dedupe" in run.err


@pytest.mark.slow
def test_different_pictures_stay_beside_an_outlier(album: Path, tmp_path: Path) -> None:
    root = shutil.copytree(album, tmp_path / "album")
    Image.fromarray(noise(1, 96, 80)).save(root / "noise.png")
    Image.new("RGB", (96, 80), (255, 255, 255)).save(root / "white.png")
    found = select(root, 38, Options(**vars(FAST) | {"dedupe": True}))
    assert {"noise.png", "white.png"} < set(found.chosen)


def test_only_rows_that_may_be_near_another_are_asked_for_their_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = made_up_source(200, 8)
    images.table[150] = images.table[20]
    images.table[151] = images.table[20] + 1e-4
    source = source_of(tmp_path, images.table, 8)
    neighbours = NearDuplicateIndex(source.blocks)
    assert {row for row in range(200) if neighbours.of(row)} <= set(neighbours.candidate_rows)
    assert {20, 150, 151} <= set(neighbours.candidate_rows)
    assert len(neighbours.candidate_rows) < 20
    asked = []
    of = NearDuplicateIndex.of
    monkeypatch.setattr(NearDuplicateIndex, "of", lambda self, row: asked.append(row) or of(self, row))
    assert resolve_constraints(source, Options(dedupe=True)).excluded == {150, 151}
    assert set(asked) <= set(neighbours.candidate_rows)
