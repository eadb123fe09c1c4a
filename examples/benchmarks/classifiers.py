"""Classifiers of many kinds, none of them good, to see what a subset says of them. `usefulness.py` trains them.

Each takes training pixels (N, 32, 32, 3), uint8, their labels (N,), and other pixels (M, 32, 32, 3), and returns the
probabilities (M, K) of the classes of these. Packages are imported when a classifier runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Classifier: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
EPOCHS, BATCH = 24, 64
PATCH, FILTERS = 6, 256  # pixels, number
CELLS = 4  # a side, of histograms of edges


def logistic(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Logistic regression on pixels."""
    return _linear(_flat(train), labels, _flat(other), 0.1)


def edges_logistic(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Logistic regression on histograms of oriented gradients (Dalal & Triggs, 2005)."""
    return _linear(_edges(train), labels, _edges(other), 0.003)


def patches_logistic(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Logistic regression on what whitened random patches answer, in quarters (Coates, Lee & Ng, 2011)."""
    kernels, offset = _patches(train)
    return _linear(_answers(train, kernels, offset), labels, _answers(other, kernels, offset), 0.01)


def patches_ridge(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Ridge regression on what unwhitened random filters answer, in quarters."""
    noise = torch.randn(FILTERS, 3, PATCH, PATCH, generator=_dice(1))
    kernels = noise - noise.mean((1, 2, 3), keepdim=True)
    x, y = (_answers(some, kernels, torch.zeros(FILTERS)) for some in (train, other))
    center, scale = x.mean(0), x.std(0) + 1e-6
    x, y = (x - center) / scale, (y - center) / scale
    penalty = 0.1 * len(x) * torch.eye(x.shape[1])
    hot = F.one_hot(labels).float()
    return (8 * y @ torch.linalg.solve(x.T @ x + penalty, x.T @ (hot - hot.mean(0)))).softmax(1)


def nearest(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """The 20 nearest neighbours by the first 40 components of the pixels, each class with half a neighbour more."""
    x, y = _components(train, other, 40)
    near = torch.cdist(y, x).topk(20, largest=False).indices
    return _shares(F.one_hot(labels)[near].sum(1).float())


def discriminant(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Linear discriminant analysis of the first 150 components of the pixels."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return _sklearn(LinearDiscriminantAnalysis(), *_components(train, other, 150), labels)


def quadratic(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Quadratic discriminant analysis of the first 30 components of the pixels."""
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

    return _sklearn(QuadraticDiscriminantAnalysis(reg_param=0.05), *_components(train, other, 30), labels)


def naive_bayes(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Naive Bayes of the shares of 64 colours, counted in 16ths."""
    from sklearn.naive_bayes import MultinomialNB

    def colours(pixels: Tensor) -> Tensor:
        cells = (pixels.flatten(1, 2).long() // 64 * torch.tensor([16, 4, 1])).sum(2)
        return F.one_hot(cells, 64).float().mean(1) * 16

    return _sklearn(MultinomialNB(), colours(train), colours(other), labels)


def forest(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """A forest of 200 trees on 8 x 8 pixels."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(200, min_samples_leaf=2, random_state=0)
    return _shares(20 * _sklearn(model, _small(train), _small(other), labels))


def boosted(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Boosted trees on histograms of oriented gradients and 4 x 4 colours."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, y = (torch.cat([_edges(some), F.avg_pool2d(_maps(some), 8).flatten(1)], 1) for some in (train, other))
    model = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.15, max_leaf_nodes=12, random_state=0)
    return _sklearn(model, x, y, labels)


def perceptron(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """A perceptron with two hidden layers, on pixels."""

    def made(classes: int) -> nn.Module:
        first = [nn.Flatten(), nn.Linear(train[0].numel(), 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()]
        return nn.Sequential(*first, nn.Linear(128, classes))

    return _trained(made, train, labels, other, seed=1)


def small_cnn(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Three convolutions with strides."""

    def made(classes: int) -> nn.Module:
        convolutions = [_conv(3, 24, 2), _conv(24, 48, 2), _conv(48, 96, 2)]
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(96 * 16, classes))

    return _trained(made, train, labels, other, seed=2, flip=True)


def deep_cnn(train: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """Six convolutions, pooled over all positions, on pictures that are flipped and shifted."""

    def made(classes: int) -> nn.Module:
        first = [_conv(3, 24, 1), nn.MaxPool2d(2), _conv(24, 48, 1), _conv(48, 48, 1), nn.MaxPool2d(2)]
        last = [_conv(48, 96, 1), _conv(96, 96, 2), _conv(96, 128, 1), nn.AdaptiveAvgPool2d(1)]
        return nn.Sequential(*first, *last, nn.Flatten(), nn.Linear(128, classes))

    return _trained(made, train, labels, other, seed=3, flip=True, shift=4)


CLASSIFIERS: dict[str, Classifier] = {
    "logistic": logistic,
    "logistic, edges": edges_logistic,
    "logistic, patches": patches_logistic,
    "ridge, patches": patches_ridge,
    "nearest": nearest,
    "LDA": discriminant,
    "QDA": quadratic,
    "naive Bayes": naive_bayes,
    "forest": forest,
    "boosted": boosted,
    "perceptron": perceptron,
    "CNN": small_cnn,
    "deep CNN": deep_cnn,
}


def _dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _maps(pixels: Tensor) -> Tensor:
    """Maps (N, 3, 32, 32) in [-1, 1]."""
    return (pixels.float() / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


def _flat(pixels: Tensor) -> Tensor:
    return _maps(pixels).flatten(1)


def _small(pixels: Tensor) -> Tensor:
    return F.avg_pool2d(_maps(pixels), 4).flatten(1)


def _shares(counts: Tensor) -> Tensor:
    return (counts + 0.5) / (counts + 0.5).sum(1, keepdim=True)


def _components(train: Tensor, other: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first principal components of pixels."""
    x, y = _flat(train), _flat(other)
    center = x.mean(0)
    vectors = torch.linalg.eigh((x - center).T @ (x - center)).eigenvectors[:, -count:]
    return (x - center) @ vectors, (y - center) @ vectors


def _edges(pixels: Tensor) -> Tensor:
    """Histograms (N, 4 x 4 x 9) of the directions of edges, as roots of shares."""
    grey = _maps(pixels).mean(1)
    across, down = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    cell = (torch.atan2(down, across) / (2 * torch.pi) % 1 * 9).long().clamp(max=8)
    votes = F.one_hot(cell, 9).permute(0, 3, 1, 2) * torch.hypot(across, down)[:, None]
    cells = F.adaptive_avg_pool2d(votes, CELLS).flatten(1)
    return (cells / (cells.sum(1, keepdim=True) + 0.1)).sqrt()


def _patches(train: Tensor) -> tuple[Tensor, Tensor]:
    """Whitened patches of training pictures as kernels (FILTERS, 3, 6, 6), and what to take off their answers."""
    dice, maps = _dice(0), _maps(train[:2000])
    corners = torch.randint(0, 32 - PATCH, (len(maps), 2), generator=dice)
    cut = [one[:, y : y + PATCH, x : x + PATCH] for one, (y, x) in zip(maps, corners.tolist(), strict=True)]
    patches = torch.stack(cut).flatten(1)
    center = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - center).T @ (patches - center) / len(patches))
    whiten = vectors @ (vectors / (values + 0.01).sqrt()).T
    kernels = ((patches[:FILTERS] - center) @ whiten) @ whiten
    return kernels.view(-1, 3, PATCH, PATCH), kernels @ center


def _answers(pixels: Tensor, kernels: Tensor, offset: Tensor) -> Tensor:
    """How far answers are above 0, and below it, on average in quarters: (N, 8 FILTERS)."""
    found = []
    for some in pixels.split(250):
        maps = F.conv2d(_maps(some), kernels, stride=2) - offset[:, None, None]
        found.append(F.adaptive_avg_pool2d(torch.cat([maps.relu(), (-maps).relu()], 1), 2).flatten(1))
    return torch.cat(found)


def _linear(x: Tensor, labels: Tensor, y: Tensor, decay: float) -> Tensor:
    """Logistic regression on standardised columns, by L-BFGS; decay is of the squared weights."""
    center, scale = x.mean(0), x.std(0) + 1e-6
    x, y = (x - center) / scale, (y - center) / scale
    weight = torch.zeros(x.shape[1], int(labels.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    descent = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        value = F.cross_entropy(x @ weight + bias, labels) + decay / 2 * weight.square().sum()
        value.backward()
        return value

    descent.step(loss)
    with torch.no_grad():
        return (y @ weight + bias).softmax(1)


def _sklearn(model: Any, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
    model.fit(x.numpy(), labels.numpy())
    return torch.from_numpy(np.asarray(model.predict_proba(y.numpy()), np.float32))


def _conv(inputs: int, outputs: int, stride: int) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def _trained(
    make: Callable[[int], nn.Module],
    train: Tensor,
    labels: Tensor,
    other: Tensor,
    seed: int,
    flip: bool = False,
    shift: int = 0,
) -> Tensor:
    """A network trained with Adam under a cosine schedule."""
    torch.manual_seed(seed)
    dice, model, maps = _dice(seed), make(int(labels.max()) + 1).to(memory_format=torch.channels_last), _maps(train)
    steps = EPOCHS * -(-len(maps) // BATCH)
    descent = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(descent, 4e-3, total_steps=steps)
    model.train()
    for rows in _batches(len(maps), dice):
        loss = F.cross_entropy(model(_disturbed(maps[rows], dice, flip, shift)), labels[rows], label_smoothing=0.05)
        descent.zero_grad()
        loss.backward()
        descent.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(some).softmax(1) for some in _maps(other).split(500)]).clone()


def _batches(count: int, dice: torch.Generator) -> Iterator[Tensor]:
    for _ in range(EPOCHS):
        yield from torch.randperm(count, generator=dice).split(BATCH)


def _disturbed(maps: Tensor, dice: torch.Generator, flip: bool, shift: int) -> Tensor:
    if flip:
        which = torch.rand(len(maps), 1, 1, 1, generator=dice) < 0.5
        maps = torch.where(which, maps.flip(3), maps)
    if shift:
        down, right = torch.randint(0, 2 * shift + 1, (2,), generator=dice).tolist()
        maps = F.pad(maps, (shift, shift, shift, shift))[:, :, down : down + 32, right : right + 32]
    return maps.contiguous(memory_format=torch.channels_last)
