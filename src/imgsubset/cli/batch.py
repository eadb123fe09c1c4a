"""imgsubset batch: many selections from one file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click

from imgsubset.cli.options import PATH, collect_embeddings, collect_options, output_options
from imgsubset.cli.output import Command, show
from imgsubset.cli.run import Job, run
from imgsubset.cli.select import select_command
from imgsubset.cli.signals import EndedBySignal
from imgsubset.errors import BatchError, GateError, ImgsubsetError, InputError, UsageError
from imgsubset.files import read_whole
from imgsubset.options import unknown
from imgsubset.results.as_json import describe_placed
from imgsubset.results.as_text import batch_summary, printable
from imgsubset.results.records import Placed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRINTING = {"as_json", "quiet", "verbose"}  # of the batch, not of a job


@dataclass(frozen=True)
class Result:
    """What became of a job: done; skipped, since an earlier run had done it; failed; stopped, by a signal;
    or not run, after that."""

    name: str
    status: str
    placed: Placed | None = None
    error: ImgsubsetError | None = None

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended its search."""
        return self.placed is not None and self.placed.interrupted

    @property
    def row(self) -> tuple[str, str, int | None, float | None]:
        """Its line in the summary: name, status, n and loss."""
        n, loss = (len(self.placed.chosen), self.placed.loss) if self.placed else (None, None)
        return self.name, self.status, n, loss

    def describe(self) -> dict[str, Any]:
        """The record of the result, for json.dumps."""
        return {
            "name": self.name,
            "status": self.status,
            "error": str(self.error) if self.error else None,
            "exit_code": self.error.exit_code if self.error else 0,
            "result": describe_placed(self.placed) if self.placed else None,
        }


