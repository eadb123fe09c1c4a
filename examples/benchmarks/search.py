"""imgsubset side by side with what people would otherwise use: same features, same machine, same run, on the CPU.

    python examples/benchmarks/search.py FOLDER -n 500 [--seeds 3] [--methods imgsubset,herding] [--markdown]

The first table is what the search is for: the calibrated loss, where 1 is an average random subset. The second looks
at the same subsets in feature spaces that no method saw. Other packages: pip install 'imgsubset[bench]'.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import peers
import torch
from peers import Pick, Problem, UnavailableError
from torch import Tensor
from unseen import SPACES, Distances, Unseen

from imgsubset.decoding.decode import ImageInfo
from imgsubset.decoding.workers import chunk_length, decode_chunks
from imgsubset.divergence_weights import DIVERGENCE_NAMES, Weights
from imgsubset.features.ingest import IngestResult, ingest
from imgsubset.features.random_cnn import RandomCNN
from imgsubset.options import Options
from imgsubset.progress import no_progress
from imgsubset.search.find import find
from imgsubset.sources.listing import Listing, list_images
from imgsubset.statistics.moments import Block, fit_standardiser
from imgsubset.statistics.objective import draw_random_subsets, effective_sample_size, make_objective

SIZE = 64  # pixels
PIXEL_BYTES = 2_000_000_000  # the plain method needs all pixels in memory
RANDOM_SUBSETS = 100
UNIFORM_SEED = 1 << 21  # other subsets than those that the losses are calibrated by
ENDLESS = 1 << 32  # candidates: more than any time limit allows


@dataclass(frozen=True)
class Method:
    """A line of the tables.

    title    how it is called there
    run      from a problem, a seed and the seconds that imgsubset's default took
    package  on PyPI, if it needs one; module: how it is imported
    seeded   whether the outcome depends on the seed; if not, it runs once
    """

    title: str
    run: Callable[[Problem, int, float], Pick]
    package: str = ""
    module: str = ""
    seeded: bool = True


@dataclass(frozen=True)
class Result:
    """What one run of a method came to; ratios are to the mean of random subsets."""

    loss: float
    ratios: tuple[float, ...]
    effective: float
    seconds: float
    unseen: Distances
    note: str


def searched(problem: Problem, options: Options) -> Pick:
    """imgsubset's own search."""
    found = find(problem.objective, options, lambda: False, no_progress)
    draws = max(point.work for point in found.trace if point.method == "draws")
    return Pick(found.rows[:1], f"{draws:,} draws")


def uniform(problem: Problem, seed: int) -> Pick:
    """What random subsets come to on average: 1, but for chance."""
    generator = torch.Generator().manual_seed(UNIFORM_SEED + seed)
    rows = draw_random_subsets(len(problem.images), problem.objective.n, RANDOM_SUBSETS, generator)
    return Pick(rows, f"mean of {RANDOM_SUBSETS}")


def _without_time(run: Callable[[Problem, int], Pick]) -> Callable[[Problem, int, float], Pick]:
    return lambda problem, seed, seconds: run(problem, seed)


METHODS = {
    "imgsubset": Method("imgsubset", lambda problem, seed, _: searched(problem, Options(seed=seed))),
    "draws-time": Method(
        "random draws, same time",
        lambda problem, seed, seconds: searched(
            problem, Options(seed=seed, steps=0, candidates=ENDLESS, time_limit=seconds)
        ),
    ),
    "draws": Method("4,096 random draws", lambda problem, seed, _: searched(problem, Options(seed=seed, steps=0))),
    "plain": Method("plain method, same time", peers.plain),
    "herding": Method("greedy herding", _without_time(peers.herding), seeded=False),
    "kt-gaussian": Method(
        "kernel thinning, Gaussian", _without_time(peers.thinning_gaussian), "goodpoints", "goodpoints.kt"
    ),
    "kt-quadratic": Method(
        "kernel thinning, quadratic", _without_time(peers.thinning_quadratic), "goodpoints", "goodpoints.kt"
    ),
    "k-means": Method("k-means medoids", _without_time(peers.k_means), "scikit-learn", "sklearn.cluster"),
    "facility": Method(
        "facility location", _without_time(peers.facility_location), "apricot-select", "apricot", seeded=False
    ),
    "k-center": Method("k-center", _without_time(peers.k_center)),
    "random": Method("uniform random", _without_time(uniform)),
}


