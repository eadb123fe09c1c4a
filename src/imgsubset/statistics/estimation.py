"""Estimates of a metric over the dataset from a subset, with the matched features as covariates.

Shapes: N images, C channels of a block, D covariates.

Of y, a number an image, the mean over all N is wanted, and n of them have been measured. The plain estimate is the mean
of these; of a subset that was drawn by class, the mean in each class weighted by its share of all. The difference
estimator (Sarndal, Swensson & Wretman, Model Assisted Survey Sampling, 1992, section 6.3) takes a prediction f that is
known of all images, and measures only what it leaves; n being known as they are, it is needed for the others:

    estimate = n / N mean of y + (1 - n / N) (mean of f over the others + mean of (y - f) over the subset)

It is unbiased whatever f is, and its variance is that of y - f in place of y. With f a regression on covariates it is
the generalised regression estimator (there, 6.4), also known as prediction-powered inference (Angelopoulos et al.,
Science 2023). A regression that saw the y that it is taken from would leave too little, so each image's f comes from
the other nine of ten folds (Zrnic & Candes, PNAS 2024). It is a ridge. Of its penalties the one counts that gives the
least estimated variance; but an infinite one, which is the plain estimate, unless another is better by more than its
own standard error, so that covariates which explain nothing do no harm.

The variance is that of a stratified sample without replacement from a finite population: in each class that of the
residuals, with the factor 1 - n / N. Where groups of images were taken whole, a group is what was drawn. A subset that
was chosen to match the covariates is a balanced sample, and its variance is that of the residuals too (Deville & Tille,
Journal of Statistical Planning and Inference, 2005): there the plain mean is as good as the estimate.

Shapes: N images, n measured, R results, D covariates, H classes, m units that were drawn: images, or groups of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from imgsubset.devices import single_threaded
from imgsubset.statistics.moments import BLOCK_ROWS, Block
from imgsubset.statistics.rng import make_generator

MAX_BLOCK_COMPONENTS = 16  # of a block of features of pixels
MAX_METADATA_CHANNELS = (
    256  # channels of all that is known, above which components stand for them: a fit's time grows as D^3
)


def compute_covariates(blocks: Sequence[Block]) -> Tensor:
    """Covariates (N, D) float32, on the CPU, of standardised blocks.

    Of what is known of the images they are its channels, of features of pixels the first principal components, whose
    variances over all blocks sum to 1. Pictures explain little of what models make of them, and a ridge holds back what
    varies little: with hardness known of 10,000 CIFAR images, 500 estimate accuracies like 766 random ones, and with
    components of variance 1 each like 707.
    """
    pictures = [block.images.mean.cpu() for block in blocks if not block.numbers]
    numbers = [block.images.mean.cpu() for block in blocks if block.numbers]
    with single_threaded():  # so that sums have one order
        parts = [_project_on_components(values, MAX_BLOCK_COMPONENTS, 1 / len(pictures)) for values in pictures]
        if numbers:
            known = torch.cat(numbers, 1)
            parts.append(
                _project_on_components(known, MAX_METADATA_CHANNELS, len(known[0]))
                if len(known[0]) > MAX_METADATA_CHANNELS
                else known
            )
    return torch.cat(parts, 1)


def _project_on_components(values: Tensor, wanted: int, variance: float) -> Tensor:
    """The first principal components of centred values (N, C), in units in which all have this variance together."""
    outer = values.new_zeros(values.shape[1], values.shape[1], dtype=torch.float64)
    for rows in torch.split(values, BLOCK_ROWS):
        outer.addmm_(rows.double().mT, rows.double())
    _, vectors = torch.linalg.eigh(outer)  # in ascending order
    unit = (variance * len(values) / outer.trace().clamp(min=1e-30)).sqrt()
    projection: Tensor = (vectors.flip(1)[:, :wanted] * unit).float()
    return torch.cat([rows @ projection for rows in torch.split(values, BLOCK_ROWS)])


CONFIDENCE_LEVEL = 0.95  # of the intervals
N_FOLDS = 10
RIDGE_PENALTIES = tuple(10.0**power for power in range(-8, 4))  # in units of the mean eigenvalue
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Estimates:
    """Of each of R results, (R,) float64.

    mean        over the subset, as it is
    value       estimate of the mean over all images
    error       standard error of that
    low, high   the interval that holds the mean over all in 95 of 100 cases
    equivalent  how many images drawn at random, without any covariates, would give as small an error, were there any
                number of images: inf where the error is 0
    """

    mean: Tensor
    value: Tensor
    error: Tensor
    low: Tensor
    high: Tensor
    equivalent: Tensor


def estimate_means(
    results: Tensor,
    covariates: Tensor,
    rows: Tensor,
    classes: Tensor | None = None,
    groups: Tensor | None = None,
    shares: Tensor | None = None,
) -> Estimates:
    """Estimate the means of results over all images from those of a subset.

    results     (n, R) finite, of the images of the subset
    covariates  (N, D) of all images; those of a larger spread are penalised less
    rows        (n,) of the images of the subset, each once
    classes     (N,) numbers of the classes by which the subset was drawn, at whatever rates; None: by none
    groups      (N,) numbers of the groups of which the subset has all images or none; None: single images were drawn
    shares      (R,) whether a result is 0 or 1 of every image, so that its mean is a share; None: of none it is known

    The subset must have two units at least. Its folds are drawn by a constant seed.
    """
    results = results.double()
    drawn = _make_sample_design(rows, len(covariates), classes, groups)
    y = results - results[0]  # so that the mean of a constant is that constant, exactly
    unit = y.abs().amax(0)
    unit = unit.where(unit > 0, torch.ones_like(unit))
    y = y / unit
    left = _cross_fit_residuals(y, covariates, drawn)
    plain = drawn.mean(y)
    value = drawn.mean(torch.lerp(y, left, drawn.unsampled_fraction[drawn.stratum, None]))
    # Unbiased, of the population: E(plain^2) is the square of its mean and its variance.
    population = drawn.mean((y - plain) ** 2) + drawn.terms(y).square().sum(0)
    terms = drawn.terms(left).square()
    equivalent = torch.where(terms.sum(0) > 0, population / terms.sum(0), torch.inf)
    parts = drawn.sum_by_stratum(terms) * drawn.unsampled_fraction[:, None]
    variance = parts.sum(0)
    # Satterthwaite's, in Cochran, Sampling Techniques, 1977, equation 5.16
    degrees = variance**2 / (parts**2 / (drawn.units[:, None] - 1)).sum(0)
    shares = torch.zeros_like(value, dtype=torch.bool) if shares is None else shares
    value, error = results[0] + unit * value, unit * variance.sqrt()
    value = torch.where(shares, value.clamp(0, 1), value)
    low, high = _confidence_interval(value, error, degrees, shares, len(rows))
    return Estimates(
        mean=results[0] + unit * y.mean(0),
        value=value,
        error=error,
        low=low,
        high=high,
        equivalent=equivalent,
    )


@dataclass(frozen=True)
class _SampleDesign:
    """How n images were drawn.

    rows                (n,) the images
    all_strata          (N,) the stratum of each image
    stratum             (n,) of those that were drawn
    weight              (n,) of each in the estimate of a mean: they sum to 1
    unit                (n,) the number of the unit that it came with
    unit_stratum        (m,) the stratum of each unit
    units               (H,) how many each stratum has, two at least
    unsampled_fraction  (H,) the share of its images that were not drawn
    """

    rows: Tensor
    all_strata: Tensor
    stratum: Tensor
    weight: Tensor
    unit: Tensor
    unit_stratum: Tensor
    units: Tensor
    unsampled_fraction: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Estimate of the mean over all images of what (n, R) values are about."""
        return (self.weight[:, None] * values).sum(0)

    @property
    def influence(self) -> Tensor:
        """(n,) by how much a unit of each image's value, from the mean of its stratum, is part of a standard error."""
        units = self.units[self.unit_stratum[self.unit]]
        return self.weight * (units / (units - 1)).sqrt()

    def terms(self, values: Tensor) -> Tensor:
        """(m, R), whose squares sum to the variance of the mean, if there were any number of images."""
        parts = self.influence[:, None] * self.center(values)
        return _sum_by_group(parts, self.unit, len(self.unit_stratum))

    def sum_by_stratum(self, terms: Tensor) -> Tensor:
        """Sums (H, R) over units of each stratum."""
        return _sum_by_group(terms, self.unit_stratum, len(self.units))

    def center(self, values: Tensor, some: Tensor | None = None) -> Tensor:
        """Values of these images, or of some of them, from the means of their strata among the same."""
        stratum = self.stratum if some is None else self.stratum[some]
        return values - _mean_by_group(values, stratum, len(self.units))[stratum]

    def folds(self) -> list[Tensor]:
        """Positions in `rows`, dealt out by units, each stratum evenly."""
        count = len(self.unit_stratum)
        shuffled = torch.randperm(count, generator=make_generator(CPU, "folds"))
        order = shuffled[self.unit_stratum[shuffled].argsort(stable=True)]
        fold = torch.empty_like(order)
        fold[order] = torch.arange(count) % min(N_FOLDS, count)
        return [(fold[self.unit] == number).nonzero()[:, 0] for number in range(min(N_FOLDS, count))]


