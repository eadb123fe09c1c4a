"""The moments of images, kept on disk, so that a second run decodes nothing and ten new files cost ten decodings.

A folder for each recipe, which is all that the numbers depend on besides the file. In it each call of `put` leaves a
part of its own, written under another name first, and never changed again. So runs beside each other need no locks, on
network file systems too, and a kill leaves no half of anything. Many small parts are made one in passing.

A cache may be lost, which is only slow, but never wrong: every record has a checksum over all that it stands for, and
what is damaged, or not ours, is as if it were not there. Nothing is unpickled, or mapped into memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgsubset.errors import InputError, OutputError
from imgsubset.files import PARTIAL, Stamp, open_regular, write_whole

# A file may be rewritten with the same size just after it was decoded, and its modification time may stay the same:
# clocks tick every 1 to 10 ms, and some file systems keep whole seconds, or even ones. As in Git's index, the stamp of
# a file that was modified this shortly before the cache was opened, or since, vouches for nothing.
RACY_NS, RACY_SECONDS_NS = 20_000_000, 2_000_000_000
FOLDER, OLD = re.compile("moments-[0-9a-f]{32}"), re.compile(r"moments-[0-9a-f]{32}\.sqlite(-journal)?")
RECIPE, PART = "recipe.json", re.compile(r"\.?[0-9a-f]{16}\.npy")  # a part whose name begins with a dot is not whole
OURS = re.compile(f"{re.escape(RECIPE)}|{PART.pattern}|{re.escape(PARTIAL)}.*")
SMALL, MANY = 1 << 14, 32  # parts of fewer records are made one when there are more of them than that
STALE_SECONDS = 86_400.0  # after which a part that is not whole was left by a kill


@dataclass(frozen=True)
class Cached:
    """What a lookup found: M of the images asked for.

    places     (M,) their positions among the names, ascending
    rows       (M, W) float32
    positions  L of ImageMoments; 0 if nothing was found
    """

    places: tuple[int, ...]
    rows: np.ndarray
    positions: int


@dataclass(frozen=True)
class CacheFolder:
    """What is kept of one recipe: the recipe, {} if it cannot be read; how many images; bytes on disk."""

    path: Path
    recipe: dict[str, object]
    images: int
    bytes: int


class Cache:
    """The rows of one recipe. `problem` is None, or one line that says why nothing is cached from now on.

    Neither `get` nor `put` raises for anything the disk does. A name is what tells an image from all others: its
    absolute path, as bytes.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, object]) -> None:
        self.problem: str | None = None
        self._recipe = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        self._folder = Path(folder).absolute() / f"moments-{hashlib.sha256(self._recipe).hexdigest()[:32]}"
        self._opened_ns = time.time_ns()

    def get(self, names: Sequence[bytes], stamps: Sequence[Stamp]) -> Cached:
        """The rows of those images whose files have the stamps that they had when the rows were put."""
        place = {_key(name): number for number, name in enumerate(names)}
        known = _integers(stamps)
        found: dict[int, np.ndarray] = {}
        with self._telling():
            for part in map(_load, _parts(self._folder)):
                at = np.array([(i, place[key]) for i, key in enumerate(part["key"].tolist()) if key in place], np.int64)
                row, number = at.reshape(-1, 2).T
                same = (part["size"][row] == known[number, 0]) & (part["mtime_ns"][row] == known[number, 1])
                row, number = row[same], number[same]
                records = part[row]
                for i in np.flatnonzero(_checksums(records) == records["crc"]).tolist():
                    found[int(number[i])] = records[i : i + 1]
        kinds = {(one.itemsize, int(one["positions"][0])) for one in found.values()}
        if len(kinds) != 1:  # never, unless somebody made it up
            return Cached((), np.zeros((0, 0), np.float32), 0)
        places = sorted(found)
        rows = np.concatenate([found[number]["row"] for number in places]).astype(np.float32)
        return Cached(tuple(places), rows, kinds.pop()[1])

    def put(self, names: Sequence[bytes], stamps: Sequence[Stamp], rows: np.ndarray, positions: int) -> None:
        """Store rows (N, W) of images whose files had these stamps when they were decoded.

        Raises ValueError if there are not as many names, stamps and rows.
        """
        part = np.zeros(len(rows), _record(rows.shape[1]))
        part["key"] = [_key(name) for name in names]
        part["size"], part["mtime_ns"] = _integers(stamps).T
        part["positions"], part["row"] = positions, rows
        racy = np.where(part["mtime_ns"] % 10**9, RACY_NS, RACY_SECONDS_NS)
        part = part[np.isfinite(rows).all(1) & (part["size"] >= 0) & (part["mtime_ns"] < self._opened_ns - racy)]
        part["crc"] = _checksums(part)
        if len(part) and self.problem is None:
            with self._telling():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not (self._folder / RECIPE).exists():
                    write_whole(self._folder / RECIPE, self._recipe)
                _write(self._folder, part)
                _tidy(self._folder, part.itemsize)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """State the problem, if there is one."""
        try:
            yield
        except (OSError, MemoryError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self.problem = f"nothing is cached in '{self._folder.parent}': {why}"


def _record(width: int) -> np.dtype:
    """What is kept of an image; the checksum, over all before it, comes last."""
    fields = [("key", "V16"), ("size", "<i8"), ("mtime_ns", "<i8"), ("positions", "<i4"), ("row", "<f4", (width,))]
    return np.dtype([*fields, ("crc", "<u4")])


def _key(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=16).digest()


def _integers(stamps: Sequence[Stamp]) -> np.ndarray:
    """Stamps as (N, 2) int64; a size of -1 where the time is past the year 2262."""
    fit = [(one.size, one.mtime_ns) if abs(one.mtime_ns) < 1 << 63 else (-1, 0) for one in stamps]
    return np.array(fit, np.int64).reshape(-1, 2)


def _checksums(records: np.ndarray) -> np.ndarray:
    size, content = records.itemsize, memoryview(records.tobytes())
    sums = (zlib.crc32(content[at : at + size - 4]) for at in range(0, len(content), size))
    return np.fromiter(sums, np.uint32, len(records))


def _parts(folder: Path, whole: bool = True) -> dict[Path, os.stat_result]:
    """The parts in a folder, by name: those that are whole, or the others."""
    found = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if PART.fullmatch(entry.name) and (entry.name[0] != ".") == whole:
                found[Path(entry.path)] = entry.stat(follow_symlinks=False)
    return dict(sorted(found.items()))


def _load(path: Path) -> np.ndarray:
    """The records of a part; none of one that has gone, and of one that is damaged, which is deleted."""
    try:
        with open_regular(path) as file:
            part = np.lib.format.read_array(file, allow_pickle=False)
        if part.ndim == 1 and part.dtype.names and part.dtype == _record(part.dtype["row"].shape[0]):
            return part
    except FileNotFoundError:
        return np.zeros(0, _record(0))
    except (ValueError, EOFError, KeyError, IndexError, SyntaxError, RecursionError, OverflowError):
        pass  # as numpy says of what is no such file
    path.unlink(missing_ok=True)
    return np.zeros(0, _record(0))


def _write(folder: Path, part: np.ndarray) -> None:
    name = f"{secrets.token_hex(8)}.npy"
    partial = folder / f".{name}"
    try:
        with partial.open("xb") as file:
            np.save(file, part, allow_pickle=False)
        partial.replace(folder / name)
    finally:
        partial.unlink(missing_ok=True)


def _tidy(folder: Path, record_bytes: int) -> None:
    """Make many small parts one, without what later records of an image have replaced; remove what kills have left."""
    old = [path for path, one in _parts(folder, whole=False).items() if time.time() - one.st_mtime > STALE_SECONDS]
    small = [path for path, status in _parts(folder).items() if status.st_size < SMALL * record_bytes]
    if len(small) > MANY:
        loaded = [part for path in small if (part := _load(path)).itemsize == record_bytes]
        records = np.concatenate(loaded)
        order = np.argsort(records["mtime_ns"], kind="stable").tolist()
        last = dict(zip(records["key"][order].tolist(), order, strict=True))
        _write(folder, records[list(last.values())])
        old += small
    for path in old:
        path.unlink(missing_ok=True)


def contents(folder: Path) -> list[CacheFolder]:
    """What is kept in a folder, by recipe. Raises InputError if there is a folder that cannot be read."""
    found = []
    for path, files in _ours(folder).items():
        if path.is_dir():
            recipe: dict[str, object] = {}
            with contextlib.suppress(OSError, ValueError, RecursionError):
                read = json.loads((path / RECIPE).read_bytes())
                recipe = read if isinstance(read, dict) else {}
            images = {key for part in map(_load, _parts(path)) for key in part["key"].tolist()}
            found.append(CacheFolder(path, recipe, len(images), sum(files.values())))
    return found


def clear(folder: Path) -> int:
    """Delete what is kept in a folder, and nothing else; the bytes freed.

    Raises InputError if there is a folder that cannot be read, OutputError if something cannot be deleted.
    """
    ours = _ours(folder)
    for path, files in ours.items():
        try:
            for file in files:
                file.unlink(missing_ok=True)
            if path.is_dir():
                with contextlib.suppress(OSError):  # somebody else has put something there
                    path.rmdir()
        except OSError as error:
            raise OutputError(f"cannot delete '{error.filename}': {error.strerror or error}") from None
    return sum(size for files in ours.values() for size in files.values())


def _ours(folder: Path) -> dict[Path, dict[Path, int]]:
    """The folders of recipes, and databases of version 0.1.0, in a folder, with the sizes of our files there."""
    found: dict[Path, dict[Path, int]] = {}
    try:
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            files = [path] if OLD.fullmatch(path.name) else []
            if FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                files = [file for file in sorted(path.iterdir()) if OURS.fullmatch(file.name)]
            elif not files:
                continue
            sizes = {file: file.lstat() for file in files}
            found[path] = {file: status.st_size for file, status in sizes.items() if stat.S_ISREG(status.st_mode)}
    except OSError as error:
        raise InputError(f"cannot read the cache folder '{folder}': {error.strerror or error}") from None
    return found
