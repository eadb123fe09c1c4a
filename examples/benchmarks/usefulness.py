"""What does a subset say of classifiers, and of pictures? Subsets of many kinds against simple random ones.

    python examples/benchmarks/usefulness.py cifar10k -n 500 --subsets 400

FOLDER holds class folders of small pictures. Thirteen classifiers of all kinds (`classifiers.py`) are trained on a
random half of it; the other half is the source. Of each subset the means of the source are read off: of each
classifier's accuracy and log-loss, of the classes, of looks of the pictures. "As exact as" is how many random images
would be as far off in the mean square: n / (error over that of simple random subsets)^2, the mean over quantities. One
classifier is the user's own, whose scores some of the methods know; it is judged by itself, and the others without it.
Training takes five minutes and is kept in the cache folder; each searched subset takes two seconds, on two cores.
The tables of 2026-11-27 stand in README.md, beside the others. Classifiers need pip install 'imgsubset[bench]'.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from classifiers import CLASSIFIERS

from imgsubset import Options
from imgsubset.annotations.classes import parse_classes
from imgsubset.decoding.workers import decode_chunks
from imgsubset.devices import single_threaded
from imgsubset.features.load import SourceFeatures
from imgsubset.options import merge_options
from imgsubset.progress import Clock, no_progress
from imgsubset.search.find import find
from imgsubset.sources.listing import list_images
from imgsubset.statistics.estimation import compute_covariates, estimate_means
from imgsubset.tasks.constraints import SelectionConstraints
from imgsubset.tasks.inputs import resolve_inputs
from imgsubset.tasks.search import Run, make_run_objective, never_stop
from imgsubset.tasks.select import prepare_search

SIZE = 32  # pixels
STRATA = 10  # of a classifier's confidence
LEAST = 1e-4  # probability: a log-loss is at most 9.2
RESAMPLES = 2000  # of the bootstrap
MORE = 10  # random subsets for each that is searched
MOST = 50_000  # random images: above that all is said
LOOKS = ("brightness", "contrast", "sharpness", "file size")
RESULTS = ("accuracy", "log-loss", "own accuracy", "differences")  # of classifiers


@dataclass(frozen=True)
class Problem:
    """The half that is the source: N images, M classifiers, K classes.

    paths   of the images
    labels  (N,) their classes
    looks   (N, 4) numbers in the order of LOOKS
    given   by classifier the probabilities (N, K)
    own     the classifier whose scores methods may know
    n       images in a subset
    cache   a folder
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    looks: np.ndarray
    given: dict[str, np.ndarray]
    own: str
    n: int
    cache: Path

    @cached_property
    def others(self) -> list[str]:
        """The classifiers that judge."""
        return [name for name in self.given if name != self.own]

    def right(self, names: Sequence[str]) -> np.ndarray:
        """Whether each of these classifiers is right, (N, M)."""
        return np.stack([self.given[name].argmax(1) == self.labels for name in names], 1).astype(float)

    def own_probability(self, name: str) -> np.ndarray:
        """What a classifier gives the class of each image, (N,)."""
        return np.asarray(self.given[name][np.arange(len(self.labels)), self.labels])

    @cached_property
    def quantities(self) -> dict[str, np.ndarray]:
        """Whose means are to be known: groups of columns (N, Q)."""
        loss = np.stack([-np.log(np.maximum(self.own_probability(name), LEAST)) for name in self.others], 1)
        right = self.right(self.others)
        pairs = np.triu_indices(right.shape[1], 1)
        return {
            "accuracy": right,
            "log-loss": loss,
            "own accuracy": self.right([self.own]),
            "differences": right[:, pairs[0]] - right[:, pairs[1]],
            "classes": np.eye(self.labels.max() + 1)[self.labels],
            **{name: self.looks[:, [place]] for place, name in enumerate(LOOKS)},
        }


def problem(folder: Path, own: str, n: int, cache: Path, whole: bool) -> Problem:
    """Split the folder, train on one half, and gather what is true of the other; or, of the whole, of both."""
    listing = list_images(folder)
    files = [listing.locate(path) for path in listing.paths]
    with decode_chunks(files, [SIZE]) as chunks:
        pixels = torch.frombuffer(bytearray().join(chunk.pixels[SIZE] for chunk in chunks), dtype=torch.uint8)
    pixels = pixels.view(-1, SIZE, SIZE, 3)[: len(files)]
    labels = torch.from_numpy(np.unique(parse_classes(listing.paths), return_inverse=True)[1])
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
    train, test = (half.sort().values for half in order.tensor_split(2))
    sides = [(train, test), (test, train)] if whole else [(train, test)]
    known = {
        name: np.concatenate([predictions(name, pixels, labels, *side, cache) for side in sides])
        for name in CLASSIFIERS
    }
    judged = torch.cat([side[1] for side in sides])
    paths = tuple(os.path.abspath(files[row]) for row in judged.tolist())  # noqa: PTH100
    looks = np.concatenate([looks_of(pixels[judged]), [[Path(path).stat().st_size] for path in paths]], 1)
    return Problem(paths, labels[judged].numpy(), looks, known, own, n, cache)


