"""Writes options.md, the reference of commands and options, from the commands themselves.

python examples/options.py
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from imgsubset import cli, errors

FIRST = ("select", "split", "score", "estimate", "compare")  # whose options come first
HEAD = """# Commands and options

`imgsubset COMMAND -h`, or a command without arguments, shows what most people need, `--help` everything. This page is
made from the commands: `python examples/options.py`.

"""


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    """All commands by what a user writes after `imgsubset`, the most used first."""
    found: dict[str, click.Command] = {}
    for name in sorted(group.commands, key=lambda one: (FIRST.index(one) if one in FIRST else len(FIRST), one)):
        command = group.commands[name]
        inner = isinstance(command, click.Group)
        found |= commands(command, f"{prefix}{name} ") if inner else {f"{prefix}{name}": command}
    return found


def row_of(option: click.Option, context: click.Context) -> tuple[str, str, str] | None:
    """How an option is written, its default, and what it means; None if help does not show it."""
    record = option.get_help_record(context)
    if record is None or option.name == "help":
        return None
    written, text = (part.replace("|", "/") for part in record)
    default = re.search(r"\s*\[default: ([^\]]*)\]", text)
    text = re.sub(r"\s*\[(default: [^\]]*|required)\]", "", text).strip()
    return ", ".join(f"`{word}`" for word in written.split(", ")), default[1] if default else "", text


def page() -> str:
    """The reference."""
    every = commands(cli.program)
    lines = [HEAD + "| command | what it does |", "|---|---|"]
    for name, command in every.items():
        places = " ".join(
            p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)
        )
        lines.append(f"| `imgsubset {name} {places}`".rstrip("` ") + f"` | {command.get_short_help_str(200)} |")
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name, command in every.items():
        context = click.Context(command, info_name=name)
        for option in command.params:
            if isinstance(option, click.Option) and (row := row_of(option, context)):
                rows.setdefault(row, []).append(name)
    lines += ["", "| option | of | default | meaning |", "|---|---|---|---|"]
    for (written, default, text), of in rows.items():
        lines.append(f"| {written} | {', '.join(of)} | {default} | {text} |")
    lines += ["", "| exit code | meaning |", "|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in sorted(errors.EXIT_CODES.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
