"""The winner to another folder: verified copies first, the manifest last.

While a folder is being filled, a marker in it lists what will stand there. So a run that was killed is recognised,
and the next one cleans up after it. A file gets its final name only when it is whole and on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from imgsubset.copying import PARTIAL, copy_file, files_in, link_file, sync_folder, write_json, write_whole
from imgsubset.describe import describe, describe_files
from imgsubset.errors import InputError, OutputError, UsageError
from imgsubset.images import Stamp
from imgsubset.listing import Listing
from imgsubset.manifest import NAME, Manifest, read_manifest
from imgsubset.progress import Progress, silent
from imgsubset.selection import Selection
from imgsubset.sidecars import filtered_coco, filtered_metadata, sidecars

MARKER = ".imgsubset-incomplete.json"
RANKED = "ranked.txt"
MODES = ("copy", "symlink", "hardlink")
COPIES = 8  # at a time: copying waits for disks, not for processors


@dataclass(frozen=True)
class Export:
    """A finished export.

    destination  the folder
    mode         how the files came there
    hashes       SHA-256 of each chosen file, by relative path
    extras       SHA-256 of the files written beside them, by relative path
    seconds      wall time
    """

    destination: Path
    mode: str
    hashes: dict[str, str]
    extras: dict[str, str]
    seconds: float


def check_destination(source: Listing, destination: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse a destination that an export could not use, before any work is done.

    Raises UsageError if source and destination overlap, OutputError if the destination holds files that no unfinished
    export left there (with overwrite: if it is no folder).
    """
    _check_apart(source, destination)
    real = Path(os.path.realpath(destination))
    with _output_errors(destination):
        if not os.path.lexists(destination):
            os.scandir(next(parent for parent in real.parents if os.path.lexists(parent))).close()
            return
        if not real.is_dir():
            raise OutputError(f"destination '{destination}' exists and is not a folder")
        if not overwrite:
            ours = _listed(real / MARKER)
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
            file = Path(os.path.abspath(source.root / path))  # noqa: PTH100 (resolve would follow the link itself)
            folders = {*Path(os.path.realpath(file)).parents, *(Path(os.path.realpath(file.parent)) / "x").parents}
            if real in folders:
                raise UsageError(f"destination '{destination}' contains '{path}' of source '{source.name}'")
        return
    if real_source in real.parents:
        raise UsageError(f"destination '{destination}' lies inside the source '{source.name}'")
    if real in real_source.parents:
        raise UsageError(f"destination '{destination}' contains the source '{source.name}'")


def finished(source: Listing, wanted: Mapping[str, object], destination: str | os.PathLike[str]) -> Manifest | None:
    """The manifest of an earlier export that is just what this one would be; None if there is none.

    wanted  the request, see `describe.request`

    The source must be as it was by paths, sizes and times, and the destination complete by names and sizes.
    """
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
            and all((folder / path).stat().st_size == (source.root / path).stat().st_size for path in found.hashes)
            and all((folder / path).is_file() for path in found.extras)
            and record["source_digest"] == source.digest
            and isinstance(record["score"]["loss"], float)
            and all(isinstance(file["rank"], int) for file in record["files"])
        )
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None
    return found if same else None


def export(
    selection: Selection,
    destination: str | os.PathLike[str],
    *,
    mode: str = "copy",
    overwrite: bool = False,
    ranked: bool = False,
    progress: Progress = silent,
) -> Export:
    """Copy the chosen images, with their relative paths, into a folder, and write manifest.json there.

    destination  absent or empty, or left by an export that did not finish, which is then cleaned up
    mode         copy; symlink, to the absolute path of the source; or hardlink, on the same file system
    overwrite    first remove what the manifest of an earlier export lists, and replace files of the same names;
                 other files stay
    ranked       also write ranked.txt, the relative paths in the order of the selection's ranking, one a line

    Label files that belong to the images go with them, as options.sidecars says, and options.coco is cut to them.

    Raises UsageError and OutputError as check_destination does, and OutputError if a file changed since it was
    decoded or cannot be copied; the destination then has no manifest, and the same call completes it.
    """
    start = time.perf_counter()
    if mode not in MODES:
        raise UsageError(f"mode '{mode}' is not one of {', '.join(MODES)}")
    check_destination(selection.source, destination, overwrite)
    folder = Path(destination)
    root = selection.source.root
    stamps = {selection.paths[index]: selection.stamps[index] for index in selection.indices}
    beside = _stamps(root, _sidecars(selection))
    written = _written(selection, ranked)
    _check_names([*stamps, *beside], written)
    with _output_errors(destination):
        folder.mkdir(parents=True, exist_ok=True)
        if mode == "copy":
            _check_space(folder, sum(stamp.size for stamp in (*stamps.values(), *beside.values())))
        earlier = _listed(folder / MARKER) | (_listed(folder / NAME) if overwrite else set())
        listed = sorted({*stamps, *beside, *written, *earlier})
        write_json(folder / MARKER, {"files": [{"path": path} for path in listed]})
        _remove(folder, earlier)
        hashes = _place_all(root, folder, stamps | beside, mode, overwrite, progress)
        extras = {path: hashes.pop(path) for path in beside}
        for name, content in written.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, content)
            extras[name] = hashlib.sha256(content).hexdigest()
        write_json(folder / NAME, describe(selection, mode, ranked) | describe_files(selection, hashes, extras))
        (folder / MARKER).unlink()
        sync_folder(folder)
    return Export(folder, mode, hashes, extras, time.perf_counter() - start)


