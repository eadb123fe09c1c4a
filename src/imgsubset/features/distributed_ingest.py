"""Files to moments, with the help of other ranks: each decodes and reduces a shard, and rank 0 gathers the tables.

The moments of an image depend on nothing but the image, and every sum over images is made in rank 0, over all rows in
their order: so any number of ranks selects the same subset. The tables are gathered, rather than read from the cache
that each rank fills too: what may not be cached is distributed as well, machines need not share a folder for it, and
no file that cannot be decoded is tried twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imgsubset.decoding.workers import decode_chunks
from imgsubset.devices import explain_gpu_error, limit_cores, limit_threads, torch_device
from imgsubset.distributed import ProcessGroup, current_group, run_in_thread
from imgsubset.errors import ImgsubsetError, InputError
from imgsubset.features.feature_spaces import MATCHED_ROLE, FeatureSpace, make_feature_spaces
from imgsubset.files import NS_PER_SECOND, Stamp
from imgsubset.options import MOMENTS, Options
from imgsubset.progress import Clock
from imgsubset.sources.archive_members import AnyFile, Extent, InMemoryFile, file_from_json, file_to_json, make_sendable

if TYPE_CHECKING:
    import torch

    from imgsubset.features.cache import Cache
    from imgsubset.features.ingest import IngestResult
    from imgsubset.features.random_cnn import Extractor

MAX_BLOCK_IMAGES = 2048  # images in a block: as many as are handed to the cache together
MIN_BLOCKS_PER_SHARD = 16  # of a piece, at least, where there are enough images


def shard_indices(total: int, index: int, count: int) -> list[int]:
    """The places, ascending, of the images that piece `index` of `count`, counted from 0, has of `total`.

    Blocks of neighbours go to the pieces in turn: folders of large pictures are spread over all of them, and each still
    reads files that lie beside each other. No two pieces differ by more than a block, a sixteenth of a piece at most.
    """
    length = max(1, min(MAX_BLOCK_IMAGES, total // (MIN_BLOCKS_PER_SHARD * count)))
    starts = range(index * length, total, count * length)
    return [place for start in starts for place in range(start, min(start + length, total))]


T = TypeVar("T")
REOPENABLE_TYPES = (str, bytes, os.PathLike, Extent)  # files that another rank can open by itself


@dataclass(frozen=True)
class IngestTask:
    """What images are to be reduced to, in words that another rank understands.

    wanted    by name the share of the loss that a feature has
    size      side of the square that images are resized to, in pixels
    measured  whether the networks that measure are wanted
    seen      what else is asked for of the pixels, names in `features.feature_spaces.VIEWS`
    """

    wanted: Mapping[str, float]
    options: Options
    size: int
    device: str
    measured: bool
    seen: tuple[str, ...]

    @classmethod
    def asked(
        cls, options: Options, wanted: Mapping[str, float], size: int, device: str, measured: bool, seen: Sequence[str]
    ) -> IngestTask:
        """From a user's options."""
        return cls(wanted, options, size, device, measured, tuple(seen))

    def spaces(self, extractor: Extractor | None = None) -> tuple[FeatureSpace, ...]:
        """The feature spaces; `extractor` is a caller's own, which only a process that works alone can have."""
        return make_feature_spaces(
            self.wanted, self.options, self.size, self.device, extractor, measured=self.measured, seen=self.seen
        )

    def words(self) -> bytes:
        """As JSON."""
        options = self.options.affecting(MOMENTS) | {"workers": self.options.workers, "cache": self.options.cache}
        return json.dumps(vars(self) | {"wanted": dict(self.wanted), "options": options}).encode()

    @classmethod
    def of(cls, words: bytes) -> IngestTask:
        """From JSON."""
        fields = json.loads(words)
        return cls(**fields | {"options": Options(**fields["options"]), "seen": tuple(fields["seen"])})


def evaluation_only_flags(spaces: Sequence[FeatureSpace]) -> tuple[bool, ...]:
    """Of each space whether no search goes through it: it only measures, or is looked at once."""
    return tuple(space.role != MATCHED_ROLE for space in spaces)


def make_caches(task: IngestTask, spaces: Sequence[FeatureSpace]) -> list[Cache]:
    """A cache for each space; none if one of them may not be cached, since that one has to be decoded anyway."""
    if task.options.cache is None or any(space.recipe is None for space in spaces):
        return []
    from imgsubset.features.cache import Cache

    return [Cache(Path(task.options.cache), space.recipe) for space in spaces if space.recipe is not None]