def predictions(
    name: str, pixels: torch.Tensor, labels: torch.Tensor, train: torch.Tensor, test: torch.Tensor, cache: Path
) -> np.ndarray:
    """What a classifier makes of one half after training on the other; from the cache if it did so before."""
    content = hashlib.blake2b(Path(__file__).with_name("classifiers.py").read_bytes(), digest_size=8)
    for part in (pixels, labels, train, test):
        content.update(part.numpy())
    file = cache / f"{content.hexdigest()}-{name.replace(', ', '-').replace(' ', '-')}.npy"
    if not file.exists():
        start = time.perf_counter()
        found = CLASSIFIERS[name](pixels[train], labels[train], pixels[test])
        right = float((found.argmax(1) == labels[test]).double().mean())
        print(f"{name}: right {right:.1%}, {time.perf_counter() - start:.0f} s", flush=True)
        np.save(file, found.numpy())
    return np.load(file, allow_pickle=False)


def looks_of(pixels: torch.Tensor) -> np.ndarray:
    """Mean and standard deviation of grey levels, and mean length of their gradient, (N, 3)."""
    grey = pixels.float().mean(3)
    sharp = (grey.diff(dim=1).square().mean((1, 2)) + grey.diff(dim=2).square().mean((1, 2))).sqrt()
    return torch.stack([grey.mean((1, 2)), grey.std((1, 2)), sharp], 1).double().numpy()


Method = Callable[[Problem, int], np.ndarray]
"""Subsets (S, n) of a problem: as many as asked for, or MORE times as many random ones."""


def random(problem: Problem, count: int) -> np.ndarray:
    """Simple random subsets."""
    dice = np.random.default_rng(0)
    return np.stack([dice.permutation(len(problem.paths))[: problem.n] for _ in range(MORE * count)])


def stratified(problem: Problem, count: int, strata: np.ndarray | None = None) -> np.ndarray:
    """Random subsets in which each stratum (N,), or class, has its share."""
    dice, total = np.random.default_rng(1), len(problem.paths)
    strata = problem.labels if strata is None else strata
    found = []
    for _ in range(MORE * count):
        order = dice.permutation(total)
        order = order[strata[order].argsort(kind="stable")]
        found.append(order[((np.arange(problem.n) + dice.random()) * total / problem.n).astype(int)])
    return np.stack(found)


def by_confidence(problem: Problem, count: int) -> np.ndarray:
    """Strata by k-means on the largest probability that the own classifier gives (Fogliato et al., ECCV 2024)."""
    return stratified(problem, count, _clustered(problem.given[problem.own].max(1)))


def by_probability(problem: Problem, count: int) -> np.ndarray:
    """The same, where the classes are known: on what the own classifier gives the class of the image."""
    return stratified(problem, count, _clustered(problem.own_probability(problem.own)))


def _clustered(numbers: np.ndarray) -> np.ndarray:
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(STRATA, n_init=4, random_state=0).fit_predict(numbers[:, None]))


def read(problem: Problem, **words: object) -> tuple[SourceFeatures, SelectionConstraints, Run, np.ndarray]:
    """The source as these options have it, and the place in the problem of each of its rows."""
    labels = {"labels": [*problem.labels]} if words else {}
    listing, options, _ = resolve_inputs([*problem.paths], Options(cache=str(problem.cache), **labels, **words))
    clock = Clock()
    source, allowed = prepare_search(
        listing, options, "cpu", embeddings=None, clock=clock, progress=no_progress, n=lambda usable: problem.n
    )
    place = {path: row for row, path in enumerate(problem.paths)}
    rows = [place[os.path.abspath(source.listing.locate(path))] for path in source.paths]  # noqa: PTH100
    return source, allowed, Run(options, None, clock, never_stop, no_progress, ()), np.array(rows)


def searched(problem: Problem, count: int, **words: object) -> np.ndarray:
    """What `select` finds with these options, with the seeds 0, 1, ..."""
    source, allowed, run, rows = read(problem, **words)
    goal, choices = make_run_objective(source, problem.n, run), None if allowed.free else allowed.choices(problem.n)
    seeds = (merge_options(run.options, {"seed": seed}).search for seed in range(count))
    return np.stack([rows[find(goal, seed, never_stop, no_progress, None, choices).rows[0].numpy()] for seed in seeds])


def scores(problem: Problem) -> str:
    """A table of what the own classifier says of each image."""
    given, name = problem.given[problem.own], problem.own
    own, other = problem.own_probability(name), given.copy()
    other[np.arange(len(own)), problem.labels] = -1
    columns = {
        "log probability": np.log(np.maximum(own, LEAST)),
        "probability": own,
        "margin": own - other.max(1),
        "confidence": given.max(1),
        "entropy": -(given * np.log(np.maximum(given, 1e-12))).sum(1),
        "right": (given.argmax(1) == problem.labels).astype(float),
    }
    file = problem.cache / "scores.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", *columns])
        writer.writerows(zip(problem.paths, *(column.tolist() for column in columns.values()), strict=True))
    return str(file)


