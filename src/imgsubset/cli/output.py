"""What the commands share in speaking: results, progress bars, and how failures end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import click
from tqdm import tqdm

from imgsubset.errors import ImgsubsetError, OutputError, VerdictError
from imgsubset.options import REMOVED, unknown
from imgsubset.results.as_text import printable


class Command(click.Command):
    """A command whose failures become one line, or one JSON object, and the exit code of their kind."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and say of an option that was taken out what became of it."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            if name.lstrip("-").replace("-", "_") not in REMOVED:
                raise
            raise click.UsageError(unknown(name.lstrip("-"), f"no such option {name}", {}), ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ImgsubsetError as error:
            if ctx.params.get("as_json") and not isinstance(error, VerdictError):  # whose result is printed already
                say(json.dumps({"error": str(error), "exit_code": error.exit_code}))
            complain(f"error: {printable(str(error))}")
            raise click.exceptions.Exit(error.exit_code) from error


class Group(click.Group):
    """Commands of this program."""

    command_class = Command


def show(record: dict[str, Any], text: str, as_json: bool, quiet: bool, err: bool = False) -> None:
    """Print what came out, in the form that was asked for."""
    if as_json:
        say(json.dumps(record, indent=1))
    elif not quiet:
        say(text, err=err)


def discard_stdout() -> None:
    """Let what is left in the buffer go nowhere at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(text: str) -> None:
    """Print a line on stderr, if that can be written to: where it cannot, the exit code must do."""
    with contextlib.suppress(OSError):
        click.echo(f"imgsubset: {text}", err=True)


def say(text: str | bytes, err: bool = False) -> None:
    """Print. Raises OutputError if that fails, and ends the program if nobody reads stdout any more."""
    try:
        click.echo(text, err=err, nl=isinstance(text, str))
    except OSError as error:
        discard_stdout()
        if isinstance(error, BrokenPipeError):
            raise click.exceptions.Exit(128 + 13) from None  # as SIGPIPE would end it
        raise OutputError(f"cannot write to {'stderr' if err else 'stdout'}: {error.strerror}") from None


class Bars:
    """Progress bars on stderr, one a stage; none off a terminal or when quiet."""

    def __init__(self, quiet: bool) -> None:
        # None: tqdm asks whether stderr is a terminal. One that is dumb cannot go back in a line.
        hidden = quiet or sys.stderr is None or os.environ.get("TERM") == "dumb"
        self.disable = True if hidden else None
        self.bars: dict[str, tqdm[Any]] = {}

    def __enter__(self) -> Bars:
        return self

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if not done:  # a stage that has no parts to tell of
            return
        if stage not in self.bars:
            self.bars[stage] = tqdm(desc=stage, total=total, disable=self.disable, unit="", leave=False)
        self.bars[stage].set_postfix_str(note, refresh=False)
        self.bars[stage].update(done)

    def __exit__(self, *_: object) -> None:
        for bar in self.bars.values():
            bar.close()
