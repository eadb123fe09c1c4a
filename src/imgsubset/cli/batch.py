"""imgsubset batch: many selections from one file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import click

from imgsubset.cli import options as opt
from imgsubset.cli.output import PRINT_OPTIONS, Command, Output
from imgsubset.cli.report_files import ReportFiles, check_writable
from imgsubset.cli.select import Job, run_job, select_command
from imgsubset.cli.signals import EndedBySignal
from imgsubset.errors import BatchError, ImgsubsetError, UsageError
from imgsubset.files import read_input_file
from imgsubset.options import MATCH_TERMS, PRESETS, unknown_name_message
from imgsubset.results.as_json import describe_export_result
from imgsubset.results.as_text import batch_summary
from imgsubset.results.records import Placed
from imgsubset.results.text import printable
from imgsubset.sources.remote import parse_url

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

JobKeys = Mapping[str, click.Parameter]
JOB_KEYS: JobKeys = {  # of a job: the parameters of `select` by their longest names, but for those of the batch
    max(one.opts, key=len).lstrip("-"): one for one in select_command.params if one.name not in PRINT_OPTIONS
}


@click.command("batch", cls=Command, short_help="Do the selections that a TOML file describes.")
@click.argument("file", metavar="JOBS.toml", type=opt.PATH)
@opt.add_options(opt.REPORT, opt.output_options("jobs"))
def batch_command(file: Path, shown: ReportFiles, out: Output) -> None:
    """Do the selections that a TOML file describes, and go on after those that fail.

    \b
    imgsubset batch jobs.toml

    \b
    [defaults]                # of all jobs: options of `select`, without dashes
    n = "10%"
    [jobs.cats]               # one table a job
    source = "cats"           # relative paths start from the folder of the file
    destination = "subsets/cats"
    weights = "kl=1,frechet=2"

    A job whose destination holds just what it would make is skipped.
    """
    check_writable(shown.files)
    jobs = read_jobs(file)
    records: list[dict[str, Any]] = []
    end: BaseException | None = None
    for number, (name, job) in enumerate(jobs.items(), 1):
        if end:
            records.append(_job_record(name, "not run"))
            continue
        if not out.quiet:
            click.echo(f"[{number}/{len(jobs)}] {printable(name)}", err=True)
        record, end = _try_job(name, job, out)
        records.append(record)
    failures = {one["name"]: one["error"] or one["status"] for one in records if one["error"] or not one["result"]}
    shown.write_parts(
        f"The jobs of {printable(str(file))}", {one["name"]: one["result"] for one in records}, {}, failures
    )
    out.show({"jobs": records}, batch_summary(records))
    if end:
        raise end
    if reasons := [f"{one['name']}: {one['error']}" for one in records if one["error"]]:
        raise BatchError(f"{len(reasons):,} of {len(jobs):,} jobs of '{file}' failed: {'; '.join(reasons)}")


def _try_job(name: str, job: Job, out: Output) -> tuple[dict[str, Any], BaseException | None]:
    """Do a job; its record, and what ends the batch after it."""
    try:
        placed, verdict = run_job(job, out)
    except ImgsubsetError as error:
        return _job_record(name, "failed", error=error), None
    except EndedBySignal as signalled:
        return _job_record(name, "stopped"), signalled
    reached = "interrupted" if placed.interrupted else "done"
    status = "failed" if verdict else "skipped" if placed.done else reached
    return _job_record(name, status, placed, verdict), click.exceptions.Exit(130) if placed.interrupted else None


def _job_record(
    name: str, status: str, placed: Placed | None = None, error: ImgsubsetError | None = None
) -> dict[str, Any]:
    """What became of a job: done; skipped, since an earlier run had done it; failed; interrupted, with the best so far;
    stopped, by a signal; or not run, after that."""
    return {
        "name": name,
        "status": status,
        "error": str(error) if error else None,
        "exit_code": error.exit_code if error else 0,
        "result": describe_export_result(placed) if placed else None,
    }


def read_jobs(file: Path) -> dict[str, Job]:
    """The jobs of a file, by name; everything that can be wrong before work begins is an error here.

    Raises InputError if it cannot be read, UsageError naming what makes no sense in it.
    """
    try:
        content = tomllib.loads(read_input_file(file, f"'{file}'").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"'{file}' is not TOML: {error}") from None
    content = _check_table(content, f"'{file}'", {"defaults", "jobs"})
    defaults = _check_table(content.get("defaults", {}), f"[defaults] of '{file}'", JOB_KEYS)
    tables = _check_table(content.get("jobs", {}), f"[jobs] of '{file}'")
    if not tables:
        raise UsageError(f"'{file}' has no jobs; each is a table [jobs.NAME]")
    jobs: dict[str, Job] = {}
    owners: dict[str, str] = {}
    for name, table in tables.items():
        where = f"[jobs.{name}] of '{file}'"
        jobs[name] = job = _build_job(
            _merge_defaults(defaults, _check_table(table, where, JOB_KEYS)), where, file.parent
        )
        for what, place in (("destination", job.destination), ("list", job.list_file)):
            other = name if place is None else owners.setdefault(os.path.realpath(place), name)
            if other != name:
                raise UsageError(f"jobs '{other}' and '{name}' of '{file}' have the same {what}")
    return jobs


def _check_table(value: Any, where: str, known: JobKeys | set[str] | None = None) -> dict[str, Any]:
    """A table; with dashes in its keys, where these are options or others that are known."""
    if not isinstance(value, dict):
        raise UsageError(f"{where} is not a table")
    if known is None:
        return value
    table: dict[str, Any] = {}
    for key, one in value.items():
        dashed = key.replace("_", "-")
        if dashed in table:
            raise UsageError(f"'{dashed}' stands twice in {where}")
        if dashed not in known:
            raise UsageError(unknown_name_message(dashed, f"unknown key '{dashed}' in {where}", known))
        table[dashed] = one
    return table


def _merge_defaults(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a job: its own, then what its preset stands for, then the defaults."""
    preset = PRESETS.get(str(own.get("preset")))
    named = {name.replace("_", "-") for name in preset.options} if preset else set()
    return {key: value for key, value in defaults.items() if key not in named} | {**own}


