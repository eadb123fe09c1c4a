"""Embeddings computed elsewhere: checked, reduced to principal components, converted to moments.

The later stages standardise every channel, and a component with a thousandth of the variance would then count as much
as the first. So the components are turned at random, after which all channels vary by about as much. With 1,024
features of a random CNN of 10,000 CIFAR images, n = 500 and K = 64, the Frechet distance in the features themselves
was then 0.795 of a random subset's (mean of 6 searches), and KL 0.31; with plain components 0.807 and 0.20.

Shapes: N images, D dimensions, K components.

Of more than MOST channels an image's mean is kept, as a vector of numbers with one position: projected at random to
PROJECTED before anything is stored, and to its principal components once all images are known.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from posixpath import normpath

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from imgsubset.devices import single_threaded
from imgsubset.errors import InputError, UsageError
from imgsubset.features.array_storage import PROJECTED_CHANNELS
from imgsubset.files import read_input_file
from imgsubset.inputs import Embeddings
from imgsubset.sources.images import Listing
from imgsubset.sources.listing import parse_paths
from imgsubset.statistics.moments import (
    MIN_RELATIVE_VARIANCE,
    ImageMoments,
    LazyMoments,
    Standardiser,
    compute_all_moments,
    compute_subset_moments,
)
from imgsubset.statistics.rng import make_generator

# Of more dimensions as many components are kept, unless asked otherwise. 256 of 1,024 made the search of 10,000 images
# 20 times slower, and the subset's Frechet distance in all dimensions was no lower (0.80 of a random subset's against
# 0.79).
DEFAULT_COMPONENTS = 64
MOST_SEARCHED = 512  # dimensions or components: the time of a search grows with K^3, 90 s on two cores for 256
MAX_PCA_DIMENSIONS = 1 << 13  # of which components are computed: the time grows with D^3
MAX_ABS_VALUE = 1e15  # a number's square and the sums of it must fit into float32
RANK_TOLERANCE = 1e-10  # of the largest eigenvalue: what is below is rounding
BLOCK_BYTES = 32 << 20  # of float64 rows held at once; a constant, so that no result depends on the machine


@dataclass(frozen=True)
class EmbeddingMoments:
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


def read_embeddings(embeddings: Embeddings, source: Listing, device: torch.device) -> EmbeddingMoments:
    """Read features of images of a source, in bounded memory; opens no image.

    Neither the order of the rows nor the number of threads changes a bit of the result.

    Raises UsageError for more components than dimensions, and InputError for an array of another kind, numbers that
    are not finite or too large, and paths that are too many, too few, listed twice or no file in it.
    """
    values, name = _open_array(embeddings.values)
    dimensions = values.shape[1]
    wanted = embeddings.pca
    if wanted is None:
        wanted = DEFAULT_COMPONENTS if dimensions > DEFAULT_COMPONENTS else 0
    if wanted > dimensions:
        raise UsageError(f"pca {wanted:,} is more components than the {dimensions:,} dimensions of {name}")
    if (wanted or dimensions) > MOST_SEARCHED:
        kept = f"pca {wanted:,}" if wanted else f"pca 0 keeps all {dimensions:,} dimensions of {name}, which"
        raise UsageError(f"{kept} is more than the {MOST_SEARCHED} that can be searched; give a smaller pca")
    if wanted and dimensions > MAX_PCA_DIMENSIONS:
        raise InputError(f"{name} have {dimensions:,} dimensions; PCA takes {MAX_PCA_DIMENSIONS:,} at most")
    listed, paths_name = _read_paths(embeddings.paths)
    if len(listed) != len(values):
        raise InputError(f"{name} have {len(values):,} rows, but {paths_name} list {len(listed):,} images")
    if source.order is not None and tuple(listed) == source.order:  # what it lists twice, or may not use, counts not
        places = {path: source.places[path] for path in source.paths}
    else:
        places = {path: row for row, path in enumerate(_resolve_paths(listed, paths_name, source))}
    _check_numbers(values, name, places)
    paths = sorted(places, key=os.fsencode)
    order = [places[path] for path in paths]
    blocks, explained = _iter_blocks(values, order), 1.0
    # On one thread, so that sums have one order: for 100,000 rows of 1,024 dimensions PCA takes 8 s.
    with single_threaded():
        if wanted:
            center, projection, explained = fit_pca(values, order, wanted)
            blocks = ((block - center) @ projection for block in blocks)
        means = (block.float() for block in blocks)
        # With one position, the mean square is the square of the mean.
        table = torch.cat([torch.cat([mean, mean.square()], 1) for mean in means])
    images = ImageMoments(table.to(device), 1)
    return EmbeddingMoments(images, tuple(paths), dimensions, images.channels, explained)


def _open_array(values: str | os.PathLike[str] | np.ndarray) -> tuple[np.ndarray, str]:
    """The array (N, D), a file's mapped into memory, and what messages call it."""
    if isinstance(values, np.ndarray):
        array, name = np.asarray(values), "the embeddings"
    else:
        name = f"embeddings '{os.fspath(values)}'"
        try:
            if Path(values).is_fifo():  # opening it could hang
                raise OSError(errno.EINVAL, "not a regular file")
            with Path(values).open("rb") as file:
                if file.read(4) == b"PK\x03\x04":
                    raise InputError(f"{name} are a .npz archive; save the one array in it with numpy.save")
            array = np.asarray(open_memmap(values, mode="r"))  # never unpickles: it refuses objects
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror or error}") from None
        except InputError:
            raise
        except Exception as error:  # a header is Python, whose parser has many words for what it does not like
            raise InputError(f"{name} are not a .npy file of numbers: {' '.join(str(error).split())}") from None
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not array.size:
        raise InputError(
            f"{name} are an array of shape {array.shape} and type {array.dtype}; "
            "real numbers of shape (images, dimensions) are needed, at least one of each"
        )
    return array, name


