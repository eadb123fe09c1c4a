from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from conftest import listing_of

from imgsubset.annotations import filters
from imgsubset.annotations.classes import parse_groups
from imgsubset.annotations.filters import UserRegex, filter_candidates
from imgsubset.errors import UsageError
from imgsubset.options import Options


@pytest.mark.parametrize(
    ("text", "captured"),
    [("b(.)", "c"), ("b.", "bc"), ("x", None), ("b(x)?", None), ("(?:a)(b)(c)", "b"), ("(?i)B", "b"), ("[[a]", "a")],
)
def test_what_an_expression_captures_first(text: str, captured: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # re warns of [[
        one = UserRegex(text, "it")
    assert one.extract("abc") == captured
    assert one.matches("abc") == (captured is not None or text == "b(x)?")


@pytest.mark.parametrize(
    "text", ["a{99999999999}", "(" * 5000 + ")" * 5000, "x" * 2_000_000, "(", "(?P<a", "a{2,1}", "[z-a]"]
)
def test_what_is_no_expression_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"^group_by .*: not a regular expression: ") as caught:
        UserRegex(text, f"group_by '{text[:20]}'")
    assert "\n" not in str(caught.value)


def test_an_expression_that_takes_for_ever_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "REGEX_TIMEOUT_SECONDS", 0.05)
    with pytest.raises(UsageError, match=r"^group_by '\(a\|a\)\*\$': not matched with 'aaaa[^\n]*' within 0.05 s"):
        parse_groups(["b", "a" * 60 + "b"], "(a|a)*$")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pattern", ["*a" * 12 + "*.gif", "*a?" * 10 + "c", "*a*a" * 6 + "*b?x"])
def test_no_pattern_of_files_backtracks_for_ever(pattern: str) -> None:
    names = ("a" * 200 + "bx.png", "x.png")
    assert filter_candidates(listing_of(Path("source"), names), Options(exclude=(pattern,))).paths == names
