"""Encode metadata columns as channels of moments, so that a search matches them as it does features of pixels.

A number is a feature map of one position: its mean square is its square, and matching mean and variance of a channel
matches mean and spread of the numbers. A text is the indicators of its values, whose means are their shares.

Shapes: N images, C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from imgsubset.annotations.columns import Column
from imgsubset.errors import shorten
from imgsubset.statistics.moments import Block, ImageMoments

# Of a value that fewer images have, a subset may have none or one: nothing to match.
MIN_COUNT_IN_SOURCE, MIN_COUNT_IN_SUBSET = 5, 3
HEAVY_TAIL_KURTOSIS = (
    20  # kurtosis above which a few images rule mean and variance: normal scores stand beside the numbers
)


@dataclass(frozen=True, eq=False)
class MetadataChannels:
    """What a term of `match` is matched in.

    names   of the channels, for people
    values  (N, C) float64, as they are in the columns; of texts 0 and 1
    asked   whether it was asked for, and not matched by default
    """

    names: tuple[str, ...]
    values: np.ndarray
    asked: bool = True

    def block(self, name: str, weight: float, device: torch.device) -> Block:
        """The channels as a block of moments, in units of their spread."""
        spread = self.values.std(0)
        scaled = (self.values - self.values.mean(0)) / np.where(spread > 0, spread, 1)
        table = np.concatenate([scaled, scaled**2], 1).astype(np.float32)
        return Block(name, ImageMoments(torch.from_numpy(table).to(device), 1), weight, numbers=True)


def encode_columns(columns: Sequence[Column], n: int | None) -> tuple[MetadataChannels, tuple[str, ...]]:
    """The channels of columns, and what was pooled or left out.

    n  images in the subset; None: not known yet

    Values of texts that fewer than max(5, 3 N / n) images have are pooled. A column of numbers that are equal for all
    but so few images has no channel.
    """
    total = len(_column_entries(columns[0])) if columns else 0
    rare = max(MIN_COUNT_IN_SOURCE, 0 if n is None else MIN_COUNT_IN_SUBSET * total / n)
    found: list[tuple[str, np.ndarray]] = []
    notes, alike = list[str](), list[str]()
    for column in columns:
        if column.numbers is None:
            made, note = _encode_categories(column, rare)
            notes += note
        else:
            made = _encode_numbers(column, column.numbers, rare)
        varying = [(name, values) for name, values in made if len(values) and np.ptp(values) > 0]
        if not varying:
            alike.append(column.name)
        found += varying
    if alike:
        first = f"column '{shorten(alike[0])}'"
        does = f"{first} does" if len(alike) == 1 else f"{len(alike):,} columns, such as {first}, do"
        notes.append(f"{does} not vary enough to be matched")
    values = np.stack([values for _, values in found], 1) if found else np.zeros((total, 0))
    return MetadataChannels(tuple(name for name, _ in found), values), tuple(notes)


def _column_entries(column: Column) -> Sequence[object] | np.ndarray:
    entries = column.numbers if column.numbers is not None else column.texts
    assert entries is not None
    return entries


def _encode_numbers(column: Column, numbers: np.ndarray, rare: float) -> list[tuple[str, np.ndarray]]:
    known = ~np.isnan(numbers)
    if not known.any():
        return []
    if column.period is not None:
        angle = 2 * np.pi * numbers / column.period
        parts = [(f"sin {column.name}", np.sin(angle)), (f"cos {column.name}", np.cos(angle))]
    else:
        values, counts = np.unique(numbers[known], return_counts=True)
        if counts.sum() - counts.max() < rare:  # all but a few are alike
            return []
        parts = [(column.name, numbers)]
        deviation = (numbers[known] - numbers[known].mean()) / (numbers[known].std() or 1)
        if len(values) > 2 and (deviation**4).mean() > HEAVY_TAIL_KURTOSIS:
            parts.append((f"rank of {column.name}", _normal_scores(numbers, known)))
    # An image of which it is not known stands where it changes no mean.
    parts = [(name, np.where(known, part, part[known].mean())) for name, part in parts]
    if (~known).sum() >= rare:
        parts.append((f"{column.name} empty", (~known).astype(np.float64)))
    return parts


def _normal_scores(numbers: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The quantiles of a normal distribution at the ranks of the numbers; equal numbers have one rank."""
    _, places, counts = np.unique(numbers[known], return_inverse=True, return_counts=True)
    shares = (counts.cumsum() - counts / 2)[places] / known.sum()
    scores = np.full(len(numbers), np.nan)
    scores[known] = torch.special.ndtri(torch.from_numpy(shares)).numpy()  # importing scipy's takes a second
    return scores


def _encode_categories(column: Column, rare: float) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
    texts = column.texts or ()
    counts = Counter(text for entry in texts for text in entry)
    common = sorted(text for text, count in counts.items() if count >= rare)
    place = {text: number for number, text in enumerate(common)}
    values = np.zeros((len(common) + 2, len(texts)))
    other, empty = len(common), len(common) + 1
    for row, entry in enumerate(texts):
        values[[place.get(text, other) for text in entry] or [empty], row] = 1
    name = shorten(column.name, 40)
    names = [*(f"{name}={shorten(text, 40)}" for text in common), f"{name} other", f"{name} empty"]
    made = [pair for pair in zip(names, values, strict=True) if pair[1].sum() >= rare]
    notes = []
    if pooled := len(counts) - len(common):
        fate = "are pooled" if values[other].sum() >= rare else "are not matched"
        notes.append(
            f"{pooled:,} of {len(counts):,} values of column '{name}' are of fewer than {rare:.3g} images and {fate}"
        )
    return made, notes