def _read_paths(paths: str | os.PathLike[str] | Sequence[str] | None) -> tuple[list[str], str]:
    """The paths as written, one for each row of the array, and what messages call them."""
    if paths is None:
        raise UsageError("embeddings without paths are of a list or data set, and need it as the source")
    if not isinstance(paths, (str, os.PathLike)):
        return [os.fsdecode(path) for path in paths], "the paths"
    name = f"paths '{os.fspath(paths)}'"
    return parse_paths(read_input_file(paths, name)), name


def _resolve_paths(listed: Sequence[str], name: str, source: Listing) -> list[str]:
    """The paths relative to the source, each of them a file there, and none twice."""
    bases = [base.rstrip("/") + "/" for base in (normpath(source.root.absolute()), os.path.realpath(source.root))]
    images, rows = frozenset(source.paths), dict[str, int]()
    for row, path in enumerate(listed):
        relative = normpath(path)
        for base in bases:
            relative = relative.removeprefix(base)
        if relative == ".." or relative.startswith(("/", "../")):
            raise InputError(f"row {row} of {name}: '{path}' is not in source '{source.name}'")
        if (first := rows.setdefault(relative, row)) != row:
            raise InputError(f"{name} list '{relative}' twice, in row {first} and row {row}")
        try:
            if relative not in images:
                source.open(relative).close()
        except (OSError, ValueError) as error:  # a ValueError: a name that no file can have
            problem = getattr(error, "strerror", None) or str(error)
            raise InputError(f"row {row} of {name}: '{path}' is no file in source '{source.name}': {problem}") from None
    return list(rows)


