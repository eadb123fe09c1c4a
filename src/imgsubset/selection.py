"""The stages joined: a folder and a number to the subset, without touching the disk but to read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgsubset.decoders import decoded
from imgsubset.errors import BadFilesError, InputError, UsageError
from imgsubset.images import Listing, RejectedFile, Stamp, list_images
from imgsubset.options import Options, subset_size
from imgsubset.progress import Progress, silent

if TYPE_CHECKING:  # torch takes two seconds to import: select() lets the decoding processes work meanwhile
    import torch
    from torch import Tensor

    from imgsubset.features import Extractor
    from imgsubset.ingest import Ingested
    from imgsubset.objective import Objective
    from imgsubset.search.loop import TracePoint


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
    ranking    the same positions in an order of which every beginning represents the source well too
    score      how close the subset is to the source
    rejected   the files with an image's name that are not usable, with reasons
    ignored    how many other files the folder holds
    warnings   what a user should know about the figures
    trace      the search, round by round
    interrupted whether the search was stopped before its end
    options    those it was made with
    device     what it ran on
    seconds    wall time of each stage
    """

    source: Path
    paths: tuple[str, ...] = field(repr=False)
    stamps: tuple[Stamp, ...] = field(repr=False)
    indices: tuple[int, ...] = field(repr=False)
    ranking: tuple[int, ...] = field(repr=False)
    score: Score
    rejected: tuple[RejectedFile, ...]
    ignored: int
    warnings: tuple[str, ...]
    trace: tuple[TracePoint, ...] = field(repr=False)
    interrupted: bool
    options: Options
    device: str
    seconds: dict[str, float]

    @property
    def ranked(self) -> tuple[str, ...]:
        """Relative paths of the chosen images in the order of `ranking`."""
        return tuple(self.paths[index] for index in self.ranking)

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
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Selection:
    """Find the n images of a folder whose distribution is closest to that of all of them. Copies nothing.

    source     a folder, searched with the folders in it
    n          a number, or a percentage such as '10%'
    extractor  feature maps instead of the random CNN's: uint8 pixels (B, H, W, 3) to float maps (B, C, h, w)
    stop       asked several times a second, during the search, whether to end it with the best so far

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    subset_size(n, 1 << 62)  # what makes no sense for any source is answered before any work
    clock = _Clock()
    with clock.stage("list"):
        listing = list_images(source)
    if not listing.paths:
        raise InputError(f"no images in source '{source}'{_first_rejected(listing.rejected)}")
    subset_size(n, len(listing.paths))
    with clock.stage("ingest"):
        ingested, device = _ingest(listing, options, extractor, progress)
        ingested, warnings = _standardised(ingested)
    rejected = tuple(sorted(listing.rejected + ingested.rejected, key=lambda file: os.fsencode(file.path)))
    if rejected and options.strict:
        count = f"{len(rejected):,} file{'s' if len(rejected) > 1 else ''}"
        raise BadFilesError(f"{count} of source '{source}' cannot be used{_first_rejected(rejected)}")
    if not ingested.paths:
        raise InputError(f"no image in source '{source}' can be decoded{_first_rejected(rejected)}")
    result = _search(ingested, subset_size(n, len(ingested.paths)), options, clock, stop, progress)
    return Selection(
        source=Path(source),
        paths=ingested.paths,
        stamps=ingested.stamps,
        indices=result.indices,
        ranking=result.ranking,
        score=result.score,
        rejected=rejected,
        ignored=listing.ignored,
        warnings=warnings,
        trace=result.trace,
        interrupted=result.interrupted,
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


@dataclass(frozen=True)
class _Result:
    """What the search adds to what was ingested."""

    indices: tuple[int, ...]
    ranking: tuple[int, ...]
    score: Score
    trace: tuple[TracePoint, ...]
    interrupted: bool


def _search(
    ingested: Ingested, n: int, options: Options, clock: _Clock, stop: Callable[[], bool], progress: Progress
) -> _Result:
    import torch

    from imgsubset.langevin import Langevin
    from imgsubset.objective import Objective
    from imgsubset.search import find
    from imgsubset.search.quadratic import quadratic_form
    from imgsubset.search.ranking import herding_order

    with clock.stage("baseline"):
        images = ingested.images
        langevin = Langevin(options.temperature, options.friction, options.langevin_time)
        objective = Objective(images, n, options.weights, langevin)
    with clock.stage("search"):
        generator = torch.Generator(images.table.device).manual_seed(options.seed)
        found = find(objective, options, generator, stop, progress)
    with clock.stage("rank"):
        form = quadratic_form(images, objective.source, objective.coefficients)
        ranking = herding_order(form, found.rows[0])
    return _Result(
        indices=tuple(found.rows[0].tolist()),
        ranking=tuple(ranking.tolist()),
        score=_score(objective, found.rows[:1]),
        trace=found.trace,
        interrupted=found.stopped,
    )


def _score(objective: Objective, rows: Tensor) -> Score:
    """The score, in float64, of one subset, given as indices (1, n)."""
    import torch

    from imgsubset.objective import effective_size

    baseline, loss = objective.baseline, float(objective.loss(rows, torch.float64))
    values = objective.divergences(rows, torch.float64)[0].tolist()
    return Score(
        divergences=dict(zip(baseline.mean, values, strict=True)),
        random_mean=baseline.mean,
        random_std=baseline.std,
        loss=loss,
        effective_size=effective_size(loss, objective.n, len(objective.images)),
    )


def _standardised(ingested: Ingested) -> tuple[Ingested, tuple[str, ...]]:
    """With standardised moments in place of the raw ones, which are then free; and what to know about the channels."""
    from imgsubset.moments import standard

    scale = standard(ingested.images)
    kept = scale.kept.tolist()
    warnings: tuple[str, ...] = ()
    if not any(kept):
        warnings = ("all images look the same to the network, so every subset is as close as any other",)
    elif not all(kept):
        warnings = (f"{kept.count(False)} of {len(kept)} channels do not vary in the source and are left out",)
    return replace(ingested, images=scale.apply(ingested.images)), warnings


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
