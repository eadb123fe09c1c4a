"""Moments of a part of a source to the cache, and no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from imgsubset.errors import InputError, OutputError, UsageError
from imgsubset.features.dealing import Task, caches_of
from imgsubset.features.memory import check_memory
from imgsubset.features.source import Source, check_strict, first_of, from_images
from imgsubset.features.spaces import Space, resolution, shares
from imgsubset.files import Stamps
from imgsubset.options import Options
from imgsubset.progress import Clock, Progress, silent
from imgsubset.reading.contents import Listing, in_order

STRETCH = 1 << 16  # images whose moments are in memory at once


def fill_cache(
    whole: Listing,
    part: Listing,
    options: Options,
    device: str,
    *,
    seen: Sequence[str] = (),
    clock: Clock,
    progress: Progress = silent,
) -> Source:
    """Put the moments of a part of a source into the cache, for who reads the whole: see `read_source`.

    The result has no moments: of very many images they would be too much for the memory.

    Raises UsageError if there is nothing that a cache could keep, OutputError if it cannot be written, or, with
    options.strict, BadFilesError.
    """
    if not whole.paths:
        raise InputError(f"no images in source '{whole.name}'{first_of(whole.rejected)}")
    with clock.stage("ingest"):
        size = resolution(whole, options.size)  # of all, so that every part has the same
        check_memory(options, size, min(STRETCH, len(part.paths)))
        task = Task.asked(options, shares(options, None), size, device, True, seen)
        spaces = task.spaces()
        unknown = [space.name for space in spaces if space.recipe is None]
        if not whole.lasting:
            raise UsageError(f"the images of source '{whole.name}' are in memory, which no later run could know again")
        if unknown:
            raise UsageError(f"what {unknown[0]} makes of an image is never cached, so a later run could not use it")
        for cache in caches_of(task, spaces):
            cache.open()
            if cache.problem:  # now, not after hours of work
                raise OutputError(cache.problem)
        read = _in_stretches(part, task, spaces, clock, progress)
    check_strict(read, options)
    return replace(read, size=size)


def _in_stretches(part: Listing, task: Task, spaces: tuple[Space, ...], clock: Clock, progress: Progress) -> Source:
    """What `from_images` returns, less the moments. Raises OutputError if the cache cannot take some of them."""
    images, reads, rest = len(part.paths), list[Source](), 0

    def onward(stage: str, done: int, total: int, note: str = "") -> None:
        progress(stage, done, total + rest, note)

    for start in range(0, max(1, images), STRETCH):
        stretch = range(start, min(start + STRETCH, images))
        rest = images - stretch.stop
        read = from_images(part.at(stretch), task, spaces, clock, onward)
        if read.warnings:
            raise OutputError(read.warnings[0])
        reads.append(replace(read, blocks=(), held_out=(), seen={}))
    return replace(
        reads[0],
        listing=part,
        paths=tuple(path for read in reads for path in read.paths),
        stamps=Stamps(stamp for read in reads for stamp in read.stamps),
        rejected=in_order({file for read in reads for file in read.rejected}),
        cached=sum(read.cached for read in reads),
    )
