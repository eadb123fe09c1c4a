"""Which images of a listing count at all: patterns, and pictures that are labels of others."""

from __future__ import annotations

import re
from dataclasses import replace

from imgsubset.errors import UsageError
from imgsubset.options import Options
from imgsubset.reading.listing import Listing
from imgsubset.reading.sidecars import masks


def candidates(listing: Listing, options: Options) -> Listing:
    """A listing with only the images that the options include, do not exclude, and that are no masks of others.

    Patterns follow the rules of .gitignore, relative to the source: the last one that matches a path decides, `!`
    turns one round. Those left out count as ignored. Filtering twice is the same as once.

    Raises UsageError for a pattern that makes no sense.
    """
    out = masks(listing.paths, options.sidecars)
    if options.include:
        included = _matching(listing, options.include)
        out |= {path for path in listing.paths if path not in included}
    if options.exclude:
        out |= _matching(listing, options.exclude)
    if not out:
        return listing
    kept = tuple(path for path in listing.paths if path not in out)
    return replace(listing, paths=kept, ignored=listing.ignored + len(out))


def _matching(listing: Listing, patterns: tuple[str, ...]) -> set[str]:
    from pathspec import PathSpec
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    try:
        spec = PathSpec.from_lines(GitIgnoreSpecPattern, patterns)
    except (ValueError, re.error) as error:
        raise UsageError(f"patterns {', '.join(map(repr, patterns))}: {error}") from None
    return set(spec.match_files(listing.paths))
