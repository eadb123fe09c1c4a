"""Every error that imgsubset raises on purpose.

    ImgsubsetError             exit code 1
    ├── UsageError             2   an option, weight or path that makes no sense
    ├── InputError             3   a source that cannot be used: no images, too few, unreadable
    ├── BadFilesError          4   files that could not be decoded, when `strict` asks for all of them
    └── OutputError            5   a destination that could not be written

Anything else that escapes is a bug.
"""

from __future__ import annotations


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
