"""How hard each image is to tell by its class, whichever classifier tries: what results of classifiers follow.

What one model gets wrong, others get wrong more often than not (Mania et al., NeurIPS 2019; Baldock, Maennel &
Neyshabur, NeurIPS 2021). So a subset as hard as its source says more of a classifier than a random one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imgsubset.devices import map_parallel, single_threaded
from imgsubset.statistics.moments import MIN_RELATIVE_VARIANCE

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
