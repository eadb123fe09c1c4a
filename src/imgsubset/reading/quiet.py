"""What libraries say of a damaged picture, kept off the user's screen: it names no file, and the reason for which the
file is left out does."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from PIL import _imaging

_silence_lock, _silence_stack = threading.Lock(), ExitStack()
_inside = 0  # how many threads are


@contextmanager
def silence_libraries() -> Iterator[None]:
    """A context in which Python's warnings and libtiff's messages are not shown.

    Both are settings of the whole process: the first of several threads changes them, and the last restores them.
    """
    global _inside
    with _silence_lock:
        _inside += 1
        if _inside == 1:
            _silence_stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            _silence_stack.enter_context(_silence_libtiff())
    try:
        yield
    finally:
        with _silence_lock:
            _inside -= 1
            if _inside == 0:
                _silence_stack.close()


@contextmanager
def _silence_libtiff() -> Iterator[None]:
    set_handler = _load_tiff_handler_setter()
    earlier = set_handler and set_handler(None)
    try:
        yield
    finally:
        if set_handler:
            set_handler(earlier)


@cache
def _load_tiff_handler_setter() -> Any:
    """libtiff's function for what is to print its errors, which is on stderr by default; None where Pillow hides it."""
    import ctypes

    try:
        function = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
    return function
