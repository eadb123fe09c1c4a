"""The moments of images, kept on disk, so that a second run decodes nothing and ten new files cost ten decodings.

One folder for each recipe, which is all that the numbers depend on besides the file. Each `put` leaves a file of its
own there, a segment, which has its name only once it is whole and then never changes. So runs side by side need no
lock, which network file systems may lack, and a kill leaves no half of anything.

A cache may be lost, which is only slow, but never wrong: the name of a segment holds a digest of its content and its
recipe, and a segment of another content is deleted. So a power cut costs some rows, and nothing waits for the disk.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from struct import pack
from typing import NamedTuple

import numpy as np

from imgsubset.errors import InputError, OutputError
from imgsubset.features.array_storage import allocate_in_memory
from imgsubset.files import PARTIAL_PREFIX, Stamp, write_atomic

# A file may be rewritten with the same size just after it was decoded, and its modification time may stay the same:
# clocks tick every 1 to 10 ms, and some file systems keep whole seconds, or even ones. As in Git's index, the stamp of
# a file that was modified this shortly before the cache was opened, or since, vouches for nothing.
RACY_NS, RACY_SECONDS_NS = 20_000_000, 2_000_000_000
MAX_SMALL_SEGMENTS = 32  # more segments than this, of fewer bytes than below, become part of the next one
SMALL_SEGMENT_BYTES = 1 << 20
MAX_TIMESTAMP = 2.0**32  # seconds since 1970: a file may claim a year that no calendar has
ABANDONED_SECONDS = 86_400  # age of a file that its writer did not live to finish
# A letter for the type of a file, as `ls -l` has it, and the name: of a recipe's folder or a database of version 0.1.0,
# of a segment (nanoseconds since 1970, number of rows, digest), and of all that a recipe's folder holds.
ENTRY_PATTERN = r"dmoments-[0-9a-f]{32}|-moments-[0-9a-f]{32}\.sqlite(-journal)?"
SEGMENT_PATTERN = r"-[0-9]{20}-[0-9]+-[0-9a-f]{32}\.npy"
RECIPE_FILE = "recipe.json"  # whose time is that of the last use
OWN_FILE_PATTERN = rf"{SEGMENT_PATTERN}|-recipe\.json|-{re.escape(PARTIAL_PREFIX)}[0-9a-f]+"


class CacheQuery:
    """Files as caches know them: by names, no two alike, and stamps; None is the stamp of no row."""

    def __init__(self, names: Iterable[bytes], stamps: Sequence[Stamp | None]) -> None:
        self.files = _encode_files(names, stamps)
        self.order = np.argsort(self.files[:, 0])

    def __len__(self) -> int:
        return len(self.files)


class CacheResult(NamedTuple):
    """What was found of N files.

    found      (N,) bool, which
    rows       (N, W) float32, of which those found mean something; (0, 0) if there are none
    positions  L of ImageMoments
    """

    found: np.ndarray
    rows: np.ndarray
    positions: int


class CacheEntry(NamedTuple):
    """What is kept of a recipe, {} if it cannot be read: its folder, or a database; our files there; rows; bytes; when
    it was used last, in seconds since 1970."""

    path: Path
    recipe: dict[str, object]
    files: list[Path]
    images: int
    bytes: int
    last_used: float


class Cache:
    """The rows of one recipe. `problem` is None, or one line that says why nothing is cached from now on.

    Neither `get` nor `put` raises for anything the disk does.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, object]) -> None:
        self.problem: str | None = None
        self._recipe = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        self._home = Path(folder).absolute() / f"moments-{_digest(self._recipe)}"
        self._opened_ns = time.time_ns()

    def get(
        self,
        asked: CacheQuery,
        table: Callable[[int, int], np.ndarray] = allocate_in_memory,
        progress: Callable[[int], None] = lambda found: None,
    ) -> CacheResult:
        """The rows that were put for these files.

        table     makes the array for them, of so many rows and numbers
        progress  is told how many more were found
        """
        with suppress(OSError):  # there may be none yet
            os.utime(self._home / RECIPE_FILE)
        files, order = asked.files, asked.order
        found = np.zeros(len(files), bool)
        rows, positions = np.empty((0, 0), np.float32), 0
        with suppress(OSError):
            for records in _read_segments(reversed(_list_files(self._home, SEGMENT_PATTERN))) if len(files) else ():
                place = order.take(np.searchsorted(files[:, 0], records["file"][:, 0], sorter=order), mode="clip")
                good = (records["file"] == files[place]).all(1) & ~found[place]
                if not rows.size and good.any():  # the newest segment decides on the shape
                    rows = table(len(files), records["row"].shape[1])
                    positions = int(records["positions"][0])
                good &= records["positions"] == positions
                if records["row"].shape[1] == rows.shape[1]:
                    rows[place[good]] = records["row"][good]
                    found[place[good]] = True
                    progress(int(good.sum()))
        return CacheResult(found, rows, positions)

    def put(self, names: Sequence[bytes], stamps: Sequence[Stamp], rows: np.ndarray, positions: int) -> None:
        """Store rows (N, W) of files that had these names and stamps when they were decoded.

        Raises ValueError if there are not as many names, stamps and rows.
        """
        records = np.empty(len(rows), _record_dtype(rows.shape[1]))
        records["file"], records["positions"], records["row"] = _encode_files(names, stamps), positions, rows
        times = [stamp.mtime_ns for _, stamp in zip(rows, stamps, strict=True)]
        settled = [time + (RACY_NS if time % 10**9 else RACY_SECONDS_NS) < self._opened_ns for time in times]
        records = records[np.isfinite(records["row"]).all(1) & np.array(settled, bool)]
        if len(records):
            self._try(lambda: self._write(records))

    def open(self) -> None:
        """Write what a `put` needs, which it does by itself: `problem` then tells whether anything can be stored."""
        self._try(self._open)

    def _try(self, write: Callable[[], None]) -> None:
        if self.problem is None:
            try:
                write()
            except OSError as error:
                self.problem = f"nothing is cached in {str(self._home.parent)!r}: {error.strerror or error}"

    def _open(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._home / RECIPE_FILE, self._recipe, durable=False)

    def _write(self, records: np.ndarray) -> None:
        """Make a segment of these records and, where there are many small segments, of those too."""
        self._open()
        files = _list_files(self._home, OWN_FILE_PATTERN)
        small = [
            path for path in reversed(files) if path.suffix == ".npy" and files[path].st_size < SMALL_SEGMENT_BYTES
        ]
        old = small if len(small) > MAX_SMALL_SEGMENTS else []
        records = np.concatenate([records, *(part for part in _read_segments(old) if part.dtype == records.dtype)])
        records = records[np.unique(records["file"][:, 0], return_index=True)[1]]  # the newest of each name
        content = io.BytesIO()
        np.save(content, records, allow_pickle=False)
        name = f"{time.time_ns():020}-{len(records)}-{_digest(content.getbuffer(), self._home)}.npy"
        write_atomic(self._home / name, content.getbuffer(), durable=False)
        for path, status in files.items():
            abandoned = path.name.startswith(PARTIAL_PREFIX) and status.st_mtime < time.time() - ABANDONED_SECONDS
            if abandoned or path in old:
                path.unlink(missing_ok=True)


