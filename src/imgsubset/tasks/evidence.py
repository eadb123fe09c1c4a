"""What a report shows of a subset, gathered while the moments of its source are at hand."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from imgsubset.features.source import Source
from imgsubset.reading.labels import class_names
from imgsubset.reading.thumbnails import Small, thumbnails
from imgsubset.results.evidence import Evidence, Map, Shares, Strip, Thumbnail
from imgsubset.search.quadratic import quadratic_form
from imgsubset.statistics.dice import dice
from imgsubset.statistics.objective import Objective, random_subsets
from imgsubset.tasks.duplicates import exact_duplicates

RANDOM, RANDOM_ROWS = 200, 4_000_000  # random subsets, and their rows in all
SAMPLE = 2000  # images that stand for all where pixels are looked at
MAPPED = 20_000  # images that a map is drawn of
CELLS, BINS = 40, 24
SHOWN, WORST, SETS, OF_SET = 200, 24, 8, 4  # thumbnails
MOST_CLASSES = 50
COLUMNS = 5  # that are shown among random subsets
PART = 512  # of the sample whose distances are held at once


def evidence(
    source: Source, objective: Objective, judges: Sequence[Objective], rows: Tensor, ranking: Sequence[int]
) -> Evidence:
    """Gather it: of a standardised source, the objectives by which a subset (n,) was judged, and its rows in order of
    rank."""
    sample = torch.randperm(len(source.paths), generator=dice(torch.device("cpu"), "report"))[:SAMPLE].tolist()
    other = sample[: len(rows)]  # as good a random subset as any
    shown = [*ranking[:SAMPLE]]
    nearest = _nearest(source, rows, sample)
    worst = [sample[place] for place in np.argsort(-nearest, kind="stable")[:WORST] if nearest[place] > 0]
    twins = exact_duplicates(source)[:SETS]
    pictures = _pictures(source, {*sample, *shown, *(row for rows in twins for row in rows[:OF_SET])})
    chosen = {int(row) for row in rows}
    return Evidence(
        strips=_strips(source, objective, judges, rows),
        shares=(*_spreads(source, pictures, sample, shown, other), *_classes(source, chosen, other)),
        map=_map(source, rows),
        chosen=_shown(source, pictures, shown[:SHOWN]),
        worst=_shown(source, pictures, worst),
        copies=tuple(
            _shown(source, pictures, rows[:OF_SET], {row: "chosen" for row in rows if row in chosen}) for rows in twins
        ),
        paths=source.paths,
        ranked=tuple(source.paths[row] for row in ranking),
        contributions=_contributions(source, objective, rows),
    )


def _strips(source: Source, objective: Objective, judges: Sequence[Objective], rows: Tensor) -> tuple[Strip, ...]:
    """The losses, held-out and searched, and the columns that are met worst."""
    n, total = len(rows), len(source.paths)
    count = max(2, min(RANDOM, RANDOM_ROWS // n))
    random = random_subsets(total, n, count, dice(rows.device, "report", 1))
    strips = []
    if judges:
        held_out = torch.stack([judge.loss(torch.cat([rows[None], random])) for judge in judges]).median(0).values
        strips.append(_strip("Loss in networks that the search did not see", "", held_out.tolist()))
    searched = objective.loss(torch.cat([rows[None], random]))
    strips.append(_strip("Loss in what was searched", "", searched.tolist()))
    columns = []
    for name, known in source.known.items():
        means = known.values[random.cpu().numpy()].mean(1)
        here, everywhere = known.values[rows.cpu().numpy()].mean(0), known.values.mean(0)
        for place, column in enumerate(known.names):
            spread = means[:, place].std()
            off = abs(here[place] - everywhere[place]) / spread if spread else 0.0
            strip = _strip(f"{column} ({name})", "mean", [here[place], *means[:, place]], everywhere[place])
            columns.append((off, strip))
    columns.sort(key=lambda pair: -pair[0])
    return (*strips, *(strip for _, strip in columns[:COLUMNS]))


def _strip(name: str, unit: str, values: Sequence[float], whole: float = 0.0) -> Strip:
    subset, *random = map(float, values)
    return Strip(name, unit, subset, tuple(random), float(whole))


def _features(source: Source, rows: Tensor) -> Tensor:
    """The standardised features of pixels, or embeddings, of these rows, in all blocks: (R, D)."""
    means = [block.images.mean[rows] for block in source.blocks if not block.numbers]
    return torch.cat(means or [source.blocks[0].images.mean[rows]], 1)


def _nearest(source: Source, rows: Tensor, sample: Sequence[int]) -> np.ndarray:
    """How far each of a sample is from the chosen image that is most like it."""
    chosen = _features(source, rows)
    looked = torch.split(_features(source, torch.tensor(sample, device=rows.device)), PART)
    return torch.cat([torch.cdist(some, chosen).amin(1) for some in looked]).cpu().numpy()


def _map(source: Source, rows: Tensor) -> Map | None:
    total = len(source.paths)
    spread = torch.arange(0, total, max(1, -(-total // MAPPED)), device=rows.device)
    features, chosen = (_features(source, some).double().cpu() for some in (spread, rows[:SAMPLE]))
    center = features.mean(0)
    values, vectors = torch.linalg.eigh((features - center).T @ (features - center) / len(features))
    if len(values) < 2 or values[-2] <= 1e-9 * values[-1]:
        return None
    axes = vectors[:, [-1, -2]]
    plane, points = ((some - center) @ axes for some in (features, chosen))
    low, high = plane.quantile(0.005, 0), plane.quantile(0.995, 0)
    plane, points = (((some - low) / (high - low)).clamp(0, 1) for some in (plane, points))
    cells = np.histogram2d(1 - plane[:, 1].numpy(), plane[:, 0].numpy(), CELLS, [(0, 1), (0, 1)])[0]
    density = np.sqrt(cells / cells.max())
    return Map(
        tuple(map(tuple, density.round(2).tolist())),
        tuple((round(x, 3), round(1 - y, 3)) for x, y in points.tolist()),
        float(values[-2:].sum() / values.sum()),
    )


def _pictures(source: Source, rows: Iterable[int]) -> dict[int, Small]:
    wanted = sorted(rows)
    files = [os.fsencode(source.listing.locate(source.paths[row])) for row in wanted]
    found = zip(wanted, thumbnails(files), strict=True)
    return {row: small for row, small in found if small is not None}


def _shown(
    source: Source, pictures: dict[int, Small], rows: Iterable[int], notes: dict[int, str] | None = None
) -> tuple[Thumbnail, ...]:
    notes = notes or {}
    return tuple(
        Thumbnail(source.paths[row], pictures[row].jpeg, notes.get(row, "")) for row in rows if row in pictures
    )


def _spreads(
    source: Source, pictures: dict[int, Small], sample: Sequence[int], chosen: Sequence[int], other: Sequence[int]
) -> list[Shares]:
    """Brightness, contrast and file size of a sample, of the chosen, and of a random subset."""
    found = []
    numbers_of: dict[tuple[str, str], Callable[[int], float]] = {
        ("brightness", ""): lambda row: pictures[row].brightness,
        ("contrast", ""): lambda row: pictures[row].contrast,
        ("file size", "log10 bytes"): lambda row: float(np.log10(max(1, source.stamps[row].size))),
    }
    for (title, unit), number in numbers_of.items():
        sets = [np.array([number(row) for row in rows if row in pictures]) for rows in (sample, chosen, other)]
        if not all(len(numbers) for numbers in sets) or np.ptp(sets[0]) == 0:
            continue
        edges = np.linspace(sets[0].min(), sets[0].max(), BINS + 1)
        whole, subset, random = (
            tuple((np.histogram(numbers.clip(edges[0], edges[-1]), edges)[0] / len(numbers)).tolist())
            for numbers in sets
        )
        found.append(Shares(title, unit, tuple(f"{edge:.3g}" for edge in edges), whole, subset, random, len(sets[0])))
    return found


def _classes(source: Source, chosen: Iterable[int], other: Iterable[int]) -> list[Shares]:
    """The classes that the folders say, where they say some."""
    names = class_names(source.paths)
    everywhere = Counter(names)
    if not 1 < len(everywhere) <= MOST_CLASSES:
        return []
    order = [name for name, _ in everywhere.most_common()]
    whole, subset, random = (
        tuple(counts[name] / counts.total() for name in order)
        for counts in (everywhere, *(Counter(names[row] for row in rows) for rows in (chosen, other)))
    )
    return [Shares("folders", "", tuple(order), whole, subset, random, len(names))]


def _contributions(source: Source, objective: Objective, rows: Tensor) -> dict[str, float]:
    """By how much the loss, to second order, would rise without each of the chosen: |(n r - z) / (n - 1)|^2 - |r|^2,
    with r the mean of their z."""
    n = len(rows)
    if n < 2 or objective.is_flat:
        return {}
    form = quadratic_form(objective)
    residual = form.residual(rows[None])[0]
    rises = [
        ((n * residual - form.embed(some).double()) / (n - 1)).square().sum(1) - residual.square().sum()
        for some in torch.split(rows, PART)
    ]
    return dict(zip((source.paths[int(row)] for row in rows), torch.cat(rises).tolist(), strict=True))
