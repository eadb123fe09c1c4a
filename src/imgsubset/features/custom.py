"""Extractors that a user wrote, by the name of their module."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from imgsubset.devices import explain_gpu_error
from imgsubset.errors import UsageError


class ExternalExtractor(torch.nn.Module):
    """An extractor that came from outside: it is called by one thread at a time, the one that called this package.

    A torch module is used in evaluation mode and moves with this one from device to device: a copy, where the caller's
    own would have to change for that.

    Raises UsageError when called if it gives anything but maps.
    """

    def __init__(self, function: Callable[[Tensor], Any], name: str = "the extractor") -> None:
        super().__init__()
        self.name = name
        self.function: Any = copy.deepcopy(function) if isinstance(function, torch.nn.Module) else function
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps (B, C, h, w), float32, of uint8 pixels (B, H, W, 3)."""
        maps = self.function(pixels)
        if not (isinstance(maps, Tensor) and maps.ndim == 4 and len(maps) == len(pixels) and maps.numel()):
            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise UsageError(
                f"{self.name} gives {shape} for {len(pixels)} images, not a tensor ({len(pixels)}, C, h, w); "
                "h and w of a vector are 1"
            )
        return maps.to(pixels.device, torch.float32)


class Custom(ExternalExtractor):
    """An extractor of a user's: `module:function`, of a module that is installed or lies in the current folder.

    The function is an extractor, as in `features.random_cnn.Extractor`, or, where it can be called without any
    argument, or is a class, what makes one. The current folder stays on Python's path, behind all others.

    Raises UsageError if it cannot be imported, and when called if it fails or gives anything but maps.
    """

    def __init__(self, name: str) -> None:
        module, _, function = name.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), function)):
            raise UsageError(f"'python:{name}' is not of the form python:module:function")
        if os.getcwd() not in sys.path:  # noqa: PTH109 (a text)
            sys.path.append(os.getcwd())  # noqa: PTH109
        try:
            found = getattr(importlib.import_module(module), function)
            found = found() if _is_factory(found) else found
        except Exception as error:  # whatever the user's code does
            raise UsageError(f"cannot load 'python:{name}': {_format_error(error)}") from error
        if not callable(found):
            raise UsageError(f"'python:{name}' is no function, but {found!r}")
        super().__init__(found, f"'python:{name}'")

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps (B, C, h, w), float32, of uint8 pixels (B, H, W, 3)."""
        try:
            return super().forward(pixels)
        except UsageError:
            raise
        except Exception as error:
            if explain_gpu_error(error):  # the caller tries fewer images
                raise
            raise UsageError(f"{self.name} failed: {_format_error(error)}") from error


def _is_factory(found: Any) -> bool:
    """Whether it makes an extractor, and is none."""
    if inspect.isclass(found):
        return True
    parameters = inspect.signature(found).parameters.values()
    return all(one.default is not one.empty or one.kind is one.VAR_KEYWORD for one in parameters)


def _format_error(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
