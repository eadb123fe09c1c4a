"""What a caller gives a task, made what its stages take: a listing, options with labels by path, embeddings by path."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgsubset.errors import UsageError, short_repr
from imgsubset.features.spaces import VIEWS, compute_feature_shares
from imgsubset.files import read_input_file
from imgsubset.inputs import Embeddings, Labels, convert_value
from imgsubset.options import IMAGE_STATS_WEIGHT, Options, merge_options
from imgsubset.reading.contents import Listing
from imgsubset.reading.filters import filter_candidates
from imgsubset.reading.given import AnySource, list_source, read_stored_classes, resolve_labels
from imgsubset.reading.listing import parse_paths
from imgsubset.writing.manifest import read_manifest


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
    """What is to be matched that only the pixels tell, beside the features: names in `features.spaces.VIEWS`."""
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
