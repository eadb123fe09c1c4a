"""Whether a destination can take a subset, or holds it already: checked before any work and before the first copy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from posixpath import join, normpath
from types import NoneType

from imgsubset.annotations.coco import filter_coco, find_coco_files, read_coco_file
from imgsubset.annotations.label_files import (
    filter_metadata,
    find_sidecars,
    is_outside_source,
    list_metadata_paths,
    read_metadata_images,
)
from imgsubset.annotations.yolo import (
    DATA_YAML,
    DATA_YAML_HEADER,
    find_class_files,
    group_folders_by_split,
    make_data_yaml,
    parse_split_name,
)
from imgsubset.errors import ImgsubsetError, InputError, OutputError, UsageError
from imgsubset.files import read_file, walk_files, write_atomic
from imgsubset.options import SELECTION, Options
from imgsubset.results.as_json import describe_options
from imgsubset.sources.archives import COMPRESSED_TAR_SUFFIXES
from imgsubset.sources.images import Listing
from imgsubset.sources.remote import parse_url
from imgsubset.writing.lock import LockedDestination, lock_destination
from imgsubset.writing.manifest import (
    MANIFEST_NAME,
    Manifest,
    has_tar_name,
    name_in,
    open_exported_files,
    read_manifest,
    with_image_stats_weight,
)
from imgsubset.writing.ownership import get_status, parse_written_files, read_written_files
from imgsubset.writing.staging import StagingFolder, recover
from imgsubset.writing.tar_export import LockedTarDestination, lock_tar_destination

ORDER_FILE = "ranked.txt"
RANKED_IN_TAR = "imgsubset-ranked"  # see NAME_IN_TAR
_SAMPLE = re.compile(r"((?:.*/)?[^.]+)\.[^/]*")  # how readers of a WebDataset find a member's sample


@contextlib.contextmanager
def open_destination(
    source: Listing, destination: str | os.PathLike[str], mode: str = "copy"
) -> Iterator[LockedDestination]:
    """Keep all other runs out of a destination, after what a killed one has left there is finished or removed.

    Raises UsageError if source and destination overlap, if the mode is to link to what is no file, or if labels would
    be samples of their own in an archive; OutputError if the destination cannot be a folder or another run is at work
    there. None of these changes anything.
    """
    source.check_links(mode)
    if url := parse_url(destination):
        raise UsageError(f"destination '{url}' is a URL; a subset is written to a folder or a tar archive")
    folder, tar = os.path.isdir(destination), has_tar_name(destination)  # noqa: PTH112 (any path)
    if tar and mode != "copy":
        raise UsageError(f"mode '{mode}' makes links, which destination '{destination}', an archive, cannot hold")
    if not folder and os.fspath(destination).lower().endswith((*COMPRESSED_TAR_SUFFIXES, ".zip")):
        raise UsageError(f"destination '{destination}' is of a kind of archive that is not written; .tar is")
    if overlap := _describe_overlap(source, destination):
        raise UsageError(f"destination '{destination}' {overlap}")
    if tar:
        options = source.options or Options()
        check_samples(source, plan_label_files(source, source.paths, source.paths, options), destination)
    with contextlib.ExitStack() as stack:
        with convert_output_errors(destination):
            if not (tar or folder) and os.path.lexists(destination):
                raise OutputError(f"destination '{destination}' exists and is not a folder")
            held = stack.enter_context((lock_tar_destination if tar else lock_destination)(Path(destination)))
            if not tar:
                recover(held)
        yield held


def check_destination_free(held: LockedDestination, overwrite: bool = False) -> None:
    """Refuse a destination that an export could not use, before any work is done.

    Raises OutputError if it holds anything; with overwrite, if its manifest.json is none of this program's.
    """
    with convert_output_errors(held.path):
        if isinstance(held, LockedTarDestination):
            _check_tar_destination_free(held, overwrite)
            return
        if overwrite:
            if get_status(held.folder, MANIFEST_NAME) is not None and not read_written_files(held.folder):
                raise OutputError(
                    f"destination '{held.path}' holds a '{MANIFEST_NAME}' that is none of imgsubset's; move it "
                    "away first"
                )
            return
        for path in walk_files(held.path):
            raise OutputError(
                f"destination '{held.path}' is not empty: it holds '{path}'; choose another, "
                "or pass --overwrite to replace an earlier selection"
            )


def _check_tar_destination_free(held: LockedTarDestination, overwrite: bool) -> None:
    if get_status(held.folder, held.name) is None:
        return
    if not overwrite:
        raise OutputError(
            f"destination '{held.path}' exists; choose another, or pass --overwrite to replace an earlier selection"
        )
    try:
        there = open_exported_files(held.path)
        ours = bool(parse_written_files(there.open(name_in(there)).read()))
    except (InputError, FileNotFoundError):
        ours = False
    if not ours:
        raise OutputError(f"destination '{held.path}' is none of imgsubset's; move it away first")


def _describe_overlap(source: Listing, destination: str | os.PathLike[str]) -> str:
    """How a destination and the source are in each other's way; empty if they are not."""
    real_source, real = (Path(os.path.realpath(path)) for path in (source.root, destination))
    if source.members is not None:  # its root is a name alone
        for file in source.members.containers:
            if real in ((archive := Path(os.path.realpath(file))), *archive.parents):
                return f"{'is' if real == archive else 'contains'} '{file}' of source '{source.name}'"
        return ""
    if real == real_source:
        return "is the source itself"
    if source.explicit:  # the root may hold much else, and the destination too, but for the images and links to them
        holding = cache(lambda folder: real in (Path(os.path.realpath(folder)) / "x").parents)
        for path in source.paths:
            file = os.path.abspath(source.locate(path))  # noqa: PTH100 (resolve would follow the link itself)
            linked = os.path.islink(file) and real in Path(os.path.realpath(file)).parents  # noqa: PTH114 (5 us a file)
            if linked or holding(os.path.dirname(file)):  # noqa: PTH120
                return f"contains '{path}' of source '{source.name}'"
        return ""
    if real_source in real.parents:
        return f"lies inside the source '{source.name}'"
    return f"contains the source '{source.name}'" if real in real_source.parents else ""


