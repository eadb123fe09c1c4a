"""Resolve what a caller passes: the source, n and the sizes of parts, options with labels, embeddings by path."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from imgsubset.annotations.filters import filter_candidates
from imgsubset.errors import InputError, UsageError, short_repr
from imgsubset.features.feature_spaces import VIEWS, compute_feature_shares
from imgsubset.files import read_input_file
from imgsubset.inputs import Embeddings, Labels, convert_value
from imgsubset.options import IMAGE_STATS_WEIGHT, Options, merge_options
from imgsubset.sources.images import Listing
from imgsubset.sources.listing import parse_paths
from imgsubset.sources.python_sources import AnySource, list_source, read_stored_classes, resolve_labels
from imgsubset.writing.manifest import read_manifest


def round_by_largest_remainder(shares: Sequence[Fraction], total: int) -> list[int]:
    """Round shares to whole numbers of this sum (Hamilton's method): the largest remainders up, the first of equal."""
    whole = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda number: whole[number] - shares[number])
    for number in by_remainder[: total - sum(whole)]:
        whole[number] += 1
    return whole


def allocate_quotas(sizes: Sequence[int], n: int, equal: bool = False) -> list[int]:
    """Split n rows among classes of these sizes, at most all of them, in proportion or equally.

    In proportion it is by largest remainder; then every class that got none takes one from the largest quota, where n
    allows. Equally, a class that is used up leaves the rest to others.
    """
    if equal:
        level, above = 0, n + 1  # the water level: all get so many, or all that they have
        while above - level > 1:
            middle = (level + above) // 2
            level, above = (middle, above) if sum(min(size, middle) for size in sizes) <= n else (level, middle)
        quota = [min(size, level) for size in sizes]
        for number in [number for number, size in enumerate(sizes) if size > level][: n - sum(quota)]:
            quota[number] += 1
        return quota
    total = sum(sizes)
    quota = round_by_largest_remainder([Fraction(n * size, total) for size in sizes], n)
    if n >= sum(size > 0 for size in sizes):
        for number, size in enumerate(sizes):
            if size and not quota[number]:
                quota[quota.index(max(quota))] -= 1
                quota[number] = 1
    return quota


AUTO = "auto"
UNLIMITED_IMAGES = 10**30  # images: more than any source has, to check sizes before one is read


def check_n(n: int | str, options: Options) -> None:
    """Raise UsageError if n makes no sense for any source, or not with these options."""
    resolve_n(n, UNLIMITED_IMAGES)
    if is_auto(n) and not options.has_target:
        raise UsageError("n 'auto' needs a target loss or a target size to aim at")
    if not is_auto(n) and options.has_target:
        raise UsageError(f"a target loss or size goes with n 'auto', not with n '{n}'")


def is_auto(n: int | str) -> bool:
    """Whether n follows from a target."""
    return isinstance(n, str) and n.strip() == AUTO


def resolve_n(n: int | str, usable: int) -> int:
    """How many images to choose: a number, or a percentage of the usable ones such as '10%', at least one.

    'auto' is at most all of them.
    Raises UsageError if n makes no sense, InputError if there are fewer usable images.
    """
    if is_auto(n):
        return usable
    exact = _parse_count(n, usable)
    if exact is None or (str(n).strip().endswith("%") and exact > usable):
        raise UsageError(
            f"n '{_format_value(n).strip()}' is neither a whole number of at least 1, nor a "
            f"percentage above 0% and up to 100%, nor 'auto'{_suggest_percentage(n)}"
        )
    count = max(1, math.floor(exact + Fraction(1, 2)))
    if count > usable:
        raise InputError(f"n = {count:,} images are asked for, but the source has only {usable:,} usable ones")
    return count


def resolve_part_sizes(parts: Mapping[str, int | str], usable: int) -> dict[str, int]:
    """How many of the usable images each part has: numbers as they are, percentages rounded by largest remainder.

    So parts of 100 % in all are all images. Raises UsageError for what makes no sense, InputError for too many.
    """
    if not isinstance(parts, Mapping):
        raise UsageError(
            f"parts {short_repr(parts)} are not a dict of sizes by name, as in {{'train': '80%', 'test': '20%'}}"
        )
    if not parts:
        raise UsageError("a split needs parts, as in train=80% test=20%")
    exact: dict[str, Fraction] = {}
    for name, asked in parts.items():
        value = _parse_count(asked, usable)
        if value is None:
            raise UsageError(
                f"part '{name}={_format_value(asked)}' is neither a whole number of at least 1 nor a percentage "
                "above 0%"
                f"{_suggest_percentage(asked)}"
            )
        if not isinstance(name, str) or not name or name.startswith(".") or any(c in name for c in "/\\\0"):
            raise UsageError(f"part '{_format_value(name)}' is no possible name of a folder")
        exact[name] = value
    percent = sum(100 * exact[name] / usable for name in parts if str(parts[name]).strip().endswith("%"))
    if percent > 100:
        raise UsageError(f"the parts take {float(percent):g} % of the source")
    total = math.floor(sum(exact.values()) + Fraction(1, 2))
    if total > usable:
        raise InputError(f"the parts take {total:,} images, but the source has only {usable:,} usable ones")
    sizes = dict(zip(exact, round_by_largest_remainder(list(exact.values()), total), strict=True))
    if empty := [name for name, size in sizes.items() if not size]:
        raise InputError(f"part '{empty[0]}={parts[empty[0]]}' of {usable:,} images is none")
    return sizes


