from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import listing_of

from imgsubset import Difference, Estimate, Estimated, Options
from imgsubset.results.as_text import estimate_summary

ONE = Estimate("accuracy", 0.712, 0.7051, 0.0158, 0.6741, 0.7361, 1100.4)
APART = Difference("a - b", -0.02, -0.02, 0.004, -0.028, -0.012, 900.0, "a", "b")


@pytest.fixture
def estimated(tmp_path_factory: pytest.TempPathFactory) -> Estimated:
    return Estimated(
        source=listing_of(tmp_path_factory.getbasetemp(), name="photos"),
        subset="subset",
        paths=("a.jpg", "b.jpg"),
        total=10_000,
        chosen=True,
        estimates=(ONE,),
        differences=(),
        foreign=(),
        rejected=(),
        warnings=(),
        options=Options(),
        device="cpu",
        seconds={"estimate": 0.1},
    )


def test_a_result_is_a_sentence(estimated: Estimated) -> None:
    assert estimate_summary(estimated).splitlines() == [
        "2 of 10,000 images of photos: subset",
        "",
        "accuracy: 0.712 on the subset, 0.705 estimated for the whole (0.674 to 0.736, 95 %), as exact as 1,100 random "
        "images",
        "",
        "time: 0.1 s (estimate 0.1 s)",
    ]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (replace(ONE, equivalent=None), "without an error that shows"),
        (replace(ONE, equivalent=1e17), "as exact as more than 10,000 random images"),
        (Estimate("x", 2e6, 2.1e6, 3e4, 2.0e6, 2.2e6, 5.0), "x: 2,000,000 on the subset, 2,100,000 estimated"),
        (Estimate("x", 1e-9, 1.23e-9, 1e-11, 1e-9, 1e-9, 5.0), "x: 0.000000001000 on the subset, 0.000000001230"),
        (Estimate("x", 1e-99, 1.23e-99, 1e-101, 1e-99, 1e-99, 5.0), "x: 1e-99 on the subset, 1.23e-99 estimated"),
        (Estimate("x", 1e99, 1e99, 1e97, 1e99, 1e99, 5.0), "x: 1e+99 on the subset"),
        (Estimate("x", 0.1, 0.1, 0.0, 0.1, 0.1, None), "0.1 estimated for the whole (0.1 to 0.1, 95 %)"),
        (replace(ONE, name="\x1b[31m"), "\\x1b[31m: 0.712"),
    ],
)  # fmt: skip
def test_numbers_have_two_digits_of_their_error(estimated: Estimated, one: Estimate, words: str) -> None:
    assert words in estimate_summary(replace(estimated, estimates=(one,)))


def test_decided_differences_come_first_and_many_are_cut(estimated: Estimated) -> None:
    open_ones = tuple(replace(APART, first=f"m{place}", high=0.001) for place in range(12))
    found = replace(estimated, differences=(*open_ones, APART))
    lines = estimate_summary(found).splitlines()
    assert lines[4] == "a - b: -0.0200 estimated for the whole (-0.0280 to -0.0120, 95 %): b is higher"
    assert lines[5].startswith("m0 - b: ")
    assert lines[5].endswith("not decided")
    assert "... and 3 more differences; -v shows all" in lines
    assert len(estimate_summary(found, verbose=True).splitlines()) == len(lines) + 2
    assert [one.decided for one in (APART, open_ones[0], replace(APART, low=0.0, high=0.0))] == [True, False, False]


def test_what_is_not_known_of_the_subset_is_said(estimated: Estimated) -> None:
    text = estimate_summary(replace(estimated, chosen=False, warnings=("of something",)))
    assert "\n\nThe intervals are right if the subset was drawn at random.\nNote: of something.\n" in text
