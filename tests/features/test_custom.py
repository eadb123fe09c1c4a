from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from imgsubset.errors import UsageError
from imgsubset.features.custom import Custom

CODE = """
import torch

def means(pixels):
    return pixels.float().mean((1, 2))[:, :, None, None]

def any_way(*args, **kwargs):
    return means(*args, **kwargs)

def make():
    return means

def make_scaled(scale=2):
    return lambda pixels: means(pixels) * scale

class Net(torch.nn.Module):
    def __init__(self, rate=0.5):
        super().__init__()
        self.drop = torch.nn.Dropout(rate)
        self.weight = torch.nn.Parameter(torch.ones(3, 1, 1, dtype=torch.float64))

    def forward(self, pixels):
        return self.drop(means(pixels)) * self.weight

net = Net()
number = 3

def vector(pixels):
    return pixels.float().mean((1, 2))

def fewer(pixels):
    return means(pixels)[1:]

def nothing(pixels):
    pass

def empty(pixels):
    return pixels.new_zeros(len(pixels), 0, 1, 1)

def broken(pixels):
    raise ValueError("one\\ntwo")

def full(pixels):
    raise torch.OutOfMemoryError("full")

def bad_make():
    return 1 / 0

def makes_nothing():
    pass
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of a user's in the current folder."""
    (tmp_path / "features_of_mine.py").write_text(CODE)
    (tmp_path / "no_python_of_mine.py").write_text("def (:\n")
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "inner.py").write_text("from features_of_mine import means\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", os.getcwd())])
    yield
    for name in [name for name in sys.modules if "_of_mine" in name]:
        del sys.modules[name]


def pixels() -> Tensor:
    return torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)


@pytest.mark.parametrize("name", ["means", "any_way", "make", "make_scaled", "Net", "net"])
def test_a_function_or_what_makes_one_is_found_in_the_current_folder(name: str) -> None:
    maps = Custom(f"features_of_mine:{name}")(pixels())
    expected = pixels().double().mean((1, 2))[:, :, None, None] * (2 if name == "make_scaled" else 1)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected.float())


def test_a_module_of_a_package_is_found() -> None:
    assert Custom("package_of_mine.inner:means")(pixels()).shape == (2, 3, 1, 1)


def test_an_installed_module_goes_before_one_of_its_name_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("raise AssertionError('a file of the user in place of a module of Python')")
    sys.modules.pop("colorsys", None)
    with pytest.raises(UsageError, match="rgb_to_nothing"):
        Custom("colorsys:rgb_to_nothing")


def test_a_network_moves_with_its_extractor() -> None:
    extractor = Custom("features_of_mine:Net").to(torch.bfloat16)
    assert [weight.dtype for weight in extractor.parameters()] == [torch.bfloat16]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("features_of_mine", "not of the form python:module:function"),
        ("features_of_mine:", "not of the form"),
        (":means", "not of the form"),
        ("a/b.py:means", "not of the form"),
        (".:means", "not of the form"),
        ("none_of_mine:means", "ModuleNotFoundError: No module named 'none_of_mine'"),
        ("features_of_mine:mean", "AttributeError: .* no attribute 'mean'"),
        ("no_python_of_mine:means", "SyntaxError"),
        ("features_of_mine:bad_make", "ZeroDivisionError"),
        ("features_of_mine:number", "TypeError: 3 is not a callable object"),
        ("features_of_mine:makes_nothing", "is no function, but None"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(name: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        Custom(name)
    assert f"'python:{name}'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("vector", r"gives \(2, 3\) for 2 images, not a tensor \(2, C, h, w\)"),
        ("fewer", r"gives \(1, 3, 1, 1\)"),
        ("nothing", "gives NoneType"),
        ("empty", r"gives \(2, 0, 1, 1\)"),
        ("broken", "failed: ValueError: one two"),
    ],
)
def test_what_gives_no_maps_is_told_in_one_line(name: str, complaint: str) -> None:
    extractor = Custom(f"features_of_mine:{name}")
    with pytest.raises(UsageError, match=complaint):
        extractor(pixels())


def test_a_gpu_that_is_full_is_left_to_the_caller() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Custom("features_of_mine:full")(pixels())
