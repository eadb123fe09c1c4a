"""Files behind a URL that fsspec knows, such as `s3://` and `gs://`: folders of images, or archives.

Of a folder each file is fetched when it is decoded, and once more if it is copied. Archives are fetched once, whole, to
a temporary folder, as their members can then be read in any order.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from imgsubset.errors import InputError, UsageError, one_line, shorten
from imgsubset.files import Stamp
from imgsubset.sources.archive_members import MAX_MEMBER_BYTES, FetchedMember, InMemoryFile, NamedMember

URL_PATTERN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?!/)(.*)", re.DOTALL)
TIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "created")  # what file systems call the last change
VERSION_KEYS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5")  # and what changes with the content


def parse_url(source: str | os.PathLike[str]) -> str | None:
    """The URL that a source is; None if it is none. A Path has made one slash of two."""
    match = URL_PATTERN.fullmatch(os.fspath(source))
    return None if match is None or os.path.lexists(source) else f"{match[1]}://{match[2]}"


class RemoteFile(FetchedMember):
    """A file behind a URL."""

    __slots__ = ("key", "path", "stamp", "system")

    def __init__(self, system: Any, path: str, stamp: Stamp, key: str) -> None:
        self.system, self.path, self.stamp, self.key = system, path, stamp, key

    @property
    def sort_key(self) -> tuple[str, int]:
        """Where it lies."""
        return self.path, 0

    def to_sendable(self) -> InMemoryFile:
        """Its content. Raises OSError."""
        try:
            content = self.system.cat_file(self.path)
        except OSError:
            raise
        except Exception as error:  # whatever the file system has
            raise OSError(errno.EIO, _format_error(error)) from None
        if len(content) != self.stamp.size:
            raise OSError(errno.ESTALE, "has changed since it was listed")
        return InMemoryFile(content, self.stamp)


def find_remote_files(url: str) -> tuple[Iterator[NamedMember], bool]:
    """The files in a folder behind a URL, and whether it tells when they were changed.

    Raises InputError if it cannot be listed, UsageError for a URL that no file system here takes.
    """
    system, root = _open_file_system(url)
    try:
        found = system.find(root, detail=True)
        if not found and not system.exists(root):
            raise InputError(f"cannot read source '{url}': there is nothing there")
    except InputError:
        raise
    except Exception as error:  # whatever the file system has
        raise InputError(f"cannot read source '{url}': {_format_error(error)}") from None
    prefix = root.rstrip("/") + "/" if root.strip("/") else "/" if root.startswith("/") else ""
    whole = {path.removeprefix(prefix): entry for path, entry in found.items() if not path.endswith("/")}
    return _iter_remote_files(system, url, whole), all(_get_version(entry) for entry in found.values())


def _iter_remote_files(system: Any, url: str, entries: dict[str, dict[str, Any]]) -> Iterator[NamedMember]:
    for path, entry in entries.items():
        size = entry.get("size")
        if entry.get("type") != "file":
            yield path, "not a regular file"
        elif not isinstance(size, int):
            yield path, "its size is not known"
        elif size > MAX_MEMBER_BYTES:
            yield path, f"{size:,} bytes, more than the {MAX_MEMBER_BYTES:,} of a file that is fetched"
        else:
            stamp = Stamp(size, _get_mtime_ns(entry))
            yield path, RemoteFile(system, entry["name"], stamp, f"{url}\0{_get_version(entry)}")


def download_files(urls: Sequence[str]) -> tuple[list[str], str]:
    """Files behind URLs, copied under their names into a temporary folder, which whoever asks removes; and that.

    Raises InputError, UsageError.
    """
    folder = tempfile.mkdtemp(prefix="imgsubset-")
    try:
        return _download_files(urls, folder), folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _download_files(urls: Sequence[str], folder: str) -> list[str]:
    files = []
    for number, url in enumerate(urls):
        system, path = _open_file_system(url)
        target = Path(folder, f"{number:06}", path.rstrip("/").rpartition("/")[2] or "file")
        target.parent.mkdir()
        try:
            with system.open(path, "rb") as remote, target.open("wb") as local:
                while block := remote.read(1 << 22):
                    local.write(block)
        except Exception as error:  # whatever the file system has
            raise InputError(f"cannot read source '{url}': {_format_error(error)}") from None
        files.append(str(target))
    return files


def _open_file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"source '{url}': {_format_error(error)}: pip install 'imgsubset[remote]'") from None
    except ValueError as error:
        raise UsageError(f"source '{url}': {_format_error(error)}") from None
    except Exception as error:
        raise InputError(f"cannot read source '{url}': {_format_error(error)}") from None
    return system, path


def _get_version(entry: dict[str, Any]) -> str:
    """What a file system says that changes with the content of a file; empty if that is nothing."""
    return " ".join(str(entry[name]) for name in (*VERSION_KEYS, *TIME_KEYS) if entry.get(name) is not None)


def _get_mtime_ns(entry: dict[str, Any]) -> int:
    """When a file was changed, since 1970; 0 if that is not known as a time."""
    for time in (entry.get(name) for name in TIME_KEYS):
        if isinstance(time, datetime):
            return int(time.timestamp() * 1e6) * 1000
        if isinstance(time, (int, float)):
            return int(time * 1e6) * 1000
    return 0


def _format_error(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
    return shorten(" ".join(text.split()), 300)
