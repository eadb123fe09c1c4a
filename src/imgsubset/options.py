"""The options of a run, each declared once: default, type, check, help, and what it affects; and the presets.

The command line, TOML files, JSON, manifests and the reference of options derive from the declarations. Nothing heavy
is imported, so that a wrong option is answered at once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imgsubset.divergence_weights import DIVERGENCE_NAMES, Weights, parse_named_weights, parse_terms
from imgsubset.errors import UsageError, did_you_mean, short_repr
from imgsubset.inputs import (
    BOOLEAN,
    CANDIDATES,
    DEVICE,
    INT_PAIR,
    POSITIVE,
    RESOLUTION,
    SECONDS,
    SEED,
    Check,
    Labels,
    convert_value,
    float_up_to,
    int_list,
    int_range,
    one_of,
)

# What an option affects: the moments of an image; or the loss of a given subset; or which subset is selected, or what
# is written with it; or nothing but the time it takes. Each level includes those before it.
MOMENTS, LOSS, SELECTION, NOTHING = range(4)
TAPS = ("last", "all")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
MATCH_TERMS = ("hardness", "objects", "image")  # what `match` takes beside tables
IMAGE_STATS_WEIGHT = 0.25  # the weight of `image` where random CNNs are matched and nobody says another
REMOVED_OPTIONS = {  # what became of options of earlier versions
    "resume": "a search takes seconds, and the cache keeps what is expensive: run the same command again",
    "cache_verify": "an image is known by its path, size and modification time; --no-cache decodes all of them anew",
}
REPEATABLE = "; may be given again"


def option(
    default: Any,
    group: str,
    affects: int,
    meaning: str,
    check: Check | None = None,
    *,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    shown_default: str | None = None,
    extractor: str | None = None,
) -> Any:
    """A field of `Options`.

    group          the heading under which help shows it
    affects        a level, see above
    meaning        a sentence without its full stop
    check          which values make sense
    choices        the only words that it may be, in place of a check
    metavar        how help writes the value
    shown_default  how help writes the default, where that is not the value itself
    extractor      the extractor that it is a parameter of, if it is one of a certain extractor alone
    """
    return field(
        default=default,
        metadata={
            "group": group,
            "affects": affects,
            "meaning": meaning,
            "check": one_of(*choices) if choices else check,
            "choices": choices,
            "metavar": metavar,
            "shown_default": shown_default,
            "extractor": extractor,
        },
    )


@dataclass(frozen=True, init=False, repr=False)
class Options:
    """Everything that decides which images are selected, except for the source and n.

    Options are given by name: `Options(steps=100, weights={"kl": 1})`. A `preset` stands for several, see `PRESETS`;
    options that are given with it take precedence.

    Raises UsageError that names the value at fault, or the word that is not an option.
    """

    include: tuple[str, ...] = option((), "Source", LOSS, "Only images that match count, by the rules of .gitignore"
        + REPEATABLE, metavar="PATTERN")  # fmt: skip
    exclude: tuple[str, ...] = option((), "Source", LOSS, "Images that match do not count, as if they were not there"
        + REPEATABLE, metavar="PATTERN")  # fmt: skip
    sidecars: str = option("auto", "Output", LOSS, "Label files that travel with their image: of the same name beside "
        "it, or in the trees of YOLO and VOC; or templates as in 'labels/{dir}/{stem}.txt', separated by commas",
        metavar="auto|none|PATTERN")  # fmt: skip
    follow_labels: bool = option(
        False, "Source", SELECTION, "Take label files along too that are links out of the source"
    )
    coco: str | None = option(None, "Output", SELECTION, "Write the part of this COCO instances file that is about the "
        "chosen images", metavar="FILE.json")  # fmt: skip
    strict: bool = option(False, "Source", SELECTION, "Fail (exit 4) if any image cannot be decoded, not skip it")

    features: tuple[tuple[str, float], ...] = option((("random-cnn", 1.0),), "Match", MOMENTS, "What the subset is "
        "matched in, each with its weight, as in 'random-cnn=1,colour=2'", metavar="NAME=W,...",
        shown_default="random-cnn")  # fmt: skip
    size: int | str = option("auto", "Match", MOMENTS, "Side of the square that images are resized to; auto is 32 for "
        "images of at most 40 pixels, else 64", RESOLUTION, metavar="PIXELS|auto")  # fmt: skip
    networks: int = option(4, "Expert", MOMENTS, "Random CNNs that are matched together", int_range(1, 64))
    channels: tuple[int, ...] = option((16, 32, 32), "Expert", MOMENTS, "Output channels of each layer of a random CNN",
        int_list(1, 1024, 16), metavar="C,C,...", extractor="random-cnn")  # fmt: skip
    kernel_size: tuple[int, ...] = option((3,), "Expert", MOMENTS, "Kernel size of a random CNN, odd: one number, or "
        "one a layer", int_list(1, 63, 16, odd=True), metavar="PIXELS,...", extractor="random-cnn")  # fmt: skip
    stride: tuple[int, ...] = option((2,), "Expert", MOMENTS, "Stride of a random CNN: one number, or one a layer",
        int_list(1, 64, 16), metavar="PIXELS,...", extractor="random-cnn")  # fmt: skip
    activation: str = option("leaky", "Expert", MOMENTS, "Activation of a random CNN: LeakyReLU of slope 0.2, ReLU, or "
        "the absolute value", choices=("leaky", "relu", "abs"), extractor="random-cnn")  # fmt: skip
    pool: tuple[int, ...] = option((), "Expert", MOMENTS, "Window and stride of an average over the last maps of a "
        "random CNN", INT_PAIR, metavar="WINDOW,STRIDE", extractor="random-cnn")  # fmt: skip
    taps: str = option("last", "Expert", MOMENTS, "Whether the last layer of a random CNN is matched, or all layers",
        choices=TAPS, extractor="random-cnn")  # fmt: skip
    weights_file: str | None = option(None, "Expert", MOMENTS, "The weights of torchvision:NAME or inceptionN, in "
        "place of those that it downloads", metavar="FILE")  # fmt: skip
    feature_seed: int = option(0, "Expert", MOMENTS, "Seed of the random CNNs: losses of other networks cannot be "
        "compared", SEED)  # fmt: skip
    held_out: bool = option(False, "Match", MOMENTS, "Decode the images beside --embeddings too, to measure in the "
        "networks that no search sees")  # fmt: skip

    weights: Weights = option(Weights(), "Match", LOSS,  # noqa: RUF009 (frozen)
        "How much each divergence counts: by name, as in 'kl=1,frechet=0.5' (the unnamed are 0), or five numbers in "
        f"the order {','.join(DIVERGENCE_NAMES)}", metavar="W", shown_default="all 1")  # fmt: skip
    match: tuple[tuple[str, float], ...] = option((), "Match", LOSS, "Match what is known of the images too, of this "
        "weight: a table (.csv, .tsv, .jsonl, .parquet) of numbers and texts with a row an image; hardness, how hard "
        "it is to tell its class; objects, those in its label file; or image, its size, brightness, sharpness and the "
        f"like, which counts {IMAGE_STATS_WEIGHT:g} beside random CNNs unless image=W says otherwise, and "
        "image=0 not at all"
        + REPEATABLE, metavar="TERM[=W]")  # fmt: skip
    match_columns: tuple[str, ...] = option((), "Match", LOSS, "Which columns of a table, as in 'a,b' or "
        "'FILE.csv:a,b'; hour@24 comes round after 24" + REPEATABLE, metavar="[FILE:]A,B",
        shown_default="all")  # fmt: skip

    stratify: bool = option(False, "Which images", SELECTION, "Every class keeps its share of n", BOOLEAN)
    stratify_by: str = option("first", "Which images", SELECTION, "What the class of an image is: that in the data "
        "set, archive or table, else the first folder in its path; parent, the last; or what the expression captures "
        "in the path",
        metavar="first|parent|REGEX")  # fmt: skip
    stratify_as: str = option("share", "Which images", SELECTION, "How many images a class gets: its share, or as many "
        "as any other", choices=("share", "equal"))  # fmt: skip
    labels: str | Labels | None = option(None, "Which images", SELECTION,  # noqa: RUF009 (frozen)
        "A file of the classes for --stratify, with columns path,label", metavar="FILE.csv")  # fmt: skip
    group_by: str | None = option(None, "Which images", SELECTION, "Take all of a group or none of it: a folder, or "
        "what the expression captures in the path", metavar="parent|REGEX")  # fmt: skip
    keep: str | tuple[str, ...] = option((), "Which images", SELECTION, "Images that must be chosen, one path a line; "
        "or the manifest.json of an earlier selection, to let it grow", metavar="FILE")  # fmt: skip
    drop: str | tuple[str, ...] = option((), "Which images", SELECTION, "Images that must not be chosen, one path a "
        "line; or a manifest.json", metavar="FILE")  # fmt: skip
    dedupe: bool = option(False, "Which images", SELECTION, "Choose at most one of images that are copies, exact or "
        "near")  # fmt: skip

    seed: int = option(0, "Search", SELECTION, "Seed of the search alone: the same seed chooses the same images", SEED)
    candidates: int | str = option(1024, "Expert", SELECTION, "Random subsets to score, or all: as many as there are "
        "images; of more than 16,384 images each, fewer in proportion", CANDIDATES, metavar="K|all")  # fmt: skip
    rounds: int = option(
        8, "Search", SELECTION, "Rounds that the candidates are drawn in, at least", int_range(1, 1000)
    )
    schedule: str = option("cool", "Search", SELECTION, "How the temperature of the noise goes from round to round: "
        "cool, to 0; hold; or rise, by 0.1", choices=("cool", "hold", "rise"))  # fmt: skip
    chains: int = option(2, "Expert", SELECTION, "How many of the best draws are improved side by side",
        int_range(1, 1024), metavar="R")  # fmt: skip
    steps: int = option(100, "Search", SELECTION, "Steps of annealed exchanges; 0 keeps the best draw",
        int_range(0, 10_000_000))  # fmt: skip
    time_limit: float | None = option(None, "Search", SELECTION, "End the search after this long, as in '30s' or '5m', "
        "with the best found by then", SECONDS, metavar="TIME")  # fmt: skip
    temperature: float = option(1.0, "Expert", SELECTION, "Temperature kT of the Langevin noise at the start, in units "
        "of the source's variance", float_up_to(1000))  # fmt: skip
    friction: float = option(1.0, "Expert", SELECTION, "Friction gamma of the Langevin noise", float_up_to(1000))
    langevin_time: float = option(0.1, "Expert", SELECTION, "How long the Langevin noise acts", float_up_to(1000))
    target_loss: float | None = option(None, "How many", SELECTION, "With '-n auto': the smallest n with at most this "
        "loss", POSITIVE, metavar="X")  # fmt: skip
    target_size: float | None = option(None, "How many", SELECTION, "With '-n auto': the smallest n that is as close "
        "as M random images", POSITIVE, metavar="M")  # fmt: skip

    device: str = option("auto", "Running", SELECTION, "Where the network and the search run; auto is a CUDA GPU if "
        "there is one; cuda:1 is the second", DEVICE, metavar="auto|cpu|cuda[:N]")  # fmt: skip
    workers: int | None = option(None, "Running", NOTHING, "Decoding processes, and threads that compute; 0 decodes in "
        "this process and computes in one thread", int_range(0, 1024), metavar="N",
        shown_default="one a core; one for few images")  # fmt: skip
    cache: str | None = option(None, "Running", NOTHING, "Where the moments of images are kept between runs",
        metavar="DIR", shown_default="the user's cache folder")  # fmt: skip

    def __init__(self, **values: Any) -> None:
        values = _expanded(values)
        for name in values:
            if name not in FIELDS:
                raise UsageError(unknown_name_message(name, f"unknown option '{name}'", {**FIELDS, "preset": None}))
        for name, declared in FIELDS.items():
            object.__setattr__(self, name, self._checked(declared, values.get(name, declared.default)))
        self._check_together()

    def _checked(self, declared: dataclasses.Field[Any], value: Any) -> Any:
        """A value of an option, converted to its type. None makes sense where it is the default."""
        name = declared.name
        if name in CONVERTERS:
            return CONVERTERS[name](value)
        if value is None and declared.default is None:
            return None
        makes_sense, wanted = declared.metadata["check"] or (None, "")
        plain = convert_value(name, str(declared.type).removesuffix(" | None"), value, wanted)
        try:
            good = makes_sense is None or makes_sense(plain)
        except (TypeError, ValueError):  # an array, or of a type that is not in KINDS
            good = False
        if not good:
            raise UsageError(f"{name} {short_repr(plain)} is not {wanted}")
        return plain

    def _check_together(self) -> None:
        """Raise UsageError for options that make no sense together."""
        tables = [name for name, _ in self.match if name not in MATCH_TERMS]
        for good, name, wanted in (
            (tables or not self.match_columns, "match_columns", "of use without a table to match"),
            (self.stratify_as == "share" or self.stratify, "stratify_as", "of use without stratify"),
            (self.labels is None or self.stratify_by == "first", "stratify_by", "of use with labels, which say the "
                "classes"),
            (not (self.dedupe and self.group_by), "dedupe", "possible with group_by, which takes groups whole"),
            (self.target_loss is None or self.target_size is None, "target_size", "to be given together with a "
                "target_loss; choose one of them"),
            (self.by_class or self.labels is None, "labels", "of use without stratify"),
            (self.by_class or self.stratify_by == "first", "stratify_by", "of use without stratify"),
        ):  # fmt: skip
            if not good:
                raise UsageError(f"{name} {short_repr(getattr(self, name))} is not {wanted}")

    @property
    def by_class(self) -> bool:
        """Whether the classes of images are needed."""
        return self.stratify or any(name == "hardness" for name, _ in self.match)

    @property
    def has_target(self) -> bool:
        """Whether the number of images follows from a target."""
        return self.target_loss is not None or self.target_size is not None

    def affecting(self, level: int = NOTHING) -> dict[str, Any]:
        """The options of this level and of those before it, by name."""
        return {name: getattr(self, name) for name, declared in FIELDS.items() if declared.metadata["affects"] <= level}

    def parameters_of(self, extractor: str) -> dict[str, Any]:
        """The options that are parameters of one extractor alone, by name."""
        return {name: getattr(self, name) for name, field in FIELDS.items() if field.metadata["extractor"] == extractor}

    def __repr__(self) -> str:
        changed = {name: value for name, value in self.affecting().items() if value != FIELDS[name].default}
        return f"Options({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


def _weights(value: Any) -> Weights:
    if isinstance(value, Mapping):
        return Weights.of(value)
    if not isinstance(value, Weights):
        raise UsageError(f"weights {short_repr(value)} is not a dict of numbers by the names of divergences")
    return value


def _match(value: Any) -> tuple[tuple[str, float], ...]:
    matched = parse_terms(value, "match", kept=("image",))
    for name, _ in matched:
        if name not in MATCH_TERMS and os.path.splitext(name)[1].lower() not in TABLE_SUFFIXES:  # noqa: PTH122 (fails for no text)
            known = f"neither a table ({', '.join(TABLE_SUFFIXES)}) nor one of {', '.join(MATCH_TERMS)}"
            raise UsageError(f"match '{name}' is {known}{did_you_mean(name, MATCH_TERMS)}")
    return matched


def _labels(value: Any) -> str | Labels | None:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    return value if value is None or isinstance(value, str) else Labels.of(value)


CONVERTERS = {
    "features": lambda value: parse_named_weights(value, "features"),
    "weights": _weights,
    "match": _match,
    "match_columns": lambda value: convert_value(
        "match_columns", "tuple[str, ...]", (value,) if isinstance(value, str) else value
    ),
    "labels": _labels,
}
"""What makes a value of an option of a type of its own."""
FIELDS: dict[str, dataclasses.Field[Any]] = {declared.name: declared for declared in dataclasses.fields(Options)}
Options.__doc__ = "\n".join(
    [f"{Options.__doc__}", *(f"    {name}  {declared.metadata['meaning']}" for name, declared in FIELDS.items())]
)


def merge_options(options: Options | None, words: Mapping[str, Any]) -> Options:
    """Options with some of them replaced. Raises UsageError for what are none."""
    if not (options is None or isinstance(options, Options)):
        raise UsageError(
            f"options {short_repr(options)} are not Options(...); single ones are given by name, as in steps=50"
        )
    return dataclasses.replace(options or Options(), **_expanded(words))


def _expanded(words: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, with those of a preset in its place. Raises UsageError for an unknown preset."""
    own = dict(words)
    return {**preset_of(own.pop("preset")), **own} if "preset" in own else own


