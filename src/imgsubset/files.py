"""Files read whole, and written so that a name never stands for less than the whole: a new file, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from imgsubset.errors import InputError

PARTIAL_PREFIX = ".imgsubset-partial-"  # begins the name of a file that is not whole yet
BLOCK_BYTES = 1 << 20
NS_PER_SECOND = 10**9  # nanoseconds
N_IO_THREADS = 8  # files read or copied at once: that waits for disks, not for processors
Cancelled: TypeAlias = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file was when it was looked at: its size in bytes and modification time in nanoseconds."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file with this status."""
        return cls(status.st_size, status.st_mtime_ns)


class Stamps(Sequence[Stamp]):
    """The stamps of many files, 24 bytes each: objects would take five times as much."""

    def __init__(self, stamps: Iterable[Stamp] = (), count: int = 0) -> None:
        """These, or as many as will be set."""
        self._words = array("q", bytes(24 * count))  # size, seconds, and nanoseconds: a time may go beyond one word
        if isinstance(stamps, Stamps):
            self._words.extend(stamps._words)
            return
        for stamp in stamps:
            self.append(stamp)

    def append(self, stamp: Stamp) -> None:
        """Add one."""
        self._words.extend((stamp.size, *divmod(stamp.mtime_ns, NS_PER_SECOND)))

    def at(self, places: Sequence[int]) -> Stamps:
        """Those at some places."""
        import numpy as np  # which the decoding processes do without

        found = Stamps()
        if len(places):
            found._words.frombytes(np.frombuffer(self._words, np.int64).reshape(-1, 3)[np.asarray(places)].tobytes())
        return found

    def __setitem__(self, place: int, stamp: Stamp) -> None:
        self._words[3 * place : 3 * place + 3] = array("q", (stamp.size, *divmod(stamp.mtime_ns, NS_PER_SECOND)))

    def __len__(self) -> int:
        return len(self._words) // 3

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self.at(range(len(self))[place])
        place = range(len(self))[place]
        size, seconds, rest = self._words[3 * place : 3 * place + 3]
        return Stamp(size, seconds * NS_PER_SECOND + rest)

    def __iter__(self) -> Iterator[Stamp]:
        words = iter(self._words)
        return (
            Stamp(size, seconds * NS_PER_SECOND + rest) for size, seconds, rest in zip(words, words, words, strict=True)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stamps) and self._words == other._words

    __hash__ = None  # type: ignore[assignment]


def describe_file(file: object) -> dict[str, object] | None:
    """A file's absolute path, size and modification time; None for what is no path."""
    if not isinstance(file, (str, os.PathLike)):
        return None
    try:
        status = Path(file).stat()
    except (OSError, ValueError):  # a ValueError: a name that no file can have
        return {"path": str(file)}
    return {"path": str(Path(file).absolute()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def open_regular(path: str | bytes | os.PathLike[str], inside: int | None = None) -> BinaryIO:
    """Open a regular file to read; a FIFO that has taken its place does not hang. Raises OSError.

    inside  descriptor of the folder that the path is a name in; then no link is followed
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if inside is None else os.O_NOFOLLOW), dir_fd=inside)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def read_file(file: str | os.PathLike[str]) -> bytes:
    """The content of a file that a user names. Raises OSError for what is no file.

    A shell passes the output of `<(command)` as a FIFO under /dev or /proc; any other may have no writer and hang.
    """
    path = Path(file)
    mode = path.stat().st_mode
    from_a_shell = stat.S_ISFIFO(mode) and path.parts[:2] in (("/", "dev"), ("/", "proc"))
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or from_a_shell):
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    return path.read_bytes()


def read_input_file(file: str | os.PathLike[str], name: str) -> bytes:
    """Like `read_whole`, of a file that messages call `name`. Raises InputError if it cannot be read."""
    try:
        return read_file(file)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"cannot read {name}: no file can have such a name") from None


def hash_file(path: str | os.PathLike[str], inside: int | None = None) -> str:
    """SHA-256 of a file, in hex; `inside` is as `open_regular` has it."""
    with open_regular(path, inside) as file:
        return hash_stream(file)


def hash_stream(file: BinaryIO, cancelled: Cancelled = lambda: False, copy: BinaryIO | None = None) -> str:
    """SHA-256 of the rest of an open file, in hex, copied to another on the way.

    Raises OSError between two blocks if `cancelled()`: somebody wants to leave.
    """
    digest = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        if cancelled():
            raise OSError(errno.ECANCELED, "cancelled")
        digest.update(block)
        if copy is not None:
            copy.write(block)
    return digest.hexdigest()


@contextlib.contextmanager
def temporary_path(target: Path) -> Iterator[Path]:
    """A name beside the target that no other file has. What has it in the end, not yet renamed, is removed."""
    path = target.parent / f"{PARTIAL_PREFIX}{secrets.token_hex(8)}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def create_file(path: str | Path, durable: bool = True, inside: int | None = None) -> Iterator[BinaryIO]:
    """A new file to write, and to read back. In the end it is on the disk, unless it need not be durable.

    inside  descriptor of the folder that the path is a name in
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=inside)
    with os.fdopen(descriptor, "w+b") as file:
        yield file
        file.flush()
        if durable:
            os.fsync(descriptor)


def to_json_bytes(record: object) -> bytes:
    """The content of a JSON file."""
    return json.dumps(record, indent=1).encode() + b"\n"


def write_atomic(path: Path, content: bytes | memoryview, durable: bool = True) -> None:
    """Write a file in one step, in place of any earlier one, whose mode it keeps. Unless it is durable, a power cut may
    leave half of it."""
    with temporary_path(path) as new:
        with create_file(new, durable) as file:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(mode := path.lstat().st_mode):
                    os.fchmod(file.fileno(), mode & 0o777)
            file.write(content)
        new.replace(path)
    if durable:
        sync_folder(path.parent)


def write_output(path: Path, content: bytes) -> None:
    """Write what a user asked for to a place of his: a file whole or not at all, a FIFO or a device as it comes, and of
    a link what it leads to. Raises OSError."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
    else:
        write_atomic(path.resolve(), content)


def sync_folder(folder: Path | int) -> None:
    """Make the names in a folder, or of its descriptor, last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        if isinstance(folder, int):
            os.fsync(folder)
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def walk_files(folder: Path) -> Iterator[str]:
    """Relative paths of everything in a folder that is not itself a folder. Raises OSError for what it cannot list."""
    for base, folders, files in os.walk(folder, onerror=_raise_error):
        links = [name for name in folders if Path(base, name).is_symlink()]
        for name in files + links:
            yield Path(base, name).relative_to(folder).as_posix()


def _raise_error(error: OSError) -> None:
    raise error
