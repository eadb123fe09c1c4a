"""A GAN that learns a folder, and then loses its diversity: coverage tells it, and precision does not.

A generator of PixelShuffle layers learns the pictures from a critic by the Wasserstein distance with a gradient penalty
(Gulrajani et al., NeurIPS 2017). Every so often `imgsubset.compare` says how 500 generated pictures overlap with 500
real ones that were not trained on: precision, the share of generated ones that lie among the real (Kynkaanniemi et al.,
NeurIPS 2019), and coverage, the share of real ones that have a generated one nearby (Naeem et al., ICML 2020).

A GAN with this penalty does not collapse by itself in a few minutes, so its collapse is brought about: in the last part
of the training the critic is shown ten of the real pictures alone. The table ends with sets that no generator made:
other real pictures, ten of them copied, and real ones blurred.

    python examples/gan_coverage.py [FOLDER] --out gan.png
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import torch
from common import COLOURS, bar, parser, pictures, positive, run, sheet, show, table, write
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from imgsubset import Comparison, compare

LATENT, BATCH, CRITIC_STEPS, RATE, PENALTY, DECAY = 32, 32, 2, 1e-3, 10.0, 0.98
MEASURES = ("precision", "density", "recall", "coverage")


def doubled(channels: int, out: int) -> nn.Sequential:
    """Maps of twice the side: a convolution makes four pixels of each, and PixelShuffle puts them side by side."""
    convolution = nn.Conv2d(channels, 4 * out, 3, padding=1)
    # The four start alike (ICNR, Aitken et al. 2017): else every picture shows a chequered pattern for long.
    convolution.weight.data = convolution.weight.data[::4].repeat_interleave(4, 0)
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), convolution, nn.PixelShuffle(2))


def generator(side: int, width: int = 32) -> nn.Sequential:
    """Pictures (B, 3, side, side) in [-1, 1] of normal numbers (B, LATENT)."""
    layers: list[nn.Module] = [nn.Linear(LATENT, 2 * width * 16), nn.Unflatten(1, (2 * width, 4, 4))]
    channels = 2 * width
    for _ in range((side // 4).bit_length() - 1):
        layers.append(doubled(channels, channels // 2))
        channels //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 3, 3, padding=1), nn.Tanh())


def critic(side: int, width: int = 32) -> nn.Sequential:
    """A number for each picture: the higher, the more real. No batch norm, as the penalty is on each picture alone."""
    layers: list[nn.Module] = []
    channels, out = 3, width
    for _ in range((side // 4).bit_length() - 1):
        layers += [nn.Conv2d(channels, out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels, out = out, 2 * out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 1))


def gradient_penalty(judge: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """How far the critic's slope is from 1 between real and generated pictures: its height is then a distance."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(judge(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


