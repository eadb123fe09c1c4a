"""How close a subset is to its source."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgsubset.errors import InputError
from imgsubset.features.source import AnySource, Clock, Source, first_of, or_on_cpu, read_source
from imgsubset.options import Embeddings, Options
from imgsubset.progress import Progress, silent
from imgsubset.reading.filters import candidates
from imgsubset.reading.listing import Listing, RejectedFile, list_images, list_paths
from imgsubset.tasks.matching import Matched, match_files, match_manifest
from imgsubset.writing.manifest import NAME, read_manifest

if TYPE_CHECKING:
    from torch import Tensor

    from imgsubset.features.random_cnn import Extractor
    from imgsubset.statistics.objective import Objective


@dataclass(frozen=True)
class Score:
    """How close a subset is to its source.

    divergences    raw values, float64, noise-free, by name
    random_mean    the mean of each over random subsets of this size
    random_std     the standard deviation of each over random subsets
    loss           calibrated: the weighted mix in units of the random means; 1 is an average random subset
    percentile     how many of 100 random subsets of this size are closer, in [0, 100]
    effective_size how many random images would be as close
    """

    divergences: dict[str, float]
    random_mean: dict[str, float]
    random_std: dict[str, float]
    loss: float
    percentile: float
    effective_size: float

    def ratios(self) -> dict[str, float]:
        """Each divergence in units of its random mean; 0 where that is 0."""
        means = self.random_mean
        return {name: value / means[name] if means[name] else 0.0 for name, value in self.divergences.items()}


@dataclass(frozen=True)
class Scored:
    """A subset that was scored.

    source    the listing of the source
    subset    its name
    paths     of its images in the source, relative, in the order of their bytes
    total     how many usable images the source has
    score     how close it is
    foreign   files of the subset that are no image of the source, left out, with reasons
    rejected  the files of the source that are not usable
    warnings  what a user should know about the figures
    options   that it was scored with
    device    what the moments were made on
    seconds   wall time of each stage
    """

    source: Listing
    subset: str
    paths: tuple[str, ...]
    total: int
    score: Score
    foreign: tuple[RejectedFile, ...]
    rejected: tuple[RejectedFile, ...]
    warnings: tuple[str, ...]
    options: Options
    device: str
    seconds: dict[str, float]


@or_on_cpu
def score(
    source: AnySource,
    subset: AnySource,
    options: Options | None = None,
    *,
    skip_foreign: bool = False,
    extractor: Extractor | None = None,
    embeddings: Embeddings | None = None,
    progress: Progress = silent,
) -> Scored:
    """Score a subset of a source, however it was made.

    source        as in `select`
    subset        a folder, the manifest.json of a selection, a text file of paths, or paths. Files are matched with
                  those of the source by content; paths start from the current folder or from the source
    options       None: those in the manifest of the subset if it has one, so that the loss is the one it reports
    skip_foreign  leave out the files of the subset that are not in the source, instead of raising

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    options = options or recorded_options(subset) or Options()
    clock = Clock()
    read = read_source(
        source, options, extractor=extractor, embeddings=embeddings, clock=clock, progress=progress
    ).standardised()
    with clock.stage("match"):
        matched = _match(subset, read, options)
        name = _name(subset)
    if not matched.rows:
        raise InputError(f"no image of subset '{name}' is in source '{read.listing.name}'{first_of(matched.foreign)}")
    if matched.foreign and not skip_foreign:
        count = len(matched.foreign)
        raise InputError(
            f"{count:,} file{'s' if count > 1 else ''} of subset '{name}' {'are' if count > 1 else 'is'} not in "
            f"source '{read.listing.name}'{first_of(matched.foreign)}; --skip-foreign scores the others"
        )
    warnings = read.warnings
    if embeddings is None and _by_embeddings(subset):
        warnings += ("the subset was chosen by embeddings; without them it is scored by the random CNN",)
    with clock.stage("score"):
        import torch

        from imgsubset.statistics.objective import Objective

        objective = Objective(read.images, len(matched.rows), options.weights)
        result = score_of(objective, torch.tensor([matched.rows], device=read.images.table.device))
    return Scored(
        source=read.listing,
        subset=name,
        paths=tuple(read.paths[row] for row in matched.rows),
        total=len(read.paths),
        score=result,
        foreign=matched.foreign,
        rejected=read.rejected,
        warnings=warnings,
        options=options,
        device=read.device,
        seconds=clock.seconds,
    )


def score_of(objective: Objective, rows: Tensor) -> Score:
    """The score, in float64, of one subset, given as indices (1, n)."""
    import torch

    from imgsubset.statistics.objective import effective_size

    baseline, loss = objective.baseline, float(objective.loss(rows, torch.float64))
    values = objective.divergences(rows, torch.float64)[0].tolist()
    return Score(
        divergences=dict(zip(baseline.mean, values, strict=True)),
        random_mean=baseline.mean,
        random_std=baseline.std,
        loss=loss,
        percentile=100 * objective.share_below(loss),
        effective_size=effective_size(loss, objective.n, len(objective.images)),
    )


def recorded_options(subset: AnySource) -> Options | None:
    """The options in the manifest that a subset is or holds."""
    if isinstance(subset, (str, os.PathLike)):
        if _is_manifest(subset):
            return read_manifest(subset).options
        with contextlib.suppress(InputError):  # a folder may well hold somebody else's manifest.json, or none
            return read_manifest(Path(subset) / NAME).options
    return None


def _by_embeddings(subset: AnySource) -> bool:
    """Whether a subset was chosen by embeddings, by its manifest."""
    if isinstance(subset, (str, os.PathLike)):
        with contextlib.suppress(InputError):
            record = read_manifest(subset).record
            return bool(isinstance(record.get("request"), dict) and record["request"].get("embeddings"))
    return False


def _is_manifest(subset: str | os.PathLike[str]) -> bool:
    return Path(subset).suffix.lower() == ".json" and os.path.isfile(subset)  # noqa: PTH113 (never raises)


def _match(subset: AnySource, source: Source, options: Options) -> Matched:
    if isinstance(subset, (str, os.PathLike)) and _is_manifest(subset):
        return match_manifest(read_manifest(subset), source)
    if isinstance(subset, Iterable) and not isinstance(subset, (str, os.PathLike)):
        return match_files(list_paths(subset, "list of paths"), source)
    return match_files(candidates(list_images(subset), options), source)


def _name(subset: AnySource) -> str:
    if isinstance(subset, Listing):
        return subset.name
    return os.fspath(subset) if isinstance(subset, (str, os.PathLike)) else "list of paths"
