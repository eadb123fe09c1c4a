"""Random draws: uniform candidates, ranked by noised loss; the best few of a round deserve an exact look."""

from __future__ import annotations

import torch
from torch import Tensor

from imgsubset.devices import side_by_side
from imgsubset.search.choices import Choices
from imgsubset.search.loop import Round
from imgsubset.statistics.dice import dice
from imgsubset.statistics.noised import Batch, Noised
from imgsubset.statistics.objective import Objective

ROUNDS = 8  # at least, and more where a round would hold more than
ROUND_BYTES = 256 << 20  # of rows and moments
EXACT = 16  # candidates of a round that are looked at without noise, or fewer that have
EXACT_ROWS = 1 << 20  # rows in all
# A draw costs what it has rows, and gives the exchanges the less the more there are: candidates above this many rows
# are made fewer in proportion, so that they take no longer.
FULL_ROWS = 16384


class RandomDraws:
    """Draws `candidates` subsets in all, in equal shares a round, while the noise cools linearly.

    Those of more than 16,384 rows are fewer: as many as make equally many rows.
    """

    name = "draws"

    def __init__(self, objective: Objective, candidates: int, seed: int, choices: Choices) -> None:
        self.objective, self.seed, self.choices = objective, seed, choices
        self.candidates = max(1, candidates * min(FULL_ROWS, choices.n) // choices.n)
        each = 8 * (choices.n + sum(term.block.images.channels**2 for term in objective.terms))
        most = max(1, ROUND_BYTES // each)
        self.rounds = self.patience = max(min(ROUNDS, self.candidates), -(-self.candidates // most))
        self.number = 0  # of the next round

    def step(self, fraction: float) -> Round:
        """Draw a share and rank it by its loss under the noise."""
        first, last = (self.candidates * number // self.rounds for number in (self.number, self.number + 1))
        count, size = last - first, self.objective.batch
        noised = Noised(self.objective, 1 - fraction)

        def draw(number: int) -> tuple[Tensor, Batch]:
            own = dice(self.objective.device, "draws", self.seed, self.number, number)
            rows = self.choices.draw(min(size, count - number * size), own)
            return rows, noised.batch(rows, own)

        drawn, batches = zip(*side_by_side(draw, range(-(-count // size)), self.objective.device), strict=True)
        exact = min(count, EXACT, max(1, EXACT_ROWS // self.choices.n))
        lowest = noised.lowest(batches, exact)
        self.number += 1
        return Round(torch.cat(drawn)[lowest], count, (1 - fraction) * self.objective.langevin.temperature)