class LazySequence(Sequence[T]):
    """What a function makes of some places, each when it is asked for: of a million files at once it would be much."""

    def __init__(self, make: Callable[[int], T], places: Sequence[int]) -> None:
        self.make, self.places = make, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, which: Any) -> Any:
        found = self.places[which]
        return [*map(self.make, found)] if isinstance(which, slice) else self.make(found)


@dataclass(frozen=True)
class PendingFiles:
    """Files that are to be reduced.

    files   each as it can be opened
    name    by its place, how the caches know it
    places  of each among the images that are known in the end
    """

    files: Sequence[AnyFile]
    name: Callable[[int], bytes]
    places: Sequence[int]

    def take(self, which: Sequence[int]) -> PendingFiles:
        """Those of these numbers."""
        return replace(
            self,
            files=[self.files[number] for number in which],
            places=[self.places[number] for number in which],
        )


def compute_moments(
    task: IngestTask,
    spaces: tuple[FeatureSpace, ...],
    caches: Sequence[Cache],
    files: PendingFiles,
    known: Callable[[torch.device], IngestResult],
    clock: Clock,
    progress: Callable[[int, int], None],
) -> IngestResult:
    """What is known, and the moments of these files, which the caches get too; by all ranks, where there are several.

    known     what is known already, on this device
    progress  is told the number of images just done, and that of all that this process does
    """
    ranks = current_group()
    if ranks is None or not files.files or not all(isinstance(file, REOPENABLE_TYPES) for file in files.files):
        return compute_local_moments(task, spaces, caches, files, known, clock, progress)
    total = len(files.files)
    parts = [files.take(shard_indices(total, rank, ranks.place.size)) for rank in range(ranks.place.size)]
    asked = [(rank, part, _request_shard(ranks, rank, task, spaces, part)) for rank, part in enumerate(parts) if rank]
    where = torch_device(task.device)
    try:
        with limit_to_rank_cores(ranks, task):
            done = compute_local_moments(task, spaces, caches, parts[0], known, clock, progress)
    except ImgsubsetError:
        for rank, part, answer in asked:  # which must be heard, whatever is asked next
            _receive_shard(ranks, rank, part, json.loads(answer.result()), known(where), caches, where)
        raise
    with clock.stage("gather"):
        for rank, part, answer in asked:
            done = _receive_shard(ranks, rank, part, json.loads(answer.result()), done, caches, where)
    return done


@contextmanager
def limit_to_rank_cores(ranks: ProcessGroup, task: IngestTask) -> Iterator[None]:
    """A context in which a rank decodes: with its share of the cores, and no other way out of too small a GPU.

    Raises InputError for that: moments by a CPU would be others.
    """
    with limit_cores(ranks.cores), limit_threads(task.options.workers):
        try:
            yield
        except RuntimeError as error:
            problem = explain_gpu_error(error)
            if problem is None:
                raise
            raise InputError(f"{problem}; --device cpu does without it") from None


def compute_local_moments(
    task: IngestTask,
    spaces: tuple[FeatureSpace, ...],
    caches: Sequence[Cache],
    files: PendingFiles,
    known: Callable[[torch.device], IngestResult],
    clock: Clock,
    progress: Callable[[int, int], None],
) -> IngestResult:
    with decode_chunks(files.files, sorted({space.size for space in spaces}), task.options.workers) as chunks:
        with clock.stage("import"):
            from imgsubset.features.ingest import ingest

        def store(places: list[int], done: IngestResult) -> None:
            for cache, images in zip(caches, done.images, strict=False):  # there may be no caches
                rows, stamps = images.table[places].cpu().numpy(), [done.stamps[place] for place in places]
                cache.put([*map(files.name, places)], stamps, rows, images.positions)

        where = torch_device(task.device)
        networks = [(space.make(), space.size) for space in spaces]
        total = len(files.files)
        return ingest(chunks, files.places, known(where), networks, where, lambda count: progress(count, total), store)


def _request_shard(
    ranks: ProcessGroup, rank: int, task: IngestTask, spaces: tuple[FeatureSpace, ...], part: PendingFiles
) -> Any:
    """Ask another rank for its piece; the beginning of its answer, when it has done that."""
    recipes = json.dumps([space.recipe for space in spaces]).encode()

    def ask() -> bytes:
        files = json.dumps([file_to_json(make_sendable(file)) for file in part.files]).encode()
        names = json.dumps([os.fsdecode(part.name(place)) for place in part.places]).encode()
        ranks.say(rank, task.words(), recipes, files, names)
        return ranks.hear(rank)

    return run_in_thread(ask)


