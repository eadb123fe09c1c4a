"""The options that commands share, how their values become records, and outputs that would overwrite inputs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem
from platformdirs import user_cache_path

from imgsubset.cli.report_files import ReportFiles
from imgsubset.cli.terminal import ProgressBar
from imgsubset.divergence_weights import Weights
from imgsubset.errors import InputError, UsageError
from imgsubset.features.extractors import find_extractor_spec
from imgsubset.inputs import Embeddings
from imgsubset.options import FIELDS, LOSS, MOMENTS, PRESETS, Options, preset_of
from imgsubset.sources.images import Listing
from imgsubset.sources.listing import list_images, list_paths, parse_paths

SOURCE_ARGUMENTS = ("source", "first", "second", "subset")
OUTPUT_FILE_OPTIONS = ("list_file", "report", "plot", "csv")
DISPLAY_NAMES = dict.fromkeys(SOURCE_ARGUMENTS, "SRC") | {
    "destination": "DST",
    "list_file": "--list",
    "results": "RESULTS",
}
INPUT_FILE_OPTIONS = ("keep", "drop", "labels", "coco", "embeddings", "paths", "results")


def check_path_conflicts(arguments: Mapping[str, Any]) -> None:
    """Refuse a --list or --cache that would change the source, the destination, or a file that is read.

    arguments  of a command, by name, as they were parsed; absent ones are None. A --list in the source is
               found out when that is listed

    Raises UsageError that names both.
    """
    real = {name: Path(os.path.realpath(value)) for name, value in arguments.items() if _is_path(name, value)}
    for term in arguments.get("match") or ():
        real[f"match {term}"] = Path(os.path.realpath(term.partition("=")[0]))
    tables = [name for name in real if name.startswith("match ")]
    if arguments.get("no_cache"):
        real.pop("cache", None)
    if arguments.get("mode") == "none" or arguments.get("dry_run"):
        real.pop("destination", None)

    files = [name for name in SOURCE_ARGUMENTS if name in real and os.path.isfile(real[name])]  # noqa: PTH113 (never raises)

    def clash(one: str, other: str) -> bool:
        return one != other and one in real and other in real and real[other] in (real[one], *real[one].parents)

    for one, others in {
        **dict.fromkeys(
            OUTPUT_FILE_OPTIONS, ("destination", "cache", *INPUT_FILE_OPTIONS, *tables, *files, *OUTPUT_FILE_OPTIONS)
        ),
        "cache": (*SOURCE_ARGUMENTS, "destination", *INPUT_FILE_OPTIONS, *tables),
        "destination": ("cache",),
    }.items():
        if other := next((other for other in others if clash(one, other)), None):
            how = "is" if real[one] == real[other] else "lies in"
            here, there = (_describe_path(name, arguments) for name in (one, other))
            raise UsageError(f"{here} {how} {there}; choose another place for it")


def _describe_path(name: str, arguments: Mapping[str, Any]) -> str:
    option, _, term = name.partition(" ")
    return f"{DISPLAY_NAMES.get(option, f'--{option}')} '{term or arguments[name]}'"


def _is_path(name: str, value: object) -> bool:
    known = (*SOURCE_ARGUMENTS, *INPUT_FILE_OPTIONS, *OUTPUT_FILE_OPTIONS, "destination", "cache")
    return name in known and isinstance(value, (str, Path)) and str(value) not in ("", "-")


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class AnyPath(click.Path):
    """A path, whatever is there, but for an empty one, which would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty path."""
        if value == "":
            self.fail("the path is empty (an unset shell variable?)", param, ctx)
        return super().convert(value, param, ctx)


PATH = AnyPath(path_type=Path, readable=False)  # what cannot be read has an exit code of its own
PATH_TEXT = AnyPath(readable=False)  # of a file, as a text


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _whole_or_word(text: str) -> int | str:
    return int(text) if text.strip().lstrip("+-").isdigit() else text


def parse_seconds(text: str) -> float:
    """A time such as 30s, 5m, 1.5h, or a number of seconds. Raises ValueError for what is none."""
    units = {"s": 1, "m": 60, "h": 3600}
    return float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)


# How a word is read, by the type of the option; others are read by click, or by the record of options itself.
PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "tuple[int, ...]": (_whole_numbers, "whole numbers separated by commas"),
    "int | str": (_whole_or_word, "a whole number or a word"),
    "Weights": (Weights.parse, "weights"),
}
TIMES: tuple[Callable[[str], Any], str] = (parse_seconds, "a time such as 30s, 5m or 1h")
FILES = ("weights_file", "cache", "labels", "drop", "coco", "keep")  # options that are paths


def _parser(name: str) -> tuple[Callable[[str], Any], str] | None:
    """What reads the word of an option, and what it wants."""
    return TIMES if name == "time_limit" else PARSERS.get(str(FIELDS[name].type))


def parse_option(name: str, word: Any) -> Any:
    """The value that a word of the command line stands for. Raises UsageError for a word that makes no sense."""
    parse, wanted = _parser(name) or (lambda value: value, "")
    try:
        return parse(word)
    except UsageError:
        raise
    except ValueError:
        raise UsageError(f"{name.replace('_', ' ')} '{word}' is not {wanted}") from None


def _click_option(name: str) -> Decorator:
    """The click option of an option."""
    declared = FIELDS[name]
    default: Any = declared.default
    kind = str(declared.type).removesuffix(" | None")
    own: dict[str, Any] = {}
    text = declared.metadata["meaning"] + "."
    if shown := declared.metadata["shown_default"]:
        text += f"  [default: {shown}]"
    elif isinstance(default, (int, float, str)) and kind != "bool":
        own = {"default": default, "show_default": True}
    elif kind == "tuple[int, ...]" and default:
        own = {"default": ",".join(map(str, default)), "show_default": True}
    if kind == "bool":
        own["is_flag"] = True
    if kind == "tuple[str, ...]" or name == "match":
        own["multiple"] = True
    if declared.metadata["choices"]:
        own["type"] = click.Choice(declared.metadata["choices"])
    elif name in FILES:
        own["type"] = PATH_TEXT
    elif _parser(name) is None:
        own["type"] = {"int": int, "float": float}.get(kind)
    else:
        own["type"] = str
    metavar = declared.metadata["metavar"]
    return click.option(f"--{name.replace('_', '-')}", help=text, **({"metavar": metavar} if metavar else {}), **own)


EXTRACTION: list[Decorator] = [
    *map(
        _click_option, ("feature_seed", "device", "features", "size", "networks", "channels", "kernel_size", "stride")
    ),
    *map(_click_option, ("activation", "pool", "taps", "weights_file")),
]
CACHE = [*map(_click_option, ("workers", "cache"))]
STRICT = [_click_option("strict")]
FEATURES: list[Decorator] = [
    *(_click_option("weights"), *EXTRACTION, _click_option("held_out"), *CACHE),
    click.option("--no-cache", is_flag=True, help="Neither use nor keep moments of images."),
    *STRICT,
]
MATCH_TERM = [_click_option("match")]
MATCH = [*MATCH_TERM, _click_option("match_columns")]
FILTERS = [*map(_click_option, ("include", "exclude", "sidecars", "follow_labels"))]
CLASSES = [
    *map(_click_option, ("stratify", "stratify_by", "stratify_as", "labels", "group_by", "drop", "dedupe", "coco"))
]
CLASS_LABELS = [*map(_click_option, ("stratify_by", "labels", "coco"))]
SAMPLE_DESIGN = [*map(_click_option, ("stratify", "stratify_by", "labels", "group_by", "coco"))]
REQUIRED_IMAGES = [_click_option("keep")]
TARGET = [*map(_click_option, ("target_loss", "target_size"))]


def _complete_preset(_context: click.Context, _option: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=preset.meaning) for name, preset in PRESETS.items() if name.startswith(begun)]


_PRESETS_HELP = "; ".join(f"{name}, {preset.meaning}" for name, preset in PRESETS.items())
SEARCH: list[Decorator] = [
    click.option("--preset", metavar="NAME", shell_complete=_complete_preset, help="Options under one name, of which "
                 f"those that are given beside it replace its own: {_PRESETS_HELP}."),
    *map(_click_option, ("seed", "candidates", "rounds", "schedule", "chains", "steps", "time_limit")),
    *map(_click_option, ("temperature", "friction", "langevin_time")),
]  # fmt: skip
EMBEDDINGS: list[Decorator] = [
    click.option("--embeddings", type=PATH, metavar="FILE.npy",
                 help="Features computed elsewhere, a row an image, in place of the random CNN's."),
    click.option("--paths", type=PATH, metavar="FILE",
                 help="The images of the rows of --embeddings, relative to SRC, one a line."),
    click.option("--pca", type=int, metavar="K",
                 help="Principal components of the embeddings to keep, at most 512; 0 keeps all "
                 "dimensions.  [default: 64 if there are more than 64 dimensions]"),
]  # fmt: skip
REPORT: list[Decorator] = [
    click.option("--report", type=PATH, metavar="FILE.html", help="Write a page to look at: figures, and the images."),
]
REPORT_FILES: list[Decorator] = [
    *REPORT,
    click.option("--plot", type=PATH, metavar="FILE.png", help="Write the one figure of the subset: .png, .svg or "
                 ".pdf."),
    click.option("--csv", type=PATH, metavar="FILE.csv", help="Write a line an image: its path, class, whether it is "
                 "chosen, its rank and its contribution."),
]  # fmt: skip
MAX_LOSS = [click.option("--max-loss", type=float, metavar="X", help="Fail (exit 6) if the loss is above this.")]
MIN_ESS = [
    click.option("--min-size", type=float, metavar="M", help="Fail (exit 6) if the subset is worth fewer than M random "
                 "images, in networks that the search did not see."),
]  # fmt: skip


def output_options(*keys: str) -> list[Decorator]:
    """The options of printing, for a command whose JSON object has these keys."""

    def chosen(context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...] | None:
        if text is None:
            return None
        words = tuple(word.strip() for word in text.split(","))
        for word in words:
            if word not in keys:
                raise click.BadParameter(f"'{word}' is not one of {', '.join(keys)}", context, option)
        return words

    return [
        click.option("--json", "as_json", is_flag=True, help="Print a JSON object, not the summary."),
        click.option("--fields", metavar="KEY,...", callback=chosen,
                     help=f"Print only these of the JSON object: {', '.join(keys)}."),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("-v", "--verbose", is_flag=True, help="Show every skipped file."),
    ]  # fmt: skip


def add_options(*groups: Iterable[Decorator]) -> Decorator:
    """Give a command these options, in the order in which help shows them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([*chain(*groups)]):
            command = option(command)
        return command

    return decorate


