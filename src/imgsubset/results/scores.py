"""How close a subset is: in each space that was looked at, and in all."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class ColumnBalance:
    """How a column that is known of the images is met: its mean over all of them, its mean over the subset, and the
    standard deviation of that mean over random subsets of this size."""

    name: str
    source: float
    subset: float
    random_std: float

    @property
    def z_score(self) -> float:
        """How far the subset's mean is from that of all, in units of a random one's spread; 0 where that is 0."""
        return (self.subset - self.source) / self.random_std if self.random_std else 0.0


@dataclass(frozen=True)
class Measured:
    """How close a subset is in one feature space.

    name            of the space
    weight          its share of the loss that was searched; of held-out networks each has the same
    divergences     raw values, float64, noise-free, by name
    random_mean     the mean of each over random subsets of this size
    random_std      the standard deviation of each over random subsets
    loss            calibrated: the weighted mix in units of the random means; 1 is an average random subset
    percentile      how many of 100 random subsets of this size are closer, in [0, 100]
    effective_size  how many random images would be as close
    columns         of what is known of the images how each column is met, the worst first; () of features of pixels
    asked           whether it was asked for, and not matched by default
    """

    name: str
    weight: float
    divergences: dict[str, float]
    random_mean: dict[str, float]
    random_std: dict[str, float]
    loss: float
    percentile: float
    effective_size: float
    columns: tuple[ColumnBalance, ...] = ()
    asked: bool = True

    def ratios(self) -> dict[str, float]:
        """Each divergence in units of its random mean; 0 where that is 0."""
        return compute_ratios(self.divergences, self.random_mean)


def compute_ratios(values: dict[str, float], means: dict[str, float]) -> dict[str, float]:
    """Each value in units of its mean; 0 where that is 0."""
    return {name: value / means[name] if means[name] else 0.0 for name, value in values.items()}


@dataclass(frozen=True)
class Score:
    """How close a subset is to its source.

    A search fits the spaces that it looks at, so the figures are those of networks that it never sees: the medians of
    the held-out ones. Where no pixels were read there are none, and the figures are of what was searched.

    searched       each space that was matched
    held_out       each network that only measures; () where no pixels were read
    searched_loss  the weighted mean of the losses of what was searched
    searched_size  how many random images would be as close there
    """

    searched: tuple[Measured, ...]
    held_out: tuple[Measured, ...]
    searched_loss: float
    searched_size: float

    @property
    def columns(self) -> list[tuple[ColumnBalance, str]]:
        """What is known of the images and was matched, each with its block, in all blocks the worst met first."""
        every = [(column, block.name) for block in self.searched for column in block.columns]
        return sorted(every, key=lambda pair: -abs(pair[0].z_score))

    @property
    def told(self) -> tuple[Measured, ...]:
        """What the figures below are of."""
        return self.held_out or self.searched

    @property
    def divergences(self) -> dict[str, float]:
        """Raw values, noise-free, by name: means over the networks, by weight."""
        return self._mean("divergences")

    @property
    def random_mean(self) -> dict[str, float]:
        """The mean of each over random subsets of this size."""
        return self._mean("random_mean")

    @property
    def random_std(self) -> dict[str, float]:
        """The standard deviation of each over random subsets, in a network."""
        return self._mean("random_std")

    def ratios(self) -> dict[str, float]:
        """Each divergence in units of its random mean; 0 where that is 0."""
        return compute_ratios(self.divergences, self.random_mean)

    def _mean(self, name: str) -> dict[str, float]:
        tables = [(one.weight, getattr(one, name)) for one in self.told]
        return {key: sum(weight * table[key] for weight, table in tables) for key in tables[0][1]}

    @property
    def loss(self) -> float:
        """Calibrated: 1 is an average random subset of this size, and 0.1 is ten times closer."""
        return median(one.loss for one in self.held_out) if self.held_out else self.searched_loss

    @property
    def percentile(self) -> float:
        """How many of 100 random subsets of this size are closer, in [0, 100]."""
        if self.held_out:
            return median(one.percentile for one in self.held_out)
        return sum(one.weight * one.percentile for one in self.searched)

    @property
    def effective_size(self) -> float | None:
        """How many random images would be as close; None where no held-out network measured it."""
        return median(one.effective_size for one in self.held_out) if self.held_out else None

    @property
    def effective_range(self) -> tuple[float, float] | None:
        """The lowest and the highest of the held-out networks' sizes."""
        sizes = [one.effective_size for one in self.held_out]
        return (min(sizes), max(sizes)) if sizes else None