def _receive_shard(
    ranks: ProcessGroup,
    rank: int,
    part: PendingFiles,
    head: dict[str, Any],
    done: IngestResult,
    caches: Sequence[Cache],
    where: torch.device,
) -> IngestResult:
    """What is known, and what another rank has made of its piece."""
    import torch

    from imgsubset.statistics.moments import BLOCK_ROWS

    done.reasons.update({part.places[int(number)]: why for number, why in head["reasons"].items()})
    for cache in caches:
        cache.problem = cache.problem or head["problem"]
    if not head["usable"]:
        return done
    stamps = torch.empty(head["usable"], 4, dtype=torch.int64)
    ranks.receive(rank, stamps)
    places = [part.places[number] for number in stamps[:, 0].tolist()]
    for place, (_, size, seconds, rest) in zip(places, stamps.tolist(), strict=True):
        done.stamps[place], done.usable[place] = Stamp(size, seconds * NS_PER_SECOND + rest), True
    done = done.allocate(head["images"], where)
    for (width, _), images in zip(head["images"], done.images, strict=True):
        for some in torch.split(torch.tensor(places), BLOCK_ROWS):
            rows = torch.empty(len(some), width)
            ranks.receive(rank, rows)
            images.table[some.to(images.table.device)] = rows.to(images.table.device)
    return done


N_PROBED_FILES = 10  # files, that may be gone since they were listed


def serve_requests(ranks: ProcessGroup) -> None:
    """Do what rank 0 asks for, until it asks no more. Raises ImgsubsetError for what this rank cannot do."""
    while words := ranks.hear(0):
        task = IngestTask.of(words)
        recipes = json.loads(ranks.hear(0))
        files = [file_from_json(one, iter(())) for one in json.loads(ranks.hear(0))]
        names = [os.fsencode(name) for name in json.loads(ranks.hear(0))]
        task = replace(task, device=_choose_rank_device(task.device, ranks.place.local))
        spaces = task.spaces()
        _check_same_recipes(recipes, json.loads(json.dumps([space.recipe for space in spaces])), ranks.place.rank)
        caches = make_caches(task, spaces)
        places = [
            one.file if isinstance(one, Extent) else one
            for one in files[:N_PROBED_FILES]
            if not isinstance(one, InMemoryFile)
        ]
        if places and not any(map(os.path.lexists, places)):  # else all of them would be files that are skipped
            name = os.fsdecode(places[0])
            raise InputError(
                f"rank {ranks.place.rank} does not find '{name}': all ranks read a source by the same paths"
            )
        mine = PendingFiles(files, names.__getitem__, range(len(files)))
        with limit_to_rank_cores(ranks, task):
            done = compute_local_moments(
                task,
                spaces,
                caches,
                mine,
                partial(_make_empty, len(files), evaluation_only_flags(spaces)),
                Clock(),
                lambda *_: None,
            )
        _send_result(ranks, done, caches)


def _make_empty(total: int, measures: tuple[bool, ...], _where: torch.device) -> IngestResult:
    from imgsubset.features.ingest import IngestResult

    return IngestResult.empty(total, measures)


def _send_result(ranks: ProcessGroup, done: IngestResult, caches: Sequence[Cache]) -> None:
    import torch

    from imgsubset.statistics.moments import BLOCK_ROWS

    usable = done.usable.nonzero()[0].tolist()
    head = {
        "reasons": done.reasons,
        "problem": next((cache.problem for cache in caches if cache.problem), None),
        "usable": len(usable),
        "images": [(one.table.shape[1], one.positions) for one in done.images],
    }
    ranks.say(0, json.dumps(head).encode())
    if not usable:
        return
    stamps = [(place, done.stamps[place].size, *divmod(done.stamps[place].mtime_ns, NS_PER_SECOND)) for place in usable]
    ranks.send(0, torch.tensor(stamps))
    for images in done.images:
        for some in torch.split(torch.tensor(usable), BLOCK_ROWS):
            ranks.send(0, images.table[some.to(images.table.device)].cpu())


def _choose_rank_device(name: str, local: int) -> str:
    """The GPU of this rank, where its machine has several and none is named."""
    import torch

    if name in ("auto", "cuda") and torch_device(name).type == "cuda":
        return f"cuda:{local % torch.cuda.device_count()}"
    return name


def _check_same_recipes(
    theirs: Sequence[Mapping[str, Any] | None], mine: Sequence[Mapping[str, Any] | None], rank: int
) -> None:
    """Raise InputError if the moments that this rank makes would not be those of rank 0."""
    for one, other in zip(theirs, mine, strict=True):
        for key, value in (one or {}).items():
            if (own := (other or {}).get(key)) != value:
                raise InputError(
                    f"rank {rank} would measure images otherwise than rank 0: its {key} is {own!r}, and not {value!r}"
                )
