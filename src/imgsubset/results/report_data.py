"""What a report shows beside the numbers: random subsets to compare with, histograms, thumbnails."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StripPlot:
    """A figure of the subset among that of random subsets of the same size.

    name    what is measured
    unit    of it; empty: none
    subset  the figure
    random  that of each random subset
    whole   that of all images, which is the aim
    """

    name: str
    unit: str
    subset: float
    random: tuple[float, ...] = field(repr=False)
    whole: float = 0.0

    @property
    def fraction_closer(self) -> float:
        """The share of random subsets that come closer to the whole."""
        return sum(abs(one - self.whole) < abs(self.subset - self.whole) for one in self.random) / len(self.random)


@dataclass(frozen=True)
class Histogram:
    """How images are spread over bins or classes: a row a name, of the whole, the subset and one random subset.

    title    what is spread
    unit     of the bins; empty: classes
    names    of the bins: where each begins, and where the last ends; or of the classes or values
    whole    the shares of all images, or of a sample of them; as for the others
    random   () where there is no random subset to compare with
    sampled  how many images stand for the whole
    """

    title: str
    unit: str
    names: tuple[str, ...]
    whole: tuple[float, ...]
    subset: tuple[float, ...]
    random: tuple[float, ...]
    sampled: int


@dataclass(frozen=True)
class PcaMap:
    """Images as points in the plane of the first two principal components of what was searched.

    density    how many images lie in each cell, row by row from the top, relative to the fullest
    points     the chosen, (x, y) in [0, 1], y downwards
    explained  the share of the variance that the two hold
    """

    density: tuple[tuple[float, ...], ...] = field(repr=False)
    points: tuple[tuple[float, float], ...] = field(repr=False)
    explained: float


@dataclass(frozen=True)
class Thumbnail:
    """An image to be shown: its path, a JPEG of at most 4 KB, and what is to be said of it."""

    path: str
    jpeg: bytes = field(repr=False)
    note: str = ""


@dataclass(frozen=True)
class ReportData:
    """What a report shows of a subset.

    strip_plots    the figures among those of random subsets, the most telling first
    shares         how images are spread
    map            the images in a plane; None where nothing varies
    chosen         the first of them in rank order
    worst          images that none of the chosen resembles, the worst first
    copies         sets of images that are copies of each other
    paths          of all usable images
    ranked         of the chosen ones in rank order
    contributions  by path of a chosen image how much the searched loss would rise without it
    """

    strip_plots: tuple[StripPlot, ...]
    shares: tuple[Histogram, ...]
    map: PcaMap | None
    chosen: tuple[Thumbnail, ...] = field(repr=False)
    worst: tuple[Thumbnail, ...] = field(repr=False)
    copies: tuple[tuple[Thumbnail, ...], ...] = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    ranked: tuple[str, ...] = field(repr=False)
    contributions: dict[str, float] = field(repr=False)


@dataclass(frozen=True)
class ComparisonReportData:
    """What a report shows of two folders.

    strip_plots  the figures among those of random deals of the images of both
    shares       how images are spread: the whole is the first folder, the subset the second
    map          the first as a density, the second as points
    words        in which directions the second differs, the clearest first
    dissimilar   images of the second that are most unlike those of the first, and the other way round
    """

    strip_plots: tuple[StripPlot, ...]
    shares: tuple[Histogram, ...]
    map: PcaMap | None
    words: tuple[str, ...]
    dissimilar: tuple[tuple[Thumbnail, ...], tuple[Thumbnail, ...]] = field(repr=False)
