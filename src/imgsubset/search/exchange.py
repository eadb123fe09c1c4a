"""Annealed Langevin exchanges: several chains, each a subset of n rows, in the second-order form of the loss.

A step takes a window of members of every chain and one random pool of rows for all chains, computes the inner
products of z among them once, and visits the window's places one after another. A visit takes the place's row out and
draws its successor among that row and all pool rows outside the subset, with probability proportional to
exp(-loss / T): the conditional distribution itself (a heat bath; Geman & Geman, PAMI 1984). Nothing is rejected, no
normaliser of a reverse move is needed, and at a fixed T the chain's stationary distribution is exactly Boltzmann's:
a pool is as likely from the new subset as from the old. At T = 0 a visit takes the best row there is. The places are in
an order of chance: how long a row lasts depends on its place in it, and must not on its place among the images.

Locally informed proposals of pairs (Zanella, JASA 2020) are exact too, but a visit then costs a matrix of pairs instead
of a row of it: in equal time a loss of 0.031 at best, against 0.025 here (500 of 10,000 CIFAR images, 3 s, 2 cores).

Shapes: R chains, n rows in a subset, U units (rows, or groups of them), V places for units in a subset, M of them in a
window, D units in a pool, P = M + D, Z numbers in z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from imgsubset.devices import single_threaded
from imgsubset.search.choices import Choices
from imgsubset.search.loop import Round
from imgsubset.search.quadratic import Quadratic
from imgsubset.statistics.rng import make_generator

# Chosen by measurement: pools of 64 to 256 and windows of 32 to 128 do equally well.
POOL, WINDOW = 128, 64
# First and last temperature times n: exchanging two random rows adds about 2 / n to a calibrated loss, whatever the
# data, the weights and n. Twice or half of either changes the outcome by less than the seed does.
HOT, COLD = 0.2, 0.005
ROUNDS = 40  # at least; each at one temperature and ended by an exact look
MOST_STEPS = 50  # in a round
MOST_SEEN = 1 << 20  # rows of the subsets of a round that an exact look is taken at
MOST_EMBEDDED = 4096  # rows of the units of a window and a pool


class Exchanges:
    """Chains that start from the subsets `rows` (R, n) and make about `steps` steps in all.

    choices   what may be chosen; with groups there is one chain only, as chains would take unequally many
    members   (R, V) int64, the units of each subset that may be exchanged: rows, or groups
    chosen    (R, U) bool, the same as a mask: one byte a unit
    residual  (R, Z) float64, mean of z over each subset
    """

    name = "exchanges"

    def __init__(self, form: Quadratic, rows: Tensor, steps: int, seed: int, choices: Choices) -> None:
        self.form, self.seed, self.choices, self.n = form, seed, choices, rows.shape[1]
        self.members = _shuffled(choices.units(rows), choices, seed)
        # Of each place, the same in all chains, as its unit stays in its stratum. Known here, so that no step waits
        # for a GPU to say how many rows its units have.
        self.sizes = None if choices.single else choices.unit_size[self.members[0]].tolist()
        self.chosen = torch.zeros(len(rows), len(choices.unit_size), dtype=torch.bool, device=rows.device)
        self.chosen.scatter_(1, self.members, True)
        self.residual = form.residual(rows)
        largest = int(choices.unit_size.max())
        self.window, self.pool = (max(1, min(size, size * MOST_EMBEDDED // (192 * largest))) for size in (WINDOW, POOL))
        self.steps_a_round = max(1, min(MOST_STEPS, steps // ROUNDS))
        self.rounds = max(1, round(steps / self.steps_a_round))
        self.patience = max(10, self.rounds // 4)
        self.look_every = max(1, rows.numel() * self.steps_a_round // MOST_SEEN)
        self.first = 0  # place at which the next window begins
        self.round = 0
        self._throw()

    def step(self, fraction: float) -> Round:
        """A round of steps at one temperature; returns the chains' subsets after each of its steps."""
        self._throw()
        self.round += 1
        temperature = self.temperature(fraction)
        changed = torch.zeros((), device=self.members.device)
        seen = []
        # Threads inside such small operations gain a quarter, and cost tenfold where other programs want the cores.
        with single_threaded():
            for number in range(self.steps_a_round):
                changed += self.sweep(temperature)
                # The exact loss strays from the second-order one by a few per cent: the more looks the better.
                if (self.steps_a_round - 1 - number) % self.look_every == 0:
                    seen.append(self.choices.rows(self.members))
        return Round(torch.cat(seen), self.steps_a_round, temperature, float(changed) / self.steps_a_round)

    def _throw(self) -> None:
        """Random numbers for this round: the pool's, and each chain's own, so that none depends on the others."""
        device = self.members.device
        self.of_pool = make_generator(device, "pool", self.seed, self.round)
        self.of_chain = [
            make_generator(device, "chain", self.seed, self.round, chain) for chain in range(len(self.members))
        ]

    def temperature(self, fraction: float) -> float:
        """Geometric from HOT / V to COLD / V, and 0 in the last round, in units of the loss."""
        return float(HOT / self.members.shape[1] * (COLD / HOT) ** fraction) if fraction < 1 else 0.0

    def sweep(self, temperature: float) -> Tensor:
        """Visit one window of each chain. Returns the share of places whose unit changed, without waiting for it."""
        total, device = self.members.shape[1], self.members.device
        places = (torch.arange(min(self.window, total), device=device) + self.first) % total
        old = self.members[:, places]
        pool, blocked = self._draw_pool(old[0])
        window_rows, pool_rows = self._sizes(len(places))
        inside = self.choices.summed(self.form.embed, old, window_rows)
        outside = self.choices.summed(self.form.embed, pool, pool_rows)
        coupling = _couplings(inside, outside) * (2 / self.n**2)
        residual = self.residual.float()
        score = torch.cat([torch.bmm(inside, residual[:, :, None])[:, :, 0], residual @ outside.T], 1)
        # The loss if a unit were added to S, up to a constant; _visit subtracts what the one taken out contributes.
        energy = score * (2 / self.n) + coupling.diagonal(dim1=1, dim2=2) / 2
        # The least of energy - T * Gumbel is a draw from exp(-energy / T), also at T = 0.
        noise = torch.empty(len(energy), len(places), energy.shape[1], device=device)
        for own, generator in zip(noise, self.of_chain, strict=True):
            own.exponential_(generator=generator)
        noise.clamp_min_(1e-38).log_().mul_(temperature)
        noise[..., len(places) :].masked_fill_(blocked[:, None], float("inf"))
        unvisited = torch.ones(len(places), len(places), dtype=torch.bool, device=device).triu_(1)
        noise[..., : len(places)].masked_fill_(unvisited, float("inf"))  # still members
        if len(self.choices.strata) > 1:
            strata = self.choices.unit_stratum[torch.cat([old[0], pool])]  # the same in all chains
            noise.masked_fill_(strata[: len(places), None] != strata, float("inf"))
        picked = _visit(energy, coupling, noise)
        self._commit(places, old, pool, picked, inside, outside)
        self.first = (self.first + len(places)) % total
        return (picked != torch.arange(len(places), device=device)).float().mean()

    def _sizes(self, window: int) -> tuple[int, int]:
        """How many rows the units of the window, of all chains, and of the pool have."""
        if self.sizes is None:
            return len(self.members) * window, self.pool
        sizes = [self.sizes[(self.first + k) % len(self.sizes)] for k in range(window)]
        return len(self.members) * sum(sizes), sum(sizes[k % window] for k in range(self.pool))

    def _draw_pool(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """Random units (D,), and for each chain which of them may not be taken (R, D): members and second copies.

        Independent draws with replacement, whatever the subset holds, are what makes a step exact, and their cost
        does not depend on N. One pool for all chains, so that its inner products are computed once. Where there are
        strata, each place of the window has its share of draws from its own.
        """
        device, strata = window.device, self.choices.unit_stratum
        if len(self.choices.strata) == 1:
            pool = torch.randint(len(strata), (self.pool,), generator=self.of_pool, device=device)
        else:
            own = strata[window[torch.arange(self.pool, device=device) % len(window)]]
            low, high = (torch.searchsorted(strata, own, right=right) for right in (False, True))
            chance = torch.rand(self.pool, generator=self.of_pool, device=device, dtype=torch.float64)
            pool = low + (chance * (high - low)).long()
        ascending, place = pool.sort()
        second = torch.empty_like(pool, dtype=torch.bool).scatter_(
            0, place, ascending.diff(prepend=pool[:1] - pool[:1] - 1) == 0
        )
        return pool, self.chosen[:, pool] | second

    def _commit(
        self, places: Tensor, old: Tensor, pool: Tensor, picked: Tensor, inside: Tensor, outside: Tensor
    ) -> None:
        """Write a window's new rows, (R, M) positions among P, into the state."""
        chains, window = old.shape
        new = torch.cat([old, pool.expand(chains, -1)], 1).gather(1, picked)
        change = inside.new_zeros(chains, window + len(pool)).scatter_(1, picked, 1.0)
        change[:, :window] -= 1.0
        moved = torch.bmm(change[:, None, :window], inside)[:, 0] + change[:, window:] @ outside
        # float32 within a step, float64 across steps: after 10,000 exchanges the error is about 1e-7.
        self.residual += moved.double() / self.n
        self.chosen.scatter_(1, old, False)
        self.chosen.scatter_(1, new, True)
        self.members[:, places] = new


def _shuffled(members: Tensor, choices: Choices, seed: int) -> Tensor:
    """Members (R, V) in an order of chance. Those of a stratum stay together, so that a window has few strata and each
    of its places many of the pool's units to choose from."""
    own, device = make_generator(members.device, "places", seed), members.device
    members = members[:, torch.randperm(members.shape[1], generator=own, device=device)]
    rank = torch.randperm(len(choices.strata), generator=own, device=device)
    return members[:, rank[choices.unit_stratum[members[0]]].argsort(stable=True)]


def _couplings(inside: Tensor, outside: Tensor) -> Tensor:
    """Inner products of z among a window (R, M, Z) and the pool (D, Z): (R, P, P), the window first."""
    cross = (inside.flatten(0, 1) @ outside.T).view(*inside.shape[:2], -1)
    among = (outside @ outside.T).expand(len(inside), -1, -1)
    of_window, of_pool = torch.cat([inside @ inside.mT, cross], 2), torch.cat([cross.mT, among], 2)
    return torch.cat([of_window, of_pool], 1)


def _visit(energy: Tensor, coupling: Tensor, noise: Tensor) -> Tensor:
    """Visit the window's places in turn; the row each one ends with, as a position among P: (R, M).

    energy (R, P), coupling (R, P, P) and noise (R, M, P) in units of the loss. A row that a visit took out stays among
    the positions, free for the visits after it; the noise is infinite where a visit may not choose.
    """
    chains, total = energy.shape
    offset = torch.arange(chains, device=energy.device) * total
    rows = coupling.reshape(chains * total, total)
    picked = []
    for row, draw in zip(coupling.unbind(1), noise.unbind(1), strict=False):
        energy = energy - row
        choice = (energy + draw).argmin(1)
        energy.add_(rows.index_select(0, choice + offset))
        energy.scatter_(1, choice[:, None], float("inf"))  # it is a member from now on
        picked.append(choice)
    return torch.stack(picked, 1)