def _build_job(values: Mapping[str, Any], where: str, folder: Path) -> Job:
    """A job from its keys, by way of the command line that they stand for: one meaning, one set of checks."""
    if "source" not in values:
        raise UsageError(f"{where} has no source")
    if values.get("list") == "-":
        raise UsageError(f"'list' in {where} cannot be '-': the summary of the batch goes to stdout; name a file")
    words = {key: _to_arguments(key, value, f"'{key}' in {where}", folder) for key, value in values.items()}
    places = ["--", *words.pop("source"), *words.pop("destination", [])]
    try:
        with select_command.make_context("select", [*chain(*words.values()), *places]) as context:
            return Job(
                **opt.collect_options(
                    {name: value for name, value in context.params.items() if name not in PRINT_OPTIONS}
                )
            )
    except click.ClickException as error:
        raise UsageError(f"{where}: {error.format_message()}") from None
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _to_arguments(key: str, value: Any, what: str, folder: Path) -> list[str]:
    """A key and its value as the command line has them."""
    parameter = JOB_KEYS[key]
    name = max(parameter.opts, key=len)
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{what} = {value!r} is neither true nor false")
        return [name] * value
    texts = value if parameter.multiple and isinstance(value, list) else [value]
    if key in ("weights", "features") and isinstance(value, dict):
        texts = [",".join(f"{one}={number}" for one, number in value.items())]
    elif key == "match":
        named = [f"{one}={number}" for one, number in value.items()] if isinstance(value, dict) else texts
        texts = [text if str(text).partition("=")[0] in MATCH_TERMS else f"{folder / str(text)}" for text in named]
    elif key in ("weights", "channels") and isinstance(value, list):
        texts = [",".join(map(str, value))]
    is_path = isinstance(parameter.type, click.Path)
    for text in texts:
        wrong = isinstance(text, bool) or not isinstance(text, str if is_path else (str, int, float))
        if wrong or "\0" in str(text) or (is_path and not text):
            raise UsageError(f"{what} = {text!r} is not {'a path' if is_path else 'a text or a number'}")
    texts = [str(folder / text) if is_path and parse_url(text) is None else str(text) for text in texts]
    if parameter.multiple:
        texts = [line for text in texts for line in text.split("\n") if line]
    if isinstance(parameter, click.Argument):
        return texts
    return [f"{name}={text}" for text in texts] if name.startswith("--") else [name, *texts]
