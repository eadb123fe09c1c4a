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
from imgsubset.options import DEVICES, FIELDS, LOSS, STRATIFY, Embeddings, Options
from imgsubset.reading.listing import Listing, list_images, list_paths, parse_paths
from imgsubset.weights import Weights

PATH = click.Path(path_type=Path, readable=False)  # what cannot be read has an exit code of its own
Decorated = Callable[..., Any]
# What only the command line has to say of an option; the rest is derived from its record.
SPECIAL: dict[str, dict[str, Any]] = {
    "weights": {"metavar": "W", "default_text": "all 1"},
    "device": {"type": click.Choice(DEVICES)},
    "size": {"metavar": "PIXELS"},
    "channels": {"metavar": "C,C,..."},
    "workers": {"metavar": "N", "default_text": "one a core; one for few images"},
    "cache": {"type": click.Path(readable=False), "metavar": "DIR", "default_text": "the user's cache folder"},
    "include": {"multiple": True, "metavar": "PATTERN", "more": "; may be given again"},
    "exclude": {"multiple": True, "metavar": "PATTERN", "more": "; may be given again"},
    "sidecars": {"metavar": "auto|none|PATTERN"},
    "stratify": {"type": click.Choice(STRATIFY), "is_flag": False, "flag_value": "share", "metavar": "[=equal]"},
    "labels": {"type": PATH, "metavar": "FILE.csv"},
    "group_by": {"metavar": "parent|REGEX"},
    "drop": {"type": PATH, "metavar": "FILE"},
    "coco": {"type": PATH, "metavar": "FILE.json"},
    "keep": {"type": PATH, "metavar": "FILE"},
    "target_loss": {"type": float, "metavar": "X"},
    "target_size": {"type": float, "metavar": "M"},
    "candidates": {"metavar": "K"},
    "chains": {"metavar": "R"},
    "time_limit": {"metavar": "TIME", "type": str},
}


def _option(name: str) -> Callable[[Decorated], Decorated]:
    """The click option of a field of a record of options."""
    field, own = FIELDS[name], dict(SPECIAL.get(name, {}))
    default, kind = field.default, field.type.removesuffix(" | None")
    text = field.metadata["meaning"] + own.pop("more", "") + "."
    if default_text := own.pop("default_text", None):
        text += f"  [default: {default_text}]"
    elif isinstance(default, (int, float, str)) and kind != "bool":
        own |= {"default": default, "show_default": True}
    elif name == "channels":
        own |= {"default": ",".join(map(str, default)), "show_default": True}
    if kind == "bool":
        own["is_flag"] = True
    own.setdefault("type", {"int": int, "float": float}.get(kind))
    return click.option(f"--{name.replace('_', '-')}", help=text, **own)


FEATURE_OPTIONS: list[Callable[[Decorated], Decorated]] = [
    *map(_option, ("weights", "seed", "device", "size", "channels", "kernel_size", "workers", "cache")),
    click.option("--no-cache", is_flag=True, help="Neither use nor keep them."),
    _option("strict"),
]
WHICH_OPTIONS = [*map(_option, ("include", "exclude", "sidecars"))]
CLASS_OPTIONS = [*map(_option, ("stratify", "labels", "group_by", "drop", "dedupe", "coco"))]
ONE_SUBSET_OPTIONS = [_option("keep")]
TARGET_OPTIONS = [*map(_option, ("target_loss", "target_size"))]
SEARCH_OPTIONS = [
    *map(_option, ("candidates", "chains", "steps", "time_limit", "temperature", "friction", "langevin_time")),
]
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
    rest = {name: value for name, value in arguments.items() if name not in {*FIELDS, "no_cache"}}
    values = {name: value for name, value in arguments.items() if name in FIELDS}
    values["cache"] = cache_folder(values["cache"], arguments["no_cache"])
    values["weights"] = Weights() if values["weights"] is None else Weights.parse(values["weights"])
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
