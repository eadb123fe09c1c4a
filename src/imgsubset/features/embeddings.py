"""Features computed elsewhere, a row of numbers an image, to moments: checked, and reduced to principal components.

The later stages standardise every channel, and a component with a thousandth of the variance would then count as much
as the first. So the components are turned until all channels vary alike: standardising is one common factor, and the
spectrum stays what it was. With 1,024 features of a random CNN of 10,000 CIFAR images, n = 500 and K = 64, the Frechet
distance and KL in the features themselves were 0.792 and 0.18 of a random subset's (mean of 6 searches), with plain
components 0.807 and 0.20, after a random rotation alone 0.795 and 0.31.

Shapes: N images, D dimensions, K components.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from imgsubset.devices import single_threaded, workers
from imgsubset.errors import InputError, UsageError
from imgsubset.files import read_whole
from imgsubset.options import Embeddings
from imgsubset.statistics.moments import DEAD_VARIANCE, ImageMoments

MANY_DIMENSIONS = 256  # above this there is PCA, unless asked otherwise: a search's time grows with the square of them
# Kept then. 256 of 1,024 made the search of 10,000 images 20 times slower, and the subset's Frechet distance in all
# dimensions was no lower (0.80 of a random subset's against 0.79).
COMPONENTS = 64
MOST_DIMENSIONS = 1 << 13  # of which components are computed: the time grows with D^3
LARGEST = 1e15  # a number's square and the sums of it must fit into float32
RANK = 1e-10  # of the largest eigenvalue: what is below is rounding
# Constants, so that no result depends on the machine.
BLOCK_BYTES = 32 << 20  # of float64 rows held at once
STRIP = 64  # columns, or rows, that a core works on at once


@dataclass(frozen=True)
class Embedded:
    """Features as moments of maps with a single position.

    images      a row an image, not standardised
    paths       relative to the source with `/`, in the order of the rows, which is that of their bytes
    dimensions  D
    components  K: fewer than asked for where the features vary in fewer directions; D without PCA
    explained   share in [0, 1] of the variance of the standardised columns that the components hold; 1 without PCA
    """

    images: ImageMoments
    paths: tuple[str, ...]
    dimensions: int
    components: int
    explained: float


def read_embeddings(
    embeddings: Embeddings, root: Path, device: torch.device, progress: Callable[[int], None] = lambda images: None
) -> Embedded:
    """Read features of images of the folder `root`, in bounded memory; opens no image.

    `progress` is called with the number of images just done, once the components are known. Neither the order of the
    rows nor the number of threads changes a bit of the result.

    Raises UsageError for more components than dimensions, and InputError for an array of another kind, numbers that
    are not finite or too large, and paths that are too many, too few, listed twice or no file in `root`.
    """
    values, name = _array(embeddings.values)
    dimensions = values.shape[1]
    wanted = embeddings.pca
    if wanted is None:
        wanted = COMPONENTS if dimensions > MANY_DIMENSIONS else 0
    if wanted > dimensions:
        raise UsageError(f"pca {wanted:,} is more components than the {dimensions:,} dimensions of {name}")
    if wanted and dimensions > MOST_DIMENSIONS:
        raise InputError(f"{name} have {dimensions:,} dimensions; PCA takes {MOST_DIMENSIONS:,} at most")
    listed, paths_name = _listed(embeddings.paths)
    if len(listed) != len(values):
        raise InputError(f"{name} have {len(values):,} rows, but {paths_name} list {len(listed):,} images")
    located = _located(listed, paths_name, root)
    order = sorted(range(len(located)), key=lambda row: os.fsencode(located[row]))
    rows = _Rows(values, name, [located[row] for row in order], np.array(order))
    blocks, explained = rows.blocks(), 1.0
    with single_threaded():
        if wanted:
            center, projection, explained = _components(rows, wanted)
            blocks = _projected(rows, center, projection)
        table = _table(blocks, len(values), progress)
    images = ImageMoments(table.to(device), 1)
    return Embedded(images, tuple(rows.paths), dimensions, images.channels, explained)


def _array(values: str | os.PathLike[str] | np.ndarray) -> tuple[np.ndarray, str]:
    """The array (N, D), a file's mapped into memory, and what messages call it."""
    if isinstance(values, np.ndarray):
        array, name = np.asarray(values), "the embeddings"
    else:
        name = f"embeddings '{os.fspath(values)}'"
        try:
            if not stat.S_ISREG(Path(values).stat().st_mode) and not Path(values).is_dir():
                raise OSError(errno.EINVAL, "not a regular file")
            with Path(values).open("rb") as file:
                if file.read(4) == b"PK\x03\x04":
                    raise InputError(f"{name} are a .npz archive; save the one array in it with numpy.save")
            array = np.asarray(open_memmap(values, mode="r"))  # never unpickles: it refuses objects
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror or error}") from None
        except ValueError as error:
            raise InputError(f"{name} are not a .npy file of numbers: {' '.join(str(error).split())}") from None
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not array.size:
        raise InputError(
            f"{name} are an array of shape {array.shape} and type {array.dtype}; "
            "real numbers of shape (images, dimensions) are needed, at least one of each"
        )
    return array, name


