"""The stages joined: a folder and a number to the subset, without touching the disk but to read."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from imgsubset.decoders import decoded
from imgsubset.errors import BadFilesError, InputError, UsageError
from imgsubset.images import Listing, RejectedFile, Stamp, list_images
from imgsubset.options import Options, subset_size

if TYPE_CHECKING:  # torch takes two seconds to import: select() lets the decoding processes work meanwhile
    from collections.abc import Iterator

    import torch

    from imgsubset.features import Extractor
    from imgsubset.ingest import Ingested
    from imgsubset.search.loop import TracePoint


class Progress(Protocol):
    """Told of long work: the stage, how many of its parts were just done, and how many there are."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class Score:
    """How close a subset is to its source.

    divergences    raw values, float64, noise-free, by name
    random_mean    the mean of each over random subsets of this size
    random_std     the standard deviation of each over random subsets
    loss           calibrated: the weighted mix in units of the random means; 1 is an average random subset
    effective_size how many random images would be as close
    """

    divergences: dict[str, float]
    random_mean: dict[str, float]
    random_std: dict[str, float]
    loss: float
    effective_size: float

    def ratios(self) -> dict[str, float]:
        """Each divergence in units of its random mean; 0 where that is 0."""
        means = self.random_mean
        return {name: value / means[name] if means[name] else 0.0 for name, value in self.divergences.items()}


@dataclass(frozen=True)
class Selection:
    """A subset of the images of a folder, and how it was found.

    source     the folder
    paths      the usable images in it, relative, in the order of their bytes
    stamps     what each of them was when it was decoded
    indices    the chosen ones: positions in `paths`, ascending; for torch.utils.data.Subset
    score      how close the subset is to the source
    rejected   the files with an image's name that are not usable, with reasons
    ignored    how many other files the folder holds
    warnings   what a user should know about the figures
    trace      the search, round by round
    options    those it was made with
    device     what it ran on
    seconds    wall time of each stage
    """

    source: Path
    paths: tuple[str, ...] = field(repr=False)
    stamps: tuple[Stamp, ...] = field(repr=False)
    indices: tuple[int, ...] = field(repr=False)
    score: Score
    rejected: tuple[RejectedFile, ...]
    ignored: int
    warnings: tuple[str, ...]
    trace: tuple[TracePoint, ...] = field(repr=False)
    options: Options
    device: str
    seconds: dict[str, float]

    @property
    def chosen(self) -> tuple[str, ...]:
        """Relative paths of the chosen images."""
        return tuple(self.paths[index] for index in self.indices)


def select(
    source: str | os.PathLike[str],
    n: int | str,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    extractor: Extractor | None = None,
    progress: Progress = silent,
) -> Selection:
    """Find the n images of a folder whose distribution is closest to that of all of them. Copies nothing.

    source     a folder, searched with the folders in it
    n          a number, or a percentage such as '10%'
    extractor  feature maps instead of the random CNN's: uint8 pixels (B, H, W, 3) to float maps (B, C, h, w)

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    clock = _Clock()
    with clock.stage("list"):
        listing = list_images(source)
    if not listing.paths:
        raise InputError(f"no images in source '{source}'{_first_rejected(listing.rejected)}")
    subset_size(n, len(listing.paths))
    with clock.stage("ingest"):
        ingested, device = _ingest(listing, options, extractor, progress)
    rejected = tuple(sorted(listing.rejected + ingested.rejected, key=lambda file: os.fsencode(file.path)))
    if rejected and options.strict:
        count = f"{len(rejected):,} file{'s' if len(rejected) > 1 else ''}"
        raise BadFilesError(f"{count} of source '{source}' cannot be used{_first_rejected(rejected)}")
    if not ingested.paths:
        raise InputError(f"no image in source '{source}' can be decoded{_first_rejected(rejected)}")
    indices, score, trace, warnings = _search(ingested, subset_size(n, len(ingested.paths)), options, clock, progress)
    return Selection(
        source=Path(source),
        paths=ingested.paths,
        stamps=ingested.stamps,
        indices=indices,
        score=score,
        rejected=rejected,
        ignored=listing.ignored,
        warnings=warnings,
        trace=trace,
        options=options,
        device=device,
        seconds=clock.seconds,
    )


def _ingest(
    listing: Listing, options: Options, extractor: Extractor | None, progress: Progress
) -> tuple[Ingested, str]:
    with decoded(listing.root, listing.paths, options.size, options.workers) as chunks:
        import torch

        from imgsubset.features import RandomCNN
        from imgsubset.ingest import ingest

        device = _device(options.device)
        network = extractor or RandomCNN(options.channels, options.kernel_size, options.seed).to(device)
        total = len(listing.paths)
        ingested = ingest(
            chunks, listing.paths, options.size, network, device, lambda done: progress("decode", done, total)
        )
        return ingested, torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _device(name: str) -> torch.device:
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("device 'cuda' is asked for, but torch sees no CUDA device here; use 'cpu' or 'auto'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _search(
    ingested: Ingested, n: int, options: Options, clock: _Clock, progress: Progress
) -> tuple[tuple[int, ...], Score, tuple[TracePoint, ...], tuple[str, ...]]:
    import torch

    from imgsubset.langevin import Langevin
    from imgsubset.moments import standard
    from imgsubset.objective import Objective, effective_size
    from imgsubset.search.draws import RandomDraws
    from imgsubset.search.loop import search

    with clock.stage("baseline"):
        scale = standard(ingested.images)
        langevin = Langevin(options.temperature, options.friction, options.langevin_time)
        objective = Objective(scale.apply(ingested.images), n, options.weights, langevin)
    with clock.stage("search"):
        generator = torch.Generator(ingested.images.table.device).manual_seed(options.seed)
        found = search(
            RandomDraws(objective, options.candidates, generator),
            objective.loss,
            lambda done: progress("score", done, options.candidates),
        )
    values = objective.divergences(found.rows[None], torch.float64)[0].tolist()
    total = len(ingested.paths)
    loss = float(objective.loss(found.rows[None], torch.float64))
    baseline = objective.baseline
    score = Score(
        divergences=dict(zip(baseline.mean, values, strict=True)),
        random_mean=baseline.mean,
        random_std=baseline.std,
        loss=loss,
        effective_size=effective_size(loss, n, total),
    )
    return tuple(found.rows.tolist()), score, found.trace, _warnings(scale.kept.tolist())


def _warnings(kept: list[bool]) -> tuple[str, ...]:
    if not any(kept):
        return ("all images look the same to the network, so every subset is as close as any other",)
    if not all(kept):
        return (f"{kept.count(False)} of {len(kept)} channels do not vary in the source and are left out",)
    return ()


def _first_rejected(rejected: tuple[RejectedFile, ...]) -> str:
    return f": '{rejected[0].path}': {rejected[0].reason}" if rejected else ""


class _Clock:
    """Wall time of named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
