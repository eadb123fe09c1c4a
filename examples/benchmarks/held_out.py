"""Is the size that is printed true? Selections judged by fresh random networks, which nothing else ever sees.

    python examples/benchmarks/held_out.py photos -n 128 --seeds 10

The judge is the median of three medians: of five networks of 16, 32, 64 channels, two of 32, 64, 128 and two of
16, 32, 32, 48, at the resolution of the selection. Beside it stands the printed size, and that in what was searched.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from imgsubset import Options, select
from imgsubset.annotations.filters import list_candidates
from imgsubset.divergence_weights import Weights
from imgsubset.features.load import load_features
from imgsubset.statistics.objective import Objective, effective_sample_size, make_objective

JUDGES = {(16, 32, 64): 5, (32, 64, 128): 2, (16, 32, 32, 48): 2}
SEED = 20_011  # of their filters: no other program uses it


def judges(source: Path, n: int, size: int, cache: str) -> list[list[Objective]]:
    """The objective in each fresh network, by shape."""
    found = []
    for channels, count in JUDGES.items():
        options = Options(channels=channels, networks=count, feature_seed=SEED, size=size, cache=cache)
        read = load_features(list_candidates(source, options), options, measured=False).standardise()
        goal = make_objective(read.blocks, n, Weights())
        found.append([goal.single_block(place) for place in range(len(goal.terms))])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-n", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--size", default="auto")
    parser.add_argument("--cache", default=".benchmark-cache")
    arguments = parser.parse_args()
    size = arguments.size if arguments.size == "auto" else int(arguments.size)
    kinds: list[list[Objective]] = []
    ratios, sizes = [], []
    print(f"{'seed':>4}{'searched':>10}{'printed':>10}{'judge':>8}{'ratio':>8}{'seconds':>9}")
    for seed in range(arguments.seeds):
        start = time.perf_counter()
        chosen = select(arguments.source, arguments.n, seed=seed, size=size, cache=arguments.cache)
        seconds = time.perf_counter() - start
        assert chosen.size is not None
        kinds = kinds or judges(arguments.source, arguments.n, chosen.size, arguments.cache)
        rows = torch.tensor([chosen.rows])
        of_kind = [
            median(effective_sample_size(float(judge.loss(rows)), judge.n, judge.total) for judge in kind)
            for kind in kinds
        ]
        printed = chosen.score.effective_size
        assert printed is not None
        sizes.append(median(of_kind))
        ratios.append(printed / sizes[-1])
        searched = chosen.score.searched_size
        print(f"{seed:>4}{searched:>10,.0f}{printed:>10,.0f}{sizes[-1]:>8,.0f}{ratios[-1]:>8.2f}{seconds:>9.1f}")
    off = sorted(abs(ratio - 1) for ratio in ratios)
    print(
        f"judge's median size {median(sizes):,.0f} of {arguments.n:,} images; printed over judged {median(ratios):.2f} "
        f"in the median, off by {median(off):.0%} in the median, by up to {off[int(0.9 * (len(off) - 1))]:.0%} for 90 %"
    )


if __name__ == "__main__":
    main()
