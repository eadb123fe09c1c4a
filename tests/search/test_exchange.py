from __future__ import annotations

from itertools import combinations

import pytest
import torch
from sources import COEFFICIENTS, form_of, goal_of, made_up_source, random_rows, searched
from torch import Tensor

from imgsubset.search import exchange
from imgsubset.search.choices import Choices
from imgsubset.search.exchange import Exchanges
from imgsubset.search.quadratic import Quadratic


def mixed_form(count: int, channels: int) -> Quadratic:
    return form_of(made_up_source(count, channels), COEFFICIENTS)


def chains_of(form: Quadratic, rows: Tensor, seed: int, steps: int = 1) -> Exchanges:
    """Chains that may choose any rows."""
    return Exchanges(form, rows, steps, seed, Choices.free(len(form), rows.shape[1], rows.device))


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "window"), [(6, 2), (12, 1)])
def test_long_run_frequencies_are_boltzmann(monkeypatch: pytest.MonkeyPatch, pool: int, window: int) -> None:
    monkeypatch.setattr(exchange, "POOL", pool)
    monkeypatch.setattr(exchange, "WINDOW", window)
    form = mixed_form(8, 3)
    subsets = torch.tensor(list(combinations(range(8), 3)))
    energies = form.residual(subsets).square().sum(1)
    temperature = float(energies.std())
    expected = torch.softmax(-energies / temperature, 0)
    assert float(expected.max() / expected.min()) > 5  # the temperature tells good from bad
    chains = chains_of(form, random_rows(256, 3, 8), 5)
    seen = []
    for number in range(1100):
        chains.sweep(temperature)
        if number >= 100:
            seen.append((1 << chains.members).sum(1))
    counts = torch.bincount(torch.cat(seen), minlength=256)[(1 << subsets).sum(1)]
    observed = counts.double() / counts.sum()
    assert counts.sum() == 256 * 1000
    assert float((observed - expected).abs().sum() / 2) < 0.02


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 20))])
def test_finds_the_optimum_of_exhaustive_search(seed: int) -> None:
    objective = goal_of(made_up_source(12, 4), 4)
    losses = objective.loss(torch.tensor(list(combinations(range(12), 4))), torch.float64)
    found = searched(objective, seed, candidates=8, chains=4, steps=400)
    assert float(found.losses[0]) == pytest.approx(float(losses.min()), rel=1e-4)


@pytest.mark.slow
def test_bookkeeping_is_exact_after_10000_exchanges() -> None:
    form = mixed_form(2000, 8)
    chains = chains_of(form, random_rows(3, 100, 2000), 1)
    moved = sum(float(chains.sweep(1e-3)) * 3 * exchange.WINDOW for _ in range(400))
    assert moved > 10_000
    torch.testing.assert_close(chains.residual, form.residual(chains.members), rtol=0, atol=1e-5)
    assert chains.chosen.sum(1).tolist() == [100] * 3
    assert chains.chosen.gather(1, chains.members).all()  # distinct rows, and the mask is theirs


def test_at_temperature_0_no_visit_raises_the_loss() -> None:
    form = mixed_form(1000, 6)
    chains = chains_of(form, random_rows(4, 50, 1000), 2)
    start = before = chains.residual.square().sum(1)
    for _ in range(30):
        chains.sweep(0.0)
        after = chains.residual.square().sum(1)
        assert (after <= before + 1e-6).all()
        before = after
    assert (before < 0.3 * start).all()


def test_the_whole_source_stays_as_it_is() -> None:
    chains = chains_of(mixed_form(10, 3), torch.arange(10)[None], 0)
    assert float(chains.sweep(0.1)) == 0
    assert sorted(chains.members[0].tolist()) == list(range(10))


@pytest.mark.slow
def test_same_seed_same_subset_with_any_number_of_threads() -> None:
    objective = goal_of(made_up_source(3000, 64), 200)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 4, 2):
            torch.set_num_threads(count)
            found.append(searched(objective, 7, candidates=64, steps=80))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0].rows, found[1].rows)
    assert torch.equal(found[0].rows, found[2].rows)
    other = searched(objective, 8, candidates=64, steps=80)
    assert not torch.equal(found[0].rows, other.rows)


