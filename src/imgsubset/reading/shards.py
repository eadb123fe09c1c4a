"""Several archives as one source: the shards of a WebDataset, by a pattern as `shard-{000..127}.tar`, or a list."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import product

from imgsubset.errors import InputError, UsageError
from imgsubset.reading.containers import NAMES, container_kind, members_of
from imgsubset.reading.naming import Found, no_path, plain

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
MOST = 100_000  # shards


def is_pattern(name: str) -> bool:
    """Whether a name stands for several: it has numbers or words in braces, and no file has that name itself."""
    return BRACES.search(name) is not None and not os.path.lexists(name)


def expanded(pattern: str) -> list[str]:
    """The names that a pattern stands for, as a shell has them: `{000..127}` for numbers, `{a,b}` for words.

    Raises UsageError for more than MOST of them.
    """
    texts, choices, end, total = [], [], 0, 1
    for match in BRACES.finditer(pattern):
        texts.append(pattern[end : match.start()])
        end = match.end()
        first, last, words = match.groups()
        low, high = (0, 0) if words else (int(first), int(last))
        total *= words.count(",") + 1 if words else abs(high - low) + 1
        if total > MOST:
            raise UsageError(f"source '{pattern}' stands for more than {MOST:,} files")
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


def are_shards(paths: Sequence[str]) -> bool:
    """Whether a list of paths is one of archives: so they are called, and one of them at least is a file."""
    called = bool(paths) and all(path.lower().endswith(NAMES) for path in paths)
    return called and any(os.path.isfile(path) for path in paths)  # noqa: PTH113 (never raises)


def members_of_shards(files: Sequence[str], name: str) -> Iterator[Found]:
    """What is in several archives; if one path is in two of them, all paths are below their archive's own.

    Raises InputError for one that cannot be read.
    """
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])  # noqa: PTH100, PTH120
    parts: dict[str, list[Found]] = {}
    owner: dict[str, str] = {}
    twice = False
    for file in dict.fromkeys(files):
        label = os.path.relpath(file, folder)
        try:
            kind = container_kind(file)
            if kind is None:
                raise InputError(f"'{file}' of source '{name}' is no tar or zip archive or Parquet table")
            parts[label] = [*members_of(file, kind)]
        except OSError as error:
            raise InputError(f"cannot read '{file}' of source '{name}': {error.strerror or error}") from None
        twice |= any(owner.setdefault(plain(path), label) != label for path, _ in parts[label] if path)
    for label, found in parts.items():
        for path, member in found:
            if not path:
                yield path, f"{label}: {member}"
            else:
                yield f"{_without_suffix(label)}/{path}" if twice and no_path(path) is None else path, member


def _without_suffix(label: str) -> str:
    """What the paths in a shard begin with: its own, without `.tar`, `.tar.gz` and the like."""
    suffix = next((suffix for suffix in NAMES if label.lower().endswith(suffix)), "")
    return label.removesuffix(label[len(label) - len(suffix) :])
