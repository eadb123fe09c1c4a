"""The experiments under examples/ run, very small, and what they are built of is what they say."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
HEADS = ("| mean by", "| channels", "| what", "| 40 pictures", "| against", "| loss")  # of the tables


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A script of the folder by its name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def tables(text: str) -> list[dict[str, list[str]]]:
    """The tables of a text in Markdown: of each row its cells, by the first."""
    found: list[dict[str, list[str]]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "---":
            found.append({})
        elif line.startswith("|") and not line.startswith(HEADS):
            found[-1][cells[0]] = cells[1:]
    return found


@pytest.fixture
def tiny(
    script: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], few_deals: None
) -> Callable[..., list[dict[str, list[str]]]]:
    """Run an experiment at its smallest; its tables. Its picture is looked at for being one."""

    def run(name: str, *arguments: str) -> list[dict[str, list[str]]]:
        out = tmp_path / "out.png"
        with torch.random.fork_rng():
            script(name).main(["--tiny", "--device=cpu", f"--out={out}", *arguments])
        with Image.open(out) as picture:
            assert picture.width >= 900
            assert len(set(picture.convert("L").tobytes())) > 50
        said = capsys.readouterr()
        assert not said.err
        return tables(said.out)

    return run


@pytest.mark.slow
def test_the_mean_images_are_drawn_and_judged(tiny: Callable[..., Any]) -> None:
    losses, channels = tiny("generalized_mean_image", "--shift=3")
    assert [*losses] == ["a crop", "l1", "l2", "CNN1", "CNN2", "FFT"]
    assert [*channels] == ["4", "8"]
    # A crop is 0 from itself and about 1 from each of the three others.
    assert float(losses["a crop"][0]) == pytest.approx(0.75, abs=0.15)


@pytest.mark.slow
def test_the_mean_by_squares_is_the_mean_and_by_absolute_values_a_median(script: Callable[[str], Any]) -> None:
    mean = script("generalized_mean_image")
    crops = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    found = mean.mean_image(crops, lambda images: images, 300, seed=0)
    assert torch.allclose(found[0], crops.mean(0), atol=0.01)
    found = mean.mean_image(crops, lambda images: images, 300, seed=0, squared=False)
    _, low, high, _ = crops.sort(0).values
    assert ((found[0] > low - 0.02) & (found[0] < high + 0.02)).all()


def test_amplitudes_do_not_say_where_things_are_and_pooled_maps_nearly_not(script: Callable[[str], Any]) -> None:
    mean = script("generalized_mean_image")
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    moved = image.roll((5, 3), (2, 3))
    assert torch.allclose(mean.amplitudes(image), mean.amplitudes(moved), atol=1e-4)
    plain, pooled = (mean.RandomCNN(32, pooled, 0, torch.device("cpu")) for pooled in (False, True))
    assert pooled(image).shape == (1, 32, 3, 3)
    apart = [float((net(image) - net(moved)).abs().mean() / net(image).mean()) for net in (plain, pooled)]
    assert apart[1] < apart[0] / 10


@pytest.mark.slow
def test_a_gan_is_trained_and_copies_are_found_by_coverage(tiny: Callable[..., Any]) -> None:
    (table,) = tiny("gan_coverage", "--workers=0")
    precision, _, _, coverage = (0, 1, 2, 3)
    copied, others = table["ten real, copied"][1:], table["real, others"][1:]
    assert copied[coverage].endswith("*")
    assert not copied[precision].endswith("*")
    assert not others[coverage].endswith("*")
    assert [table[name][0] for name in ("all real pictures", "ten of them")] == ["4", "8"]


def test_the_penalty_is_how_far_the_slope_is_from_1(script: Callable[[str], Any]) -> None:
    judge = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1))
    images = torch.rand(2, 5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = (judge[1].weight.norm() - 1) ** 2
    assert torch.allclose(script("gan_coverage").gradient_penalty(judge, *images), expected)


def test_a_pixel_shuffle_begins_without_a_chequered_pattern(script: Callable[[str], Any]) -> None:
    layer = script("gan_coverage").doubled(8, 3)
    layer[2].bias.data.zero_()
    maps = layer(torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert maps.shape == (4, 3, 8, 8)
    assert torch.equal(maps, maps[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.slow
def test_a_diffusion_model_is_trained_and_measured(tiny: Callable[..., Any]) -> None:
    (table,) = tiny("ddpm_fid", "--workers=0")
    assert [*table] == ["noise", "1 steps", "2 steps", "4 steps", "real, others"]
    distances = {name: float(cells[0]) for name, cells in table.items()}
    assert min(distances, key=distances.__getitem__) == "real, others"
    assert all(0 < float(mean) < float(limit) for _, mean, limit, _ in table.values())


def test_noising_in_closed_form_is_noising_step_by_step(script: Callable[[str], Any]) -> None:
    ddpm = script("ddpm_fid")
    share, spread = 1.0, 0.0  # of x_0 in x_t, and the variance of the noise in it
    for t in range(1, ddpm.T + 1):
        alpha = float(ddpm.ABAR[t] / ddpm.ABAR[t - 1])  # x_t = sqrt(alpha) x_(t-1) + sqrt(1 - alpha) xi
        share, spread = alpha**0.5 * share, alpha * spread + 1 - alpha
        if t % 100 == 0:
            ones, zeros, when = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.tensor([t])
            assert float(ddpm.noised(ones, when, zeros).mean()) == pytest.approx(share, rel=1e-3)
            assert float(ddpm.noised(zeros, when, ones).mean()) == pytest.approx(spread**0.5, rel=1e-3)


def test_sampling_with_the_true_noise_of_one_picture_ends_at_that_picture(script: Callable[[str], Any]) -> None:
    ddpm = script("ddpm_fid")
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, 4, 4, generator=generator) - 0.5

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        abar = ddpm.ABAR[t][:, None, None, None]
        eps: torch.Tensor = (x - abar.sqrt() * picture) / (1 - abar).sqrt()
        return eps

    found = ddpm.sampled(net, torch.randn(3, 3, 4, 4, generator=generator))
    assert torch.allclose(found, picture.expand_as(found), atol=1e-3)


@pytest.mark.slow
def test_noise_on_moments_and_on_maps_are_compared(
    tiny: Callable[..., Any], script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script("langevin"), "TEMPERATURES", (1.0, 1000.0))
    monkeypatch.setattr(script("langevin"), "FRICTIONS", (1.0,))
    agreement, losses = tiny("langevin")
    coarse, fine, again = (float(agreement[name][1]) for name in ("chain, dt = 0.5", "chain, dt = 0.1", "drawn again"))
    assert again < fine < coarse
    draws, exchanges = ([float(cell) for cell in cells] for cells in losses.values())
    assert max(exchanges) < min(draws) < 1


@pytest.mark.slow
def test_a_fine_chain_has_the_distribution_that_is_drawn(script: Callable[[str], Any]) -> None:
    langevin = script("langevin")
    one, other = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    maps = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    drawn = langevin.drawn(maps, 1000, one)
    limit = 1.95 * (2 / 1000) ** 0.5 * 1.2  # of KS at p = 0.001, and for 12 moments at once
    assert langevin.agreement(drawn, langevin.chained(maps, 0.01, 1000, other))[1] < limit
    assert langevin.agreement(drawn, langevin.chained(maps, 0.5, 1000, other))[1] > 2 * limit


def test_too_few_pictures_are_told_in_a_line(script: Callable[[str], Any], tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    with pytest.raises(SystemExit, match=r"^error: '.*' has 1 images, and 4 are needed$"):
        script("generalized_mean_image").main([str(tmp_path), "--tiny", "--device=cpu"])


@pytest.mark.parametrize("wrong", ["--steps=0", "--steps=x", "--shift=99", "--out=absent/out.png"])
def test_what_makes_no_sense_is_told_before_the_work(script: Callable[[str], Any], wrong: str) -> None:
    with pytest.raises(SystemExit) as refused:
        script("generalized_mean_image").main([wrong, "--device=cpu"])
    assert refused.value.code == 2 or str(refused.value.code).startswith("error: ")