def test_temperature_falls_geometrically_and_ends_at_0() -> None:
    chains = chains_of(mixed_form(100, 3), random_rows(1, 10, 100), 0, 100)
    values = [chains.temperature(number / 100) for number in range(101)]
    assert values[0] == pytest.approx(exchange.HOT / 10)
    assert values[50] == pytest.approx((exchange.HOT * exchange.COLD) ** 0.5 / 10)
    assert values[99] > exchange.COLD / 10
    assert values[100] == 0
    assert values == sorted(values, reverse=True)


@pytest.mark.slow
def test_exchanges_beat_the_draws_they_start_from_and_the_trace_says_so() -> None:
    objective = goal_of(made_up_source(2000, 8), 100)
    plain = searched(objective, candidates=256, steps=0)
    found = searched(objective, candidates=256, steps=200)
    assert {point.method for point in plain.trace} == {"draws"}
    assert {point.method for point in found.trace} == {"draws", "exchanges"}
    assert float(found.losses[0]) < 0.3 * float(plain.losses[0])
    bests = [point.best for point in found.trace]
    assert bests == sorted(bests, reverse=True)
    assert all(0 <= point.changed <= 1 for point in found.trace)
    torch.testing.assert_close(objective.loss(found.rows), found.losses)


def test_stop_ends_the_search_with_the_best_so_far() -> None:
    objective = goal_of(made_up_source(500, 4), 50)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 10  # the draws take 8 rounds

    found = searched(objective, stop=stop, candidates=64, steps=400)
    assert found.stopped
    assert [point.method for point in found.trace] == ["draws"] * 8 + ["exchanges"] * 2


@pytest.mark.slow
def test_a_time_limit_ends_the_search_cooled_down() -> None:
    objective = goal_of(made_up_source(2000, 8), 100)
    found = searched(objective, candidates=64, steps=10**6, time_limit=1.0)
    assert found.trace[-1].temperature == 0
    assert found.trace[-1].work < 10**6
    assert not found.stopped


def test_a_time_limit_that_the_draws_used_up_still_ends_the_search() -> None:
    objective = goal_of(made_up_source(2000, 8), 100)
    found = searched(objective, candidates=64, steps=10**6, time_limit=1e-6)
    assert [point.method for point in found.trace].count("exchanges") == 1


def test_a_chain_has_its_own_random_numbers_however_many_there_are() -> None:
    form, rows = mixed_form(500, 4), random_rows(3, 40, 500)
    every, first = chains_of(form, rows, 5), chains_of(form, rows[:1], 5)
    for _ in range(3):
        every.step(0.5)
        first.step(0.5)
    assert torch.equal(every.members[0], first.members[0])
    assert not torch.equal(chains_of(form, rows, 6).members, every.members)


class EqualDirections:
    """A form of as many directions as z has numbers, all of one weight."""

    def __init__(self, z: Tensor) -> None:
        self.z, self.width = z - z.mean(0), z.shape[1]

    def embed(self, rows: Tensor) -> Tensor:
        return self.z[rows]

    def residual(self, members: Tensor) -> Tensor:
        return self.z[members].mean(1, dtype=torch.float64)


@pytest.mark.slow
def test_no_image_s_chance_depends_on_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the rows of a source are shuffled, each place of it is chosen as often as any other.

    If the exchanges visited the members in the order of rows, the mean place would be off by 8 standard
    errors after 100 seeds already.
    """
    monkeypatch.setattr(exchange, "WINDOW", 32)
    monkeypatch.setattr(exchange, "POOL", 64)
    seeds, total, n, steps = 400, 1000, 100, 60
    z = torch.randn(total, 256, generator=torch.Generator().manual_seed(0))
    counts, choices = torch.zeros(total, dtype=torch.float64), Choices.free(total, n, z.device)
    for seed in range(seeds):
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        chains = Exchanges(EqualDirections(z[order]), random_rows(1, n, total, seed), steps, seed, choices)
        for number in range(chains.rounds):
            chains.step(number / (chains.rounds - 1))
        counts[chains.members[0]] += 1
    share = n / total
    # Of draws without replacement: less than a binomial's by the part that is drawn.
    expected = seeds * n / 20
    chi_square = float(((counts.view(20, -1).sum(1) - expected) ** 2).sum() / expected / (1 - share))
    assert chi_square < 43.8  # of 19 degrees of freedom, exceeded once in 1,000 times
    mean = float(counts @ torch.arange(total, dtype=torch.float64)) / (seeds * n)
    error = ((total**2 - 1) / 12 / (seeds * n) * (1 - share)) ** 0.5
    assert abs(mean - (total - 1) / 2) < 4 * error
