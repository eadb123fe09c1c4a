"""The moments of images, kept on disk, so that a second run decodes nothing and ten new files cost ten decodings.

One SQLite database for each recipe, which is all that the numbers depend on besides the file. Its transactions make
concurrent runs and kills safe, a lookup reads only the rows asked for, and nothing is unpickled; a .npy file with an
index would need locks of its own and would be rewritten for every new image. The journal is a rollback journal, since
a write-ahead log needs memory shared between processes, which network file systems lack.

A cache may be lost, which is only slow, but never wrong: every row has a checksum over all that it stands for, and a
database that is anything but ours is deleted and made anew. Each call opens the database and closes it again, so a
database deleted under another process costs that process at most the rows it is writing: on POSIX an open file
outlives its name. What such a race, or a power cut, can do to a journal is caught by the checksums.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import stat
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgsubset.errors import InputError, OutputError
from imgsubset.files import Stamp

_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter where SQLite's message quotes damaged text
BUSY_SECONDS = 60.0  # how long to wait for another process's transaction
# A file may be rewritten with the same size just after it was decoded, and its modification time may stay the same:
# clocks tick every 1 to 10 ms, and some file systems keep whole seconds, or even ones. As in Git's index, the stamp of
# a file that was modified this shortly before the cache was opened, or since, vouches for nothing.
RACY_NS, RACY_SECONDS_NS = 20_000_000, 2_000_000_000
THREADS = 4  # that hash files
BLOCK = 1 << 20
NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not wait for a writer
NAME = re.compile(r"moments-[0-9a-f]{32}\.sqlite(-journal)?")
APPLICATION = 0x696D6773  # "imgs"
VERSION = 1
SCHEMA = (
    "CREATE TABLE meta(recipe BLOB NOT NULL, width INTEGER NOT NULL, positions INTEGER NOT NULL)",
    "CREATE TABLE images(path BLOB PRIMARY KEY, stamp BLOB, hash BLOB, row BLOB, crc INTEGER)",
    "CREATE INDEX hashes ON images(hash) WHERE hash IS NOT NULL",
)
# What a file is now: its key, its stamp, and the SHA-256 of its content where that is asked for.
_File = tuple[bytes, Stamp, "bytes | None"]


@dataclass(frozen=True)
class Cached:
    """What a lookup found: M of the files asked for.

    places     (M,) their positions in the paths asked for, ascending
    rows       (M, W) float32, contiguous
    stamps     (M,) what each file is now
    positions  L of ImageMoments; 0 if nothing was found
    """

    places: tuple[int, ...]
    rows: np.ndarray
    stamps: tuple[Stamp, ...]
    positions: int


@dataclass(frozen=True)
class CacheFile:
    """A database in a cache folder: its recipe, {} if it cannot be read; its images; its size in bytes."""

    path: Path
    recipe: dict[str, object]
    images: int
    bytes: int


_NOTHING = Cached((), np.zeros((0, 0), np.float32), (), 0)


class Cache:
    """The rows of one recipe. `problem` is None, or one line that says why nothing is cached from now on.

    by_content  look files up by the SHA-256 of their content instead of by path, size and modification time

    Neither `get` nor `put` raises for anything the disk does.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, object], *, by_content: bool = False) -> None:
        self.problem: str | None = None
        self._recipe = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        self._path = Path(folder).absolute() / _name(self._recipe)
        self._by_content = by_content
        self._opened_ns = time.time_ns()
        self._missed: dict[bytes, _File] = {}  # what the files that `get` did not find were, by their keys

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget what was hashed. No connection outlives a call."""
        self._missed.clear()

    def get(self, root: Path, paths: Sequence[str]) -> Cached:
        """The rows of those files, given relative to root, that are what they were when the rows were put."""
        files = self._look(root, paths)
        found = self._attempt(False, lambda connection, shape: _select(connection, shape, files))
        missed = set(range(len(paths))).difference(found.places) if self._by_content else ()
        self._missed.update((file[0], file) for place in missed if (file := files[place]) is not None)
        return found

    def put(self, root: Path, paths: Sequence[str], stamps: Sequence[Stamp], rows: np.ndarray, positions: int) -> None:
        """Store rows (N, W) of files that had these stamps when they were decoded, all in one transaction.

        Raises ValueError if there are not as many paths, stamps and rows.
        """
        table = np.ascontiguousarray(rows, "<f4")
        shape = table.shape[1], positions
        keep: list[_File] = []
        lines: list[tuple[np.ndarray, bytes, bytes, bytes | None]] = []
        finite = np.isfinite(table).all(1)
        for file, stamp, row, good in zip(self._look(root, paths), stamps, table, finite, strict=True):
            # By content, a file must have been the same before its decoding and after, or something else was decoded.
            if file is None or file[1] != stamp or self._missed.pop(file[0], file) != file:
                continue
            racy = RACY_NS if stamp.mtime_ns % 10**9 else RACY_SECONDS_NS
            settled = stamp.mtime_ns < self._opened_ns - racy
            if good and (settled or self._by_content):
                keep.append(file)
                lines.append((row, file[0], _line(stamp) if settled else b"", file[2]))

        def insert(connection: sqlite3.Connection, before: tuple[int, int]) -> Cached:
            if before != shape:
                connection.execute("DELETE FROM images")
                connection.execute("UPDATE meta SET width = ?, positions = ?", shape)
            full = ((*name, blob := row.tobytes(), _crc(positions, *name, blob)) for row, *name in lines)
            connection.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?)", full)
            found = _select(connection, shape, keep)
            if len(found.places) < len(keep):  # what is put into a damaged index may never be found again
                raise sqlite3.DatabaseError("a damaged cache")
            return found

        if keep:
            self._attempt(True, insert)

    def _look(self, root: Path, paths: Sequence[str]) -> list[_File | None]:
        names = [os.path.join(root, path) for path in paths]  # noqa: PTH118 (Path costs 5 us a file)
        if self.problem is not None or not self._by_content:
            return [_look(name, by_content=False) for name in names]
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(lambda name: _look(name, by_content=True), names))

    def _attempt(self, write: bool, action: Callable[[sqlite3.Connection, tuple[int, int]], Cached]) -> Cached:
        """Do something, given W and L, in one transaction, in a new database if need be, or else state the problem."""
        try:
            for chance in range(3 if self.problem is None else 0):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                inode = _inode(self._path)
                try:
                    with _connect(self._path) as connection:
                        found = action(connection, _begin(connection, self._path, self._recipe, write))
                        connection.execute("COMMIT")
                        return found
                except _ERRORS as error:
                    replaced = _inode(self._path) != inode  # by another process
                    if chance == 2 or not (replaced or _is_spoiled(error, self._path)):
                        raise
                    if not replaced:
                        self._path.unlink(missing_ok=True)  # SQLite drops a journal beside an empty database
        except (*_ERRORS, OSError) as error:
            why = (isinstance(error, OSError) and error.strerror) or str(error)
            self.problem = " ".join(f"nothing is cached in '{self._path.parent}': {why}".split())
        return _NOTHING


def _select(connection: sqlite3.Connection, shape: tuple[int, int], files: Sequence[_File | None]) -> Cached:
    """Look files up, and trust nothing that comes out of the database, its indices included."""
    width, positions = shape
    query = "SELECT path, stamp, hash, row, crc FROM images WHERE "
    found: list[tuple[int, Stamp]] = []
    blobs = bytearray()
    for place, (key, stamp, digest) in ((place, file) for place, file in enumerate(files) if file is not None):
        line = _line(stamp)
        for *name, blob, crc in connection.execute(query + ("hash = ?" if digest else "path = ?"), (digest or key,)):
            same = name[2] == digest if digest else name[:2] == [key, line]
            if same and crc == _crc(positions, *name, blob) and len(blob) == 4 * width:
                found.append((place, stamp))
                blobs += blob
                break
    if not found:
        return _NOTHING
    rows = np.frombuffer(blobs, "<f4").astype(np.float32, copy=False).reshape(len(found), width)
    if not np.isfinite(rows).all():
        raise sqlite3.DatabaseError("numbers that were never put")
    return Cached(tuple(place for place, _ in found), rows, tuple(stamp for _, stamp in found), positions)


def _begin(connection: sqlite3.Connection, path: Path, recipe: bytes, write: bool) -> tuple[int, int]:
    """Begin a transaction on a database of this recipe, made now if there is none; W and L of its rows, or zeros."""
    # No wait for the disk: a kill leaves a journal in any case, and only a power cut can cost the cache.
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    state = _state(connection, path)
    if state is not None:
        return state[1:]
    if not write:
        connection.execute("ROLLBACK")
        return _begin(connection, path, recipe, write=True)
    for statement in (*SCHEMA, f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {VERSION}"):
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES (?, 0, 0)", (recipe,))
    return 0, 0


def _state(connection: sqlite3.Connection, path: Path) -> tuple[bytes, int, int] | None:
    """Recipe, W and L of the database of this name; None for an empty one. Raises DatabaseError if it is not ours."""
    schema = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    names = ("application_id", "user_version", "journal_mode")
    mark = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
    if not schema and mark == [0, 0, b"delete"]:
        return None
    ours = schema == {sql.encode() for sql in SCHEMA} and mark == [APPLICATION, VERSION, b"delete"]
    meta = connection.execute("SELECT recipe, width, positions FROM meta").fetchall() if ours else []
    if [[*map(type, row)] for row in meta] != [[bytes, int, int]] or _name(meta[0][0]) != path.name:
        raise sqlite3.DatabaseError("not a cache of this recipe")
    return meta[0][0], meta[0][1], meta[0][2]


def _connect(path: Path) -> contextlib.closing[sqlite3.Connection]:
    """A connection as a context, whose end undoes what was not committed."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    connection.text_factory = bytes  # a damaged text would be an error that looks like a full disk's
    return contextlib.closing(connection)


