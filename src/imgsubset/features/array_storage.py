"""Arrays with one row per image, in memory or in an unnamed file; and the check that a run fits into memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from imgsubset.decoding.workers import chunk_length
from imgsubset.devices import max_threads
from imgsubset.errors import InputError
from imgsubset.features.feature_spaces import HELD_OUT_CHANNELS, repeat_per_layer
from imgsubset.options import Options

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

MEMINFO_FILE, PROCESS_STATUS_FILE = Path("/proc/meminfo"), Path("/proc/self/status")  # Linux
CGROUP_FOLDER = Path("/sys/fs/cgroup")
MAX_IMAGES_IN_MEMORY = 20_000  # images whose held-out rows are kept in memory; those of more are in a file
FLOAT32_BYTES = 4  # bytes of a float32
REDUCED_CHANNELS = 64  # what more channels are reduced to
PROJECTED_CHANNELS = 256  # at most so many are stored before that
BYTES_PER_FILE = (
    500  # bytes of what is known of a file: its path, size and time, what the caches are asked, what is held of it
)
HELD_OUT_ROW_WIDTH = 2 * sum(channels[-1] for channels in HELD_OUT_CHANNELS)


def check_memory(options: Options, size: int, images: int) -> None:
    """Raise InputError if so many images, of this side in pixels, need more memory than is free."""
    batches = max_threads() * batch_bytes(options, size)
    channels = sum(options.channels) if options.taps == "all" else options.channels[-1]
    row = (
        2
        * options.networks
        * (channels if channels <= REDUCED_CHANNELS else min(channels, PROJECTED_CHANNELS) + REDUCED_CHANNELS)
    )
    moments = FLOAT32_BYTES * (row * images + HELD_OUT_ROW_WIDTH * min(images, MAX_IMAGES_IN_MEMORY))
    needed, free = batches + moments + BYTES_PER_FILE * images, free_bytes()
    if free is not None and needed > free:
        shape = f"channels {','.join(map(str, options.channels))} at {size} x {size} pixels"
        raise InputError(
            f"{images:,} images with {shape} need about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            "free; fewer --channels or --networks, a smaller --size or fewer --workers need less"
        )


def batch_bytes(options: Options, size: int) -> int:
    """What one random CNN and one batch of images take: its weights, and the maps before and after a layer."""
    layers = len(options.channels)
    kernels, strides = (repeat_per_layer(numbers, layers) for numbers in (options.kernel_size, options.stride))
    inputs, side, weights, maps = 3, size, 0, [3 * size**2]
    for outputs, kernel, stride in zip(options.channels, kernels, strides, strict=False):
        weights += inputs * outputs * kernel**2
        side = -(-side // stride)
        maps.append(outputs * side**2)
        inputs = outputs
    return FLOAT32_BYTES * (weights + 2 * chunk_length(size) * max(maps))


def free_bytes() -> int | None:
    """How many this process may still take; None if the system does not say."""
    return min(_iter_free_bytes(), default=None)


def _iter_free_bytes() -> Iterator[int]:
    """Of the machine, and of what bounds it."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        yield _read_kernel_bytes(MEMINFO_FILE, "MemAvailable:")
    with contextlib.suppress(OSError, ValueError):
        yield int((CGROUP_FOLDER / "memory.max").read_text()) - int((CGROUP_FOLDER / "memory.current").read_text())
    with contextlib.suppress(ImportError, OSError, StopIteration, ValueError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit - _read_kernel_bytes(PROCESS_STATUS_FILE, "VmSize:")


def _read_kernel_bytes(file: Path, name: str) -> int:
    """A number in a file of the kernel, in bytes."""
    return next(int(line.split()[1]) * 1024 for line in file.read_text().splitlines() if line.startswith(name))


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
