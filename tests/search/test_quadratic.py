from __future__ import annotations

import pytest
import torch
from sources import COEFFICIENTS, form_of, made_up_source

from imgsubset.divergence_weights import DIVERGENCE_NAMES
from imgsubset.statistics.divergences import compute_weighted_divergence
from imgsubset.statistics.moments import Moments, compute_all_moments

MIXES = [COEFFICIENTS, {"kl": 200.0, "frechet": 5.0}] + [{name: COEFFICIENTS[name]} for name in DIVERGENCE_NAMES]


@pytest.mark.parametrize("coefficients", MIXES, ids=lambda mixed: "+".join(mixed))
@pytest.mark.parametrize("channels", [5, 6])
def test_agrees_with_the_exact_mix_to_second_order(coefficients: dict[str, float], channels: int) -> None:
    """A reweighted source is a subset as close as one likes: weights 1 + t u have moments linear in t."""
    images = made_up_source(400, channels)
    source, form = compute_all_moments(images), form_of(images, coefficients)
    a, q = images.mean.double(), images.square.double()
    directions = torch.randn(10, len(images), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    directions -= directions.mean(1, keepdim=True)
    z = form.embed(torch.arange(len(images))).double()
    z -= z.mean(0)  # 0 but for rounding to float32, which the cube of a small t would drop below

    def exact_and_error(t: float, direction: torch.Tensor) -> tuple[float, float]:
        weights = (1 + t * direction) / len(images)
        mean = weights @ a
        outer = (a * weights[:, None]).T @ a
        reweighted = Moments(mean, weights @ q - mean**2, outer - torch.outer(mean, mean))
        # The source's own mean and variance are 0 and 1 but for rounding.
        exact = float(compute_weighted_divergence(reweighted, source, coefficients))
        return exact, abs(exact - float((weights @ z).square().sum()))

    exact, errors = (
        torch.tensor([[exact_and_error(t, direction) for direction in directions] for t in (0.4, 0.2, 0.1)]).sum(1).T
    )
    first, second, third = errors.tolist()
    assert third < 0.1 * exact[2]
    assert first / second > 4.5
    assert second / third > 5.5  # towards 8, as a cube does when t is halved


@pytest.mark.slow
@pytest.mark.parametrize("channels", [5, 6])
def test_inner_products_of_z_are_the_closed_form(channels: int) -> None:
    images = made_up_source(60, channels)
    form = form_of(images, {"kl": 3.0, "frechet": 2.0})
    a, q = images.mean.double(), images.square.double()
    values, vectors = torch.linalg.eigh(torch.cov(a.T, correction=0))
    b = a @ vectors
    expected = torch.zeros(60, 60, dtype=torch.float64)
    for i in range(60):
        for j in range(60):
            expected[i, j] = (3 / 2 / channels + 2) * (b[i] @ b[j]) + 3 / 4 / channels * ((q[i] - 1) @ (q[j] - 1))
            left = torch.outer(b[i], b[i]) - torch.diag(values)
            right = torch.outer(b[j], b[j]) - torch.diag(values)
            expected[i, j] += (left * right / (values[:, None] + values)).sum()  # 2 of the mix times 1/2 of the form
    z = form.embed(torch.arange(60)).double()
    torch.testing.assert_close(z @ z.T, expected, rtol=1e-4, atol=1e-3)


def test_residual_is_the_mean_of_z() -> None:
    images = made_up_source(3000, 6)
    form = form_of(images, COEFFICIENTS)
    rows = torch.stack([torch.arange(2500), torch.arange(500, 3000)])
    expected = torch.stack([form.embed(subset).double().mean(0) for subset in rows])
    torch.testing.assert_close(form.residual(rows), expected, rtol=0, atol=1e-12)


def test_the_source_itself_has_no_loss() -> None:
    form = form_of(made_up_source(3000, 6), COEFFICIENTS)
    assert float(form.residual(torch.arange(3000)[None]).square().sum()) < 1e-8


def test_directions_without_variance_stay_finite() -> None:
    form = form_of(made_up_source(12, 20), {"frechet": 1.0})  # more channels than images
    assert torch.isfinite(form.embed(torch.arange(12))).all()
