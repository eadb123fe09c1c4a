"""The way back from a GPU that has too little memory, without one."""

from __future__ import annotations

import pytest
import torch

from imgsubset.devices import or_on_cpu, torch_device
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
