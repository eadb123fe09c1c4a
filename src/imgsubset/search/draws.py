"""Random draws: uniform candidates, ranked by noised loss; the best few of a round deserve an exact look."""

from __future__ import annotations

from torch import Generator

from imgsubset.search.choices import Choices
from imgsubset.search.loop import Round
from imgsubset.statistics.objective import Objective

ROUNDS = 8  # at least, and more where a round would have more candidates than
MOST = 2048  # whose moments are held at once
EXACT = 16  # candidates of a round that are looked at without noise


class RandomDraws:
    """Draws `candidates` subsets in all, in equal shares a round, while the noise cools linearly."""

    name = "draws"

    def __init__(self, objective: Objective, candidates: int, generator: Generator, choices: Choices) -> None:
        self.objective, self.generator, self.choices = objective, generator, choices
        self.rounds = self.patience = max(min(ROUNDS, candidates), candidates // MOST)
        self.remaining = [candidates // self.rounds + (i < candidates % self.rounds) for i in range(self.rounds)]

    def step(self, fraction: float) -> Round:
        """Draw a share and rank it by its loss under the noise."""
        count = self.remaining.pop()
        rows = self.choices.draw(count, self.generator)
        lowest = self.objective.noised_lowest(rows, min(EXACT, count), 1 - fraction, self.generator)
        return Round(rows[lowest], count, (1 - fraction) * self.objective.langevin.temperature)
