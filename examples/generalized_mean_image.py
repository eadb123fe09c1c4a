"""One image that stands for four: what is the mean of an image and its shifted copies, to different eyes?

The mean of numbers is the number from which the sum of squared distances is least; with |x - x_i| it is the median.
So every distance between images has a mean image of its own: the x with the least sum of d(x, x_i) over the images
x_i, found here by gradient descent on its pixels. The x_i are four crops of one picture, some pixels apart, so that
they show the same and agree in hardly a pixel. d is one of

    l1, l2   |x - y| and |x - y|^2, pixel by pixel
    CNN1     |f(x) - f(y)|^2, with f a random network: conv 3x3 (3 to 32), ReLU, conv 1x1 (32 to 32), ReLU
    CNN2     the same, with an average over windows of 32 x 32 positions, 16 apart, after it
    FFT      the difference of the amplitudes of the Fourier transform, whose phases say where things are

The networks are untrained (Amir & Weiss, Understanding and Simplifying Perceptual Distances, CVPR 2021). At the end
CNN2 is made of 4 to 128 channels, and each mean image is judged in networks of 256 channels that it was not made with.

    python examples/generalized_mean_image.py [PICTURE OR FOLDER] --out mean.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import COLOURS, bar, parser, pictures, positive, run, sheet, show, table
from matplotlib.figure import Figure
from torch import Tensor

from imgsubset.errors import UsageError

CROP, CHANNELS, JUDGE = 128, (4, 8, 16, 32, 64, 128), 256


class RandomCNN:
    """The untrained network: maps (B, C, h, w) of images (B, 3, H, W). The weights are He-normal."""

    def __init__(self, channels: int, pooled: bool, seed: int, device: torch.device) -> None:
        generator, self.pooled = torch.Generator().manual_seed(seed), pooled
        self.wide = torch.randn(channels, 3, 3, 3, generator=generator).mul_((2 / 27) ** 0.5).to(device)
        self.flat = torch.randn(channels, channels, 1, 1, generator=generator).mul_((2 / channels) ** 0.5).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        maps = F.relu(F.conv2d(F.relu(F.conv2d(images, self.wide, padding=1)), self.flat))
        return F.avg_pool2d(maps, 32, 16) if self.pooled else maps


def amplitudes(images: Tensor) -> Tensor:
    """Amplitudes of the Fourier transform, on a scale on which fine detail, whose amplitudes are small, counts too."""
    return torch.log1p(torch.fft.rfft2(images, norm="ortho").abs())


def mean_image(
    crops: Tensor, features: Callable[[Tensor], Tensor], steps: int, seed: int, squared: bool = True
) -> Tensor:
    """The image (1, 3, H, W) nearest to all crops (K, 3, H, W) in these features, by gradient descent from noise."""
    generator = torch.Generator().manual_seed(seed)
    start = crops.mean((0, 2, 3), keepdim=True).cpu() + 0.1 * torch.randn(crops[:1].shape, generator=generator)
    image = start.to(crops.device).requires_grad_()
    wanted = features(crops)
    optimizer = torch.optim.Adam([image], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        apart = features(image) - wanted
        loss = (apart.square() if squared else apart.abs()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        image.data.clamp_(-1, 1)
    return image.detach()


def shifted_crops(picture: Tensor, side: int, shift: int) -> Tensor:
    """Four crops (4, 3, side, side) about the middle of a picture (3, H, W), `shift` pixels apart."""
    first = (picture.shape[-1] - side - shift) // 2
    if first < 0:
        raise UsageError(f"crops of {side} pixels cannot be {shift} apart in {picture.shape[-1]}")
    starts = (first, first + shift)
    return torch.stack([picture[:, y : y + side, x : x + side] for y in starts for x in starts])


def apart(one: Tensor, crops: Tensor, features: Callable[[Tensor], Tensor]) -> float:
    """Mean squared distance of an image from the crops, in units of that between two crops."""
    maps = features(crops)
    between = (maps - maps[:, None]).square().mean() * len(crops) / (len(crops) - 1)
    return float((features(one) - maps).square().mean() / between)


def contrast(images: Tensor) -> float:
    """Standard deviation of the pixels of an image."""
    return float(images.std((2, 3)).mean())


def edges(images: Tensor) -> float:
    """Mean difference of neighbouring pixels."""
    return float((images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()) / 2)


def experiment(options: argparse.Namespace) -> Figure:
    side, steps = (32, 10) if options.tiny else (CROP, options.steps)
    channels, nets = (CHANNELS[:2], 2) if options.tiny else (CHANNELS, 3)
    device = options.device
    tiles = pictures(options.folder, 4, side * 3 // 4, options.seed)  # of four pictures one, with edges and textures
    picture = torch.cat([torch.cat([*pair], 2) for pair in tiles.split(2)], 1)
    crops = shifted_crops(picture, side, options.shift).to(device)
    judges = {kind: RandomCNN(JUDGE, kind == "CNN2", 1000, device) for kind in ("CNN1", "CNN2")}

    def row(image: Tensor) -> list[float]:
        by = [apart(image, crops, judge) for judge in judges.values()]
        return [*by, contrast(image) / contrast(crops), edges(image) / edges(crops)]

    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "l1": lambda images: images,
        "l2": lambda images: images,
        "CNN1": RandomCNN(32, False, options.seed, device),
        "CNN2": RandomCNN(32, True, options.seed, device),
        "FFT": amplitudes,
    }
    means = {
        name: mean_image(crops, features, steps, options.seed, squared=name != "l1")
        for name, features in bar(losses.items(), "losses")
    }
    rows = [["a crop", *row(crops[:1])], *([name, *row(image)] for name, image in means.items())]
    head = ["mean by", "from the crops, by CNN1", "by CNN2", "contrast", "edges"]
    print(table(head, rows), end="\n\n")

    sweep: dict[int, list[Tensor]] = {count: [] for count in channels}
    for count, net in bar([(count, net) for net in range(nets) for count in channels], "channels"):
        features = RandomCNN(count, True, options.seed + net, device)
        sweep[count].append(mean_image(crops, features, steps, options.seed + net))
    judged = {count: [row(image) for image in images] for count, images in sweep.items()}
    middle = [[count, *map(float, torch.tensor(found).median(0).values)] for count, found in judged.items()]
    print(table(["channels of CNN2", *head[1:]], middle))
    return drawn(crops, means, sweep, {count: [one[1] for one in found] for count, found in judged.items()})


def drawn(
    crops: Tensor, means: dict[str, Tensor], sweep: dict[int, list[Tensor]], judged: dict[int, list[float]]
) -> Figure:
    """The mean images above, those of more and more channels below, and how near these are to the crops."""
    figure = Figure(figsize=(10.5, 6), layout="constrained")
    grid = figure.add_gridspec(3, 6, height_ratios=[1, 1, 0.95])
    upper = {"one of four crops": crops[:1], **{f"mean by {name}": image for name, image in means.items()}}
    lower = {f"CNN2 of {count} channels": images[0] for count, images in sweep.items()}
    for line, images in enumerate((upper, lower)):
        for place, (title, image) in enumerate(images.items()):
            show(figure.add_subplot(grid[line, place]), sheet(image, 1), title)
    axes = figure.add_subplot(grid[2, :])
    for net, values in enumerate(zip(*judged.values(), strict=True)):
        axes.plot([*judged], values, "o-", color=COLOURS[net], label=f"random network {net + 1}")
    # No features are nearer to those of K crops than their mean is; whether an image has these is another matter.
    least = (len(crops) - 1) / (2 * len(crops))
    axes.axhline(least, color="grey", linestyle=":", label="the mean of the crops' features")
    axes.set_xscale("log", base=2)
    axes.set_xticks([*judged], [str(count) for count in judged])
    axes.set_xlabel("channels of the CNN2 that the mean image was made with")
    axes.set_ylabel("distance from the crops\n(1 = between two crops)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return figure


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__, "mean.png")
    options.add_argument("--steps", type=positive, default=300, help="of gradient descent, each image (%(default)s)")
    options.add_argument("--shift", type=positive, default=12, help="between the crops, in pixels (%(default)s)")
    run(experiment, options.parse_args(arguments))


if __name__ == "__main__":
    main()
