from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import create, fill, normal_user, read, tree
from forked import Forked

from imgsubset import Options
from imgsubset.errors import InputError, OutputError
from imgsubset.features import cache
from imgsubset.features.cache import Cache, CacheQuery, delete_entries, list_entries
from imgsubset.files import PARTIAL_PREFIX, Stamp
from imgsubset.results.as_json import describe_cache
from imgsubset.results.as_text import cache_summary

RECIPE = {"size": 64, "network": "a", "layers": [1, 2]}
WIDTH = 8
POSITIONS = 49
OLD = Stamp(8, 1_500_000_000_123_456_789)
# What a second process runs: `store` is a cache and `rows` are those that `put` puts under `names`.
PRELUDE = """
import sys
from pathlib import Path
import numpy as np
from imgsubset.features import cache
from imgsubset.files import Stamp
first, last = int(sys.argv[2]), int(sys.argv[3])
names = [b"/%04d.png" % number for number in range(first, last)]
stamps = [Stamp(8, 1_500_000_000_123_456_789)] * len(names)
rows = np.stack([np.random.default_rng(number).random(8, np.float32) for number in range(first, last)])
store = cache.Cache(Path(sys.argv[1]), {"size": 64, "network": "a", "layers": [1, 2]})
print("ready", flush=True)
"""


def numbers(first: int, last: int) -> np.ndarray:
    return np.stack([np.random.default_rng(number).random(WIDTH, np.float32) for number in range(first, last)])


def named(first: int, last: int) -> list[bytes]:
    return [b"/%04d.png" % number for number in range(first, last)]


def put(folder: Path, first: int, last: int) -> None:
    store = Cache(folder, RECIPE)
    store.put(named(first, last), [OLD] * (last - first), numbers(first, last), POSITIONS)
    assert store.problem is None


class Got(NamedTuple):
    """What was found, by the places of the names."""

    places: tuple[int, ...]
    rows: np.ndarray
    positions: int


def fetched(store: Cache, names: list[bytes], stamps: Sequence[Stamp | None]) -> Got:
    found = store.get(CacheQuery(names, stamps))
    places = np.flatnonzero(found.found)
    assert len(found.rows) == len(names) or not len(places)
    return Got(tuple(places.tolist()), found.rows[places] if len(places) else found.rows[:0], found.positions)


def get(folder: Path, count: int) -> Got:
    store = Cache(folder, RECIPE)
    found = fetched(store, named(0, count), [OLD] * count)
    assert store.problem is None
    return found


def right(found: Got) -> bool:
    """Whether what was found is, bit for bit, what `put` puts."""
    if not found.places:
        return len(found.rows) == 0
    expected = numbers(0, max(found.places) + 1)[list(found.places)]
    same = found.rows.tobytes() == expected.tobytes() and found.rows.dtype == np.float32
    return same and found.positions == POSITIONS and list(found.places) == sorted(set(found.places))


def whole(found: Got, count: int) -> bool:
    return found.places == tuple(range(count)) and right(found)


def home(folder: Path) -> Path:
    (path,) = folder.glob("moments-*")
    return path


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("moments-*/*.npy"))


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that has printed that it is ready."""
    command = [sys.executable, "-c", PRELUDE + program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder of the caches, not there yet."""
    return tmp_path / "some" / "store"


# Lookups


def test_what_is_put_is_found_by_a_later_run(store: Path) -> None:
    assert get(store, 12).places == ()
    assert not store.exists()
    put(store, 3, 8)
    assert home(store).stat().st_mode & 0o777 == 0o700
    assert {path.name for path in home(store).iterdir()} == {"recipe.json", segments(store)[0].name}
    assert get(store, 12).places == (3, 4, 5, 6, 7)
    assert right(get(store, 12))
    put(store, 0, 12)
    assert whole(get(store, 12), 12)
    assert get(store, 12).rows.flags.c_contiguous


def test_places_follow_the_order_asked_for_and_names_may_be_odd(store: Path) -> None:
    names = [b"/a\nb.png", b"/\xff\xfe.png", "/ä\u0308.png".encode(), b"", b"/\0"]
    Cache(store, RECIPE).put(names, [OLD] * 5, numbers(0, 5), POSITIONS)
    found = fetched(Cache(store, RECIPE), [names[3], b"/gone.png", *names[:3], names[4]], [OLD] * 5 + [None])
    assert found.places == (0, 2, 3, 4)
    assert found.rows.tobytes() == numbers(0, 5)[[3, 0, 1, 2]].tobytes()