def _iter_blocks(values: np.ndarray, rows: Sequence[int]) -> Iterator[Tensor]:
    """These rows of the array as float64, in blocks."""
    height = max(1, BLOCK_BYTES // (8 * values.shape[1]))
    for start in range(0, len(rows), height):
        with np.errstate(all="ignore"):  # wider floats overflow to infinity
            block = values[rows[start : start + height]].astype(np.float64, order="C")
        yield torch.from_numpy(block)


def _check_numbers(values: np.ndarray, name: str, places: Mapping[str, int]) -> None:
    """Of the rows of these images."""
    paths = {row: path for path, row in places.items()}
    rows = sorted(paths)
    # The largest of a row with a NaN is NaN: not <= anything.
    wrong = torch.cat([~(block.abs().amax(1) <= MAX_ABS_VALUE) for block in _iter_blocks(values, rows)])
    if wrong.any():
        row = rows[int(wrong.nonzero()[0])]
        numbers = next(_iter_blocks(values, [row]))
        number = float(numbers[~(numbers.abs() <= MAX_ABS_VALUE)][0])
        raise InputError(
            f"row {row} of {name}, '{paths[row]}', holds {number:g}, which is not finite or beyond {MAX_ABS_VALUE:g}; "
            f"rows at fault: {int(wrong.sum()):,} of {len(wrong):,}"
        )


def fit_pca(values: np.ndarray, order: Sequence[int], wanted: int) -> tuple[Tensor, Tensor, float]:
    """Center (D,), projection (D, K) and share explained of the first components of the standardised columns."""
    shift = next(_iter_blocks(values, order[:1]))[0]  # any row: sums of squares then lose no digits to a large mean
    sums = torch.zeros(len(shift), dtype=torch.float64)
    outer = torch.zeros(len(shift), len(shift), dtype=torch.float64)
    for block in _iter_blocks(values, order):
        block -= shift
        sums += block.sum(0)
        outer.addmm_(block.mT, block)
    mean = sums / len(order)
    cov = outer.div_(len(order)).addr_(mean, mean, alpha=-1)
    var, center = cov.diagonal(), mean + shift
    # A column that does not vary has no part in any component.
    scale = torch.where(var > MIN_RELATIVE_VARIANCE * (var + center**2), var.sqrt(), torch.inf)
    eigenvalues, vectors = torch.linalg.eigh(cov / scale / scale[:, None])
    eigenvalues, vectors = eigenvalues.flip(0), vectors.flip(1)
    count = min(wanted, int((eigenvalues > RANK_TOLERANCE * eigenvalues[0]).sum()))
    vectors = vectors[:, :count]
    # The sign of an eigenvector is the library's whim.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    noise = torch.randn(count, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    projection = vectors / scale[:, None] @ torch.linalg.qr(noise).Q
    explained = float(eigenvalues[:count].sum() / eigenvalues.clamp(min=0).sum()) if count else 1.0
    return center, projection, min(explained, 1.0)


MAX_CHANNELS = DEFAULT_COMPONENTS  # channels


def project_channels(images: ImageMoments) -> ImageMoments:
    """Moments of at most PROJECTED channels, each image by itself; few channels stay as they are."""
    if images.channels <= MAX_CHANNELS:
        return images
    mean = images.mean
    if images.channels > PROJECTED_CHANNELS:
        # A random projection to so many numbers keeps distances to a few per cent (Johnson & Lindenstrauss, 1984).
        generator = torch.Generator().manual_seed(images.channels)
        projection = torch.randn(images.channels, PROJECTED_CHANNELS, generator=generator) / PROJECTED_CHANNELS**0.5
        mean = mean @ projection.to(mean)
    return _vectors_to_moments(mean)


def reduce_channels(images: ImageMoments) -> ImageMoments:
    """The first principal components, turned at random, of vectors of more than MOST numbers."""
    if images.channels <= MAX_CHANNELS:
        return images
    seen = fit_reduction(images)
    with single_threaded():  # so that sums have one order
        return ImageMoments(torch.cat([seen(block) for block in images.blocks()]), 1)


def fit_reduction(images: ImageMoments) -> Callable[[Tensor], Tensor]:
    """What makes the reduced rows of rows of a table, by the components of these images."""
    if images.channels <= MAX_CHANNELS:
        return lambda rows: rows
    with single_threaded():
        center, projection, _ = fit_pca(images.mean.cpu().numpy(), range(len(images)), MAX_CHANNELS)

    def seen(rows: Tensor) -> Tensor:
        mean = rows[:, : images.channels].double().cpu()
        return _vectors_to_moments(((mean - center) @ projection).float()).table.to(rows)

    return seen


def standardise_lazily(images: ImageMoments, sampled: int) -> tuple[LazyMoments, Standardiser]:
    """Reduced, by the components of a sample of so many, and standardised, whenever some rows are looked at."""
    some = torch.randperm(len(images), generator=make_generator(torch.device("cpu"), "sample"))[:sampled].sort().values
    sample = ImageMoments(images.table[some.to(images.table.device)], images.positions)
    seen, positions = fit_reduction(sample), images.positions if images.channels <= MAX_CHANNELS else 1
    sample = ImageMoments(seen(sample.table), positions)
    found = LazyMoments(images.table, positions, seen, sample, compute_all_moments(sample))
    whole = compute_subset_moments(found, torch.arange(len(images))[None], torch.float64).take(0)
    scale = Standardiser.of(whole.mean, whole.var)

    def standardised(rows: Tensor) -> Tensor:
        return scale.rows(seen(rows)).float()

    return replace(found, seen=standardised, sample=scale.apply(sample), whole=scale.moments(whole)), scale


def _vectors_to_moments(mean: Tensor) -> ImageMoments:
    """With one position, the mean square is the square of the mean."""
    return ImageMoments(torch.cat([mean, mean.square()], 1), 1)
