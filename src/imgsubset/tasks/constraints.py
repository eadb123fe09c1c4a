"""Which images may be selected: required and forbidden images, duplicates, class counts, groups."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from imgsubset.annotations.classes import check_classes, parse_groups, resolve_classes
from imgsubset.devices import max_threads
from imgsubset.errors import InputError, UsageError, shorten
from imgsubset.features.load import SourceFeatures
from imgsubset.options import Options
from imgsubset.search.choices import Choices, Stratum
from imgsubset.sources.python_sources import make_relative
from imgsubset.statistics.moments import Block, row_hashes
from imgsubset.tasks.inputs import allocate_quotas

# Root mean square over channels of the difference of two images' features, in units of the source's variance. JPEG
# photographs saved again at quality 60 came out at 0.03 or less, at half the size at 0.03 or less nine times in ten;
# the nearest two of 1,000 and of 10,000 different photographs were 0.063 and 0.049 apart.
MAX_DUPLICATE_DISTANCE = 0.03
TREE_DIMENSIONS = 8  # of the features: a tree of all of them would look at every pair
N_SAMPLED_ROWS = 4096  # rows that the directions of these are found from


def find_exact_duplicates(source: SourceFeatures) -> list[tuple[int, ...]]:
    """Sets of rows whose files have the same content, each ascending.

    Equal files have equal moments, so only files with equal moments are read.
    """
    images = source.blocks[0].images
    if not images.channels:
        return []
    keys = row_hashes(images.table)
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    by_content: dict[tuple[int, str], list[int]] = defaultdict(list)
    for place in dict.fromkeys(int(one) for pair in zip(same, same + 1, strict=True) for one in pair):
        row = int(order[place])
        try:
            digest = source.listing.sha256(source.paths[row])
        except OSError:
            continue  # it has gone: copying would say so, if it is chosen
        by_content[source.stamps[row].size, digest].append(row)
    return sorted(tuple(sorted(rows)) for rows in by_content.values() if len(rows) > 1)


class NearDuplicateIndex:
    """Finds the rows of standardised moments that are nearer to a row than `radius`."""

    def __init__(self, blocks: Sequence[Block], radius: float = MAX_DUPLICATE_DISTANCE) -> None:
        from scipy.spatial import KDTree  # a fifth of a second, which most runs need not wait for

        self.features = torch.cat([block.images.mean for block in blocks], 1).cpu().double()
        self.reach = radius * self.features.shape[1] ** 0.5
        # A projection brings no two rows farther apart, so the tree finds all that are near, and some that are not.
        sample = self.features[:: max(1, len(self.features) // N_SAMPLED_ROWS)]
        axes = torch.linalg.svd(sample, full_matrices=False).Vh[:TREE_DIMENSIONS]
        self.projected = (self.features @ axes.T).numpy()
        self.tree = KDTree(self.projected) if self.features.shape[1] else None

    @cached_property
    def candidate_rows(self) -> list[int]:
        """The rows, ascending, that may be near another; the rest are near none."""
        if self.tree is None:
            return [*range(len(self.features))]
        nearest, _ = self.tree.query(
            self.projected, [2], distance_upper_bound=self.reach * (1 + 1e-9), workers=max_threads()
        )
        rows: list[int] = np.flatnonzero(np.isfinite(nearest[:, 0])).tolist()
        return rows

    def of(self, row: int) -> list[int]:
        """The others that are near this row, ascending; all of them if nothing varies in the source."""
        if self.tree is None:
            found = torch.arange(len(self.features))
        else:
            found = torch.tensor(self.tree.query_ball_point(self.projected[row], self.reach * (1 + 1e-9)))
            found = found[(self.features[found] - self.features[row]).norm(dim=1) < self.reach].sort().values
        return [one for one in found.tolist() if one != row]


@dataclass(frozen=True)
class SelectionConstraints:
    """What may be chosen of N rows.

    device          of the tensors
    classes         (N,) the class of each row, a number; all 0 without classes
    names           of the classes; () without classes
    equal           whether classes are to have equal parts, not their shares
    groups          (N,) the group of each row, a number; None without groups
    keep            rows that must be chosen
    excluded        rows that must not
    copies          how many rows are exact copies of an earlier one
    example         path of a kept image, for messages
    duplicate_sets  the sets of rows that are exact copies of each other
    notes           what a user should know
    """

    device: torch.device
    classes: tuple[int, ...]
    names: tuple[str, ...]
    equal: bool
    groups: tuple[int, ...] | None
    keep: frozenset[int]
    excluded: frozenset[int]
    copies: int
    example: str = ""
    duplicate_sets: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def free(self) -> bool:
        """Whether any rows may be chosen."""
        return not (self.names or self.groups or self.keep or self.excluded)

    def bounds(self) -> tuple[int, int]:
        """The fewest and the most rows that a subset may have. Raises InputError if there can be none."""
        fixed, units = self._required_rows(), self._open(self.excluded)
        most = len(fixed) + sum(size * len(found) for (_, size), found in units.items())
        if not most:
            raise InputError("no image of the source may be chosen: all of them are dropped")
        low, high, everywhere = max(1, len(fixed)) - 1, most, self._count_by_class()
        while high - low > 1:  # with classes, the kept images of one may need a larger n than their number
            middle = (low + high) // 2
            try:
                self._free_rows_per_class(middle, fixed, units, everywhere)
                high = middle
            except UsageError:
                low = middle
        return high, most

    def rest(self, taken: Collection[int]) -> torch.Tensor:
        """The rows (n,), ascending, that may be chosen and are not taken."""
        left = self._mask_without(taken) & ~self._mask_with_groups(self.excluded)
        return torch.from_numpy(np.flatnonzero(left)).to(self.device)

    def choices(self, n: int, taken: Collection[int] = ()) -> Choices:
        """The subsets of n rows that may be chosen.

        taken  rows that other subsets have; the quotas are in proportion to what is left

        Raises UsageError if more rows must be chosen than n or than a class has a share of, InputError if there are
        not enough.
        """
        used = frozenset(taken)
        fixed, units = self._required_rows(), self._open(self.excluded | used)
        wanted = self._free_rows_per_class(n, fixed, units, self._count_by_class(used))
        ordered = sorted(units.items(), key=lambda item: item[0])
        strata = [Stratum(group, torch.from_numpy(rows).to(self.device)) for (group, _), rows in ordered]
        always = torch.tensor(sorted(fixed), dtype=torch.long, device=self.device)
        return Choices(len(self.classes), always, strata, wanted)

    @cached_property
    def _class(self) -> np.ndarray:
        return np.array(self.classes, np.int64)

    def _count_by_class(self, but: Collection[int] = ()) -> list[int]:
        """How many rows each class has, without these."""
        counts: list[int] = np.bincount(
            self._class[self._mask_without(but)], minlength=max(1, len(self.names))
        ).tolist()
        return counts

    def _mask_without(self, rows: Collection[int]) -> np.ndarray:
        """Whether each row (N,) is none of these."""
        others = np.ones(len(self.classes), bool)
        others[[*rows]] = False
        return others

    def _mask_with_groups(self, rows: Collection[int]) -> np.ndarray:
        """Whether each row (N,) is one of these or of their groups."""
        if self.groups is None:
            return ~self._mask_without(rows)
        return np.isin(self.groups, [self.groups[row] for row in rows])

    def _required_rows(self) -> list[int]:
        """The rows that must be chosen, whole groups of them, ascending."""
        fixed: list[int] = np.flatnonzero(self._mask_with_groups(self.keep)).tolist()
        return fixed

    def _open(self, barred: Collection[int]) -> dict[tuple[int, int], np.ndarray]:
        """The units (U, size) that may be taken or not, by class and size."""
        rows = np.flatnonzero(~self._mask_with_groups(self.keep.union(barred)))
        if self.groups is None:
            rows = rows[np.argsort(self._class[rows], kind="stable")]
            found, starts = np.unique(self._class[rows], return_index=True)
            parts = np.split(rows[:, None], starts[1:])
            return {(group, 1): part for group, part in zip(found.tolist(), parts, strict=False)}  # no rows, one part
        members: dict[int, list[int]] = defaultdict(list)
        for row in rows.tolist():
            members[self.groups[row]].append(row)
        units: dict[tuple[int, int], list[list[int]]] = defaultdict(list)
        for unit in members.values():
            group = self.classes[unit[0]]
            if len(unit) > 1:  # a group that spans classes counts for the one that most of it has
                group = Counter(self.classes[row] for row in unit).most_common(1)[0][0]
            units[group, len(unit)].append(unit)
        return {key: np.array(found) for key, found in units.items()}

    def _free_rows_per_class(
        self, n: int, fixed: list[int], units: dict[tuple[int, int], np.ndarray], left: list[int]
    ) -> dict[int, int]:
        """How many rows to take of each class, beside the fixed ones."""
        room = Counter(dict.fromkeys(range(max(1, len(self.names))), 0))
        for (group, size), found in units.items():
            room[group] += size * len(found)
        if len(fixed) > n:
            raise UsageError(
                f"{len(fixed):,} images must be kept, which is more than n = {n:,}; the first is '{self.example}'"
            )
        if len(fixed) + room.total() < n:
            raise InputError(
                f"n = {n:,} images are asked for, but only {len(fixed) + room.total():,} of the source may be chosen"
            )
        kept = Counter(self.classes[row] for row in fixed)
        # Equal parts are of what may be chosen; shares are of what there is.
        sizes = [kept[group] + room[group] if self.equal else left[group] for group in sorted(room)]
        quota = allocate_quotas(sizes, n, self.equal)
        wanted = {group: quota[group] - kept[group] for group in room}
        if self.names and (over := [group for group, number in wanted.items() if number < 0]):
            group = over[0]
            raise UsageError(
                f"{kept[group]:,} images of class '{self.names[group]}' must be kept, but its share of n = {n:,} is "
                f"{quota[group]:,}; the first to be kept is '{self.example}'"
            )
        # What a class cannot give, because its images are barred, the others do.
        short = sum(max(0, number - room[group]) for group, number in wanted.items())
        wanted = {group: min(number, room[group]) for group, number in wanted.items()}
        if short:
            rooms = [room[group] - wanted[group] for group in sorted(room)]
            for group, more in zip(sorted(room), allocate_quotas(rooms, short), strict=True):
                wanted[group] += more
        return wanted

    def shares(self, indices: Iterable[int]) -> dict[str, tuple[int, int]]:
        """How many images each class has in the source and among these rows."""
        everywhere, here = Counter(self.classes), Counter(self.classes[row] for row in indices)
        return {name: (everywhere[number], here[number]) for number, name in enumerate(self.names)}


def resolve_constraints(source: SourceFeatures, options: Options) -> SelectionConstraints:
    """Work out what the options ask for in this source, whose moments are standardised.

    Raises UsageError for what contradicts itself, naming the image, and InputError for labels that do not fit.
    """
    paths = source.paths
    labels = resolve_classes(source.listing, paths, options) if options.stratify else []
    check_classes(paths, labels, options)
    names = tuple(sorted(set(labels), key=os.fsencode))
    number = {name: place for place, name in enumerate(names)}
    groups: tuple[int, ...] | None = None
    if options.group_by is not None:
        order: dict[str, int] = {}
        groups = tuple(order.setdefault(name, len(order)) for name in parse_groups(paths, options.group_by))
    keep, unknown = _find_rows(options.keep, source)
    if unknown:
        unusable = {file.path: file.reason for file in source.rejected}
        why = unusable.get(next(iter(unknown.values())), "it is not among the images of the source, or excluded")
        raise UsageError(f"'{next(iter(unknown))}' is to be kept, but {why}")
    drop, unknown = _find_rows(options.drop, source)
    if both := sorted(keep & drop):
        raise UsageError(f"'{paths[both[0]]}' is both to be kept and to be dropped")
    if groups is not None:
        _check_groups(groups, keep, drop, paths)
    twins = find_exact_duplicates(source)
    if options.dedupe:
        drop |= _find_excluded_duplicates(source, keep, drop)
    return SelectionConstraints(
        device=source.blocks[0].images.table.device,
        classes=tuple(number[label] for label in labels) if names else (0,) * len(paths),
        names=names,
        equal=options.stratify_as == "equal",
        groups=groups,
        keep=frozenset(keep),
        excluded=frozenset(drop),
        example=paths[min(keep)] if keep else "",
        copies=sum(len(rows) - 1 for rows in twins),
        duplicate_sets=tuple(twins),
        notes=_no_groups_note(groups, options) + _not_dropped(unknown, source),
    )


def _no_groups_note(groups: Sequence[int] | None, options: Options) -> tuple[str, ...]:
    """What to know where each image is a group of its own."""
    if groups is None or len({*groups}) < len(groups) or len(groups) < 2:
        return ()
    return (f"--group-by '{options.group_by}' finds no two images of one group, so that it does nothing",)


def _not_dropped(unknown: Mapping[str, str], source: SourceFeatures) -> tuple[str, ...]:
    """What to know where --drop names what is neither an image of the source nor an unusable one."""
    rejected = {file.path for file in source.rejected}
    others = [path for path, named in unknown.items() if named not in rejected]
    if not others:
        return ()
    paths = f"{len(others):,} path{'s' if len(others) > 1 else ''}"
    return (f"--drop names {paths} not among the images of the source, or excluded: '{shorten(others[0])}'",)


def _check_groups(groups: Sequence[int], keep: set[int], drop: set[int], paths: Sequence[str]) -> None:
    kept = {groups[row]: row for row in sorted(keep, reverse=True)}
    for row in sorted(drop):
        if groups[row] in kept:
            raise UsageError(
                f"'{paths[kept[groups[row]]]}' is to be kept and '{paths[row]}' dropped, but they are of one group"
            )


def _find_rows(wanted: Collection[str], source: SourceFeatures) -> tuple[set[int], dict[str, str]]:
    """Rows of the images that are named, by paths from the source or from the current folder; and of other paths what
    they are relative to the source."""
    if not wanted:
        return set(), {}
    place = {path: row for row, path in enumerate(source.paths)}
    known = set(source.listing.paths)
    rows, others = set(), {}
    for path in wanted:
        named = make_relative(path, source.listing, known)
        if named in place:
            rows.add(place[named])
        else:
            others[path] = named
    return rows, others


def _find_excluded_duplicates(source: SourceFeatures, keep: set[int], drop: set[int]) -> set[int]:
    """Rows to bar so that no two that are left are copies, exact or near; kept ones stay, else the first by path."""
    neighbours = NearDuplicateIndex([block for block in source.blocks if not block.numbers])
    out = keep | drop
    barred: set[int] = set()
    for row in [*sorted(keep), *(row for row in neighbours.candidate_rows if row not in out)]:
        if row in barred:
            continue
        twins = neighbours.of(row)
        if both := [twin for twin in twins if twin in keep and row in keep]:
            raise UsageError(
                f"'{source.paths[row]}' and '{source.paths[both[0]]}' are both to be kept, but they are copies of each "
                "other, of which --dedupe chooses one"
            )
        barred.update(twins)
    return barred
