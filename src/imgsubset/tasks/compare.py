"""How far apart two folders of images are, beside what two random samples of one distribution would show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from imgsubset.devices import run_with_cpu_fallback
from imgsubset.divergence_weights import DIVERGENCE_NAMES, Weights
from imgsubset.features.extractors import is_raw
from imgsubset.features.feature_spaces import choose_resolution
from imgsubset.features.load import SourceFeatures, load_features
from imgsubset.options import Options, merge_options
from imgsubset.progress import Clock, Progress, as_progress
from imgsubset.results.comparison import ROUNDING_TOLERANCE, Comparison, Distance, Overlap
from imgsubset.sources.python_sources import AnySource
from imgsubset.tasks.inputs import check_callable, resolve_inputs

if TYPE_CHECKING:
    from torch import Tensor

    from imgsubset.features.random_cnn import Extractor
    from imgsubset.statistics.moments import Block
    from imgsubset.statistics.permutation import TwoSampleResult

UPPER_NULL_QUANTILE = 0.99  # the quantile of random deals that a value must exceed to lie outside the noise floor
PERMUTATION_SEED = 1 << 61  # not the network's: the floor of two given folders is always the same


def compare(
    first: AnySource,
    second: AnySource,
    options: Options | None = None,
    *,
    extractor: Extractor | None = None,
    evidence: bool = False,
    progress: Progress | bool = False,
    **words: Any,
) -> Comparison:
    """Compare two folders that need not have an image in common; the first is the reference.

    Sources, extractor, evidence and words are as in `select`. Raises UsageError, InputError or, with options.strict,
    BadFilesError.
    """
    options, tell = merge_options(options, words), as_progress(progress)
    check_callable(extractor=extractor)
    clock = Clock()
    with clock.stage("list"):
        listings = [resolve_inputs(source, options)[0] for source in (first, second)]

    def work(device: str, notes: tuple[str, ...]) -> Comparison:
        size = max(choose_resolution(listing, options.size) for listing in listings)
        beside = extra_feature_views(options, extractor)
        one, other = (
            load_features(
                listing,
                options,
                device,
                extractor=extractor,
                size=size,
                measured=False,
                seen=beside,
                clock=clock,
                progress=tell,
            )
            for listing in listings
        )
        return _compare_features(one, other, options, clock, notes, evidence)

    return run_with_cpu_fallback(options.device, work, options.workers)


def _compare_features(
    one: SourceFeatures, other: SourceFeatures, options: Options, clock: Clock, notes: tuple[str, ...], gather: bool
) -> Comparison:
    import torch

    from imgsubset.statistics.permutation import run_two_sample_test

    spaces = [[block.images for block in source.blocks] for source in (one, other)]
    with clock.stage("compare"):
        raw = [is_raw(block.name) for block in one.blocks]
        results = run_two_sample_test(spaces[0], spaces[1], PERMUTATION_SEED, raw=raw)
        shares = [block.weight for block in one.blocks]

        def mean(parts: Iterable[Tensor]) -> Tensor:
            """Over the spaces, by weight."""
            return sum((share * part for share, part in zip(shares, parts, strict=True)), torch.zeros(()))

        # In units of each space's own floor: else a space in which a channel hardly varies would rule the mean.
        means = [of.floor.mean(0) for of in results]
        scales = [one.where(one > 0, torch.ones(())) for one in means]
        scale = mean(scales)
        values = mean(of.values / own for of, own in zip(results, scales, strict=True)) * scale
        dealt = mean(of.floor / own for of, own in zip(results, scales, strict=True)) * scale
        columns = zip(DIVERGENCE_NAMES, values, dealt.T, strict=True)
        divergences = {name: _make_distance(value, floor) for name, value, floor in columns}
        units = [_loss_coefficients(one, options.weights) for one in means]
        total = mean(of.values @ unit for of, unit in zip(results, units, strict=True))
        floor = mean(of.floor @ unit for of, unit in zip(results, units, strict=True))
        lying, sampled = compute_overlaps(one, other, PERMUTATION_SEED)
    shown = None
    if gather:
        from imgsubset.report.gather import gather_comparison_data

        with clock.stage("report"):
            figures = {"loss": (float(total), floor)}
            figures |= {
                name: (float(value), dealt[:, place])
                for place, (name, value) in enumerate(zip(DIVERGENCE_NAMES, values, strict=True))
            }
            shown = gather_comparison_data(one, other, figures)
    if not any(of.varies for of in results):
        notes += ("all images of both look the same to the network",)
    return Comparison(
        first=one.listing,
        second=other.listing,
        size=one.size,
        sizes=(len(one.paths), len(other.paths)),
        divergences=divergences,
        loss=_make_distance(total, floor),
        kid=_make_kid_distances(one.blocks, results),
        overlaps=lying,
        rejected=(one.rejected, other.rejected),
        contrast=shown,
        warnings=one.warnings + other.warnings + notes + sampled,
        options=options,
        device=one.device,
        seconds=clock.seconds,
    )


def _make_kid_distances(blocks: Sequence[Block], results: Sequence[TwoSampleResult]) -> dict[str, Distance]:
    """The KIDs by the names of blocks, of those that have one."""
    pairs = zip(blocks, results, strict=True)
    return {block.name: _make_distance(of.kid[0], of.kid[1:]) for block, of in pairs if of.kid is not None}


def _loss_coefficients(means: Tensor, weights: Weights) -> Tensor:
    """What a unit of each divergence adds to the loss, (5,): its weight in units of its floor's mean (5,)."""
    shares = weights.shares()
    named = zip(DIVERGENCE_NAMES, means.tolist(), strict=True)
    return means.new_tensor([shares.get(name, 0.0) / mean if mean else 0.0 for name, mean in named])


def _make_distance(value: Tensor, floor: Tensor) -> Distance:
    """A value, and the floor (draws,) of it."""
    return Distance(
        value=float(value),
        floor_mean=float(floor.mean()),
        floor_limit=float(floor.quantile(UPPER_NULL_QUANTILE)),
        p_value=(1 + int((floor >= value - ROUNDING_TOLERANCE * value.abs()).sum())) / (1 + len(floor)),
    )


LOWER_NULL_QUANTILE = 0.01  # the quantile of random deals that a value must stay below to lie outside the noise floor


def extra_feature_views(options: Options, extractor: Extractor | None) -> tuple[str, ...]:
    """What else of the pixels must be seen, names in `features.feature_spaces.VIEWS`.

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
    from imgsubset.statistics.generative_metrics import MAX_PRDC_IMAGES, PRDC_NAMES, compare_prdc, join_spaces

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
