"""What images look like, for a report: small pictures, how their looks are spread, what sets some apart in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from imgsubset.features.channels import MetadataChannels
from imgsubset.features.source import SourceFeatures
from imgsubset.reading.thumbnails import JpegThumbnail, make_thumbnails
from imgsubset.results.evidence import Histogram, Thumbnail

N_HISTOGRAM_BINS = 24
MAX_HISTOGRAM_CLASSES, MAX_NUMERIC_HISTOGRAMS, MAX_CLASS_DIFFERENCES = 50, 6, 5
IMAGE_STAT_LABELS = {  # what each number of an image is called, its unit, and what more and less of it is in words
    "brightness": ("", "brighter", "darker"),
    "contrast": ("", "more contrast", "less contrast"),
    "sharpness": ("", "sharper", "blurrier"),
    "file size": ("log10 bytes", "larger files", "smaller files"),
}
MIN_Z = 3.0  # standard errors beyond which a difference of means is told
OUTLIER_Z = 1.5  # standard deviations from the mean beyond which a look of an image is told
ImageStats = dict[str, np.ndarray]


def make_missing_thumbnails(
    source: SourceFeatures, rows: Iterable[int], known: Mapping[int, JpegThumbnail] | None = None
) -> dict[int, JpegThumbnail]:
    """The small pictures of rows of a source that are not known yet, but for those that cannot be read any more."""
    wanted = sorted({*rows}.difference(known or {}))
    files = [source.listing.file(source.paths[row]) for row in wanted]
    found = zip(wanted, make_thumbnails(files), strict=True)
    return {row: small for row, small in found if small is not None}


def make_report_thumbnails(
    source: SourceFeatures,
    pictures: Mapping[int, JpegThumbnail],
    rows: Iterable[int],
    notes: Mapping[int, str] | None = None,
) -> tuple[Thumbnail, ...]:
    """Those of these rows that there are pictures of, to be shown."""
    notes = notes or {}
    return tuple(
        Thumbnail(source.paths[row], pictures[row].jpeg, notes.get(row, "")) for row in rows if row in pictures
    )


def collect_image_stats(
    source: SourceFeatures, pictures: Mapping[int, JpegThumbnail], rows: Iterable[int]
) -> ImageStats:
    """The numbers of these rows, (R,) each, by the names in LOOKS."""
    seen = [row for row in rows if row in pictures]
    return {
        "brightness": np.array([pictures[row].brightness for row in seen]),
        "contrast": np.array([pictures[row].contrast for row in seen]),
        "sharpness": np.array([pictures[row].sharpness for row in seen]),
        "file size": np.log10([max(1, source.stamps[row].size) for row in seen]),
    }


def make_image_stat_histograms(sets: Sequence[ImageStats]) -> list[Histogram]:
    """How the looks of all, of a subset, and perhaps of a random one, are spread."""
    found = [
        _make_histogram(title, unit, [looks[title] for looks in sets])
        for title, (unit, _, _) in IMAGE_STAT_LABELS.items()
    ]
    return [one for one in found if one]


def _make_histogram(title: str, unit: str, sets: Sequence[np.ndarray]) -> Histogram | None:
    """How numbers are spread over bins; None if there are none, or all are alike."""
    if not all(map(len, sets)) or np.ptp(np.concatenate(sets)) == 0:
        return None
    edges = np.linspace(min(map(np.min, sets)), max(map(np.max, sets)), N_HISTOGRAM_BINS + 1)
    shares = [tuple((np.histogram(some, edges)[0] / len(some)).tolist()) for some in sets]
    names = tuple(f"{edge:.3g}" for edge in edges)
    return Histogram(title, unit, names, shares[0], shares[1], (*shares, ())[2], len(sets[0]))


def make_metadata_histograms(known: Mapping[str, MetadataChannels], sets: Sequence[Sequence[int]]) -> list[Histogram]:
    """How what is known of all images is spread, of all rows, of a subset and of a random one: numbers over bins, those
    whose means are furthest off first, and the values of texts, the commonest first."""
    numbers, found = list[tuple[float, Histogram]](), list[Histogram]()
    for name, columns in known.items():
        values = columns.values
        share = np.isin(values, (0, 1)).all(0)
        for place in np.flatnonzero(~share):
            title = columns.names[place].removeprefix("rank of ")  # that of heavy tails, drawn as they are
            if title in (*IMAGE_STAT_LABELS, *(drawn.title for _, drawn in numbers)):
                continue
            parts = [values[rows, place] for rows in sets]
            if drawn := _make_histogram(title, "", parts):
                numbers.append((abs(parts[1].mean() - parts[0].mean()) / parts[0].std(), drawn))
        if share.any():
            means = [values[rows][:, share].mean(0) for rows in sets]
            order = np.argsort(-means[0], kind="stable")[:MAX_HISTOGRAM_CLASSES]
            names = tuple(np.array(columns.names, object)[share][order])
            whole, subset, random = (tuple(one[order].tolist()) for one in means)
            found.append(Histogram(f"images with each value of {name}", "", names, whole, subset, random, len(sets[0])))
    numbers.sort(key=lambda pair: -pair[0])
    return [*(drawn for _, drawn in numbers[:MAX_NUMERIC_HISTOGRAMS]), *found]


def make_class_histograms(sets: Sequence[Sequence[str]]) -> list[Histogram]:
    """The shares of classes, given as one an image, of all, of a subset, and perhaps of a random one."""
    everywhere = Counter(name for some in sets for name in set(some))
    if not 1 < len(everywhere) <= MAX_HISTOGRAM_CLASSES:
        return []
    counts = [Counter(some) for some in sets]
    order = sorted(everywhere, key=lambda name: (-counts[0][name], name))
    shares = [tuple(count[name] / max(1, count.total()) for name in order) for count in counts]
    return [Histogram("classes, by folder", "", tuple(order), shares[0], shares[1], (*shares, ())[2], len(sets[0]))]


def describe_differences(one: ImageStats, other: ImageStats) -> list[str]:
    """In which directions the looks of the other set differ from those of the one, in words, the clearest first."""
    told = []
    for name, (_, more, less) in IMAGE_STAT_LABELS.items():
        first, second = one[name], other[name]
        error = np.sqrt(first.var() / max(1, len(first)) + second.var() / max(1, len(second)))
        gap = second.mean() - first.mean() if len(first) and len(second) else 0.0
        if error > 0 and abs(gap) > MIN_Z * error:
            low, high = (10**mean if name == "file size" else mean for mean in (first.mean(), second.mean()))
            told.append((abs(gap) / error, f"{more if gap > 0 else less} ({name} {high:,.3g} against {low:,.3g})"))
    return [words for _, words in sorted(told, reverse=True)]


def describe_class_differences(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Of which classes, given as one an image, the other set has more or less than the one, the clearest first."""
    told = []
    counts = Counter(one), Counter(other)
    if len(counts[0] | counts[1]) > MAX_HISTOGRAM_CLASSES:
        return []
    for name in counts[0] | counts[1]:
        first, second = (count[name] / count.total() for count in counts)
        error = np.sqrt(
            sum(share * (1 - share) / count.total() for share, count in zip((first, second), counts, strict=True))
        )
        if abs(second - first) > MIN_Z * error:
            gap = "more" if second > first else "less"
            told.append((abs(second - first), f"{gap} of class {name} ({second:.0%} against {first:.0%})"))
    return [words for _, words in sorted(told, reverse=True)][:MAX_CLASS_DIFFERENCES]


def describe_outlier(looks: ImageStats, place: int, usual: ImageStats) -> str:
    """What sets an image, by its place, most apart from usual ones, in a word or two; empty if nothing does."""
    offs = {}
    for name, numbers in usual.items():
        if len(numbers) and (spread := numbers.std()) > 0:
            offs[name] = (looks[name][place] - numbers.mean()) / spread
    if not offs:
        return ""
    name = max(offs, key=lambda one: abs(offs[one]))
    _, more, less = IMAGE_STAT_LABELS[name]
    return (more if offs[name] > 0 else less) if abs(offs[name]) > OUTLIER_Z else ""
