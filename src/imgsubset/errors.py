"""Every error that imgsubset raises on purpose.

    ImgsubsetError             exit code 1
    ├── UsageError             2   an option, weight or path that makes no sense
    ├── InputError             3   a source that cannot be used: no images, too few, unreadable
    ├── BadFilesError          4   files that could not be decoded, when `strict` asks for all of them
    ├── OutputError            5   a destination that could not be written
    └── VerdictError               all worked, but the answer is bad
        ├── GateError          6   a loss above what was allowed
        ├── VerifyError        7   a subset that is not what its manifest says
        └── BatchError         8   jobs of a batch failed

Anything else that escapes is a bug.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class ImgsubsetError(Exception):
    """Root of the tree; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(ImgsubsetError, ValueError):
    """The caller asked for something that makes no sense."""

    exit_code = 2


class InputError(ImgsubsetError):
    """The source cannot be used."""

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

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class VerifyError(VerdictError):
    """Files of a subset are missing, changed or new."""

    exit_code = 7


class BatchError(VerdictError):
    """Some jobs of a batch failed."""

    exit_code = 8
