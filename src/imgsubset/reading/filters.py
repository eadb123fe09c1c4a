"""Which images of a listing count at all: patterns, and pictures that are labels of others."""

from __future__ import annotations

import re
from dataclasses import replace

from imgsubset.errors import UsageError
from imgsubset.options import Reading
from imgsubset.reading.listing import AnySource, Listing, list_images
from imgsubset.reading.sidecars import masks


def candidates(listing: Listing, reading: Reading) -> Listing:
    """A listing with only the images that the options include, do not exclude, and that are no masks of others.

    Patterns follow the rules of .gitignore, relative to the source: the last one that matches a path decides, `!`
    turns one round. Those left out count as ignored.

    Raises UsageError for a pattern that makes no sense.
    """
    if listing.reading == reading:
        return listing
    out = masks(listing.paths, reading.sidecars)
    if reading.include:
        included = _matching(listing, reading.include)
        out |= {path for path in listing.paths if path not in included}
    if reading.exclude:
        out |= _matching(listing, reading.exclude)
    return replace(listing.without(out), reading=reading)


def _matching(listing: Listing, patterns: tuple[str, ...]) -> set[str]:
    from pathspec import PathSpec
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    try:
        spec = PathSpec.from_lines(GitIgnoreSpecPattern, patterns)
    except (ValueError, re.error) as error:
        raise UsageError(f"patterns {', '.join(map(repr, patterns))}: {error}") from None
    return set(spec.match_files(listing.paths))


def list_candidates(source: AnySource, reading: Reading) -> Listing:
    """List the images of a source that count. Raises InputError and UsageError as listing and filtering do."""
    return candidates(list_images(source), reading)
