"""Extractors that a user wrote, by the name of their module."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

import torch
from torch import Tensor

from imgsubset.errors import UsageError


class Custom(torch.nn.Module):
    """An extractor of a user's: `module:function`, of a module that is installed or lies in the current folder.

    The function is an extractor, as in `features.random_cnn.Extractor`, or, where it can be called without any
    argument, or is a class, what makes one. A torch module is put in evaluation mode, and moves with this one from
    device to device. The current folder stays on Python's path, behind all others.

    Raises UsageError if it cannot be imported, and when called if it fails or gives anything but maps.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        module, _, function = name.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), function)):
            raise UsageError(f"'python:{name}' is not of the form python:module:function")
        if os.getcwd() not in sys.path:  # noqa: PTH109 (a text)
            sys.path.append(os.getcwd())  # noqa: PTH109
        try:
            found = getattr(importlib.import_module(module), function)
            self.function: Any = found() if _makes(found) else found
        except Exception as error:  # whatever the user's code does
            raise UsageError(f"cannot load 'python:{name}': {_told(error)}") from error
        if not callable(self.function):
            raise UsageError(f"'python:{name}' is no function, but {self.function!r}")
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps (B, C, h, w), float32, of uint8 pixels (B, H, W, 3)."""
        try:
            maps = self.function(pixels)
        except torch.OutOfMemoryError:  # the caller tries fewer images
            raise
        except Exception as error:
            raise UsageError(f"'python:{self.name}' failed: {_told(error)}") from error
        if not (isinstance(maps, Tensor) and maps.ndim == 4 and len(maps) == len(pixels) and maps.numel()):
            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise UsageError(
                f"'python:{self.name}' gives {shape} for {len(pixels)} images, not a tensor ({len(pixels)}, C, h, w); "
                "h and w of a vector are 1"
            )
        return maps.to(pixels.device, torch.float32)


def _makes(found: Any) -> bool:
    """Whether it makes an extractor, and is none."""
    if inspect.isclass(found):
        return True
    parameters = inspect.signature(found).parameters.values()
    return all(one.default is not one.empty or one.kind is one.VAR_KEYWORD for one in parameters)


def _told(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
