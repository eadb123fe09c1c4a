"""Pieces that other ranks reduce. Queues stand for gloo, and threads for processes."""

from __future__ import annotations

import os
import queue
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import create, smooth, strict_json, watched_files
from torch import Tensor

from imgsubset import BadFilesError, InputError, Options, embed, score, select
from imgsubset.decoding.workers import decode_chunks
from imgsubset.distributed import HeartbeatMonitor, ProcessGroup, ProcessInfo
from imgsubset.features import array_storage, distributed_ingest
from imgsubset.features.distributed_ingest import IngestTask, serve_requests
from imgsubset.features.load import SourceFeatures, load_features
from imgsubset.sources.listing import list_images

PATIENCE = 60.0  # seconds, for what takes none
WORDS: dict[str, Any] = {"workers": 0, "device": "cpu", "channels": (4, 6), "networks": 2, "size": 16}
SEARCH: dict[str, Any] = {"candidates": 16, "steps": 4}
TOTAL = 70


class Piped(ProcessGroup):
    """A rank whose messages go through queues."""

    def __init__(self, place: ProcessInfo, queues: dict[tuple[int, int], queue.Queue[Tensor]]) -> None:
        super().__init__(place, 1, HeartbeatMonitor(dist.HashStore(), place, lambda end: None))
        self.queues = queues

    def send(self, other: int, table: Tensor) -> None:
        self.queues[self.place.rank, other].put(table.clone())

    def receive(self, other: int, table: Tensor) -> None:
        found = self.queues[other, self.place.rank].get(timeout=PATIENCE)
        assert (found.shape, found.dtype) == (table.shape, table.dtype)
        table.copy_(found)