def _listed(paths: str | os.PathLike[str] | Sequence[str]) -> tuple[list[str], str]:
    """The paths as written, and what messages call them."""
    if not isinstance(paths, (str, os.PathLike)):
        return [os.fsdecode(path) for path in paths], "the paths"
    name = f"paths '{os.fspath(paths)}'"
    try:
        content = read_whole(paths)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from None
    if b"\0" in content:
        parts = content.split(b"\0")
    else:
        parts = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    while parts and not parts[-1]:
        parts.pop()
    return [os.fsdecode(part) for part in parts], name


def _located(listed: list[str], name: str, root: Path) -> list[str]:
    """The paths relative to the root, each of them a file there, and none twice."""
    bases = [base.rstrip("/") + "/" for base in (normpath(root.absolute()), os.path.realpath(root))]
    rows: dict[str, int] = {}
    for row, path in enumerate(listed):
        relative = normpath(path)
        for base in bases:
            relative = relative.removeprefix(base)
        if relative == ".." or relative.startswith(("/", "../")):
            raise InputError(f"row {row} of {name}: '{path}' is not in source '{root}'")
        if relative in rows:
            raise InputError(f"{name} list '{relative}' twice, in row {rows[relative]} and row {row}")
        rows[relative] = row
        try:
            problem = "" if stat.S_ISREG((root / relative).stat().st_mode) else "not a regular file"
        except (OSError, ValueError) as error:  # a ValueError: a name that no file can have
            problem = getattr(error, "strerror", None) or str(error)
        if problem:
            raise InputError(f"row {row} of {name}: '{path}' is no file in source '{root}': {problem}")
    return list(rows)


