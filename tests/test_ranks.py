"""Processes that work together: who they are, what they share, and that none waits for one that is gone.

Stores in memory stand for the one that torchrun keeps, and beats are given by hand: no test depends on a clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from imgsubset import InputError, UsageError
from imgsubset import distributed as module
from imgsubset.devices import bound_cores, fair_core_share
from imgsubset.distributed import (
    GROUP_TIMEOUT,
    HEARTBEAT_SECONDS,
    MAX_MISSED_HEARTBEATS,
    HeartbeatMonitor,
    ProcessInfo,
    RunEnd,
    read_process_info,
    run_in_thread,
    wait_for_ranks,
)

MASTER = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
PATIENCE = 60.0  # seconds, for what takes none


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, None),
        ({**MASTER, "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, ProcessInfo(3, 4, 1)),
        ({**MASTER, "RANK": "3", "WORLD_SIZE": "4"}, ProcessInfo(3, 4, 0)),
        ({**MASTER, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, None),
        ({**MASTER, "RANK": "0"}, None),
        ({**MASTER, "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, ProcessInfo(5, 8, 1)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, None),
        ({**MASTER, "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, None),  # the batch script itself
        (
            {**MASTER, "RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
            ProcessInfo(1, 2, 0),  # torchrun under srun
        ),
    ],
)
def test_who_a_process_is_follows_from_its_environment(environ: dict[str, str], place: ProcessInfo | None) -> None:
    assert read_process_info(environ) == place


@pytest.mark.parametrize(("rank", "size"), [("4", "4"), ("-1", "4"), ("one", "4"), ("0", "4.0"), ("", "4"), ("²", "4")])
def test_an_environment_that_makes_no_sense_is_a_usage_error(rank: str, size: str) -> None:
    with pytest.raises(UsageError, match="torchrun sets"):
        read_process_info({**MASTER, "RANK": rank, "WORLD_SIZE": size})


def test_cores_are_shared_by_those_that_are_bound_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgsubset.devices.usable_cores", lambda: 8)
    eight = {*range(8)}
    assert fair_core_share(eight, [eight]) == 8
    assert fair_core_share(eight, [eight] * 4) == 2
    assert fair_core_share(eight, [eight] * 3) == 2
    assert fair_core_share(eight, [eight] * 100) == 1
    assert fair_core_share(eight, [eight, {*range(8, 16)}]) == 8
    assert fair_core_share(eight, [eight, {0, 1, 2, 3}]) == 6
    monkeypatch.setattr("imgsubset.devices.usable_cores", lambda: 4)  # a quota, of all of them together
    assert fair_core_share(eight, [eight] * 2) == 2


def test_all_meet_and_are_told_of_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgsubset.devices.usable_cores", lambda: 12)
    store = dist.HashStore()
    with ThreadPoolExecutor(3) as threads:
        found = threads.map(
            lambda rank: wait_for_ranks(store, ProcessInfo(rank, 3, rank), ["select"], PATIENCE), range(3)
        )
        assert [*found] == [4, 4, 4]
    assert bound_cores()


def test_who_does_not_come_is_named() -> None:
    store = dist.HashStore()
    with pytest.raises(InputError, match="rank 0, 2 of 3 did not come within 0 s; without RANK and WORLD_SIZE"):
        wait_for_ranks(store, ProcessInfo(1, 3, 0), [], 0)
    with pytest.raises(InputError, match=r"rank 0, 2, 3, 4, 5, \.\.\. of 300 did"):
        wait_for_ranks(store, ProcessInfo(1, 300, 0), [], 0)


def test_all_were_started_with_the_same_words() -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor(3) as threads:
        shards = ("1/2", "1/2", "2/2")
        found = [
            threads.submit(wait_for_ranks, store, ProcessInfo(rank, 3, rank), ["embed", "--shard", shard], PATIENCE)
            for rank, shard in enumerate(shards)
        ]
        for one in found:
            with pytest.raises(
                InputError, match="rank 2 was started with other words, or in another folder, than rank 0"
            ):
                one.result(PATIENCE)


@pytest.fixture
def watches() -> list[HeartbeatMonitor]:
    """Those of three ranks, which have given a sign of life each."""
    store = dist.HashStore()
    found = [HeartbeatMonitor(store, ProcessInfo(rank, 3, rank), lambda end: None) for rank in range(3)]
    for watch in found:
        assert watch.round() is None
    return found


def test_none_is_lost_that_gives_signs_however_seldom(watches: list[HeartbeatMonitor]) -> None:
    for turn in range(5 * MAX_MISSED_HEARTBEATS):
        for watch in watches:
            if watch.place.rank != 1 or turn % (MAX_MISSED_HEARTBEATS - 1) == 0:
                assert watch.round() is None


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_silent_rank_ends_the_run_for_all_others(watches: list[HeartbeatMonitor], lost: int) -> None:
    others = [watch for watch in watches if watch.place.rank != lost]
    ends = [[watch.round() for watch in others] for _ in range(MAX_MISSED_HEARTBEATS + 1)]
    assert ends[MAX_MISSED_HEARTBEATS - 2] == [None, None]
    expected = RunEnd(f"rank {lost} gave no sign of life for 50 s", 1)
    assert ends[-1] == [expected, expected]
    assert len(str(expected.message)) < 60
    assert watches[lost].round() == expected  # once it is awake again


def test_a_rank_that_was_never_heard_of_is_lost_too() -> None:
    watch = HeartbeatMonitor(dist.HashStore(), ProcessInfo(0, 2, 0), lambda end: None)
    assert [watch.round() for _ in range(MAX_MISSED_HEARTBEATS)][-1] == RunEnd(
        "rank 1 gave no sign of life for 50 s", 1
    )


def test_beats_are_told_to_all_in_less_than_a_minute() -> None:
    assert (MAX_MISSED_HEARTBEATS + 2) * HEARTBEAT_SECONDS < 60


def test_the_first_end_is_that_of_all(watches: list[HeartbeatMonitor]) -> None:
    assert watches[2].end("rank 2: no GPU", 2) == RunEnd("rank 2: no GPU", 2)
    assert watches[0].end("rank 1 is gone") == RunEnd("rank 2: no GPU", 2)
    assert watches[1].round() == watches[1].told() == RunEnd("rank 2: no GPU", 2)


def ended(
    store: Any, place: ProcessInfo, monkeypatch: pytest.MonkeyPatch
) -> tuple[HeartbeatMonitor, Callable[[], RunEnd]]:
    """A watch at work, and what tells of the end, when it is there."""
    monkeypatch.setattr(module, "MAX_MISSED_HEARTBEATS", 5)
    ends: list[RunEnd] = []
    over = threading.Event()

    def end(how: RunEnd) -> None:
        ends.append(how)
        over.set()

    def wait() -> RunEnd:
        assert over.wait(PATIENCE)
        return ends[0]

    return HeartbeatMonitor(store, place, end, beat=0.01), wait


def test_a_watch_at_work_finds_a_silent_rank_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, wait = ended(dist.HashStore(), ProcessInfo(0, 2, 0), monkeypatch)
    watch.start()
    assert wait().message.startswith("rank 1 gave no sign of life")


def test_a_watch_that_was_stopped_tells_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()
    watch, _ = ended(store, ProcessInfo(1, 2, 0), monkeypatch)
    told: list[RunEnd] = []
    watch.ended = told.append
    before = {*threading.enumerate()}
    watch.start()
    started = {*threading.enumerate()} - before
    watch.stop()
    watch.end("too late")
    for thread in started:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert told == []


class Faulty:
    """A store that is gone, or does not answer, from the second round on."""

    def __init__(self, fail: Callable[[], Any]) -> None:
        self.store, self.fail, self.sets = dist.HashStore(), fail, 0

    def set(self, key: str, value: str) -> None:
        self.sets += 1
        if self.sets > 1:
            self.fail()
        self.store.set(key, value)

    def add(self, key: str, value: int) -> int:
        self.fail()
        return 1

    def check(self, keys: list[str]) -> bool:
        if self.sets > 1:
            self.fail()
        return self.store.check(keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def test_a_store_that_is_gone_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise dist.DistNetworkError("connection closed")

    watch, wait = ended(Faulty(fail), ProcessInfo(1, 2, 0), monkeypatch)
    watch.start()
    gone = RunEnd("the store that the ranks have met by is gone, with rank 0 or its torchrun", 1)
    assert wait() == watch.told() == watch.end("another end") == gone
    watch.wait_until_seen()


def test_a_store_that_does_not_answer_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    watch, wait = ended(Faulty(answer.wait), ProcessInfo(1, 2, 0), monkeypatch)
    watch.start()
    assert "gave no answer for" in wait().message
    answer.set()


def test_an_end_waits_until_the_others_have_seen_it_but_not_for_ever() -> None:
    store = dist.HashStore()
    watches = [HeartbeatMonitor(store, ProcessInfo(rank, 2, rank), lambda end: None, beat=0.01) for rank in range(2)]
    watches[0].end("rank 1 is gone")
    watches[0].wait_until_seen()
    assert not store.check(["seen 1"])
    watches[1].wait_until_seen()
    assert store.check(["seen 1"])
    watches[0].beat = 1e9
    watches[0].wait_until_seen()


def test_what_is_done_aside_has_its_result_or_its_error() -> None:
    assert run_in_thread(lambda: 3).result(PATIENCE) == 3
    with pytest.raises(ValueError, match="odd"):
        run_in_thread(lambda: _raise(ValueError("odd"))).result(PATIENCE)
    assert timedelta(days=100) < GROUP_TIMEOUT


def _raise(error: Exception) -> None:
    raise error
