"""What results on a subset say of the whole source."""

from __future__ import annotations

from dataclasses import dataclass

from imgsubset.reading.contents import Listing, RejectedFile
from imgsubset.results.records import Result


@dataclass(frozen=True)
class Estimate:
    """The mean of one result over all images of a source, estimated from a subset.

    name        of the result
    subset      its mean over the subset
    value       its mean over all images, estimated
    error       standard error of that
    low, high   the interval that holds the mean over all images in 95 of 100 cases
    equivalent  how many images drawn at random would tell it as exactly; None where the error is 0
    """

    name: str
    subset: float
    value: float
    error: float
    low: float
    high: float
    equivalent: float | None


@dataclass(frozen=True)
class Difference(Estimate):
    """The same of a difference between two results, of the same images; `first` and `second` are their names."""

    first: str
    second: str

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0, so that one of the two is the higher one for the whole source too."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Estimated(Result):
    """What results on a subset say of its source. It also tells what every `Result` does.

    source       the listing of the source
    subset       its name
    paths        of its images in the source, relative, in the order of their bytes
    total        how many usable images the source has
    chosen       whether this program chose the subset; of others intervals are right if they were drawn at random
    estimates    one a result
    differences  between results of a kind, each with each
    foreign      files of the subset that are no image of the source, left out, with reasons
    rejected     the files of the source that are not usable
    """

    source: Listing
    subset: str
    paths: tuple[str, ...]
    total: int
    chosen: bool
    estimates: tuple[Estimate, ...]
    differences: tuple[Difference, ...]
    foreign: tuple[RejectedFile, ...]
    rejected: tuple[RejectedFile, ...]

    def __repr__(self) -> str:
        told = ", ".join(f"{one.name} {one.value:.4g} +- {one.high - one.value:.2g}" for one in self.estimates)
        return f"Estimated({told}; from {len(self.paths):,} of {self.total:,} images of {self.source.name!r})"