class Training:
    """The generator and its critic, and the running mean of the generator's weights, whose pictures are better."""

    def __init__(self, side: int, device: torch.device) -> None:
        self.maker, self.judge = generator(side).to(device), critic(side).to(device)
        self.mean = copy.deepcopy(self.maker)
        self.optimizers = [torch.optim.Adam(net.parameters(), RATE, (0.0, 0.9)) for net in (self.maker, self.judge)]
        self.device = device

    def sample(self, count: int, maker: nn.Module) -> Tensor:
        made: Tensor = maker(torch.randn(count, LATENT, device=self.device))
        return made

    def step(self, real: Tensor) -> None:
        """The critic learns to tell real pictures (N, 3, H, W) from generated ones, and the generator to mislead it."""
        for _ in range(CRITIC_STEPS):
            some = real[torch.randint(len(real), (BATCH,))].to(self.device)
            fake = self.sample(BATCH, self.maker).detach()
            gap = self.judge(fake).mean() - self.judge(some).mean()
            self.descend(1, gap + PENALTY * gradient_penalty(self.judge, some, fake))
        self.descend(0, -self.judge(self.sample(BATCH, self.maker)).mean())
        with torch.no_grad():
            for mean, now in zip(self.mean.parameters(), self.maker.parameters(), strict=True):
                mean.lerp_(now, 1 - DECAY)

    def descend(self, which: int, loss: Tensor) -> None:
        self.optimizers[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()


def experiment(options: argparse.Namespace) -> Figure:
    side, count, steps, checks = (8, 40, 4, 2) if options.tiny else (options.side, 500, options.steps, 4)
    every = pictures(options.folder, 4 * count, side, options.seed)
    held, real = every.split([count, 3 * count])
    few, each = real[:10], max(1, steps // checks)
    training = Training(side, options.device)
    rows: list[tuple[str, int, Comparison]] = []
    shown: list[tuple[str, Tensor]] = [("real", held)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(held, folder / "real")

        def look(what: str, step: int, images: Tensor) -> None:
            made = write(images, folder / f"{len(rows)}")
            found = compare(folder / "real", made, device=str(options.device), workers=options.workers)
            rows.append((what, step, found))

        def learn(pictures: Tensor, first: int, last: int, what: str) -> None:
            for step in bar(range(first, last), what):
                training.step(pictures)
                if (step + 1) % each == 0:
                    with torch.no_grad():
                        made = training.sample(count, training.mean)  # batch norm is of these, as in training
                    look(what, step + 1, made)
                    shown.append((f"generated, step {step + 1:,}", made))

        learn(real, 0, steps, "all real pictures")
        learn(few, steps, steps + 2 * each, "ten of them")
        look("real, others", 0, real[:count])
        look("ten real, copied", 0, few.repeat(count // 10, 1, 1, 1))
        look("real, blurred", 0, gaussian_blur(real[:count], 5, side / 16))
    head = ["what the critic was shown", "step", *MEASURES, "Frechet"]
    cells = [
        [f"{of.overlaps[name].value:.3f}{'*' * of.overlaps[name].differs}" for name in MEASURES] for *_, of in rows
    ]
    print(table(head, ([what, step or "", *line, of.divergences["frechet"].value]
                       for (what, step, of), line in zip(rows, cells, strict=True))))  # fmt: skip
    print("\n* lower than 99 of 100 pairs of samples of one distribution")
    return drawn([row for row in rows if row[1]], shown, steps)


def drawn(rows: list[tuple[str, int, Comparison]], shown: list[tuple[str, Tensor]], turn: int) -> Figure:
    """Precision and coverage over the training, and what the generator made."""
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    axes, *sheets = figure.subplots(5, 1, height_ratios=[3.2, 1, 1, 1, 1])
    steps = [step for _, step, _ in rows]
    for name, colour, mark in (("precision", COLOURS[0], "o"), ("coverage", COLOURS[5], "s")):
        found = [of.overlaps[name] for *_, of in rows]
        axes.plot(steps, [one.value for one in found], mark + "-", color=colour, label=name)
        axes.plot(steps, [one.floor_limit for one in found], ":", color=colour, label=f"{name}, by chance above this")
    axes.axvline(turn, color="grey", linewidth=1)
    axes.text(turn, 0.03, " from here: ten pictures", color="dimgrey", fontsize=8)
    axes.set(xlabel="steps of the generator", ylabel="share of 500 pictures", ylim=(0, 1.05))
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left")
    last = len(shown) - 1
    for place, number in zip(sheets, (0, 1, last - 2, last), strict=True):
        title, images = shown[number]
        show(place, sheet(images[:40], 20), title)
    return figure


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__, "gan.png")
    options.add_argument("--side", type=int, choices=(8, 16, 32), default=16, help="of the pictures, in pixels")
    options.add_argument(
        "--steps", type=positive, default=1000, help="of the generator with all pictures (%(default)s)"
    )
    options.add_argument("--workers", type=int, help="of imgsubset: decoding processes and threads; 0 is none")
    run(experiment, options.parse_args(arguments))


if __name__ == "__main__":
    main()