@pytest.mark.parametrize("stamp", [Stamp(9, OLD.mtime_ns), Stamp(8, OLD.mtime_ns + 1)])
def test_a_file_of_another_size_or_time_is_another_file(store: Path, stamp: Stamp) -> None:
    put(store, 0, 3)
    stamps = [OLD, stamp, OLD]
    now = Cache(store, RECIPE)
    assert fetched(now, named(0, 3), stamps).places == (0, 2)
    now.put(named(0, 3), stamps, -numbers(0, 3), POSITIONS)
    assert fetched(now, named(0, 3), stamps).rows.tobytes() == (-numbers(0, 3)).tobytes()  # what was put last


def test_times_beyond_64_bits_of_nanoseconds_are_no_error(store: Path) -> None:
    stamps = [OLD, Stamp(8, -(2**70)), Stamp(8, 2**70), Stamp(2**62, 0)]
    Cache(store, RECIPE).put(named(0, 4), stamps, numbers(0, 4), POSITIONS)
    assert fetched(Cache(store, RECIPE), named(0, 4), stamps).places == (0, 1, 3)  # one is modified after the opening


def test_recipes_do_not_mix(store: Path) -> None:
    put(store, 0, 3)
    other = Cache(store, {**RECIPE, "size": 65})
    assert fetched(other, named(0, 3), [OLD] * 3).places == ()
    other.put(named(0, 3), [OLD] * 3, -numbers(0, 3), POSITIONS)
    assert fetched(other, named(0, 3), [OLD] * 3).rows.tobytes() == (-numbers(0, 3)).tobytes()
    same = Cache(store, dict(reversed(RECIPE.items())))  # the order of keys says nothing
    assert whole(fetched(same, named(0, 3), [OLD] * 3), 3)
    first, second = segments(store)
    shutil.copy(first, second.parent)
    shutil.copy(second, first.parent)
    assert whole(get(store, 3), 3)
    assert len(segments(store)) == 3  # the foreign one is gone where it was met


@pytest.mark.parametrize(("width", "positions"), [(WIDTH + 2, POSITIONS), (WIDTH, POSITIONS + 1)])
@pytest.mark.parametrize("puts", [1, 40])
def test_rows_of_another_shape_replace_all(store: Path, width: int, positions: int, puts: int) -> None:
    put(store, 0, 3)
    other = Cache(store, RECIPE)
    for _ in range(puts):
        other.put(named(0, 1), [OLD], np.ones((1, width), np.float32), positions)
    found = fetched(other, named(0, 3), [OLD] * 3)
    assert (found.places, found.positions, found.rows.tolist()) == ((0,), positions, [[1.0] * width])


def test_neither_nothing_nor_numbers_that_are_not_finite_are_kept(store: Path) -> None:
    running = Cache(store, RECIPE)
    rows = numbers(0, 4)
    rows[0, 4], rows[1, 0], rows[3, 7] = np.nan, np.inf, -np.inf
    running.put([], [], np.zeros((0, 0), np.float32), 0)
    running.put(named(0, 2), [OLD] * 2, rows[:2], POSITIONS)
    assert not store.exists()
    running.put(named(0, 4), [OLD] * 4, rows, POSITIONS)
    assert get(store, 4).places == (2,)
    assert (fetched(running, [], []).places, len(fetched(running, [], []).rows)) == ((), 0)


@pytest.mark.parametrize(("names", "stamps", "rows"), [(3, 3, 2), (3, 3, 1), (1, 1, 3), (3, 2, 3), (2, 3, 3)])
def test_unequal_lengths_are_refused(store: Path, names: int, stamps: int, rows: int) -> None:
    with pytest.raises(ValueError, match=r"zip|broadcast"):
        Cache(store, RECIPE).put(named(0, names), [OLD] * stamps, numbers(0, rows), POSITIONS)


@pytest.mark.parametrize(
    ("age_ns", "whole_second", "kept"),
    [
        (10_000_000_000, True, True),
        (10_000_000_000, False, True),
        (500_000_000, True, False),
        (500_000_000, False, True),
        (1_000_000, False, False),
        (-5_000_000_000, False, False),
    ],
)
def test_a_file_just_modified_is_not_known_by_its_stamp(
    store: Path, monkeypatch: pytest.MonkeyPatch, age_ns: int, whole_second: bool, kept: bool
) -> None:
    now = 1_700_000_000_500_000_000
    monkeypatch.setattr(cache.time, "time_ns", lambda: now)
    recent = now - age_ns
    stamps = [OLD, Stamp(8, recent - recent % 10**9 if whole_second else recent | 1)]
    Cache(store, RECIPE).put(named(0, 2), stamps, numbers(0, 2), POSITIONS)
    assert fetched(Cache(store, RECIPE), named(0, 2), stamps).places == ((0, 1) if kept else (0,))


