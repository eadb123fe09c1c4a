from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import create, normal_user, tree

from imgsubset.errors import InputError
from imgsubset.features import cache
from imgsubset.features.cache import Cache, Cached, clear, contents
from imgsubset.files import Stamp

RECIPE = {"size": 64, "network": "a", "layers": [1, 2]}
WIDTH = 8
POSITIONS = 49
LONG_AGO = 1_500_000_000_123_456_789
# What a second process runs: `root`, `folder` and `paths` are given, and `numbers` makes the row of a path.
PRELUDE = """
import os, sys
from pathlib import Path
import numpy as np
from imgsubset.features import cache
from imgsubset.files import Stamp
root, folder, first, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
paths = [f"{number:04d}.png" for number in range(first, last)]
status = [os.stat(root / path) for path in paths]
stamps = [Stamp(one.st_size, one.st_mtime_ns) for one in status]
rows = np.stack([np.random.default_rng(number).random(8, np.float32) for number in range(first, last)])
store = cache.Cache(folder, {"size": 64, "network": "a", "layers": [1, 2]})
print("ready", flush=True)
"""


def numbers(count: int) -> np.ndarray:
    return np.stack([np.random.default_rng(number).random(WIDTH, np.float32) for number in range(count)])


def album(root: Path, count: int) -> list[str]:
    """Files that only their names tell apart by stamp: of one size and one old modification time."""
    paths = [f"{number:04d}.png" for number in range(count)]
    root.mkdir(parents=True, exist_ok=True)
    for path in paths:
        write(root / path, path.encode())
    return paths


def write(path: Path, content: bytes, mtime_ns: int = LONG_AGO) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def stamps_of(root: Path, paths: Sequence[str]) -> list[Stamp]:
    status = [os.stat(os.path.join(root, path)) for path in paths]
    return [Stamp(one.st_size, one.st_mtime_ns) for one in status]


def put(folder: Path, root: Path, paths: Sequence[str], *, by_content: bool = False) -> None:
    with Cache(folder, RECIPE, by_content=by_content) as store:
        store.put(root, paths, stamps_of(root, paths), numbers(len(paths)), POSITIONS)
        assert store.problem is None


def get(folder: Path, root: Path, paths: Sequence[str], *, by_content: bool = False) -> Cached:
    with Cache(folder, RECIPE, by_content=by_content) as store:
        found = store.get(root, paths)
        assert store.problem is None
        return found


def right(found: Cached) -> bool:
    """Whether what was found is, bit for bit, what `put` puts."""
    shapes = len(found.places) == len(found.stamps) == len(found.rows)
    if not found.places:
        return shapes and found.positions == 0
    expected = numbers(max(found.places) + 1)[list(found.places)]
    same = found.rows.tobytes() == expected.tobytes() and found.rows.dtype == np.float32
    return shapes and same and found.positions == POSITIONS and list(found.places) == sorted(set(found.places))


def whole(found: Cached, count: int) -> bool:
    return found.places == tuple(range(count)) and right(found)


def database(folder: Path) -> Path:
    (path,) = folder.glob("moments-*.sqlite")
    return path


