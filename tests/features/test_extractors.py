from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import models

from imgsubset.decoding.decode import FID_RESOLUTION
from imgsubset.errors import UsageError
from imgsubset.features import extractors
from imgsubset.features.extractors import EXTRACTOR_SYNTAX, EXTRACTORS, find_extractor_spec, is_raw, make_extractor
from imgsubset.features.random_cnn import RandomCNN

Maker = Callable[[str], tuple[Callable[[Tensor], Tensor], int]]


HEADS = [name for name in EXTRACTORS if not is_raw(name)]  # the others are slow; see test_inception


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Makes the extractor of a row with what it needs, and tells the size of pixels for it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(head: str) -> tuple[Callable[[Tensor], Tensor], int]:
        parameters: dict[str, Any] = {}
        if head == "torchvision":
            with torch.random.fork_rng():
                torch.manual_seed(0)
                torch.save(models.shufflenet_v2_x0_5().state_dict(), tmp_path / "weights.pth")
            head, parameters = "torchvision:shufflenet_v2_x0_5", {"weights_file": tmp_path / "weights.pth"}
        elif head == "python":
            (tmp_path / "rows_of_mine.py").write_text("def halves(pixels): return pixels.permute(0, 3, 1, 2) / 2\n")
            head = "python:rows_of_mine:halves"
        return make_extractor(head, **parameters), find_extractor_spec(head).size or 24

    return make


def random_pixels(count: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("head", HEADS)
def test_maps_are_of_float32_and_of_as_many_numbers_as_the_table_says(head: str, made: Maker) -> None:
    extractor, size = made(head)
    maps = extractor(random_pixels(2, size))
    assert maps.dtype == torch.float32
    assert maps.ndim == 4
    assert maps.shape[:2] == (2, EXTRACTORS[head].numbers or maps.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_an_image_is_seen_by_itself_and_always_alike(head: str, made: Maker) -> None:
    extractor, size = made(head)
    again, _ = made(head)
    pixels = random_pixels(5, size)
    before = pixels.clone()
    maps = extractor(pixels)
    assert torch.equal(again(pixels), maps)
    assert torch.equal(pixels, before)
    other = random_pixels(5, size, seed=1)
    other[3] = pixels[0]
    torch.testing.assert_close(extractor(other)[3], maps[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(extractor(pixels[:1])[0], maps[0], rtol=1e-4, atol=1e-5)
    # Of memory in another order, as a transposed picture has it.
    torch.testing.assert_close(extractor(pixels.mT.contiguous().mT), maps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_images_of_one_colour_have_finite_numbers(head: str, made: Maker) -> None:
    extractor, size = made(head)
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [128, 128, 128], [255, 0, 0], [0, 0, 1]], dtype=torch.uint8)
    assert bool(extractor(colours[:, None, None].repeat(1, size, size, 1)).isfinite().all())


def test_each_row_says_what_it_sees_in_a_line() -> None:
    for name, kind in EXTRACTORS.items():
        assert kind.meaning, name
        assert "\n" not in kind.meaning
        assert not kind.meaning.endswith(".")
        assert kind.numbers is None or 1 <= kind.numbers <= (2048 if kind.raw else 192)
        assert kind.size in (None, FID_RESOLUTION) or 8 <= kind.size <= 256


@pytest.mark.parametrize("head", HEADS)
def test_each_extractor_is_documented(head: str, made: Maker) -> None:
    extractor, _ = made(head)
    for thing in (extractor, getattr(extractor, "forward", extractor)):
        assert inspect.getdoc(thing)


def test_the_table_imports_no_torch() -> None:
    code = (
        "import sys; from imgsubset.features.extractors import find_extractor_spec as find; find('torchvision:x')\n"
        "assert not {'torch', 'numpy', 'torchvision'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_parameters_reach_the_extractor() -> None:
    found = make_extractor("random-cnn", channels=(4, 5), kernel_size=5, seed=3, role="held-out", activation="abs")
    expected = RandomCNN((4, 5), 5, 3, role="held-out", activation="abs")
    assert torch.equal(found(random_pixels(1, 16)), expected(random_pixels(1, 16)))
    assert make_extractor("fft", colours="grey")(random_pixels(1, 8)).shape == (1, 3, 8, 5)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("color", f"unknown extractor 'color'; did you mean 'colour'? known: {', '.join(EXTRACTOR_SYNTAX)}"),
        ("xyz", f"unknown extractor 'xyz'; known: {', '.join(EXTRACTOR_SYNTAX)}"),
        ("", f"unknown extractor ''; known: {', '.join(EXTRACTOR_SYNTAX)}"),
        ("torchvision", "extractor 'torchvision' is named in full as torchvision:NAME"),
        ("python:", "extractor 'python:' is named in full as python:MODULE:FUNCTION"),
        ("hog:3", "extractor 'hog:3': nothing follows 'hog'"),
        ("hog:", "extractor 'hog:': nothing follows 'hog'"),
    ],
)
def test_what_names_no_extractor_is_told(name: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_extractor_spec(name)
    assert str(caught.value) == complaint


def test_public_things_are_documented() -> None:
    for name, thing in vars(extractors).items():
        if inspect.getmodule(thing) is extractors and not name.startswith("_"):
            assert inspect.getdoc(thing), name
