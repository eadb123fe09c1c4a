"""How far two folders reach into each other: precision, recall, density and coverage, each with its noise floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgsubset.features.extractors import is_raw
from imgsubset.features.source import SourceFeatures
from imgsubset.options import Options
from imgsubset.results.comparison import ROUNDING_TOLERANCE, Overlap

if TYPE_CHECKING:
    from torch import Tensor

    from imgsubset.features.random_cnn import Extractor

LOWER_NULL_QUANTILE = 0.01  # the quantile of random deals that a value must stay below to lie outside the noise floor


def extra_feature_views(options: Options, extractor: Extractor | None) -> tuple[str, ...]:
    """What else of the pixels must be seen, names in `features.spaces.VIEWS`.

    To a random CNN a blurred picture is a usual one without much texture: its filters answer to coarse shapes above
    all, as pictures mostly consist of these. In the Fourier transform fine detail counts as much.
    """
    return ("fft",) if extractor is None and {*dict(options.features)} == {"random-cnn"} else ()


def compute_overlaps(
    one: SourceFeatures, other: SourceFeatures, seed: int
) -> tuple[dict[str, Overlap], tuple[str, ...]]:
    """The four of two sources by name, of which the first is the reference; and what is to be said of them.

    An image is a point: its vectors in all spaces side by side, each space with its weight; views beside them count as
    much as they do together. The vectors of a feature that is compared as it is are so here, if it is alone.
    """
    from imgsubset.statistics.neighbours import MAX_PRDC_IMAGES, PRDC_NAMES, compare_prdc, join_spaces

    spaces = [(mine.images.mean, theirs.images.mean) for mine, theirs in zip(one.blocks, other.blocks, strict=True)]
    weights = [block.weight for block in one.blocks]
    for name in one.seen:
        spaces.append((one.seen[name].mean, other.seen[name].mean))
        weights.append(1.0)
    alone = len(spaces) == 1 and is_raw(one.blocks[0].name)
    values, floor = compare_prdc(*(spaces[0] if alone else join_spaces(spaces, weights)), seed)
    many = len(one.paths) > MAX_PRDC_IMAGES or len(other.paths) > MAX_PRDC_IMAGES
    return {
        name: _make_overlap(value, dealt) for name, value, dealt in zip(PRDC_NAMES, values, floor.T, strict=True)
    }, ((f"precision, recall, density and coverage are of at most {MAX_PRDC_IMAGES:,} images of each",) if many else ())


def _make_overlap(value: Tensor, floor: Tensor) -> Overlap:
    """A value, and the floor (draws,) of it."""
    return Overlap(
        value=float(value),
        floor_mean=float(floor.mean()),
        floor_limit=float(floor.quantile(LOWER_NULL_QUANTILE)),
        p_value=(1 + int((floor <= value * (1 + ROUNDING_TOLERANCE)).sum())) / (1 + len(floor)),
    )
