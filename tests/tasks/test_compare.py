from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import create, deal, noise, smooth, strict_json
from PIL import Image
from reference import Array, five, set_moments
from torch import Tensor

from imgsubset import Options, Overlap, Weights, compare
from imgsubset.divergence_weights import DIVERGENCE_NAMES
from imgsubset.errors import BadFilesError, InputError
from imgsubset.results.as_json import describe_comparison
from imgsubset.statistics import permutation as noisefloor
from imgsubset.statistics.generative_metrics import PRDC_NAMES
from imgsubset.tasks.compare import Comparison, Distance

SIZE = 16
OPTIONS = Options(workers=0, device="cpu", channels=(4, 6), size=SIZE)


DEALS = 100


@pytest.fixture(scope="module", autouse=True)
def fewer_deals() -> Iterator[None]:
    """Comparisons with a rougher noise floor, in a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        deal(patch, DEALS)
        yield


def colors(pixels: Tensor) -> Tensor:
    """A map for each of red, green and blue."""
    return pixels.permute(0, 3, 1, 2).float() / 256


def draw(folder: Path, seeds: range, brightness: float = 1.0) -> Path:
    for seed in seeds:
        path = folder / f"class{seed % 3}" / f"{seed:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth(seed, SIZE, SIZE).point(lambda value: int(value * brightness)).save(path)
    return folder


def plain(folder: Path, color: int, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (SIZE, SIZE), (color, color, color)).save(folder / f"{number}.png")
    return folder


def figures(found: Comparison) -> dict[str, Distance]:
    return found.divergences | {"loss": found.loss}


def everything(found: Comparison) -> dict[str, Distance | Overlap]:
    return figures(found) | found.overlaps


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of pictures: `one` and `other` of one distribution, `dark` of another. To be read only."""
    root = tmp_path_factory.mktemp("root")
    draw(root / "one", range(30))
    draw(root / "other", range(30, 50))
    draw(root / "dark", range(50, 80), 0.4)
    return root


@pytest.fixture(scope="module")
def found(root: Path) -> Comparison:
    return compare(root / "one", root / "other", OPTIONS)


@pytest.mark.slow
def test_a_comparison_says_what_was_compared(root: Path, found: Comparison) -> None:
    assert (found.first.name, found.second.name) == (str(root / "one"), str(root / "other"))
    assert found.sizes == (30, 20)
    assert tuple(found.divergences) == DIVERGENCE_NAMES
    assert (found.rejected, found.warnings, found.options, found.device) == (((), ()), (), OPTIONS, "cpu")
    assert {"list", "ingest", "compare"} <= set(found.seconds)
    record = strict_json(json.dumps(describe_comparison(found)))
    assert record["loss"]["value"] == found.loss.value
    assert record["divergences"]["js"]["value"] == found.divergences["js"].value
    assert record["overlaps"]["recall"] == dataclasses.asdict(found.recall) | {
        "ratio": found.recall.ratio,
        "differs": False,
    }
    assert tuple(found.overlaps) == PRDC_NAMES == ("precision", "recall", "density", "coverage")
    assert record["counts"] == {"first": 30, "second": 20}


@pytest.mark.slow
def test_the_floor_is_of_a_thousand_deals(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noisefloor, "run_two_sample_test", noisefloor.run_two_sample_test.func)
    found = compare(root / "one", root / "dark", OPTIONS)
    assert {one.p_value for one in figures(found).values()} == {1 / 1001}


@pytest.mark.slow
def test_a_folder_is_exactly_0_from_itself(root: Path) -> None:
    found = compare(root / "one", root / "one", OPTIONS)
    for name, one in figures(found).items():
        assert one.value == 0.0, name
        assert one.p_value == 1.0
        assert one.ratio == 0.0
        assert not one.differs
        assert one.floor_limit > one.floor_mean > 0


@pytest.mark.slow
def test_a_copy_under_other_names_is_exactly_0_away(root: Path, tmp_path: Path) -> None:
    copy_renamed(root / "one", tmp_path / "copy", 1)
    for pair in ((root / "one", tmp_path / "copy"), (tmp_path / "copy", root / "one")):
        assert {one.value for one in figures(compare(*pair, OPTIONS)).values()} == {0.0}


