"""Which images of a source the members of a subset are: by content, wherever they lie and whatever they are called."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from posixpath import basename

from imgsubset.features.source import SourceFeatures
from imgsubset.files import N_IO_THREADS
from imgsubset.reading.contents import Listing, RejectedFile
from imgsubset.writing.manifest import Manifest


@dataclass(frozen=True)
class SubsetMembers:
    """The members of a subset.

    rows     positions in the source's paths, ascending
    foreign  the files that are no image of the source, with reasons
    root     the folder that paths of the subset start from
    places   the position of each member by its path in the subset
    order    the paths of the subset in the order in which it names them, those of no member too
    """

    rows: tuple[int, ...]
    foreign: tuple[RejectedFile, ...]
    root: Path
    places: Mapping[str, int]
    order: tuple[str, ...]


def match_files(subset: Listing, source: SourceFeatures) -> SubsetMembers:
    """Match files: the one of the same relative path if its content is the same, else any with the same content.

    A listed path that does not exist from the current folder may be relative to the source.
    """
    index = _SourceIndex(source)
    foreign = {file.path: file.reason for file in subset.rejected}
    places: dict[str, int] = {}
    later = []
    if subset.explicit:
        inside = [path for path in foreign if path in index.place]
        places |= {path: index.place[path] for path in inside}
        foreign = {path: why for path, why in foreign.items() if path not in index.place}
    with ThreadPoolExecutor(N_IO_THREADS) as readers:
        found = readers.map(partial(index.find_by_path, subset), subset.paths)
        taken = {*places.values()}
        for path, row in zip(subset.paths, found, strict=True):
            if row is None or row in taken:
                later.append(path)
            else:
                places[path] = row
                taken.add(row)
    for path in later:
        try:
            equal = index.find_by_content(subset, path)
        except OSError as error:
            foreign[path] = error.strerror or str(error)
            continue
        free = [row for row in equal if row not in taken]
        if free:
            places[path] = free[0]
            taken.add(free[0])
        else:
            foreign[path] = f"another copy of '{source.paths[equal[0]]}'" if equal else index.explain_missing(path)
    return SubsetMembers(
        rows=tuple(sorted(taken)),
        foreign=tuple(RejectedFile(*item) for item in sorted(foreign.items())),
        root=subset.root,
        places=places,
        order=subset.paths if subset.order is None else subset.order,
    )


def match_manifest(manifest: Manifest, source: SourceFeatures) -> SubsetMembers:
    """Match the files that a manifest lists: by their paths, if their content is what the manifest says."""
    index = _SourceIndex(source)

    def check(item: tuple[str, str | None]) -> str | None:
        path, digest = item
        if path not in index.place:
            return index.explain_missing(path)
        try:
            same = digest is None or source.listing.sha256(path) == digest
        except OSError as error:
            return error.strerror or str(error)
        return None if same else "not what it was when it was chosen"

    with ThreadPoolExecutor(N_IO_THREADS) as readers:
        reasons = dict(zip(manifest.hashes, readers.map(check, manifest.hashes.items()), strict=True))
    places = {path: index.place[path] for path, reason in reasons.items() if reason is None}
    return SubsetMembers(
        rows=tuple(sorted(places.values())),
        foreign=tuple(RejectedFile(path, why) for path, why in sorted(reasons.items()) if why),
        root=manifest.path.parent,
        places=places,
        order=tuple(manifest.hashes),
    )


class _SourceIndex:
    """The images of a source by path and by content."""

    def __init__(self, source: SourceFeatures) -> None:
        self.source, self.listing = source, source.listing
        self.place = {path: row for row, path in enumerate(source.paths)}
        self.unusable = {file.path: file.reason for file in source.rejected}
        self.digests: dict[int, str] = {}

    @cached_property
    def rows_by_size(self) -> dict[int, list[int]]:
        rows: dict[int, list[int]] = defaultdict(list)
        for row, stamp in enumerate(self.source.stamps):
            rows[stamp.size].append(row)
        return rows

    def find_by_path(self, subset: Listing, path: str) -> int | None:
        """The image of the same relative path, or the very same file, if the content is the same."""
        within = os.path.relpath(subset.locate(path), self.listing.root)
        for candidate in dict.fromkeys([within, path]):
            row = self.place.get(candidate)
            if row is not None and self._is_same_file(subset, path, candidate):
                return row
        return None

    def _is_same_file(self, subset: Listing, path: str, candidate: str) -> bool:
        try:
            files = subset.members is None and self.listing.members is None
            if files and os.path.samefile(subset.locate(path), self.listing.locate(candidate)):  # noqa: PTH121
                return True
            sizes = subset.stamp(path).size, self.listing.stamp(candidate).size
            same_size = sizes[0] == sizes[1] or 0 in sizes  # of what is in memory it is not known
            return same_size and subset.sha256(path) == self.listing.sha256(candidate)
        except OSError:
            return False

    def find_by_content(self, subset: Listing, path: str) -> list[int]:
        """All images with the content of this file, those of the same name first."""
        size = subset.stamp(path).size
        rows = self.rows_by_size.get(size, []) + (self.rows_by_size.get(0, []) if size else [])
        if not size and subset.members is not None:  # it is not known
            rows = list(range(len(self.source.paths)))
        if not rows:
            return []
        digest, name = subset.sha256(path), basename(path)
        equal = [row for row in rows if self._digest(row) == digest]
        return sorted(equal, key=lambda row: basename(self.source.paths[row]) != name)

    def _digest(self, row: int) -> str:
        if row not in self.digests:
            try:
                self.digests[row] = self.listing.sha256(self.source.paths[row])
            except OSError:
                self.digests[row] = ""
        return self.digests[row]

    def explain_missing(self, path: str) -> str:
        """Why a file is no image of the source."""
        if path in self.unusable:
            return f"cannot be used in the source either: {self.unusable[path]}"
        known = "of other content than in" if path in self.place else "not in"
        return f"{known} the source '{self.source.listing.name}'"
