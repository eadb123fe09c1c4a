"""An existing subset: its manifest, and which images of the source are its members, by path or by content."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from posixpath import basename
from typing import TYPE_CHECKING, Any

from imgsubset.annotations.filters import filter_candidates
from imgsubset.errors import InputError, shorten
from imgsubset.features.extractors import is_raw
from imgsubset.features.load import SourceFeatures, format_first_rejected, load_features
from imgsubset.files import N_IO_THREADS, describe_file, hash_file
from imgsubset.inputs import Embeddings, EmbeddingsLike
from imgsubset.options import IMAGE_STATS_WEIGHT, Options, merge_options
from imgsubset.progress import Clock, Progress
from imgsubset.sources.images import Listing, RejectedFile
from imgsubset.sources.python_sources import AnySource, list_source
from imgsubset.tasks.inputs import required_feature_views, resolve_inputs
from imgsubset.writing.manifest import MANIFEST_NAME, Manifest, name_in, open_exported_files, read_manifest

if TYPE_CHECKING:
    from imgsubset.features.random_cnn import Extractor


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


MISSING_CLASSES_NOTE = "the subset was drawn by classes {}; --stratify --labels FILE gives them again"


@dataclass(frozen=True)
class ExistingSubset:
    """A subset that is there, and how it is looked at.

    listing     the images of the source that count
    members     where its images are, or the manifest that lists them
    name        what messages call it
    manifest    that it is or holds; None: there is none
    options     the caller's; else those in the manifest
    embeddings  the caller's
    notes       what a user should know
    """

    listing: Listing
    members: AnySource | Manifest
    name: str
    manifest: Manifest | None
    options: Options
    embeddings: Embeddings | None
    notes: tuple[str, ...]

    def read(
        self,
        device: str,
        clock: Clock,
        progress: Progress,
        *,
        skip_foreign: bool,
        extractor: Extractor | None = None,
        measured: bool = True,
    ) -> tuple[SourceFeatures, SubsetMembers]:
        """The standardised source, with what is known of its images, and the members of the subset.

        Raises what `read_source` does, and InputError if there are no members, or foreign ones among them.
        """
        read = load_features(
            self.listing,
            self.options,
            device,
            extractor=extractor,
            embeddings=self.embeddings,
            measured=measured,
            seen=required_feature_views(self.options),
            clock=clock,
            progress=progress,
        )
        notes = self.notes
        if self.embeddings is None and self.manifest is not None and _is_from_embeddings(self.manifest):
            notes += ("the subset was chosen by embeddings; without them it is scored by the random CNN",)
        with clock.stage("match"):
            matched = self._match_members(read, skip_foreign)
            from imgsubset.tasks.match_terms import add_match_blocks

            # Copies, for the moments are written over.
            vectors = {block.name: block.images.mean.clone() for block in read.blocks if is_raw(block.name)}
            ready = add_match_blocks(read, self.options, len(matched.rows)).standardise()
        return replace(ready, warnings=ready.warnings + notes, vectors=vectors), matched

    def _match_members(self, source: SourceFeatures, skip_foreign: bool) -> SubsetMembers:
        if isinstance(self.members, Manifest):
            matched = match_manifest(self.members, source)
        else:
            matched = match_files(filter_candidates(list_source(self.members)[0], self.options), source)
        foreign, where = matched.foreign, f"in source '{source.listing.name}'{format_first_rejected(matched.foreign)}"
        if not matched.rows:
            raise InputError(f"no image of subset '{self.name}' is {where}")
        if foreign and not skip_foreign:
            several = len(foreign) > 1
            raise InputError(
                f"{len(foreign):,} file{'s' if several else ''} of subset '{self.name}' {'are' if several else 'is'} "
                f"not {where}; --skip-foreign leaves {'them' if several else 'it'} out"
            )
        return matched


def resolve_subset(
    source: AnySource,
    subset: AnySource,
    options: Options | None,
    embeddings: EmbeddingsLike,
    words: Mapping[str, Any],
    drawn: bool = False,
) -> ExistingSubset:
    """A subset, see `score` for the arguments.

    drawn  whether it matters how the subset was drawn: its manifest then says classes and groups too

    Raises UsageError and InputError.
    """
    manifest, notes = _find_manifest(subset)
    in_memory = False
    if options is None and manifest is not None:
        options = manifest.options
        if "match" not in words:
            options, gone = _drop_changed_tables(manifest)
            notes += gone
            if embeddings is not None or "features" in words:  # the default goes with what else is matched
                match = tuple(pair for pair in options.match if pair != ("image", IMAGE_STATS_WEIGHT))
                options = merge_options(options, {"match": match})
        if drawn:
            options, gone, in_memory = _restore_sampling_options(manifest, options, words)
            notes += gone
    options = merge_options(options, words)
    listing, options, given_embeddings = resolve_inputs(source, options, embeddings)
    if in_memory and options.stratify and options.labels is None:  # nor has a data set them
        options = merge_options(options, {"stratify": False})
        notes += (MISSING_CLASSES_NOTE.format("that were in memory"),)
    members: AnySource | Manifest = subset
    if manifest is not None and _is_manifest(subset):
        members = manifest
    elif not isinstance(subset, (str, os.PathLike, Listing)):  # named one by one: none of them is left out
        members = replace(list_source(subset)[0], options=options)
    return ExistingSubset(listing, members, _subset_name(subset), manifest, options, given_embeddings, notes)


def has_manifest(subset: AnySource) -> bool:
    """Whether a subset is or holds a manifest, whose options are the defaults."""
    return _find_manifest(subset)[0] is not None


def _restore_sampling_options(
    manifest: Manifest, options: Options, words: Mapping[str, Any]
) -> tuple[Options, tuple[str, ...], bool]:
    """Options with the classes and groups by which a subset was drawn, what to know where these are lost, and whether
    classes were in memory.

    words  the caller's options, which go before these
    """
    recorded = manifest.record["options"]
    if recorded.get("group_by"):
        options = merge_options(options, {"group_by": recorded["group_by"]})
    if not recorded.get("stratify") or "stratify" in words:
        return options, (), False
    options = merge_options(options, {"stratify": True})
    if words.keys() & {"stratify_by", "labels"}:
        return options, (), False
    labels = recorded.get("labels")
    if not isinstance(labels, str):
        return merge_options(options, {"stratify_by": recorded.get("stratify_by", "first")}), (), labels is not None
    file = (manifest.record["request"].get("files") or {}).get("labels") or {}
    if "path" in file and describe_file(file["path"]) == file:
        return merge_options(options, {"labels": file["path"]}), (), False
    lost = MISSING_CLASSES_NOTE.format(f"of labels '{shorten(labels)}', which have changed")
    return merge_options(options, {"stratify": False}), (lost,), False


def _drop_changed_tables(manifest: Manifest) -> tuple[Options, tuple[str, ...]]:
    """The recorded options without tables that are not what they were, and what to know of these."""
    options, notes = manifest.options, []
    if "hardness" in manifest.record["options"].get("match", ()) and "hardness" not in dict(options.match):
        notes.append("the subset was matched to hardness too, which is left out: its classes were in memory")
    for table in manifest.record.get("tables", ()):
        path, name = table["path"], shorten(str(table["name"]))
        try:
            why = "" if hash_file(path) == table["sha256"] else "it has changed"
        except OSError as error:
            why = str(error.strerror or error)
        if why:
            notes.append(f"the subset was matched to table '{name}' too, which is left out: {path}: {why}")
            columns = [words for words in options.match_columns if not words.startswith(f"{path}:")]
            match = [pair for pair in options.match if pair[0] != path]
            options = merge_options(options, {"match": match, "match_columns": columns})
    return options, tuple(notes)


def _find_manifest(subset: AnySource) -> tuple[Manifest | None, tuple[str, ...]]:
    """The manifest that a subset is or holds, and what to know where that of a folder cannot be read.

    Raises InputError if the subset is one that cannot be read.
    """
    if not isinstance(subset, (str, os.PathLike)):
        return None, ()
    if _is_manifest(subset):
        return read_manifest(subset), ()
    try:  # a folder may well hold somebody else's manifest.json
        there = open_exported_files(subset)
        has = os.path.lexists(Path(subset, MANIFEST_NAME)) if there.members is None else there.has(name_in(there))
        return read_manifest(subset) if has else None, ()
    except InputError as error:
        return None, (f"{error}; the options in it are not used",)


def _is_from_embeddings(manifest: Manifest) -> bool:
    """Whether its subset was chosen by embeddings."""
    asked = manifest.record.get("request")
    return bool(isinstance(asked, dict) and asked.get("embeddings"))


def _is_manifest(subset: AnySource) -> bool:
    if not isinstance(subset, (str, os.PathLike)):
        return False
    return Path(subset).suffix.lower() == ".json" and os.path.isfile(subset)  # noqa: PTH113 (never raises)


def _subset_name(subset: AnySource) -> str:
    if isinstance(subset, Listing):
        return subset.name
    return os.fspath(subset) if isinstance(subset, (str, os.PathLike)) else "list of paths"
