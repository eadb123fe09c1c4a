"""From the name of a source to the moments of its images: listing, then the cache, decoding or embeddings."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from imgsubset.errors import BadFilesError, InputError, UsageError
from imgsubset.options import Embeddings, Options
from imgsubset.progress import Progress, silent
from imgsubset.reading.decoders import decoded
from imgsubset.reading.filters import candidates
from imgsubset.reading.images import POLICY, Stamp
from imgsubset.reading.listing import Listing, RejectedFile, in_order, list_images

if TYPE_CHECKING:  # torch takes two seconds to import: the decoding processes work meanwhile
    import torch

    from imgsubset.features.cache import Cache
    from imgsubset.features.random_cnn import Extractor
    from imgsubset.statistics.moments import ImageMoments

AnySource: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Listing"


@dataclass(frozen=True)
class Source:
    """The images of a source, each reduced to moments.

    listing   where they come from
    images    the moments of the usable ones, a row each, not standardised
    paths     of these, relative to the source, in the order of their bytes
    stamps    what each file was when it was read
    rejected  the files with an image's name that are not usable, with reasons
    device    what the moments were made on
    cached    how many of them came from the cache
    warnings  what a user should know
    """

    listing: Listing
    images: ImageMoments = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    stamps: tuple[Stamp, ...] = field(repr=False)
    rejected: tuple[RejectedFile, ...]
    device: str
    cached: int
    warnings: tuple[str, ...] = ()

    def standardised(self) -> Source:
        """With moments in units in which this source has mean 0 and variance 1, in place of the raw ones."""
        from imgsubset.statistics.moments import DEAD_VARIANCE, standard

        scale = standard(self.images)
        images = scale.apply(self.images)
        # The borders of an image vary even where all images are alike.
        alike = len(images) > 1 and bool((images.mean.var(0) < DEAD_VARIANCE).all())
        notes = channel_warnings([False] if alike else scale.kept.tolist())
        return replace(self, images=images, warnings=self.warnings + notes)


class Clock:
    """Wall time of named stages, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to the stage's; that of stages within it is theirs."""
        start, others = time.perf_counter(), sum(self.seconds.values())
        yield
        within = sum(self.seconds.values()) - others
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start - within


Work = TypeVar("Work", bound=Callable[..., Any])


def or_on_cpu(work: Work) -> Work:
    """Let a function that takes options do its work on the CPU, and say so, where a GPU's memory runs out and the
    device is `auto`. Smaller batches were tried by then."""

    @wraps(work)
    def tried(*arguments: Any, **named: Any) -> Any:
        bound = signature(work).bind(*arguments, **named)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if isinstance(value, Iterator):  # which has nothing left for a second time
                bound.arguments[name] = list(value)
        options = bound.arguments["options"] or Options()
        try:
            return work(*bound.args, **bound.kwargs)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's; it may not be imported yet
                raise
            if options.device != "auto":
                raise InputError("the GPU has too little memory for this; --device cpu does without it") from None
        bound.arguments["options"] = replace(options, device="cpu", resume=None)  # the GPU's state is not the CPU's
        result = work(*bound.args, **bound.kwargs)
        note = "the GPU has too little memory for this, so the CPU did it"
        if isinstance(result, dict):
            return {name: replace(one, warnings=(*one.warnings, note), options=options) for name, one in result.items()}
        return replace(result, warnings=(*result.warnings, note), options=options)

    return cast("Work", tried)


