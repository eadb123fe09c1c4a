"""The way back from a GPU that has too little memory, without one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from imgsubset.devices import exact_matmul, or_on_cpu, side_by_side, torch_device
from imgsubset.errors import InputError, UsageError

Calls = list[tuple[str, tuple[str, ...]]]


def failing(calls: Calls, error: Exception, on: str) -> object:
    """Work that records what it is asked, and raises on a device."""

    def work(device: str, notes: tuple[str, ...]) -> str:
        calls.append((device, notes))
        if device == on:
            raise error
        return "done"

    return work


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_work_that_has_room_is_done_once_and_has_no_notes(device: str) -> None:
    calls: Calls = []
    assert or_on_cpu(device, failing(calls, ValueError(), "nowhere")) == "done"
    assert calls == [(device, ())]


def test_the_cpu_takes_over_from_a_gpu_that_auto_found_and_the_result_tells() -> None:
    calls: Calls = []
    assert or_on_cpu("auto", failing(calls, torch.OutOfMemoryError("full"), "auto")) == "done"
    assert calls == [("auto", ()), ("cpu", ("the GPU has too little memory for this, so the CPU did it",))]


def test_a_gpu_that_was_asked_for_is_not_left() -> None:
    calls: Calls = []
    with pytest.raises(InputError, match="the GPU has too little memory for this; --device cpu does without it"):
        or_on_cpu("cuda", failing(calls, torch.OutOfMemoryError("full"), "cuda"))
    assert len(calls) == 1


@pytest.mark.parametrize("error", [RuntimeError("other"), ValueError("other")])
def test_other_errors_are_not_about_memory(error: Exception) -> None:
    calls: Calls = []
    with pytest.raises(type(error), match="other"):
        or_on_cpu("auto", failing(calls, error, "auto"))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("available", "name", "expected"),
    [
        (False, "auto", "cpu"),
        (False, "cpu", "cpu"),
        (True, "auto", "cuda"),
        (True, "cuda", "cuda"),
        (True, "cpu", "cpu"),
    ],
)
def test_auto_is_a_gpu_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, available: bool, name: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert torch_device(name).type == expected


def test_a_gpu_that_is_not_there_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="device 'cuda' is asked for"):
        torch_device("cuda")


PRECISION = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul]
needs_precision = pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9 has other settings"
)


def precision() -> list[str]:
    return [owner.fp32_precision for owner in PRECISION]


@pytest.fixture
def rounded() -> Iterator[None]:
    """A caller that has told torch to round float32 products."""
    before = precision()
    for owner in PRECISION:
        owner.fp32_precision = "tf32"
    yield
    for owner, value in zip(PRECISION, before, strict=True):
        owner.fp32_precision = value


@needs_precision
@pytest.mark.usefixtures("rounded")
def test_products_are_exact_whatever_the_caller_has_set_and_its_settings_come_back() -> None:
    with exact_matmul():
        assert precision() == ["ieee"] * 3
        with exact_matmul():
            pass
        assert precision() == ["ieee"] * 3
    assert precision() == ["tf32"] * 3
    with pytest.raises(ValueError, match="work"), exact_matmul():
        raise ValueError("work")
    assert precision() == ["tf32"] * 3


@needs_precision
@pytest.mark.usefixtures("rounded")
def test_the_last_of_two_that_overlap_puts_the_settings_back() -> None:
    one, other = exact_matmul(), exact_matmul()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert precision() == ["ieee"] * 3
    other.__exit__(None, None, None)
    assert precision() == ["tf32"] * 3


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_done_side_by_side_comes_in_order(device: str) -> None:
    assert side_by_side(lambda number: number**2, range(50), torch.device(device)) == [k**2 for k in range(50)]
