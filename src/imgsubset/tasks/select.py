"""A folder to a selection: joins listing, decoding, the network, the moments and the search."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from imgsubset.errors import InputError, UsageError
from imgsubset.features.source import AnySource, Clock, Source, or_on_cpu, read_source
from imgsubset.options import AUTO, Embeddings, Options, check_size, subset_size
from imgsubset.progress import Progress, silent
from imgsubset.reading.filters import candidates
from imgsubset.reading.images import Stamp
from imgsubset.reading.listing import Listing, RejectedFile, list_images
from imgsubset.tasks.score import Score, score_of

if TYPE_CHECKING:  # torch takes two seconds to import: the decoding processes work meanwhile
    from torch import Tensor

    from imgsubset.features.random_cnn import Extractor
    from imgsubset.search.loop import Checkpoint, Found, TracePoint
    from imgsubset.search.quadratic import Quadratic
    from imgsubset.statistics.moments import ImageMoments
    from imgsubset.statistics.objective import Objective
    from imgsubset.tasks.constraints import Constraints


@dataclass(frozen=True)
class Selection:
    """A subset of the images of a source, and how it was found.

    source     the listing of the source: its name, its folder
    paths      the usable images in it, relative, in the order of their bytes
    stamps     what each of them was when it was read
    indices    the chosen ones: positions in `paths`, ascending; for torch.utils.data.Subset
    ranking    the same positions in an order of which every beginning represents the source well too
    score      how close the subset is to the source
    rejected   the files with an image's name that are not usable, with reasons
    warnings   what a user should know about the figures
    classes    how many images each class has in the source and in the subset; {} without stratify
    copies     how many images of the source are exact copies of earlier ones
    trace      the search, round by round; with n = 'auto' at one size after another
    interrupted whether the search was stopped before its end
    asked      n as it was asked for
    options    those it was made with
    embeddings what the embeddings were, if there were any
    device     what it ran on
    cached     how many images came from the cache
    seconds    wall time of each stage
    """

    source: Listing
    paths: tuple[str, ...] = field(repr=False)
    stamps: tuple[Stamp, ...] = field(repr=False)
    indices: tuple[int, ...] = field(repr=False)
    ranking: tuple[int, ...] = field(repr=False)
    score: Score
    rejected: tuple[RejectedFile, ...]
    warnings: tuple[str, ...]
    classes: dict[str, tuple[int, int]]
    copies: int
    trace: tuple[TracePoint, ...] = field(repr=False)
    interrupted: bool
    asked: str
    options: Options
    embeddings: dict[str, object] | None
    device: str
    cached: int
    seconds: dict[str, float]

    @property
    def ranked(self) -> tuple[str, ...]:
        """Relative paths of the chosen images in the order of `ranking`."""
        return tuple(self.paths[index] for index in self.ranking)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Relative paths of the chosen images."""
        return tuple(self.paths[index] for index in self.indices)


