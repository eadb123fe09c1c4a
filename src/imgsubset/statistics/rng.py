"""Random generators by key: what is drawn depends on the key, and on nothing that was drawn before."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator, Tensor


def make_generator(device: torch.device, *key: int | str) -> Generator:
    """The generator of a key, such as ("noise", seed, round, chain): equal keys draw equal numbers on one device.

    So no result depends on how many things are done at once, by how many threads, or in which order.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Generator(device).manual_seed(int.from_bytes(digest, "little"))


def draw_permutation(seed: int, number: int, total: int, few: int, device: torch.device) -> Tensor:
    """Which images (few,), of `total` of two sets, a random deal gives to the smaller one. Whatever is compared over
    random deals has the same ones."""
    return torch.randperm(total, generator=make_generator(device, "deal", seed, number), device=device)[:few]