def check_samples(source: Listing, labels: LabelFiles, destination: str | os.PathLike[str]) -> None:
    """Raise UsageError for labels that readers of a WebDataset would take for samples without a picture."""
    samples = {None, *map(_sample, source.paths)}
    odd = [*labels.written, *(path for path in labels.copied if _sample(path) not in samples)]
    if odd:
        raise UsageError(
            f"destination '{destination}' is a tar archive, in which readers of a WebDataset would take '{min(odd)}' "
            "for a sample without a picture; choose a folder"
        )


def _sample(path: str) -> str | None:
    """What the members of one sample of a WebDataset have in common; None for a member that its readers skip."""
    match = _SAMPLE.fullmatch(path)
    return match and match[1]


@dataclass(frozen=True)
class LabelFiles:
    """What goes with chosen images.

    copied      paths of label files to copy, sorted
    written     the content of files made for them, by path
    shared      paths of those of them that are about several images or the classes, sorted
    unlabelled  how many images have neither a label file nor an entry in one that is shared
    left        label files that are links out of the source and stay behind, sorted
    notes       what a user should know
    """

    copied: list[str]
    written: dict[str, bytes]
    shared: list[str]
    unlabelled: int
    left: list[str]
    notes: tuple[str, ...] = ()


def plan_label_files(source: Listing, images: Sequence[str], chosen: Sequence[str], options: Options) -> LabelFiles:
    """What goes with chosen images: the labels of a COCO file go to `annotations/`, as its trainers expect. If objects
    are matched, the COCO files in the source go along too, under their own paths. Labels that are links out of the
    source stay behind, unless options.follow_labels.

    Raises UsageError for two files of one name, InputError for files of labels that make no sense.
    """
    reading = options
    beside = find_sidecars(source, chosen, images, reading.sidecars)
    alone, named, found = [], [], []  # files that are about many images
    if reading.sidecars != "none":
        alone = find_class_files(source, chosen)
        named = list_metadata_paths(chosen) if source.members is None else []
        named = [path for path in named if os.path.lexists(source.locate(path))]
        if reading.coco is None and dict(options.match).get("objects"):
            found = find_coco_files(source, chosen)
    copied = {path for paths in beside.values() for path in paths}.union(alone)
    left = set[str]()
    if not reading.follow_labels:
        left = {label for path, labels in beside.items() for label in labels if is_outside_source(source, label, path)}
        left.update(path for path in (*alone, *named, *found) if is_outside_source(source, path, path))
    written: dict[str, bytes] = {}
    notes: tuple[str, ...] = ()
    labelled = {path for path, labels in beside.items() if labels}
    if reading.sidecars != "none":
        written = filter_metadata(source, chosen, left)
        labelled.update(*(read_metadata_images(path, content) for path, content in written.items()))
        try:
            if described := make_data_yaml(source, group_folders_by_split(chosen)):
                written[described[0]] = described[1]
        except InputError as error:
            notes = (f"{error}; the subset gets no {DATA_YAML}",)
    for file in sorted({*found} - left - copied):
        try:
            where, inside, content = read_coco_file(source, file)
            content, covered = filter_coco(where, chosen, inside, content)
        except InputError as error:
            notes += (f"{error}; the subset gets no part of it",)
        else:
            labelled |= covered
            written |= {file: content} if covered else {}
    if reading.coco is not None:
        if (name := f"annotations/{Path(reading.coco).name}") in written:
            names = ", ".join(sorted(written))
            raise UsageError(f"two files of labels would have one name in the destination: {names}")
        written[name], covered = filter_coco(reading.coco, chosen, images)
        labelled |= covered
    shared = sorted({*alone, *written} - left)
    return LabelFiles(sorted(copied - left), written, shared, len({*chosen} - labelled), sorted(left), notes)