@click.command("batch", cls=Command, short_help="Do the selections that a TOML file describes.")
@click.argument("file", metavar="JOBS.toml", type=PATH)
@output_options
def batch_command(file: Path, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Do the selections that a TOML file describes, and go on after those that fail.

    \b
    [defaults]                # of all jobs: the options of `select`, without dashes
    n = "10%"
    [jobs.cats]               # one table a job
    source = "cats"           # relative paths start from the folder of the file
    destination = "subsets/cats"
    weights = "kl=1,frechet=2"

    A job whose destination holds just what it would make is skipped.
    """
    jobs = read_jobs(file)
    results: list[Result] = []
    interrupted, signalled = False, None
    for number, (name, job) in enumerate(jobs.items(), 1):
        if interrupted or signalled:
            results.append(Result(name, "not run"))
            continue
        if not quiet:
            click.echo(f"[{number}/{len(jobs)}] {printable(name)}", err=True)
        try:
            results.append(_do(name, job, quiet))
            interrupted = results[-1].interrupted
        except EndedBySignal as ended:
            results.append(Result(name, "stopped"))
            signalled = ended
    errors = {one.name: str(one.error) for one in results if one.error}
    show(
        {"jobs": [one.describe() for one in results]},
        batch_summary([one.row for one in results], errors),
        as_json,
        quiet,
    )
    if signalled:
        raise signalled
    if interrupted:
        raise click.exceptions.Exit(130)
    if errors:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in errors.items())
        raise BatchError(f"{len(errors):,} of {len(jobs):,} jobs of '{file}' failed: {reasons}")


def _do(name: str, job: Job, quiet: bool) -> Result:
    try:
        placed = run(job, quiet)
    except GateError as error:
        return Result(name, "failed", cast("Placed", error.result), error)
    except ImgsubsetError as error:
        return Result(name, "failed", error=error)
    return Result(name, "skipped" if placed.done else "done", placed)


def read_jobs(file: Path) -> dict[str, Job]:
    """The jobs of a file, by name; everything that can be wrong before work begins is an error here.

    Raises InputError if it cannot be read, UsageError naming what makes no sense in it.
    """
    try:
        content = tomllib.loads(read_whole(file).decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read '{file}': {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{file}' is not TOML: {error}") from None
    _check_keys(content, {"defaults", "jobs"}, f"'{file}'")
    where = f"[defaults] of '{file}'"
    defaults = _normal(_table(content.get("defaults", {}), where), where)
    tables = _table(content.get("jobs", {}), f"[jobs] of '{file}'")
    if not tables:
        raise UsageError(f"'{file}' has no jobs; each is a table [jobs.NAME]")
    jobs: dict[str, Job] = {}
    owners: dict[str, str] = {}
    for name, table in tables.items():
        where = f"[jobs.{name}] of '{file}'"
        jobs[name] = job = _job(defaults | _normal(_table(table, where), where), where, file.parent)
        if job.destination is not None:
            other = owners.setdefault(os.path.realpath(job.destination), name)
            if other != name:
                raise UsageError(f"jobs '{other}' and '{name}' of '{file}' have the same destination")
    return jobs


def _job(values: Mapping[str, Any], where: str, folder: Path) -> Job:
    """A job from its keys, by way of the command line that they stand for: one meaning, one set of checks."""
    parameters = job_parameters()
    words: list[str] = []
    positional = {}
    for key, value in values.items():
        parameter = parameters[key]
        text = _text(value, parameter, f"'{key}' in {where}")
        if isinstance(parameter.type, click.Path) and text is not None:
            text = str(folder / text)
        if isinstance(parameter, click.Argument):
            positional[key] = text
        elif text is None:
            words += [f"--{key}"] if value else []
        elif isinstance(parameter, click.Option) and parameter.multiple:
            words += [f"--{key}={one}" for one in text.split("\n") if one]
        else:
            option = max(parameter.opts, key=len)
            words += [f"{option}={text}"] if option.startswith("--") else [option, text]
    if "source" not in positional:
        raise UsageError(f"{where} has no source")
    words += ["--", *(str(positional[key]) for key in ("source", "destination") if key in positional)]
    try:
        context = select_command.make_context("select", words)
        with context:
            arguments = {name: value for name, value in context.params.items() if name not in PRINTING}
            return Job(**collect_embeddings(collect_options(arguments)))
    except click.ClickException as error:
        raise UsageError(f"{where}: {error.format_message()}") from None
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def job_parameters() -> dict[str, click.Parameter]:
    """The parameters of `select` that a job may have, by key."""
    return {_key(one): one for one in select_command.params if one.name not in PRINTING}


def _key(parameter: click.Parameter) -> str:
    """The key of a parameter: its longest name without dashes."""
    return max(parameter.opts, key=len).lstrip("-")


def _normal(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A table of options with dashes in its keys, all of which are known."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if (dashed := key.replace("_", "-")) in values:
            raise UsageError(f"'{dashed}' stands twice in {where}")
        values[dashed] = value
    _check_keys(values, job_parameters(), where)
    return values


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} is not a table")
    return value


def _check_keys(table: Mapping[str, Any], known: Mapping[str, Any] | set[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(unknown(key, f"unknown key '{key}' in {where}", known))


def _text(value: Any, parameter: click.Parameter, what: str) -> str | None:
    """A value as the command line writes it; None for a flag, which has none."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if isinstance(value, bool):
            return None
        raise UsageError(f"{what} = {value!r} is neither true nor false")
    wanted: tuple[type, ...] = (str,) if isinstance(parameter.type, click.Path) else (str, int, float)
    if parameter.name == "weights" and isinstance(value, dict):
        value = ",".join(f"{name}={one}" for name, one in value.items())
    elif isinstance(value, list) and all(isinstance(one, (str, int, float)) for one in value):
        if isinstance(parameter, click.Option) and parameter.multiple:
            value = "\n".join(map(str, value))
        elif parameter.name in ("channels", "weights"):
            value = ",".join(map(str, value))
    if isinstance(value, bool) or not isinstance(value, wanted) or "\0" in str(value):
        raise UsageError(f"{what} = {value!r} is not {'a path' if wanted == (str,) else 'a text or a number'}")
    return str(value)
