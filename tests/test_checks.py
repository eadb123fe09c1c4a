"""Sizes that cannot work are refused when they are given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgsubset import Options
from imgsubset.errors import UsageError

LIMITS = {
    "channels": ((1024,) * 16, [(1025,), (8,) * 17, (10**9,), (1.5,), (True,), (math.nan,)]),
    "kernel_size": ((63,), [(65,), (99999999999,), (2,), (3.0,)]),
    "stride": ((64,), [(65,), (0,)]),
    "networks": (64, [65, 10**30, 1.5, True]),
    "size": (4096, [4097, 10**30, 64.5, math.inf]),
    "candidates": (1_000_000, [1_000_001, int(1e22), 1e22, 1.5]),
    "chains": (1024, [1025, 10**12]),
    "steps": (10_000_000, [10_000_001, 10**30]),
    "temperature": (1000, [1001, 1e300, 10**400, math.inf, math.nan, "1"]),
    "friction": (1000, [1e300, -1e-9]),
    "langevin_time": (1000, [1e300]),
    "workers": (1024, [1025, 10**9, 0.5]),
    "seed": (2**63 - 1, [1.5, 2**63]),
    "device": ("cuda:15", ["cuda:", "cuda:-1", "cuda:1x", "cuda:99999", "CUDA", "cpu:0"]),
    "target_size": (1e300, [10**400, math.nan, 0]),
}


@pytest.mark.parametrize("name", LIMITS)
def test_every_size_has_a_limit(name: str) -> None:
    most, beyond = LIMITS[name]
    assert getattr(Options(**{name: most}), name) == most
    for value in beyond:
        with pytest.raises(UsageError) as caught:
            Options(**{name: value})
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.int64(50), np.int32(50)])
def test_whole_numbers_of_numpy_are_whole_numbers(value: Any) -> None:
    assert type(Options(steps=value).steps) is int


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("sidecars", {}, "a text"),
        ("strict", "yes", "True or False"),
        ("include", (3,), "a list of texts"),
        ("keep", [None], "a list of paths"),
        ("features", 5, "are not names, nor a dict of weights by name"),
        ("features", [1], "are not names, nor a dict of weights by name"),
        ("size", np.ones(2), "pixels"),
        ("device", 3, "one of auto, cpu, cuda"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted) as caught:
        Options(**{name: value})
    assert name in str(caught.value)


def test_a_path_is_a_text_and_a_number_of_numpy_a_number(tmp_path: Path) -> None:
    options = Options(cache=tmp_path, temperature=np.float32(0.5))
    assert options.cache == str(tmp_path)
    assert type(options.temperature) is float
