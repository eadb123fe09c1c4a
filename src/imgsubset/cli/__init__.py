"""The command line: parse, call, print, exit code. The only module that prints or knows click."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from imgsubset import __version__, manifest
from imgsubset.errors import ImgsubsetError, UsageError
from imgsubset.export import Export, check_destination, export
from imgsubset.options import DEVICES, DIVERGENCE_NAMES, Options, Weights
from imgsubset.report import printable, summary
from imgsubset.selection import Selection, select

EXIT_CODES = """\b
Exit codes:
  0    done
  1    an error inside imgsubset
  2    usage: an option, weight or path that makes no sense
  3    input unusable: no images, or fewer than n
  4    files that cannot be used, under --strict
  5    the destination cannot be written
  130  interrupted"""

DEFAULTS = Options()
Decorated = Callable[..., None]


class Command(click.Command):
    """A command whose failures become one line, or one JSON object, and the exit code of their kind."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ImgsubsetError as error:
            if ctx.params.get("as_json"):
                click.echo(json.dumps({"error": str(error), "exit_code": error.exit_code}))
            click.echo(f"imgsubset: error: {printable(str(error))}", err=True)
            raise click.exceptions.Exit(error.exit_code) from error


class Group(click.Group):
    """Commands of this program."""

    command_class = Command


@click.group(
    cls=Group, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="imgsubset")
def program() -> None:
    """Choose the images of a folder whose distribution is closest to that of the whole folder.

    \b
    imgsubset select photos subset -n 500    the 500 closest, copied to subset/
    imgsubset demo trial                     try it on pictures that it draws itself
    """


def selection_options(command: Decorated) -> Decorated:
    """The options that decide which images are chosen; the command receives them as one `options` record."""

    @wraps(command)
    def collected(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in list(arguments) if name in Options.__dataclass_fields__}
        values["weights"] = Weights.parse(values["weights"]) if values["weights"] is not None else DEFAULTS.weights
        values["channels"] = parse_channels(values["channels"])
        values["time_limit"] = parse_seconds(values["time_limit"])
        command(options=Options(**values), **arguments)

    for option in reversed(SELECTION_OPTIONS):
        collected = option(collected)
    return collected


def parse_channels(text: str) -> tuple[int, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"channels '{text}' are not whole numbers separated by commas") from None


def parse_seconds(text: str | None) -> float | None:
    """A time such as 30s, 5m, 1.5h, or a number of seconds."""
    if text is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    except ValueError:
        raise UsageError(f"time limit '{text}' is not a time such as 30s, 5m or 1h") from None


SELECTION_OPTIONS = [
    click.option(
        "--weights",
        metavar="W",
        help="How much each divergence counts: by name, as in 'kl=1,frechet=0.5' (the unnamed are 0), or five numbers "
        f"in the order {','.join(DIVERGENCE_NAMES)}.  [default: all 1]",
    ),
    click.option("--candidates", type=int, default=DEFAULTS.candidates, show_default=True, metavar="K",
                 help="Random subsets to score."),
    click.option("--chains", type=int, default=DEFAULTS.chains, show_default=True, metavar="R",
                 help="How many of the best draws are improved side by side."),
    click.option("--steps", type=int, default=DEFAULTS.steps, show_default=True,
                 help="Steps of annealed exchanges; 0 keeps the best draw."),
    click.option("--time-limit", default=None, metavar="TIME",
                 help="End the search after this long, as in '30s' or '5m', with the best found by then."),
    click.option("--seed", type=int, default=DEFAULTS.seed, show_default=True,
                 help="The same seed chooses the same images."),
    click.option("--device", type=click.Choice(DEVICES), default=DEFAULTS.device, show_default=True,
                 help="Where the network and the search run; auto is a CUDA GPU if there is one."),
    click.option("--size", type=int, default=DEFAULTS.size, show_default=True, metavar="PIXELS",
                 help="Side of the square that images are resized to."),
    click.option("--channels", default=",".join(map(str, DEFAULTS.channels)), show_default=True, metavar="C,C,...",
                 help="Output channels of each layer of the random CNN."),
    click.option("--kernel-size", type=int, default=DEFAULTS.kernel_size, show_default=True,
                 help="Of its convolutions; odd."),
    click.option("--temperature", type=float, default=DEFAULTS.temperature, show_default=True,
                 help="kT of the Langevin noise at the start, in units of the source's variance."),
    click.option("--friction", type=float, default=DEFAULTS.friction, show_default=True,
                 help="gamma of the Langevin noise."),
    click.option("--langevin-time", type=float, default=DEFAULTS.langevin_time, show_default=True,
                 help="How long the noise acts."),
    click.option("--workers", type=int, default=None, metavar="N",
                 help="Decoding processes.  [default: one a core; none for few images]"),
    click.option("--strict", is_flag=True, help="Fail (exit 4) if any image cannot be decoded, not skip it."),
]  # fmt: skip