def read_source(
    source: AnySource,
    options: Options,
    *,
    extractor: Extractor | None = None,
    embeddings: Embeddings | None = None,
    clock: Clock | None = None,
    progress: Progress = silent,
) -> Source:
    """The moments of the images of a source; see `select` for the arguments.

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    clock = clock or Clock()
    with clock.stage("list"):
        listing = candidates(list_images(source), options)
    if not listing.paths:
        raise InputError(f"no images in source '{listing.name}'{first_of(listing.rejected)}")
    with clock.stage("ingest"):
        if embeddings is not None:
            read = _from_embeddings(listing, options, embeddings, progress)
        else:
            read = _from_images(listing, options, extractor, clock, progress)
    if read.rejected and options.strict:
        count = f"{len(read.rejected):,} file{'s' if len(read.rejected) > 1 else ''}"
        raise BadFilesError(f"{count} of source '{listing.name}' cannot be used{first_of(read.rejected)}")
    if not read.paths:
        raise InputError(f"no image in source '{listing.name}' can be decoded{first_of(read.rejected)}")
    return read


def first_of(rejected: tuple[RejectedFile, ...]) -> str:
    """The end of a message: the first of these files and why."""
    return f": '{rejected[0].path}': {rejected[0].reason}" if rejected else ""


def _from_images(
    listing: Listing, options: Options, extractor: Extractor | None, clock: Clock, progress: Progress
) -> Source:
    # What an extractor of the caller's does is unknown, so its moments cannot be told from another's.
    with _cache(None if extractor else options.cache, options) as cache:
        known = cache.get(listing.root, listing.paths) if cache else None
        found = {listing.paths[place] for place in known.places} if known else set()
        missing = tuple(path for path in listing.paths if path not in found) if found else listing.paths
        with decoded(listing.root, missing, options.size, options.workers) as chunks:
            with clock.stage("import"):
                import torch

                from imgsubset.features.ingest import Ingested, ingest, merge
                from imgsubset.features.random_cnn import RandomCNN
                from imgsubset.statistics.moments import ImageMoments

            def store(paths: Sequence[str], stamps: Sequence[Stamp], rows: torch.Tensor, positions: int) -> None:
                if cache:
                    cache.put(listing.root, paths, stamps, rows.cpu().numpy(), positions)

            device = _device(options.device)
            network = extractor or RandomCNN(options.channels, options.kernel_size, options.seed).to(device)
            total = len(missing)
            ingested = ingest(
                chunks, missing, options.size, network, device, lambda done: progress("decode", done, total), store
            )
        if known and found:
            images = ImageMoments(torch.from_numpy(known.rows).to(device), known.positions)
            paths = tuple(listing.paths[place] for place in known.places)
            ingested = merge(ingested, Ingested(images, paths, known.stamps, ()), listing.paths)
    return Source(
        listing=listing,
        images=ingested.images,
        paths=ingested.paths,
        stamps=ingested.stamps,
        rejected=in_order(listing.rejected + ingested.rejected),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        cached=len(found),
        warnings=(f"the cache is not used: {cache.problem}",) if cache and cache.problem else (),
    )


def _cache(folder: str | None, options: Options) -> AbstractContextManager[Cache | None]:
    if folder is None:
        return nullcontext()
    from imgsubset.features.cache import Cache

    return Cache(Path(folder), recipe(options), by_content=options.cache_verify)


def recipe(options: Options) -> dict[str, object]:
    """All that decides what moments an image has: the key of the cache.

    A GPU rounds otherwise than a CPU; which of them `auto` will find is told from the driver, without torch.
    """
    from importlib.metadata import version

    gpu = options.device != "cpu" and Path("/dev/nvidiactl").exists()
    return {
        "network": "RandomCNN",
        "seed": options.seed,
        "channels": list(options.channels),
        "kernel_size": options.kernel_size,
        "size": options.size,
        "decoding": POLICY,
        "device": f"cuda {os.environ.get('CUDA_VISIBLE_DEVICES', '')}".strip() if gpu else "cpu",
        "machine": platform.machine(),
        "torch": version("torch"),
        "pillow": version("pillow"),
    }


def _from_embeddings(listing: Listing, options: Options, embeddings: Embeddings, progress: Progress) -> Source:
    import torch

    from imgsubset.features.embeddings import read_embeddings
    from imgsubset.statistics.moments import ImageMoments

    defaults = asdict(Options())
    for name in ("size", "channels", "kernel_size"):
        if asdict(options)[name] != defaults[name]:
            raise UsageError(f"{name} {getattr(options, name)!r} says how images are read; embeddings are used instead")
    device = _device(options.device)
    embedded = read_embeddings(embeddings, listing.root, device)
    known = set(listing.paths)
    rows = [row for row, path in enumerate(embedded.paths) if path in known]
    if not rows:
        raise InputError(f"the embeddings are of no image of source '{listing.name}'")
    paths = tuple(embedded.paths[row] for row in rows)
    images = embedded.images
    if len(rows) < len(images):
        images = ImageMoments(images.table[torch.tensor(rows, device=device)], images.positions)
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
        images=images,
        paths=paths,
        stamps=tuple(Stamp.of((listing.root / path).stat()) for path in paths),
        rejected=listing.rejected,
        device=device.type,
        cached=0,
        warnings=tuple(notes),
    )


def _device(name: str) -> torch.device:
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("device 'cuda' is asked for, but torch sees no CUDA device here; use 'cpu' or 'auto'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def channel_warnings(kept: list[bool]) -> tuple[str, ...]:
    """What to know about a source of which only these channels vary."""
    if not any(kept):
        return ("all images look the same to the network, so every subset is as close as any other",)
    if not all(kept):
        return (f"{kept.count(False)} of {len(kept)} channels do not vary in the source and are left out",)
    return ()
