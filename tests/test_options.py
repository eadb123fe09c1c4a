from __future__ import annotations

import math
from typing import Any

import pytest

from imgsubset.errors import InputError, UsageError
from imgsubset.options import Options
from imgsubset.tasks.sizes import subset_size
from imgsubset.weights import DIVERGENCE_NAMES, Weights


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
@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf])
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
        ("device", "gpu"),
        ("device", ""),
        ("size", 7),
        ("size", 4097),
        ("channels", ()),
        ("channels", (16, 0)),
        ("kernel_size", 0),
        ("kernel_size", 4),
        ("kernel_size", -3),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("friction", math.inf),
        ("friction", -1.0),
        ("langevin_time", math.nan),
        ("langevin_time", -1.0),
        ("workers", -1),
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
        ("kernel_size", 1),
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
    assert subset_size(n, usable) == expected


@pytest.mark.parametrize("n", [0, -1, "0", "-1", "150%", "0%", "-3%", "nan%", "inf%", "%", "ten", "", "2.5", "1e2"])
def test_an_n_that_makes_no_sense_is_a_usage_error_that_repeats_it(n: int | str) -> None:
    with pytest.raises(UsageError) as caught:
        subset_size(n, 100)
    assert f"'{n}'" in str(caught.value)


def test_more_than_the_usable_images_is_an_input_error_with_both_numbers() -> None:
    with pytest.raises(InputError) as caught:
        subset_size(1001, 1000)
    assert "1,001" in str(caught.value)
    assert "1,000" in str(caught.value)