# Files


@pytest.mark.slow
def test_files_are_known_by_their_absolute_paths_and_what_they_are(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "root")
    shutil.copy2(root / "6.bmp", create(root / os.fsdecode(b"\xff\n.bmp")))
    (root / "link.png").symlink_to("a/2.png")
    options = Options(size=16, channels=(4, 4), device="cpu", workers=1, cache=str(store))
    first = read(root, options)
    monkeypatch.chdir(root)
    for spelling in (root, Path("."), Path("../root"), root / "." / ".." / "root"):
        again = read(spelling, options)
        assert (again.cached, again.paths, again.stamps) == (10, first.paths, first.stamps)
        assert again.blocks[0].images.table.numpy().tobytes() == first.blocks[0].images.table.numpy().tobytes()
    os.utime(root / "a" / "2.png", ns=(0, 1_500_000_000_000_000_099))  # which the link leads to
    (root / "7.png").unlink()
    os.mkfifo(root / "7.png")
    (root / "6.bmp").unlink()
    (root / "6.bmp").symlink_to("nowhere")
    assert read(root, options).cached == 6
    shutil.copytree(root / "a", tmp_path / "moved")
    assert read(tmp_path / "moved", options).cached == 0


# Many segments


def test_many_small_segments_become_one_without_the_rows_of_former_files(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Cache(store, RECIPE)
    for time_ns in range(cache.MAX_SMALL_SEGMENTS + 1):
        running.put(named(0, 2), [OLD, Stamp(8, time_ns)], numbers(0, 2), POSITIONS)
    assert len(segments(store)) == cache.MAX_SMALL_SEGMENTS + 1
    stray = create(home(store) / segments(store)[0].name.replace("-2-", "-9-"), b"damaged")
    put(store, 2, 5)
    assert [path.name.split("-")[1] for path in segments(store)] == ["5"]
    assert not stray.exists()
    stamps = [OLD, Stamp(8, cache.MAX_SMALL_SEGMENTS), OLD, OLD, OLD]
    assert whole(fetched(running, named(0, 5), stamps), 5)
    assert list_entries(store)[0].images == 5
    monkeypatch.setattr(cache, "SMALL_SEGMENT_BYTES", segments(store)[0].stat().st_size)
    for number in range(5, 5 + cache.MAX_SMALL_SEGMENTS + 2):
        put(store, number, number + 1)
    assert [path.name.split("-")[1] for path in segments(store)] == ["5", str(cache.MAX_SMALL_SEGMENTS + 2)]


def test_segments_that_vanish_while_they_are_read_are_absent(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        put(store, number, number + 1)
    real, (first, *_) = cache._list_files, segments(store)

    def listed(*arguments: str) -> dict[Path, os.stat_result]:
        found = real(*arguments)
        first.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(cache, "_list_files", listed)
    found = get(store, 3)
    assert found.places == (1, 2)
    assert right(found)
    assert list_entries(store)[0].images == 2


# Damage


@pytest.mark.slow
def test_no_flipped_bit_changes_a_number(store: Path) -> None:
    put(store, 0, 10)
    put(store, 10, 30)
    path = segments(store)[1]
    good = path.read_bytes()
    choose = random.Random(1)
    for place in [*range(0, 130, 3), *choose.choices(range(len(good)), k=100)]:
        bad = bytearray(good)
        bad[place] ^= 1 << choose.randrange(8)
        path.write_bytes(bad)
        assert whole(get(store, 30), 10), place  # those of the other segment
        assert not path.exists()
    put(store, 0, 30)
    assert whole(get(store, 30), 30)


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


HUGE = b"\x93NUMPY\1\0\x76\0" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(118)
FOREIGN = [b"dear diary\n" * 500, npy(np.zeros((5, 8), np.float32)), npy(np.array([{}], object)), b"PK\3\4", HUGE]


def test_what_is_cut_off_or_not_ours_is_absent(store: Path) -> None:
    put(store, 0, 3)
    put(store, 3, 30)
    path = segments(store)[1]
    good = path.read_bytes()
    for content in (*FOREIGN, *(good[:length] for length in (0, 1, 8, 100, 128, 1000, len(good) - 1)), good + b"x"):
        path.write_bytes(content)
        create(home(store) / f"{'0' * 20}-9-{'a' * 32}.npy", content)
        assert whole(get(store, 30), 3), content
        assert len(segments(store)) == 1
    put(store, 0, 30)
    assert whole(get(store, 30), 30)


# What is in the way


def test_links_fifos_and_folders_in_place_of_segments_are_left_alone(store: Path, tmp_path: Path) -> None:
    put(store, 0, 3)
    (path,) = segments(store)
    target = path.rename(tmp_path / "target")
    path.symlink_to(target)
    os.mkfifo(home(store) / path.name.replace("-3-", "-4-"))
    create(home(store) / path.name.replace("-3-", "-5-") / "precious.txt", b"x")
    (home(store) / path.name.replace("-3-", "-6-")).symlink_to("nowhere")
    (home(store) / "recipe.json").unlink()
    before = tree(tmp_path)
    assert get(store, 3).places == ()
    put(store, 0, 3)
    assert whole(get(store, 3), 3)
    assert before.items() <= tree(tmp_path).items()
    assert delete_entries(store) > 0
    assert tree(tmp_path) == before


@pytest.mark.parametrize("where", ["odd\nname", "odd\nname/deeper/still", "."])
def test_a_file_in_place_of_a_folder_turns_the_cache_off(tmp_path: Path, where: str) -> None:
    blocked = Cache(tmp_path / where, RECIPE)
    for path in (tmp_path / "odd\nname", tmp_path / blocked._home.name):
        create(path, b"precious")
    assert fetched(blocked, named(0, 3), [OLD] * 3).places == ()
    blocked.put(named(0, 3), [OLD] * 3, numbers(0, 3), POSITIONS)
    assert blocked.problem is not None
    assert "\n" not in blocked.problem
    problem = blocked.problem
    blocked.put(named(0, 3), [OLD] * 3, numbers(0, 3), POSITIONS)
    assert fetched(blocked, named(0, 3), [OLD] * 3).places == ()
    assert blocked.problem == problem
    assert delete_entries(tmp_path) == 0
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"precious"}


@pytest.mark.parametrize("mode", [0o500, 0o300, 0])
def test_a_folder_without_permission_turns_the_cache_off(open_folder: Path, mode: int) -> None:
    store = open_folder / "store"
    with normal_user(open_folder):
        store.mkdir()
        store.chmod(mode)
        blocked = Cache(store, RECIPE)
        assert fetched(blocked, named(0, 3), [OLD] * 3).places == ()
        blocked.put(named(0, 3), [OLD] * 3, numbers(0, 3), POSITIONS)
        assert (blocked.problem is None) == (mode == 0o300)  # a folder may be made there, but not listed
        assert len(fetched(blocked, named(0, 3), [OLD] * 3).places) == (3 if mode == 0o300 else 0)


def test_a_cache_that_may_only_be_read_is_read_and_kept(open_folder: Path) -> None:
    store = open_folder / "store"
    put(store, 0, 3)
    create(home(store) / segments(store)[0].name.replace("-3-", "-4-"), b"damaged").chmod(0o444)
    store.chmod(0o555)
    home(store).chmod(0o555)
    before = tree(store)
    with normal_user(open_folder):
        blocked = Cache(store, RECIPE)
        assert fetched(blocked, named(0, 4), [OLD] * 4).places == (0, 1, 2)
        assert blocked.problem is None
        blocked.put(named(0, 4), [OLD] * 4, numbers(0, 4), POSITIONS)
        assert blocked.problem is not None
        assert whole(fetched(blocked, named(0, 4), [OLD] * 4), 3)
        with pytest.raises(OutputError, match="cannot delete"):
            delete_entries(store)
    assert tree(store) == before


@pytest.mark.slow
def test_a_full_disk_turns_the_cache_off(store: Path) -> None:
    put(store, 0, 10)
    program = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
store.put(names, stamps, rows, 49)
print(store.problem)
"""
    with start(program, store, 0, 800) as process:
        assert process.stdout is not None
        said = process.stdout.read()  # communicate() loses what came along with the first line
    assert process.returncode == 0
    assert "nothing is cached" in said
    assert whole(get(store, 800), 10)
    assert not list(home(store).glob(f"{PARTIAL_PREFIX}*"))
    put(store, 0, 800)
    assert whole(get(store, 800), 800)


# Several processes


def test_a_cache_deleted_under_a_run_is_made_anew(store: Path) -> None:
    running = Cache(store, RECIPE)
    running.put(named(0, 2), [OLD] * 2, numbers(0, 2), POSITIONS)
    assert delete_entries(store) > 0
    assert fetched(running, named(0, 3), [OLD] * 3).places == ()
    running.put(named(0, 3), [OLD] * 3, numbers(0, 3), POSITIONS)
    assert running.problem is None
    assert whole(get(store, 3), 3)


@pytest.mark.slow
@pytest.mark.parametrize("many", [32, 3])
def test_processes_put_and_get_at_once(store: Path, many: int) -> None:
    program = """
cache.MAX_SMALL_SEGMENTS = int(sys.argv[4])
input()
for at in range(0, len(names), 15):
    part = slice(at, at + 15)
    store.put(names[part], stamps[part], rows[part], 49)
    found = store.get(cache.CacheQuery(names, stamps))
    assert store.problem is None, store.problem
    places = found.found.nonzero()[0]
    assert not len(places) or found.rows[places].tobytes() == rows[places].tobytes()
    assert cache.MAX_SMALL_SEGMENTS < 30 or found.found[at : at + 15].all()  # unless others merge what is just read
"""
    processes = [start(program, store, first, first + 150, many) for first in (0, 75, 150)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert whole(get(store, 300), 300)
    assert {path.suffix for path in home(store).iterdir()} == {".npy", ".json"}
    assert (len(segments(store)) < 30) == (many == 3)


@pytest.mark.slow
def test_a_kill_leaves_rows_that_are_right(store: Path) -> None:
    program = """
cache.MAX_SMALL_SEGMENTS = 8
while True:
    for at in range(0, len(names), 100):
        part = slice(at, at + 100)
        store.put(names[part], stamps[part], rows[part], 49)
        assert store.problem is None
"""
    for turn in range(8):
        process = Forked(PRELUDE + program, store, 0, 400, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.01 + 0.0037 * turn)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = get(store, 400)
        assert right(found)
        assert len(found.places) % 100 in (0, 50)  # whole segments
        put(store, 0, 50)
        assert set(range(50)) <= set(get(store, 400).places)
    put(store, 0, 400)
    assert whole(get(store, 400), 400)


def test_only_old_files_of_killed_writers_are_removed(store: Path) -> None:
    put(store, 0, 1)
    old, young = (create(home(store) / f"{PARTIAL_PREFIX}{digit * 16}", b"half") for digit in "ab")
    other = create(home(store) / f"{PARTIAL_PREFIX}notes", b"mine")
    for path in (old, other):
        os.utime(path, (0, time.time() - cache.ABANDONED_SECONDS - 60))
    put(store, 1, 2)
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)


# Listing and clearing


def test_contents_lists_recipes_and_numbers_of_images(store: Path) -> None:
    assert list_entries(store) == []
    put(store, 0, 3)
    put(store, 3, 7)
    path = home(store)
    size = sum(file.stat().st_size for file in path.iterdir())
    create(path / "notes.txt", b"mine")
    (store / "moments-nothing").mkdir()
    (store / f"moments-{'0' * 32}").mkdir()
    (store / f"moments-{'1' * 32}").symlink_to(path)
    create(store / f"moments-{'2' * 32}.sqlite", b"of the past")
    Cache(store, {"b": 2}).put(named(0, 1), [OLD], numbers(0, 1), POSITIONS)
    listed = list_entries(store)
    assert [one.last_used for one in listed] == sorted((one.last_used for one in listed), reverse=True)
    assert (path, size) in [(one.path, one.bytes) for one in listed]
    found = sorted((one.images, str(one.recipe)) for one in listed)
    assert found == [(0, "{}"), (0, "{}"), (1, "{'b': 2}"), (7, str(dict(sorted(RECIPE.items()))))]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", None])
def test_a_recipe_that_cannot_be_read_is_written_anew(store: Path, content: bytes | None) -> None:
    put(store, 0, 3)
    (home(store) / "recipe.json").unlink()
    if content is not None:
        create(home(store) / "recipe.json", content)
    assert [(one.recipe, one.images) for one in list_entries(store)] == [({}, 3)]
    put(store, 3, 4)
    assert [(one.recipe, one.images) for one in list_entries(store)] == [(RECIPE, 4)]


@pytest.mark.parametrize("recipe", [b"null", b"[1]", b'"x"', b"{", b"\xff", b"[" * 100_000, b"1e999"])
def test_a_recipe_under_its_own_digest_need_be_no_recipe(store: Path, recipe: bytes) -> None:
    create(store / f"moments-{cache._digest(recipe)}" / "recipe.json", recipe)
    assert [(one.recipe, one.images) for one in list_entries(store)] == [({}, 0)]


def used_at(folder: Path, recipe: dict[str, object], time_s: float) -> int:
    """A recipe that was used last at this time; its size."""
    own = Cache(folder, recipe)
    own.put(named(0, 3), [OLD] * 3, numbers(0, 3), POSITIONS)
    os.utime(own._home / "recipe.json", (time_s, time_s))
    return sum(file.stat().st_size for file in own._home.iterdir())


def test_what_is_used_counts_as_used_now(store: Path) -> None:
    used_at(store, RECIPE, 1000)
    assert list_entries(store)[0].last_used == 1000
    get(store, 3)
    assert list_entries(store)[0].last_used > 1_700_000_000


def test_what_was_used_longest_ago_goes_first(store: Path) -> None:
    sizes = [used_at(store, {"k": k}, time_s) for k, time_s in enumerate((3000, 1000, 2000))]
    assert [one.recipe["k"] for one in list_entries(store)] == [0, 2, 1]
    assert delete_entries(store, before=1000) == 0
    assert delete_entries(store, largest=sum(sizes)) == 0
    assert delete_entries(store, largest=sum(sizes) - 1) == sizes[1]
    assert delete_entries(store, before=2500) == sizes[2]
    assert [one.recipe["k"] for one in list_entries(store)] == [0]
    assert delete_entries(store, largest=0) == sizes[0]


@pytest.mark.parametrize("time_s", [-(2**33), 2**33, 2**40])
def test_a_time_that_no_calendar_has_is_shown(store: Path, time_s: int) -> None:
    used_at(store, RECIPE, 0)
    try:
        os.utime(home(store) / "recipe.json", (time_s, time_s))
    except OSError:
        pytest.skip("the file system has no such time")
    kept = list_entries(store)
    assert "3 " in cache_summary(store, kept)
    assert describe_cache(store, kept)["files"][0]["images"] == 3


def test_clear_deletes_ours_and_nothing_else(store: Path, tmp_path: Path) -> None:
    assert delete_entries(store) == 0
    put(store, 0, 3)
    path = home(store)
    database = store / f"moments-{'a' * 32}.sqlite"
    for mine in (path / f"{PARTIAL_PREFIX}{'a' * 16}", database, store / f"{database.name}-journal"):
        create(mine, bytes(50))
    ours = {file.relative_to(tmp_path) for file in store.glob("**/*") if file.is_file()}
    size = sum((tmp_path / file).stat().st_size for file in ours)
    create(tmp_path / "target" / "recipe.json", b"precious")
    (store / f"moments-{'b' * 32}").symlink_to(tmp_path / "target")
    (store / f"moments-{'b' * 32}.sqlite").symlink_to(tmp_path / "target" / "recipe.json")
    create(store / f"moments-{'c' * 32}.sqlite" / "recipe.json", b"x")
    create(store / "deeper" / path.name / "recipe.json", b"x")
    create(store / f"moments-{'d' * 32}", b"x")
    others = ["a.png", "recipe.json", "moments.sqlite", f"moments-{'a' * 31}.sqlite", f"moments-{'A' * 32}.sqlite"]
    others += [f"{database.name}{end}" for end in (".bak", "-journal-journal", "\n", "-wal", "~")]
    others += [
        f"{path.name}/{name}" for name in ("a.npy", "recipe.json~", f"{PARTIAL_PREFIX}notes", "deeper/recipe.json")
    ]
    for name in others:
        create(store / name, b"x")
    before = tree(tmp_path)
    assert delete_entries(store) == size
    assert tree(tmp_path) == {name: value for name, value in before.items() if Path(name) not in ours}
    assert delete_entries(store) == 0
    shutil.rmtree(store)
    put(store, 0, 3)
    delete_entries(store)
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("action", [delete_entries, list_entries])
def test_a_file_is_no_cache_folder(tmp_path: Path, action: Callable[[Path], object]) -> None:
    create(tmp_path / "file", b"precious")
    with pytest.raises(InputError, match="cannot read the cache folder"):
        action(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"precious"
