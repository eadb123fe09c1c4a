"""A subset that is there already: what its manifest says, and which images of the source are its members."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsubset.errors import InputError, shortened
from imgsubset.features.extractors import is_raw
from imgsubset.features.source import Source, first_of, read_source
from imgsubset.files import identity, sha256
from imgsubset.inputs import AnyEmbeddings, Embeddings
from imgsubset.options import IMAGE, Options, merged
from imgsubset.progress import Clock, Progress
from imgsubset.reading.contents import Listing
from imgsubset.reading.filters import candidates
from imgsubset.reading.given import AnySource, list_source
from imgsubset.tasks.given import given, pixels_needed
from imgsubset.tasks.matching import Matched, match_files, match_manifest
from imgsubset.writing.contents import contents
from imgsubset.writing.manifest import NAME, Manifest, name_in, read_manifest

if TYPE_CHECKING:
    from imgsubset.features.random_cnn import Extractor

NO_CLASSES = "the subset was drawn by classes {}; --stratify --labels FILE gives them again"


@dataclass(frozen=True)
class Existing:
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
    ) -> tuple[Source, Matched]:
        """The standardised source, with what is known of its images, and the members of the subset.

        Raises what `read_source` does, and InputError if there are no members, or foreign ones among them.
        """
        read = read_source(
            self.listing,
            self.options,
            device,
            extractor=extractor,
            embeddings=self.embeddings,
            measured=measured,
            seen=pixels_needed(self.options),
            clock=clock,
            progress=progress,
        )
        notes = self.notes
        if self.embeddings is None and self.manifest is not None and _by_embeddings(self.manifest):
            notes += ("the subset was chosen by embeddings; without them it is scored by the random CNN",)
        with clock.stage("match"):
            matched = self._matched(read, skip_foreign)
            from imgsubset.tasks.known import with_known

            # Copies, for the moments are written over.
            vectors = {block.name: block.images.mean.clone() for block in read.blocks if is_raw(block.name)}
            ready = with_known(read, self.options, len(matched.rows)).standardised()
        return replace(ready, warnings=ready.warnings + notes, vectors=vectors), matched

    def _matched(self, source: Source, skip_foreign: bool) -> Matched:
        if isinstance(self.members, Manifest):
            matched = match_manifest(self.members, source)
        else:
            matched = match_files(candidates(list_source(self.members)[0], self.options), source)
        foreign, where = matched.foreign, f"in source '{source.listing.name}'{first_of(matched.foreign)}"
        if not matched.rows:
            raise InputError(f"no image of subset '{self.name}' is {where}")
        if foreign and not skip_foreign:
            several = len(foreign) > 1
            raise InputError(
                f"{len(foreign):,} file{'s' if several else ''} of subset '{self.name}' {'are' if several else 'is'} "
                f"not {where}; --skip-foreign leaves {'them' if several else 'it'} out"
            )
        return matched


def existing(
    source: AnySource,
    subset: AnySource,
    options: Options | None,
    embeddings: AnyEmbeddings,
    words: Mapping[str, Any],
    drawn: bool = False,
) -> Existing:
    """A subset, see `score` for the arguments.

    drawn  whether it matters how the subset was drawn: its manifest then says classes and groups too

    Raises UsageError and InputError.
    """
    manifest, notes = _recorded(subset)
    in_memory = False
    if options is None and manifest is not None:
        options = manifest.options
        if "match" not in words:
            options, gone = _without_changed_tables(manifest)
            notes += gone
            if embeddings is not None or "features" in words:  # the default goes with what else is matched
                match = tuple(pair for pair in options.match if pair != ("image", IMAGE))
                options = merged(options, {"match": match})
        if drawn:
            options, gone, in_memory = _as_drawn(manifest, options, words)
            notes += gone
    options = merged(options, words)
    listing, options, given_embeddings = given(source, options, embeddings)
    if in_memory and options.stratify and options.labels is None:  # nor has a data set them
        options = merged(options, {"stratify": False})
        notes += (NO_CLASSES.format("that were in memory"),)
    members: AnySource | Manifest = subset
    if manifest is not None and _is_manifest(subset):
        members = manifest
    elif not isinstance(subset, (str, os.PathLike, Listing)):  # named one by one: none of them is left out
        members = replace(list_source(subset)[0], options=options)
    return Existing(listing, members, _name(subset), manifest, options, given_embeddings, notes)


def has_manifest(subset: AnySource) -> bool:
    """Whether a subset is or holds a manifest, whose options are the defaults."""
    return _recorded(subset)[0] is not None


def _as_drawn(manifest: Manifest, options: Options, words: Mapping[str, Any]) -> tuple[Options, tuple[str, ...], bool]:
    """Options with the classes and groups by which a subset was drawn, what to know where these are lost, and whether
    classes were in memory.

    words  the caller's options, which go before these
    """
    recorded = manifest.record["options"]
    if recorded.get("group_by"):
        options = merged(options, {"group_by": recorded["group_by"]})
    if not recorded.get("stratify") or "stratify" in words:
        return options, (), False
    options = merged(options, {"stratify": True})
    if words.keys() & {"stratify_by", "labels"}:
        return options, (), False
    labels = recorded.get("labels")
    if not isinstance(labels, str):
        return merged(options, {"stratify_by": recorded.get("stratify_by", "first")}), (), labels is not None
    file = (manifest.record["request"].get("files") or {}).get("labels") or {}
    if "path" in file and identity(file["path"]) == file:
        return merged(options, {"labels": file["path"]}), (), False
    lost = NO_CLASSES.format(f"of labels '{shortened(labels)}', which have changed")
    return merged(options, {"stratify": False}), (lost,), False


def _without_changed_tables(manifest: Manifest) -> tuple[Options, tuple[str, ...]]:
    """The recorded options without tables that are not what they were, and what to know of these."""
    options, notes = manifest.options, []
    if "hardness" in manifest.record["options"].get("match", ()) and "hardness" not in dict(options.match):
        notes.append("the subset was matched to hardness too, which is left out: its classes were in memory")
    for table in manifest.record.get("tables", ()):
        path, name = table["path"], shortened(str(table["name"]))
        try:
            why = "" if sha256(path) == table["sha256"] else "it has changed"
        except OSError as error:
            why = str(error.strerror or error)
        if why:
            notes.append(f"the subset was matched to table '{name}' too, which is left out: {path}: {why}")
            columns = [words for words in options.match_columns if not words.startswith(f"{path}:")]
            match = [pair for pair in options.match if pair[0] != path]
            options = merged(options, {"match": match, "match_columns": columns})
    return options, tuple(notes)


def _recorded(subset: AnySource) -> tuple[Manifest | None, tuple[str, ...]]:
    """The manifest that a subset is or holds, and what to know where that of a folder cannot be read.

    Raises InputError if the subset is one that cannot be read.
    """
    if not isinstance(subset, (str, os.PathLike)):
        return None, ()
    if _is_manifest(subset):
        return read_manifest(subset), ()
    try:  # a folder may well hold somebody else's manifest.json
        there = contents(subset)
        has = os.path.lexists(Path(subset, NAME)) if there.members is None else there.has(name_in(there))
        return read_manifest(subset) if has else None, ()
    except InputError as error:
        return None, (f"{error}; the options in it are not used",)


def _by_embeddings(manifest: Manifest) -> bool:
    """Whether its subset was chosen by embeddings."""
    asked = manifest.record.get("request")
    return bool(isinstance(asked, dict) and asked.get("embeddings"))


def _is_manifest(subset: AnySource) -> bool:
    if not isinstance(subset, (str, os.PathLike)):
        return False
    return Path(subset).suffix.lower() == ".json" and os.path.isfile(subset)  # noqa: PTH113 (never raises)


def _name(subset: AnySource) -> str:
    if isinstance(subset, Listing):
        return subset.name
    return os.fspath(subset) if isinstance(subset, (str, os.PathLike)) else "list of paths"
