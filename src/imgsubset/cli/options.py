"""The options that commands share, and how words become records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from platformdirs import user_cache_path

from imgsubset.errors import InputError, UsageError
from imgsubset.files import read_whole
from imgsubset.options import DEVICES, LOSS, OPTION_NAMES, STRATIFY, Embeddings, Options
from imgsubset.reading.listing import Listing, list_images, list_paths, parse_paths
from imgsubset.weights import DIVERGENCE_NAMES, Weights

DEFAULTS = Options()
PATH = click.Path(path_type=Path, readable=False)  # what cannot be read has an exit code of its own
Decorated = Callable[..., Any]


FEATURE_OPTIONS = [
    click.option("--weights", metavar="W",
                 help="How much each divergence counts: by name, as in 'kl=1,frechet=0.5' (the unnamed are 0), or five "
                 f"numbers in the order {','.join(DIVERGENCE_NAMES)}.  [default: all 1]"),
    click.option("--seed", type=int, default=DEFAULTS.search.seed, show_default=True,
                 help="Of the network and the search: the same seed chooses the same images."),
    click.option("--device", type=click.Choice(DEVICES), default=DEFAULTS.running.device, show_default=True,
                 help="Where the network and the search run; auto is a CUDA GPU if there is one."),
    click.option("--size", type=int, default=DEFAULTS.features.size, show_default=True, metavar="PIXELS",
                 help="Side of the square that images are resized to."),
    click.option("--channels", default=",".join(map(str, DEFAULTS.features.channels)), show_default=True,
                 metavar="C,C,...",
                 help="Output channels of each layer of the random CNN."),
    click.option("--kernel-size", type=int, default=DEFAULTS.features.kernel_size, show_default=True,
                 help="Of its convolutions; odd."),
    click.option("--workers", type=int, default=None, metavar="N",
                 help="Decoding processes; 0 decodes in this one.  [default: one a core; one for few images]"),
    click.option("--cache", type=click.Path(readable=False), metavar="DIR",
                 help="Where the moments of images are kept between runs.  [default: the user's cache folder]"),
    click.option("--no-cache", is_flag=True, help="Neither use nor keep them."),
    click.option("--strict", is_flag=True, help="Fail (exit 4) if any image cannot be decoded, not skip it."),
]  # fmt: skip

WHICH_OPTIONS = [
    click.option("--include", multiple=True, metavar="PATTERN",
                 help="Only images that match count, by the rules of .gitignore; may be given again."),
    click.option("--exclude", multiple=True, metavar="PATTERN",
                 help="Images that match do not count, as if they were not there; may be given again."),
    click.option("--sidecars", default=DEFAULTS.reading.sidecars, show_default=True, metavar="auto|none|PATTERN",
                 help="Label files that travel with their image: of the same name beside it, or in the trees of YOLO "
                 "and VOC; or templates as in 'labels/{dir}/{stem}.txt', separated by commas."),
]  # fmt: skip

CLASS_OPTIONS = [
    click.option("--stratify", type=click.Choice(STRATIFY), is_flag=False, flag_value="share", metavar="[=equal]",
                 help="Every class keeps its share of n; with =equal all get as many. The class is the first folder."),
    click.option("--labels", type=PATH, metavar="FILE.csv",
                 help="The classes of --stratify, with columns path,label."),
    click.option("--group-by", metavar="parent|REGEX",
                 help="Take all of a group or none of it: a folder, or what the expression captures in the path."),
    click.option("--drop", type=PATH, metavar="FILE", help="Images that must not be chosen, one path a line."),
    click.option("--dedupe", is_flag=True, help="Choose at most one of images that are copies, exact or near."),
    click.option("--coco", type=PATH, metavar="FILE.json",
                 help="Write the part of this COCO instances file that is about the chosen images."),
]  # fmt: skip

ONE_SUBSET_OPTIONS = [
    click.option("--keep", type=PATH, metavar="FILE", help="Images that must be chosen, one path a line."),
]  # fmt: skip

TARGET_OPTIONS = [
    click.option("--target-loss", type=float, metavar="X", help="Of '-n auto': the smallest n with at most this loss."),
    click.option("--target-size", type=float, metavar="M",
                 help="Of '-n auto': the smallest n that is as close as M random images."),
]  # fmt: skip

SEARCH_OPTIONS = [
    click.option("--candidates", type=int, default=DEFAULTS.search.candidates, show_default=True, metavar="K",
                 help="Random subsets to score."),
    click.option("--chains", type=int, default=DEFAULTS.search.chains, show_default=True, metavar="R",
                 help="How many of the best draws are improved side by side."),
    click.option("--steps", type=int, default=DEFAULTS.search.steps, show_default=True,
                 help="Steps of annealed exchanges; 0 keeps the best draw."),
    click.option("--time-limit", default=None, metavar="TIME",
                 help="End the search after this long, as in '30s' or '5m', with the best found by then."),
    click.option("--temperature", type=float, default=DEFAULTS.search.temperature, show_default=True,
                 help="kT of the Langevin noise at the start, in units of the source's variance."),
    click.option("--friction", type=float, default=DEFAULTS.search.friction, show_default=True,
                 help="gamma of the Langevin noise."),
    click.option("--langevin-time", type=float, default=DEFAULTS.search.langevin_time, show_default=True,
                 help="How long the noise acts."),
]  # fmt: skip

EMBEDDING_OPTIONS = [
    click.option("--embeddings", type=PATH, metavar="FILE.npy",
                 help="Features computed elsewhere, a row an image, in place of the random CNN's."),
    click.option("--paths", type=PATH, metavar="FILE", help="The images of these rows, relative to SRC, one a line."),
    click.option("--pca", type=int, metavar="K",
                 help="Principal components of them to keep; 0 is all.  [default: 64 of more than 256]"),
]  # fmt: skip


def check_limit(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    """A loss that may be asked for."""
    if value is not None and not value >= 0:
        raise click.BadParameter(f"{value} is not a number of at least 0")
    return value


GATE = click.option(
    "--max-loss", type=float, metavar="X", callback=check_limit, help="Fail (exit 6) if the loss is above this."
)


def options_record(*groups: Sequence[Callable[[Decorated], Decorated]]) -> Callable[[Decorated], Decorated]:
    """Add groups of options; the command receives them as one `options` record."""

    def decorate(command: Decorated) -> Decorated:
        @wraps(command)
        def collected(**arguments: Any) -> Any:
            return command(**collect_options(arguments))

        return with_options(collected, [option for group in groups for option in group])

    return decorate


def with_options(command: Decorated, options: Sequence[Callable[[Decorated], Decorated]]) -> Decorated:
    """Add options in the order in which help shows them."""
    for option in reversed(options):
        command = option(command)
    return command


def collect_options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with one `options` record in place of those that are fields of it."""
    rest = {name: value for name, value in arguments.items() if name not in {*OPTION_NAMES, "no_cache"}}
    values = {name: value for name, value in arguments.items() if name in OPTION_NAMES}
    values["cache"] = cache_folder(values["cache"], arguments["no_cache"])
    values["weights"] = DEFAULTS.mix.weights if values["weights"] is None else Weights.parse(values["weights"])
    values["channels"] = parse_channels(values["channels"])
    values["time_limit"] = parse_seconds(values.get("time_limit"))
    for name in ("keep", "drop"):
        values[name] = read_paths(values[name]) if values.get(name) is not None else ()
    for name in ("labels", "coco"):
        values[name] = None if values.get(name) is None else str(values[name])
    return rest | {"options": Options(**values)}


