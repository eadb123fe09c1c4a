from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, strict_json
from sources import goal_of, made_up_source

from imgsubset import Options, select, split
from imgsubset.errors import UsageError
from imgsubset.options import PRESETS, merge_options, preset_of
from imgsubset.search import draws
from imgsubset.search.choices import Choices
from imgsubset.search.draws import RandomDraws
from imgsubset.statistics.langevin import Langevin
from imgsubset.statistics.objective import NoisyObjective, Objective
from imgsubset.statistics.rng import make_generator

SMALL: dict[str, Any] = {"workers": 0, "device": "cpu", "size": 16}
BRISK: Mapping[str, dict[str, Any]] = {  # in the time of a test
    "thorough": {"channels": (4, 6), "candidates": 64, "steps": 10},
    "image-randomiser": {"candidates": 500},
}
LONGER = ("thorough", "image-randomer")  # than a second


def spelt(value: Any) -> str:
    """An option's value as the command line has it."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={number}" for name, number in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONGER)) for name in PRESETS])
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


@pytest.mark.slow
def test_what_is_given_goes_before_the_preset(pictures: Path, imgsubset: Callable[..., Run]) -> None:
    assert Options(preset="thorough", steps=7).steps == 7
    assert Options(preset="thorough", steps=7).networks == 8
    run = imgsubset("select", pictures, "-n", 3, "--mode=none", "--json", "--preset=fast", "--steps=100", "--size=16",
                    "--workers=0")  # fmt: skip
    assert strict_json(run.out)["options"]["steps"] == 100  # also where it is the default


def test_a_preset_goes_before_what_a_word_of_its_own_goes_before() -> None:
    assert merge_options(Options(steps=3, seed=5), {"preset": "fast"}) == Options(steps=0, seed=5)
    assert merge_options(Options(preset="thorough"), {"preset": "fast"}) == Options(preset="thorough", steps=0)
    assert Options(preset="fast", steps=3, seed=5) == Options(steps=3, seed=5)


@pytest.mark.slow
def test_a_split_takes_a_preset_too(pictures: Path, imgsubset: Callable[..., Run], tmp_path: Path) -> None:
    parts = split(pictures, {"a": 9, "b": 12}, preset="image-randomiser", candidates=100, **SMALL)
    run = imgsubset("split", pictures, tmp_path / "out", "a=9", "b=12", "--dry-run", "--json",
                    "--preset=image-randomiser", "--candidates=100", "--size=16", "--workers=0")  # fmt: skip
    assert run.code == 0, run.err
    for name, part in strict_json(run.out)["parts"].items():
        assert [file["path"] for file in part["files"]] == list(parts[name].chosen)
        assert part["options"]["schedule"] == "rise"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defaults", "job", "expected"),
    [
        ("preset = 'fast'\nchains = 5", "", {"steps": 0, "chains": 5}),
        ("preset = 'fast'\nsteps = 7", "", {"steps": 7}),
        ("steps = 7\nseed = 3", "preset = 'fast'", {"steps": 0, "seed": 3}),
        ("langevin_time = 7", "preset = 'image-randomiser'\ncandidates = 20", {"langevin_time": 0.1, "candidates": 20}),
        ("preset = 'image-randomiser'", "preset = 'fast'", {"steps": 0, "rounds": 8, "schedule": "cool"}),
        ("preset = 'fast'", "steps = 7", {"steps": 7}),
    ],
)
def test_what_stands_in_a_job_goes_before_the_defaults_of_a_batch(
    pictures: Path, imgsubset: Callable[..., Run], tmp_path: Path, defaults: str, job: str, expected: dict[str, Any]
) -> None:
    (tmp_path / "jobs.toml").write_text(
        f"[defaults]\nn = 3\nmode = 'none'\nsize = 16\nworkers = 0\n{defaults}\n"
        f"[jobs.one]\nsource = '{pictures}'\n{job}\n"
    )
    run = imgsubset("batch", tmp_path / "jobs.toml", "--json")
    assert run.code == 0, run.err
    options = strict_json(run.out)["jobs"][0]["result"]["options"]
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize("name", ["fats", "", 3, None, ["fast"]])
def test_there_is_no_other(name: object) -> None:
    with pytest.raises(UsageError, match="unknown preset"):
        Options(preset=name)
    with pytest.raises(UsageError, match="did you mean 'fast'"):
        preset_of("fats")
    with pytest.raises(UsageError, match="unknown option 'prest'; did you mean 'preset'"):
        Options(prest="fast")


@pytest.mark.parametrize(
    ("name", "culprit"), [("fats", "unknown preset 'fats'; did you mean 'fast'?"), ("", "unknown preset ''; known")]
)
def test_an_unknown_preset_is_one_line(
    pictures: Path, imgsubset: Callable[..., Run], tmp_path: Path, name: str, culprit: str
) -> None:
    (tmp_path / "jobs.toml").write_text(f"[jobs.one]\nsource = '{pictures}'\nn = 3\nmode = 'none'\npreset = '{name}'\n")
    for words in (
        ("select", pictures, "-n", 3, "--mode=none", "--preset", name),
        ("split", pictures, tmp_path / "out", "a=3", "--preset", name),
        ("batch", tmp_path / "jobs.toml"),
    ):
        run = imgsubset(*words)
        assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
        assert culprit in run.err
    assert not (tmp_path / "out").exists()


def draws_of(goal: Objective, candidates: int | str, **schedule: Any) -> RandomDraws:
    """Draws of any rows."""
    return RandomDraws(goal, candidates, 0, Choices.free(goal.total, goal.n, goal.device), **schedule)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cool", [2, 1.5, 1, 0.5, 0]), ("hold", [2] * 5), ("rise", [2, 2.1, 2.2, 2.3, 2.4])],
)
def test_the_temperature_follows_its_schedule(schedule: str, expected: list[float]) -> None:
    goal = goal_of(made_up_source(60, 4, seed=1), 9, langevin=Langevin(2.0))
    method = draws_of(goal, 50, rounds=5, schedule=schedule)
    assert [method.step(number / 4).temperature for number in range(5)] == pytest.approx(expected)


def test_a_temperature_rises_from_0_too() -> None:
    method = draws_of(goal_of(made_up_source(60, 4, seed=1), 9, langevin=Langevin(0.0)), 9, rounds=3, schedule="rise")
    assert [method.step(0.0).temperature for _ in range(3)] == pytest.approx([0, 0.1, 0.2])


def test_a_round_that_is_cut_stays_one_for_the_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "ROUND_BYTES", 8 * (9 + 4**2) * 10)
    method = draws_of(goal_of(made_up_source(60, 4, seed=1), 9), 60, rounds=3, schedule="rise")
    assert [method.step(0.0).temperature for _ in range(method.rounds)] == pytest.approx([1, 1, 1.1, 1.1, 1.2, 1.2])


def test_a_round_is_ranked_under_the_noise_of_its_temperature() -> None:
    goal = goal_of(made_up_source(60, 4, seed=1), 9, langevin=Langevin(3.0))
    method = draws_of(goal, 5 * 40, rounds=5, schedule="rise")
    for number in range(5):
        own = make_generator(goal.device, "draws", 0, number, 0)
        rows = Choices.free(60, 9, goal.device).draw(40, own)
        order = NoisyObjective(goal, 3 + 0.1 * number).loss(rows, own).argsort()
        assert method.step(0.0).rows.tolist() == rows[order[:16]].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("image-randomer", [1.0] * 8),
        ("image-randomiser", [1 + 0.1 * number for number in range(50)]),
        ("fast", [1 - number / 7 for number in range(8)]),
    ],
)
def test_the_trace_has_the_temperatures_of_the_rounds(pictures: Path, name: str, expected: list[float]) -> None:
    found = select(pictures, 12, preset=name, **SMALL | BRISK.get(name, {}))
    assert [point.temperature for point in found.trace] == pytest.approx(expected)
    assert {point.method for point in found.trace} == {"draws"}


def test_as_many_candidates_as_images() -> None:
    assert draws_of(goal_of(made_up_source(60, 4, seed=1), 9), "all").candidates == 60


@pytest.mark.slow
@pytest.mark.parametrize("n", [40, 41])
def test_as_many_candidates_as_few_images_are_told_of(pictures: Path, n: int) -> None:
    found = select(pictures, n, preset="image-randomer", **SMALL)
    told = [note for note in found.warnings if "of 120 images, random draws of 41 have 34% in common" in note]
    assert len(told) == (3 * n > 120)
    assert not any("in common" in note for note in select(pictures, n, steps=0, candidates=8, **SMALL).warnings)


@pytest.mark.slow
def test_only_parts_that_are_drawn_are_told_of(pictures: Path) -> None:
    parts = split(pictures, {"rest": "70%", "drawn": "30%"}, candidates="all", steps=0, **SMALL)
    assert not any("in common" in note for part in parts.values() for note in part.warnings)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"candidates": "some"}, "candidates 'some' is not 'all' or a whole number"),
        ({"candidates": 0}, "candidates 0 is not"),
        ({"schedule": "fall"}, "schedule 'fall' is not one of cool, hold, rise"),
        ({"rounds": 0}, "rounds 0 is not"),
    ],
)
def test_odd_values(words: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Options(**words)
