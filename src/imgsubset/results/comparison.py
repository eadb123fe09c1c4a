"""How far apart two folders are, and how far each reaches into the other."""

from __future__ import annotations

from dataclasses import dataclass, field

from imgsubset.results.records import Result
from imgsubset.results.report_data import ComparisonReportData
from imgsubset.sources.images import Listing, RejectedFile

ROUNDING_TOLERANCE = 1e-9  # relative: two sets dealt out again as they are may sum up otherwise


@dataclass(frozen=True)
class PermutationTestResult:
    """What two folders are by one measure, beside what random folders of these sizes from one distribution show.

    value       of the second against the first, float64
    floor_mean  the mean between two such folders
    """

    value: float
    floor_mean: float
    floor_limit: float
    p_value: float

    @property
    def ratio(self) -> float:
        """The value in units of the floor's mean; 0 where that is 0."""
        return self.value / self.floor_mean if self.floor_mean else 0.0


class Distance(PermutationTestResult):
    """One divergence between two folders.

    floor_limit  what 99 of 100 pairs of random folders stay below
    p_value      how probable a value this high is for such a pair: at least 1 / 1,001
    """

    @property
    def differs(self) -> bool:
        """Whether the value lies outside the noise floor."""
        return self.value > self.floor_limit * (1 + ROUNDING_TOLERANCE)


class Overlap(PermutationTestResult):
    """How far one folder reaches into the other by one measure: the smaller, the less they overlap.

    floor_limit  what 99 of 100 pairs of random folders stay above
    p_value      how probable a value this low is for such a pair: at least 1 / 1,001, and 1 / 201 of many images
    """

    @property
    def differs(self) -> bool:
        """Whether the value lies below the noise floor."""
        return self.value < self.floor_limit * (1 - ROUNDING_TOLERANCE)


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Two folders compared. It also tells what every `Result` does.

    first        the reference, whose variance is the unit
    second       the other one
    size         resolution at which pixels reached the networks
    sizes        how many usable images they have
    divergences  each divergence of the second from the first, by name
    loss         the weighted mix, each divergence in units of its floor's mean: 1 is two samples of one distribution
    kid          the KID, which may be below 0, by the feature in whose vectors it is; of inceptionN alone
    overlaps     precision and density, which tell quality, and recall and coverage, which tell diversity, by name
    rejected     files of the one and of the other that are not usable, with reasons
    contrast     what a report shows, where that was asked for
    """

    first: Listing
    second: Listing
    size: int | None
    sizes: tuple[int, int]
    divergences: dict[str, Distance]
    loss: Distance
    overlaps: dict[str, Overlap]
    rejected: tuple[tuple[RejectedFile, ...], tuple[RejectedFile, ...]]
    contrast: ComparisonReportData | None = None
    kid: dict[str, Distance] = field(default_factory=dict)

    @property
    def precision(self) -> Overlap:
        """The share of the second that lies among the first's images (Kynkaanniemi et al. 2019): quality."""
        return self.overlaps["precision"]

    @property
    def recall(self) -> Overlap:
        """The share of the first that lies among the second's images (Kynkaanniemi et al. 2019): diversity."""
        return self.overlaps["recall"]

    @property
    def density(self) -> Overlap:
        """How densely the first's images lie around those of the second (Naeem et al. 2020): quality, 1 on average of
        one distribution."""
        return self.overlaps["density"]

    @property
    def coverage(self) -> Overlap:
        """The share of the first that has an image of the second nearby (Naeem et al. 2020): diversity."""
        return self.overlaps["coverage"]

    def __repr__(self) -> str:
        pair = zip((self.second, self.first), reversed(self.sizes), strict=True)
        folders = " against ".join(f"{size:,} images of {listing.name!r}" for listing, size in pair)
        return f"Comparison({folders}, loss {self.loss.value:.3g}, p {self.loss.p_value:.3g})"
