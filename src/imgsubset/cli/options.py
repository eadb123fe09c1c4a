"""The options that commands share, and how words become records."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem
from platformdirs import user_cache_path

from imgsubset.cli.bars import Bars
from imgsubset.cli.places import check_places
from imgsubset.cli.shown import Shown
from imgsubset.declared import LOSS
from imgsubset.errors import InputError, UsageError
from imgsubset.features.extractors import kind_of
from imgsubset.inputs import Embeddings
from imgsubset.options import ACTIVATIONS, FIELDS, SCHEDULES, STRATIFY, TAPS, Options
from imgsubset.presets import PRESETS, preset_of
from imgsubset.reading.contents import Listing
from imgsubset.reading.listing import list_images, list_paths, parse_paths
from imgsubset.weights import Weights

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class AnyPath(click.Path):
    """A path, whatever is there, but for an empty one, which would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty path."""
        if value == "":
            self.fail("the path is empty (an unset shell variable?)", param, ctx)
        return super().convert(value, param, ctx)


PATH = AnyPath(path_type=Path, readable=False)  # what cannot be read has an exit code of its own
NAME = AnyPath(readable=False)  # of a file, as a text


def numbers(name: str) -> Callable[[str], tuple[int, ...]]:
    """Reads the numbers of an option, separated by commas."""

    def parse(text: str) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in text.split(","))
        except ValueError:
            raise UsageError(f"{name} '{text}' are not whole numbers separated by commas") from None

    return parse


def parse_size(text: str) -> int | str:
    """A number of pixels, or auto."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise UsageError(f"size '{text}' is neither a number of pixels nor 'auto'") from None


def parse_candidates(text: str) -> int | str:
    """A number of candidates, or all."""
    try:
        return text if text == "all" else int(text)
    except ValueError:
        raise UsageError(f"candidates '{text}' is neither a whole number nor 'all'") from None


def parse_seconds(text: str) -> float:
    """A time such as 30s, 5m, 1.5h, or a number of seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    except ValueError:
        raise UsageError(f"time limit '{text}' is not a time such as 30s, 5m or 1h") from None


# What only the command line has to say of an option, and how it reads a word; the rest is derived from its record.
SPECIAL: dict[str, dict[str, Any]] = {
    "weights": {"parse": Weights.parse, "metavar": "W", "default_text": "all 1"},
    "match": {"multiple": True, "metavar": "TERM[=W]", "more": "; may be given again"},
    "match_columns": {"multiple": True, "metavar": "[FILE:]A,B", "more": "; may be given again", "default_text": "all"},
    "device": {"metavar": "auto|cpu|cuda[:N]"},
    "features": {"metavar": "NAME=W,...", "default_text": "random-cnn"},
    "size": {"parse": parse_size, "metavar": "PIXELS|auto", "type": str},
    "activation": {"type": click.Choice(ACTIVATIONS)},
    "channels": {"parse": numbers("channels"), "metavar": "C,C,..."},
    "kernel_size": {"parse": numbers("kernel size"), "metavar": "PIXELS,..."},
    "stride": {"parse": numbers("stride"), "metavar": "PIXELS,..."},
    "pool": {"parse": numbers("pool"), "metavar": "WINDOW,STRIDE"},
    "taps": {"type": click.Choice(TAPS)},
    "weights_file": {"type": NAME, "metavar": "FILE"},
    "workers": {"metavar": "N", "default_text": "one a core; one for few images"},
    "cache": {"type": NAME, "metavar": "DIR", "default_text": "the user's cache folder"},
    "include": {"multiple": True, "metavar": "PATTERN", "more": "; may be given again"},
    "exclude": {"multiple": True, "metavar": "PATTERN", "more": "; may be given again"},
    "sidecars": {"metavar": "auto|none|PATTERN"},
    "stratify_by": {"metavar": "first|parent|REGEX"},
    "stratify_as": {"type": click.Choice(STRATIFY)},
    "labels": {"type": NAME, "metavar": "FILE.csv"},
    "group_by": {"metavar": "parent|REGEX"},
    "drop": {"type": NAME, "metavar": "FILE"},
    "coco": {"type": NAME, "metavar": "FILE.json"},
    "keep": {"type": NAME, "metavar": "FILE"},
    "target_loss": {"metavar": "X"},
    "target_size": {"metavar": "M"},
    "candidates": {"parse": parse_candidates, "metavar": "K|all", "type": str},
    "schedule": {"type": click.Choice(SCHEDULES)},
    "chains": {"metavar": "R"},
    "time_limit": {"parse": parse_seconds, "metavar": "TIME", "type": str},
}


def _option(name: str) -> Decorator:
    """The click option of a field of a record of options."""
    field, own = FIELDS[name], {key: value for key, value in SPECIAL.get(name, {}).items() if key != "parse"}
    default, kind = field.default, field.type.removesuffix(" | None")
    text = field.metadata["meaning"] + own.pop("more", "") + "."
    if default_text := own.pop("default_text", None):
        text += f"  [default: {default_text}]"
    elif isinstance(default, (int, float, str)) and kind != "bool":
        own |= {"default": default, "show_default": True}
    elif kind == "tuple[int, ...]" and default:
        own |= {"default": ",".join(map(str, default)), "show_default": True}
    if kind == "bool":
        own["is_flag"] = True
    own.setdefault("type", {"int": int, "float": float}.get(kind))
    return click.option(f"--{name.replace('_', '-')}", help=text, **own)


EXTRACTION: list[Decorator] = [
    *map(_option, ("feature_seed", "device", "features", "size", "networks", "channels", "kernel_size", "stride")),
    *map(_option, ("activation", "pool", "taps", "weights_file")),
]
CACHED = [*map(_option, ("workers", "cache"))]
STRICT = [_option("strict")]
FEATURES: list[Decorator] = [
    *(_option("weights"), *EXTRACTION, _option("held_out"), *CACHED),
    click.option("--no-cache", is_flag=True, help="Neither use nor keep moments of images."),
    *STRICT,
]
OF_PIXELS = [_option("match")]
MATCH = [*OF_PIXELS, _option("match_columns")]
WHICH = [*map(_option, ("include", "exclude", "sidecars", "follow_labels"))]
CLASSES = [*map(_option, ("stratify", "stratify_by", "stratify_as", "labels", "group_by", "drop", "dedupe", "coco"))]
OF_CLASSES = [*map(_option, ("stratify_by", "labels", "coco"))]
DRAWN = [*map(_option, ("stratify", "stratify_by", "labels", "group_by", "coco"))]
ONE_SUBSET = [_option("keep")]
TARGET = [*map(_option, ("target_loss", "target_size"))]


def _presets(_context: click.Context, _option: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=preset.meaning) for name, preset in PRESETS.items() if name.startswith(begun)]


_EACH = "; ".join(f"{name}, {preset.meaning}" for name, preset in PRESETS.items())
SEARCH: list[Decorator] = [
    click.option("--preset", metavar="NAME", shell_complete=_presets, help="Options under one name, of which those "
                 f"that are given beside it replace its own: {_EACH}."),
    *map(_option, ("seed", "candidates", "rounds", "schedule", "chains", "steps", "time_limit")),
    *map(_option, ("temperature", "friction", "langevin_time")),
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
SHOWN: list[Decorator] = [
    *REPORT,
    click.option("--plot", type=PATH, metavar="FILE.png", help="Write the one figure of the subset: .png, .svg or "
                 ".pdf."),
    click.option("--csv", type=PATH, metavar="FILE.csv", help="Write a line an image: its path, class, whether it is "
                 "chosen, its rank and its contribution."),
]  # fmt: skip
GATE = [click.option("--max-loss", type=float, metavar="X", help="Fail (exit 6) if the loss is above this.")]
SIZE_GATE = [
    click.option("--min-size", type=float, metavar="M", help="Fail (exit 6) if the subset is worth fewer than M random "
                 "images, in networks that the search did not see."),
]  # fmt: skip


def output(*keys: str) -> list[Decorator]:
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


def add(*groups: Iterable[Decorator]) -> Decorator:
    """Give a command these options, in the order in which help shows them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([*chain(*groups)]):
            command = option(command)
        return command

    return decorate


