"""Images of a source that are copies of each other, exact or near."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from imgsubset.cores import max_threads
from imgsubset.features.source import SourceFeatures
from imgsubset.statistics.moments import Block, row_hashes

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