def _make_sample_design(rows: Tensor, total: int, classes: Tensor | None, groups: Tensor | None) -> _SampleDesign:
    _, unit = torch.unique(rows if groups is None else groups[rows], return_inverse=True)
    everyone = (
        torch.zeros(total, dtype=torch.long) if classes is None else torch.unique(classes, return_inverse=True)[1]
    )
    first = torch.full((int(unit.max()) + 1,), len(rows)).scatter_reduce_(0, unit, torch.arange(len(rows)), "amin")
    count = int(everyone.max()) + 1
    everyone = _merge_small_strata(everyone, torch.bincount(everyone[rows[first]], minlength=count))
    count = int(everyone.max()) + 1
    stratum, of_unit = everyone[rows], everyone[rows[first]]
    sizes, sampled = (torch.bincount(one, minlength=count).double() for one in (everyone, stratum))
    return _SampleDesign(
        rows=rows,
        all_strata=everyone,
        stratum=stratum,
        weight=(sizes / total / sampled)[stratum],
        unit=unit,
        unit_stratum=of_unit,
        units=torch.bincount(of_unit, minlength=count).double(),
        unsampled_fraction=1 - sampled / sizes,
    )


def _merge_small_strata(everyone: Tensor, units: Tensor) -> Tensor:
    """Classes (N,) as strata, of which each must have two units to have a variance: the others are one together, with
    the smallest of the rest if they need it.

    units  (H,) how many units of each class were drawn
    """
    few = units < 2
    if few.any() and units[few].sum() < 2 and not few.all():
        few[units.where(~few, units.max() + 1).argmin()] = True
    strata: Tensor
    _, strata = torch.unique(torch.where(few, -1, torch.arange(len(units)))[everyone], return_inverse=True)
    return strata


