"""How hard images are to tell by their classes, of numbers and classes that a program has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from imgsubset.errors import UsageError, short_repr
from imgsubset.inputs import Embeddings, Labels

if TYPE_CHECKING:
    import numpy as np


def hardness(views: Any, labels: Any) -> np.ndarray:
    """How hard each image is to tell by its class, whichever classifier tries: at most 16 numbers, (N, K) float64.

    They are uncorrelated, of mean 0 and variance 1. A subset that has the means of all images in them says more of the
    accuracy and of the loss of a classifier than a random one, though no classifier had a part in it. `select` with
    `match="hardness"` makes them of the pixels.

    views   a list of arrays or tensors of real numbers, (N, D) each: embeddings by different networks, statistics of
            the pixels; a model of its own judges by each of them, and several differing ones tell more than one
    labels  the class of each image: a list or an array of N names or numbers; about 100 images a class are enough

    Out-of-fold predictions of ridge regression (Stone, JRSS B 1974; Hastie, Tibshirani & Friedman, The Elements of
    Statistical Learning, 2009, 3.4.1), made probabilities by temperature (Guo et al., ICML 2017); what one classifier
    gets wrong, others get wrong more often than not (Mania et al., NeurIPS 2019). Formulas: features/hardness.py.

    Raises UsageError for views that are no list of tables of finite numbers, or not of as many images as there are
    labels.
    """
    import numpy as np
    import torch

    from imgsubset.features.difficulty import compute_difficulty as of_tensors
    from imgsubset.features.difficulty import encode_classes

    given = Labels.of(labels)
    if given.paths is not None:
        raise UsageError("labels by path fit no views: give a list, in the order of their rows")
    if not isinstance(views, Iterable) or hasattr(views, "shape"):
        raise UsageError(f"views {short_repr(views)} are not a list of arrays; of one array it is [array]")
    tables = []
    for number, view in enumerate(views):
        table = np.asarray(Embeddings(view).values)
        if table.ndim != 2 or table.dtype.kind not in "biuf":
            raise UsageError(f"view {number} is of shape {table.shape} and type {table.dtype}, not (N, D) real numbers")
        if len(table) != len(given.names):
            raise UsageError(f"view {number} is of {len(table):,} images, and the labels are of {len(given.names):,}")
        table = table.astype(np.float64)
        if not np.isfinite(table).all():
            raise UsageError(f"view {number} holds what is not finite, first in row {_first_nonfinite_row(table)}")
        tables.append(torch.from_numpy(table))
    return np.asarray(of_tensors(tables, encode_classes(given.names)))


def _first_nonfinite_row(table: np.ndarray) -> int:
    import numpy as np

    return int((~np.isfinite(table).all(1)).argmax())
