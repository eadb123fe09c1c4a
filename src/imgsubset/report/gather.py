"""Gather what a report shows while the moments of the images are in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from imgsubset.annotations.classes import parse_classes
from imgsubset.decoding.thumbnails import JpegThumbnail, make_thumbnails
from imgsubset.features.load import SourceFeatures
from imgsubset.features.metadata_encoding import MetadataChannels
from imgsubset.results.report_data import ComparisonReportData, Histogram, PcaMap, ReportData, StripPlot, Thumbnail
from imgsubset.search.quadratic import quadratic_form
from imgsubset.statistics.moments import fit_standardiser
from imgsubset.statistics.objective import Objective, draw_random_subsets
from imgsubset.statistics.rng import make_generator

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


N_RANDOM_SUBSETS, MAX_RANDOM_ROWS = 200, 4_000_000  # random subsets, and their rows in all
MAX_SAMPLED_IMAGES = 2000  # images that stand for all where pixels are looked at
MAX_MAPPED_IMAGES = 20_000  # images that a map is drawn of
MAP_GRID_SIDE = 40
MAX_SELECTED_THUMBNAILS, MAX_WORST_THUMBNAILS, MAX_DUPLICATE_SETS, MAX_THUMBNAILS_PER_SET = 200, 24, 8, 4  # thumbnails
MAX_COLUMN_PLOTS = 5  # that are shown among random subsets
BATCH_ROWS = 512  # of the sample whose distances are held at once


def gather_report_data(
    source: SourceFeatures,
    objective: Objective,
    judges: Sequence[Objective],
    rows: Tensor,
    ranking: Sequence[int],
    twins: Sequence[tuple[int, ...]],
    pictures: dict[int, JpegThumbnail],
) -> ReportData:
    """Gather it: of a standardised source, the objectives by which a subset (n,) was judged, its rows in order of rank,
    and the sets of rows that are exact copies of each other. The pictures that were made before are added to."""
    sample = torch.randperm(len(source.paths), generator=make_generator(torch.device("cpu"), "report"))[
        :MAX_SAMPLED_IMAGES
    ].tolist()
    other = sample[: len(rows)]  # as good a random subset as any
    shown = [*ranking[:MAX_SAMPLED_IMAGES]]
    apart = nearest_distances(
        _stack_features(source, torch.tensor(sample, device=rows.device)), _stack_features(source, rows)
    )
    worst = [sample[place] for place in np.argsort(-apart, kind="stable")[:MAX_WORST_THUMBNAILS] if apart[place] > 0]
    twins = twins[:MAX_DUPLICATE_SETS]
    pictures |= make_missing_thumbnails(
        source, {*sample, *shown, *(row for rows in twins for row in rows[:MAX_THUMBNAILS_PER_SET])}, pictures
    )
    chosen, names = {int(row) for row in rows}, parse_classes(source.paths)
    return ReportData(
        strip_plots=_make_strip_plots(source, objective, judges, rows),
        shares=(
            *make_image_stat_histograms(
                [collect_image_stats(source, pictures, some) for some in (sample, shown, other)]
            ),
            *make_class_histograms([[names[row] for row in some] for some in (range(len(names)), chosen, other)]),
            *make_metadata_histograms(source.known, (range(len(names)), sorted(chosen), other)),
        ),
        map=_make_feature_map(source, rows),
        chosen=make_report_thumbnails(source, pictures, shown[:MAX_SELECTED_THUMBNAILS]),
        worst=make_report_thumbnails(source, pictures, worst),
        copies=tuple(
            make_report_thumbnails(
                source, pictures, rows[:MAX_THUMBNAILS_PER_SET], {row: "chosen" for row in rows if row in chosen}
            )
            for rows in twins
        ),
        paths=source.paths,
        ranked=tuple(source.paths[row] for row in ranking),
        contributions=_compute_contributions(source, objective, rows),
    )


def _make_strip_plots(
    source: SourceFeatures, objective: Objective, judges: Sequence[Objective], rows: Tensor
) -> tuple[StripPlot, ...]:
    """The losses, held-out and searched, and the columns that are met worst."""
    n, total = len(rows), len(source.paths)
    count = max(2, min(N_RANDOM_SUBSETS, MAX_RANDOM_ROWS // n))
    random = draw_random_subsets(total, n, count, make_generator(rows.device, "report", 1))
    both = torch.cat([rows[None], random])
    strips = []
    if judges:
        held_out = torch.stack([judge.loss(both) for judge in judges]).median(0).values
        strips.append(_make_strip_plot("Loss in networks that the search did not see", "", held_out.tolist()))
    strips.append(_make_strip_plot("Loss in what was searched", "", objective.loss(both).tolist()))
    columns = []
    for name, known in ((name, known) for name, known in source.known.items() if known.asked):
        means = known.values[random.cpu().numpy()].mean(1)
        here, everywhere = known.values[rows.cpu().numpy()].mean(0), known.values.mean(0)
        for place, column in enumerate(known.names):
            spread = means[:, place].std()
            off = abs(here[place] - everywhere[place]) / spread if spread else 0.0
            strip = _make_strip_plot(f"{column} ({name})", "mean", [here[place], *means[:, place]], everywhere[place])
            columns.append((off, strip))
    columns.sort(key=lambda pair: -pair[0])
    return (*strips, *(strip for _, strip in columns[:MAX_COLUMN_PLOTS]))


def _make_strip_plot(name: str, unit: str, values: Sequence[float], whole: float = 0.0) -> StripPlot:
    subset, *random = map(float, values)
    return StripPlot(name, unit, subset, tuple(random), float(whole))


def _stack_features(source: SourceFeatures, rows: Tensor) -> Tensor:
    """The standardised features of pixels, or embeddings, of these rows, in all blocks: (R, D)."""
    means = [block.images.mean[rows] for block in source.blocks if not block.numbers]
    return torch.cat(means or [source.blocks[0].images.mean[rows]], 1)


def nearest_distances(features: Tensor, others: Tensor) -> np.ndarray:
    """How far each row of features (R, D) is from that of others (Q, D) which is most like it: (R,)."""
    parts = [torch.cdist(some, others).amin(1) for some in torch.split(features, BATCH_ROWS)]
    return torch.cat(parts).cpu().numpy()


def _make_feature_map(source: SourceFeatures, rows: Tensor) -> PcaMap | None:
    total = len(source.paths)
    spread = torch.arange(0, total, max(1, -(-total // MAX_MAPPED_IMAGES)), device=rows.device)
    return make_pca_map(_stack_features(source, spread), _stack_features(source, rows[:MAX_SAMPLED_IMAGES]))


def make_pca_map(features: Tensor, others: Tensor) -> PcaMap | None:
    """Features (R, D) as a density in the plane of their first two principal components, and others (Q, D) as points;
    None where they do not vary in two directions."""
    features, others = (some.double().cpu() for some in (features, others))
    center = features.mean(0)
    values, vectors = torch.linalg.eigh((features - center).T @ (features - center) / len(features))
    if len(values) < 2 or values[-2] <= 1e-9 * values[-1]:
        return None
    axes = vectors[:, [-1, -2]]
    plane, points = ((some - center) @ axes for some in (features, others))
    low, high = plane.quantile(0.005, 0), plane.quantile(0.995, 0)
    plane, points = (((some - low) / (high - low)).clamp(0, 1) for some in (plane, points))
    cells = np.histogram2d(1 - plane[:, 1].numpy(), plane[:, 0].numpy(), MAP_GRID_SIDE, [(0, 1), (0, 1)])[0]
    density = np.sqrt(cells / cells.max())
    return PcaMap(
        tuple(map(tuple, density.round(2).tolist())),
        tuple((round(x, 3), round(1 - y, 3)) for x, y in points.tolist()),
        float(values[-2:].sum() / values.sum()),
    )


def _compute_contributions(source: SourceFeatures, objective: Objective, rows: Tensor) -> dict[str, float]:
    """By how much the loss, to second order, would rise without each of the chosen: |(n r - z) / (n - 1)|^2 - |r|^2,
    with r the mean of their z."""
    n = len(rows)
    if n < 2 or objective.is_flat:
        return {}
    form = quadratic_form(objective)
    residual = form.residual(rows[None])[0]
    rises = [
        ((n * residual - form.embed(some).double()) / (n - 1)).square().sum(1) - residual.square().sum()
        for some in torch.split(rows, BATCH_ROWS)
    ]
    return dict(zip((source.paths[int(row)] for row in rows), torch.cat(rises).tolist(), strict=True))


def gather_comparison_data(
    one: SourceFeatures, other: SourceFeatures, figures: Mapping[str, tuple[float, Tensor]]
) -> ComparisonReportData:
    """Gather it of two sources, whose moments are raw, and of figures by name: each with those of deals (draws,)."""
    samples, features, pictures = [], [], []
    for source in (one, other):
        rows = torch.randperm(len(source.paths), generator=make_generator(torch.device("cpu"), "report"))[
            :MAX_SAMPLED_IMAGES
        ]
        samples.append(rows.tolist())
        features.append(_standardise_by_reference(one, source, rows))
        pictures.append(make_missing_thumbnails(source, rows.tolist()))
    looks = [collect_image_stats(*each) for each in zip((one, other), pictures, samples, strict=True)]
    names = [parse_classes(source.paths) for source in (one, other)]
    return ComparisonReportData(
        strip_plots=tuple(
            StripPlot(name, "", value, tuple(map(float, dealt[:N_RANDOM_SUBSETS])))
            for name, (value, dealt) in figures.items()
        ),
        shares=(*make_image_stat_histograms(looks), *make_class_histograms(names)),
        map=make_pca_map(*features),
        words=(*describe_differences(*looks), *describe_class_differences(*names)),
        dissimilar=(
            _find_dissimilar_images(
                other, pictures[1], samples[1], nearest_distances(features[1], features[0]), looks[0]
            ),
            _find_dissimilar_images(
                one, pictures[0], samples[0], nearest_distances(features[0], features[1]), looks[1]
            ),
        ),
    )


def _standardise_by_reference(reference: SourceFeatures, source: SourceFeatures, rows: Tensor) -> Tensor:
    """The features (R, D) of these rows, standardised by the reference."""
    parts = []
    for block, own in zip(reference.blocks, source.blocks, strict=True):
        scale = fit_standardiser(block.images)
        mean = own.images.mean[rows.to(own.images.table.device)]
        parts.append(((mean[:, scale.is_varying] - scale.center) / scale.scale).float())
    return torch.cat(parts, 1)


def _find_dissimilar_images(
    source: SourceFeatures,
    pictures: Mapping[int, JpegThumbnail],
    sample: Sequence[int],
    apart: np.ndarray,
    usual: ImageStats,
) -> tuple[Thumbnail, ...]:
    """The images of a sample that are farthest apart from all others, and what sets each apart from usual ones."""
    worst = [sample[place] for place in np.argsort(-apart, kind="stable")[:MAX_WORST_THUMBNAILS] if apart[place] > 0]
    seen = [row for row in worst if row in pictures]
    looks = collect_image_stats(source, pictures, seen)
    return make_report_thumbnails(
        source, pictures, seen, {row: describe_outlier(looks, place, usual) for place, row in enumerate(seen)}
    )
