from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from reference import random_maps, standardised
from sources import goal_of
from torch import Tensor

from imgsubset.divergence_weights import Weights
from imgsubset.search import draws
from imgsubset.search.choices import Choices
from imgsubset.search.draws import EXACT, ROUNDS, RandomDraws
from imgsubset.search.loop import Found, Round, search
from imgsubset.statistics.moments import ImageMoments, maps_to_moments
from imgsubset.statistics.objective import Objective, draw_random_subsets
from imgsubset.statistics.rng import make_generator


def objective_of(total: int, n: int, weights: str = "1,1,1,1,1", channels: int = 4) -> Objective:
    maps = torch.tensor(standardised(random_maps(total, channels, 2, seed=1)), dtype=torch.float32)
    return goal_of(ImageMoments(maps_to_moments(maps), 4), n, Weights.parse(weights))


@pytest.fixture(scope="module")
def objective() -> Objective:
    return objective_of(60, 9)


def draws_of(objective: Objective, candidates: int, seed: int) -> RandomDraws:
    """Draws of any rows."""
    choices = Choices.free(objective.total, objective.n, objective.device)
    return RandomDraws(objective, candidates, seed, choices)


def drawn(objective: Objective, candidates: int, seed: int = 0, done: list[int] | None = None) -> Found:
    method = draws_of(objective, candidates, seed)
    worked = [] if done is None else done
    return search(method, objective.loss, progress=lambda work, best: worked.append(work))


def without_time(found: Found) -> list[tuple[float, ...]]:
    return [dataclasses.astuple(dataclasses.replace(point, seconds=0.0)) for point in found.trace]


@pytest.mark.parametrize("candidates", [1, 2, 7, 8, 9, 100, 1003, 5000])
def test_all_candidates_are_counted(objective: Objective, candidates: int) -> None:
    done: list[int] = []
    found = drawn(objective, candidates, done=done)
    assert sum(done) == candidates
    assert [point.work for point in found.trace] == list(itertools.accumulate(done))
    assert found.trace[-1].work == candidates
    assert len(found.trace) >= min(ROUNDS, candidates)
    assert max(done) - min(done) <= 1


@pytest.mark.parametrize("candidates", [1, 40, 1000])
def test_the_best_never_gets_worse_and_is_what_is_returned(objective: Objective, candidates: int) -> None:
    found = drawn(objective, candidates, seed=3)
    best = [point.best for point in found.trace]
    assert best == sorted(best, reverse=True)
    assert best == list(itertools.accumulate((point.loss for point in found.trace), min))
    assert found.losses.tolist() == best[-1:]
    assert float(objective.loss(found.rows)) == pytest.approx(best[-1], rel=1e-5)
    assert float(objective.loss(found.rows, torch.float64)) == pytest.approx(best[-1], rel=1e-4)


def test_the_best_few_are_kept_in_order(objective: Objective) -> None:
    method = draws_of(objective, 400, 3)
    found = search(method, objective.loss, keep=5)
    assert found.rows.shape == (5, 9)
    assert found.losses.tolist() == sorted(found.losses.tolist())
    torch.testing.assert_close(objective.loss(found.rows), found.losses, rtol=1e-5, atol=0)
    assert found.rows[0].tolist() == drawn(objective, 400, 3).rows[0].tolist()


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_rows_are_ascending_and_in_range(objective: Objective, seed: int) -> None:
    [rows] = drawn(objective, 50, seed).rows.tolist()
    assert len(rows) == 9
    assert rows == sorted(set(rows))
    assert set(rows) <= set(range(60))


def test_the_seed_decides_the_result(objective: Objective) -> None:
    first, again, other = (drawn(objective, 300, seed) for seed in (1, 1, 2))
    assert torch.equal(first.rows, again.rows)
    assert without_time(first) == without_time(again)
    assert first.rows.tolist() != other.rows.tolist()
    # Whoever finds a subset, its loss is the same.
    assert float(objective.loss(first.rows)) == pytest.approx(float(first.losses), rel=1e-5)


def test_the_result_does_not_depend_on_the_number_of_threads(objective: Objective) -> None:
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(drawn(objective, 300))
    torch.set_num_threads(before)
    assert torch.equal(found[0].rows, found[1].rows)
    assert without_time(found[0]) == without_time(found[1])


def test_the_temperature_falls_evenly_to_0(objective: Objective) -> None:
    temperatures = [point.temperature for point in drawn(objective, 800).trace]
    steps = len(temperatures) - 1
    assert temperatures == pytest.approx([1 - k / steps for k in range(steps + 1)])
    assert [point.temperature for point in drawn(objective, 1).trace] == [0.0]


@pytest.mark.parametrize("count", [1, 5, EXACT, 4 * EXACT])
def test_a_round_hands_over_its_lowest_by_noised_loss(objective: Objective, count: int) -> None:
    method = draws_of(objective, count * ROUNDS, 1)
    found = method.step(0.0)
    assert found.work == count
    assert found.rows.shape == (min(count, EXACT), 9)
    assert len({tuple(sorted(row)) for row in found.rows.tolist()}) == len(found.rows)


def test_a_round_without_noise_hands_over_the_lowest_losses() -> None:
    objective = objective_of(60, 9, "kl=1,hellinger=1")  # which a contraction does not change
    seed = 5
    lowest = float(objective.loss(draws_of(objective, 800, seed).step(1.0).rows).min())
    every = []
    for _ in range(20):
        method = draws_of(objective, 800, seed)
        every.append(float(objective.loss(method.step(1.0).rows).min()))
    assert every == pytest.approx([lowest] * 20)
    batches = [(64, 0), (36, 1)]
    own = [make_generator(torch.device("cpu"), "draws", seed, 0, number) for _, number in batches]
    rows = torch.cat([draw_random_subsets(60, 9, size, one) for (size, _), one in zip(batches, own, strict=True)])
    assert lowest == pytest.approx(float(objective.loss(rows).min()), rel=1e-6)


