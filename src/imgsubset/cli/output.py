"""What the commands share in speaking: results, progress bars, and how failures end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TextIO

import click

from imgsubset.cli.help import HelpCommand
from imgsubset.cli.options import collect_options
from imgsubset.cli.terminal import ProgressBar, check_memory_limit
from imgsubset.errors import ImgsubsetError, OutputError, VerdictError
from imgsubset.options import REMOVED_OPTIONS, unknown_name_message
from imgsubset.results.text import EIGHTH_BLOCKS, FULL_BLOCK, printable

PRINT_OPTIONS = ("as_json", "fields", "quiet", "verbose")


@dataclass(frozen=True)
class Output:
    """How a command prints: JSON, only these keys of it, nothing but errors, every skipped file."""

    as_json: bool
    fields: tuple[str, ...] | None
    quiet: bool
    verbose: bool

    def show(self, record: dict[str, Any], text: str, err: bool = False) -> None:
        """Print what came out, in the form that was asked for."""
        if self.as_json:
            print_text(
                json.dumps(record if self.fields is None else {key: record[key] for key in self.fields}, indent=1)
            )
        elif not self.quiet:
            print_text(fit_to_terminal(text, sys.stderr if err else sys.stdout), err=err)

    @contextlib.contextmanager
    def bars(self) -> Iterator[ProgressBar]:
        """Progress on stderr while the context lasts."""
        with contextlib.closing(ProgressBar(self.quiet)) as bars:
            yield bars


class Command(HelpCommand):
    """A command whose function receives `out`, and `options` and `embeddings` where it has these."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and say of an option that was taken out what became of it."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            if name.lstrip("-").replace("-", "_") not in REMOVED_OPTIONS:
                raise
            raise click.UsageError(unknown_name_message(name.lstrip("-"), f"no such option {name}", {}), ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Its failure becomes one line, with --json one object too, and the exit code of its kind."""
        arguments = dict(ctx.params)
        out = Output(**{name: arguments.pop(name, None) for name in PRINT_OPTIONS})
        if out.fields is not None and not out.as_json:
            raise click.UsageError("--fields goes with --json", ctx)
        assert self.callback is not None
        try:
            given = collect_options(arguments)
            if ctx.command.name != "verify":  # which alone needs no torch
                check_memory_limit()
            return ctx.invoke(self.callback, out=out, **given)
        except ImgsubsetError as error:
            if out.as_json and not isinstance(error, VerdictError):  # whose result is printed already
                print_text(json.dumps({"error": str(error), "exit_code": error.exit_code}))
            print_error(f"error: {printable(str(error))}")
            raise click.exceptions.Exit(error.exit_code) from error


def fit_to_terminal(text: str, stream: TextIO | None) -> str:
    """Text whose lines end between words, where a terminal would break them within one; bars are of characters that
    the stream can have."""
    try:
        FULL_BLOCK.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        text = text.translate({ord(FULL_BLOCK): "#", **{ord(part): None for part in EIGHTH_BLOCKS[1:]}})
    if stream is None or not stream.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    breaks = partial(textwrap.wrap, width=columns, replace_whitespace=False, drop_whitespace=True,
                     break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return "\n".join(line if len(line) <= columns else "\n".join(breaks(line)) for line in text.split("\n"))


def discard_stdout() -> None:
    """Let what is left in the buffer go nowhere at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(text: str, start: str = "imgsubset: ") -> None:
    """Print on stderr, if that can be written to: where it cannot, the exit code must do."""
    with contextlib.suppress(OSError):
        click.echo(f"{start}{text}", err=True)


def print_text(text: str | bytes, err: bool = False) -> None:
    """Print. Raises OutputError if that fails, and ends the program if nobody reads stdout any more."""
    try:
        click.echo(text, err=err, nl=isinstance(text, str))
    except OSError as error:
        discard_stdout()
        if isinstance(error, BrokenPipeError):
            raise click.exceptions.Exit(128 + 13) from None  # as SIGPIPE would end it
        raise OutputError(f"cannot write to {'stderr' if err else 'stdout'}: {error.strerror}") from None
