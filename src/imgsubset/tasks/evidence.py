"""What a report shows of a subset, gathered while the moments of its source are at hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from imgsubset.features.source import SourceFeatures
from imgsubset.reading.labels import parse_classes
from imgsubset.reading.thumbnails import JpegThumbnail
from imgsubset.results.evidence import PcaMap, ReportData, StripPlot
from imgsubset.search.quadratic import quadratic_form
from imgsubset.statistics.dice import make_generator
from imgsubset.statistics.objective import Objective, draw_random_subsets
from imgsubset.tasks.looks import (
    collect_image_stats,
    make_class_histograms,
    make_image_stat_histograms,
    make_metadata_histograms,
    make_missing_thumbnails,
    make_report_thumbnails,
)

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
