from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import selection_of

from imgsubset.divergence_weights import DIVERGENCE_NAMES, Weights
from imgsubset.errors import InputError, UsageError
from imgsubset.options import FIELDS, LOSS, MOMENTS, NOTHING, REMOVED_OPTIONS, Options, merge_options
from imgsubset.results.as_json import describe_selection, make_request
from imgsubset.tasks.inputs import resolve_n, resolve_part_sizes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kl=1,js=2,frechet=0.5", (1, 2, 0, 0, 0.5)),
        ("frechet=3", (0, 0, 0, 0, 3)),
        (" hellinger = 1 , wasserstein=1e-3 ", (0, 0, 1e-3, 1, 0)),
        ("1,2,3,4,5", (1, 2, 3, 4, 5)),
        ("0, 0, 0.5, 0, 0", (0, 0, 0.5, 0, 0)),
    ],
)
def test_weights_are_named_or_five_numbers_and_the_unnamed_are_0(text: str, expected: tuple[float, ...]) -> None:
    kl, js, wasserstein, hellinger, frechet = expected
    assert Weights.parse(text) == Weights(kl, js, wasserstein, hellinger, frechet)


def test_the_documented_order_of_divergences() -> None:
    assert DIVERGENCE_NAMES == ("kl", "js", "wasserstein", "hellinger", "frechet")
    assert Weights() == Weights.parse("1,1,1,1,1")


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("kl=1,fid=2", "'fid'"),
        ("KL=1", "'KL'"),
        ("kl=1,", "''"),
        ("kl=1,2", "'2'"),
        ("kl=-1", "kl=-1"),
        ("kl=1,js=nan", "js=nan"),
        ("frechet=inf", "frechet=inf"),
        ("1,2,3,-4,5", "hellinger=-4"),
        ("kl=0,js=0", "all weights are 0"),
        ("0,0,0,0,0", "all weights are 0"),
        ("kl=1,kl=2", "'kl' is named twice"),
        ("kl=one", "'kl=one'"),
        ("kl=", "'kl='"),
        ("kl=1=2", "'kl=1=2'"),
        ("1,2,3", "'1,2,3' are 3 numbers"),
        ("1,2,3,4,5,6", "6 numbers"),
        ("", "''"),
    ],
)
def test_wrong_weights_are_usage_errors_that_name_the_culprit(text: str, culprit: str) -> None:
    with pytest.raises(UsageError) as caught:
        Weights.parse(text)
    assert culprit in str(caught.value)


@pytest.mark.parametrize("name", DIVERGENCE_NAMES)
@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf, pytest.param(10**400, id="400 digits")])
def test_weights_are_checked_when_constructed(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name}="):
        Weights(**{name: value})


def test_shares_leave_out_zeros_and_sum_to_1() -> None:
    assert Weights.parse("kl=1,frechet=3").shares() == {"kl": 0.25, "frechet": 0.75}
    assert Weights().shares() == pytest.approx(dict.fromkeys(DIVERGENCE_NAMES, 0.2))


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e308])
def test_shares_depend_on_proportions_alone(scale: float) -> None:
    assert Weights(scale, scale, 0, 0, scale / 2).shares() == pytest.approx({"kl": 0.4, "js": 0.4, "frechet": 0.2})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("candidates", 0),
        ("candidates", -5),
        ("seed", -1),
        ("seed", 1 << 63),
        ("feature_seed", -1),
        ("device", "gpu"),
        ("device", ""),
        ("size", 7),
        ("size", 4097),
        ("channels", ()),
        ("channels", (16, 0)),
        ("kernel_size", (0,)),
        ("kernel_size", (3, 4)),
        ("kernel_size", (-3,)),
        ("kernel_size", ()),
        ("pool", (3,)),
        ("size", "large"),
        ("networks", 0),
        ("networks", 65),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("friction", math.inf),
        ("friction", -1.0),
        ("langevin_time", math.nan),
        ("langevin_time", -1.0),
        ("workers", -1),
        ("workers", "2"),
        ("steps", "5"),
        ("steps", None),
        ("size", None),
        ("device", None),
        ("stratify", "share"),
        ("stratify", None),
        ("stratify_as", "all"),
        ("channels", ("8",)),
        ("include", None),
        ("keep", 3),
        ("weights", None),
        ("weights", "kl=1"),
    ],
)
def test_a_wrong_option_is_a_usage_error_that_names_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Options(**{field: value})
    assert field in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("candidates", 1),
        ("seed", (1 << 63) - 1),
        ("device", "cuda"),
        ("size", 8),
        ("size", 4096),
        ("channels", (1,)),
        ("kernel_size", (1,)),
        ("size", "auto"),
        ("networks", 64),
        ("temperature", 0.0),
        ("friction", 0.0),
        ("langevin_time", 0.0),
        ("workers", 0),
        ("workers", None),
        ("strict", True),
    ],
)
def test_the_ends_of_every_range_are_allowed(field: str, value: Any) -> None:
    assert getattr(Options(**{field: value}), field) == value