def find_finished_export(
    source: Listing, wanted: Mapping[str, object], options: Options, destination: str | os.PathLike[str]
) -> Manifest | None:
    """The manifest of an earlier export that is just what this one would be; None if there is none.

    wanted  the request, see `as_json.request`

    The source must be as it was by paths, sizes and times, its labels by content, and the destination complete by
    names and sizes. Which version made it is no matter: what it was asked for stands.
    """
    found = _read_matching_manifest(wanted, destination)
    if found is None or found.record.get("interrupted") is not False:
        return None
    record = found.record
    try:
        there = open_exported_files(destination)
        same = (
            record["source"] == source.origin
            and isinstance(record["program"]["version"], str)
            and source.is_cacheable
            and all(source.stamp(path).size in (0, there.stamp(path).size) for path in found.hashes)
            and all(map(there.has, found.extras))
            and _has_same_labels(source, tuple(found.hashes), options, found.extras)
            and record["source_digest"] == source.digest
            and isinstance(record["score"]["loss"], float)
            and isinstance(record["score"]["effective_size"], (float, NoneType))
            and all(isinstance(file["rank"], int) for file in record["files"])
        )
    except (ImgsubsetError, OSError, KeyError, TypeError, ValueError):
        return None
    return found if same else None


def has_interrupted_export(wanted: Mapping[str, object], destination: str | os.PathLike[str]) -> bool:
    """Whether a destination holds the best so far of this very request, whose search was interrupted."""
    found = _read_matching_manifest(wanted, destination)
    return found is not None and bool(found.record.get("interrupted"))


def _read_matching_manifest(wanted: Mapping[str, object], destination: str | os.PathLike[str]) -> Manifest | None:
    """The manifest in a destination if it answers this very request."""
    with contextlib.suppress(ImgsubsetError, TypeError, ValueError, KeyError):
        found = read_manifest(destination)
        # Options that are newer than the manifest are at their defaults, but for `image`.
        asked = dict(found.record["request"])
        asked["options"] = describe_options(Options(), SELECTION) | asked["options"]
        asked["options"]["match"] = with_image_stats_weight(asked["options"].get("match", {}))
        if asked == json.loads(json.dumps(wanted)):
            return found
    return None


def _has_same_labels(source: Listing, chosen: Sequence[str], options: Options, recorded: Mapping[str, str]) -> bool:
    """Whether the labels of the chosen images are those that were recorded; a ranking does not count."""
    labels = plan_label_files(source, source.paths, chosen, options)
    now = {path: source.sha256(path) for path in labels.copied}
    now |= {path: hashlib.sha256(content).hexdigest() for path, content in labels.written.items()}
    rankings = (ORDER_FILE, RANKED_IN_TAR)
    return now == {path: digest for path, digest in recorded.items() if path in now or path not in rankings}


def is_case_insensitive(folder: int, name: str) -> bool:
    """Whether the file system takes names that differ in case for one, by a name that is there."""
    return get_status(folder, name.swapcase()) is not None


def check_case_collisions(stage: StagingFolder, paths: Iterable[str]) -> None:
    """Refuse paths that differ only in case or in Unicode's normal form, where these are one name."""
    seen: dict[str, str] = {}
    for path in paths if is_case_insensitive(stage.held.folder, stage.name) else ():
        other = seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if other != path:
            raise OutputError(
                f"'{other}' and '{path}' would have one name in the destination, whose file system folds case; "
                "choose a destination elsewhere"
            )


@contextlib.contextmanager
def convert_output_errors(destination: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the disk raises into OutputError."""
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename
        where = f" ('{name}')" if name is not None else ""
        raise OutputError(f"cannot write to '{destination}': {error.strerror or error}{where}") from error


def prepare_split_data_yaml(
    source: Listing, parts: Mapping[str, tuple[str, ...]], destination: str | os.PathLike[str], overwrite: bool = False
) -> tuple[Path, bytes] | None:
    """Where the description of a split goes, and what it says; None for a source that is no YOLO set.

    parts  the chosen images by the names of the parts; those that are not called train, val or test are left out

    Raises OutputError if a file of this name is there that this program did not write, unless it is to be overwritten.
    """
    folders: dict[str, list[str]] = {}
    for name, chosen in parts.items():
        if part := parse_split_name(name):
            inside = {
                normpath(join(name, folder)) for found in group_folders_by_split(chosen).values() for folder in found
            }
            folders.setdefault(part, []).extend(sorted(inside))
    try:
        found = make_data_yaml(source, folders) if "train" in folders else None
    except InputError:  # the exports of the parts say so
        found = None
    if found is None:
        return None
    file = Path(destination, found[0])
    with convert_output_errors(destination):
        if os.path.lexists(file) and not overwrite and not read_file(file).startswith(DATA_YAML_HEADER.encode()):
            raise OutputError(f"'{file}' is there already, and would describe the split; move it, or pass --overwrite")
    return file, found[1]


def write_split_data_yaml(description: tuple[Path, bytes] | None) -> None:
    """Write a description, if there is one. Raises OutputError."""
    if description is not None:
        file, content = description
        with convert_output_errors(file.parent):
            write_atomic(file, content)