@dataclass(frozen=True)
class _Rows:
    """Rows (N, D) of `values` in another order, with the paths in that order; `name` is for messages."""

    values: np.ndarray
    name: str
    paths: list[str]
    order: np.ndarray

    def block(self, rows: np.ndarray) -> Tensor:
        """These rows as float64."""
        with np.errstate(all="ignore"):  # wider floats overflow to infinity
            return torch.from_numpy(self.values[rows].astype(np.float64, order="C"))

    def blocks(self) -> Iterator[Tensor]:
        """All rows, in blocks. Raises InputError, after the last, if a number is not finite or too large."""
        bad: list[tuple[int, str, float]] = []
        height = max(1, BLOCK_BYTES // (8 * self.values.shape[1]))
        for start in range(0, len(self.order), height):
            block = self.block(self.order[start : start + height])
            wrong = ~(block.abs().amax(1) <= LARGEST)  # the largest of a row with a NaN is NaN: not <= anything
            for i in wrong.nonzero().squeeze(1).tolist():
                number = float(block[i][~(block[i].abs() <= LARGEST)][0])
                bad.append((int(self.order[start + i]), self.paths[start + i], number))
            yield block
        if bad:
            row, path, number = min(bad)
            raise InputError(
                f"row {row} of {self.name}, '{path}', holds {number:g}, which is not finite or beyond {LARGEST:g}; "
                f"rows at fault: {len(bad):,} of {len(self.order):,}"
            )


def _components(rows: _Rows, wanted: int) -> tuple[Tensor, Tensor, float]:
    """Center (D,), projection (D, K) and share explained of the first components of the standardised columns."""
    mean, cov = _mean_and_cov(rows)
    var = cov.diagonal()
    kept = var > DEAD_VARIANCE * (var + mean**2)
    scale = var[kept].sqrt()
    values, vectors = torch.linalg.eigh(cov[kept][:, kept] / scale / scale[:, None], UPLO="U")
    values, vectors = values.flip(0), vectors.flip(1)
    count = min(wanted, int((values > RANK * values[:1]).sum()))
    projection = torch.zeros(len(kept), count, dtype=torch.float64)
    if not count:
        return mean, projection, 1.0
    explained = float(values[:count].sum() / values.clamp(min=0).sum())
    values, vectors = values[:count], vectors[:, :count]
    # The sign of an eigenvector is the library's whim.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    projection[kept] = vectors / scale[:, None] @ _levelling(values)
    return mean, projection, min(explained, 1.0)


def _mean_and_cov(rows: _Rows) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the upper triangle of the covariance (D, D) of all rows, in one pass."""
    dimensions = rows.values.shape[1]
    shift = rows.block(rows.order[:1])[0]  # any row: sums of squares then lose no digits to a large mean
    sums = torch.zeros(dimensions, dtype=torch.float64)
    outer = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    for block in rows.blocks():
        block -= shift
        sums += block.sum(0)
        lefts = range(0, dimensions, STRIP)
        strips = [(outer[i : i + STRIP, i:], block[:, i : i + STRIP].mT, block[:, i:]) for i in lefts]
        list(workers().map(lambda strip: strip[0].addmm_(*strip[1:]), strips))
    mean = sums / len(rows.paths)
    return mean + shift, outer.div_(len(rows.paths)).addr_(mean, mean, alpha=-1)


def _levelling(variances: Tensor) -> Tensor:
    """Q (K, K), orthogonal, with an equal diagonal of Q^T diag(variances) Q.

    A random rotation makes every channel a mix of all components. Givens rotations, each of which sets one
    diagonal entry to the mean of all, do the rest (Davies & Higham, BIT 2000).
    """
    count, level = len(variances), float(variances.mean())
    generator = torch.Generator().manual_seed(0)
    start = torch.linalg.qr(torch.randn(count, count, dtype=torch.float64, generator=generator)).Q
    cov, rotation = (start.mT @ (variances[:, None] * start)).numpy(), start.numpy()
    for _ in range(count - 1):
        excess = cov.diagonal() - level
        pair = [int(excess.argmin()), int(excess.argmax())]
        below, above, between = excess[pair[0]], excess[pair[1]], cov[pair[0], pair[1]]
        if below >= 0 or above <= 0:
            break
        # The root of above t^2 + 2 between t + below = 0 is the tangent of the angle that lifts the lower to the mean.
        tangent = -(between + np.copysign(np.sqrt(between**2 - below * above), between)) / above
        turn = np.array([[1, -tangent], [tangent, 1]]) / np.hypot(1, tangent)
        rotation[:, pair] = rotation[:, pair] @ turn
        cov[:, pair] = cov[:, pair] @ turn
        cov[pair] = turn.T @ cov[pair]
    return torch.from_numpy(rotation)


def _projected(rows: _Rows, center: Tensor, projection: Tensor) -> Iterator[Tensor]:
    """Blocks of (x - center) @ projection, (B, K)."""
    for block in rows.blocks():
        block -= center
        yield torch.cat(list(workers().map(lambda part: part @ projection, torch.split(block, STRIP))))


def _table(blocks: Iterator[Tensor], total: int, progress: Callable[[int], None]) -> Tensor:
    """The table (N, 2 K) of moments: with one position, the mean square is the square of the mean."""
    done, table = 0, torch.empty(0)
    for block in blocks:
        if not done:
            table = torch.empty(total, 2 * block.shape[1])
        mean, square = table[done : done + len(block)].chunk(2, 1)
        torch.square(mean.copy_(block), out=square)
        done += len(block)
        progress(len(block))
    return table
