"""From a listing to blocks of moments: from the cache, by decoding, or from embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from imgsubset.devices import device_name, torch_device
from imgsubset.errors import BadFilesError, InputError, OutputError, UsageError, shorten
from imgsubset.features.array_storage import MAX_IMAGES_IN_MEMORY, check_memory, choose_allocator, is_memmapped
from imgsubset.features.distributed_ingest import (
    IngestTask,
    LazySequence,
    PendingFiles,
    compute_moments,
    evaluation_only_flags,
    make_caches,
)
from imgsubset.features.feature_spaces import (
    AUXILIARY_ROLE,
    HELD_OUT_ROLE,
    MATCHED_ROLE,
    FeatureSpace,
    choose_resolution,
    compute_feature_shares,
)
from imgsubset.files import Stamp, Stamps
from imgsubset.inputs import Embeddings
from imgsubset.options import FIELDS, MOMENTS, Options, merge_options
from imgsubset.progress import Clock, Progress, no_progress
from imgsubset.sources.images import Listing, RejectedFile, sort_rejected

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from imgsubset.features.cache import Cache, CacheResult
    from imgsubset.features.ingest import IngestResult
    from imgsubset.features.metadata_encoding import MetadataChannels
    from imgsubset.features.random_cnn import Extractor
    from imgsubset.statistics.moments import Block, ImageMoments

EMBEDDINGS = "embeddings"  # the feature, and its block


@dataclass(frozen=True)
class SourceFeatures:
    """The images of a source, each reduced to moments.

    listing   where they come from
    blocks    the moments of the usable ones in each feature space that is matched, a row each, not standardised
    paths     of these, relative to the source, in the order of their bytes
    stamps    what each file was when it was read
    rejected  the files with an image's name that are not usable, with reasons
    device    what the moments were made on
    cached    how many of them came from the cache
    warnings  what a user should know
    held_out  the moments in the networks that measure and that no search sees
    seen      by name what else was asked for of the pixels, a row an image
    known     by the name of its block what is known of the images beside their pixels
    tables    where that came from: of each file its name, absolute path, SHA-256 and columns
    size      side of the square that images were resized to, in pixels; None where none was decoded
    vectors   by name the vectors (N, C) of blocks that are measured as they are too, where that was asked for
    """

    listing: Listing
    blocks: tuple[Block, ...] = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    stamps: Sequence[Stamp] = field(repr=False)
    rejected: tuple[RejectedFile, ...]
    device: str
    cached: int = 0
    warnings: tuple[str, ...] = ()
    held_out: tuple[Block, ...] = field(default=(), repr=False)
    seen: Mapping[str, ImageMoments] = field(default_factory=dict, repr=False)
    known: Mapping[str, MetadataChannels] = field(default_factory=dict, repr=False)
    tables: tuple[dict[str, object], ...] = ()
    size: int | None = None
    vectors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def standardise(self) -> SourceFeatures:
        """With moments in units in which this source has mean 0 and variance 1, in place of the raw ones, which are
        written over: a second table would be half of what an image takes.

        A block in which nothing varies is left out; the weights of the others sum to 1 again.
        """
        blocks, notes = _standardise_blocks(self.blocks)
        held_out, _ = _standardise_blocks(self.held_out, measures=True)
        return replace(self, blocks=blocks, held_out=held_out, warnings=self.warnings + notes)


def _standardise_blocks(blocks: tuple[Block, ...], measures: bool = False) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    import torch

    from imgsubset.features.embeddings import reduce_channels, standardise_lazily
    from imgsubset.statistics.moments import MIN_RELATIVE_VARIANCE, fit_standardiser

    made, notes = [], []
    images: ImageMoments
    for block in blocks:
        if is_memmapped(len(block.images), measures):
            looked_at, scale = standardise_lazily(block.images, MAX_IMAGES_IN_MEMORY)
            images, constant = looked_at, looked_at.whole.cov.diagonal() < MIN_RELATIVE_VARIANCE
        else:
            few = (
                block.images if block.name == EMBEDDINGS else reduce_channels(block.images)
            )  # these are as pca has them
            scale = fit_standardiser(few)
            images = scale.apply(few, in_place=True)
            # The mean of each channel is 0; a norm needs no copy of the table.
            constant = torch.linalg.vector_norm(images.mean, dim=0) < (MIN_RELATIVE_VARIANCE * len(images)) ** 0.5
        # The borders of an image vary even where all images are alike.
        alike = not images.channels or (len(images) > 1 and bool(constant.all()))
        kept = [False] if alike else scale.is_varying.tolist()
        made.append((replace(block, images=images), any(kept)))
        if any(kept) and not all(kept):
            notes.append(
                f"{kept.count(False)} of {len(kept)} channels of {block.name} do not vary in the source and are "
                "left out"
            )
    varying = [block for block, varies in made if varies]
    if not varying:
        return tuple(block for block, _ in made), (
            "all images look the same to the network, so every subset is as close as any other",
        )
    notes += [f"nothing varies in {block.name}, which is left out" for block, varies in made if not varies]
    total = sum(block.weight for block in varying)
    return tuple(replace(block, weight=block.weight / total) for block in varying), tuple(notes)


def load_features(
    listing: Listing,
    options: Options,
    device: str = "auto",
    *,
    extractor: Extractor | None = None,
    embeddings: Embeddings | None = None,
    size: int | None = None,
    measured: bool = True,
    seen: Sequence[str] = (),
    clock: Clock | None = None,
    progress: Progress = no_progress,
) -> SourceFeatures:
    """The moments of the images of a source; see `select` for the arguments.

    size      the resolution in pixels, in place of that of the options
    measured  whether images that are decoded go through the held-out networks too
    seen      what else of the pixels is asked for, names in `features.feature_spaces.VIEWS`

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    clock = clock or Clock()
    if not listing.paths:
        raise InputError(f"no images in source '{listing.name}'{format_first_rejected(listing.rejected)}")
    with clock.stage("ingest"):
        wanted = compute_feature_shares(options, embeddings)
        pixels = bool(seen or wanted.keys() != {"embeddings"} or options.held_out)
        if pixels:
            size = size or choose_resolution(listing, options.size)
            check_memory(options, size, len(listing.paths))
        task = IngestTask.asked(options, wanted, size or 0, device, measured, seen)
        spaces = task.spaces(extractor) if pixels else ()
        if embeddings is None:
            read = load_image_features(listing, task, spaces, clock, progress)
        else:
            read = _load_embedding_features(listing, task, spaces, embeddings, clock, progress)
    read = replace(read, size=size if pixels else None)  # of the run: an extractor may want another for itself
    check_strict(read, options)
    if not read.paths:
        raise InputError(f"no image in source '{listing.name}' can be decoded{format_first_rejected(read.rejected)}")
    return read


