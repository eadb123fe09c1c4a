"""What may be chosen: any n rows, or fixed ones, classes with quotas, and groups that are taken whole.

The rows are cut into units (single rows, or groups), and units of one class and one size form a stratum. How many
units of each stratum a subset takes is settled when it is drawn, so that its classes have their quotas and it has n
rows; the exchanges then stay within strata, which keeps both.

Shapes: N rows, n chosen, U units, K subsets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from imgsubset.statistics.objective import draw_random_subsets

COMPOSITIONS = 16  # ways to make up a quota from groups of several sizes that a batch of draws tries


@dataclass(frozen=True)
class Stratum:
    """Units of one class and one size.

    group  its class
    rows   (units, size) int64, the rows of each
    """

    group: int
    rows: Tensor


class Choices:
    """The subsets of n rows that may be chosen.

    total   N
    fixed   (F,) rows that are in every subset
    strata  the units that may be taken, by class and size
    wanted  rows to take of each class, beside the fixed ones

    Made of them:

    n             rows in a subset, the fixed ones among them; with groups as near to what was asked as they allow
    single        whether every unit is a single row
    unit_rows     the rows of all units, one unit after another
    unit_stratum  (U,) the number of each unit's stratum; ascending
    unit_size     (U,) how many rows each unit has
    unit_start    (U,) where each unit's rows begin in `unit_rows`
    """

    def __init__(self, total: int, fixed: Tensor, strata: Sequence[Stratum], wanted: Mapping[int, int]) -> None:
        self.total, self.fixed = total, fixed
        by_class: dict[int, list[Stratum]] = {group: [] for group in wanted}
        for stratum in strata:
            if wanted.get(stratum.group):
                by_class[stratum.group].append(stratum)
        self.ways = [_Ways([tuple(one.rows.shape) for one in found], wanted[g]) for g, found in by_class.items()]
        if not len(fixed) and any(wanted.values()) and not any(one.target for one in self.ways):
            # Every group is more than twice what is asked for: the smallest of them is nearer than nothing.
            smallest = min(self.ways, key=lambda one: one.least or math.inf)
            smallest.target = smallest.least
        self.strata = [stratum for found in by_class.values() for stratum in found]
        self.n = len(fixed) + sum(one.target for one in self.ways)
        counts, sizes = (fixed.new_tensor([one.rows.shape[k] for one in self.strata]) for k in (0, 1))
        self.single = bool((sizes == 1).all())
        self.unit_rows = torch.cat([fixed[:0], *(stratum.rows.flatten() for stratum in self.strata)])
        self.unit_stratum = torch.repeat_interleave(counts)
        self.unit_size = sizes[self.unit_stratum]
        self.unit_start = self.unit_size.cumsum(0) - self.unit_size

    @classmethod
    def free(cls, total: int, n: int, device: torch.device) -> Choices:
        """Any n of all rows."""
        rows = torch.arange(total, device=device)
        return cls(total, rows[:0], [Stratum(0, rows[:, None])], {0: n})

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Random subsets, as rows (count, n)."""
        if len(self.strata) == 1 and self.single and not len(self.fixed):
            only = self.strata[0].rows[:, 0]
            return only[draw_random_subsets(len(only), self.n, count, generator)]
        seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
        dice = Generator().manual_seed(seed)  # for a few numbers at a time, which a GPU would be slow to give
        ways = 1 if self.single else min(COMPOSITIONS, count)
        parts = [len(part) for part in torch.arange(count).tensor_split(ways)]
        return torch.cat([self._draw_alike(part, dice, generator) for part in parts if part])

    def _draw_alike(self, count: int, dice: Generator, generator: Generator) -> Tensor:
        """Subsets that take equally many units of each stratum."""
        taken = [k for one in self.ways for k in one.composition(dice)]
        columns = [self.fixed.expand(count, -1)]
        for stratum, k in zip(self.strata, taken, strict=True):
            if k:
                units = draw_random_subsets(len(stratum.rows), k, count, generator)
                columns.append(stratum.rows[units].flatten(1))
        return torch.cat(columns, 1)

    def units(self, rows: Tensor) -> Tensor:
        """The units (K, P) that subsets (K, n) consist of, beside the fixed rows, by strata; all of one composition."""
        unit_of = self.fixed.new_full((self.total,), -1)  # as the fixed rows stay
        unit_of[self.unit_rows] = torch.repeat_interleave(self.unit_size)
        found = unit_of[rows].sort(1).values
        is_new = found.diff(dim=1, prepend=unit_of.new_full((len(rows), 1), -1)) > 0
        return found[is_new].view(len(rows), -1)

    def rows(self, units: Tensor) -> Tensor:
        """The subsets (K, n) of units (K, P), all of one composition."""
        size = len(units) * (self.n - len(self.fixed))
        rows = self.unit_rows[units] if self.single else self._expanded(units.reshape(-1), size)[0].view(len(units), -1)
        return torch.cat([self.fixed.expand(len(units), -1), rows], 1) if len(self.fixed) else rows

    def _expanded(self, units: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The `size` rows of units (U',), one after another, and for each which of the units it belongs to."""
        sizes = self.unit_size[units]
        owner = torch.repeat_interleave(sizes, output_size=size)
        within = torch.arange(len(owner), device=units.device) - (sizes.cumsum(0) - sizes)[owner]
        return self.unit_rows[self.unit_start[units][owner] + within], owner

    def summed(self, embed: Callable[[Tensor], Tensor], units: Tensor, size: int) -> Tensor:
        """embed(rows) (..., Z), summed over the rows of each of the units (...), which have `size` rows in all: a GPU
        would have to be waited for to say so."""
        if self.single:
            return embed(self.unit_rows[units])
        rows, owner = self._expanded(units.reshape(-1), size)
        return summed_by_owner(embed(rows), owner, self.unit_size[units.reshape(-1)]).view(*units.shape, -1)


def summed_by_owner(z: Tensor, owner: Tensor, sizes: Tensor) -> Tensor:
    """The sums (U, Z) of z (rows, Z) over each owner's `sizes` (U,) rows, one after another, always in that order."""
    if z.is_cuda:  # where index_add_ adds in any order; on a CPU it is ten times faster
        return torch.segment_reduce(z, "sum", lengths=sizes, unsafe=True)  # unsafe: does not wait to check the lengths
    return z.new_zeros(len(sizes), z.shape[1]).index_add_(0, owner, z)


class _Ways:
    """The ways to make up a number of rows from units of several sizes.

    shapes  of each stratum: how many units, and their size
    target  the reachable number nearest to the one asked for, the lower of two
    least   the lowest reachable number above 0; 0 if there is none
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], wanted: int) -> None:
        self.shapes = shapes
        most = wanted + max((size for _, size in shapes), default=0)
        self.reach = [np.arange(most + 1) == 0]  # [i][t]: whether units of the strata from i on can make up t rows
        for count, size in reversed(shapes):
            # In columns, a unit more is one row down: t is reachable if one of `count` rows above it, or itself, was.
            table = np.pad(self.reach[0], (0, -(most + 1) % size)).reshape(-1, size).cumsum(0)
            table[count + 1 :] -= table[: -count - 1]
            self.reach.insert(0, table.reshape(-1)[: most + 1] > 0)
        reachable = np.flatnonzero(self.reach[0])
        self.target = int(reachable[abs(reachable - wanted).argmin()])
        self.least = int(reachable[:2].max())

    def composition(self, dice: Generator) -> list[int]:
        """How many units of each stratum, at random: about as many as a random choice of units would take."""
        left, rest = self.target, sum(count * size for count, size in self.shapes)
        taken = []
        for (count, size), later in zip(self.shapes, self.reach[1:], strict=True):
            units = np.arange(min(count, left // size) + 1)
            possible = units[later[left - size * units]]
            trials, share = torch.tensor([count, left / rest], dtype=torch.float64)
            taken.append(int(possible[abs(possible - float(torch.binomial(trials, share, dice))).argmin()]))
            left, rest = left - taken[-1] * size, rest - count * size
        return taken
