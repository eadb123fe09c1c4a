"""Whether `compare` tells a generator that blurs from one that copies."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from imgsubset import Comparison, Options, compare
from imgsubset.results.as_text import comparison_summary
from imgsubset.statistics import generative_metrics, permutation

SIZE, COUNT = 32, 60
OPTIONS = Options(workers=0, device="cpu", size=SIZE, networks=2)


@pytest.fixture(scope="module", autouse=True)
def fewer_deals() -> Iterator[None]:
    """Comparisons with a rougher noise floor, in a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((permutation, "run_two_sample_test"), (generative_metrics, "compare_prdc")):
            patch.setattr(module, name, functools.partial(getattr(module, name), draws=100))
        yield


def photograph(seed: int) -> Image.Image:
    """Waves whose strength falls with their frequency, as in photographs, of some contrast around some colour."""
    random = np.random.default_rng(seed)
    waves = np.fft.fft2(random.normal(size=(SIZE, SIZE)))
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIZE)] * 2)).clip(min=1 / SIZE)
    grey = np.fft.ifft2(waves / frequency ** random.uniform(0.8, 1.2)).real
    pixels = random.uniform(80, 170, 3) + (grey / grey.std() * random.uniform(20, 50))[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def put(folder: Path, images: Iterable[Image.Image]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: `real` images; what generators made that are perfect, blur, or copy three of them. To be read only."""
    root = tmp_path_factory.mktemp("root")
    real, perfect = ([photograph(first + number) for number in range(COUNT)] for first in (0, 1000))
    put(root / "real", real)
    put(root / "perfect", perfect)
    put(root / "blurred", (image.filter(ImageFilter.GaussianBlur(1.5)) for image in perfect))
    put(root / "copied", [real[number % 3] for number in range(COUNT)])
    return root


@functools.cache
def found(root: Path, name: str) -> Comparison:
    return compare(root / "real", root / name, OPTIONS)


def low(comparison: Comparison) -> set[str]:
    return {name for name, one in comparison.overlaps.items() if one.differs}


def values(comparison: Comparison) -> list[float]:
    return [one.value for one in comparison.overlaps.values()]


@pytest.mark.slow
def test_images_of_one_distribution_lie_within_the_floor(root: Path) -> None:
    comparison = found(root, "perfect")
    assert low(comparison) == set()
    assert all(one.p_value > 0.01 for one in comparison.overlaps.values())
    assert comparison.density.floor_mean == pytest.approx(1, abs=0.05)


def test_one_that_blurs_has_a_low_precision(root: Path) -> None:
    comparison = found(root, "blurred")
    assert {"precision", "density"} <= low(comparison)
    assert comparison.precision.p_value == comparison.density.p_value == 1 / 101
    assert comparison.density.ratio < 0.7
    assert "has few images: precision, density." in comparison_summary(comparison)


def test_to_random_networks_alone_a_blurred_picture_is_a_usual_one(root: Path) -> None:
    def alone(pixels: torch.Tensor) -> torch.Tensor:
        return network(pixels)

    from imgsubset.features.random_cnn import RandomCNN

    network = RandomCNN((16, 32, 32), activation="leaky")
    assert not compare(root / "real", root / "blurred", OPTIONS, extractor=alone).precision.differs


@pytest.mark.slow
def test_one_that_copies_a_few_images_has_a_low_coverage(root: Path) -> None:
    comparison = found(root, "copied")
    assert {"recall", "coverage"} <= low(comparison)
    assert comparison.recall.value == 3 / COUNT
    assert comparison.coverage.value < 0.4 * comparison.coverage.floor_limit
    assert (comparison.precision.value, comparison.precision.p_value) == (1, 1)


@pytest.mark.slow
def test_a_folder_against_itself_overlaps_wholly(root: Path) -> None:
    comparison = found(root, "real")
    assert [one.value for one in (comparison.precision, comparison.recall, comparison.coverage)] == [1, 1, 1]
    assert {one.p_value for one in (comparison.precision, comparison.recall, comparison.coverage)} == {1.0}
    assert low(comparison) == set()


@pytest.mark.slow
def test_turned_round_precision_and_recall_change_places(root: Path) -> None:
    there, back = found(root, "blurred"), compare(root / "blurred", root / "real", OPTIONS)
    assert (there.precision.value, there.recall.value) == (back.recall.value, back.precision.value)


@pytest.mark.slow
def test_features_that_are_named_are_all_that_count(root: Path) -> None:
    both = compare(root / "real", root / "blurred", OPTIONS, features={"random-cnn": 1, "fft": 1})
    other = compare(root / "real", root / "blurred", OPTIONS, features="thumbnail")
    expected = values(found(root, "blurred"))
    assert values(both) == pytest.approx(expected, rel=1e-12)
    assert values(other) != pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_of_many_images_the_result_says_that_some_stand_for_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generative_metrics, "MAX_PRDC_IMAGES", 20)
    comparison = compare(root / "real", root / "perfect", OPTIONS)
    assert comparison.warnings == ("precision, recall, density and coverage are of at most 20 images of each",)
    assert all(
        one.value * 20 == pytest.approx(round(one.value * 20)) for one in (comparison.recall, comparison.coverage)
    )