def output_options(command: Decorated) -> Decorated:
    """--json, -q and -v."""
    command = click.option("-v", "--verbose", is_flag=True, help="Show every skipped file.")(command)
    command = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Print a JSON object, not the summary.")(command)


@program.command("select")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@click.option("-n", "n", required=True, metavar="N|P%", help="How many images to choose: a number, or a percentage.")
@selection_options
@click.option("--overwrite", is_flag=True, help="Replace an earlier selection in DST; foreign files there stay.")
@click.option(
    "--ranked", is_flag=True, help="Write DST/ranked.txt: the copies in an order whose every beginning is close."
)
@click.option("--dry-run", is_flag=True, help="Choose and report, but copy nothing.")
@output_options
def select_command(
    source: Path,
    destination: Path,
    n: str,
    options: Options,
    overwrite: bool,
    ranked: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Choose N images of the folder SRC and copy them to the folder DST."""
    if not dry_run:
        check_destination(source, destination, overwrite)
    with Bars(quiet) as bars:
        with Interrupt() as interrupt:
            selection = select(source, n, options, stop=interrupt, progress=bars)
        exported = None
        if not dry_run:
            exported = export(selection, destination, overwrite=overwrite, ranked=ranked, progress=bars)
    show(selection, exported, as_json, quiet, verbose)
    if selection.interrupted:
        raise click.exceptions.Exit(130)


@program.command("demo")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-n", "n", default="100", show_default=True, metavar="N|P%", help="How many images to choose.")
@selection_options
@output_options
def demo_command(folder: Path, n: str, options: Options, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Draw 2,000 small pictures into DIR/source, choose some of them, and copy these to DIR/subset."""
    from imgsubset.demo import draw_pictures

    source, destination = folder / "source", folder / "subset"
    with Bars(quiet) as bars:
        draw_pictures(source, progress=bars)
        check_destination(source, destination)
        selection = select(source, n, options, progress=bars)
        exported = export(selection, destination, progress=bars)
    show(selection, exported, as_json, quiet, verbose)


def show(selection: Selection, exported: Export | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Print what came out, in the form that was asked for."""
    if as_json:
        record = manifest.describe(selection, exported.hashes if exported else None)
        record["destination"] = str(exported.destination) if exported else None
        click.echo(json.dumps(record, indent=1))
    elif not quiet:
        click.echo(summary(selection, exported, verbose))


class Bars:
    """Progress bars on stderr, one a stage; none off a terminal or when quiet."""

    def __init__(self, quiet: bool) -> None:
        self.disable = True if quiet else None  # None: tqdm asks whether stderr is a terminal
        self.bars: dict[str, tqdm[Any]] = {}

    def __enter__(self) -> Bars:
        return self

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in self.bars:
            self.bars[stage] = tqdm(desc=stage, total=total, disable=self.disable, unit="", leave=False)
        self.bars[stage].set_postfix_str(note, refresh=False)
        self.bars[stage].update(done)

    def __exit__(self, *_: object) -> None:
        for bar in self.bars.values():
            bar.close()


class Interrupt:
    """While the search runs, the first Ctrl-C asks it to end with the best so far; any other ends the program."""

    def __init__(self) -> None:
        self.searching = self.asked = False

    def __call__(self) -> bool:
        self.searching = True
        return self.asked

    def __enter__(self) -> Interrupt:
        self.before = signal.signal(signal.SIGINT, self.handle)
        return self

    def handle(self, *_: object) -> None:
        if self.asked or not self.searching:
            raise KeyboardInterrupt
        self.asked = True
        click.echo("\nimgsubset: ending the search with the best so far; Ctrl-C again to leave at once", err=True)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)


def main() -> None:
    """The entry point of the `imgsubset` command."""
    try:
        sys.exit(program.main(prog_name="imgsubset", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("imgsubset: interrupted", err=True)
        sys.exit(130)
