"""How hard each image is to tell by its class, whichever classifier tries: what results of classifiers follow.

What one model gets wrong, others get wrong more often than not (Mania et al., NeurIPS 2019; Baldock, Maennel &
Neyshabur, NeurIPS 2021). So a subset as hard as its source says more of a classifier than a random one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from imgsubset.devices import side_by_side, single_threaded
from imgsubset.statistics.dice import dice
from imgsubset.statistics.moments import DEAD_VARIANCE

FOLDS = 10
RIDGE = 0.03  # of the mean eigenvalue
TEMPERATURES = range(2, 15)  # that scores, which are about 0 or 1, are multiplied by
SAMPLE = 4096  # images, at least, that the temperature is chosen by
NUMBERS, KEPT = 4, 32  # of a view; of all views
LEAST_SHARE = 0.05  # of 1 / classes, in logarithms
RANK = 1e-6  # of the largest eigenvalue: directions below it are rounding
ENOUGH = 100  # images a class
BLOCK_NUMBERS = 1 << 21  # in float64, at once
CPU = torch.device("cpu")


def hardness(views: Sequence[Tensor], labels: Tensor) -> Tensor:
    """How hard images are to tell by their classes: at most 32 numbers (N, K), float64, uncorrelated, of mean 0 and
    variance 1. K is 0 where there is one class alone, or nothing that varies.

    views   numbers of the images, (N, D) each; a model of its own judges by each of them
    labels  (N,) whole numbers, equal for images of one class

    The model is linear: ridge regression of 0 and 1 for each class on standardised numbers, penalty 0.03 of their
    mean eigenvalue (Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2009, 3.4.1, 4.2). It judges
    images that it has not seen: of ten folds, over which each class is spread evenly, at random. A softmax makes
    probabilities of its scores, at that of the temperatures 2 to 14 with the least log-loss (Guo et al., ICML 2017).
    With p that of the image's class, each view has four numbers: whether p is the largest; p; log p, of at least a
    20th of 1 / classes, since images beyond hope are alike; the entropy of all, with a minus. The first principal
    components of all of these are kept, each scaled to variance 1.

    Raises ValueError if a view has not a row for each label.
    """
    if any(view.ndim != 2 or len(view) != len(labels) for view in views):
        raise ValueError(f"views of shapes {[tuple(view.shape) for view in views]} do not fit {len(labels)} labels")
    classes, labels = torch.unique(labels.cpu(), return_inverse=True)
    if len(classes) < 2:
        return torch.zeros(len(labels), 0, dtype=torch.float64)
    fold = spread(labels)
    numbers = side_by_side(lambda view: _judged(view.cpu(), labels, fold), views, CPU)
    with single_threaded():  # so that sums have one order
        return _whitened(torch.cat([torch.zeros(len(labels), 0, dtype=torch.float64), *numbers], 1))


def class_numbers(names: Sequence[str]) -> Tensor:
    """Classes by name as numbers (N,), in the order of their names."""
    return torch.from_numpy(np.unique(np.array(names, object).astype(str), return_inverse=True)[1].astype(np.int64))


def too_few(labels: Tensor) -> str | None:
    """What a user should know where the classes are too small for `hardness` to say much; None where they are not."""
    classes = len(torch.unique(labels))
    if classes < 2:
        return f"hardness needs two classes or more, and there {'is one' if classes else 'are none'}"
    each = len(labels) / classes
    if each >= ENOUGH:
        return None
    return f"hardness is weaker for few images a class: there are {each:,.0f}, and it takes about {ENOUGH}"


def spread(labels: Tensor) -> Tensor:
    """The fold (N,) of each image: at random, with the images of each class spread evenly over the folds."""
    order = torch.randperm(len(labels), generator=dice(CPU, "folds"))
    order = order[labels[order].argsort(stable=True)]
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % FOLDS
    return fold


class _Model(NamedTuple):
    """Scores (B, classes) are (rows - center) @ weights + share: (D,), (D, classes), (classes,)."""

    center: Tensor
    weights: Tensor
    share: Tensor

    def scores(self, rows: Tensor) -> Tensor:
        return torch.addmm(self.share, rows.double() - self.center, self.weights)


def _judged(view: Tensor, labels: Tensor, fold: Tensor) -> Tensor:
    """The four numbers (N, 4) of each image, by models that have not seen it."""
    models = _models(view, labels, fold)
    members = [(fold == number).nonzero()[:, 0] for number in range(FOLDS)]
    height = max(1, BLOCK_NUMBERS // max(view.shape[1], len(models[0].share)))
    step = max(1, len(view) // SAMPLE)
    losses = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
    for model, rows in zip(models, members, strict=True):
        for some in torch.split(rows[::step], height):
            scores = model.scores(view[some])
            own = scores.gather(1, labels[some, None])[:, 0]
            losses += torch.stack([((t * scores).logsumexp(1) - t * own).sum() for t in TEMPERATURES])
    temperature = TEMPERATURES[int(losses.argmin())]
    numbers = torch.empty(len(view), NUMBERS, dtype=torch.float64)
    for model, rows in zip(models, members, strict=True):
        for some in torch.split(rows, height):
            numbers[some] = _of_logits(temperature * model.scores(view[some]), labels[some])
    return numbers


def _models(view: Tensor, labels: Tensor, fold: Tensor) -> list[_Model]:
    """For each fold the model of all others."""
    classes, width = int(labels.max()) + 1, view.shape[1]
    shift = view[0].double()  # any row: sums of squares then lose no digits to a large mean
    cell = fold * classes + labels
    count = torch.bincount(cell, minlength=FOLDS * classes).double().view(FOLDS, classes)
    sums = torch.zeros(FOLDS * classes, width, dtype=torch.float64)
    outer = torch.zeros(FOLDS, width, width, dtype=torch.float64)
    for number in range(FOLDS):
        for rows in torch.split((fold == number).nonzero()[:, 0], max(1, BLOCK_NUMBERS // max(1, width))):
            block = view[rows].double() - shift
            sums.index_add_(0, cell[rows], block)
            outer[number].addmm_(block.mT, block)
    by_class = sums.view(FOLDS, classes, width)
    total_count, total_sums, total_outer = count.sum(0), by_class.sum(0), outer.sum(0)
    return [
        _ridge(total_count - count[number], total_sums - by_class[number], total_outer - outer[number], shift)
        for number in range(FOLDS)
    ]


def _ridge(count: Tensor, sums: Tensor, outer: Tensor, shift: Tensor) -> _Model:
    """Of numbers less a shift (D,): how many images (classes,), sums of them (classes, D), and of products (D, D)."""
    images = count.sum().clamp(min=1)
    share, means = count / images, sums / images
    mean = means.sum(0)
    cov = (outer / images).addr_(mean, mean, alpha=-1)
    var, center = cov.diagonal(), mean + shift
    # A number that does not vary has no part in any score.
    scale = torch.where(var > DEAD_VARIANCE * (var + center**2), var.sqrt(), torch.inf)
    # The mean eigenvalue of standardised numbers is 1.
    system = cov / scale / scale[:, None] + RIDGE * torch.eye(len(scale), dtype=torch.float64)
    cross = (means - share[:, None] * mean) / scale
    return _Model(center, torch.linalg.solve(system, cross.mT) / scale[:, None], share)


def _of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The four numbers (B, 4) of logits (B, classes)."""
    logs = logits.log_softmax(1)
    shares = logs.exp()
    own = shares.gather(1, labels[:, None])
    other = shares.scatter(1, labels[:, None], -1.0).amax(1, keepdim=True)
    log = own.clamp(min=LEAST_SHARE / logs.shape[1]).log()
    return torch.cat([(own > other).double(), own, log, (shares * logs).sum(1, keepdim=True)], 1)


def _whitened(numbers: Tensor) -> Tensor:
    """The first principal components (N, K) of standardised columns, each of variance 1."""
    centred = numbers - numbers.mean(0)
    var = centred.square().mean(0)
    live = var > DEAD_VARIANCE * numbers.square().mean(0)
    centred = centred[:, live] / var[live].sqrt()
    if not centred.numel():
        return centred[:, :0]
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(centred))
    values, vectors = values.flip(0), vectors.flip(1)
    count = min(KEPT, int((values > RANK * values[0]).sum()))
    vectors = vectors[:, :count]
    # The sign of an eigenvector is the library's whim.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    whitened: Tensor = centred @ (vectors / values[:count].sqrt())
    return whitened
