"""What a user can choose, checked on construction; imports nothing heavy, so that a wrong word is answered at once.

Options are sorted into records, one for each stage that reads them. All that is to be said of one is said where it is
declared: its default; what it decides; what it means, for the help of the command line too; which values make sense.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imgsubset.checks import (
    ABOVE_0,
    CANDIDATES,
    DEVICE,
    PAIR,
    SECONDS,
    SEED,
    SIDE,
    SWITCH,
    number,
    one_of,
    whole,
    wholes,
)
from imgsubset.declared import CHOICE, LOSS, NOTHING, Record, opt
from imgsubset.errors import UsageError, meant, shown
from imgsubset.inputs import Labels, of_kind
from imgsubset.presets import preset_of
from imgsubset.weights import DIVERGENCE_NAMES, Weights, named_weights, terms

ACTIVATIONS = ("leaky", "relu", "abs")
TAPS = ("last", "all")
STRATIFY = ("share", "equal")
SCHEDULES = ("cool", "hold", "rise")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
KNOWN = ("hardness", "objects", "image")  # what `match` takes beside tables
IMAGE = 0.25  # the weight of `image` where random CNNs are matched and nobody says another
REMOVED = {  # what became of options of earlier versions
    "resume": "a search takes seconds, and the cache keeps what is expensive: run the same command again",
    "cache_verify": "an image is known by its path, size and modification time; --no-cache decodes all of them anew",
}


@dataclass(frozen=True)
class Reading(Record):
    """Which images there are, and what belongs to them."""

    include: tuple[str, ...] = opt((), LOSS, "Only images that match count, by the rules of .gitignore")
    exclude: tuple[str, ...] = opt((), LOSS, "Images that match do not count, as if they were not there")
    sidecars: str = opt("auto", LOSS, "Label files that travel with their image: of the same name beside it, or in "
        "the trees of YOLO and VOC; or templates as in 'labels/{dir}/{stem}.txt', separated by commas")  # fmt: skip
    follow_labels: bool = opt(False, CHOICE, "Take label files along too that are links out of the source")
    coco: str | None = opt(None, CHOICE, "Write the part of this COCO instances file that is about the chosen images")
    strict: bool = opt(False, CHOICE, "Fail (exit 4) if any image cannot be decoded, not skip it")


@dataclass(frozen=True)
class Extraction(Record):
    """What is measured of an image."""

    features: tuple[tuple[str, float], ...] = opt((("random-cnn", 1.0),), LOSS, "What the subset is matched in, each "
        "with its weight, as in 'random-cnn=1,colour=2'")  # fmt: skip
    size: int | str = opt("auto", LOSS, "Side of the square that images are resized to; auto is 32 for images of at "
        "most 40 pixels, else 64", SIDE)  # fmt: skip
    networks: int = opt(4, LOSS, "Random CNNs that are matched together", whole(1, 64))
    channels: tuple[int, ...] = opt(
        (16, 32, 32), LOSS, "Output channels of each layer of a random CNN", wholes(1, 1024, 16)
    )
    kernel_size: tuple[int, ...] = opt((3,), LOSS, "Kernel size of a random CNN, odd: one number, or one a layer",
        wholes(1, 63, 16, odd=True))  # fmt: skip
    stride: tuple[int, ...] = opt((2,), LOSS, "Stride of a random CNN: one number, or one a layer", wholes(1, 64, 16))
    activation: str = opt("leaky", LOSS, "Activation of a random CNN: LeakyReLU of slope 0.2, ReLU, or the absolute "
        "value", one_of(*ACTIVATIONS))  # fmt: skip
    pool: tuple[int, ...] = opt((), LOSS, "Window and stride of an average over the last maps of a random CNN", PAIR)
    taps: str = opt("last", LOSS, "Whether the last layer of a random CNN is matched, or all layers", one_of(*TAPS))
    weights_file: str | None = opt(
        None, LOSS, "The weights of torchvision:NAME or inceptionN, in place of those that it downloads"
    )
    feature_seed: int = opt(0, LOSS, "Seed of the random CNNs: losses of other networks cannot be compared", SEED)
    held_out: bool = opt(False, LOSS, "Decode the images beside --embeddings too, to measure in the networks that no "
        "search sees")  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", named_weights(self.features, "features"))
        super().__post_init__()


@dataclass(frozen=True)
class Mix(Record):
    """What closeness is."""

    weights: Weights = opt(Weights(), LOSS,  # noqa: RUF009 (frozen)
        "How much each divergence counts: by name, as in 'kl=1,frechet=0.5' (the unnamed are 0), or five numbers in "
        f"the order {','.join(DIVERGENCE_NAMES)}")  # fmt: skip

    match: tuple[tuple[str, float], ...] = opt((), LOSS, "Match what is known of the images too, of this weight: a "
        "table (.csv, .tsv, .jsonl, .parquet) of numbers and texts with a row an image; hardness, how hard it is to "
        "tell its class; objects, those in its label file; or image, its size, brightness, sharpness and the like, "
        f"which counts {IMAGE:g} beside random CNNs unless image=W says otherwise, and image=0 not at all")  # fmt: skip
    match_columns: tuple[str, ...] = opt((), LOSS, "Which columns of a table, as in 'a,b' or 'FILE.csv:a,b'; "
        "hour@24 comes round after 24")  # fmt: skip

    def __post_init__(self) -> None:
        if isinstance(self.weights, Mapping):
            object.__setattr__(self, "weights", Weights.of(self.weights))
        object.__setattr__(self, "match", terms(self.match, "match", kept=("image",)))
        columns = (self.match_columns,) if isinstance(self.match_columns, str) else self.match_columns
        object.__setattr__(self, "match_columns", of_kind("match_columns", "tuple[str, ...]", columns))
        tables = [name for name, _ in self.match if name not in KNOWN]
        for name in tables:
            if os.path.splitext(name)[1].lower() not in TABLES:  # noqa: PTH122 (fails for no text)
                known = f"neither a table ({', '.join(TABLES)}) nor one of {', '.join(KNOWN)}"
                raise UsageError(f"match '{name}' is {known}{meant(name, KNOWN)}")
        self.check(bool(tables) or not self.match_columns, "match_columns", "of use without a table to match")
        self.check(isinstance(self.weights, Weights), "weights", "a dict of numbers by the names of divergences")


@dataclass(frozen=True)
class Constraints(Record):
    """Which images may be chosen."""

    stratify: bool = opt(False, CHOICE, "Every class keeps its share of n", SWITCH)
    stratify_by: str = opt("first", CHOICE, "What the class of an image is: that in the data set, archive or table, "
        "else the first folder in its path; parent, the last; or what the expression captures in the path")  # fmt: skip
    stratify_as: str = opt("share", CHOICE, "How many images a class gets: its share, or as many as any other",
        one_of(*STRATIFY))  # fmt: skip
    labels: str | Labels | None = opt(None, CHOICE,   # noqa: RUF009 (frozen)
        "A file of the classes for --stratify, with columns path,label")  # fmt: skip
    group_by: str | None = opt(None, CHOICE, "Take all of a group or none of it: a folder, or what the expression "
        "captures in the path")  # fmt: skip
    keep: str | tuple[str, ...] = opt((), CHOICE, "Images that must be chosen, one path a line; or the manifest.json "
        "of an earlier selection, to let it grow")  # fmt: skip
    drop: str | tuple[str, ...] = opt((), CHOICE, "Images that must not be chosen, one path a line; or a manifest.json")
    dedupe: bool = opt(False, CHOICE, "Choose at most one of images that are copies, exact or near")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.labels, os.PathLike):
            object.__setattr__(self, "labels", os.fspath(self.labels))
        elif not (self.labels is None or isinstance(self.labels, str)):
            object.__setattr__(self, "labels", Labels.of(self.labels))
        self.check(self.stratify_as == "share" or self.stratify, "stratify_as", "of use without stratify")
        both = self.labels is not None and self.stratify_by != "first"
        self.check(not both, "stratify_by", "of use with labels, which say the classes")
        self.check(not (self.dedupe and self.group_by), "dedupe", "possible with group_by, which takes groups whole")


@dataclass(frozen=True)
class Search(Record):
    """How the subset is looked for."""

    seed: int = opt(0, CHOICE, "Seed of the search alone: the same seed chooses the same images", SEED)
    candidates: int | str = opt(1024, CHOICE, "Random subsets to score, or all: as many as there are images; of more "
        "than 16,384 images each, fewer in proportion", CANDIDATES)  # fmt: skip
    rounds: int = opt(8, CHOICE, "Rounds that the candidates are drawn in, at least", whole(1, 1000))
    schedule: str = opt("cool", CHOICE, "How the temperature of the noise goes from round to round: cool, to 0; hold; "
        "or rise, by 0.1", one_of(*SCHEDULES))  # fmt: skip
    chains: int = opt(2, CHOICE, "How many of the best draws are improved side by side", whole(1, 1024))
    steps: int = opt(100, CHOICE, "Steps of annealed exchanges; 0 keeps the best draw", whole(0, 10_000_000))
    time_limit: float | None = opt(None, CHOICE, "End the search after this long, as in '30s' or '5m', with the best "
        "found by then", SECONDS)  # fmt: skip
    temperature: float = opt(1.0, CHOICE, "Temperature kT of the Langevin noise at the start, in units of the "
        "source's variance", number(1000))  # fmt: skip
    friction: float = opt(1.0, CHOICE, "Friction gamma of the Langevin noise", number(1000))
    langevin_time: float = opt(0.1, CHOICE, "How long the Langevin noise acts", number(1000))
    target_loss: float | None = opt(None, CHOICE, "With '-n auto': the smallest n with at most this loss", ABOVE_0)
    target_size: float | None = opt(None, CHOICE, "With '-n auto': the smallest n that is as close as M random images",
        ABOVE_0)  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        both = self.target_loss is not None and self.target_size is not None
        self.check(not both, "target_size", "to be given together with a target_loss; choose one of them")

    @property
    def has_target(self) -> bool:
        """Whether the number of images follows from a target."""
        return self.target_loss is not None or self.target_size is not None


@dataclass(frozen=True)
class Running(Record):
    """Where the work is done. Other processors round otherwise, and draw other random numbers."""

    device: str = opt("auto", CHOICE, "Where the network and the search run; auto is a CUDA GPU if there is one; "
        "cuda:1 is the second",
        DEVICE)  # fmt: skip
    workers: int | None = opt(
        None,
        NOTHING,
        "Decoding processes, and threads that compute; 0 decodes in this process and computes in one thread",
        whole(0, 1024),
    )
    cache: str | None = opt(None, NOTHING, "Where the moments of images are kept between runs")


@dataclass(frozen=True, init=False)
class Options:
    """Everything that decides which images are chosen, but for the source and n.

    Given by name, whichever record an option belongs to: `Options(steps=100, weights={"kl": 1})`; a whole record may
    be given by its own name. They are read either way: `options.search.steps`, `options.steps`. A `preset` stands for
    options, see `imgsubset.presets`: single ones that are given beside it go before its own, and these before whole
    records.

    Raises UsageError that names the value at fault, or the word that is none of the options.
    """

    reading: Reading
    extraction: Extraction
    mix: Mix
    constraints: Constraints
    search: Search
    running: Running

    def __init__(self, **given: Any) -> None:
        if "preset" in given:
            given = {**preset_of(given.pop("preset")), **given}
        for name, kind in RECORDS.items():
            own = {option: given.pop(option) for option in kind.__dataclass_fields__ if option in given}
            record = given.pop(name, None)
            record = kind() if record is None else record
            if not isinstance(record, kind):
                raise UsageError(
                    f"{name} {shown(record)} is not a record of options; give them by name, as in steps=50"
                )
            object.__setattr__(self, name, dataclasses.replace(record, **own))
        for name in given:
            raise UsageError(unknown(name, f"unknown option '{name}'", {**FIELDS, "preset": None}))
        if not self.by_class:
            for name in ("labels", "stratify_by"):
                unused = getattr(self.constraints, name) == FIELDS[name].default
                self.constraints.check(unused, name, "of use without stratify")

    @property
    def by_class(self) -> bool:
        """Whether the classes of images are needed."""
        return self.constraints.stratify or any(name == "hardness" for name, _ in self.mix.match)

    if not TYPE_CHECKING:  # a checker should tell of a misspelt option in this package

        def __getattr__(self, name: str) -> Any:
            for record, kind in RECORDS.items():
                if name in kind.__dataclass_fields__:
                    return getattr(getattr(self, record), name)
            raise AttributeError(f"Options have no '{name}'")

    def __repr__(self) -> str:
        changed = {name: value for name, value in self.that_decide().items() if value != FIELDS[name].default}
        return f"Options({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def that_decide(self, level: int = NOTHING) -> dict[str, Any]:
        """The options of this level and of those before it, by name."""
        return {name: getattr(self, name) for name, option in FIELDS.items() if option.metadata["decides"] <= level}


_KINDS: tuple[type[Any], ...] = (Reading, Extraction, Mix, Constraints, Search, Running)
RECORDS = {kind.__name__.lower(): kind for kind in _KINDS}
FIELDS = {name: option for kind in _KINDS for name, option in kind.__dataclass_fields__.items()}
for _kind in _KINDS:  # for readers of docstrings
    _lines = [f"    {option.name}  {option.metadata['meaning']}" for option in dataclasses.fields(_kind)]
    _kind.__doc__ = "\n".join([f"{_kind.__doc__}", "", *_lines])


def merged(options: Options | None, words: Mapping[str, Any]) -> Options:
    """Options with some of them replaced. Raises UsageError for what are none."""
    if not (options is None or isinstance(options, Options)):
        raise UsageError(
            f"options {shown(options)} are not Options(...); single ones are given by name, as in steps=50"
        )
    return dataclasses.replace(options or Options(), **words)


def unknown(name: str, complaint: str, known: Mapping[str, object] | set[str]) -> str:
    """A message about a word that is not known: what became of it, or what may have been meant."""
    if fate := REMOVED.get(name.replace("-", "_")):
        return f"{complaint}: it was taken out, since {fate}"
    return complaint + (meant(name, known) or "; `imgsubset select --help` names them all")
