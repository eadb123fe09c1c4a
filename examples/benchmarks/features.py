"""Which features should a subset be matched in? Each extractor, and some together, judged where none of them looked.

    python examples/benchmarks/features.py FOLDER -n 500 --seeds 3 [--only default,hog] [--markdown]

Columns: how many random images the subset is worth to fresh random networks (the judge of held_out.py); its Frechet
distance in six spaces of other kinds (unseen.py), at the resolution of the selection, in units of a random subset's;
the error of mean brightness, contrast, sharpness and file size, in units of that of random subsets (1 is as far off as
these); and the seconds of a selection whose moments are in the cache. Medians over seeds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from held_out import judges
from torch import Tensor
from unseen import Unseen

from imgsubset import Options, select
from imgsubset.annotations.filters import list_candidates
from imgsubset.decoding.workers import chunk_length, decode_chunks
from imgsubset.features.handcrafted import IMAGE_STATISTICS
from imgsubset.features.load import SourceFeatures, load_features
from imgsubset.statistics.objective import Objective, effective_sample_size

LOOKS = ("brightness", "contrast", "sharpness", "file size")
WITHOUT = {"match": {"image": 0}}
ALONE: Mapping[str, dict[str, Any]] = {  # what is matched in place of the networks of the default, or beside them
    "1 network": {"networks": 1},
    "8 networks": {"networks": 8},
    "ReLU": {"activation": "relu"},
    "absolute value": {"activation": "abs"},
    "all layers": {"taps": "all"},
    "kernels of 5": {"kernel_size": 5},
    "16,32,64": {"channels": (16, 32, 64)},
    "CNN1 of the filter study": {"networks": 1, "channels": (32, 32), "kernel_size": (3, 1), "stride": 1,
                                 "activation": "relu"},
    "CNN2 of the filter study": {"networks": 1, "channels": (32, 32), "kernel_size": (3, 1), "stride": 1,
                                 "activation": "relu", "pool": (32, 16)},
    "pixels": {"features": "pixels"},
    "thumbnail": {"features": "thumbnail"},
    "fft": {"features": "fft"},
    "colour": {"features": "colour"},
    "hog": {"features": "hog"},
    **{f"with {name}": {"features": f"random-cnn=1,{name}=1"}
       for name in ("pixels", "thumbnail", "fft", "colour", "hog")},
    "with colour/4 and fft/4": {"features": "random-cnn=1,colour=0.25,fft=0.25"},
}  # fmt: skip
SETTINGS: Mapping[str, dict[str, Any]] = {
    "default": {},
    "without image": WITHOUT,
    **{name: WITHOUT | words for name, words in ALONE.items()},
    "preset fast": {"preset": "fast"},
    "preset thorough": {"preset": "thorough"},
    "preset image-randomer": {"preset": "image-randomer"},
    "preset image-randomiser": {"preset": "image-randomiser"},
}


def pixels(source: SourceFeatures, size: int) -> Iterator[Tensor]:
    """The usable images of a source, in blocks (B, H, W, 3)."""
    files = [os.fsencode(source.listing.locate(path)) for path in source.paths]
    with decode_chunks(files, [size]) as chunks:
        for chunk in chunks:
            count = min(chunk_length(size), len(files) - chunk.start)
            block = np.frombuffer(chunk.pixels[size], np.uint8).reshape(-1, size, size, 3)[:count]
            yield torch.from_numpy(block.copy())


def judged(kinds: list[list[Objective]], rows: Tensor) -> float:
    """The median of medians of sizes."""
    return median(
        median(effective_sample_size(float(judge.loss(rows)), judge.n, judge.total) for judge in kind) for kind in kinds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-n", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--cache", default=".benchmark-cache")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else [*SETTINGS]
    options = Options(cache=arguments.cache)
    listing = list_candidates(arguments.source, options)
    read = load_features(listing, options, seen=("image",))
    assert read.size is not None
    kinds = judges(arguments.source, arguments.n, read.size, arguments.cache)
    unseen = Unseen(pixels(read, read.size), read.paths, arguments.n)
    looks = read.seen["image"].mean.double().numpy()[:, [IMAGE_STATISTICS.index(name) for name in LOOKS]]
    spread = looks.std(0, ddof=1) * (1 / arguments.n - 1 / len(looks)) ** 0.5
    left, end = ("| ", " |") if arguments.markdown else ("", "")
    mark = " | " if arguments.markdown else "  "
    print(left + mark.join([f"{'searched':<28}", "judge", "Frechet", *LOOKS, "seconds"]) + end, flush=True)
    if arguments.markdown:
        print("|---|" + "---:|" * (len(LOOKS) + 3))
    for name in names:
        sizes, ratios, errors, seconds = [], [], [], []
        for seed in range(arguments.seeds + 1):
            start = time.perf_counter()
            found = select(listing, arguments.n, seed=seed, cache=arguments.cache, **SETTINGS[name])
            if seed == 0:
                continue  # it fills the cache
            seconds.append(time.perf_counter() - start)
            rows = torch.tensor([found.rows])
            sizes.append(judged(kinds, rows))
            ratios.append(mean(unseen.distances(rows).ratios))
            errors.append((looks[list(found.rows)].mean(0) - looks.mean(0)) / spread)
        off = np.sqrt(np.mean(np.square(errors), 0))
        cells = [f"{name:<28}", f"{median(sizes):>5,.0f}", f"{median(ratios):>7.2f}"]
        cells += [f"{one:>{len(look)}.2f}" for one, look in zip(off, LOOKS, strict=True)]
        cells += [f"{median(seconds):>7.1f}"]
        print(left + mark.join(cells) + end, flush=True)


if __name__ == "__main__":
    main()