def unknown_name_message(name: str, complaint: str, known: Mapping[str, object] | set[str]) -> str:
    """A message about a word that is not known: what became of it, or what may have been meant."""
    if fate := REMOVED_OPTIONS.get(name.replace("-", "_")):
        return f"{complaint}: it was taken out, since {fate}"
    return complaint + (did_you_mean(name, known) or "; `imgsubset select --help` names them all")


@dataclass(frozen=True)
class Preset:
    """Options by name, and what they are for."""

    meaning: str
    options: Mapping[str, Any] = field(repr=False)


_NOISE = {"temperature": 1.0, "friction": 1.0, "langevin_time": 0.1}
PRESETS: dict[str, Preset] = {
    "fast": Preset("random draws alone, without exchanges", {"steps": 0}),
    "thorough": Preset("twice the networks and three times the steps", {"networks": 8, "chains": 4, "steps": 300}),
    "image-randomer": Preset(
        "as many random candidates as images, ranked in one CNN under constant Langevin noise",
        {
            **{"features": {"random-cnn": 1}, "networks": 1, "channels": (16, 32, 64), "kernel_size": (3,)},
            **{"stride": (2,), "activation": "relu", "pool": (), "taps": "last", "weights": dict.fromkeys(
                ("kl", "js", "wasserstein", "hellinger", "frechet"), 1), "match": {"image": 0}},
            **{"candidates": "all", "rounds": 8, "schedule": "hold", "steps": 0, **_NOISE},
        },
    ),
    "image-randomiser": Preset(
        "50 rounds of 200 candidates, ranked by the JS divergence of their pixels under rising Langevin noise",
        {
            **{"features": {"pixels": 1}, "weights": {"js": 1}, "match": {"image": 0}},
            **{"candidates": 10_000, "rounds": 50, "schedule": "rise", "steps": 0, **_NOISE},
        },
    ),
}  # fmt: skip
"""By name. Options that are given beside one go before those in it."""


def preset_of(name: object) -> Mapping[str, Any]:
    """The options of a preset. Raises UsageError if there is none of this name."""
    if not isinstance(name, str) or name not in PRESETS:
        known = f"; known: {', '.join(PRESETS)}"
        raise UsageError(f"unknown preset {short_repr(name)}{did_you_mean(str(name), PRESETS) or known}")
    return PRESETS[name].options
