"""A diffusion model learns a folder: how far are 500 generated pictures from 500 real ones, and how far is far?

A picture x_0 is noised in T steps. Where it is after t of them is known at once (Ho et al., NeurIPS 2020),

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,      eps normal, abar_t falling from 1 to 0 (Nichol & Dhariwal 2021)

and a network learns to tell eps from x_t and t. Pictures are made of noise by going back in a few large steps, each to
where the network's eps says (DDIM, Song et al., ICLR 2021):

    x_0' = (x_t - sqrt(1 - abar_t) eps') / sqrt(abar_t),      x_s = sqrt(abar_s) x_0' + sqrt(1 - abar_s) eps'

Meanwhile `imgsubset.compare` measures the Frechet distance of 500 generated pictures from 500 real ones that were not
trained on. With Inception's features that is the FID. Here random networks see the pictures by default, for which
nothing is downloaded. Whatever the features, two sets of 500 real pictures are not 0 apart: that is the floor.

    python examples/ddpm_fid.py [FOLDER] --out ddpm.png
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import COLOURS, bar, parser, pictures, positive, run, sheet, show, table, write
from matplotlib.figure import Figure
from torch import Tensor, nn

from imgsubset import Distance, compare

SIDE, T, DDIM_STEPS, BATCH, RATE, DECAY = 16, 1000, 20, 64, 2e-3, 0.98
ABAR = torch.cos((torch.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2).square()  # of t = 0 to T
ABAR = (ABAR / ABAR[0]).clamp(min=1e-4)


class Block(nn.Module):
    """Two convolutions, told the time between them, beside a way past them."""

    def __init__(self, channels: int, out: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.second = nn.Sequential(nn.GroupNorm(4, out), nn.SiLU(), nn.Conv2d(out, out, 3, padding=1))
        self.time, self.past = nn.Linear(embedding, out), nn.Conv2d(channels, out, 1)

    def forward(self, maps: Tensor, time: Tensor) -> Tensor:
        inner: Tensor = self.second(self.first(maps) + self.time(time)[:, :, None, None])
        return inner + self.past(maps)


class Denoiser(nn.Module):
    """A small U-Net: the noise eps (B, 3, H, W) in x_t (B, 3, H, W), of the times t (B,) in 0 to T."""

    def __init__(self, width: int = 48, embedding: int = 64) -> None:
        super().__init__()
        self.embedding = embedding
        self.enter = nn.Conv2d(12, width, 3, padding=1)  # of 2 x 2 pixels in one place: a quarter of the work
        self.down = Block(width, width, embedding)
        self.middle = nn.ModuleList([Block(width, 2 * width, embedding), Block(2 * width, 2 * width, embedding)])
        self.up = Block(3 * width, width, embedding)
        self.leave = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, 12, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        rates = torch.exp(-math.log(1e4) * torch.arange(self.embedding // 2, device=x.device) / (self.embedding // 2))
        angles = t[:, None] * rates
        time = torch.cat([angles.sin(), angles.cos()], 1)
        high = self.down(self.enter(F.pixel_unshuffle(x, 2)), time)
        low = F.avg_pool2d(high, 2)
        for block in self.middle:
            low = block(low, time)
        joined = torch.cat([high, F.interpolate(low, scale_factor=2.0)], 1)
        return F.pixel_shuffle(self.leave(self.up(joined, time)), 2)


def noised(x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_t of x_0 (B, 3, H, W), at times t (B,), in closed form."""
    abar = ABAR.to(x.device)[t][:, None, None, None]
    return abar.sqrt() * x + (1 - abar).sqrt() * eps