def _is_spoiled(error: Exception, path: Path) -> bool:
    """Whether the file is at fault, rather than locked, full or out of reach. By texts: Python 3.10 has no codes."""
    text = str(error)
    if "readonly database" in text:  # as a damaged header says too
        return os.access(path, os.W_OK)
    if "unable to open" in text:
        return path.exists() and not os.access(path, os.R_OK)
    return not isinstance(error, sqlite3.OperationalError) or "unsupported file format" in text


def _inode(path: Path) -> int | None:
    """The inode of a database. What is no regular file is deleted: SQLite would follow a link."""
    # By lstat, not by opening it: to close a file drops the locks that SQLite holds on it in this process.
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            return status.st_ino
        path.unlink()
    return None


def _line(stamp: Stamp) -> bytes:
    return b"%d %d" % (stamp.size, stamp.mtime_ns)  # a time past the year 2262 is no SQLite integer


def _crc(*values: object) -> int:
    """A checksum over all that a row stands for: L, path, stamp, hash, numbers; of damaged ones, anything at all."""
    return zlib.crc32(b"\0".join(value if isinstance(value, bytes) else b"%a" % value for value in values))


def _look(name: str, by_content: bool) -> _File | None:
    """What a file is now; None for one that cannot be read, which decoding will name, and for one that changes."""
    digest = hashlib.sha256() if by_content else None
    try:
        before = after = os.stat(name)  # noqa: PTH116
        if digest is not None and stat.S_ISREG(before.st_mode):
            with open(name, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | NONBLOCK)) as file:
                while block := file.read(BLOCK):
                    digest.update(block)
                after = os.fstat(file.fileno())
    except OSError:
        return None
    stamp = Stamp.of(after)
    if not stat.S_ISREG(after.st_mode) or stamp != Stamp.of(before):
        return None
    return os.fsencode(os.path.abspath(name)), stamp, digest.digest() if digest else None  # noqa: PTH100


