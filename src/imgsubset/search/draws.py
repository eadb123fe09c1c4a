"""Random draws: uniform candidates, ranked by noised loss; the best few of a round deserve an exact look."""

from __future__ import annotations

import torch
from torch import Tensor

from imgsubset.devices import map_parallel
from imgsubset.search.choices import Choices
from imgsubset.search.loop import Round
from imgsubset.statistics.objective import NoisyBatch, NoisyObjective, Objective
from imgsubset.statistics.rng import make_generator

ROUNDS = 8  # at least, unless asked otherwise, and more where a round would hold more than
ROUND_BYTES = 256 << 20  # of rows and moments
EXACT = 16  # candidates of a round that are looked at without noise, or fewer that have
EXACT_ROWS = 1 << 20  # rows in all
# A draw costs what it has rows, and gives the exchanges the less the more there are: candidates above this many rows
# are made fewer in proportion, so that they take no longer.
FULL_ROWS = 16384
RISE = 0.1  # of kT from round to round, where it rises


class RandomDraws:
    """Draws `candidates` subsets in all, in equal shares a round, under noise whose temperature follows a schedule.

    candidates  as many as there are images, if it is 'all'; those of more than 16,384 rows are fewer: as many as make
                equally many rows
    rounds      at least; one that would hold too much is cut, and stays one for a temperature that rises
    schedule    cool: linearly to 0 at the end; hold: at its start; rise: by 0.1 from round to round
    """

    name = "draws"

    def __init__(
        self,
        objective: Objective,
        candidates: int | str,
        seed: int,
        choices: Choices,
        rounds: int = ROUNDS,
        schedule: str = "cool",
    ) -> None:
        self.objective, self.seed, self.choices, self.schedule = objective, seed, choices, schedule
        wanted = objective.total if isinstance(candidates, str) else candidates
        self.candidates = max(1, wanted * min(FULL_ROWS, choices.n) // choices.n)
        each = 8 * (choices.n + sum(term.block.images.channels**2 for term in objective.terms))
        most = max(1, ROUND_BYTES // each)
        self.asked = min(rounds, self.candidates)
        self.rounds = self.patience = max(self.asked, -(-self.candidates // most))
        self.number = 0  # of the next round

    def temperature(self, fraction: float) -> float:
        """kT of the next round, when this much of the search is over."""
        start = self.objective.langevin.temperature
        risen = RISE * (self.number * self.asked // self.rounds)
        return {"cool": (1 - fraction) * start, "hold": start, "rise": start + risen}[self.schedule]

    def step(self, fraction: float) -> Round:
        """Draw a share and rank it by its loss under the noise."""
        first, last = (self.candidates * number // self.rounds for number in (self.number, self.number + 1))
        count, size = last - first, self.objective.batch
        temperature = self.temperature(fraction)
        noised = NoisyObjective(self.objective, temperature)

        def draw(number: int) -> tuple[Tensor, NoisyBatch]:
            own = make_generator(self.objective.device, "draws", self.seed, self.number, number)
            rows = self.choices.draw(min(size, count - number * size), own)
            return rows, noised.batch(rows, own)

        drawn, batches = zip(*map_parallel(draw, range(-(-count // size)), self.objective.device), strict=True)
        exact = min(count, EXACT, max(1, EXACT_ROWS // self.choices.n))
        lowest = noised.lowest(batches, exact)
        self.number += 1
        return Round(torch.cat(drawn)[lowest], count, temperature)
