"""What the other ranks do: they reduce the pieces that rank 0 deals out, each with its own cores and its own GPU."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from imgsubset.devices import torch_device
from imgsubset.errors import InputError
from imgsubset.features.dealing import (
    IngestTask,
    PendingFiles,
    compute_local_moments,
    evaluation_only_flags,
    limit_to_rank_cores,
    make_caches,
)
from imgsubset.files import NS_PER_SECOND
from imgsubset.progress import Clock
from imgsubset.ranks import ProcessGroup
from imgsubset.reading.members import Extent, InMemoryFile, file_from_json

if TYPE_CHECKING:  # torch takes two seconds to import
    import torch

    from imgsubset.features.cache import Cache
    from imgsubset.features.ingest import IngestResult

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
