"""Regular expressions that users write, on an engine that gives up: some take longer than anyone waits."""

from __future__ import annotations

import regex

from imgsubset.errors import UsageError

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
            why = f"not matched with '{path}' within {REGEX_TIMEOUT_SECONDS:g} s; repetitions inside repetitions take that long"
            raise UsageError(f"{self.named}: {why}") from None
