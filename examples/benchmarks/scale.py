"""What does a search of very many images take? Time and memory of made-up moments, as many bytes an image as real ones.

    python examples/benchmarks/scale.py 10000 100000 1000000 10000000 [-n 500] [--markdown]

Each number of images is a process of its own. Columns: seconds to standardise the moments, to draw the random subsets
that calibrate a loss, to search, and to measure what was found; memory at the peak that is not a file's, and of it what
an image takes beyond a search of 10,000; and the file of moments that only measure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from imgsubset.features.array_storage import allocate_table
from imgsubset.features.feature_spaces import HELD_OUT_CHANNELS
from imgsubset.features.load import SourceFeatures
from imgsubset.files import Stamps
from imgsubset.options import Options
from imgsubset.progress import Clock, no_progress
from imgsubset.sources.images import Listing
from imgsubset.statistics.moments import Block, ImageMoments
from imgsubset.tasks.constraints import resolve_constraints
from imgsubset.tasks.search import Run, make_selection, never_stop, search_n

NETWORKS, CHANNELS, POSITIONS = 4, 32, 64
MADE = 1 << 16  # images at once


def block(name: str, channels: int, weight: float, images: int, measures: bool, seed: int) -> Block:
    """Moments of feature vectors that are normal, with correlated channels, and of a variance within each image."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator) / channels**0.5 + torch.eye(channels)
    made = ImageMoments(allocate_table(images, 2 * channels, measures, torch.device("cpu")), POSITIONS)
    for rows in torch.split(made.table, MADE):
        mean = torch.randn(len(rows), channels, generator=generator) @ mixing
        rows.copy_(torch.cat([mean, mean.square() + torch.rand(len(rows), channels, generator=generator)], 1))
    return Block(name, made, weight)


def made_up(images: int) -> SourceFeatures:
    """A source of so many images, in no folder, with the spaces that a selection has by default."""
    paths = tuple(f"class-{number % 100:02}/image-{number:08}.jpg" for number in range(images))
    listing = Listing("made up", Path("nowhere"), paths, Stamps(count=images))
    blocks = [block(f"searched {k}", CHANNELS, 1 / NETWORKS, images, False, k) for k in range(NETWORKS)]
    judges = [
        block(f"held-out {k}", shape[-1], 1 / len(HELD_OUT_CHANNELS), images, True, NETWORKS + k)
        for k, shape in enumerate(HELD_OUT_CHANNELS)
    ]
    return SourceFeatures(listing, tuple(blocks), paths, listing.stamps, (), "cpu", held_out=tuple(judges), size=32)


class Peak(threading.Thread):
    """Looks, all the time, at how much memory of its own the process has, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
            self.bytes = max(self.bytes, now)
            time.sleep(0.02)


def measured(images: int, n: int) -> dict[str, float]:
    """Seconds by stage, and bytes at the peak."""
    peak, clock = Peak(), Clock()
    peak.start()
    source = made_up(images)
    with clock.stage("standardise"):
        source = source.standardise()
    allowed = resolve_constraints(source, Options())
    run = Run(Options(), None, clock, never_stop, no_progress, ())
    found = make_selection(source, allowed, search_n(source, allowed, n, run), str(n), run)
    size = found.score.effective_size or 0.0
    return clock.seconds | {"bytes": peak.bytes, "size": size, "searched": found.score.searched_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=int, nargs="+")
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measured(arguments.images[0], arguments.n)))
        return
    left, mark, end = ("| ", " | ", " |") if arguments.markdown else ("", "  ", "")
    stages = ("standardise", "baseline", "search", "measure")
    print(left + mark.join([f"{'images':>10}", *stages, "memory, GB", "bytes an image", "file, GB"]) + end, flush=True)
    if arguments.markdown:
        print("|" + "---:|" * 8)
    first: tuple[int, float] | None = None
    for images in arguments.images:
        command = [sys.executable, __file__, str(images), "-n", str(arguments.n), "--alone"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        first = first or (images, found["bytes"])
        more = (found["bytes"] - first[1]) / (images - first[0]) if images > first[0] else 0.0
        file = sum(8 * shape[-1] for shape in HELD_OUT_CHANNELS) * images / 1e9
        cells = [f"{images:>10,}", *(f"{found[stage]:>{len(stage)}.1f}" for stage in stages)]
        cells += [f"{found['bytes'] / 1e9:>10.2f}", f"{more:>14,.0f}", f"{file:>8.2f}"]
        print(left + mark.join(cells) + end, flush=True)


if __name__ == "__main__":
    main()
