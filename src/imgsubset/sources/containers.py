"""The reader for each kind of archive, and several archives as one source: the shards of a WebDataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from imgsubset.errors import InputError, UsageError
from imgsubset.files import open_regular
from imgsubset.sources.archive_members import NamedMember, explain_invalid_path, normalise_name
from imgsubset.sources.archives import (
    COMPRESSED_TAR_SUFFIXES,
    is_compressed_tar,
    is_tar,
    iter_compressed_tar_members,
    iter_tar_members,
    iter_zip_members,
)
from imgsubset.sources.images import ARCHIVE_MAGIC, HEAD_BYTES
from imgsubset.sources.parquet import iter_parquet_rows

MEMBER_READERS = {".tar": iter_tar_members, ".zip": iter_zip_members, ".parquet": iter_parquet_rows}
COMPRESSED_TAR = "compressed tar"
CONTAINER_SUFFIXES = (*MEMBER_READERS, *COMPRESSED_TAR_SUFFIXES)


def detect_container_kind(file: str | os.PathLike[str]) -> str | None:
    """What `members_of` takes a file for: by its content or, if that does not tell, its name. Raises OSError."""
    with open_regular(file) as opened:
        head = opened.read(HEAD_BYTES)
        if is_compressed_tar(opened):
            return COMPRESSED_TAR
    if is_tar(head) or head[257:262] == b"ustar":
        return ".tar"
    suffix = Path(file).suffix.lower()
    by_name = suffix if suffix in MEMBER_READERS else None
    return next((kind for start, kind in ARCHIVE_MAGIC.items() if head.startswith(start)), by_name)


def iter_members(file: str | os.PathLike[str], kind: str) -> Iterator[NamedMember]:
    """What is in such a file, in its order. Raises OSError, and InputError for what is no file of this kind."""
    path = os.fspath(file)
    with open_regular(file) as opened:
        status = os.fstat(opened.fileno())
        if status.st_size == 0:
            raise InputError(f"source '{path}' is an empty file")
        reader = iter_compressed_tar_members if kind == COMPRESSED_TAR else MEMBER_READERS[kind]
        yield from reader(path, opened, status)


BRACE_PATTERN = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
MAX_SHARDS = 100_000  # shards


def is_shard_pattern(name: str) -> bool:
    """Whether a name stands for several: it has numbers or words in braces, and no file has that name itself."""
    return BRACE_PATTERN.search(name) is not None and not os.path.lexists(name)


def expand_pattern(pattern: str) -> list[str]:
    """The names that a pattern stands for, as a shell has them: `{000..127}` for numbers, `{a,b}` for words.

    Raises UsageError for more than MOST of them.
    """
    texts, choices, end, total = [], [], 0, 1
    for match in BRACE_PATTERN.finditer(pattern):
        texts.append(pattern[end : match.start()])
        end = match.end()
        first, last, words = match.groups()
        low, high = (0, 0) if words else (int(first), int(last))
        total *= words.count(",") + 1 if words else abs(high - low) + 1
        if total > MAX_SHARDS:
            raise UsageError(f"source '{pattern}' stands for more than {MAX_SHARDS:,} files")
        if words:
            choices.append(words.split(","))
            continue
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) and (len(first) > 1 or len(last) > 1) else 0
        step = 1 if low <= high else -1
        choices.append([f"{number:0{width}}" for number in range(low, high + step, step)])
    return [
        "".join(part for pair in zip(texts, words, strict=True) for part in pair) + pattern[end:]
        for words in product(*choices)
    ]


def is_shard_list(paths: Sequence[str]) -> bool:
    """Whether a list of paths is one of archives: so they are called, and one of them at least is a file."""
    called = bool(paths) and all(path.lower().endswith(CONTAINER_SUFFIXES) for path in paths)
    return called and any(os.path.isfile(path) for path in paths)  # noqa: PTH113 (never raises)


def iter_shard_members(files: Sequence[str], name: str) -> Iterator[NamedMember]:
    """What is in several archives; if one path is in two of them, all paths are below their archive's own.

    Raises InputError for one that cannot be read.
    """
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])  # noqa: PTH100, PTH120
    parts: dict[str, list[NamedMember]] = {}
    owner: dict[str, str] = {}
    twice = False
    for file in dict.fromkeys(files):
        label = os.path.relpath(file, folder)
        try:
            kind = detect_container_kind(file)
            if kind is None:
                raise InputError(f"'{file}' of source '{name}' is no tar or zip archive or Parquet table")
            parts[label] = [*iter_members(file, kind)]
        except OSError as error:
            raise InputError(f"cannot read '{file}' of source '{name}': {error.strerror or error}") from None
        twice |= any(owner.setdefault(normalise_name(path), label) != label for path, _ in parts[label] if path)
    for label, found in parts.items():
        for path, member in found:
            if not path:
                yield path, f"{label}: {member}"
            else:
                yield (
                    f"{_remove_container_suffix(label)}/{path}"
                    if twice and explain_invalid_path(path) is None
                    else path,
                    member,
                )


def _remove_container_suffix(label: str) -> str:
    """What the paths in a shard begin with: its own, without `.tar`, `.tar.gz` and the like."""
    suffix = next((suffix for suffix in CONTAINER_SUFFIXES if label.lower().endswith(suffix)), "")
    return label.removesuffix(label[len(label) - len(suffix) :])
