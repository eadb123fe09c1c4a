"""Whether a folder can take a subset: before any work, and before the first copy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgsubset.errors import ImgsubsetError, OutputError, UsageError
from imgsubset.files import PARTIAL, Stamp, files_in, sha256_of
from imgsubset.options import Reading
from imgsubset.reading.coco import filtered_coco
from imgsubset.reading.listing import Listing
from imgsubset.reading.metadata import filtered_metadata
from imgsubset.reading.sidecars import sidecars
from imgsubset.writing.manifest import NAME, Manifest, read_manifest

MARKER = ".imgsubset-incomplete.json"
RANKED = "ranked.txt"


def check_destination(source: Listing, destination: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse a destination that an export could not use, before any work is done.

    Raises UsageError if source and destination overlap, OutputError if the destination holds files that no unfinished
    export left there (with overwrite: if it is no folder).
    """
    _check_apart(source, destination)
    real = Path(os.path.realpath(destination))
    with output_errors(destination):
        if not os.path.lexists(destination):
            os.scandir(next(parent for parent in real.parents if os.path.lexists(parent))).close()
            return
        if not real.is_dir():
            raise OutputError(f"destination '{destination}' exists and is not a folder")
        if not overwrite:
            ours = listed_files(real / MARKER)
            if ours:
                ours.add(NAME)
            for path in files_in(real):
                if path not in ours and path != MARKER and not Path(path).name.startswith(PARTIAL):
                    raise OutputError(
                        f"destination '{destination}' is not empty: it holds '{path}'; choose another, "
                        "or pass --overwrite to replace an earlier selection"
                    )


def _check_apart(source: Listing, destination: str | os.PathLike[str]) -> None:
    real_source, real = (Path(os.path.realpath(path)) for path in (source.root, destination))
    if real == real_source:
        raise UsageError(f"destination '{destination}' is the source itself")
    if source.listed:  # the root may hold much else, and the destination too, but for the images and links to them
        for path in source.paths:
            file = Path(os.path.abspath(source.locate(path)))  # noqa: PTH100 (resolve would follow the link itself)
            folders = {*Path(os.path.realpath(file)).parents, *(Path(os.path.realpath(file.parent)) / "x").parents}
            if real in folders:
                raise UsageError(f"destination '{destination}' contains '{path}' of source '{source.name}'")
        return
    if real_source in real.parents:
        raise UsageError(f"destination '{destination}' lies inside the source '{source.name}'")
    if real in real_source.parents:
        raise UsageError(f"destination '{destination}' contains the source '{source.name}'")


@dataclass(frozen=True)
class Companions:
    """What goes with chosen images: paths of label files to copy, and the content of files made for them, by path."""

    copied: tuple[str, ...]
    written: dict[str, bytes]


def companions(source: Listing, images: Sequence[str], chosen: Sequence[str], options: Reading) -> Companions:
    """The labels that go with the chosen ones of the images of a source.

    Raises UsageError for two files of one name, InputError for files of labels that make no sense.
    """
    beside = sidecars(source, chosen, images, options.sidecars)
    copied = sorted({path for paths in beside.values() for path in paths})
    written = filtered_metadata(source, chosen) if options.sidecars != "none" else {}
    if options.coco is not None:
        if (name := Path(options.coco).name) in written:
            names = ", ".join(sorted(written))
            raise UsageError(f"two files of labels would have one name in the destination: {names}")
        written[name] = filtered_coco(options.coco, chosen, images)
    return Companions(tuple(copied), written)


def finished(
    source: Listing, wanted: Mapping[str, object], options: Reading, destination: str | os.PathLike[str]
) -> Manifest | None:
    """The manifest of an earlier export that is just what this one would be; None if there is none.

    wanted  the request, see `as_json.request`

    The source must be as it was by paths, sizes and times, its labels by content, and the destination complete by
    names and sizes.
    """
    from importlib.metadata import version  # 10 ms, which `--help` need not wait for

    folder = Path(destination)
    try:
        found = read_manifest(folder)
        record = found.record
        same = (
            record["request"] == json.loads(json.dumps(wanted))
            and record["source"] == os.path.abspath(source.root)  # noqa: PTH100 (resolve would follow links)
            and record["program"]["version"] == version("imgsubset")
            and not record["interrupted"]
            and not os.path.lexists(folder / MARKER)
            and all(Stamp.of((folder / path).stat()).size == source.stamp(path).size for path in found.hashes)
            and all((folder / path).is_file() for path in found.extras)
            and _same_labels(companions(source, source.paths, tuple(found.hashes), options), source, found.extras)
            and record["source_digest"] == source.digest
            and isinstance(record["score"]["loss"], float)
            and all(isinstance(file["rank"], int) for file in record["files"])
        )
    except (ImgsubsetError, OSError, KeyError, TypeError, ValueError):
        return None
    return found if same else None


def interrupted(wanted: Mapping[str, object], destination: str | os.PathLike[str]) -> bool:
    """Whether a destination holds the best so far of this very request, whose search was interrupted."""
    try:
        record = read_manifest(destination).record
        return bool(record["interrupted"]) and bool(record["request"] == json.loads(json.dumps(wanted)))
    except (ImgsubsetError, KeyError, TypeError):
        return False


def _same_labels(along: Companions, source: Listing, recorded: Mapping[str, str]) -> bool:
    """Whether the labels of the chosen images are those that were recorded; a ranking does not count."""
    now = {path: _sha256(source, path) for path in along.copied}
    now |= {path: hashlib.sha256(content).hexdigest() for path, content in along.written.items()}
    return now == {path: digest for path, digest in recorded.items() if path in now or path != RANKED}


def _sha256(source: Listing, path: str) -> str:
    with source.open(path) as file:
        return sha256_of(file)


def folds_case(folder: Path) -> bool:
    """Whether the file system takes names that differ in case for one, by the marker that is there."""
    return (folder / MARKER.upper()).exists()


def check_folded(paths: Iterable[str]) -> None:
    """Refuse paths that differ only in case or in Unicode's normal form."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if other != path:
            raise OutputError(
                f"'{other}' and '{path}' would have one name in the destination, whose file system folds case; "
                "choose a destination elsewhere"
            )


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError if fewer bytes are free than are needed."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(f"'{folder}' has {free:,} bytes free, but the chosen images take {needed:,}")


@contextlib.contextmanager
def output_errors(destination: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the disk raises into OutputError."""
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename
        where = f" ('{name}')" if name is not None else ""
        raise OutputError(f"cannot write to '{destination}': {error.strerror or error}{where}") from error


def listed_files(record: Path) -> set[str]:
    """The relative paths that a marker or a manifest lists; none if it is absent or not ours."""
    try:
        if not stat.S_ISREG(record.lstat().st_mode):
            return set()
        listed = json.loads(record.read_bytes())
        paths = {str(entry["path"]) for entry in (*listed["files"], *listed.get("extras", ()))}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return set()
    # A path that would lead out of the folder was not written by us.
    return {path for path in paths if path and not Path(path).is_absolute() and ".." not in Path(path).parts}