def given(options: Options, embeddings: bool) -> dict[str, Any]:
    """The options that go before those in a manifest: the user's own, and what a manifest does not say."""
    source = click.get_current_context().get_parameter_source
    recorded = {*options.that_decide(LOSS)} - ({*vars(options.features)} if embeddings else set())
    return {
        name: value
        for name, value in options.that_decide().items()
        if name not in recorded or source(name) not in (None, ParameterSource.DEFAULT)
    }


def embeddings_record(command: Decorated) -> Decorated:
    """Add the options of embeddings; the command receives them as one `embeddings` record, or None."""

    @wraps(command)
    def collected(**arguments: Any) -> Any:
        return command(**collect_embeddings(arguments))

    return with_options(collected, EMBEDDING_OPTIONS)


def collect_embeddings(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with one `embeddings` record in place of the three."""
    rest = dict(arguments)
    values, paths, pca = (rest.pop(name) for name in ("embeddings", "paths", "pca"))
    if (values is None) != (paths is None):
        raise UsageError("--embeddings and --paths go together: the rows and the images that they belong to")
    if values is None and pca is not None:
        raise UsageError(f"--pca {pca} goes with --embeddings")
    return rest | {"embeddings": None if values is None else Embeddings(values, paths, pca)}


def output_options(command: Decorated) -> Decorated:
    """--json, -q and -v."""
    command = click.option("-v", "--verbose", is_flag=True, help="Show every skipped file.")(command)
    command = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Print a JSON object, not the summary.")(command)


def cache_folder(folder: str | None, disabled: bool = False) -> str | None:
    """The folder of the cache, the user's own unless another is given; None if there is to be none."""
    return None if disabled else folder or str(user_cache_path("imgsubset"))


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


def read_paths(file: Path) -> tuple[str, ...]:
    """The paths that a text file lists."""
    try:
        return tuple(parse_paths(read_whole(file)))
    except OSError as error:
        raise InputError(f"cannot read '{file}': {error.strerror or error}") from None


def open_source(source: Path) -> Listing:
    """List a source; `-` is a list of paths on stdin."""
    if str(source) == "-":
        if sys.stdin is None:
            raise InputError("source '-' is a list on stdin, but stdin is closed")
        return list_paths(parse_paths(sys.stdin.buffer.read()), "-")
    return list_images(source)