def _name(recipe: bytes) -> str:
    return f"moments-{hashlib.sha256(recipe).hexdigest()[:32]}.sqlite"


def contents(folder: Path) -> list[CacheFile]:
    """The databases in a folder, by name. Raises InputError if there is a folder that cannot be read."""
    found = []
    for path, size in _ours(folder).items():
        recipe, images = b"{}", 0
        if path.suffix == ".sqlite":
            with contextlib.suppress(*_ERRORS), _connect(path) as connection:
                if (state := _state(connection, path)) is not None:
                    images = connection.execute("SELECT count(*) FROM images").fetchone()[0]
                    recipe = state[0]
            found.append(CacheFile(path, json.loads(recipe), images, size))
    return found


def clear(folder: Path) -> int:
    """Delete the databases in a folder, and nothing else; the bytes freed.

    Raises InputError if there is a folder that cannot be read, OutputError if a database cannot be deleted.
    """
    ours = _ours(folder)
    for path in ours:  # each before its journal, without which it may be half a transaction
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot delete '{path}': {error.strerror or error}") from None
    return sum(ours.values())


def _ours(folder: Path) -> dict[Path, int]:
    """The regular files in a folder that are named as our databases and their journals, sorted, with their sizes."""
    try:
        named = {path: path.lstat() for path in sorted(Path(folder).iterdir()) if NAME.fullmatch(path.name)}
        return {path: status.st_size for path, status in named.items() if stat.S_ISREG(status.st_mode)}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot read the cache folder '{folder}': {error.strerror or error}") from None
