"""How hard each image is to classify, by cross-fitted linear models on several simple feature spaces.

They see different things on purpose: what is hard in all of them is hard for most classifiers. None is learnt, so
that there is nothing to download, and all of them together take as long as two or three random CNNs.

What one model gets wrong, others get wrong more often than not (Mania et al., NeurIPS 2019; Baldock, Maennel &
Neyshabur, NeurIPS 2021). So a subset as hard as its source says more of a classifier than a random one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dct
from torch import Tensor

from imgsubset.devices import map_parallel, single_threaded
from imgsubset.features.handcrafted import colour, grey_maps, pixel_maps
from imgsubset.features.random_cnn import Extractor, RandomCNN
from imgsubset.statistics.moments import MIN_RELATIVE_VARIANCE
from imgsubset.statistics.rng import make_generator

LAYOUT_SIDE = 8  # pixels
N_FILTERS, FILTER_SIDE = 32, 5  # number, side in pixels
CORRELATION_LENGTH = 30  # pixels over which the correlation in patches falls to 1 / e
COLOUR_CORRELATION, NOISE_VARIANCE = 0.9, 0.01  # between the colours of patches; variance added to them
N_HIDDEN_UNITS = 256
MAX_FREQUENCY = 4  # half periods, across and down together
N_DIRECTIONS, EDGE_GRID_SIDE = 8, 4
MIN_GRADIENT_NORM = 0.02  # added, so that the noise of flat pictures is not taken for edges; see features.hog


def layout(pixels: Tensor) -> Tensor:
    """Mean colours as a vector (B, 192, 1, 1) of uint8 pixels (B, H, W, 3): an 8 x 8 picture, colour by colour."""
    return _as_vector(F.adaptive_avg_pool2d(pixel_maps(pixels), LAYOUT_SIDE))


def colours(pixels: Tensor) -> Tensor:
    """The vector (B, 63, 1, 1) of `features.colour`, of uint8 pixels (B, H, W, 3) averaged to 16 x 16."""
    few = F.adaptive_avg_pool2d(pixels.permute(0, 3, 1, 2).float(), 16)
    return colour(few.permute(0, 2, 3, 1).round().to(torch.uint8))


def edges(pixels: Tensor) -> Tensor:
    """A vector (B, 128, 1, 1) of uint8 pixels (B, H, W, 3): where the brightness rises in each of eight directions.

    The gradient at a pixel is the difference between its two neighbours, right minus left and lower minus upper, the
    border repeated. Its component in the directions 0, 45, ... 315 degrees, where that is above 0, is averaged over
    the cells of a 4 x 4 grid. Number (direction * 4 + row) * 4 + column of the vector is the square root of such a
    mean, after all are divided by their length, so that contrast does not count. The root is that of RootSIFT
    (Arandjelovic & Zisserman, CVPR 2012): a linear model of 5,000 images of CIFAR-10 tells 48.3 % with it, 46.6 %
    without.
    """
    around = F.pad(grey_maps(pixels), (1, 1, 1, 1), mode="replicate")
    across = around[:, :, 1:-1, 2:] - around[:, :, 1:-1, :-2]
    down = around[:, :, 2:, 1:-1] - around[:, :, :-2, 1:-1]
    angles = torch.arange(N_DIRECTIONS, device=pixels.device)[:, None, None] * (2 * math.pi / N_DIRECTIONS)
    rises = (across * angles.cos() + down * angles.sin()).relu_()
    cells = F.adaptive_avg_pool2d(rises, EDGE_GRID_SIDE).flatten(1)
    return _as_vector((cells / (cells.square().sum(1, keepdim=True) + MIN_GRADIENT_NORM**2).sqrt()).sqrt())


def products(pixels: Tensor) -> Tensor:
    """A vector (B, 135, 1, 1) of uint8 pixels (B, H, W, 3): the longest waves of the brightness, and their products.

    The waves are the coefficients (row, column) of the discrete cosine transform (type II, orthonormal) of the mean
    brightness in 8 x 8 cells with row + column of at most 4: about the first principal components of photographs. So
    a linear model is a quadratic one of these, as the rule for normal classes of unequal covariances is (Hastie,
    Tibshirani & Friedman, The Elements of Statistical Learning, 2009, 4.3). First the 15 waves row by row, then the
    120 products of two, squares among them.
    """
    few = F.adaptive_avg_pool2d(grey_maps(pixels), LAYOUT_SIDE)[:, 0]
    basis = torch.from_numpy(dct(torch.eye(LAYOUT_SIDE, dtype=torch.float64).numpy(), axis=0, norm="ortho")).to(few)
    place = torch.arange(LAYOUT_SIDE, device=few.device)
    waves = (basis @ few @ basis.mT)[:, place[:, None] + place <= MAX_FREQUENCY]
    one, other = torch.triu_indices(waves.shape[1], waves.shape[1], device=few.device)
    return _as_vector(torch.cat([waves, waves[:, one] * waves[:, other]], 1))


class Units(torch.nn.Module):
    """What a random hidden layer makes of the layout: a linear model of it is a network whose last layer alone learns
    (random kitchen sinks; Rahimi & Recht, NIPS 2008)."""

    def __init__(self) -> None:
        super().__init__()
        generator = make_generator(torch.device("cpu"), "units")
        inputs = 3 * LAYOUT_SIDE**2
        weights = torch.randn(inputs, N_HIDDEN_UNITS, generator=generator) * (2 / inputs**0.5)
        self.weights = torch.nn.Parameter(weights, requires_grad=False)
        self.offsets = torch.nn.Parameter(torch.randn(N_HIDDEN_UNITS, generator=generator), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """A vector (B, 256, 1, 1) of uint8 pixels (B, H, W, 3)."""
        return _as_vector(torch.addmm(self.offsets, layout(pixels).flatten(1), self.weights).relu())


class Textures(torch.nn.Module):
    """What seeded random filters of 5 x 5 pixels answer in each quarter of a picture.

    Pooled answers of one layer of filters, random ones too, are much of what a trained network knows (Coates, Lee &
    Ng, AISTATS 2011), once those above and those below 0 are pooled apart.

    whitened  whether the filters are those of whitened patches, which see what is fine as well as what is coarse. The
              covariance is not of the images at hand but one that fits most photographs: exp(-distance / 30 pixels)
              times 0.9 for two colours, and 0.01 more for each pixel
    """

    def __init__(self, *, whitened: bool = False) -> None:
        super().__init__()
        role = "whitened textures" if whitened else "textures"
        self.network = RandomCNN((N_FILTERS,), FILTER_SIDE, role=role, activation="leaky")
        if whitened:
            (filters,) = self.network.layers
            filters.copy_((filters.flatten(1).double() @ _patch_whitening_matrix()).view(filters.shape))

    def forward(self, pixels: Tensor) -> Tensor:
        """A vector (B, 256, 1, 1) of uint8 pixels (B, H, W, 3): roots of the mean of what is above 0, then of what is
        below, of each filter in each quarter, where it lies wholly inside the picture."""
        maps = self.network(pixels)[:, :, 1:-1, 1:-1]
        both = [F.adaptive_avg_pool2d(side.relu(), 2) for side in (maps, -maps)]
        return _as_vector(torch.cat(both, 1).sqrt())


def _patch_whitening_matrix() -> Tensor:
    """The inverse root (75, 75) of the covariance of patches, colour by colour, row by row."""
    place = torch.cartesian_prod(torch.arange(FILTER_SIDE), torch.arange(FILTER_SIDE)).double()
    near = (-torch.cdist(place, place) / CORRELATION_LENGTH).exp()
    alike = torch.full((3, 3), COLOUR_CORRELATION, dtype=torch.float64).fill_diagonal_(1)
    values, vectors = torch.linalg.eigh(torch.kron(alike, near))
    inverse_root: Tensor = vectors @ (vectors / (values + NOISE_VARIANCE).sqrt()).mT
    return inverse_root


def _as_vector(maps: Tensor) -> Tensor:
    return maps.flatten(1)[:, :, None, None]


VIEWS: dict[str, Callable[[], Extractor]] = {
    "layout": lambda: layout,
    "colours": lambda: colours,
    "edges": lambda: edges,
    "plain textures": Textures,
    "whitened textures": partial(Textures, whitened=True),
    "products": lambda: products,
    "units": Units,
}
"""What makes each of them, by name; `features.feature_spaces` names them too, without importing torch."""


RIDGE_PENALTY = 0.03  # of the mean eigenvalue
TEMPERATURES = range(2, 15)  # that scores, which are about 0 or 1, are multiplied by
MIN_CALIBRATION_IMAGES = 4096  # images, at least, that the temperature is chosen by
MAX_COMPONENTS = 16  # numbers of all views
SCORE_SCALES = (1.0, 1.0, 2.0)  # of the numbers of a view, for their principal components; see _of_logits
MIN_RELATIVE_PROBABILITY = 0.05  # of 1 / classes, in logarithms
RANK_TOLERANCE = 1e-6  # of the largest eigenvalue: directions below it are rounding
MIN_IMAGES_PER_CLASS = 100  # images a class
BLOCK_ELEMENTS = 1 << 21  # in float64, at once
CPU = torch.device("cpu")


def compute_difficulty(views: Sequence[Tensor], labels: Tensor) -> Tensor:
    """How hard images are to tell by their classes: at most 16 numbers (N, K), float64, uncorrelated, of mean 0 and
    variance 1. K is 0 where there is one class alone, or nothing that varies.

    views   numbers of the images, (N, D) each; a model of its own judges by each of them
    labels  (N,) whole numbers, equal for images of one class

    The model is linear: ridge regression of 0 and 1 for each class on standardised numbers, penalty 0.03 of their
    mean eigenvalue (Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2009, 3.4.1, 4.2). An image
    is judged by the model of all others, which needs no second fit (ibid., equation 7.64). A softmax makes
    probabilities of its scores, at that of the temperatures 2 to 14 with the least log-loss (Guo et al., ICML 2017).
    With p that of the image's class, each view has three numbers: whether p is the largest; p; log p, of at least a
    20th of 1 / classes, since images beyond hope are alike. The first principal components of all of these are kept,
    each scaled to variance 1. Before that the numbers have variance 1 and log p 4, which keeps more of what log-losses
    follow: 16 components of seven views of 10,000 CIFAR images say 0.566 of the variance of those of twelve classifiers
    that had no part in it, of the 0.568 that all 21 numbers say.

    Raises ValueError if a view has not a row for each label.
    """
    if any(view.ndim != 2 or len(view) != len(labels) for view in views):
        raise ValueError(f"views of shapes {[tuple(view.shape) for view in views]} do not fit {len(labels)} labels")
    classes, labels = torch.unique(labels.cpu(), return_inverse=True)
    if len(classes) < 2:
        return torch.zeros(len(labels), 0, dtype=torch.float64)
    numbers = map_parallel(lambda view: _loo_scores(view.cpu(), labels), views, CPU)
    with single_threaded():  # so that sums have one order
        return _whiten(torch.cat([torch.zeros(len(labels), 0, dtype=torch.float64), *numbers], 1))


def encode_classes(names: Sequence[str]) -> Tensor:
    """Classes by name as numbers (N,), in the order of their names."""
    return torch.from_numpy(np.unique(np.array(names, object).astype(str), return_inverse=True)[1].astype(np.int64))


def small_class_warning(labels: Tensor) -> str | None:
    """What a user should know where the classes are too small for `hardness` to say much; None where they are not."""
    classes = len(torch.unique(labels))
    if classes < 2:
        return f"hardness needs two classes or more, and there {'is one' if classes else 'are none'}"
    each = len(labels) / classes
    if each >= MIN_IMAGES_PER_CLASS:
        return None
    return (
        f"hardness is weaker for few images a class: there are {each:,.0f}, and it takes about {MIN_IMAGES_PER_CLASS}"
    )


class _RidgeModel(NamedTuple):
    """Ridge regression of 0 and 1 for each class on N rows: the score of an image by what the others teach.

    center   (D,), the mean of the rows
    scale    (D,), their standard deviation; infinite for a number that does not vary, which has no part in any score
    root     (D, D), lower triangular; times its transpose the system of standardised rows
    weights  (D, classes), of standardised rows
    share    (classes,), of the images
    images   N
    """

    center: Tensor
    scale: Tensor
    root: Tensor
    weights: Tensor
    share: Tensor
    images: int

    def scores(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Those (B, classes) of rows (B, D) of these classes (B,), each without itself.

        Leaving a row out of least squares makes its residual 1 / (1 - h) times as long, h being its leverage: the part
        of what it is taught that is in its own score.
        """
        rows = (rows.double() - self.center) / self.scale
        leverage = 1 / self.images + torch.linalg.solve_triangular(self.root, rows.mT, upper=False).square().sum(0)
        hot = F.one_hot(labels, len(self.share)).double()
        residual: Tensor = (hot - torch.addmm(self.share, rows, self.weights)) / (1 - leverage)[:, None]
        return hot - residual