def collect_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with a record `options` in place of those that are fields of it, and `embeddings`, a record or None, in
    place of three; of each, where a command has them."""
    check_path_conflicts(arguments)
    rest = {name: value for name, value in arguments.items() if name not in FIELDS}
    if "cache" in arguments:  # a command has all records of options, or none
        values = {name: arguments[name] for name in FIELDS if arguments.get(name) is not None}
        values = {name: parse_option(name, value) for name, value in values.items()}
        if (name := rest.pop("preset", None)) is not None:
            values = {**values, **{key: value for key, value in preset_of(name).items() if _is_default(key)}}
        folder = values.get("cache") or str(user_cache_path("imgsubset"))
        values["cache"] = None if rest.pop("no_cache", False) else folder
        rest["options"] = Options(**values)
        for name, _ in rest["options"].features:
            if name != "embeddings":
                find_extractor_spec(name)  # answered before any work
    if "embeddings" in rest:
        features, paths, pca = (rest.pop(name) for name in ("embeddings", "paths", "pca"))
        if (features is None) != (paths is None):
            raise UsageError("--embeddings and --paths go together: the rows and the images that they belong to")
        if features is None and pca is not None:
            raise UsageError(f"--pca {pca} goes with --embeddings")
        rest["embeddings"] = None if features is None else Embeddings(features, paths, pca)
    if "report" in rest:
        rest["shown"] = ReportFiles(*(rest.pop(name, None) for name in ("report", "plot", "csv")))
    for name in ("max_loss", "min_size"):
        limit = rest.get(name)
        if limit is not None and not limit >= 0:
            raise UsageError(f"--{name.replace('_', '-')} {limit} is not a number of at least 0")
    return rest


def _is_default(name: str) -> bool:
    """Whether nobody gave this parameter of the command at work."""
    source = click.get_current_context().get_parameter_source(name)
    return source in (None, ParameterSource.DEFAULT)


def explicit_options(options: Options) -> dict[str, Any]:
    """The options that go before those in a manifest: the user's own, and what a manifest does not say."""
    context = click.get_current_context()
    recorded = {*options.affecting(LOSS), "stratify", "stratify_by", "labels", "group_by", "coco"}
    if context.params["embeddings"] is not None:
        recorded -= {*options.affecting(MOMENTS)}
    return {name: value for name, value in options.affecting().items() if name not in recorded or not _is_default(name)}


def open_source(source: Path) -> Listing:
    """List a source; `-` is a list of paths on stdin."""
    if str(source) == "-":
        if sys.stdin is None:
            raise InputError("source '-' is a list on stdin, but stdin is closed")
        return list_paths(parse_paths(sys.stdin.buffer.read()), "-")
    with contextlib.closing(ProgressBar(bool(click.get_current_context().params.get("quiet")))) as bars:
        return list_images(source, bars)
