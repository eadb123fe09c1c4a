"""What a report shows of two folders, gathered while their moments are at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from imgsubset.features.source import Source
from imgsubset.reading.labels import class_names
from imgsubset.reading.thumbnails import Small
from imgsubset.results.evidence import Contrast, Strip, Thumbnail
from imgsubset.statistics.dice import dice
from imgsubset.statistics.moments import standard
from imgsubset.tasks.evidence import RANDOM, SAMPLE, WORST, map_of, nearest
from imgsubset.tasks.looks import (
    Looks,
    class_differences,
    classes,
    differences,
    looks_of,
    pictures_of,
    shown_of,
    spreads,
    striking,
)


def contrast(one: Source, other: Source, figures: Mapping[str, tuple[float, Tensor]]) -> Contrast:
    """Gather it of two sources, whose moments are raw, and of figures by name: each with those of deals (draws,)."""
    samples, features, pictures = [], [], []
    for source in (one, other):
        rows = torch.randperm(len(source.paths), generator=dice(torch.device("cpu"), "report"))[:SAMPLE]
        samples.append(rows.tolist())
        features.append(_in_units_of(one, source, rows))
        pictures.append(pictures_of(source, rows.tolist()))
    looks = [looks_of(*each) for each in zip((one, other), pictures, samples, strict=True)]
    names = [class_names(source.paths) for source in (one, other)]
    return Contrast(
        strips=tuple(
            Strip(name, "", value, tuple(map(float, dealt[:RANDOM]))) for name, (value, dealt) in figures.items()
        ),
        shares=(*spreads(looks), *classes(names)),
        map=map_of(*features),
        words=(*differences(*looks), *class_differences(*names)),
        unlike=(
            _unlike(other, pictures[1], samples[1], nearest(features[1], features[0]), looks[0]),
            _unlike(one, pictures[0], samples[0], nearest(features[0], features[1]), looks[1]),
        ),
    )


def _in_units_of(reference: Source, source: Source, rows: Tensor) -> Tensor:
    """The features (R, D) of these rows, standardised by the reference."""
    parts = []
    for block, own in zip(reference.blocks, source.blocks, strict=True):
        scale = standard(block.images)
        mean = own.images.mean[rows.to(own.images.table.device)]
        parts.append(((mean[:, scale.kept] - scale.center) / scale.scale).float())
    return torch.cat(parts, 1)


def _unlike(
    source: Source, pictures: Mapping[int, Small], sample: Sequence[int], apart: np.ndarray, usual: Looks
) -> tuple[Thumbnail, ...]:
    """The images of a sample that are farthest apart from all others, and what sets each apart from usual ones."""
    worst = [sample[place] for place in np.argsort(-apart, kind="stable")[:WORST] if apart[place] > 0]
    seen = [row for row in worst if row in pictures]
    looks = looks_of(source, pictures, seen)
    return shown_of(source, pictures, seen, {row: striking(looks, place, usual) for place, row in enumerate(seen)})
