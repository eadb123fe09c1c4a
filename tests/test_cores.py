"""How many cores and threads are used, and that a caller's own threads do not notice."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import Forked

from imgsubset import devices
from imgsubset.devices import (
    limit_threads,
    limit_torch_threads,
    max_threads,
    single_threaded,
    thread_pool,
    usable_cores,
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, str]], int]:
    """Usable cores of a machine of 64 cores, by /proc/self/cgroup and files of its control groups."""
    monkeypatch.setattr(devices, "_count_bound_cores", lambda: 64)

    def usable(group: str, files: dict[str, str]) -> int:
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        (tmp_path / "group").write_text(group)
        monkeypatch.setattr(devices, "CGROUP_ROOT", tmp_path / "cgroup")
        monkeypatch.setattr(devices, "PROCESS_CGROUP", tmp_path / "group")
        return usable_cores()

    return usable


V1 = "12:cpu,cpuacct:/docker/abc\n11:memory:/docker/abc\n"


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000"}, 64),
        ("0::/\n", {"cpu.max": "broken"}, 64),
        ("0::/a.slice/b\n", {"a.slice/b/cpu.max": "max 100000", "a.slice/cpu.max": "300000 100000"}, 3),
        ("0::/not/there\n", {"cpu.max": "400000 100000"}, 4),
        (V1, {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "100000", "cpu/docker/abc/cpu.cfs_period_us": "50000"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_the_quotas_of_control_groups_bound_the_cores(
    machine: Callable[[str, dict[str, str]], int], group: str, files: dict[str, str], expected: int
) -> None:
    assert machine(group, files) == expected


def test_there_need_be_no_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "PROCESS_CGROUP", tmp_path / "none")
    assert usable_cores() == devices._count_bound_cores()


@pytest.mark.parametrize(("count", "expected"), [(0, 1), (1, 1), (3, 3), (4, 4), (9, 4), (None, 4)])
def test_workers_bound_the_threads_of_sums(monkeypatch: pytest.MonkeyPatch, count: int | None, expected: int) -> None:
    monkeypatch.setattr(devices, "_count_bound_cores", lambda: 4)
    monkeypatch.setattr(devices, "_cgroup_quotas", lambda: iter(()))
    with torch_set_to(4):
        with limit_threads(count):
            assert max_threads() == expected
            assert torch.get_num_threads() == expected
            assert thread_pool()._max_workers == expected
            together = threading.Barrier(expected)  # so that every thread has begun, and sets no number later

            def in_worker(_: int, together: threading.Barrier = together) -> int:
                together.wait(60)
                return torch.get_num_threads()

            assert {*thread_pool().map(in_worker, range(expected))} == {1}
        assert (max_threads(), torch.get_num_threads()) == (4, 4)


class torch_set_to:  # noqa: N801
    """A context in which a caller has set the number of torch's threads."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.count)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)


def on_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_threads_of_the_caller_do_not_notice() -> None:
    with torch_set_to(3):
        with single_threaded():
            assert torch.get_num_threads() == 1
            assert on_new_thread() == 3
            with single_threaded():
                pass
            assert torch.get_num_threads() == 1
        assert (torch.get_num_threads(), on_new_thread()) == (3, 3)
        with pytest.raises(ValueError, match="work"), single_threaded():
            raise ValueError("work")
        assert (torch.get_num_threads(), on_new_thread()) == (3, 3)


def test_two_that_overlap_leave_what_each_thread_had() -> None:
    inside, over, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with single_threaded():
            inside.set()
            assert over.wait(60)
        seen.append(torch.get_num_threads())

    with torch_set_to(3):
        thread = threading.Thread(target=other)
        with single_threaded():
            thread.start()
            assert inside.wait(60)
        over.set()
        thread.join()
        assert (torch.get_num_threads(), seen, on_new_thread()) == (3, [3], 3)


def test_fewer_threads_are_not_made_more() -> None:
    with torch_set_to(2), limit_torch_threads(3):
        assert torch.get_num_threads() == 2


FORK = """
import os, signal, sys
from imgsubset import select
def chosen():
    return select(sys.argv[1], 5, candidates=8, chains=1, steps=2, device="cpu").chosen
before = chosen()
if child := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(60)
os._exit(int(chosen() != before))
"""


@pytest.mark.slow
def test_a_process_forked_after_a_selection_selects_too(pictures: Path) -> None:
    assert Forked(FORK, pictures).wait(120) == 0


def test_a_process_forked_from_one_with_threads_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 4)
    monkeypatch.setattr(devices, "_has_threads", None)
    for process, count, expected in ((1, 1, 1), (2, None, 4), (2, 2, 2), (3, None, 1), (3, 4, 1)):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        with limit_threads(count):
            assert max_threads() == expected