def change(path: Path, *statements: str) -> None:
    """Have somebody else write to a database."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that has printed that it is ready."""
    command = [sys.executable, "-c", PRELUDE + program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder of the caches, not there yet."""
    return tmp_path / "some" / "store"


# Lookups


def test_what_is_put_is_found_by_a_later_run(root: Path, store: Path) -> None:
    paths = album(root, 12)
    assert get(store, root, paths).places == ()
    put(store, root, paths)
    found = get(store, root, paths)
    assert whole(found, 12)
    assert found.stamps == tuple(stamps_of(root, paths))
    assert found.rows.flags.c_contiguous
    assert store.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in store.iterdir()] == [database(store).name]


def test_new_files_are_the_only_ones_missed(root: Path, store: Path) -> None:
    paths = album(root, 12)
    put(store, root, paths[:5])
    found = get(store, root, paths)
    assert found.places == (0, 1, 2, 3, 4)
    assert right(found)
    put(store, root, paths)
    assert whole(get(store, root, paths), 12)


def test_places_follow_the_order_asked_for(root: Path, store: Path) -> None:
    paths = album(root, 5)
    put(store, root, paths)
    found = get(store, root, [paths[3], "gone.png", paths[1], paths[3]])
    assert found.places == (0, 2, 3)
    assert found.rows.tobytes() == numbers(5)[[3, 1, 3]].tobytes()


@pytest.mark.parametrize(("content", "mtime_ns"), [(b"0001.png", LONG_AGO + 1), (b"0001.png2", LONG_AGO)])
def test_a_file_of_another_size_or_time_is_another_file(root: Path, store: Path, content: bytes, mtime_ns: int) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    write(root / paths[1], content, mtime_ns)
    assert get(store, root, paths).places == (0, 2)
    put(store, root, paths)
    assert whole(get(store, root, paths), 3)


def test_a_row_of_a_file_that_changed_since_its_decoding_is_not_put(root: Path, store: Path) -> None:
    paths = album(root, 3)
    stamps = stamps_of(root, paths)
    write(root / paths[1], b"more than before")
    (root / paths[2]).unlink()
    with Cache(store, RECIPE) as now:
        now.put(root, paths, stamps, numbers(3), POSITIONS)
    assert get(store, root, paths).places == (0,)
    album(root, 3)
    assert get(store, root, paths).places == (0,)


def test_files_that_vanish_or_are_no_files_are_not_found(root: Path, store: Path) -> None:
    paths = album(root, 4)
    for by_content in (False, True):
        put(store, root, paths, by_content=by_content)
    (root / paths[0]).unlink()
    (root / paths[1]).unlink()
    (root / paths[1]).mkdir()
    (root / paths[2]).unlink()
    os.mkfifo(root / paths[2])
    assert get(store, root, paths).places == (3,)
    assert get(store, root, paths, by_content=True).places == (3,)


@pytest.mark.parametrize("by_content", [False, True])
@pytest.mark.parametrize(
    "name", [b"a\nb.png", b"\xff\xfe.png", b'it\'s "so".png', b"%s;--.png", "ä\u0308.png".encode()]
)
def test_odd_names_are_found(root: Path, store: Path, name: bytes, by_content: bool) -> None:
    path = create(root / os.fsdecode(name), b"x")
    write(path, b"x")
    other = create(root / "other.png", b"y")
    write(other, b"y")
    paths = [path.name, other.name]
    put(store, root, paths, by_content=by_content)
    assert whole(get(store, root, paths, by_content=by_content), 2)


def test_a_time_beyond_64_bits_of_nanoseconds_is_no_error(root: Path, store: Path) -> None:
    paths = album(root, 2)
    far = 10_000_000_000 * 10**9
    try:
        os.utime(root / paths[1], ns=(far, far))
    except OSError as error:
        pytest.skip(f"the file system takes no such time: {error}")
    if os.stat(root / paths[1]).st_mtime_ns != far:
        pytest.skip("the file system takes no such time")
    put(store, root, paths, by_content=True)
    assert whole(get(store, root, paths, by_content=True), 2)
    assert get(store, root, paths).places == (0,)  # modified since the cache was opened


def test_the_same_folder_by_another_spelling_is_found(root: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    monkeypatch.chdir(root)
    for spelling in (Path("."), Path("../root"), root / "." / ".." / "root"):
        assert whole(get(store, spelling, paths), 3)


def test_a_link_is_the_file_it_leads_to(root: Path, store: Path) -> None:
    album(root, 1)
    (root / "link.png").symlink_to("0000.png")
    put(store, root, ["link.png"])
    assert whole(get(store, root, ["link.png"]), 1)
    write(root / "0000.png", b"another size")
    assert get(store, root, ["link.png"]).places == ()


def test_recipes_do_not_mix(root: Path, store: Path) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    with Cache(store, {**RECIPE, "size": 65}) as other:
        assert other.get(root, paths).places == ()
        other.put(root, paths, stamps_of(root, paths), -numbers(3), POSITIONS)
        assert other.get(root, paths).rows.tobytes() == (-numbers(3)).tobytes()
    assert whole(get(store, root, paths), 3)
    with Cache(store, dict(reversed(RECIPE.items()))) as same:  # the order of keys says nothing
        assert whole(same.get(root, paths), 3)


@pytest.mark.parametrize(("width", "positions"), [(WIDTH + 2, POSITIONS), (WIDTH, POSITIONS + 1)])
def test_rows_of_another_shape_replace_all(root: Path, store: Path, width: int, positions: int) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    rows = np.ones((1, width), np.float32)
    with Cache(store, RECIPE) as other:
        other.put(root, paths[:1], stamps_of(root, paths[:1]), rows, positions)
        found = other.get(root, paths)
    assert found.places == (0,)
    assert found.positions == positions
    assert found.rows.tolist() == rows.tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_not_kept(root: Path, store: Path, value: float) -> None:
    paths = album(root, 3)
    rows = numbers(3)
    rows[1, 4] = value
    with Cache(store, RECIPE) as odd:
        odd.put(root, paths, stamps_of(root, paths), rows, POSITIONS)
    assert get(store, root, paths).places == (0, 2)


def test_nothing_put_is_nothing_found(root: Path, store: Path) -> None:
    with Cache(store, RECIPE) as empty:
        empty.put(root, [], [], np.zeros((0, 0), np.float32), 0)
        found = empty.get(root, [])
    assert (found.places, found.stamps, found.positions, len(found.rows)) == ((), (), 0, 0)


def test_unequal_lengths_are_refused(root: Path, store: Path) -> None:
    paths = album(root, 3)
    with Cache(store, RECIPE) as odd, pytest.raises(ValueError, match="zip"):
        odd.put(root, paths, stamps_of(root, paths), numbers(2), POSITIONS)


# A file rewritten within its time stamp's grain


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
    root: Path, store: Path, age_ns: int, whole_second: bool, kept: bool
) -> None:
    paths = album(root, 2)
    with Cache(store, RECIPE) as opened:
        recent = time.time_ns() - age_ns
        recent = recent - recent % 10**9 if whole_second else recent | 1
        os.utime(root / paths[1], ns=(recent, recent))
        opened.put(root, paths, stamps_of(root, paths), numbers(2), POSITIONS)
    assert get(store, root, paths).places == ((0, 1) if kept else (0,))


def test_a_file_just_modified_is_known_by_its_content(root: Path, store: Path) -> None:
    paths = album(root, 1)
    os.utime(root / paths[0])
    put(store, root, paths, by_content=True)
    assert whole(get(store, root, paths, by_content=True), 1)
    assert get(store, root, paths).places == ()


# By content


def test_moved_and_touched_files_are_found_by_content(root: Path, store: Path) -> None:
    paths = album(root, 3)
    put(store, root, paths, by_content=True)
    assert whole(get(store, root, paths), 3)  # by stamp too
    moved = root / "deeper" / "moved.jpg"
    moved.parent.mkdir()
    (root / paths[0]).rename(moved)
    os.utime(root / paths[1])
    now = ["deeper/moved.jpg", *paths[1:]]
    found = get(store, root, now, by_content=True)
    assert whole(found, 3)
    assert found.stamps == tuple(stamps_of(root, now))
    assert get(store, root, now).places == (2,)


def test_a_rewrite_that_keeps_size_and_time_is_noticed_by_content(root: Path, store: Path) -> None:
    paths = album(root, 3)
    put(store, root, paths, by_content=True)
    write(root / paths[1], b"1000.png")
    assert get(store, root, paths).places == (0, 1, 2)  # which is what by_content is for
    assert get(store, root, paths, by_content=True).places == (0, 2)


def test_rows_put_without_their_content_are_not_found_by_it(root: Path, store: Path) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    assert get(store, root, paths, by_content=True).places == ()
    put(store, root, paths, by_content=True)
    assert whole(get(store, root, paths, by_content=True), 3)


def test_a_rewrite_during_the_decoding_is_noticed_by_content(root: Path, store: Path) -> None:
    paths = album(root, 3)
    stamps = stamps_of(root, paths)
    with Cache(store, RECIPE, by_content=True) as running:
        assert running.get(root, paths).places == ()
        write(root / paths[1], b"1000.png")
        running.put(root, paths, stamps, numbers(3), POSITIONS)
    assert get(store, root, paths, by_content=True).places == (0, 2)
    assert get(store, root, paths).places == (0, 2)


def test_a_file_that_changes_under_the_hash_has_none(root: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = album(root, 2)
    stamps = stamps_of(root, paths)
    real = os.open
    turn = iter(range(1, 100))

    def touch(path: str, flags: int) -> int:
        if path.endswith(paths[1]):
            later = LONG_AGO + next(turn)
            os.utime(path, ns=(later, later))
        return real(path, flags)

    monkeypatch.setattr(cache.os, "open", touch)
    with Cache(store, RECIPE, by_content=True) as running:
        running.put(root, paths, stamps, numbers(2), POSITIONS)
    monkeypatch.undo()
    album(root, 2)
    assert get(store, root, paths, by_content=True).places == (0,)
    put(store, root, paths, by_content=True)
    monkeypatch.setattr(cache.os, "open", touch)
    assert get(store, root, paths, by_content=True).places == (0,)  # its stamp might be that of other content


def test_one_content_at_two_places_survives_the_loss_of_either_row(root: Path, store: Path) -> None:
    for name in ("a.png", "b.png"):
        root.mkdir(exist_ok=True)
        write(root / name, b"same")
    with Cache(store, RECIPE, by_content=True) as twice:
        rows = numbers(1).repeat(2, 0)
        twice.put(root, ["a.png", "b.png"], stamps_of(root, ["a.png", "b.png"]), rows, POSITIONS)
    change(database(store), "UPDATE images SET crc = crc + 1 WHERE rowid = 1")
    found = get(store, root, ["a.png", "b.png"], by_content=True)
    assert found.rows.tobytes() == rows.tobytes()


# Damage


def swapped(*columns: str) -> str:
    """A statement that exchanges columns between two rows."""
    values = ", ".join(f"{column} = other.{column}" for column in columns)
    return f"UPDATE images SET {values} FROM (SELECT * FROM images ORDER BY 1) AS other WHERE other.path != images.path"


@pytest.mark.parametrize("by_content", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        swapped("row"),
        swapped("row", "crc"),
        swapped("row", "crc", "stamp"),
        "UPDATE images SET row = zeroblob(32)",
        "UPDATE images SET row = substr(row, 1, 28)",
        "UPDATE images SET row = row || zeroblob(4)",
        "UPDATE images SET row = NULL",
        "UPDATE images SET row = 7, crc = 'x'",
        "UPDATE images SET crc = NULL",
        "UPDATE images SET stamp = 3.5",
        "UPDATE images SET path = CAST(path AS TEXT) || 'x', hash = 5",
        "UPDATE meta SET positions = positions + 1",
        "UPDATE meta SET width = width + 1",
    ],
)
def test_a_damaged_row_is_absent(root: Path, store: Path, statement: str, by_content: bool) -> None:
    paths = album(root, 2)
    put(store, root, paths, by_content=by_content)
    change(database(store), statement)
    assert get(store, root, paths, by_content=by_content).places == ()
    put(store, root, paths, by_content=by_content)
    assert whole(get(store, root, paths, by_content=by_content), 2)


def test_a_row_that_is_not_finite_is_absent_though_its_checksum_holds(root: Path, store: Path) -> None:
    paths = album(root, 1)
    put(store, root, paths)
    blob = np.full(WIDTH, np.nan, "<f4").tobytes()
    with contextlib.closing(sqlite3.connect(database(store), isolation_level=None)) as connection:
        path, stamp, digest = connection.execute("SELECT path, stamp, hash FROM images").fetchone()
        crc = cache._crc(POSITIONS, path, stamp, digest, blob)
        connection.execute("UPDATE images SET row = ?, crc = ?", (blob, crc))
    assert get(store, root, paths).places == ()


@pytest.mark.parametrize("by_content", [False, True])
def test_no_flipped_bit_changes_a_number(root: Path, store: Path, by_content: bool) -> None:
    paths = album(root, 30)
    put(store, root, paths, by_content=by_content)
    path = database(store)
    good = path.read_bytes()
    choose = random.Random(by_content)
    used = [place for place, value in enumerate(good) if value]
    lost = 0
    for place in [*range(100), *choose.choices(used, k=300), *choose.choices(range(len(good)), k=100)]:
        bad = bytearray(good)
        bad[place] ^= 1 << choose.randrange(8)
        path.write_bytes(bad)
        found = get(store, root, paths, by_content=by_content)
        assert right(found), place
        lost += len(found.places) < 30
        put(store, root, paths, by_content=by_content)
        assert whole(get(store, root, paths, by_content=by_content), 30), place
    assert lost > 50


def test_no_run_of_overwritten_bytes_changes_a_number(root: Path, store: Path) -> None:
    paths = album(root, 30)
    put(store, root, paths)
    path = database(store)
    good = path.read_bytes()
    choose = random.Random(7)
    for _ in range(100):
        first, other = choose.randrange(len(good)), choose.randrange(len(good))
        length = choose.choice([2, 30, 500, 4096])
        bad = good[:first] + choose.choice([bytes(length), good[other:][:length]]) + good[first + length :]
        path.write_bytes(bad)
        assert right(get(store, root, paths)), (first, other, length)
        put(store, root, paths)
        assert whole(get(store, root, paths), 30), (first, other, length)


@pytest.mark.parametrize("by_content", [False, True])
def test_an_index_that_leads_to_the_row_of_another_file_is_not_trusted(
    root: Path, store: Path, by_content: bool
) -> None:
    paths = album(root, 4)
    put(store, root, paths, by_content=by_content)
    content = database(store).read_bytes()
    for place in (1, 2):  # entries of an index end with the number of the row, from 1
        path = os.fsencode(root / paths[place])
        entry = hashlib.sha256(paths[place].encode()).digest() if by_content else path
        assert content.count(entry + bytes([place + 1])) == 1
        content = content.replace(entry + bytes([place + 1]), entry + bytes([4 - place]))
    database(store).write_bytes(content)
    assert get(store, root, paths, by_content=by_content).places == (0, 3)
    put(store, root, paths, by_content=by_content)
    assert whole(get(store, root, paths, by_content=by_content), 4)


def test_a_lookup_uses_an_index(root: Path, store: Path) -> None:
    put(store, root, album(root, 1))
    with contextlib.closing(sqlite3.connect(database(store))) as connection:
        for column in ("path", "hash"):
            query = f"EXPLAIN QUERY PLAN SELECT path, stamp, hash, row, crc FROM images WHERE {column} = ?"
            assert "USING INDEX" in str(connection.execute(query, (b"x",)).fetchall())


def test_the_journal_of_a_database_that_was_replaced_is_not_played_back(root: Path, store: Path) -> None:
    paths = album(root, 300)
    put(store, root, paths)
    path = database(store)
    journal = path.with_name(path.name + "-journal")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE images SET row = zeroblob(32)")
        half, undo = path.read_bytes(), journal.read_bytes()
    assert bytes(32) in half
    path.write_bytes(half)
    journal.write_bytes(undo)
    assert whole(get(store, root, paths), 300)  # which is what a journal is for
    path.write_bytes(b"not a database" * 1000)
    journal.write_bytes(undo)
    assert get(store, root, paths).places == ()
    assert not journal.exists()


def test_a_truncated_database_is_not_trusted(root: Path, store: Path) -> None:
    paths = album(root, 30)
    put(store, root, paths)
    path = database(store)
    good = path.read_bytes()
    for length in [0, 1, 15, 16, 99, 100, 511, 512, *range(4096, len(good), 4096), len(good) - 1]:
        path.write_bytes(good[:length])
        assert right(get(store, root, paths)), length
        put(store, root, paths)
        assert whole(get(store, root, paths), 30), length


def other_database(*statements: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.unlink()
        change(path, *statements)

    return make


def altered(*statements: str) -> Callable[[Path], None]:
    return lambda path: change(path, *statements)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("SQLite format 4, for a change\n" * 500),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"rows": list(range(5000))})),
    "tables of somebody else": other_database("CREATE TABLE notes(text)", "INSERT INTO notes VALUES ('dear diary')"),
    "tables of our names": other_database(
        "CREATE TABLE meta(recipe, width, positions)", "CREATE TABLE images(path, stamp, hash, row, crc)"
    ),
    "no tables but an application": other_database("PRAGMA application_id = 5"),
    "another application": altered("PRAGMA application_id = 5"),
    "another version": altered("PRAGMA user_version = 2"),
    "one more table": altered("CREATE TABLE more(x)"),
    "a trigger": altered("CREATE TRIGGER t AFTER DELETE ON images BEGIN DELETE FROM meta; END"),
    "no index": altered("DROP INDEX hashes"),
    "a write-ahead log": altered("PRAGMA journal_mode = WAL"),
    "another recipe": altered("UPDATE meta SET recipe = CAST('{}' AS BLOB)"),
    "no recipe": altered("DELETE FROM meta"),
    "two recipes": altered("INSERT INTO meta SELECT * FROM meta"),
    "a width that is no number": altered("UPDATE meta SET width = 'wide'"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_not_ours_is_replaced(root: Path, store: Path, kind: str) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    path = database(store)
    FOREIGN[kind](path)
    before = path.stat().st_ino, path.read_bytes()
    assert contents(store) == [cache.CacheFile(path, {}, 0, len(before[1]))]
    path.with_name(path.name + "-journal").write_bytes(b"left by somebody")
    assert get(store, root, paths).places == ()
    assert path.read_bytes() != before[1]
    put(store, root, paths)
    assert whole(get(store, root, paths), 3)
    assert [one.images for one in contents(store)] == [3]
    assert tree(store).keys() == {path.name}


def test_a_cache_of_another_recipe_under_this_name_is_not_used(root: Path, store: Path) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    path = database(store)
    with Cache(store, {"other": 1}) as other:
        other.put(root, paths, stamps_of(root, paths), -numbers(3), POSITIONS)
    (foreign,) = set(store.glob("*.sqlite")) - {path}
    foreign.replace(path)
    assert get(store, root, paths).places == ()


# What is in the way


@pytest.mark.parametrize("there", [True, False])
def test_a_link_at_the_name_is_not_followed(root: Path, store: Path, tmp_path: Path, there: bool) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    target = tmp_path / "target"
    database(store).rename(target)
    name = store / next(iter(contents_name(store, root)))
    before = target.read_bytes(), target.stat().st_mtime_ns
    if not there:
        target.unlink()
    name.unlink()
    name.symlink_to(target)
    assert get(store, root, paths).places == ()
    put(store, root, paths)
    assert whole(get(store, root, paths), 3)
    assert not name.is_symlink()
    if there:
        assert (target.read_bytes(), target.stat().st_mtime_ns) == before
    else:
        assert not target.exists()


def contents_name(store: Path, root: Path) -> list[str]:
    """The names of the databases, after making one."""
    get(store, root, [])
    return [path.name for path in store.glob("*.sqlite")]


def test_a_fifo_at_the_name_is_replaced(root: Path, store: Path) -> None:
    paths = album(root, 3)
    name = store / contents_name(store, root)[0]
    name.unlink()
    os.mkfifo(name)
    put(store, root, paths)
    assert whole(get(store, root, paths), 3)


@pytest.mark.parametrize("suffix", ["", "-journal"])
def test_a_folder_at_the_name_is_left_alone(root: Path, store: Path, suffix: str) -> None:
    paths = album(root, 3)
    name = store / contents_name(store, root)[0]
    name.unlink()
    create(name.with_name(name.name + suffix) / "precious.txt", b"x")
    with Cache(store, RECIPE) as blocked:
        assert blocked.get(root, paths).places == ()
        blocked.put(root, paths, stamps_of(root, paths), numbers(3), POSITIONS)
        assert blocked.problem is not None
    assert (name.with_name(name.name + suffix) / "precious.txt").read_bytes() == b"x"


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_place_of_the_folder_turns_the_cache_off(root: Path, tmp_path: Path, below: str) -> None:
    paths = album(root, 3)
    create(tmp_path / "odd\nname", b"precious")
    with Cache(tmp_path / "odd\nname" / below, RECIPE) as blocked:
        assert blocked.problem is None
        assert blocked.get(root, paths).places == ()
        assert blocked.problem is not None
        assert "\n" not in blocked.problem
        problem = blocked.problem
        blocked.put(root, paths, stamps_of(root, paths), numbers(3), POSITIONS)
        assert blocked.get(root, paths).places == ()
        assert blocked.problem == problem
    assert (tmp_path / "odd\nname").read_bytes() == b"precious"


@pytest.mark.parametrize("mode", [0o500, 0o300, 0])
def test_a_folder_without_permission_turns_the_cache_off(open_folder: Path, mode: int) -> None:
    root, store = open_folder / "root", open_folder / "store"
    paths = album(root, 3)
    with normal_user(open_folder):
        store.mkdir()
        store.chmod(mode)
        with Cache(store, RECIPE) as blocked:
            assert blocked.get(root, paths).places == ()
            blocked.put(root, paths, stamps_of(root, paths), numbers(3), POSITIONS)
            assert (blocked.problem is None) == (mode == 0o300)  # a database may be made there, but not listed


def test_a_database_that_may_only_be_read_is_read_and_kept(open_folder: Path) -> None:
    root, store = open_folder / "root", open_folder / "store"
    paths = album(root, 4)
    put(store, root, paths[:3])
    store.chmod(0o755)
    database(store).chmod(0o644)
    before = tree(store)
    with normal_user(open_folder):
        if os.geteuid() == store.stat().st_uid:
            store.chmod(0o555)
            database(store).chmod(0o444)
            before = tree(store)
        with Cache(store, RECIPE) as blocked:
            found = blocked.get(root, paths)
            assert blocked.problem is None
            assert found.places == (0, 1, 2)
            blocked.put(root, paths, stamps_of(root, paths), numbers(4), POSITIONS)
            assert blocked.problem is not None
    assert tree(store) == before


def test_a_full_disk_turns_the_cache_off(root: Path, store: Path) -> None:
    paths = album(root, 800)
    put(store, root, paths[:10])
    program = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
store.put(root, paths, stamps, rows, 49)
print(store.problem)
"""
    process = start(program, root, store, 0, 800)
    said, _ = process.communicate()
    assert process.returncode == 0
    assert "nothing is cached" in said
    assert get(store, root, paths).places == tuple(range(10))
    put(store, root, paths)
    assert whole(get(store, root, paths), 800)


# Several processes


def test_a_locked_database_is_neither_awaited_for_ever_nor_deleted(
    root: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    before = database(store).stat().st_ino, database(store).read_bytes()
    monkeypatch.setattr(cache, "BUSY_SECONDS", 0.05)
    with contextlib.closing(sqlite3.connect(database(store), isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        reading, writing = Cache(store, RECIPE), Cache(store, RECIPE)
        assert reading.get(root, paths).places == ()
        writing.put(root, paths, stamps_of(root, paths), -numbers(3), POSITIONS)
        for blocked in (reading, writing):
            assert blocked.problem is not None
            assert "locked" in blocked.problem
    assert (database(store).stat().st_ino, database(store).read_bytes()) == before
    assert reading.get(root, paths).places == ()  # off for this run
    assert whole(get(store, root, paths), 3)


def test_a_reader_waits_for_a_writer(root: Path, store: Path) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    program = """
import sqlite3, time
connection = sqlite3.connect(next(folder.glob("*.sqlite")), isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(0.5)
connection.execute("ROLLBACK")
connection.close()
"""
    process = start(program, root, store, 0, 3)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    assert whole(get(store, root, paths), 3)
    process.communicate()


def test_a_database_deleted_under_a_run_is_made_anew(root: Path, store: Path) -> None:
    paths = album(root, 3)
    with Cache(store, RECIPE) as running:
        assert running.get(root, paths).places == ()
        assert clear(store) > 0
        running.put(root, paths, stamps_of(root, paths), numbers(3), POSITIONS)
        assert running.problem is None
    assert whole(get(store, root, paths), 3)


def test_a_database_that_another_process_made_anew_is_not_deleted(
    root: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = album(root, 3)
    put(store, root, paths)
    path = database(store)
    anew = store / "anew"
    anew.write_bytes(path.read_bytes())
    path.write_bytes(b"not a database" * 1000)
    real = cache._begin

    def begin(connection: sqlite3.Connection, name: Path, recipe: bytes, write: bool) -> tuple[int, int]:
        try:
            return real(connection, name, recipe, write)
        except sqlite3.DatabaseError:
            anew.replace(name)  # after this process has seen that the old one is none
            raise

    monkeypatch.setattr(cache, "_begin", begin)
    kept = anew.stat().st_ino
    assert whole(get(store, root, paths), 3)
    assert path.stat().st_ino == kept


@pytest.mark.parametrize("spoil", [False, True])
def test_processes_put_and_get_at_once(root: Path, store: Path, spoil: bool) -> None:
    paths = album(root, 300)
    if spoil:
        (store / contents_name(store, root)[0]).write_bytes(b"not a database" * 1000)
    program = """
input()
for at in range(0, len(paths), 10):
    part = slice(at, at + 10)
    store.put(root, paths[part], stamps[part], rows[part], 49)
    found = store.get(root, paths)
    assert store.problem is None, store.problem
    assert found.rows.tobytes() == rows[list(found.places)].tobytes()
    assert set(range(at, at + 10)) <= set(found.places)
"""
    processes = [start(program, root, store, first, first + 150) for first in (0, 75, 150)]
    if spoil:
        assert get(store, root, paths).places == ()  # made anew once, before they begin
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert whole(get(store, root, paths), 300)


@pytest.mark.parametrize("spoil", [False, True])
def test_processes_that_make_the_database_at_once_all_go_on(root: Path, store: Path, spoil: bool) -> None:
    paths = album(root, 20)
    name = store / contents_name(store, root)[0]
    name.unlink()
    if spoil:
        name.write_bytes(b"not a database" * 1000)
    program = """
input()
store.get(root, paths)
assert store.problem is None, store.problem
store.put(root, paths, stamps, rows, 49)
assert store.problem is None, store.problem
"""
    processes = [start(program, root, store, 0, 20) for _ in range(6)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    found = get(store, root, paths)
    assert right(found) if spoil else whole(found, 20)  # a new one may fall to a slow process that saw the old


def test_a_kill_leaves_rows_that_are_right(root: Path, store: Path) -> None:
    paths = album(root, 400)
    program = """
while True:
    for at in range(0, len(paths), 100):
        part = slice(at, at + 100)
        store.put(root, paths[part], stamps[part], rows[part], 49)
        assert store.problem is None
"""
    journals = 0
    for turn in range(12):
        process = start(program, root, store, 0, 400)
        time.sleep(0.03 + 0.0037 * turn)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        journals += len(list(store.glob("*-journal")))
        found = get(store, root, paths)
        assert right(found)
        assert len(found.places) % 100 == 0  # whole transactions
        put(store, root, paths[:50])
        assert set(range(50)) <= set(get(store, root, paths).places)
    assert whole(get(store, root, paths), 400)
    if journals == 0:
        pytest.skip("no kill came in the middle of a transaction")


# Listing and clearing


def test_contents_lists_recipes_and_numbers_of_images(root: Path, store: Path) -> None:
    paths = album(root, 3)
    assert contents(store) == []
    put(store, root, paths)
    Cache(store, {"b": 2}).get(root, paths)
    (store / "moments-nothing.sqlite").write_bytes(b"x")
    (store / f"moments-{'0' * 32}.sqlite").write_bytes(b"")
    (store / f"moments-{'1' * 32}.sqlite").mkdir()
    (store / f"moments-{'2' * 32}.sqlite").symlink_to(database_of(RECIPE, store))
    listed = contents(store)
    assert [one.path.name for one in listed] == sorted(one.path.name for one in listed)
    assert all(one.bytes == one.path.stat().st_size for one in listed)
    found = sorted((one.images, str(one.recipe)) for one in listed)
    assert found == [(0, "{'b': 2}"), (0, "{}"), (3, str(dict(sorted(RECIPE.items()))))]


def database_of(recipe: dict[str, object], store: Path) -> Path:
    (path,) = (one.path for one in contents(store) if one.recipe == recipe)
    return path


def test_clear_deletes_ours_and_nothing_else(root: Path, store: Path, tmp_path: Path) -> None:
    assert clear(store) == 0
    put(store, root, album(root, 3))
    path = database(store)
    content = path.read_bytes()
    path.with_name(path.name + "-journal").write_bytes(bytes(100))
    (store / f"moments-{'a' * 32}.sqlite").write_bytes(bytes(10))
    ours = {path.name, path.name + "-journal", f"moments-{'a' * 32}.sqlite"}
    create(tmp_path / "target", b"precious")
    (store / f"moments-{'b' * 32}.sqlite").symlink_to(tmp_path / "target")
    create(store / f"moments-{'c' * 32}.sqlite" / "file", b"x")
    create(store / "deeper" / path.name, b"x")
    others = ["a.png", "notes.sqlite", "moments.sqlite", f"moments-{'a' * 31}.sqlite", f"moments-{'A' * 32}.sqlite"]
    others += [f"moments-{'a' * 32}.sqlite{end}" for end in (".bak", "-journal-journal", "\n", "-wal", "~")]
    for name in [*others, f"x-{path.name}"]:
        create(store / name, b"x")
    before = tree(tmp_path)
    assert clear(store) == len(content) + 110
    gone = {str(Path("some/store", name)) for name in ours}
    assert tree(tmp_path) == {name: value for name, value in before.items() if name not in gone}
    assert clear(store) == 0


@pytest.mark.parametrize("action", [clear, contents])
def test_a_file_is_no_cache_folder(tmp_path: Path, action: Callable[[Path], object]) -> None:
    create(tmp_path / "file", b"precious")
    with pytest.raises(InputError, match="cannot read the cache folder"):
        action(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_what_a_lookup_finds_is_frozen(root: Path, store: Path) -> None:
    found = get(store, root, album(root, 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.positions = 3  # type: ignore[misc]
