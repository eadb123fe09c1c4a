"""How fast a folder is reduced to moments, and a cold run of `select`, against a plain single-threaded program.

    python examples/benchmarks/ingest.py FOLDER [--repeats 5] [--workers N]

The two are run in turn, and the ratio is that of the medians. Workers are started anew in each run.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from plain import plain_moments, plain_weights

from imgsubset.decoding.workers import decode_chunks
from imgsubset.features.ingest import IngestResult, ingest
from imgsubset.features.random_cnn import RandomCNN
from imgsubset.sources.listing import list_images

COLD_IMAGES = 500


def ours(folder: Path, workers: int | None) -> None:
    listing = list_images(folder)
    places = range(len(listing.paths))
    with decode_chunks([listing.locate(path) for path in listing.paths], [64], workers) as chunks:
        ingest(chunks, places, IngestResult.empty(len(places)), [(RandomCNN(), 64)], torch.device("cpu"))


def plain(folder: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    listing = list_images(folder)
    with torch.inference_mode():
        plain_moments([folder / path for path in listing.paths], plain_weights())
    torch.set_num_threads(threads)


def interleaved(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of each, run in turn after a warm-up of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for run, times in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            run()
            if repeat:
                times.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    folder, repeats = arguments.folder.resolve(), arguments.repeats

    mine, theirs = interleaved(lambda: ours(folder, arguments.workers), lambda: plain(folder), repeats)
    print(f"ingest: {mine:.2f} s, plain {theirs:.2f} s, {theirs / mine:.2f} times as fast")

    with tempfile.TemporaryDirectory() as few:
        for path in list_images(folder).paths[:COLD_IMAGES]:
            link = Path(few, path)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder / path)
        select = [sys.executable, "-m", "imgsubset", "select", few, "unused", "-n", "50"]
        select += ["--candidates", "256", "--steps", "0", "--dry-run", "--quiet", "--no-cache"]
        baseline = [sys.executable, str(Path(__file__).with_name("plain.py")), few]
        mine, theirs = interleaved(
            lambda: subprocess.run(select, check=True),
            lambda: subprocess.run(baseline, check=True, stdout=subprocess.DEVNULL),
            repeats,
        )
    print(f"cold select of {COLD_IMAGES}: {mine:.2f} s, plain ingest {theirs:.2f} s, {100 * mine / theirs:.0f} %")


if __name__ == "__main__":
    main()