METHODS: dict[str, Method] = {
    "random": random,
    "random, stratified": stratified,
    "k-means on own confidence": by_confidence,
    "k-means on own p of the class": by_probability,
    "select": lambda problem, count: searched(problem, count),
    "--stratify": lambda problem, count: searched(problem, count, stratify=True),
    "--stratify --match hardness": lambda problem, count: searched(problem, count, stratify=True, match="hardness"),
    "--stratify --match own scores": lambda problem, count: searched(
        problem, count, stratify=True, match=scores(problem)
    ),
    "--stratify --match hardness and own scores": lambda problem, count: searched(
        problem, count, stratify=True, match=("hardness", scores(problem))
    ),
}


ESTIMATED = ("random, stratified", "--stratify --match hardness")


def means(values: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """Plain means (S, Q) of values (N, Q) over subsets (S, n)."""
    return np.stack([values[rows].mean(0) for rows in subsets])


def estimated(problem: Problem, subsets: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """What `estimate` makes of the results of classifiers on subsets with a share of each class, by quantity (S, Q);
    and the share of its intervals for accuracies and log-losses that hold the truth."""
    source, _, _, order = read(problem, stratify=True, match="hardness")
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    parts = {name: problem.quantities[name] for name in RESULTS}
    values, known = torch.from_numpy(np.concatenate([*parts.values()], 1)), compute_covariates(source.blocks)
    shares = torch.tensor([set(column.tolist()) <= {0.0, 1.0} for column in values.T])
    classes, found, held = torch.from_numpy(problem.labels[order]), [], []
    judged = sum(parts[name].shape[1] for name in RESULTS[:2])
    with single_threaded():
        for rows in subsets:
            one = estimate_means(values[rows], known, torch.from_numpy(place[rows]), classes, None, shares)
            found.append(one.value.numpy())
            true = values.mean(0)
            held.append(((one.low <= true) & (true <= one.high))[:judged].double().mean())
    ends = np.cumsum([part.shape[1] for part in parts.values()])[:-1]
    return dict(zip(parts, np.split(np.stack(found), ends, axis=1), strict=True)), float(np.mean(held))


def squares(values: np.ndarray, found: np.ndarray, n: int) -> np.ndarray:
    """Squared errors (S,) of means (S, Q) of values (N, Q), in units of those of random subsets, the mean over Q."""
    expected = values.var(0, ddof=1) * (1 / n - 1 / len(values))
    live = expected > 0
    return np.asarray(((found - values.mean(0))[:, live] ** 2 / expected[live]).mean(1))


def misordered(right: np.ndarray, found: np.ndarray) -> float:
    """Share of the pairs of classifiers that accuracies (S, M) have in the wrong order; a tie is half wrong."""
    one, other = np.triu_indices(right.shape[1], 1)
    true, seen = (np.sign(some[..., one] - some[..., other]) for some in (right.mean(0), found))
    return float(np.abs(seen - true).mean() / 2)


def exactness(square: np.ndarray, n: int, bounds: bool) -> str:
    """As many random images as are as exact as subsets of these squared errors, with a bootstrap interval."""
    picks = np.random.default_rng(2).integers(0, len(square), (RESAMPLES, len(square)))
    low, high = np.quantile(square[picks].mean(1), [0.025, 0.975])
    if n > MOST * square.mean():
        return f"> {MOST:,}"
    return f"{n / square.mean():,.0f}" + (f" ({n / high:,.0f} to {n / low:,.0f})" if bounds else "")


def row(problem: Problem, name: str, found: dict[str, np.ndarray], held: float | None) -> str:
    """A line of the table, of means (S, Q) by quantity."""
    cells = [
        exactness(squares(values, found[group], problem.n), problem.n, group in RESULTS[:2]) if group in found else ""
        for group, values in problem.quantities.items()
    ]
    wrong = misordered(problem.quantities["accuracy"], found["accuracy"])
    return " | ".join([f"| {name}", *cells, f"{wrong:.1%}", "" if held is None else f"{held:.1%}", ""]).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument(
        "--subsets", type=int, default=100, help="that each search finds; of random ones ten times more"
    )
    parser.add_argument("--methods", help="semicolons between several; all: " + "; ".join(METHODS))
    parser.add_argument("--whole", action="store_true", help="train on each half for the other: N is all")
    parser.add_argument("--own", default="CNN", choices=[*CLASSIFIERS], help="the classifier that a user has")
    parser.add_argument("--cache", type=Path, default=Path(".benchmark-cache"))
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    source = problem(arguments.folder, arguments.own, arguments.n, arguments.cache, arguments.whole)
    names = arguments.methods.split(";") if arguments.methods else [*METHODS]
    heads = ["subset", *source.quantities, "pairs in wrong order", "intervals that hold"]
    print(f"N = {len(source.paths):,}, n = {source.n:,}, {len(source.others)} classifiers and the user's own")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in names:
        subsets = METHODS[name](source, arguments.subsets)
        plain = {group: means(values, subsets) for group, values in source.quantities.items()}
        print(row(source, name, plain, None), flush=True)
        if name in ESTIMATED:
            print(row(source, f"{name}, `estimate`", *estimated(source, subsets)), flush=True)


if __name__ == "__main__":
    main()