def check_strict(read: SourceFeatures, options: Options) -> None:
    """Raise BadFilesError for files that cannot be used, where the options ask for that."""
    if read.rejected and options.strict:
        count = f"{len(read.rejected):,} file{'s' if len(read.rejected) > 1 else ''}"
        raise BadFilesError(
            f"{count} of source '{read.listing.name}' cannot be used{format_first_rejected(read.rejected)}"
        )


def format_first_rejected(rejected: tuple[RejectedFile, ...]) -> str:
    """The end of a message: the first of these files and why."""
    return f": '{shorten(rejected[0].path, 300)}': {rejected[0].reason}" if rejected else ""


def load_image_features(
    listing: Listing, task: IngestTask, spaces: tuple[FeatureSpace, ...], clock: Clock, progress: Progress
) -> SourceFeatures:
    """The moments of the images of a listing in these spaces: from the caches, or by decoding."""
    import numpy as np

    task = task if listing.is_cacheable else replace(task, options=merge_options(task.options, {"cache": None}))
    caches = make_caches(task, spaces)
    measures, total, paths = evaluation_only_flags(spaces), len(listing.paths), listing.paths
    known = _query_caches(listing, caches, measures, partial(progress, "cache"))
    found = np.logical_and.reduce([one.found for one in known]) if known else np.zeros(total, bool)
    missing = listing.sort_by_location(np.flatnonzero(~found).tolist())

    def before(where: torch.device) -> IngestResult:
        from imgsubset.features.ingest import IngestResult

        return IngestResult.known(Stamps(listing.stamps), found, known, measures, where)

    cached = int(found.sum())
    part = PendingFiles(
        LazySequence(lambda place: listing.file(paths[place]), missing),
        lambda place: listing.key(paths[place]),
        missing,
    )
    done = compute_moments(task, spaces, caches, part, before, clock, partial(progress, "decode"))
    problem = next((cache.problem for cache in caches if cache.problem), None)
    reasons = tuple(RejectedFile(listing.paths[place], reason) for place, reason in done.reasons.items())
    usable = None if done.usable.all() else np.flatnonzero(done.usable).tolist()
    blocks = done.blocks([(space.name, space.weight) for space in spaces])
    return SourceFeatures(
        listing=listing,
        blocks=tuple(block for block, space in zip(blocks, spaces, strict=True) if space.role == MATCHED_ROLE),
        held_out=tuple(block for block, space in zip(blocks, spaces, strict=True) if space.role == HELD_OUT_ROLE),
        seen={
            space.name: block.images
            for block, space in zip(blocks, spaces, strict=True)
            if space.role == AUXILIARY_ROLE
        },
        paths=paths if usable is None else tuple(paths[place] for place in usable),
        stamps=done.stamps if usable is None else done.stamps.at(usable),
        rejected=sort_rejected(listing.rejected + reasons),
        device=device_name(task.device),
        cached=cached,
        warnings=(f"the cache is not used: {problem}",) if problem else (),
    )


def _query_caches(
    listing: Listing, caches: Sequence[Cache], measures: Sequence[bool], progress: Callable[[int, int], None]
) -> list[CacheResult]:
    """What each cache holds of the images of a listing."""
    if not caches:
        return []
    from imgsubset.features.cache import CacheQuery

    asked = CacheQuery(map(listing.key, listing.paths), listing.stamps)
    rooms = (choose_allocator(len(asked), apart) for apart in measures)

    def tell(found: int) -> None:
        progress(found, len(asked) * len(caches))

    return [cache.get(asked, room, tell) for cache, room in zip(caches, rooms, strict=True)]


