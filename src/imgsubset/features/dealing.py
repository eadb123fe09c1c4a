"""Files to moments with the help of other ranks: each decodes and reduces a piece, and rank 0 gathers the tables.

The moments of an image depend on nothing but the image, and every sum over images is made in rank 0, over all rows in
their order: so any number of ranks chooses the same subset. The tables are gathered, rather than read from the cache
that each rank fills too: what may not be cached is dealt out as well, machines need not share a folder for it, and no
file that cannot be decoded is tried twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imgsubset.cores import limit_cores, limit_threads
from imgsubset.devices import explain_gpu_error, torch_device
from imgsubset.errors import ImgsubsetError, InputError
from imgsubset.features.pieces import shard_indices
from imgsubset.features.spaces import MATCHED_ROLE, FeatureSpace, make_feature_spaces
from imgsubset.files import NS_PER_SECOND, Stamp
from imgsubset.options import MOMENTS, Options
from imgsubset.progress import Clock
from imgsubset.ranks import ProcessGroup, current_group, run_in_thread
from imgsubset.reading.members import AnyFile, Extent, file_to_json, make_sendable
from imgsubset.reading.processes import decode_chunks

if TYPE_CHECKING:  # torch takes two seconds to import: the decoding processes work meanwhile
    import torch

    from imgsubset.features.cache import Cache
    from imgsubset.features.ingest import IngestResult
    from imgsubset.features.random_cnn import Extractor

T = TypeVar("T")
REOPENABLE_TYPES = (str, bytes, os.PathLike, Extent)  # files that another rank can open by itself


@dataclass(frozen=True)
class IngestTask:
    """What images are to be reduced to, in words that another rank understands.

    wanted    by name the share of the loss that a feature has
    size      side of the square that images are resized to, in pixels
    measured  whether the networks that measure are wanted
    seen      what else is asked for of the pixels, names in `features.spaces.VIEWS`
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
