from __future__ import annotations

import pytest
import torch
from sources import form_of, made_up_source, random_rows

from imgsubset.search import ranking
from imgsubset.search.quadratic import Quadratic
from imgsubset.search.ranking import herding_order


def prefix_losses(form: Quadratic, rows: torch.Tensor) -> torch.Tensor:
    sums = form.embed(rows).double().cumsum(0)
    return (sums / torch.arange(1, len(rows) + 1)[:, None]).square().sum(1)


def test_each_rank_is_the_best_next_one() -> None:
    images = made_up_source(40, 5)
    form = form_of(images, {"kl": 10.0, "frechet": 1.0})
    order = herding_order(form, torch.arange(0, 40, 2))
    assert sorted(order.tolist()) == list(range(0, 40, 2))
    for k in range(len(order) - 1):
        rest = order[k:]
        losses = [float(prefix_losses(form, torch.cat([order[:k], row[None]]))[-1]) for row in rest]
        assert losses[0] <= min(losses) * (1 + 1e-4)


def test_every_beginning_is_closer_than_random_ones() -> None:
    images = made_up_source(2000, 8)
    form = form_of(images, {"kl": 10.0, "frechet": 1.0})
    rows = random_rows(1, 200, 2000)[0]
    ranked = prefix_losses(form, herding_order(form, rows))
    shuffled = torch.stack([prefix_losses(form, rows[random_rows(1, 200, 200, seed)[0]]) for seed in range(20)]).mean(0)
    assert (ranked[5:150] < 0.7 * shuffled[5:150]).all()


def test_beyond_the_herded_ranks_every_row_is_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "MOST_HERDED", 7)
    images = made_up_source(50, 4)
    form = form_of(images, {"js": 1.0})
    order = herding_order(form, torch.arange(50)).tolist()
    assert sorted(order) == list(range(50))
    assert order[7:] != sorted(order[7:])  # in an order of chance, so that longer beginnings are random ones at worst


def test_the_rows_that_are_embedded_take_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    form = form_of(made_up_source(50, 4), {"kl": 10.0, "frechet": 1.0})
    assert form.width == form.embed(torch.arange(3)).shape[1]
    monkeypatch.setattr(ranking, "EMBEDDED_BYTES", 20 * 4 * form.width)
    monkeypatch.setattr(ranking, "PART", 8)
    embedded: list[int] = []

    class Counted(Quadratic):
        def embed(self, rows: torch.Tensor) -> torch.Tensor:
            embedded.append(len(rows))
            return super().embed(rows)

    order = herding_order(Counted(form.parts), torch.arange(50))
    assert embedded == [8, 8, 4]
    assert sorted(order.tolist()) == list(range(50))