def collect(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with a record `options` in place of those that are fields of it, and `embeddings`, a record or None, in
    place of three; of each, where a command has them."""
    check_places(arguments)
    rest = {name: value for name, value in arguments.items() if name not in FIELDS}
    if "cache" in arguments:  # a command has all records of options, or none
        values = {name: arguments[name] for name in FIELDS if arguments.get(name) is not None}
        for name, special in SPECIAL.items():
            if name in values and "parse" in special:
                values[name] = special["parse"](values[name])
        if (name := rest.pop("preset", None)) is not None:
            values = {**values, **{key: value for key, value in preset_of(name).items() if _by_default(key)}}
        folder = values.get("cache") or str(user_cache_path("imgsubset"))
        values["cache"] = None if rest.pop("no_cache", False) else folder
        rest["options"] = Options(**values)
        for name, _ in rest["options"].extraction.features:
            if name != "embeddings":
                kind_of(name)  # answered before any work
    if "embeddings" in rest:
        features, paths, pca = (rest.pop(name) for name in ("embeddings", "paths", "pca"))
        if (features is None) != (paths is None):
            raise UsageError("--embeddings and --paths go together: the rows and the images that they belong to")
        if features is None and pca is not None:
            raise UsageError(f"--pca {pca} goes with --embeddings")
        rest["embeddings"] = None if features is None else Embeddings(features, paths, pca)
    if "report" in rest:
        rest["shown"] = Shown(*(rest.pop(name, None) for name in ("report", "plot", "csv")))
    for name in ("max_loss", "min_size"):
        limit = rest.get(name)
        if limit is not None and not limit >= 0:
            raise UsageError(f"--{name.replace('_', '-')} {limit} is not a number of at least 0")
    return rest


def _by_default(name: str) -> bool:
    """Whether nobody gave this parameter of the command at work."""
    source = click.get_current_context().get_parameter_source(name)
    return source in (None, ParameterSource.DEFAULT)


def given(options: Options) -> dict[str, Any]:
    """The options that go before those in a manifest: the user's own, and what a manifest does not say."""
    context = click.get_current_context()
    recorded = {*options.that_decide(LOSS), "stratify", "stratify_by", "labels", "group_by", "coco"}
    if context.params["embeddings"] is not None:
        recorded -= {*vars(options.extraction)}
    return {
        name: value for name, value in options.that_decide().items() if name not in recorded or not _by_default(name)
    }


def open_source(source: Path) -> Listing:
    """List a source; `-` is a list of paths on stdin."""
    if str(source) == "-":
        if sys.stdin is None:
            raise InputError("source '-' is a list on stdin, but stdin is closed")
        return list_paths(parse_paths(sys.stdin.buffer.read()), "-")
    with contextlib.closing(Bars(bool(click.get_current_context().params.get("quiet")))) as bars:
        return list_images(source, bars)