def _format_value(value: object) -> str:
    return value if isinstance(value, str) else short_repr(value)


def _suggest_percentage(asked: object) -> str:
    """What may have been meant by a share such as 0.1."""
    try:
        share = float(str(asked))
    except ValueError:
        return ""
    return f"; did you mean {100 * share:g}%?" if 0 < share < 1 else ""


def _parse_count(asked: int | str, usable: int) -> Fraction | None:
    """A number of images, or a percentage of the usable ones, not rounded; None for what is neither, or not above 0."""
    percent = False
    try:
        text = asked.strip() if isinstance(asked, str) else str(operator.index(asked) if asked is not True else "")
        percent = text.endswith("%")
        if percent and not 1e-30 < float(text[:-1]) < 1e30:  # an exact 1e9999999999 would take for ever
            return None
        exact = Fraction(text[:-1]) / 100 * usable if percent else Fraction(int(text))
    except (ValueError, TypeError):
        return None
    return exact if 0 < exact < 2 * UNLIMITED_IMAGES else None


def resolve_inputs(
    source: AnySource, options: Options, embeddings: Any = None
) -> tuple[Listing, Options, Embeddings | None]:
    """The images that count, and options and embeddings that are about them.

    The classes of a data set, or those in archives and tables, serve `stratify`, unless other options say what the
    classes are. The options say of `image` with which weight it is matched, 0 for not at all, whether or not a caller
    did.

    Raises UsageError for what is of another kind than it should be, InputError for what cannot be read.
    """
    named = {name: getattr(options, name) for name in ("keep", "drop")}
    options = merge_options(options, {name: _read_paths(file) for name, file in named.items() if isinstance(file, str)})
    listing, classes = list_source(source)
    listing = filter_candidates(listing, options)
    cache = options.cache
    inside = cache is not None and Path(os.path.realpath(cache)).is_relative_to(os.path.realpath(listing.root))
    if inside and not listing.explicit:
        raise UsageError(f"cache '{cache}' lies in source '{listing.name}', which is only read; choose another folder")
    labels = options.labels
    if options.by_class and labels is None and options.stratify_by == "first":
        labels = classes if classes is not None else read_stored_classes(listing)
    if isinstance(labels, Labels):
        options = merge_options(options, {"labels": resolve_labels(labels, listing)})
    embeddings = Embeddings.of(embeddings)
    if embeddings is not None and embeddings.paths is None:
        if listing.order is None:
            raise UsageError(
                "embeddings without paths are in the order of a list or data set, but source "
                f"'{listing.name}' is a folder: give its paths, or Embeddings(values, paths)"
            )
        embeddings = replace(embeddings, paths=listing.order)
    return listing, _with_image_stats_weight(options, embeddings), embeddings


def _with_image_stats_weight(options: Options, embeddings: Embeddings | None) -> Options:
    match = dict(options.match)
    if "image" in match:
        return options
    beside = "random-cnn" in compute_feature_shares(options, embeddings)
    return merge_options(options, {"match": {**match, "image": IMAGE_STATS_WEIGHT if beside else 0}})


def _read_paths(file: str) -> tuple[str, ...]:
    """The paths in a text file, or the chosen images of a manifest or an archive with one. Raises InputError."""
    if file.lower().endswith((".json", ".tar")):
        return tuple(read_manifest(file).hashes)
    return tuple(parse_paths(read_input_file(file, f"'{file}'")))


def required_feature_views(options: Options) -> tuple[str, ...]:
    """The terms of `match` that need pixels, as names in `features.feature_spaces.VIEWS`."""
    return tuple(name for name, weight in options.match if weight and name in VIEWS)


def check_callable(**functions: Callable[..., object] | None) -> None:
    """Raise UsageError for what is neither None nor can be called."""
    for name, function in functions.items():
        if not (function is None or callable(function)):
            raise UsageError(f"{name} {short_repr(function)} is not a function")


def parse_destination(destination: str | os.PathLike[str] | None) -> str | None:
    """The name of a folder or an archive; None for None. Raises UsageError for what is no path."""
    return (
        None if destination is None else str(convert_value("destination", "str", destination, "the path of a folder"))
    )
