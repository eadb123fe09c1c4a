from __future__ import annotations

import itertools

import torch

from imgsubset.statistics.rng import make_generator

CPU = torch.device("cpu")


def first(*key: int | str) -> float:
    return float(torch.rand((), dtype=torch.float64, generator=make_generator(CPU, *key)))


def test_equal_keys_draw_equal_numbers_and_others_others() -> None:
    keys = [("chain", *key) for key in itertools.product((0, 1, 2**32, 2**63 - 1), (0, 1, 10), (0, 1))]
    keys += [("pool", 0, 0), ("pool", 0), ("pool",), ("pool0",)]
    assert len({first(*key) for key in keys}) == len(keys)
    assert [first(*key) for key in keys] == [first(*key) for key in keys]


def test_what_was_drawn_before_does_not_matter() -> None:
    expected = first("draws", 3)
    torch.rand(100, generator=make_generator(CPU, "draws", 2))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert first("draws", 3) == expected
    assert torch.equal(torch.get_rng_state(), state)


def test_a_key_means_the_same_in_every_version() -> None:
    """Whoever changes this changes the subsets of all seeds."""
    assert make_generator(CPU, "chain", 7, 0, 1).initial_seed() == 18354726943913047069
