"""What a run would take of the machine's memory, so that too much is refused before it begins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from imgsubset.cores import max_threads
from imgsubset.errors import InputError
from imgsubset.features.spaces import HELD_OUT_CHANNELS, repeat_per_layer
from imgsubset.options import Options
from imgsubset.reading.processes import chunk_length

MEMINFO_FILE, PROCESS_STATUS_FILE, CGROUP_FOLDER = (
    Path("/proc/meminfo"),
    Path("/proc/self/status"),
    Path("/sys/fs/cgroup"),
)  # of Linux
MAX_IMAGES_IN_MEMORY = 20_000  # images whose held-out rows are kept in memory; those of more are in a file
FLOAT32_BYTES = 4  # bytes of a float32
REDUCED_CHANNELS, PROJECTED_CHANNELS = (
    64,
    256,
)  # channels: of more, at most so many are stored, and the few that they are reduced to beside
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