def list_entries(folder: Path) -> list[CacheEntry]:
    """What is kept in a folder, by recipe, the last used first. Raises InputError for a folder that cannot be read."""
    found = []
    try:
        for path, status in _list_files(folder, ENTRY_PATTERN).items():
            files = _list_files(path, OWN_FILE_PATTERN) if stat.S_ISDIR(status.st_mode) else {path: status}
            recipe = (path / RECIPE_FILE).read_bytes() if path / RECIPE_FILE in files else b""
            known = _parse_recipe(recipe) if path.name == f"moments-{_digest(recipe)}" else {}
            images = sum(int(file.name.split("-")[1]) for file in files if file.suffix == ".npy")
            size, used = sum(one.st_size for one in files.values()), files.get(path / RECIPE_FILE, status).st_mtime
            found.append(CacheEntry(path, known, [*files], images, size, min(max(used, 0.0), MAX_TIMESTAMP)))
    except OSError as error:
        raise InputError(f"cannot read the cache folder '{folder}': {error.strerror or error}") from None
    return sorted(found, key=lambda one: -one.last_used)


def _parse_recipe(recipe: bytes) -> dict[str, object]:
    try:
        known = json.loads(recipe)
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def delete_entries(folder: Path, before: float | None = None, largest: int | None = None) -> int:
    """Delete what is kept in a folder, and nothing else; the bytes freed.

    before   only what was used last before this time, in seconds since 1970
    largest  only what was used longest ago, until so many bytes are left

    Raises InputError if there is a folder that cannot be read, OutputError if a file cannot be deleted.
    """
    kept = list_entries(folder)
    everything, total, freed = before is None and largest is None, sum(one.bytes for one in kept), 0
    for one in reversed(kept):
        old, many = before is not None and one.last_used < before, largest is not None and total - freed > largest
        if everything or old or many:
            _delete_entry(one)
            freed += one.bytes
    return freed