class Crew:
    """Rank 0 of several, and the others at work until it leaves."""

    def __init__(self, size: int) -> None:
        queues: dict[tuple[int, int], queue.Queue[Tensor]] = defaultdict(queue.Queue)
        self.errors: list[BaseException] = []
        self.first, *others = (Piped(ProcessInfo(rank, size, rank), queues) for rank in range(size))
        self.threads = [threading.Thread(target=self._serve, args=(rank,), daemon=True) for rank in others]
        for thread in self.threads:
            thread.start()

    def _serve(self, rank: Piped) -> None:
        try:
            serve_requests(rank)
        except BaseException as error:
            self.errors.append(error)

    def together(self, work: Callable[[], Any]) -> Any:
        with self.first.activate():
            return work()

    def leave(self) -> None:
        for number, thread in enumerate(self.threads, 1):
            self.first.say(number, b"")
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture(params=[2, 3])
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    crew = Crew(request.param)
    yield crew
    crew.leave()
    assert crew.errors == []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Pictures that were there before, and files that are none, at both ends of their order."""
    root = tmp_path / "source"
    for number in range(TOTAL):
        smooth(number, 16 + number % 3, 16).save(create(root / f"{number:02d}.png"))
    for name in ("000.png", "001.png", "zz.jpg", "é\udcff.png"):
        create(root / name, b"no picture")
    for path in root.iterdir():
        os.utime(path, ns=(0, time.time_ns() - 10**10))
    return root


def read(source: Path, **words: Any) -> SourceFeatures:
    seen = words.pop("seen", ())
    return load_features(list_images(source), Options(**{**WORDS, **words}), "cpu", seen=seen)


def check_same(one: SourceFeatures, other: SourceFeatures) -> None:
    """To the last bit."""
    assert (one.paths, one.stamps, one.rejected) == (other.paths, other.stamps, other.rejected)
    assert one.seen.keys() == other.seen.keys()
    for name in ("blocks", "held_out"):
        for here, there in zip(getattr(one, name), getattr(other, name), strict=True):
            assert (here.name, here.weight, here.images.positions) == (there.name, there.weight, there.images.positions)
            assert torch.equal(here.images.table, there.images.table)
    for name, images in one.seen.items():
        assert torch.equal(images.table, other.seen[name].table)


def test_any_number_of_ranks_reads_the_same(crew: Crew, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words: dict[str, Any] = {"features": {"random-cnn": 1, "colour": 2}, "seen": ("image",)}
    expected = read(source, **words)
    check_same(crew.together(lambda: read(source, **words)), expected)
    made = watched_files(monkeypatch)
    monkeypatch.setattr(array_storage, "MAX_IMAGES_IN_MEMORY", 5)
    check_same(crew.together(lambda: read(source, **words)), expected)
    assert len(made) == 4 * len([crew.first, *crew.threads])  # of three networks that measure, and of what is seen


def test_an_archive_is_dealt_out_too(crew: Crew, source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        for path in sorted(source.glob("[0-9]*.png")):
            archive.write(path, path.name)
    os.utime(tmp_path / "source.zip", ns=(0, time.time_ns() - 10**10))
    words = {"cache": str(tmp_path / "cache")}
    together = crew.together(lambda: read(tmp_path / "source.zip", **words))
    warm = read(tmp_path / "source.zip", **words)
    assert (together.cached, warm.cached) == (0, TOTAL)
    check_same(together, read(tmp_path / "source.zip"))
    check_same(together, warm)


@pytest.mark.slow
def test_every_task_is_done_together_one_after_another(crew: Crew, source: Path, tmp_path: Path) -> None:
    alone = select(source, 9, **WORDS, **SEARCH)
    chosen = crew.together(lambda: select(source, 9, **WORDS, **SEARCH))
    assert (chosen.chosen, chosen.score, chosen.rejected) == (alone.chosen, alone.score, alone.rejected)
    members = [source / path for path in chosen.chosen]
    assert crew.together(lambda: score(source, members, **WORDS)).score == score(source, members, **WORDS).score


def test_each_rank_fills_the_cache_and_what_is_there_is_dealt_out_no_more(
    crew: Crew, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def watch(files: Any, *rest: Any) -> Any:
        counts.append(len(files))
        return decode_chunks(files, *rest)

    monkeypatch.setattr(distributed_ingest, "decode_chunks", watch)
    cache = str(tmp_path / "cache")
    half = crew.together(lambda: embed(source, shard=(1, 2), cache=cache, **WORDS))
    assert (len(counts), sum(counts)) == (crew.first.place.size, half.images)
    counts.clear()
    first = crew.together(lambda: read(source, cache=cache))
    assert (len(counts), sum(counts)) == (crew.first.place.size, TOTAL + 4 - half.decoded)
    warm = read(source, cache=cache)
    assert (first.cached, warm.cached) == (half.decoded, TOTAL)
    check_same(first, warm)


def test_a_piece_without_a_picture_is_no_trouble(crew: Crew, tmp_path: Path) -> None:
    """Not that of rank 0, nor those of others; nor is none at all."""
    root = tmp_path / "source"
    for number in range(crew.first.place.size):
        create(root / f"{number}.png", b"no picture")
    with pytest.raises(InputError, match="no image in source"):
        crew.together(lambda: read(root))
    for number in range(crew.first.place.size):
        for other in range(crew.first.place.size):
            create(root / f"{other}.png", b"no picture")
        smooth(number, 16, 16).save(root / f"{number}.png")
        check_same(crew.together(lambda: read(root)), read(root))
    create(root / "0.png", b"")
    smooth(1, 16, 16).save(root / "0.png")
    for path in [*root.iterdir()][1:]:
        path.unlink()
    check_same(crew.together(lambda: read(root)), read(root))  # fewer images than ranks


def test_strict_fails_after_all_have_answered(crew: Crew, source: Path) -> None:
    with pytest.raises(BadFilesError, match="4 files of source"):
        crew.together(lambda: read(source, strict=True))
    check_same(crew.together(lambda: read(source)), read(source))


def test_an_error_in_rank_0_leaves_the_others_ready_for_more(
    crew: Crew, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = distributed_ingest.compute_local_moments

    def fail(*arguments: Any) -> Any:
        if threading.current_thread() is threading.main_thread():  # the other ranks are other threads
            raise RuntimeError("CUDA out of memory")
        return real(*arguments)

    monkeypatch.setattr(distributed_ingest, "compute_local_moments", fail)
    with pytest.raises(InputError, match="the GPU has too little memory for this; --device cpu does without it"):
        crew.together(lambda: read(source))
    monkeypatch.setattr(distributed_ingest, "compute_local_moments", real)
    check_same(crew.together(lambda: read(source)), read(source))


def test_a_cache_that_another_rank_cannot_write_is_told_of(
    crew: Crew, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = distributed_ingest.make_caches

    def full(task: IngestTask, spaces: Any) -> Any:
        found = real(task, spaces)
        found[0].problem = "nothing is cached in 'there': No space left on device"
        return found

    monkeypatch.setattr(distributed_ingest, "make_caches", full)
    read_together = crew.together(lambda: read(source, cache=str(tmp_path / "cache")))
    assert read_together.warnings == ("the cache is not used: nothing is cached in 'there': No space left on device",)


def test_a_rank_that_would_measure_otherwise_says_what_is_different(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = Crew(2)
    real = IngestTask.spaces

    def other(task: IngestTask, extractor: Any = None) -> Any:
        spaces = real(task, extractor)
        if threading.current_thread() in crew.threads:
            return tuple(replace(space, recipe={**(space.recipe or {}), "torch": "1.0"}) for space in spaces)
        return spaces

    monkeypatch.setattr(IngestTask, "spaces", other)
    monkeypatch.setattr(Piped, "hear", lambda rank, of: _or_fail(crew, rank, of))
    with pytest.raises(InputError, match=r"rank 1 would measure .* than rank 0: its torch is '1.0'"):
        crew.together(lambda: read(source))


def test_a_rank_that_does_not_see_the_source_says_so(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(2)
    monkeypatch.setattr(distributed_ingest.os.path, "lexists", lambda path: False)
    monkeypatch.setattr(Piped, "hear", lambda rank, of: _or_fail(crew, rank, of))
    with pytest.raises(InputError, match=r"rank 1 does not find '.*': all ranks read a source by the same paths"):
        crew.together(lambda: read(source))


def _or_fail(crew: Crew, rank: Piped, of: int) -> bytes:
    """What another rank says, or the error that it ended with, as the real one has it from the watch."""
    if rank.place.rank == 0:
        crew.threads[of - 1].join(PATIENCE)
        raise crew.errors[0]
    return ProcessGroup.hear(rank, of)


def test_a_task_is_the_same_in_words() -> None:
    features = {"random-cnn": 1, "colour": 0.5}
    options = Options(features=features, kernel_size=(3, 5, 3), pool=(2, 1), cache="/c/é\udcff")
    task = IngestTask({"random-cnn": 2 / 3, "colour": 1 / 3}, options, 32, "cuda:1", True, ("image",))
    assert IngestTask.of(task.words()) == task
    assert strict_json(task.words())["options"]["cache"] == "/c/é\udcff"


def test_a_rank_has_the_gpu_of_its_number_on_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed_ingest, "torch_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [distributed_ingest._choose_rank_device("auto", local) for local in range(6)] == [
        f"cuda:{k}" for k in (0, 1, 2, 3, 0, 1)
    ]
    assert distributed_ingest._choose_rank_device("cuda", 2) == "cuda:2"
    assert distributed_ingest._choose_rank_device("cuda:1", 2) == "cuda:1"
    assert distributed_ingest._choose_rank_device("cpu", 2) == "cpu"
    monkeypatch.setattr(distributed_ingest, "torch_device", lambda name: torch.device("cpu"))
    assert distributed_ingest._choose_rank_device("auto", 2) == "auto"