def test_large_subsets_are_drawn_less_often(monkeypatch: pytest.MonkeyPatch, objective: Objective) -> None:
    monkeypatch.setattr(draws, "FULL_ROWS", 3)
    assert drawn(objective, 600).trace[-1].work == 200  # 9 rows each
    assert drawn(objective, 1).trace[-1].work == 1
    monkeypatch.setattr(draws, "EXACT_ROWS", 20)
    assert len(draws_of(objective, 600, 0).step(0.5).rows) == 2


def test_a_round_holds_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch, objective: Objective) -> None:
    monkeypatch.setattr(draws, "ROUND_BYTES", 8 * (9 + 4 * 4) * 10)
    found = drawn(objective, 300)
    assert len(found.trace) == 30
    assert found.trace[-1].work == 300


@pytest.mark.parametrize("weights", ["1,1,1,1,1", "frechet=1", "kl=1"])
def test_a_tiny_folder_is_searched_to_the_optimum(weights: str) -> None:
    objective = objective_of(8, 3, weights)
    every = torch.tensor(list(itertools.combinations(range(8), 3)))
    losses = objective.loss(every, torch.float64)
    found = drawn(objective, 4000)
    assert found.rows.tolist() == [every[losses.argmin()].tolist()]
    assert float(found.losses) == pytest.approx(float(losses.min()), rel=1e-3)  # sums in float32, n < C


@pytest.mark.slow
def test_more_candidates_come_closer(objective: Objective) -> None:
    few, many = (sum(float(drawn(objective, candidates, seed).losses) for seed in range(10)) for candidates in (2, 500))
    assert many < 0.8 * few
    assert many / 10 < 0.7


@pytest.mark.parametrize("n", [1, 59, 60])
def test_the_smallest_and_the_largest_subsets(n: int) -> None:
    objective = objective_of(60, n)
    found = drawn(objective, 200)
    assert len(set(found.rows[0].tolist())) == n
    assert float(found.losses) < (1e-6 if n == 60 else 1)


class Scripted:
    """A method that proposes given rows, round by round."""

    name = "scripted"

    def __init__(self, rounds: list[list[list[int]]], patience: int = 100) -> None:
        self.script, self.rounds, self.patience = rounds, len(rounds), patience
        self.asked: list[float] = []

    def step(self, fraction: float) -> Round:
        self.asked.append(fraction)
        rows = self.script[len(self.asked) - 1]
        return Round(torch.tensor(rows), 10 * len(rows), 1 - fraction)


def smallest_row(rows: Tensor) -> Tensor:
    return rows.amin(1).double()


def test_the_loop_keeps_the_best_of_all_rounds_the_last_included() -> None:
    method = Scripted([[[6, 5], [9, 3]], [[5, 4], [8, 7]], [[3, 2]], [[9, 7]]])
    done: list[tuple[int, float]] = []
    found = search(method, smallest_row, progress=lambda work, best: done.append((work, best)))
    assert found.rows.tolist() == [[2, 3]]
    assert found.losses.tolist() == [2]
    assert not found.stopped
    assert [point.loss for point in found.trace] == [3, 4, 2, 7]
    assert [point.best for point in found.trace] == [3, 3, 2, 2]
    assert [point.work for point in found.trace] == [20, 40, 50, 60]
    assert done == [(20, 3), (20, 3), (10, 2), (10, 2)]
    assert method.asked == pytest.approx([0, 1 / 3, 2 / 3, 1])
    seconds = [point.seconds for point in found.trace]
    assert seconds == sorted(seconds)
    assert search(Scripted([[[9, 4]], [[3, 5]]]), smallest_row).rows.tolist() == [[3, 5]]


def test_the_first_of_equals_is_kept() -> None:
    assert search(Scripted([[[4, 5]], [[4, 6]]]), smallest_row).rows.tolist() == [[4, 5]]


def test_a_subset_is_returned_even_if_its_loss_is_infinite() -> None:
    assert search(Scripted([[[4, 5]]]), lambda rows: smallest_row(rows) * float("inf")).rows.tolist() == [[4, 5]]


def test_an_earlier_search_is_improved_on_or_kept() -> None:
    start = search(Scripted([[[4, 5]], [[6, 7]]]), smallest_row, keep=2)
    worse = search(Scripted([[[8, 9]]]), smallest_row, start=start)
    better = search(Scripted([[[3, 9]]]), smallest_row, start=start, keep=2)
    assert worse.rows.tolist() == [[4, 5]]
    assert better.rows.tolist() == [[3, 9], [4, 5]]
    assert [point.best for point in better.trace] == [4, 4, 3]


def test_a_search_without_progress_ends_when_patience_does() -> None:
    method = Scripted([[[4, 5]]] + [[[6, 7]]] * 9, patience=3)
    assert len(search(method, smallest_row).trace) == 4


def test_a_search_that_is_stopped_says_so_and_returns_the_best_so_far() -> None:
    answers = iter([False, True])
    found = search(Scripted([[[4, 5]], [[3, 7]], [[1, 2]]]), smallest_row, stop=lambda: next(answers))
    assert found.stopped
    assert found.rows.tolist() == [[3, 7]]


def test_a_loss_of_0_needs_no_further_round() -> None:
    assert len(search(Scripted([[[0, 5]], [[3, 7]]]), smallest_row).trace) == 1