def _delete_entry(kept: CacheEntry) -> None:
    for path in kept.files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot delete '{path}': {error.strerror or error}") from None
    with suppress(OSError):  # it is none, or others have files there
        kept.path.rmdir()


def _list_files(folder: Path, kind: str) -> dict[Path, os.stat_result]:
    """What a folder holds of a kind, sorted, with its status; nothing if there is no folder."""
    found = {}
    with suppress(FileNotFoundError):
        for path in sorted(folder.iterdir()):
            with suppress(FileNotFoundError):  # gone meanwhile
                status = path.lstat()
                if re.fullmatch(kind, stat.filemode(status.st_mode)[0] + path.name):
                    found[path] = status
    return found


def _read_segments(segments: Iterable[Path]) -> Iterator[np.ndarray]:
    """The records of each segment that can be read; one that is not what was written is deleted."""
    for path in segments:
        with suppress(OSError):
            content = path.read_bytes()  # not mapped: a file that is cut off meanwhile would kill the process
            records = _parse_records(content) if path.stem.endswith(_digest(content, path.parent)) else None
            if records is None:
                path.unlink()
            else:
                yield records


def _record_dtype(width: int) -> np.dtype[np.void]:
    return np.dtype([("file", "<u8", 4), ("positions", "<i4"), ("row", "<f4", (width,))])


def _parse_records(content: bytes) -> np.ndarray | None:
    """The records of a segment; None if there are none in it, whoever wrote it."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        known = found.ndim == 1 and len(found) and found.dtype == _record_dtype(*found.dtype["row"].shape)
    except Exception:  # numpy has many words for what is no array
        return None
    return found if known else None


def _digest(content: bytes | memoryview, home: Path = Path()) -> str:
    return blake2b(content, digest_size=16, key=home.name.encode()).hexdigest()


def _encode_files(names: Iterable[bytes], stamps: Sequence[Stamp | None]) -> np.ndarray:
    """Names and stamps as (N, 4) words: two of a digest of the name, the size, and the time modulo 2^64."""
    lines = (
        blake2b(name, digest_size=16).digest()
        + (pack("<2Q", stamp.size, stamp.mtime_ns % 2**64) if stamp else b"\xff" * 16)  # no file has this size
        for name, stamp in zip(names, stamps, strict=True)
    )
    return np.fromiter(lines, "V32", len(stamps)).view("<u8").reshape(-1, 4)
