"""Every error that imgsubset raises on purpose, and what its command line ends with. Any other is a bug."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # all classes here are errors
    from collections.abc import Iterable

EXIT_CODES = {
    0: "done",
    1: "an error inside imgsubset, a lost rank, or too little memory or threads",
    2: "usage: an option, weight or path that makes no sense",
    3: "input unusable: no images, or fewer than n",
    4: "files that cannot be used, under --strict",
    5: "the destination cannot be written",
    6: "the loss is above --max-loss, or the size below --min-size",
    7: "verify: files are missing, changed or new",
    8: "batch: some jobs failed",
    129: "ended by SIGHUP",
    130: "interrupted",
    141: "nobody reads stdout any more",
    143: "ended by SIGTERM",
}


MAX_MESSAGE_CHARS = 1_000  # characters of a message; a line of a list that was no list may have millions


def shorten(text: str, most: int = MAX_MESSAGE_CHARS) -> str:
    """A text without its middle, if it is longer than most people read."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}[... {len(text) - 2 * half:,} characters ...]{text[-half:]}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about a word that is not known: which one may have been meant; empty if none is near."""
    return "".join(f"; did you mean '{one}'?" for one in difflib.get_close_matches(word, list(known), 1))


def one_line(error: BaseException) -> str:
    """What an error says, on one line; its kind, if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def short_repr(value: object) -> str:
    """What a caller gave, for a message: on one line, and not all of something long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # a whole number, or what holds one, of more digits than Python writes
        text = "(a number of too many digits to show)"
    return text if len(text) <= 120 else f"{text[:100]}..."


class ImgsubsetError(Exception):
    """Root of the tree; `exit_code` is what the command line ends with. A message of extreme length is cut."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(shorten(message))


class UsageError(ImgsubsetError, ValueError):
    """The caller asked for something that makes no sense: an option, a weight, a path."""

    exit_code = 2


class InputError(ImgsubsetError):
    """The source cannot be used: it has no images, or too few, or cannot be read."""

    exit_code = 3


class BadFilesError(ImgsubsetError):
    """Some files of the source cannot be decoded, and `strict` was asked for."""

    exit_code = 4


class OutputError(ImgsubsetError):
    """The destination cannot be written, or what was written there is wrong."""

    exit_code = 5


class VerdictError(ImgsubsetError):
    """Nothing went wrong on the way, but the answer is one that should stop a script; it was given beside this."""


class GateError(VerdictError):
    """The loss is above what was allowed; `result` is what has that loss."""

    exit_code = 6

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


class VerifyError(VerdictError):
    """Files of a subset are missing, changed or new."""

    exit_code = 7


class BatchError(VerdictError):
    """Some jobs of a batch failed."""

    exit_code = 8