def _loo_scores(view: Tensor, labels: Tensor) -> Tensor:
    """The three numbers (N, 3) of each image, by a model of all others."""
    model = _fit_ridge(view, labels)
    height = max(1, BLOCK_ELEMENTS // max(view.shape[1], len(model.share)))
    step = max(1, len(view) // MIN_CALIBRATION_IMAGES)
    losses = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
    for some, own in zip(torch.split(view[::step], height), torch.split(labels[::step], height), strict=True):
        scores = model.scores(some, own)
        right = scores.gather(1, own[:, None])[:, 0]
        losses += torch.stack([((t * scores).logsumexp(1) - t * right).sum() for t in TEMPERATURES])
    temperature = TEMPERATURES[int(losses.argmin())]
    blocks = zip(torch.split(view, height), torch.split(labels, height), strict=True)
    return torch.cat([_score_logits(temperature * model.scores(some, own), own) for some, own in blocks])


def _fit_ridge(view: Tensor, labels: Tensor) -> _RidgeModel:
    classes, (images, width) = int(labels.max()) + 1, view.shape
    shift = view[0].double()  # any row: sums of squares then lose no digits to a large mean
    sums = torch.zeros(classes, width, dtype=torch.float64)
    outer = torch.zeros(width, width, dtype=torch.float64)
    height = max(1, BLOCK_ELEMENTS // max(1, width))
    for some, own in zip(torch.split(view, height), torch.split(labels, height), strict=True):
        block = some.double() - shift
        sums.index_add_(0, own, block)
        outer.addmm_(block.mT, block)
    share = torch.bincount(labels, minlength=classes).double() / images
    mean = sums.sum(0) / images
    cov = (outer / images).addr_(mean, mean, alpha=-1)
    var, center = cov.diagonal(), mean + shift
    scale = torch.where(var > MIN_RELATIVE_VARIANCE * (var + center**2), var.sqrt(), torch.inf)
    # The mean eigenvalue of standardised numbers is 1.
    system = images * (cov / scale / scale[:, None] + RIDGE_PENALTY * torch.eye(width, dtype=torch.float64))
    root = torch.linalg.cholesky(system)
    weights = torch.cholesky_solve(((sums - images * share[:, None] * mean) / scale).mT, root)
    return _RidgeModel(center, scale, root, weights, share, images)


def _score_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The three numbers (B, 3) of logits (B, classes)."""
    logs = logits.log_softmax(1)
    shares = logs.exp()
    own = shares.gather(1, labels[:, None])
    other = shares.scatter(1, labels[:, None], -1.0).amax(1, keepdim=True)
    log = own.clamp(min=MIN_RELATIVE_PROBABILITY / logs.shape[1]).log()
    return torch.cat([(own > other).double(), own, log], 1)


def _whiten(numbers: Tensor) -> Tensor:
    """The first principal components (N, K), each of variance 1, of the numbers (N, 3 views) scaled to LENGTHS."""
    centred = numbers - numbers.mean(0)
    var = centred.square().mean(0)
    live = var > MIN_RELATIVE_VARIANCE * numbers.square().mean(0)
    lengths = torch.tensor(SCORE_SCALES, dtype=torch.float64).repeat(len(live) // len(SCORE_SCALES))
    centred = (centred / var.sqrt() * lengths)[:, live]
    if not centred.numel():
        return centred[:, :0]
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(centred))
    values, vectors = values.flip(0), vectors.flip(1)
    count = min(MAX_COMPONENTS, int((values > RANK_TOLERANCE * values[0]).sum()))
    vectors = vectors[:, :count]
    # The sign of an eigenvector is the library's whim.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    whitened: Tensor = centred @ (vectors / values[:count].sqrt())
    return whitened
