"""Which images of a listing count: include and exclude patterns, masks of other images; users' regular expressions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import regex

from imgsubset.annotations.label_files import find_masks
from imgsubset.errors import UsageError
from imgsubset.options import Options
from imgsubset.sources.images import UNREADABLE_FOLDER, Listing, RejectedFile, sort_rejected
from imgsubset.sources.listing import PathSource, list_images

REGEX_TIMEOUT_SECONDS = 10.0  # of processor time for one path, of which an expression mostly takes a millionth
MAX_REGEX_CHARACTERS = 10_000  # characters of an expression: compiling one of two millions takes seconds


class UserRegex:
    """A regular expression; the syntax is that of Python's `re`.

    text   the expression
    named  what messages call it, as in "group_by '(p[0-9]+)_'"

    Raises UsageError that names it if it is none.
    """

    def __init__(self, text: str, named: str) -> None:
        self.named = named
        try:
            if len(text) > MAX_REGEX_CHARACTERS:
                raise ValueError(f"it is longer than {MAX_REGEX_CHARACTERS:,} characters")
            self.pattern = regex.compile(text)
        except RecursionError:
            raise UsageError(f"{named}: not a regular expression: it is nested too deeply") from None
        except (regex.error, ValueError, OverflowError, MemoryError) as error:
            raise UsageError(f"{named}: not a regular expression: {error}") from None

    def matches(self, path: str) -> bool:
        """Whether it is found in a path. Raises UsageError if that takes too long."""
        return self._search(path) is not None

    def extract(self, path: str) -> str | None:
        """What it captures first in a path, its whole match if it has no capture; None without. Raises UsageError."""
        match = self._search(path)
        captured: str | None = match and match[min(1, self.pattern.groups)]
        return captured

    def _search(self, path: str) -> regex.Match[str] | None:
        try:
            return self.pattern.search(path, timeout=REGEX_TIMEOUT_SECONDS)
        except (TimeoutError, MemoryError):
            why = f"not matched with '{path}' within {REGEX_TIMEOUT_SECONDS:g} s; nested repetitions take that long"
            raise UsageError(f"{self.named}: {why}") from None


_POSIX_CLASS_PATTERN = re.compile(r"\[:[a-z]+:\]")


def filter_candidates(listing: Listing, options: Options) -> Listing:
    """A listing with only the images that the options include, do not exclude, and that are no masks of others.

    Patterns follow the rules of .gitignore, relative to the source: the last one that matches a path decides, `!`
    turns one round. Those left out count as ignored.

    Raises UsageError for a pattern that makes no sense.
    """
    if listing.options and _filters(listing.options) == _filters(options):
        return listing
    out: set[str] = set()
    if options.exclude or options.include:
        paths = {*listing.paths, *(file.path for file in listing.rejected)}
        out = _match_patterns(paths, options.exclude) if options.exclude else out
        out |= paths - _match_patterns(paths, options.include) if options.include else set()
    labels = find_masks(listing.paths, options.sidecars)
    named = Counter(tree for path, tree in labels.items() if path not in out)
    folders = [RejectedFile(tree, _describe_masks(count)) for tree, count in named.items()]
    return replace(
        listing.without(out.union(labels)),
        # That a folder cannot be read may hide what the patterns are about.
        rejected=tuple(f for f in listing.rejected if f.path not in out or f.reason.startswith(UNREADABLE_FOLDER)),
        ignored_files=sort_rejected([*listing.ignored_files, *folders]),
        options=options,
    )


def _filters(options: Options) -> tuple[object, ...]:
    return options.include, options.exclude, options.sidecars


def _describe_masks(count: int) -> str:
    are = "picture in it is taken for a label" if count == 1 else "pictures in it are taken for labels"
    return f"{count:,} {are} of others, and never chosen; rename the folder if that is wrong"


def _match_patterns(paths: Iterable[str], patterns: tuple[str, ...]) -> set[str]:
    """The paths that patterns match, each by the last one that does."""
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    rules: list[tuple[UserRegex, bool]] = []
    for pattern in patterns:
        named = f"pattern '{pattern}'"
        if group := _POSIX_CLASS_PATTERN.search(pattern):  # which git knows, but not pathspec
            raise UsageError(f"{named}: {group[0]} is not understood; write ranges as in [a-zA-Z0-9]")
        try:
            expression, matches = GitIgnoreSpecPattern.pattern_to_regex(pattern)
        except ValueError as error:
            raise UsageError(f"{named}: {error}") from None
        if expression is not None:  # as it is for an empty line and a comment
            rules.append((UserRegex(expression, named), bool(matches)))
    rules.reverse()
    return {path for path in paths if next((yes for rule, yes in rules if rule.matches(path)), False)}


def list_candidates(source: PathSource, options: Options) -> Listing:
    """List the images of a source that count. Raises InputError and UsageError as listing and filtering do."""
    return filter_candidates(list_images(source), options)