def copy_renamed(source: Path, target: Path, seed: int) -> Path:
    """A copy with other names, in another order and in other folders."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for number, place in enumerate(np.random.default_rng(seed).permutation(len(files))):
        path = target / ("x" * (number % 4) or "y") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[place], path)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_names_and_folders_change_no_bit(root: Path, found: Comparison, tmp_path: Path, seed: int) -> None:
    one = copy_renamed(root / "one", tmp_path / "a", seed)
    other = copy_renamed(root / "other", tmp_path / "b", seed + 10)
    assert everything(compare(one, other, OPTIONS)) == everything(found)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_decoding_processes_changes_no_bit(root: Path, found: Comparison, workers: int) -> None:
    options = dataclasses.replace(OPTIONS, workers=workers)
    assert everything(compare(root / "one", root / "other", options)) == everything(found)


@pytest.mark.slow
def test_the_cache_changes_no_bit(root: Path, found: Comparison, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, cache=str(tmp_path / "cache"))
    compare(root / "one", root / "dark", options)
    for _ in range(2):
        again = compare(root / "one", root / "other", options)
        assert everything(again) == everything(found)
        assert again.warnings == ()
    assert any((tmp_path / "cache").rglob("*"))


@pytest.mark.slow
def test_a_part_of_the_images_from_the_cache_changes_no_bit(root: Path, found: Comparison, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, cache=str(tmp_path / "cache"))
    shutil.copytree(root / "other", tmp_path / "other")
    some = sorted((tmp_path / "other").rglob("*.png"))[::3]
    compare(some, some, options)
    assert everything(compare(root / "one", tmp_path / "other", options)) == everything(found)


@pytest.mark.slow
def test_lists_of_paths_are_compared_as_folders_are(
    root: Path, found: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sorted((root / "one").rglob("*.png"), reverse=True)
    other = create(tmp_path / "list.txt", "".join(f"{path}\n" for path in (root / "other").rglob("*.png")).encode())
    again = compare(iter(one), other, OPTIONS)
    assert everything(again) == everything(found)
    assert (again.first.name, again.second.name) == ("list of paths", str(other))


def maps_of(folder: Path) -> Array:
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.rglob("*.png"))]
    return np.stack(pixels).transpose(0, 3, 1, 2) / 256


@pytest.mark.parametrize(
    "pair",
    [("one", "dark"), *(pytest.param(pair, marks=pytest.mark.slow) for pair in (("one", "other"), ("other", "one")))],
    ids=str,
)
def test_the_values_are_those_of_the_feature_maps(root: Path, pair: tuple[str, str]) -> None:
    found = compare(root / pair[0], root / pair[1], OPTIONS, extractor=colors)
    first, second = (maps_of(root / name) for name in pair)
    mean, var, _ = set_moments(first)
    first, second = ((maps - mean[:, None, None]) / np.sqrt(var)[:, None, None] for maps in (first, second))
    expected = five(second, first)
    assert {name: one.value for name, one in found.divergences.items()} == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("text", ["1,1,1,1,1", "js=1", "kl=3,frechet=1"])
def test_the_loss_is_the_mix_in_units_of_the_floor(root: Path, text: str) -> None:
    weights = Weights.parse(text)
    found = compare(root / "one", root / "other", dataclasses.replace(OPTIONS, weights=weights, networks=1))
    expected = sum(share * found.divergences[name].ratio for name, share in weights.shares().items())
    assert found.loss.value == pytest.approx(expected, rel=1e-12)
    assert found.loss.floor_mean == pytest.approx(1, rel=1e-12)
    assert found.loss.ratio == pytest.approx(found.loss.value, rel=1e-12)


@pytest.mark.slow
def test_one_distribution_lies_within_the_floor_and_another_far_outside(root: Path, found: Comparison) -> None:
    for one in figures(found).values():
        assert one.p_value > 0.02
        assert not one.differs
        assert one.value > 0
    for pair in (("one", "dark"), ("dark", "one")):
        for one in figures(compare(root / pair[0], root / pair[1], OPTIONS)).values():
            assert one.p_value == 1 / (DEALS + 1)
            assert one.differs
            assert one.ratio > 2


@pytest.mark.slow
def test_the_floor_of_two_folders_is_always_the_same(root: Path, found: Comparison) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    again = compare(root / "one", root / "other", OPTIONS)
    assert everything(again) == everything(found)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_the_options_of_the_network_count(root: Path, found: Comparison) -> None:
    for change in ({"feature_seed": 1}, {"size": 24}, {"channels": (4, 7)}, {"kernel_size": 5}):
        other = compare(root / "one", root / "other", dataclasses.replace(OPTIONS, **change))
        assert other.divergences["js"].value != found.divergences["js"].value, change
    same = compare(root / "one", root / "other", dataclasses.replace(OPTIONS, candidates=3, temperature=2.0))
    assert everything(same) == everything(found)


def few(folder: Path, count: int, seed: int) -> Path:
    for number in range(count):
        path = folder / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(100 * seed + number, SIZE, SIZE)).resize((4, 4)).resize((SIZE, SIZE)).save(path)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 3)], ids=str)
def test_sets_too_small_to_tell_apart_lie_within_the_floor(tmp_path: Path, sizes: tuple[int, int]) -> None:
    # One deal in so many is the folders themselves: rounding must not put them outside.
    deals = math.comb(sum(sizes), sizes[0])
    for seed in range(4):
        one, other = (few(tmp_path / f"{seed}{k}", count, 2 * seed + k) for k, count in enumerate(sizes))
        for name, distance in figures(compare(one, other, OPTIONS)).items():
            assert distance.p_value > 0.5 / deals, (seed, name, distance)
            assert not distance.differs, (seed, name, distance)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1), (1, 10), (10, 1), (3, 5)], ids=str)
def test_few_images_have_finite_figures(tmp_path: Path, sizes: tuple[int, int]) -> None:
    options = dataclasses.replace(OPTIONS, channels=(8, 16))
    found = compare(few(tmp_path / "a", sizes[0], 1), few(tmp_path / "b", sizes[1], 2), options)
    for one in found.overlaps.values():
        assert all(math.isfinite(value) for value in dataclasses.astuple(one))
        assert not one.differs
    for one in figures(found).values():
        assert all(math.isfinite(value) for value in dataclasses.astuple(one))
        assert one.value > 0
        assert one.floor_limit >= one.floor_mean * (1 - 1e-9) > 0
        assert 0 < one.p_value <= 1


@pytest.mark.slow
@pytest.mark.parametrize("color", [0, 128, 255])
@pytest.mark.parametrize("counts", [(1, 1), (5, 5), (2, 9)], ids=str)
@pytest.mark.parametrize("extractor", [None, colors])
def test_equal_constant_images_are_0_apart(
    tmp_path: Path, color: int, counts: tuple[int, int], extractor: Callable[[Tensor], Tensor] | None
) -> None:
    one, other = (plain(tmp_path / str(k), color, count) for k, count in enumerate(counts))
    found = compare(one, other, OPTIONS, extractor=extractor)
    assert [one.value for one in (found.precision, found.recall, found.coverage)] == [1, 1, 1]
    assert found.density.value == pytest.approx(counts[0] / max(1, counts[0] - 1))
    for distance in figures(found).values():
        assert distance.value == pytest.approx(0, abs=1e-6)
        assert distance.p_value > 0.05
        assert not distance.differs
        assert math.isfinite(distance.ratio)


@pytest.mark.slow
@pytest.mark.parametrize("extractor", [None, colors])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("counts", [(10, 10), (6, 20)], ids=str)
def test_black_and_white_images_differ(
    tmp_path: Path, extractor: Callable[[Tensor], Tensor] | None, turned: bool, counts: tuple[int, int]
) -> None:
    folders = [plain(tmp_path / "black", 0, counts[0]), plain(tmp_path / "white", 255, counts[1])]
    found = compare(*(folders[::-1] if turned else folders), OPTIONS, extractor=extractor)
    for name, one in figures(found).items():
        assert all(math.isfinite(value) for value in dataclasses.astuple(one))
        assert one.value > 0.01, name
        assert one.value > one.floor_mean, name
        assert one.p_value < 0.01, name
    assert {one.value for one in found.overlaps.values()} == {0.0}
    assert all(one.differs for one in found.overlaps.values())
    assert found.loss.value > 1
    assert not any("every subset is as close" in warning for warning in found.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True])
def test_constant_images_differ_from_pictures(root: Path, tmp_path: Path, turned: bool) -> None:
    folders = [plain(tmp_path / "grey", 128, 20), root / "one"]
    found = compare(*(folders[::-1] if turned else folders), OPTIONS)
    for name, one in figures(found).items():
        assert all(math.isfinite(value) for value in dataclasses.astuple(one))
        assert one.differs, name
        assert one.p_value == 1 / (DEALS + 1)


@pytest.mark.slow
def test_files_that_are_not_usable_are_named_for_each_side(root: Path, tmp_path: Path) -> None:
    for side, count in (("a", 1), ("b", 2)):
        draw(tmp_path / side, range(4))
        for number in range(count):
            create(tmp_path / side / f"bad{number}.png", b"no picture")
    found = compare(tmp_path / "a", tmp_path / "b", OPTIONS)
    assert found.sizes == (4, 4)
    assert [[file.path for file in files] for files in found.rejected] == [["bad0.png"], ["bad0.png", "bad1.png"]]
    assert found.loss.value == 0
    for pair in (("a", root / "one"), (root / "one", "b")):
        with pytest.raises(BadFilesError, match=r"cannot be used: 'bad0\.png'"):
            compare(*(tmp_path / side for side in pair), dataclasses.replace(OPTIONS, strict=True))


def test_a_side_without_images_is_an_input_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    create(tmp_path / "bad" / "x.png", b"no picture")
    for name, text in (("empty", "no images in"), ("bad", "can be decoded"), ("gone", "No such file")):
        for pair in ((root / "one", tmp_path / name), (tmp_path / name, root / "one")):
            with pytest.raises(InputError, match=text):
                compare(*pair, OPTIONS)


@pytest.mark.slow
def test_progress_is_told_of_every_image_of_both(root: Path) -> None:
    done: dict[str, int] = {}

    def progress(stage: str, count: int, total: int, note: str = "") -> None:
        done[stage] = done.get(stage, 0) + count

    compare(root / "one", root / "other", OPTIONS, progress=progress)
    assert done["decode"] == 50
