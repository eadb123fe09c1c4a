"""Help: what most people need with -h or without any argument, and all of it, under headings, with --help."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import click

from imgsubset.options import FIELDS

HEADINGS = ("Source", "How many", "Which images", "Match", "Output", "Search", "Running", "Expert")
# Under which heading help shows options that are not fields of `Options`; others are shown under Output.
HEADING_OF = {
    **dict.fromkeys(("skip_foreign", "columns", "shard"), "Source"),
    **{"n": "How many", "no_cache": "Running", "short_help": "Running"},
    **dict.fromkeys(("embeddings", "paths", "pca"), "Match"),
}
COMMON_OPTIONS = {  # what -h shows, of commands with many options
    *("n", "shard", "stratify", "group_by", "exclude", "dedupe", "features", "seed"),
    *("mode", "overwrite", "list_file", "min_size", "dry_run", "as_json"),
}
MAX_OPTIONS_WITHOUT_HEADINGS = 8  # options that need neither headings nor a short help
SHORT_HELP_KEY = "imgsubset.short_help"


def _show_short_help(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        context.meta[SHORT_HELP_KEY] = True
        click.echo(context.get_help())
        context.exit()


SHORT_HELP = click.Option(["-h", "short_help"], is_flag=True, is_eager=True, expose_value=False,
                          callback=_show_short_help, help="Show the help in short, and exit.")  # fmt: skip


class HelpCommand(click.Command):
    """A command that explains itself, at length with --help. Its docstring is a summary, examples and the rest."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.no_args_is_help |= any(parameter.required for parameter in self.params)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All parameters, with those that show help."""
        return [*self.params, SHORT_HELP, *super().get_params(ctx)[len(self.params) :]]

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The option --help."""
        if option := super().get_help_option(ctx):
            option.help = "Show the whole help, and exit."
        return option

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; without any argument the help that is shown is the short one."""
        ctx.meta[SHORT_HELP_KEY] = not args
        return super().parse_args(ctx, args)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the docstring; in short the summary and the examples."""
        text = inspect.cleandoc(self.help or "")
        if ctx.meta[SHORT_HELP_KEY]:
            summary, *others = text.split("\n\n")
            text = "\n\n".join([summary, *(part for part in others if part.startswith("\b"))])
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those that are asked for."""
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        if len(options) <= MAX_OPTIONS_WITHOUT_HEADINGS:
            _write_section("Options", options, ctx, formatter)
        elif ctx.meta[SHORT_HELP_KEY]:
            _write_section("Options", [one for one in options if one.name in COMMON_OPTIONS], ctx, formatter)
            formatter.write_paragraph()
            formatter.write_text(f"{len(options)} options in all: {ctx.command_path} --help")
        else:
            for heading in HEADINGS:
                _write_section(heading, (one for one in options if _find_heading(one) == heading), ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what comes last, but in short."""
        if not ctx.meta[SHORT_HELP_KEY]:
            super().format_epilog(ctx, formatter)


class HelpGroup(HelpCommand, click.Group):
    """A group of commands that explains itself."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, and the options after them."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)


def _find_heading(option: click.Option) -> str:
    name = option.name or ""
    if "--help" in option.opts:
        return "Running"
    return str(FIELDS[name].metadata["group"]) if name in FIELDS else HEADING_OF.get(name, "Output")


def _write_section(
    heading: str, options: Iterable[click.Option], ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """A section of options."""
    if rows := [record for one in options if (record := one.get_help_record(ctx))]:
        with formatter.section(heading):
            formatter.write_dl(rows)
