"""Several archives as one source: the shards of a WebDataset, by a pattern as `shard-{000..127}.tar`, or a list."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import product

from imgsubset.errors import InputError, UsageError
from imgsubset.reading.containers import CONTAINER_SUFFIXES, detect_container_kind, iter_members
from imgsubset.reading.naming import NamedMember, explain_invalid_path, normalise_name

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
