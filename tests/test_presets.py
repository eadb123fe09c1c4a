from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, strict_json
from sources import goal_of, made_up_source

from imgsubset import Options, select
from imgsubset.errors import UsageError
from imgsubset.presets import PRESETS, preset_of
from imgsubset.search.choices import Choices
from imgsubset.search.draws import RandomDraws
from imgsubset.statistics.langevin import Langevin

SMALL: dict[str, Any] = {"workers": 0, "device": "cpu", "size": 16}
BRISK: Mapping[str, dict[str, Any]] = {  # in the time of a test
    "thorough": {"channels": (4, 6), "candidates": 64, "steps": 10},
    "image-randomiser": {"candidates": 500},
}


def spelt(value: Any) -> str:
    """An option's value as the command line has it."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={number}" for name, number in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_spelled_out_gives_the_same_subset(
    name: str, pictures: Path, imgsubset: Callable[..., Run], tmp_path: Path
) -> None:
    brisk = SMALL | BRISK.get(name, {})
    found = select(pictures, 12, preset=name, **brisk)
    plain = select(pictures, 12, **{**preset_of(name), **brisk})
    assert (found.chosen, found.options) == (plain.chosen, plain.options)
    words = [f"--{key.replace('_', '-')}={spelt(value)}" for key, value in brisk.items()]
    run = imgsubset("select", pictures, "-n", 12, "--mode=none", "--json", "--preset", name, *words)
    assert run.code == 0, run.err
    record = strict_json(run.out)
    assert [file["path"] for file in record["files"]] == list(found.chosen)
    out = [
        f"--{key.replace('_', '-')}={spelt(value)}"
        for key, value in {**preset_of(name), **brisk}.items()
        if value != ()
    ]
    run = imgsubset("select", pictures, "-n", 12, "--mode=none", "--json", *out)
    assert strict_json(run.out)["request"] == record["request"]
    toml = "\n".join(f"{key.replace('_', '-')} = '{spelt(value)}'" for key, value in brisk.items())
    (tmp_path / "jobs.toml").write_text(
        f"[jobs.one]\nsource = '{pictures}'\nn = 12\nmode = 'none'\npreset = '{name}'\n{toml}\n"
    )
    run = imgsubset("batch", tmp_path / "jobs.toml", "--json")
    assert run.code == 0, run.err
    assert strict_json(run.out)["jobs"][0]["result"]["request"] == record["request"]


def test_what_is_given_goes_before_the_preset(pictures: Path, imgsubset: Callable[..., Run]) -> None:
    assert Options(preset="thorough", steps=7).steps == 7
    assert Options(preset="thorough", steps=7).networks == 8
    run = imgsubset("select", pictures, "-n", 3, "--mode=none", "--json", "--preset=fast", "--steps=100", "--size=16",
                    "--workers=0")  # fmt: skip
    assert strict_json(run.out)["options"]["steps"] == 100  # also where it is the default


@pytest.mark.parametrize("name", ["fats", "", 3, None])
def test_there_is_no_other(name: object) -> None:
    with pytest.raises(UsageError, match="unknown preset"):
        Options(preset=name)
    with pytest.raises(UsageError, match="did you mean 'fast'"):
        preset_of("fats")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cool", [2, 1.5, 1, 0.5, 0]), ("hold", [2] * 5), ("rise", [2, 2.1, 2.2, 2.3, 2.4])],
)
def test_the_temperature_follows_its_schedule(schedule: str, expected: list[float]) -> None:
    goal = goal_of(made_up_source(60, 4, seed=1), 9, langevin=Langevin(2.0))
    choices = Choices.free(60, 9, goal.device)
    method = RandomDraws(goal, 50, 0, choices, rounds=5, schedule=schedule)
    assert [method.step(number / 4).temperature for number in range(5)] == pytest.approx(expected)


def test_as_many_candidates_as_images() -> None:
    goal = goal_of(made_up_source(60, 4, seed=1), 9)
    assert RandomDraws(goal, "all", 0, Choices.free(60, 9, goal.device)).candidates == 60


@pytest.mark.parametrize("n", [40, 41])
def test_draws_alone_from_few_images_are_told_of(pictures: Path, n: int) -> None:
    found = select(pictures, n, preset="fast", candidates=8, **SMALL)
    assert any("share many of them" in note for note in found.warnings) == (3 * n > 120)
    searched = select(pictures, n, candidates=8, steps=1, **SMALL)
    assert not any("share many of them" in note for note in searched.warnings)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"candidates": "some"}, "candidates 'some' is not 'all' or a whole number"),
        ({"candidates": 0}, "candidates 0 is not"),
        ({"schedule": "fall"}, "schedule 'fall' is not one of cool, hold, rise"),
        ({"schedule": "rise", "temperature": 0.0}, "schedule 'rise' is not possible at a temperature of 0"),
        ({"rounds": 0}, "rounds 0 is not"),
    ],
)
def test_odd_values(words: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Options(**words)