def _sidecars(selection: Selection) -> list[str]:
    """Paths of the label files that go with the chosen images."""
    beside = sidecars(selection.source.root, selection.chosen, selection.source.paths, selection.options.sidecars)
    return sorted({path for paths in beside.values() for path in paths})


def _stamps(root: Path, paths: Iterable[str]) -> dict[str, Stamp]:
    stamps = {}
    for path in paths:
        try:
            status = (root / path).stat()
        except OSError as error:
            raise OutputError(f"'{root / path}' cannot be read any more: {error.strerror}") from None
        stamps[path] = Stamp(status.st_size, status.st_mtime_ns)
    return stamps


def _written(selection: Selection, ranked: bool) -> dict[str, bytes]:
    """The content of the files that are made for the chosen images, by their paths."""
    options, root = selection.options, selection.source.root
    made = filtered_metadata(root, selection.chosen) if options.sidecars != "none" else []
    if options.coco is not None:
        made.append(filtered_coco(options.coco, selection.chosen, selection.source.paths))
    written = {one.path: one.content for one in made}
    if len(written) < len(made):
        raise UsageError(f"two files of labels would have one name in the destination: {', '.join(sorted(written))}")
    if ranked:
        written[RANKED] = os.fsencode("".join(f"{path}\n" for path in selection.ranked))
    return written


def _check_names(copied: Iterable[str], written: Iterable[str]) -> None:
    """Refuse files that would take each other's name, or one of this program's."""
    taken = {NAME, MARKER, *written}
    for path in copied:
        if path in taken:
            raise OutputError(f"'{path}' of the source would take the name of a file that is written; rename it there")
    if {NAME, MARKER} & set(written):
        raise UsageError(f"a file of labels may not be called '{NAME}'")


@contextlib.contextmanager
def _output_errors(destination: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename
        where = f" ('{name}')" if name is not None else ""
        raise OutputError(f"cannot write to '{destination}': {error.strerror or error}{where}") from error


def _listed(record: Path) -> set[str]:
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


def _remove(folder: Path, paths: Iterable[str]) -> None:
    """Remove the manifest, the listed files, what partial copies are left, and folders that this empties."""
    (folder / NAME).unlink(missing_ok=True)
    parents: set[Path] = set()
    for path in [*paths, *(path for path in files_in(folder) if Path(path).name.startswith(PARTIAL))]:
        target = folder / path
        if _real_parents(folder, path) and os.path.lexists(target) and not target.is_dir():
            target.unlink()
            parents.update(parent for parent in target.parents if folder in parent.parents)
    for parent in sorted(parents, key=lambda parent: len(parent.parts), reverse=True):
        with contextlib.suppress(OSError):
            parent.rmdir()


def _real_parents(folder: Path, path: str) -> bool:
    """Whether all folders between a destination and a file in it are folders, not links to somewhere else."""
    return not any((folder / parent).is_symlink() for parent in Path(path).parents[:-1])


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(f"'{folder}' has {free:,} bytes free, but the chosen images take {needed:,}")


def _place_all(
    source: Path, folder: Path, stamps: dict[str, Stamp], mode: str, overwrite: bool, progress: Progress
) -> dict[str, str]:
    for parent in sorted({Path(path).parent for path in stamps}):
        (folder / parent).mkdir(parents=True, exist_ok=True)
        if not _real_parents(folder, f"{parent}/x"):
            raise OutputError(f"'{folder / parent}' leads through a symbolic link; remove it first")

    def copy(path: str) -> tuple[str, str]:
        if mode == "copy":
            return path, copy_file(source / path, folder / path, stamps[path], overwrite)
        return path, link_file(source / path, folder / path, stamps[path], overwrite, mode == "symlink")

    executor = ThreadPoolExecutor(COPIES)
    hashes = {}
    try:
        for path, digest in executor.map(copy, stamps):
            hashes[path] = digest
            progress("copy", 1, len(stamps))
    finally:
        executor.shutdown(cancel_futures=True)
    for folder_of_copies in {(folder / path).parent for path in stamps}:
        sync_folder(folder_of_copies)
    return hashes
