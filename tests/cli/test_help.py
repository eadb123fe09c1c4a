"""Help in short and whole, and completion."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest
from conftest import Run

from imgsubset import cli
from imgsubset.cli.help import COMMON_OPTIONS, HEADING_OF, HEADINGS
from imgsubset.options import FIELDS

Program = Callable[..., Run]
COMMANDS = [["cache"], *([name] for name in cli.program.commands if name != "cache")]
SUBCOMMANDS = [["cache", "info"], ["cache", "clear"]]


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("words", [[], *COMMANDS[1:]], ids=str)  # a bare `cache` shows what is kept
def test_without_arguments_the_short_help_is_shown_as_it_is(imgsubset: Program, words: list[str]) -> None:
    short = imgsubset(*words, "-h")
    assert (short.code, short.err) == (0, "")
    assert short.out.startswith(f"Usage: {' '.join(['imgsubset', *words])} ")
    assert imgsubset(*words) == Run(2, "", short.out)


def test_a_command_that_needs_no_arguments_runs_without_any(imgsubset: Program) -> None:
    assert imgsubset("cache", "info").code == 0


@pytest.mark.parametrize("words", [[], *COMMANDS, *SUBCOMMANDS], ids=str)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_readable_at_80_columns(imgsubset: Program, words: list[str], option: str) -> None:
    text = imgsubset(*words, option).out
    assert max(map(len, text.splitlines())) <= 80
    assert option == "--help" or len(text.splitlines()) <= 45


@pytest.mark.parametrize("name", ["select", "split", "score", "compare", "demo"])
def test_short_help_leaves_out_what_few_need(imgsubset: Program, name: str) -> None:
    short, whole = imgsubset(name, "-h").out, imgsubset(name, "--help").out
    options = [one for one in cli.program.commands[name].params if isinstance(one, click.Option)]
    for option in options:
        row = f"\n  {', '.join(option.opts)}"
        assert row in whole
        assert (row in short) == (option.name in COMMON_OPTIONS)
    assert f"{len(options) + 2} options in all: imgsubset {name} --help" in short
    headings = [line[:-1] for line in whole.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [heading for heading in HEADINGS if heading in headings]
    assert {"Match", "Running"} <= {*headings}


def test_examples_stand_on_top(imgsubset: Program) -> None:
    for option in ("-h", "--help"):
        head = imgsubset("select", option).out.split("\n\n")[2]
        assert [line.startswith("  imgsubset select ") for line in head.splitlines()] == [True] * 5


def test_every_option_has_a_heading_and_every_rule_an_option() -> None:
    assert {*HEADING_OF.values(), *(field.metadata["group"] for field in FIELDS.values())} == {*HEADINGS}
    options = {one.name for command in cli.program.commands.values() for one in command.params}
    assert {*HEADING_OF, *COMMON_OPTIONS} - {*FIELDS, "short_help"} <= options


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "expected"), [("imgsubset sel", "select"), ("imgsubset select photos --time", "--time-limit")]
)
def test_shells_complete_commands_and_options(
    imgsubset: Program, monkeypatch: pytest.MonkeyPatch, shell: str, words: str, expected: str
) -> None:
    monkeypatch.setenv("_IMGSUBSET_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", words.split()[-1] if shell == "fish" else str(len(words.split()) - 1))
    assert expected in imgsubset().out
