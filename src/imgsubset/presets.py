"""Sets of options under one name. What is recorded of a run is the options themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imgsubset.errors import UsageError, meant, shown

_NOISE = {"temperature": 1.0, "friction": 1.0, "langevin_time": 0.1}


@dataclass(frozen=True)
class Preset:
    """Options by name, and what they are for."""

    meaning: str
    options: Mapping[str, Any] = field(repr=False)


PRESETS: dict[str, Preset] = {
    "fast": Preset("random draws alone, without exchanges", {"steps": 0}),
    "thorough": Preset("twice the networks and three times the steps", {"networks": 8, "chains": 4, "steps": 300}),
    "image-randomer": Preset(
        "as many random candidates as images, ranked in one CNN under constant Langevin noise",
        {
            **{"features": {"random-cnn": 1}, "networks": 1, "channels": (16, 32, 64), "kernel_size": (3,)},
            **{"stride": (2,), "activation": "relu", "pool": (), "taps": "last", "weights": dict.fromkeys(
                ("kl", "js", "wasserstein", "hellinger", "frechet"), 1), "match": {"image": 0}},
            **{"candidates": "all", "rounds": 8, "schedule": "hold", "steps": 0, **_NOISE},
        },
    ),
    "image-randomiser": Preset(
        "50 rounds of 200 candidates, ranked by the JS divergence of their pixels under rising Langevin noise",
        {
            **{"features": {"pixels": 1}, "weights": {"js": 1}, "match": {"image": 0}},
            **{"candidates": 10_000, "rounds": 50, "schedule": "rise", "steps": 0, **_NOISE},
        },
    ),
}  # fmt: skip
"""By name. Options that are given beside one go before those in it."""


def preset_of(name: object) -> Mapping[str, Any]:
    """The options of a preset. Raises UsageError if there is none of this name."""
    if not isinstance(name, str) or name not in PRESETS:
        known = f"; known: {', '.join(PRESETS)}"
        raise UsageError(f"unknown preset {shown(name)}{meant(str(name), PRESETS) or known}")
    return PRESETS[name].options
