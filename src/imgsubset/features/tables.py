"""Room for the rows of a source's images: in memory, or in a file that has no name and that the system pages."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from imgsubset.errors import InputError
from imgsubset.features.memory import MAX_IMAGES_IN_MEMORY, free_bytes

if TYPE_CHECKING:  # torch takes two seconds to import: the decoding processes work meanwhile
    import numpy as np
    import torch
    from torch import Tensor


def allocate_in_memory(count: int, width: int) -> np.ndarray:
    """An array (count, width) float32, not filled."""
    import numpy as np

    return np.empty((count, width), np.float32)


def allocate_in_file(count: int, width: int) -> np.ndarray:
    """The same, in a file: for rows that are looked at seldom, and not to take the memory of those that are searched.

    Raises InputError if neither the folder of temporary files nor the memory has room for it.
    """
    import numpy as np

    size = 4 * count * width
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would be met by a signal, at some later time
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.float32, "w+", shape=(count, width))
    except OSError as error:
        free = free_bytes()
        if free is None or size < free:
            return allocate_in_memory(count, width)
        raise InputError(
            f"{count:,} images need {size / 1e9:.1f} GB in the folder of temporary files, '{tempfile.gettempdir()}': "
            f"{error.strerror or error}; TMPDIR names another one"
        ) from None


def is_memmapped(count: int, measures: bool) -> bool:
    """Whether the rows of so many images go to a file: in a space that only measures or is looked at once."""
    return measures and count > MAX_IMAGES_IN_MEMORY


def choose_allocator(count: int, measures: bool) -> Callable[[int, int], np.ndarray]:
    """What makes room for them."""
    return allocate_in_file if is_memmapped(count, measures) else allocate_in_memory


def allocate_table(count: int, width: int, measures: bool, device: torch.device) -> Tensor:
    """Room for rows (count, width); on this device, but for what goes to a file."""
    import torch

    if device.type != "cpu" and not is_memmapped(count, measures):
        return torch.empty(count, width, device=device)
    return torch.from_numpy(choose_allocator(count, measures)(count, width))
