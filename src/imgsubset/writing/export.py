"""The winner to another folder: verified copies first, the manifest last.

While a folder is being filled, a marker in it lists what will stand there. So a run that was killed is recognised,
and the next one cleans up after it. A file gets its final name only when it is whole and on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imgsubset.errors import OutputError, UsageError, shown
from imgsubset.files import PARTIAL, READERS, Stamp, files_in, sync_folder, write_json, write_whole
from imgsubset.inputs import of_kind
from imgsubset.progress import Progress, teller
from imgsubset.reading.listing import Listing
from imgsubset.results.as_json import describe
from imgsubset.results.records import Export, Selection
from imgsubset.writing.copying import place, still_readable
from imgsubset.writing.destination import (
    MARKER,
    RANKED,
    Companions,
    check_destination,
    check_folded,
    companions,
    output_errors,
)
from imgsubset.writing.manifest import NAME, listed_files

MODES = ("copy", "symlink", "hardlink")


def check_mode(mode: str) -> None:
    """Raise UsageError for what is no way for files to come to a destination."""
    if not isinstance(mode, str) or mode not in MODES:
        raise UsageError(f"mode '{mode if isinstance(mode, str) else shown(mode)}' is not one of {', '.join(MODES)}")


def export(
    selection: Selection,
    destination: str | os.PathLike[str],
    *,
    mode: str = "copy",
    overwrite: bool = False,
    ranked: bool = False,
    progress: Progress | bool = False,
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
    tell = teller(progress)
    check_mode(mode)
    if not isinstance(selection, Selection):
        raise UsageError(f"selection {shown(selection)} is not what `select` returns")
    destination = of_kind("destination", "str", destination, "the path of a folder")
    check_destination(selection.source, destination, overwrite)
    folder, source = Path(destination), selection.source
    stamps = {selection.paths[row]: selection.stamps[row] for row in selection.rows}
    labels = companions(source, selection.paths, selection.chosen, selection.options.reading)
    beside, written = _labels(selection, labels, ranked)
    stamps |= beside
    with output_errors(destination):
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = sum(stamp.size for stamp in stamps.values()), shutil.disk_usage(folder).free
        if mode == "copy" and needed > free:
            raise OutputError(f"'{folder}' has {free:,} bytes free, but the chosen images take {needed:,}")
        earlier = listed_files(folder / MARKER) | (listed_files(folder / NAME) if overwrite else set())
        write_json(folder / MARKER, {"files": [{"path": path} for path in sorted({*stamps, *written, *earlier})]})
        check_folded(folder, [*stamps, *written, NAME])
        _remove(folder, earlier)
        hashes = _place_all(source, folder, stamps, mode, overwrite, tell)
        extras = {path: hashes.pop(path) for path in beside}
        for name, content in written.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, content)
            extras[name] = hashlib.sha256(content).hexdigest()
        count = len(labels.copied) + len(labels.written)
        exported = Export(folder, mode, hashes, extras, time.perf_counter() - start, count, labels.unlabelled)
        write_json(folder / NAME, describe(selection, exported, ranked))
        (folder / MARKER).unlink()
        sync_folder(folder)
    return exported


def _labels(selection: Selection, labels: Companions, ranked: bool) -> tuple[dict[str, Stamp], dict[str, bytes]]:
    """What goes with the images: the stamps of label files to copy, and the content of files to write, by path."""
    source, chosen = selection.source, selection.chosen
    copied, written = labels.copied, labels.written
    for name in written:
        if name in (NAME, MARKER):
            raise UsageError(f"a file of labels may not be called '{name}'")
        if ranked and name == RANKED:
            raise UsageError(f"a file of labels may not be called '{RANKED}' where --ranked writes one")
    if ranked:
        written = written | {RANKED: os.fsencode("".join(f"{path}\n" for path in selection.ranked))}
    taken = {NAME, MARKER, *written}
    for path in (*chosen, *copied):
        if path in taken:
            raise OutputError(f"'{path}' of the source would take the name of a file that is written; rename it there")
    stamps = {}
    for path in copied:
        with still_readable(source.locate(path)):
            stamps[path] = source.stamp(path)
    return stamps, written


def _remove(folder: Path, paths: set[str]) -> None:
    """Remove the manifest, the listed files, what partial copies are left, and folders that this empties."""
    (folder / NAME).unlink(missing_ok=True)
    parents: set[Path] = set()
    for path in [*paths, *(path for path in files_in(folder) if Path(path).name.startswith(PARTIAL))]:
        target = folder / path
        if _real_parents(folder, path) and os.path.lexists(target) and not target.is_dir():
            target.unlink()
            parents.update(parent for parent in target.parents if folder in parent.parents)
    for parent in sorted(parents, reverse=True):  # a folder before the one that holds it
        with contextlib.suppress(OSError):
            parent.rmdir()


def _real_parents(folder: Path, path: str) -> bool:
    """Whether all folders between a destination and a file in it are folders, not links to somewhere else."""
    return not any((folder / parent).is_symlink() for parent in Path(path).parents[:-1])


def _place_all(
    source: Listing, folder: Path, stamps: Mapping[str, Stamp], mode: str, overwrite: bool, progress: Progress
) -> dict[str, str]:
    """Copy or link files of the source to their places, several at once. Returns their SHA-256."""
    folders = sorted({(folder / path).parent for path in stamps})
    for parent in folders:
        parent.mkdir(parents=True, exist_ok=True)
        if not _real_parents(folder, str(parent.relative_to(folder) / "x")):
            raise OutputError(f"'{parent}' leads through a symbolic link; remove it first")
    over = threading.Event()  # set when the rest of the copies is of no use any more

    def place_one(path: str) -> str:
        return place(source, path, folder / path, stamps[path], mode, overwrite, over.is_set)

    executor = ThreadPoolExecutor(READERS)
    hashes = {}
    try:
        for path, digest in zip(stamps, executor.map(place_one, stamps), strict=True):
            hashes[path] = digest
            progress("copy", 1, len(stamps))
    finally:
        over.set()
        executor.shutdown(cancel_futures=True)
    for parent in folders:
        sync_folder(parent)
    return hashes
