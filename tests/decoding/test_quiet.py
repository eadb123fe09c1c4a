"""Nothing that libraries say of a damaged picture is shown, and their settings are as before afterwards."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from conftest import create, noise
from PIL import Image

from imgsubset.decoding.decode import silence_libraries
from imgsubset.decoding.workers import decode_chunks


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A TIFF of which libtiff prints a line on stderr."""
    content = io.BytesIO()
    Image.fromarray(noise(0, 64, 64)).save(content, "TIFF", compression="tiff_lzw")
    return create(tmp_path / "damaged.tif", content.getvalue()[:200] + bytes(2000) + content.getvalue()[2200:])


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_libtiff_prints_nothing_and_does_again_afterwards(
    damaged: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with decode_chunks([damaged], [16], workers) as chunks:
        assert next(chunks).outcomes == ("decoder error -2",)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(OSError, match="decoder error"):
        Image.open(damaged).load()
    assert capfd.readouterr().err


def test_two_threads_at_once_leave_the_filters_of_warnings_as_they_were() -> None:
    first_is_in, second_is_in, first_is_out = Event(), Event(), Event()

    def first() -> None:
        with silence_libraries():
            first_is_in.set()
            assert second_is_in.wait(60)
        first_is_out.set()

    def second() -> None:
        assert first_is_in.wait(60)
        with silence_libraries():
            second_is_in.set()
            assert first_is_out.wait(60)
            warnings.warn("not shown, though all are errors in the tests", stacklevel=1)

    before = [*warnings.filters]
    with ThreadPoolExecutor(2) as threads:
        for ended in [threads.submit(first), threads.submit(second)]:
            ended.result()
    assert warnings.filters == before
