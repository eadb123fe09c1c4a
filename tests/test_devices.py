"""Devices and the way back from a GPU that has too little memory, without one."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from imgsubset import devices
from imgsubset.devices import (
    device_name,
    exact_matmul,
    explain_gpu_error,
    map_parallel,
    run_with_cpu_fallback,
    torch_device,
)
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
    assert run_with_cpu_fallback(device, failing(calls, ValueError(), "nowhere")) == "done"
    assert calls == [(device, ())]


@pytest.mark.slow
def test_the_cpu_takes_over_from_a_gpu_that_auto_found_and_the_result_tells() -> None:
    calls: Calls = []
    assert run_with_cpu_fallback("auto", failing(calls, torch.OutOfMemoryError("full"), "auto")) == "done"
    assert calls == [("auto", ()), ("cpu", ("the GPU has too little memory for this, so the CPU did it",))]


def test_a_gpu_that_was_asked_for_is_not_left() -> None:
    calls: Calls = []
    with pytest.raises(InputError, match="the GPU has too little memory for this; --device cpu does without it"):
        run_with_cpu_fallback("cuda", failing(calls, torch.OutOfMemoryError("full"), "cuda"))
    assert len(calls) == 1


MEMORY, TAKEN = "the GPU has too little memory for this", "other programs have the GPU for themselves"
FORKED = "this process was forked from one that uses the GPU, which cannot be shared; start it by spawn"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), MEMORY),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"), MEMORY),
        (RuntimeError("CUDA driver error: out of memory"), MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), MEMORY),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), MEMORY),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"), MEMORY),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), TAKEN),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), TAKEN),
        (RuntimeError("Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing"), FORKED),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: out of memory"), None),
        (ValueError("CUDA out of memory"), None),
    ],
)
def test_what_keeps_a_gpu_from_work_is_known(error: Exception, expected: str | None) -> None:
    assert explain_gpu_error(error) == expected
    work = failing([], error, "auto")
    if expected is None:
        with pytest.raises(type(error)):
            run_with_cpu_fallback("auto", work)
    else:
        assert run_with_cpu_fallback("auto", work) == "done"


@pytest.mark.slow
def test_what_failed_is_gone_before_the_cpu_begins() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work(device: str, notes: tuple[str, ...]) -> bool:
        if device == "auto":
            large = torch.zeros(9)
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return held[0]() is None

    assert run_with_cpu_fallback("auto", work)


@pytest.mark.parametrize("error", [RuntimeError("other"), ValueError("other")])
def test_other_errors_are_not_about_memory(error: Exception) -> None:
    calls: Calls = []
    with pytest.raises(type(error), match="other"):
        run_with_cpu_fallback("auto", failing(calls, error, "auto"))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("available", "name", "expected"),
    [
        (False, "auto", "cpu"),
        (False, "cpu", "cpu"),
        (True, "auto", "cuda"),
        (True, "cuda", "cuda"),
        (True, "cuda:1", "cuda:1"),
        (True, "cpu", "cpu"),
    ],
)
def test_auto_is_a_gpu_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, available: bool, name: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(torch_device(name)) == expected


def test_a_gpu_that_is_not_there_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(UsageError, match=f"device '{name}' is asked for, but torch sees no CUDA device here"):
            torch_device(name)


def test_a_gpu_beyond_the_last_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="device 'cuda:2' is asked for, but the last that torch sees is 'cuda:1'"):
        torch_device("cuda:2")


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
    assert map_parallel(lambda number: number**2, range(50), torch.device(device)) == [k**2 for k in range(50)]


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_without_a_driver_the_device_is_known_without_torch(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(devices, "_DRIVER_FILES", ())
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would fail
    assert device_name(name) == "cpu"


def test_a_gpu_is_named_by_its_model_and_a_driver_alone_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "_DRIVER_FILES", (str(tmp_path),))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_name("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"model {device.index or 0}")
    assert [device_name(name) for name in ("cpu", "auto", "cuda:1")] == ["cpu", "model 0", "model 1"]
