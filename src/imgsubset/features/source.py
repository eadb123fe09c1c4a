"""From a listing to blocks of moments of its images: from the cache, by decoding, or from embeddings."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgsubset.devices import torch_device
from imgsubset.errors import BadFilesError, InputError, UsageError
from imgsubset.files import Stamp
from imgsubset.options import Embeddings, Features, Options
from imgsubset.progress import Clock, Progress, silent
from imgsubset.reading.decoders import decoded
from imgsubset.reading.images import POLICY
from imgsubset.reading.listing import Listing, RejectedFile, in_order

if TYPE_CHECKING:  # torch takes two seconds to import: the decoding processes work meanwhile
    from imgsubset.features.cache import Cache
    from imgsubset.features.random_cnn import Extractor
    from imgsubset.statistics.moments import Block


@dataclass(frozen=True)
class Source:
    """The images of a source, each reduced to moments.

    listing   where they come from
    blocks    the moments of the usable ones in each feature space, a row each, not standardised
    paths     of these, relative to the source, in the order of their bytes
    stamps    what each file was when it was read
    rejected  the files with an image's name that are not usable, with reasons
    device    what the moments were made on
    cached    how many of them came from the cache
    warnings  what a user should know
    """

    listing: Listing
    blocks: tuple[Block, ...] = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    stamps: tuple[Stamp, ...] = field(repr=False)
    rejected: tuple[RejectedFile, ...]
    device: str
    cached: int = 0
    warnings: tuple[str, ...] = ()

    def standardised(self) -> Source:
        """With moments in units in which this source has mean 0 and variance 1, in place of the raw ones."""
        from imgsubset.statistics.moments import DEAD_VARIANCE, standard

        blocks, notes = [], self.warnings
        for block in self.blocks:
            scale = standard(block.images)
            images = scale.apply(block.images)
            # The borders of an image vary even where all images are alike.
            alike = len(images) > 1 and bool((images.mean.var(0) < DEAD_VARIANCE).all())
            notes += _channel_warnings([False] if alike else scale.kept.tolist())
            blocks.append(replace(block, images=images))
        return replace(self, blocks=tuple(blocks), warnings=notes)


@dataclass(frozen=True)
class Space:
    """A feature space, before its network exists: torch need not be imported yet.

    name    of the block that its moments make
    size    side of the square that images are resized to, in pixels
    weight  of the block
    make    makes the network
    recipe  all that decides what moments an image has; None: unknown, so that nothing may be cached
    """

    name: str
    size: int
    weight: float
    make: Callable[[], Extractor]
    recipe: dict[str, object] | None


def read_source(
    listing: Listing,
    options: Options,
    device: str = "auto",
    *,
    extractor: Extractor | None = None,
    embeddings: Embeddings | None = None,
    clock: Clock | None = None,
    progress: Progress = silent,
) -> Source:
    """The moments of the images of a source; see `select` for the arguments.

    Raises UsageError, InputError or, with options.reading.strict, BadFilesError.
    """
    clock = clock or Clock()
    if not listing.paths:
        raise InputError(f"no images in source '{listing.name}'{first_of(listing.rejected)}")
    with clock.stage("ingest"):
        if embeddings is not None:
            read = _from_embeddings(listing, options.features, embeddings, device)
        else:
            spaces = (_given(extractor, options),) if extractor else (_random_cnn(options, device),)
            read = _from_images(listing, options, spaces, device, clock, progress)
    if read.rejected and options.reading.strict:
        count = f"{len(read.rejected):,} file{'s' if len(read.rejected) > 1 else ''}"
        raise BadFilesError(f"{count} of source '{listing.name}' cannot be used{first_of(read.rejected)}")
    if not read.paths:
        raise InputError(f"no image in source '{listing.name}' can be decoded{first_of(read.rejected)}")
    return read


def first_of(rejected: tuple[RejectedFile, ...]) -> str:
    """The end of a message: the first of these files and why."""
    return f": '{rejected[0].path}': {rejected[0].reason}" if rejected else ""


def _given(extractor: Extractor, options: Options) -> Space:
    # What an extractor of the caller's does is unknown, so its moments cannot be told from another's.
    return Space("extractor", options.features.size, 1.0, lambda: extractor, None)


def _random_cnn(options: Options, device: str) -> Space:
    features = options.features

    def make() -> Extractor:
        from imgsubset.features.random_cnn import RandomCNN

        return RandomCNN(features.channels, features.kernel_size, features.feature_seed).to(torch_device(device))

    return Space("random-cnn", features.size, 1.0, make, recipe(features, device))


def recipe(features: Features, device: str) -> dict[str, object]:
    """All that decides what moments an image has: the key of the cache.

    A GPU rounds otherwise than a CPU; which of them `auto` will find is told from the driver, without torch.
    """
    from importlib.metadata import version

    gpu = device != "cpu" and Path("/dev/nvidiactl").exists()
    return {
        "network": "RandomCNN",
        "feature_seed": features.feature_seed,
        "channels": list(features.channels),
        "kernel_size": features.kernel_size,
        "size": features.size,
        "decoding": POLICY,
        "device": f"cuda {os.environ.get('CUDA_VISIBLE_DEVICES', '')}".strip() if gpu else "cpu",
        "machine": platform.machine(),
        "torch": version("torch"),
        "pillow": version("pillow"),
    }


def _from_images(
    listing: Listing, options: Options, spaces: tuple[Space, ...], device: str, clock: Clock, progress: Progress
) -> Source:
    caches = _caches(options.running.cache, spaces)
    names = [os.fsencode(os.path.abspath(listing.locate(path))) for path in listing.paths] if caches else []  # noqa: PTH100
    known = [cache.get(names, listing.stamps) for cache in caches]
    found = sorted(set(known[0].places).intersection(*(one.places for one in known))) if known else []
    missing = sorted({*range(len(listing.paths))}.difference(found))
    files = [os.fsencode(listing.locate(listing.paths[place])) for place in missing]
    with decoded(files, sorted({space.size for space in spaces}), options.running.workers) as chunks:
        with clock.stage("import"):
            import torch

            from imgsubset.features.ingest import Ingested, ingest

        def store(places: list[int], done: Ingested) -> None:
            for cache, images in zip(caches, done.images, strict=False):  # there may be no caches
                rows, stamps = images.table[places].cpu().numpy(), [done.stamps[place] for place in places]
                cache.put([names[place] for place in places], stamps, rows, images.positions)

        where = torch_device(device)
        done = Ingested.known(len(listing.paths), {place: listing.stamps[place] for place in found}, known, where)
        networks = [(space.make(), space.size) for space in spaces]
        done = ingest(
            chunks, missing, done, networks, where, lambda count: progress("decode", count, len(missing)), store
        )
    problem = next((cache.problem for cache in caches if cache.problem), None)
    reasons = tuple(RejectedFile(listing.paths[place], reason) for place, reason in done.reasons.items())
    usable = sorted(done.stamps)
    return Source(
        listing=listing,
        blocks=done.blocks([(space.name, space.weight) for space in spaces]),
        paths=tuple(listing.paths[place] for place in usable),
        stamps=tuple(done.stamps[place] for place in usable),
        rejected=in_order(listing.rejected + reasons),
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        cached=len(found),
        warnings=(f"the cache is not used: {problem}",) if problem else (),
    )


def _caches(folder: str | None, spaces: tuple[Space, ...]) -> list[Cache]:
    """One for each space; none if one of them may not be cached, since that one has to be decoded anyway."""
    if folder is None or any(space.recipe is None for space in spaces):
        return []
    from imgsubset.features.cache import Cache

    return [Cache(Path(folder), space.recipe) for space in spaces if space.recipe is not None]


def _from_embeddings(listing: Listing, features: Features, embeddings: Embeddings, device: str) -> Source:
    import torch

    from imgsubset.features.embeddings import read_embeddings
    from imgsubset.statistics.moments import Block, ImageMoments

    for name, value in vars(features).items():
        if value != getattr(Features(), name):
            raise UsageError(f"{name} {value!r} says how images are read; embeddings are used instead")
    where = torch_device(device)
    embedded = read_embeddings(embeddings, listing, where)
    stamps = dict(zip(listing.paths, listing.stamps, strict=True))
    rows = [row for row, path in enumerate(embedded.paths) if path in stamps]
    if not rows:
        raise InputError(f"the embeddings are of no image of source '{listing.name}'")
    paths = tuple(embedded.paths[row] for row in rows)
    images = embedded.images
    if len(rows) < len(images):
        images = ImageMoments(images.table[torch.tensor(rows, device=where)], images.positions)
    notes = []
    if embedded.components < embedded.dimensions:
        notes.append(
            f"embeddings of {embedded.dimensions:,} dimensions are reduced to {embedded.components:,} principal "
            f"components, which hold {embedded.explained:.1%} of their variance"
        )
    if unused := len(embedded.paths) - len(paths):
        notes.append(f"{unused:,} embeddings are of no image of the source and are left out")
    if left_out := len(listing.paths) - len(paths):
        notes.append(f"{left_out:,} images of the source have no embedding and are left out")
    return Source(
        listing=listing,
        blocks=(Block("embeddings", images),),
        paths=paths,
        stamps=tuple(stamps[path] for path in paths),
        rejected=listing.rejected,
        device=where.type,
        warnings=tuple(notes),
    )


def _channel_warnings(kept: list[bool]) -> tuple[str, ...]:
    """What to know about a source of which only these channels vary."""
    if not any(kept):
        return ("all images look the same to the network, so every subset is as close as any other",)
    if not all(kept):
        return (f"{kept.count(False)} of {len(kept)} channels do not vary in the source and are left out",)
    return ()