@torch.no_grad()
def sampled(net: nn.Module, noise: Tensor, steps: int = DDIM_STEPS) -> Tensor:
    """Pictures from noise (B, 3, H, W), by DDIM: nothing is random but where it starts."""
    x, times = noise, torch.linspace(T, 0, steps + 1).round().long().tolist()
    for t, s in pairwise(times):
        eps = net(x, torch.full((len(x),), t, device=x.device))
        clean = ((x - (1 - ABAR[t]).sqrt() * eps) / ABAR[t].sqrt()).clamp(-1, 1)
        eps = (x - ABAR[t].sqrt() * clean) / (1 - ABAR[t]).sqrt()  # of the picture that was cut to its range
        x = ABAR[s].sqrt() * clean + (1 - ABAR[s]).sqrt() * eps
    return x


def experiment(options: argparse.Namespace) -> Figure:
    count, steps = (40, 4) if options.tiny else (500, options.steps)
    checks = sorted({max(1, steps >> halvings) for halvings in range(5)})
    device = options.device
    words: dict[str, Any] = {"features": options.features} if options.features else {}
    every = pictures(options.folder, 5 * count, SIDE, options.seed)
    held, real = every.split([count, 4 * count])
    net = Denoiser().to(device)
    mean = copy.deepcopy(net)  # the running mean of the weights, whose pictures are better
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    noise = torch.randn(count, 3, SIDE, SIDE, device=device)
    rows: list[tuple[str, Distance]] = []
    shown: list[tuple[str, Tensor]] = [("real", held)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(held, folder / "real")

        def look(what: str, images: Tensor) -> None:
            made = write(images, folder / f"{len(rows)}")
            found = compare(folder / "real", made, device=str(device), workers=options.workers, **words)
            rows.append((what, found.divergences["frechet"]))

        look("noise", noise / 2)
        for step in bar(range(1, steps + 1), "train"):
            x = real[torch.randint(len(real), (BATCH,))].to(device)
            t, eps = torch.randint(1, T + 1, (BATCH,), device=device), torch.randn_like(x)
            loss = (net(noised(x, t, eps), t) - eps).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for slow, now in zip(mean.parameters(), net.parameters(), strict=True):
                    slow.lerp_(now, 1 - min(DECAY, step / (step + 10)))
            if step in checks:
                made = sampled(mean, noise)
                look(f"{step:,} steps", made)
                shown.append((f"generated after {step:,} steps", made))
        look("real, others", real[:count])
    head = [f"{count} pictures", "Frechet", "floor: mean", "99% below", "p"]
    print(table(head, ([what, of.value, of.floor_mean, of.floor_limit, of.p_value] for what, of in rows)))
    return drawn(checks, [of for _, of in rows], shown)


def drawn(checks: list[int], found: list[Distance], shown: list[tuple[str, Tensor]]) -> Figure:
    """The distance over the training, with its floor, and what the network made of the same noise."""
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    axes, *sheets = figure.subplots(5, 1, height_ratios=[3.2, 1, 1, 1, 1])
    trained, others = found[1:-1], found[-1]
    axes.plot(checks, [of.value for of in trained], "o-", color=COLOURS[0], label="generated against real")
    axes.plot(checks, [of.floor_limit for of in trained], ":", color=COLOURS[5],
              label="dealt out at random: 99% below")  # fmt: skip
    axes.axhline(others.value, color=COLOURS[2], linestyle="--", label="other real against real")
    axes.set(xscale="log", yscale="log", xlabel="training steps", ylabel="Frechet distance")
    axes.set_xticks(checks, [f"{step:,}" for step in checks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    for place, number in zip(sheets, (0, 1, len(shown) // 2, len(shown) - 1), strict=True):
        title, images = shown[number]
        show(place, sheet(images[:40], 20), title)
    return figure


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__, "ddpm.png")
    options.add_argument("--steps", type=positive, default=1000, help="of training (%(default)s)")
    options.add_argument("--features", help="of imgsubset compare, in place of random networks, as in inception2048")
    options.add_argument("--workers", type=int, help="of imgsubset: decoding processes and threads; 0 is none")
    run(experiment, options.parse_args(arguments))


if __name__ == "__main__":
    main()