def load(folder: Path, n: int) -> tuple[Problem, Unseen]:
    """Ingest a folder, and look at its pixels once more for the unseen feature spaces."""
    listing = list_images(folder)
    report(f"ingest {len(listing.paths):,} images")
    places = range(len(listing.paths))
    with decode_chunks([listing.locate(path) for path in listing.paths], [SIZE]) as chunks:
        ingested = ingest(chunks, places, IngestResult.empty(len(places)), [(RandomCNN(), SIZE)], torch.device("cpu"))
    (block,) = ingested.blocks([("random-cnn", 1.0)])
    paths = tuple(listing.paths[place] for place in ingested.usable.nonzero()[0])
    scale = fit_standardiser(block.images)
    goal = make_objective([Block(block.name, scale.apply(block.images))], n, Weights())
    report("compute the unseen feature spaces")
    kept: list[Tensor] | None = [] if len(paths) * SIZE**2 * 3 <= PIXEL_BYTES else None
    unseen = Unseen(_kept(pixel_blocks(listing, SIZE), kept), paths, n)
    return Problem(goal, scale, torch.cat(kept) if kept else None), unseen


def pixel_blocks(listing: Listing, size: int) -> Iterator[Tensor]:
    """Pixels (B, H, W, 3) of the images that can be decoded, in order."""
    with decode_chunks([listing.locate(path) for path in listing.paths], [size]) as chunks:
        for chunk in chunks:
            pixels = np.frombuffer(chunk.pixels[size], np.uint8).reshape(chunk_length(size), size, size, 3)
            usable = [place for place, outcome in enumerate(chunk.outcomes) if isinstance(outcome, ImageInfo)]
            if usable:
                yield torch.from_numpy(pixels[usable])


def _kept(blocks: Iterable[Tensor], kept: list[Tensor] | None) -> Iterator[Tensor]:
    for block in blocks:
        if kept is not None:
            kept.append(block)
        yield block


def compare(problem: Problem, unseen: Unseen, names: list[str], seeds: int) -> dict[str, list[Result] | str]:
    """The results of each method, or why there are none."""
    results: dict[str, list[Result] | str] = {}
    for name in names:
        if METHODS[name].module:
            try:  # also keeps the import out of the time
                importlib.import_module(METHODS[name].module)
            except ImportError as error:
                results[name] = f"{METHODS[name].package} is not installed ({error})"
    searched(problem, Options(candidates=64, steps=50))  # warms up
    for seed in range(seeds):
        limit = 0.0
        for name in dict.fromkeys(["imgsubset", *names]):  # the others' time is imgsubset's
            done = results.get(name, [])
            if isinstance(done, str) or (done and not METHODS[name].seeded):
                continue
            report(f"seed {seed}: {METHODS[name].title}")
            try:
                result = measure(problem, unseen, METHODS[name], seed, limit)
            except UnavailableError as error:
                results[name] = str(error)
                continue
            report(f"  loss {result.loss:.4f} after {result.seconds:.1f} s")
            limit = result.seconds if name == "imgsubset" else limit
            results[name] = [*done, result]
    return {name: results[name] for name in names}


