"""Filling the cache with the moments of a source, piece by piece: what a job array does before a selection."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from imgsubset.devices import run_with_cpu_fallback
from imgsubset.errors import UsageError, short_repr
from imgsubset.features.distributed_ingest import shard_indices
from imgsubset.features.load import fill_cache
from imgsubset.options import Options, merge_options
from imgsubset.progress import Clock, Progress, as_progress
from imgsubset.results.records import Embedded
from imgsubset.sources.python_sources import AnySource
from imgsubset.tasks.inputs import required_feature_views, resolve_inputs


def embed(
    source: AnySource,
    options: Options | None = None,
    *,
    shard: str | tuple[int, int] = "1/1",
    progress: Progress | bool = False,
    **words: Any,
) -> Embedded:
    """Decode a piece of a source, and keep the moments of its images in the cache: a later `select` decodes no more.

    Pieces are disjoint, and all of them together are the source; several processes may work on them at once, on any
    machines that share the folder of the cache. What is there already is not done again, so that a piece that was cut
    off is started again by the same call.

    source   as in `select`
    options  as in `select`, with the same features, resolution and patterns, and with `cache`. Moments are kept for
             the model of the device that they were made on: a GPU's are of no use to a `select` on a CPU
    shard    which piece, as in "3/8", which is the third of eight; or (3, 8)
    words    options by name, which go before those in `options`; see `Options`

    Raises UsageError, also where no cache can keep what the features make of an image; InputError; OutputError if the
    cache cannot be written; or, with options.strict, BadFilesError.
    """
    options, tell = merge_options(options, words), as_progress(progress)
    index, count = parse_shard(shard)
    folder = options.cache
    if folder is None:
        raise UsageError("embed fills a cache, and none is given: cache='FOLDER'")
    clock = Clock()
    with clock.stage("list"):
        whole, options, _ = resolve_inputs(source, options)
        places = shard_indices(len(whole.paths), index - 1, count)
        # What cannot be used by its name is told of once.
        part = replace(whole.at(places), rejected=whole.rejected if index == 1 else ())

    def work(device: str, notes: tuple[str, ...]) -> Embedded:
        read = fill_cache(
            whole, part, options, device, seen=required_feature_views(options), clock=clock, progress=tell
        )
        return Embedded(
            source=whole,
            shard=(index, count),
            images=len(part.paths),
            decoded=len(read.paths) - read.cached,
            cached=read.cached,
            rejected=read.rejected,
            cache=folder,
            size=read.size,
            warnings=read.warnings + notes,
            options=options,
            device=read.device,
            seconds=clock.seconds,
        )

    return run_with_cpu_fallback(options.device, work, options.workers)


def parse_shard(shard: str | tuple[int, int]) -> tuple[int, int]:
    """Which piece, counted from 1, of how many. Raises UsageError for what is none."""
    text = shard if isinstance(shard, str) else "/".join(map(str, shard)) if isinstance(shard, (tuple, list)) else ""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text, re.ASCII)
    if not (found and 1 <= int(found[1]) <= int(found[2])):
        raise UsageError(
            f"shard {short_repr(shard)} is not i/K with i from 1 to K, as in 3/8 for the third of eight pieces"
        )
    return int(found[1]), int(found[2])
