"""What a caller gives a task, made what its stages take: a listing, options with labels by path, embeddings by path."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgsubset.errors import UsageError, shown
from imgsubset.features.spaces import VIEWS, shares
from imgsubset.files import read_named
from imgsubset.inputs import Embeddings, Labels, of_kind
from imgsubset.options import IMAGE, Options, merged
from imgsubset.reading.contents import Listing
from imgsubset.reading.filters import candidates
from imgsubset.reading.given import AnySource, labels_by_path, list_source, stored_classes
from imgsubset.reading.listing import parse_paths
from imgsubset.writing.manifest import read_manifest


def given(source: AnySource, options: Options, embeddings: Any = None) -> tuple[Listing, Options, Embeddings | None]:
    """The images that count, and options and embeddings that are about them.

    The classes of a data set, or those in archives and tables, serve `stratify`, unless other options say what the
    classes are. The options say of `image` with which weight it is matched, 0 for not at all, whether or not a caller
    did.

    Raises UsageError for what is of another kind than it should be, InputError for what cannot be read.
    """
    named = {name: getattr(options, name) for name in ("keep", "drop")}
    options = merged(options, {name: _paths_in(file) for name, file in named.items() if isinstance(file, str)})
    listing, classes = list_source(source)
    listing = candidates(listing, options)
    cache = options.cache
    inside = cache is not None and Path(os.path.realpath(cache)).is_relative_to(os.path.realpath(listing.root))
    if inside and not listing.listed:
        raise UsageError(f"cache '{cache}' lies in source '{listing.name}', which is only read; choose another folder")
    labels = options.labels
    if options.by_class and labels is None and options.stratify_by == "first":
        labels = classes if classes is not None else stored_classes(listing)
    if isinstance(labels, Labels):
        options = merged(options, {"labels": labels_by_path(labels, listing)})
    embeddings = Embeddings.of(embeddings)
    if embeddings is not None and embeddings.paths is None:
        if listing.order is None:
            raise UsageError(
                "embeddings without paths are in the order of a list or data set, but source "
                f"'{listing.name}' is a folder: give its paths, or Embeddings(values, paths)"
            )
        embeddings = replace(embeddings, paths=listing.order)
    return listing, _with_image(options, embeddings), embeddings


def _with_image(options: Options, embeddings: Embeddings | None) -> Options:
    match = dict(options.match)
    if "image" in match:
        return options
    beside = "random-cnn" in shares(options, embeddings)
    return merged(options, {"match": {**match, "image": IMAGE if beside else 0}})


def _paths_in(file: str) -> tuple[str, ...]:
    """The paths in a text file, or the chosen images of a manifest or an archive with one. Raises InputError."""
    if file.lower().endswith((".json", ".tar")):
        return tuple(read_manifest(file).hashes)
    return tuple(parse_paths(read_named(file, f"'{file}'")))


def pixels_needed(options: Options) -> tuple[str, ...]:
    """What is to be matched that only the pixels tell, beside the features: names in `features.spaces.VIEWS`."""
    return tuple(name for name, weight in options.match if weight and name in VIEWS)


def check_callable(**functions: Callable[..., object] | None) -> None:
    """Raise UsageError for what is neither None nor can be called."""
    for name, function in functions.items():
        if not (function is None or callable(function)):
            raise UsageError(f"{name} {shown(function)} is not a function")


def destination_of(destination: str | os.PathLike[str] | None) -> str | None:
    """The name of a folder or an archive; None for None. Raises UsageError for what is no path."""
    return None if destination is None else str(of_kind("destination", "str", destination, "the path of a folder"))
