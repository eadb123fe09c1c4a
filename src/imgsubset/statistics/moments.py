"""Feature maps to moments: of each image, standardised by the source's, and of subsets of images.

Shapes: N images, n of them in a subset, C channels, L = h * w positions of a feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import torch
from torch import Tensor

# Rows of images gathered at once while subsets are summed up: what a cache holds; a GPU is given more at a time.
GATHER_BYTES = {"cpu": 2 << 20, "cuda": 64 << 20}
BLOCK_ROWS = 1 << 14
CACHE_BLOCK_ROWS = 1 << 11  # few enough that what is made of each row stays in the processor's cache
MIN_RELATIVE_VARIANCE = (
    1e-6  # a channel whose variance is below this part of its mean square is constant but for rounding
)


@dataclass(frozen=True)
class ImageMoments:
    """What is kept of each image.

    table      (N, 2 C) float32, a row an image: the mean of each channel over positions, `a`, which is the image's
               feature vector, then the mean square of each channel over positions, `q`
    positions  L
    """

    table: Tensor
    positions: int

    def __len__(self) -> int:
        return len(self.table)

    @property
    def channels(self) -> int:
        """C"""
        return self.table.shape[1] // 2

    @property
    def mean(self) -> Tensor:
        """`a`, (N, C)."""
        return self.table[:, : self.channels]

    @property
    def square(self) -> Tensor:
        """`q`, (N, C)."""
        return self.table[:, self.channels :]

    def gathered(self, rows: Tensor, room: Tensor) -> Tensor:
        """Some rows (B,) of the table, in this room, of at least as many, where they fit it."""
        return torch.index_select(self.table, 0, rows, out=room[: len(rows)])

    def blocks(self) -> Iterator[Tensor]:
        """The table in blocks of rows, in order."""
        yield from torch.split(self.table, BLOCK_ROWS)


@dataclass(frozen=True)
class LazyMoments(ImageMoments):
    """Moments of more images than memory is wanted for: what is seen of a table as it came, some rows at a time.

    seen    what rows (B, W) of the table are seen as, (B, 2 C)
    sample  some of the images, as they are seen, of which random subsets are drawn
    whole   the moments of all of them
    """

    seen: Callable[[Tensor], Tensor]
    sample: ImageMoments
    whole: Moments

    @property
    def channels(self) -> int:
        """C"""
        return self.sample.channels

    def gathered(self, rows: Tensor, room: Tensor) -> Tensor:
        """Some rows (B,), as they are seen."""
        return self.seen(self.table[rows.to(self.table.device)])


@dataclass(frozen=True)
class Block:
    """One of the feature spaces that a selection matches.

    name    for people
    images  moments of the source's images in this space
    weight  its share of the loss; those of all blocks sum to 1
    numbers whether its channels are numbers about images and not features of pixels: such need not be near normal
    """

    name: str
    images: ImageMoments
    weight: float = 1.0
    numbers: bool = False


@dataclass(frozen=True)
class Moments:
    """The moments of sets of images, float64, any number of leading batch dimensions.

    mean  (..., C)     of each channel over all positions of all images
    var   (..., C)     variance of each channel over all positions of all images
    cov   (..., C, C)  covariance of the images' feature vectors
    """

    mean: Tensor
    var: Tensor
    cov: Tensor

    def take(self, which: int) -> Moments:
        """One of a batch (K, ...)."""
        return Moments(self.mean[which], self.var[which], self.cov[which])

    def to_cpu(self) -> Moments:
        """In the memory of the CPU."""
        return Moments(self.mean.cpu(), self.var.cpu(), self.cov.cpu())

    @staticmethod
    def stack(parts: Sequence[Moments]) -> Moments:
        """Single moments as a batch (K, ...)."""
        return Moments(*(torch.stack([getattr(part, name) for part in parts]) for name in ("mean", "var", "cov")))

    @cached_property
    def cov_root(self) -> Tensor:
        """(..., r, C): B with B^T B = cov, cut to the directions in which the set varies. Not batched."""
        values, vectors = torch.linalg.eigh(self.cov)
        live = values > values.amax().clamp(min=0) * 1e-12 if values.numel() else values > 0
        root: Tensor = (vectors[:, live] * values[live].sqrt()).T
        return root


@dataclass(frozen=True)
class Standardiser:
    """The affine map that gives every channel of a source mean 0 and variance 1.

    center, scale  (C,) float64, of the channels that are kept
    is_varying     (C0,) bool: the channels that vary in the source
    """

    center: Tensor
    scale: Tensor
    is_varying: Tensor

    @classmethod
    def of(cls, mean: Tensor, var: Tensor) -> Standardiser:
        """Of the mean and variance (C0,) of each channel."""
        kept = var > MIN_RELATIVE_VARIANCE * (var + mean**2)
        return cls(mean[kept], var[kept].sqrt(), kept)

    def moments(self, source: Moments) -> Moments:
        """Those of a set, standardised."""
        mean, var = ((part[self.is_varying]) for part in (source.mean, source.var))
        cov = source.cov[self.is_varying][:, self.is_varying] / self.scale / self.scale[:, None]
        return Moments((mean - self.center) / self.scale, var / self.scale**2, cov)

    def apply(self, images: ImageMoments, in_place: bool = False) -> ImageMoments:
        """Standardised moments: algebra on the moments, with a' = (a - c) / s and q' = (q - 2 c a + c^2) / s^2.

        in_place  whether the table may be written over, as is done if all channels are kept
        """
        in_place = in_place and bool(self.is_varying.all())
        table = images.table if in_place else images.table.new_empty(len(images), 2 * len(self.center))
        # In blocks: float64 copies of the whole table would be most of the memory that an image takes.
        for block, source in zip(
            torch.split(table, CACHE_BLOCK_ROWS), torch.split(images.table, CACHE_BLOCK_ROWS), strict=True
        ):
            block.copy_(self.rows(source))
        return ImageMoments(table, images.positions)

    def rows(self, rows: Tensor) -> Tensor:
        """Some rows of a table, standardised, in float64."""
        mean, square = (part[:, self.is_varying].double() for part in rows.chunk(2, 1))
        square = (square - 2 * self.center * mean + self.center**2) / self.scale**2
        return torch.cat([(mean - self.center) / self.scale, square], 1)


def row_keys(table: Tensor) -> np.ndarray:
    """The bytes of each row of a table (N, Z), as (N,) values that compare and sort as bytes do."""
    rows = np.ascontiguousarray(table.cpu().numpy())
    if not rows.size:  # numpy has no values of no bytes
        return np.zeros(len(rows), "V1")
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]


def row_hashes(table: Tensor) -> np.ndarray:
    """A number (N,) uint64 of each row of a table (N, Z) float32: that of equal rows is equal, and of others hardly
    ever."""
    rows = table.cpu().numpy()
    factors = np.random.default_rng(0).integers(0, 2**64, rows.shape[1], np.uint64) | np.uint64(1)
    parts = (rows[start : start + BLOCK_ROWS].view(np.uint32) for start in range(0, len(rows), BLOCK_ROWS))
    return np.concatenate([(part * factors).sum(1) for part in parts])  # modulo 2^64 (multilinear hashing)


def maps_to_moments(maps: Tensor) -> Tensor:
    """Mean and mean square over the positions of feature maps (B, C, h, w): rows (B, 2 C) of a table."""
    return torch.cat([maps.mean((2, 3)), maps.square().mean((2, 3))], 1)


def fit_standardiser(images: ImageMoments) -> Standardiser:
    """The map that standardises this source."""
    sums = reduce(torch.add, (block.double().sum(0) for block in images.blocks()))
    mean, square = (sums / len(images)).chunk(2)
    return Standardiser.of(mean, square - mean**2)


def compute_subset_moments(images: ImageMoments, rows: Tensor, dtype: torch.dtype = torch.float32) -> Moments:
    """Moments, float64, of K subsets given as indices (K, n).

    Sums over blocks of a few thousand images are made in `dtype`, and added up in float64.
    """
    count, n = rows.shape
    channels = images.channels
    sums = images.table.new_zeros(count, 2 * channels, dtype=torch.float64)
    outer = images.table.new_zeros(count, channels, channels, dtype=torch.float64)
    # Bounded both ways, so that memory does not grow with n, and by constants, so that sums depend on no machine.
    row_bytes = 8 * max(channels, 1)
    gathered_bytes = GATHER_BYTES[images.table.device.type]
    width = max(1, min(n, gathered_bytes // row_bytes))
    height = max(1, gathered_bytes // (row_bytes * width))
    buffer = images.table.new_empty(height * width, 2 * channels)  # allocating it anew costs more than filling it
    for top in range(0, count, height):
        for left in range(0, n, width):
            part = rows[top : top + height, left : left + width]
            gathered = images.gathered(part.reshape(-1), buffer)
            block = gathered.view(*part.shape, 2 * channels).to(dtype)
            a = block[..., :channels]
            sums[top : top + height] += block.new_ones(1, part.shape[1]).matmul(block).squeeze(1)
            outer[top : top + height] += a.mT @ a
    mean, square = (sums / n).chunk(2, -1)
    cov = (outer / n).sub_(mean[..., :, None] * mean[..., None, :])
    return Moments(mean, square - mean**2, cov)


def compute_all_moments(images: ImageMoments) -> Moments:
    """Moments of the whole set, float64 throughout."""
    if isinstance(images, LazyMoments):
        return images.whole
    rows = torch.arange(len(images), device=images.table.device)
    return compute_subset_moments(images, rows[None], torch.float64).take(0)
