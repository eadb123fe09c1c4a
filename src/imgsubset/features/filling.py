"""Moments of a part of a source to the cache, and no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from imgsubset.errors import InputError, OutputError, UsageError
from imgsubset.features.dealing import IngestTask, make_caches
from imgsubset.features.memory import check_memory
from imgsubset.features.source import SourceFeatures, check_strict, format_first_rejected, load_image_features
from imgsubset.features.spaces import FeatureSpace, choose_resolution, compute_feature_shares
from imgsubset.files import Stamps
from imgsubset.options import Options
from imgsubset.progress import Clock, Progress, no_progress
from imgsubset.reading.contents import Listing, sort_rejected

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