def measure(problem: Problem, unseen: Unseen, method: Method, seed: int, limit: float) -> Result:
    """Run a method once, under the clock, and look at what it picked."""
    start = time.perf_counter()
    pick = method.run(problem, seed, limit)
    seconds = time.perf_counter() - start
    objective, total = problem.objective, len(problem.images)
    for row in pick.rows:
        if len(row) != objective.n or len(row.unique()) != objective.n:
            raise AssertionError(f"{method.title} picked {len(row.unique())} different rows, not {objective.n}")
    loss = float(objective.loss(pick.rows, torch.float64).mean())
    values = objective.divergences(pick.rows, torch.float64)[:, 0].mean(0).tolist()
    means = objective.terms[0].random.mean(0).tolist()
    return Result(
        loss=loss,
        ratios=tuple(value / mean if mean else 0.0 for value, mean in zip(values, means, strict=True)),
        effective=effective_sample_size(loss, objective.n, total),
        seconds=seconds,
        unseen=unseen.distances(pick.rows),
        note=", ".join(filter(None, [pick.note, method.package and f"{method.package} {version(method.package)}"])),
    )


def first_table(results: dict[str, list[Result] | str]) -> list[list[str]]:
    """Loss, each divergence's ratio to random, effective size and seconds."""
    table = [["method", "loss", *DIVERGENCE_NAMES, "effective size", "seconds", ""]]
    for name, runs in results.items():
        if isinstance(runs, str):
            table.append([METHODS[name].title, *["-"] * (len(DIVERGENCE_NAMES) + 3), runs])
            continue
        ratios = [f"{mean_of(column):.3f}" for column in zip(*(run.ratios for run in runs), strict=True)]
        size = f"{mean_of(run.effective for run in runs):,.0f}"
        seconds = f"{mean_of(run.seconds for run in runs):.1f}"
        table.append([METHODS[name].title, spread([run.loss for run in runs]), *ratios, size, seconds, runs[-1].note])
    return table


def second_table(results: dict[str, list[Result] | str]) -> list[list[str]]:
    """Ratios to random in unseen feature spaces, and the total variation of class shares."""
    table = [["method", *SPACES, "mean", "class shares"]]
    for name, runs in results.items():
        if isinstance(runs, str):
            continue
        unseen = [run.unseen for run in runs]
        ratios = [f"{mean_of(column):.2f}" for column in zip(*(one.ratios for one in unseen), strict=True)]
        means = spread([mean_of(one.ratios) for one in unseen], 2)
        classes = [one.classes for one in unseen if one.classes is not None]
        table.append([METHODS[name].title, *ratios, means, spread(classes) if classes else "-"])
    return table


def mean_of(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and, of several, standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean_of(values):.{digits}f}{deviation}"


def show(table: list[list[str]], markdown: bool) -> None:
    """Print a table, the first line of which is its head."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for number, line in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print(f"| {' | '.join(cells)} |" if markdown else "  ".join(cells).rstrip())
        if markdown and number == 0:
            print("|---" * len(cells) + "|")


def report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS), help="some of the default: %(default)s")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    names = list(dict.fromkeys(arguments.methods.split(",")))
    if unknown := [name for name in names if name not in METHODS]:
        parser.error(f"unknown method '{unknown[0]}'; known: {', '.join(METHODS)}")
    with torch.inference_mode():
        problem, unseen = load(arguments.folder, arguments.n)
        results = compare(problem, unseen, names, arguments.seeds)
    images, threads = problem.images, torch.get_num_threads()
    print(
        f"N = {len(images):,}, n = {arguments.n:,}, C = {images.channels}, {arguments.seeds} seeds, {threads} threads"
    )
    print("\nCalibrated loss, and each divergence in units of a random subset's:\n")
    show(first_table(results), arguments.markdown)
    classes = unseen.random_classes
    print("\nFrechet distance in feature spaces that no method saw, in units of a random subset's", end="")
    print(f"; class shares: total variation, random {classes:.3f}\n" if classes is not None else ":\n")
    show(second_table(results), arguments.markdown)


if __name__ == "__main__":
    main()
