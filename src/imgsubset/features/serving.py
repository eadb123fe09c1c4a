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
from imgsubset.features.dealing import Files, Task, caches_of, its_share, measuring, reduced_here
from imgsubset.files import SECOND
from imgsubset.progress import Clock
from imgsubset.ranks import Ranks
from imgsubset.reading.members import Extent, Held, recalled

if TYPE_CHECKING:  # torch takes two seconds to import
    import torch

    from imgsubset.features.cache import Cache
    from imgsubset.features.ingest import Ingested

FEW = 10  # files, that may be gone since they were listed


def serve(ranks: Ranks) -> None:
    """Do what rank 0 asks for, until it asks no more. Raises ImgsubsetError for what this rank cannot do."""
    while words := ranks.hear(0):
        task = Task.of(words)
        recipes = json.loads(ranks.hear(0))
        files = [recalled(one, iter(())) for one in json.loads(ranks.hear(0))]
        names = [os.fsencode(name) for name in json.loads(ranks.hear(0))]
        task = replace(task, device=_own_device(task.device, ranks.place.local))
        spaces = task.spaces()
        _check_alike(recipes, json.loads(json.dumps([space.recipe for space in spaces])), ranks.place.rank)
        caches = caches_of(task, spaces)
        places = [one.file if isinstance(one, Extent) else one for one in files[:FEW] if not isinstance(one, Held)]
        if places and not any(map(os.path.lexists, places)):  # else all of them would be files that are skipped
            name = os.fsdecode(places[0])
            raise InputError(
                f"rank {ranks.place.rank} does not find '{name}': all ranks read a source by the same paths"
            )
        mine = Files(files, names.__getitem__, range(len(files)))
        with its_share(ranks, task):
            done = reduced_here(
                task, spaces, caches, mine, partial(_nothing, len(files), measuring(spaces)), Clock(), lambda *_: None
            )
        _answer(ranks, done, caches)


def _nothing(total: int, measures: tuple[bool, ...], _where: torch.device) -> Ingested:
    from imgsubset.features.ingest import Ingested

    return Ingested.nothing(total, measures)


def _answer(ranks: Ranks, done: Ingested, caches: Sequence[Cache]) -> None:
    import torch

    from imgsubset.statistics.moments import BLOCK

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
    stamps = [(place, done.stamps[place].size, *divmod(done.stamps[place].mtime_ns, SECOND)) for place in usable]
    ranks.send(0, torch.tensor(stamps))
    for images in done.images:
        for some in torch.split(torch.tensor(usable), BLOCK):
            ranks.send(0, images.table[some.to(images.table.device)].cpu())


def _own_device(name: str, local: int) -> str:
    """The GPU of this rank, where its machine has several and none is named."""
    import torch

    if name in ("auto", "cuda") and torch_device(name).type == "cuda":
        return f"cuda:{local % torch.cuda.device_count()}"
    return name


def _check_alike(
    theirs: Sequence[Mapping[str, Any] | None], mine: Sequence[Mapping[str, Any] | None], rank: int
) -> None:
    """Raise InputError if the moments that this rank makes would not be those of rank 0."""
    for one, other in zip(theirs, mine, strict=True):
        for key, value in (one or {}).items():
            if (own := (other or {}).get(key)) != value:
                raise InputError(
                    f"rank {rank} would measure images otherwise than rank 0: its {key} is {own!r}, and not {value!r}"
                )
