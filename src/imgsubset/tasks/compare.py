"""How far apart two folders of images are, and whether two samples of one distribution would be as far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgsubset.features.source import AnySource, Clock, or_on_cpu, read_source
from imgsubset.options import DIVERGENCE_NAMES, Options
from imgsubset.progress import Progress, silent
from imgsubset.reading.listing import Listing, RejectedFile

if TYPE_CHECKING:
    from imgsubset.features.random_cnn import Extractor

FLOOR_LIMIT = 0.99  # the quantile of random deals that a value must exceed to lie outside the noise floor
ROUNDING = 1e-9  # relative: two sets dealt out again as they are may sum up otherwise
FLOOR_SEED = 1 << 61  # not the network's: the floor of two given folders is always the same


@dataclass(frozen=True)
class Distance:
    """One divergence between two folders.

    value        of the second from the first, float64
    floor_mean   the mean between two random folders of these sizes from one distribution
    floor_limit  what 99 of 100 such pairs stay below
    p_value      how probable a value this high is for such a pair: at least 1 / 1,001
    """

    value: float
    floor_mean: float
    floor_limit: float
    p_value: float

    @property
    def differs(self) -> bool:
        """Whether the value lies outside the noise floor."""
        return self.value > self.floor_limit * (1 + ROUNDING)

    @property
    def ratio(self) -> float:
        """The value in units of the floor's mean; 0 where that is 0."""
        return self.value / self.floor_mean if self.floor_mean else 0.0


@dataclass(frozen=True)
class Comparison:
    """Two folders compared.

    first        the reference, whose variance is the unit
    second       the other one
    sizes        how many usable images they have
    divergences  each divergence of the second from the first, by name
    loss         the weighted mix, each divergence in units of its floor's mean: 1 is two samples of one distribution
    rejected     files of the one and of the other that are not usable, with reasons
    warnings     what a user should know about the figures
    options      that they were compared with
    device       what the moments were made on
    seconds      wall time of each stage
    """

    first: Listing
    second: Listing
    sizes: tuple[int, int]
    divergences: dict[str, Distance]
    loss: Distance
    rejected: tuple[tuple[RejectedFile, ...], tuple[RejectedFile, ...]]
    warnings: tuple[str, ...]
    options: Options
    device: str
    seconds: dict[str, float]


@or_on_cpu
def compare(
    first: AnySource,
    second: AnySource,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    extractor: Extractor | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare two folders that need not have an image in common; the first is the reference.

    Sources and extractor are as in `select`. Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    clock = Clock()
    one, other = (
        read_source(source, options, extractor=extractor, clock=clock, progress=progress) for source in (first, second)
    )
    with clock.stage("compare"):
        import torch

        from imgsubset.statistics.permutation import two_sample

        generator = torch.Generator(one.images.table.device).manual_seed(FLOOR_SEED)
        result = two_sample(one.images, other.images, generator)
        means = result.floor.mean(0)
        shares = options.weights.shares()
        units = torch.tensor(
            [
                shares.get(name, 0.0) / mean if mean else 0.0
                for name, mean in zip(DIVERGENCE_NAMES, means.tolist(), strict=True)
            ],
            dtype=means.dtype,
            device=means.device,
        )

        def distance(value: torch.Tensor, floor: torch.Tensor) -> Distance:
            return Distance(
                value=float(value),
                floor_mean=float(floor.mean()),
                floor_limit=float(floor.quantile(FLOOR_LIMIT)),
                p_value=(1 + int((floor >= value * (1 - ROUNDING)).sum())) / (1 + len(floor)),
            )

        columns = zip(DIVERGENCE_NAMES, result.values, result.floor.T, strict=True)
        divergences = {name: distance(value, floor) for name, value, floor in columns}
        loss = distance(result.values @ units, result.floor @ units)
    warnings = one.warnings + other.warnings
    if not result.varies:
        warnings += ("all images of both look the same to the network",)
    return Comparison(
        first=one.listing,
        second=other.listing,
        sizes=(len(one.paths), len(other.paths)),
        divergences=divergences,
        loss=loss,
        rejected=(one.rejected, other.rejected),
        warnings=warnings,
        options=options,
        device=one.device,
        seconds=clock.seconds,
    )
