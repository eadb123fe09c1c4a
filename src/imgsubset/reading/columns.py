"""What is known of images beside their pixels: columns, with an entry an image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Column:
    """One thing that is known of N images.

    name     for people
    numbers  (N,) float64, NaN where it is not known; None: the column holds texts
    texts    the texts of each image, () where nothing is known; None: the column holds numbers
    period   after which numbers come round again, 24 of hours; None: they do not
    """

    name: str
    numbers: np.ndarray | None = field(default=None, repr=False)
    texts: tuple[tuple[str, ...], ...] | None = field(default=None, repr=False)
    period: float | None = None