@or_on_cpu
def select(
    source: AnySource,
    n: int | str,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    extractor: Extractor | None = None,
    embeddings: Embeddings | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> Selection:
    """Find the n images of a source whose distribution is closest to that of all of them. Copies nothing.

    source      a folder, searched with the folders in it; a text file of paths; or paths
    n           a number, a percentage such as '10%', or 'auto', which aims at options.target_loss or target_size
    extractor   feature maps instead of the random CNN's: uint8 pixels (B, H, W, 3) to float maps (B, C, h, w)
    embeddings  features computed elsewhere, in place of decoding
    stop        asked several times a second, during the search, whether to end it with the best so far

    Raises UsageError, InputError or, with options.strict, BadFilesError.
    """
    check_size(n, options)
    clock = Clock()
    with clock.stage("list"):
        listing = candidates(list_images(source), options)
        listing.digest  # noqa: B018 (now: what changes from here on must not count as seen)
    if listing.paths and embeddings is None:
        subset_size(n, len(listing.paths))
    read = read_source(
        listing, options, extractor=extractor, embeddings=embeddings, clock=clock, progress=progress
    ).standardised()
    with clock.stage("constraints"):
        from imgsubset.tasks.constraints import constraints

        allowed = constraints(read, options)
    search = Search(read.images, allowed, options, clock, stop, progress)
    search.checkpoint = _checkpoint(read, allowed, options, n)
    wanted = None if str(n).strip() == AUTO else subset_size(n, len(read.paths))
    result = search.smallest() if wanted is None else search.of_size(wanted)
    return search.selection(read, result, str(n), wanted, embeddings)


def _checkpoint(source: Source, allowed: Constraints, options: Options, n: int | str) -> Checkpoint | None:
    if options.resume is None:
        return None
    import torch

    from imgsubset.checkpoint import FileCheckpoint

    file, root = Path(options.resume).absolute(), source.listing.root.absolute()
    if not source.listing.listed and root.resolve() in file.resolve().parents:
        raise UsageError(f"the file to resume from, '{options.resume}', lies inside the source '{source.listing.name}'")
    indifferent = ("resume", "cache", "cache_verify", "workers", "strict", "coco", "sidecars")
    deciding = {name: value for name, value in asdict(options).items() if name not in indifferent}
    table = source.images.table.cpu().numpy()
    return FileCheckpoint(
        options.resume,
        {
            "source": str(root),
            "n": str(n),
            **deciding,
            "version of imgsubset": version("imgsubset"),
            "version of torch": torch.__version__,
            "processor": source.device,
            "files of images": source.listing.digest,
            "moments of images": hashlib.sha256(table.tobytes()).hexdigest(),
            "classes and groups": hashlib.sha256(repr((allowed.classes, allowed.groups)).encode()).hexdigest(),
        },
    )


@dataclass(frozen=True)
class Result:
    """What the search at one size came to."""

    objective: Objective
    found: Found


class Search:
    """Searches of one source, at one size or at several."""

    def __init__(
        self,
        images: ImageMoments,
        allowed: Constraints,
        options: Options,
        clock: Clock,
        stop: Callable[[], bool],
        progress: Progress,
    ) -> None:
        import torch

        self.images, self.allowed, self.options, self.clock = images, allowed, options, clock
        self.stop, self.progress = stop, progress
        self.generator = torch.Generator(images.table.device).manual_seed(options.seed)
        self.checkpoint: Checkpoint | None = None
        self.trace: list[TracePoint] = []
        self.stopped = self.missed = False

    def of_size(self, n: int, near: Result | None = None, taken: Collection[int] = ()) -> Result:
        """The best subset of n images, or as many as groups allow.

        near   the result of another size, to begin with
        taken  rows that may not be chosen
        """
        from imgsubset.search.find import find
        from imgsubset.search.smallest import resized

        options, free = self.options, self.allowed.free and not taken
        choices = None if free else self.allowed.choices(n, taken)

        def progress(stage: str, done: int, total: int, note: str = "") -> None:
            self.progress(f"{stage} n={n:,}" if options.has_target else stage, done, total, note)

        objective = self._objective(choices.n if choices else n)
        with self.clock.stage("search"):
            start = None
            if near and free:
                start = resized(self._form(near.objective), near.found.rows, n, self.generator)
            found = find(objective, options, self.generator, self.stop, progress, start, choices, self.checkpoint)
        self.trace += found.trace
        self.stopped |= found.stopped
        return Result(objective, found)

    def given(self, rows: Tensor) -> Result:
        """A subset (n,) that is not searched for, as a result."""
        from imgsubset.search.loop import Found

        objective = self._objective(len(rows))
        return Result(objective, Found(rows[None], objective.loss(rows[None]), (), stopped=False))

    def _objective(self, n: int) -> Objective:
        from imgsubset.statistics.langevin import Langevin
        from imgsubset.statistics.objective import Objective

        options = self.options
        with self.clock.stage("baseline"):
            langevin = Langevin(options.temperature, options.friction, options.langevin_time)
            return Objective(self.images, n, options.weights, langevin)

    def smallest(self) -> Result:
        """The smallest subset that meets the target of the options."""
        from imgsubset.search.smallest import ATTEMPTS, smallest
        from imgsubset.statistics.objective import effective_size

        total, options = len(self.images), self.options
        if options.time_limit is not None:
            self.options = replace(options, time_limit=options.time_limit / ATTEMPTS)
        if options.target_size is not None and options.target_size > total:
            raise InputError(
                f"a target size of {options.target_size:,.0f} is asked for, but the source has only {total:,} images"
            )

        def quality(result: Result) -> float:
            loss, n = float(result.found.losses[0]), result.found.rows.shape[1]
            if options.target_loss is not None:
                return options.target_loss / loss if loss else float("inf")
            assert options.target_size is not None
            return effective_size(loss, n, total) / options.target_size

        least, most = self.allowed.bounds()
        if not most:
            raise InputError("no image of the source may be chosen: all of them are dropped")
        found = smallest(most, self.of_size, quality, lambda: self.stopped, least)
        self.missed = quality(found) < 1
        return found

    def _form(self, objective: Objective) -> Quadratic:
        from imgsubset.search.quadratic import quadratic_form

        return quadratic_form(self.images, objective.source, objective.coefficients)

    def selection(
        self, source: Source, result: Result, asked: str, wanted: int | None, embeddings: Embeddings | None
    ) -> Selection:
        """The record of a result, ranked and scored; `wanted` is the number of images that was asked for."""
        from imgsubset.search.ranking import herding_order

        rows = result.found.rows[0]
        with self.clock.stage("rank"):
            ranking = herding_order(self._form(result.objective), rows)
        indices = tuple(rows.tolist())
        return Selection(
            source=source.listing,
            paths=source.paths,
            stamps=source.stamps,
            indices=indices,
            ranking=tuple(ranking.tolist()),
            score=score_of(result.objective, rows[None]),
            rejected=source.rejected,
            warnings=source.warnings + self._notes(wanted, len(indices)),
            classes=self.allowed.shares(indices),
            copies=self.allowed.copies,
            trace=tuple(self.trace),
            interrupted=self.stopped,
            asked=asked,
            options=self.options,
            embeddings=embeddings.describe() if embeddings else None,
            device=source.device,
            cached=source.cached,
            seconds=dict(self.clock.seconds),
        )

    def _notes(self, wanted: int | None, n: int) -> tuple[str, ...]:
        """What to say of how the request was met."""
        if self.missed:
            return (f"the target is not met by the {n:,} images that may be chosen",)
        if self.allowed.groups is None or wanted is None:
            return ()
        met = "as asked for" if n == wanted else f"as near to the {wanted:,} asked for as whole groups come"
        return (f"{n:,} images in whole groups, {met}",)
