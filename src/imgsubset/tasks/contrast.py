"""What a report shows of two folders, gathered while their moments are at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from imgsubset.features.source import SourceFeatures
from imgsubset.reading.labels import parse_classes
from imgsubset.reading.thumbnails import JpegThumbnail
from imgsubset.results.evidence import ComparisonReportData, StripPlot, Thumbnail
from imgsubset.statistics.dice import make_generator
from imgsubset.statistics.moments import fit_standardiser
from imgsubset.tasks.evidence import (
    MAX_SAMPLED_IMAGES,
    MAX_WORST_THUMBNAILS,
    N_RANDOM_SUBSETS,
    make_pca_map,
    nearest_distances,
)
from imgsubset.tasks.looks import (
    ImageStats,
    collect_image_stats,
    describe_class_differences,
    describe_differences,
    describe_outlier,
    make_class_histograms,
    make_image_stat_histograms,
    make_missing_thumbnails,
    make_report_thumbnails,
)


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
