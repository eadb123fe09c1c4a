from __future__ import annotations

import re
from pathlib import Path

import pytest

from imgsubset import Options, select
from imgsubset.errors import InputError
from imgsubset.features import array_storage
from imgsubset.features.array_storage import batch_bytes, check_memory


def test_a_batch_is_the_weights_and_the_largest_maps() -> None:
    found = batch_bytes(Options(channels=(16, 32), kernel_size=(3, 5), stride=(2,)), 64)
    assert found == 4 * (3 * 16 * 9 + 16 * 32 * 25 + 2 * 32 * 16 * 32**2)


@pytest.mark.parametrize(
    ("shape", "size", "images"),
    [
        ({"channels": (1024,)}, 4096, 10),
        ({"channels": (1024, 1024, 1024), "kernel_size": (63,)}, 64, 10),
        ({}, 64, 10**9),
    ],
)
def test_what_needs_more_memory_than_is_free_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, shape: dict[str, tuple[int, ...]], size: int, images: int
) -> None:
    monkeypatch.setattr(array_storage, "_iter_free_bytes", lambda: iter([3 * 10**9, 8 * 10**9]))
    check_memory(Options(), 64, 1000)
    message = rf"{images:,} images with channels .* at {size} x {size} pixels need about .* GB of memory, and 3.0 GB"
    with pytest.raises(InputError, match=message):
        check_memory(Options(**shape), size, images)


def test_free_memory_is_that_of_the_machine_its_group_and_its_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "info").write_text("MemTotal:  99 kB\nMemAvailable:  40 kB\n")
    monkeypatch.setattr(array_storage, "MEMINFO_FILE", tmp_path / "info")
    monkeypatch.setattr(array_storage, "CGROUP_FOLDER", tmp_path)
    assert 40 * 1024 in list(array_storage._iter_free_bytes())
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert 4000 in list(array_storage._iter_free_bytes())
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "info").write_text("nothing\n")
    assert not {4000, 40 * 1024} & {*array_storage._iter_free_bytes()}


def test_a_selection_is_refused_before_anything_is_decoded(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_storage, "_iter_free_bytes", lambda: iter([1000]))
    with pytest.raises(InputError, match=re.escape("GB of memory, and 0.0 GB are free")):
        select(pictures, 3, Options(device="cpu", workers=0), extractor=lambda pixels: pytest.fail("decoded"))