def _cross_fit_residuals(y: Tensor, covariates: Tensor, drawn: _SampleDesign) -> Tensor:
    """(n, R) what cross-fitted regressions leave of y, and add for the images of its stratum that were not drawn: their
    mean is the estimate of what these have."""
    plain = drawn.terms(y).square()
    best, least, kept = y, plain.sum(0), plain
    if not covariates.shape[1]:
        return best
    x = covariates[drawn.rows].double()
    x -= _unsampled_means(x, covariates, drawn)[drawn.stratum]
    fitted = [(held, *_fit_ridge(x, y, drawn, held)) for held in drawn.folds()]
    for penalty in RIDGE_PENALTIES:
        left = y.clone()
        for held, eigenvalues, vectors, products in fitted:
            slopes = products / (eigenvalues + penalty * eigenvalues.mean()).clamp(min=1e-300)[:, None]
            left[held] -= x[held] @ (vectors @ slopes)
        terms = drawn.terms(left).square()
        better = terms.sum(0) < least
        best, kept = torch.where(better, left, best), torch.where(better, terms, kept)
        least = kept.sum(0)
    gain = plain - kept
    certain = gain.sum(0) > len(gain) ** 0.5 * gain.std(0)
    return torch.where(certain, best, y)


def _unsampled_means(x: Tensor, covariates: Tensor, drawn: _SampleDesign) -> Tensor:
    """Means (H, D) of covariates over the images of each stratum that were not drawn; x (n, D) are of those drawn."""
    sums, count = -_sum_by_group(x, drawn.stratum, len(drawn.units)), len(drawn.units)
    for values, place in zip(
        torch.split(covariates, BLOCK_ROWS), torch.split(drawn.all_strata, BLOCK_ROWS), strict=True
    ):
        sums += _sum_by_group(values.double(), place, count)
    left = torch.bincount(drawn.all_strata, minlength=count) - torch.bincount(drawn.stratum, minlength=count)
    return sums / left.clamp(min=1)[:, None]


def _fit_ridge(x: Tensor, y: Tensor, drawn: _SampleDesign, held: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues (D,) and eigenvectors (D, D) of the covariates' products, and what these have with y (D, R), of all
    images but those held out; weighted as in the variance, so that this is the least."""
    others = torch.ones(len(x), dtype=torch.bool)
    others[held] = False
    some = others.nonzero()[:, 0]
    weights = drawn.influence[some, None]
    inner, outer = (weights * drawn.center(one[some], some) for one in (x, y))
    eigenvalues, vectors = torch.linalg.eigh(inner.mT @ inner)
    return eigenvalues.clamp(min=0), vectors, vectors.mT @ (inner.mT @ outer)


def _confidence_interval(
    value: Tensor, error: Tensor, degrees: Tensor, shares: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    """The ends of the interval: Student's; of a share, for which that is too short near 0 and 1, Wilson's (1927), of so
    many images as its error stands for."""
    quantile = torch.from_numpy(stdtrit(degrees.clamp(min=1).numpy(), (1 + CONFIDENCE_LEVEL) / 2)).nan_to_num(0.0)
    low, high = value - quantile * error, value + quantile * error
    share = value.clamp(0.5 / n, 1 - 0.5 / n)
    ratio = (quantile * error) ** 2 / (share * (1 - share))  # quantile^2 over the number of images
    middle = (share + ratio / 2) / (1 + ratio)
    half = (share * (1 - share) * ratio + ratio**2 / 4).sqrt() / (1 + ratio)
    wilson = shares & (error > 0)
    low = torch.where(wilson, torch.minimum(middle - half, value), low)
    return low, torch.where(wilson, torch.maximum(middle + half, value), high)


def _sum_by_group(values: Tensor, place: Tensor, count: int) -> Tensor:
    return values.new_zeros(count, values.shape[1]).index_add_(0, place, values)


def _mean_by_group(values: Tensor, place: Tensor, count: int) -> Tensor:
    """Of rows of each place; 0 where there are none."""
    return _sum_by_group(values, place, count) / torch.bincount(place, minlength=count).clamp(min=1)[:, None]
