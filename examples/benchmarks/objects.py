"""Does a subset keep the objects of a detection set? Against random choice and iterative stratification.

    python examples/benchmarks/objects.py FOLDER -n 500 --seeds 20

The images of FOLDER are given objects of 20 unequal classes, which occur together more often than by chance; those of
one seed are one data set. Printed is the root mean square error of how many chosen images have each class, and each
pair of classes, in units of the standard deviation of simple random choice, sqrt(n p (1 - p)), over those of which
n p is at least 5: the median over seeds. Iterative stratification (Sechidis et al., ECML 2011) is that of the package
iterative-stratification, in the extra `bench`; it sees the classes, and no picture.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np

from imgsubset import select

CLASSES, LEAST = 20, 5
Chooser = Callable[[int], np.ndarray]


def objects(total: int, seed: int) -> np.ndarray:
    """How many objects of each class (N, 20) the images have: shares from 60 to 1 per cent, two scenes."""
    random = np.random.default_rng(seed)
    shares = np.geomspace(0.6, 0.01, CLASSES)
    scene = random.random((total, 1)) < 0.5
    likely = np.arange(CLASSES) % 2 == 0
    odds = np.where(scene == likely, 1.6, 0.4)
    present = random.random((total, CLASSES)) < np.minimum(0.95, shares * odds)
    return np.where(present, 1 + random.poisson(0.8, present.shape), 0)


def error(counts: np.ndarray, rows: np.ndarray) -> float:
    """Of the chosen rows, see above."""
    present = (counts > 0).astype(np.float64)
    both = [present[:, one] * present[:, other] for one, other in combinations(range(CLASSES), 2)]
    sets = np.column_stack([present, *both])
    sets = sets[:, len(rows) * sets.mean(0) >= LEAST]
    share, n = sets.mean(0), len(rows)
    off = sets[rows].sum(0) - n * share
    return float(np.sqrt(np.mean(off**2 / (n * share * (1 - share)))))


def searched(source: Path, paths: tuple[str, ...], counts: np.ndarray, n: int, cache: str) -> Chooser:
    """What `select --match objects` chooses, told the objects by a COCO file."""
    random = np.random.default_rng(0)
    rows, kinds = (np.repeat(places, counts[counts > 0]) for places in np.nonzero(counts))
    boxes = random.integers(0, 50, (len(rows), 4)) + 1
    record = {
        "images": [{"id": row, "file_name": path, "width": 100, "height": 100} for row, path in enumerate(paths)],
        "annotations": [
            {"image_id": int(row), "category_id": int(kind), "bbox": box.tolist()}
            for row, kind, box in zip(rows, kinds, boxes, strict=True)
        ],
    }

    def choose(seed: int) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "instances.json")
            file.write_text(json.dumps(record))
            chosen = select(source, n, match="objects", coco=str(file), seed=seed, cache=cache)
        return np.array(chosen.rows)

    return choose


def stratified(counts: np.ndarray, n: int) -> Chooser | None:
    """What iterative stratification chooses; None where it is not installed."""
    try:
        from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
    except ImportError:
        return None

    def choose(seed: int) -> np.ndarray:
        split = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=n, random_state=seed)
        ((_, rows),) = split.split(np.zeros(len(counts)), counts > 0)
        return np.asarray(rows)

    return choose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-n", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--cache", default=".benchmark-cache")
    arguments = parser.parse_args()
    paths, n = select(arguments.source, arguments.n, steps=0, cache=arguments.cache).paths, arguments.n  # decodes
    errors: dict[str, list[float]] = {"random": [], "iterative stratification": [], "select --match objects": []}
    for seed in range(arguments.seeds):
        counts = objects(len(paths), seed)
        errors["random"].append(error(counts, np.random.default_rng(seed).choice(len(paths), n, replace=False)))
        if (choose := stratified(counts, n)) is not None:
            errors["iterative stratification"].append(error(counts, choose(seed)))
        choose = searched(arguments.source, paths, counts, n, arguments.cache)
        errors["select --match objects"].append(error(counts, choose(seed)))
    for name, found in errors.items():
        print(f"{name:<26}{median(found):.3f}" if found else f"{name:<26}not installed", flush=True)


if __name__ == "__main__":
    main()
