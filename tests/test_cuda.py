"""The same code on a GPU; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import noise
from PIL import Image

from imgsubset import Options, select

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(200):
        Image.fromarray(noise(number, 20, 20)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_selection_on_a_gpu_is_as_close_as_on_the_cpu(folder: Path) -> None:
    on_cpu, on_gpu = (select(folder, 20, Options(candidates=256, device=device)) for device in ("cpu", "cuda"))
    assert on_gpu.device == torch.cuda.get_device_name()
    assert on_gpu.score.loss == pytest.approx(on_cpu.score.loss, rel=0.3)  # other random numbers, other subsets
    for name, mean in on_cpu.score.random_mean.items():
        assert on_gpu.score.random_mean[name] == pytest.approx(mean, rel=0.15)


def test_the_same_seed_chooses_the_same_images_on_a_gpu(folder: Path) -> None:
    options = Options(candidates=64, steps=100, device="cuda")
    assert select(folder, 20, options).chosen == select(folder, 20, options).chosen