def _load_embedding_features(
    listing: Listing,
    task: IngestTask,
    spaces: tuple[FeatureSpace, ...],
    embeddings: Embeddings,
    clock: Clock,
    progress: Progress,
) -> SourceFeatures:
    import torch

    from imgsubset.features.embeddings import read_embeddings
    from imgsubset.statistics.moments import Block, ImageMoments

    embedded = read_embeddings(embeddings, listing, torch_device(task.device))
    places = {path: row for row, path in enumerate(embedded.paths)}
    left_out = {path for path in listing.paths if path not in places}
    if len(left_out) == len(listing.paths):
        raise InputError(f"the embeddings are of no image of source '{listing.name}'")
    notes = []
    if embedded.components < embedded.dimensions:
        notes.append(
            f"embeddings of {embedded.dimensions:,} dimensions are reduced to {embedded.components:,} principal "
            f"components, which hold {embedded.explained:.1%} of their variance"
        )
    if unused := len(embedded.paths) + len(left_out) - len(listing.paths):
        notes.append(f"{unused:,} embeddings are of no image of the source and are left out")
    if left_out:
        notes.append(f"{len(left_out):,} images of the source have no embedding and are left out")
    if spaces:
        read = load_image_features(listing.without(left_out), task, spaces, clock, progress)
    else:
        for name, value in task.options.affecting(MOMENTS).items():
            if name != "features" and value != FIELDS[name].default:
                raise UsageError(f"{name} {value!r} says how images are read; embeddings are used instead")
        paired = [pair for pair in zip(listing.paths, listing.stamps, strict=True) if pair[0] in places]
        paths, stamps = zip(*paired, strict=True)
        read = SourceFeatures(listing, (), paths, stamps, listing.rejected, torch_device(task.device).type)
    rows = torch.tensor([places[path] for path in read.paths], device=embedded.images.table.device)
    images = ImageMoments(embedded.images.table[rows], embedded.images.positions)
    block = Block(EMBEDDINGS, images, task.wanted[EMBEDDINGS])
    return replace(read, listing=listing, blocks=(*read.blocks, block), warnings=read.warnings + tuple(notes))


MAX_IMAGES_PER_STEP = 1 << 16  # images whose moments are in memory at once


def fill_cache(
    whole: Listing,
    part: Listing,
    options: Options,
    device: str,
    *,
    seen: Sequence[str] = (),
    clock: Clock,
    progress: Progress = no_progress,
) -> SourceFeatures:
    """Put the moments of a part of a source into the cache, for who reads the whole: see `read_source`.

    The result has no moments: of very many images they would be too much for the memory.

    Raises UsageError if there is nothing that a cache could keep, OutputError if it cannot be written, or, with
    options.strict, BadFilesError.
    """
    if not whole.paths:
        raise InputError(f"no images in source '{whole.name}'{format_first_rejected(whole.rejected)}")
    with clock.stage("ingest"):
        size = choose_resolution(whole, options.size)  # of all, so that every part has the same
        check_memory(options, size, min(MAX_IMAGES_PER_STEP, len(part.paths)))
        task = IngestTask.asked(options, compute_feature_shares(options, None), size, device, True, seen)
        spaces = task.spaces()
        unknown = [space.name for space in spaces if space.recipe is None]
        if not whole.is_cacheable:
            raise UsageError(f"the images of source '{whole.name}' are in memory, which no later run could know again")
        if unknown:
            raise UsageError(f"what {unknown[0]} makes of an image is never cached, so a later run could not use it")
        for cache in make_caches(task, spaces):
            cache.open()
            if cache.problem:  # now, not after hours of work
                raise OutputError(cache.problem)
        read = _fill_in_steps(part, task, spaces, clock, progress)
    check_strict(read, options)
    return replace(read, size=size)


def _fill_in_steps(
    part: Listing, task: IngestTask, spaces: tuple[FeatureSpace, ...], clock: Clock, progress: Progress
) -> SourceFeatures:
    """What `from_images` returns, less the moments. Raises OutputError if the cache cannot take some of them."""
    images, reads, rest = len(part.paths), list[SourceFeatures](), 0

    def onward(stage: str, done: int, total: int, note: str = "") -> None:
        progress(stage, done, total + rest, note)

    for start in range(0, max(1, images), MAX_IMAGES_PER_STEP):
        stretch = range(start, min(start + MAX_IMAGES_PER_STEP, images))
        rest = images - stretch.stop
        read = load_image_features(part.at(stretch), task, spaces, clock, onward)
        if read.warnings:
            raise OutputError(read.warnings[0])
        reads.append(replace(read, blocks=(), held_out=(), seen={}))
    return replace(
        reads[0],
        listing=part,
        paths=tuple(path for read in reads for path in read.paths),
        stamps=Stamps(stamp for read in reads for stamp in read.stamps),
        rejected=sort_rejected({file for read in reads for file in read.rejected}),
        cached=sum(read.cached for read in reads),
    )