def test_the_noise_is_one_step_of_the_discretised_chain_by_default() -> None:
    options = Options()
    assert (options.langevin_time, options.friction, options.temperature) == (0.1, 1.0, 1.0)


# Records


def test_options_by_name_are_sorted_into_records_and_read_either_way() -> None:
    options = Options(
        steps=50, size=16, include=["*.png"], weights={"kl": 1}, labels="x.csv", stratify=True, stratify_as="equal"
    )
    assert (options.steps, options.steps) == (50, 50)
    assert (options.size, options.size) == (16, 16)
    assert options.include == options.include == ("*.png",)
    assert options.weights == options.weights == Weights(1, 0, 0, 0, 0)
    assert (options.labels, options.device) == ("x.csv", "auto")


def test_options_are_values() -> None:
    assert Options(steps=5) == Options(steps=5) != Options()
    assert hash(Options(steps=5)) == hash(Options(steps=5))
    assert dataclasses.replace(Options(steps=5, size=16), steps=6) == Options(steps=6, size=16)
    assert merge_options(None, {"steps": 6}) == Options(steps=6)
    assert merge_options(Options(steps=5, size=16), {"steps": 6}) == Options(steps=6, size=16)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("step", "unknown option 'step'; did you mean 'steps'?"),
        ("xyzzy", "unknown option 'xyzzy'; `imgsubset select --help` names them all"),
        ("resume", "unknown option 'resume': it was taken out, since a search takes seconds"),
        ("cache_verify", "unknown option 'cache_verify': it was taken out, since an image is known by"),
    ],
)
def test_a_word_that_is_no_option_is_a_usage_error(word: str, text: str) -> None:
    for attempt in (lambda: Options(**{word: 1}), lambda: merge_options(Options(), {word: 1})):
        with pytest.raises(UsageError) as caught:
            attempt()
        assert str(caught.value).startswith(text)
    with pytest.raises(AttributeError, match=f"'{word}'"):
        getattr(Options(), word)
    assert not set(REMOVED_OPTIONS) & set(FIELDS)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"include": "*.png"}, "include '*.png' is not a list of texts"),
        ({"keep": b"a.png"}, "keep b'a.png' is not a list of paths, nor the path of a file that lists them"),
        ({"labels": "x.csv"}, "labels 'x.csv' is not of use without stratify"),
        ({"stratify_by": "parent"}, "stratify_by 'parent' is not of use without stratify"),
        ({"stratify_as": "equal"}, "stratify_as 'equal' is not of use without stratify"),
        ({"stratify": True, "labels": "x", "stratify_by": "(.)"}, "stratify_by '(.)' is not of use with labels"),
        ({"stratify": "equal"}, "stratify 'equal' is not True or False; how is said by stratify_as"),
        ({"dedupe": True, "group_by": "parent"}, "dedupe True is not possible with group_by"),
        ({"target_loss": 0.5, "target_size": 9}, "target_size 9 is not to be given together with a target_loss"),
        ({"weights": {"kl": 1, "fid": 2}}, "unknown divergence 'fid' in weights"),
        ({"weights": {"kl": 10**400}}, f"weight kl=1{99 * '0'}... is not a finite number"),
        ({"weights": {"kl": 10**5000}}, "weight kl=(a number of too many digits to show) is not a finite number"),
        ({"features": {"hog": 10**400}}, "weight 'hog=1000"),
        ({"match": {"image": 10**400}}, "weight 'image=1000"),
        ({"steps": 10**5000}, "steps (a number of too many digits to show) is not a whole number"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(words: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(text)):
        Options(**words)


def test_every_option_is_declared_once_with_its_meaning_and_effect() -> None:
    assert [field.name for field in dataclasses.fields(Options)] == [*FIELDS] == [*Options().affecting()]
    for name, field in FIELDS.items():
        assert MOMENTS <= field.metadata["affects"] <= NOTHING
        assert f"{name}  {field.metadata['meaning']}" in (Options.__doc__ or "")


def test_what_decides_a_loss_is_what_a_manifest_gives_back() -> None:
    assert {*Options().affecting(LOSS)} == {
        *("include", "exclude", "sidecars", "features", "size", "networks", "channels", "kernel_size", "stride"),
        *("activation", "pool", "taps", "weights_file", "feature_seed", "held_out", "weights", "match"),
        "match_columns",
    }


def test_the_request_holds_what_decides_the_choice_and_the_manifest_all(folder: Path) -> None:
    asked = make_request("3", Options(), None, "copy", False)["options"]
    assert {*FIELDS} - {*asked} == {"workers", "cache"}
    assert describe_selection(selection_of(folder, ["6.bmp"]))["options"].keys() == FIELDS.keys()
    for word in ({"workers": 3}, {"cache": "elsewhere"}):
        assert make_request("3", Options(**word), None, "copy", False)["options"] == asked
    for word in ({"steps": 3}, {"strict": True}, {"weights": {"kl": 1}}, {"device": "cpu"}, {"include": ["a"]}):
        assert make_request("3", Options(**word), None, "copy", False)["options"] != asked


# Sizes


@pytest.mark.parametrize(
    ("n", "usable", "expected"),
    [
        (1, 1, 1),
        (500, 500, 500),
        ("20", 100, 20),
        (" 7 ", 100, 7),
        ("10%", 1000, 100),
        ("100%", 37, 37),
        ("0.1%", 10, 1),
        ("33.4%", 10, 3),
        ("36%", 10, 4),
        ("12.5 %", 80, 10),
    ],
)
def test_n_is_a_number_or_a_percentage_rounded_and_at_least_1(n: int | str, usable: int, expected: int) -> None:
    assert resolve_n(n, usable) == expected


@pytest.mark.parametrize("n", [0, -1, "0", "-1", "150%", "0%", "-3%", "nan%", "inf%", "%", "ten", "", "2.5", "1e2"])
def test_an_n_that_makes_no_sense_is_a_usage_error_that_repeats_it(n: int | str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_n(n, 100)
    assert f"'{n}'" in str(caught.value)


def test_a_share_is_answered_with_the_percentage() -> None:
    for n, hint in ((0.1, "10%"), ("0.125", "12.5%"), (" .5", "50%")):
        with pytest.raises(UsageError, match=f"; did you mean {hint}\\?$"):
            resolve_n(n, 100)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=f"; did you mean {hint}\\?$"):
            resolve_part_sizes({"train": n}, 100)  # type: ignore[dict-item]
    with pytest.raises(UsageError) as caught:
        resolve_n("2.5", 100)
    assert "did you mean" not in str(caught.value)


def test_more_than_the_usable_images_is_an_input_error_with_both_numbers() -> None:
    with pytest.raises(InputError) as caught:
        resolve_n(1001, 1000)
    assert "1,001" in str(caught.value)
    assert "1,000" in str(caught.value)
