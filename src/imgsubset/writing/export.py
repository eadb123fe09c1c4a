"""The winner to another folder: all of it or nothing, verified copies first, the manifest last.

Files wait in a folder of their own until all of them are whole and on the disk. Only then does what an earlier export
left give way, and they get their names, see `imgsubset.writing.staging`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from imgsubset.errors import OutputError, UsageError, short_repr
from imgsubset.files import N_IO_THREADS, Stamp, to_json_bytes
from imgsubset.inputs import convert_value
from imgsubset.progress import Progress, as_progress, no_progress
from imgsubset.results.as_json import describe_selection, manifest_of
from imgsubset.results.records import Export, Selection
from imgsubset.writing.copying import convert_read_errors, copy_or_link
from imgsubset.writing.destination import (
    ORDER_FILE,
    RANKED_IN_TAR,
    LabelFiles,
    check_case_collisions,
    check_destination_free,
    check_samples,
    convert_output_errors,
    open_destination,
    plan_label_files,
)
from imgsubset.writing.lock import LockedDestination
from imgsubset.writing.manifest import MANIFEST_NAME, NAME_IN_TAR
from imgsubset.writing.ownership import check_paths_available, read_written_files
from imgsubset.writing.staging import StagingFolder, make_staging_folder
from imgsubset.writing.tar_export import LockedTarDestination, TarExport, verify_earlier_archive

EXPORT_MODES = ("copy", "symlink", "hardlink")
MAX_TAR_OVERHEAD_BYTES = (
    2048  # bytes of a tar archive that a member takes at most beside its own: headers, and what fills a block
)
MAX_LISTED_FILES = 10  # files that a warning names


def check_mode(mode: str) -> None:
    """Raise UsageError for what is no way for files to come to a destination."""
    if not isinstance(mode, str) or mode not in EXPORT_MODES:
        raise UsageError(
            f"mode '{mode if isinstance(mode, str) else short_repr(mode)}' is not one of {', '.join(EXPORT_MODES)}"
        )


def export(
    selection: Selection,
    destination: str | os.PathLike[str],
    *,
    mode: str = "copy",
    overwrite: bool = False,
    ranked: bool = False,
    progress: Progress | bool = False,
) -> Export:
    """Copy the chosen images, with their relative paths, into a folder or a tar archive, and write a manifest.json.

    destination  absent or empty, or left by an export that did not finish, which is then cleaned up or completed. What
                 ends in .tar, and is no folder, is the name of an archive, which appears when all of it is whole
    mode         copy; symlink, to the absolute path of the source; or hardlink, on the same file system
    overwrite    replace what the manifest of an earlier export lists, once all new files are whole; other files stay,
                 and an archive that has others is not replaced
    ranked       also write ranked.txt, the relative paths in the order of the selection's ranking, one a line

    In an archive, a shard of a WebDataset, these two are called imgsubset-manifest and imgsubset-ranked, which its
    readers skip.

    Label files that belong to the images go with them, as options.sidecars says, and options.coco is cut to them.

    Raises UsageError if source and destination overlap, or if labels would be samples of their own in an archive;
    OutputError if the destination is in use by another run or holds files that no earlier export can be shown to have
    written, if it has too little space, or if a file changed since it was decoded or cannot be copied. The destination
    then is as it was.
    """
    check_mode(mode)
    tell = as_progress(progress)
    if not isinstance(selection, Selection):
        raise UsageError(f"selection {short_repr(selection)} is not what `select` returns")
    destination = convert_value("destination", "str", destination, "the path of a folder")
    with open_destination(selection.source, destination, mode) as held:
        return export_to_locked(held, selection, mode=mode, overwrite=overwrite, ranked=ranked, progress=tell)


def export_to_locked(
    held: LockedDestination,
    selection: Selection,
    *,
    mode: str,
    overwrite: bool,
    ranked: bool = False,
    progress: Progress = no_progress,
) -> Export:
    """Do what `export` does, in a destination that is held already."""
    start = time.perf_counter()
    check_destination_free(held, overwrite)
    stamps = {selection.paths[row]: selection.stamps[row] for row in selection.rows}
    labels = plan_label_files(selection.source, selection.paths, selection.chosen, selection.options)
    if isinstance(held, LockedTarDestination):
        check_samples(selection.source, labels, held.path)
    name, ranking = (
        (NAME_IN_TAR, RANKED_IN_TAR) if isinstance(held, LockedTarDestination) else (MANIFEST_NAME, ORDER_FILE)
    )
    beside, written = _prepare_label_files(selection, labels, name, ranking if ranked else None)
    stamps |= beside
    paths = [*stamps, *written, name]

    def described(hashes: dict[str, str]) -> tuple[Export, bytes]:
        extras = {path: hashes.pop(path) for path in beside}
        extras |= {name: hashlib.sha256(content).hexdigest() for name, content in written.items()}
        count, seconds = len({*labels.copied} - {*labels.shared}), time.perf_counter() - start
        warnings = _linked_label_warnings(labels.left) + labels.notes
        shared = tuple(labels.shared)
        exported = Export(held.path, mode, hashes, extras, seconds, count, labels.unlabelled, warnings, shared)
        return exported, to_json_bytes(manifest_of(describe_selection(selection, exported, ranked)))

    if isinstance(held, LockedTarDestination):
        with convert_output_errors(held.path):
            replaced = verify_earlier_archive(held) if overwrite else None
            _check_space(
                held, sum(stamp.size + MAX_TAR_OVERHEAD_BYTES for stamp in stamps.values()), replaced is not None
            )
            packing = TarExport(held)
            hashes = packing.copy(selection.source, stamps, progress)
            newest = max(stamp.mtime_ns for stamp in stamps.values())
            for path, content in written.items():
                packing.write(path, content, newest)
            exported, manifest = described(hashes)
            packing.write(name, manifest, newest)
            packing.commit(replaced)
        return exported
    with convert_output_errors(held.path), make_staging_folder(held) as stage:
        leaving = read_written_files(held.folder) if overwrite else {}
        check_case_collisions(stage, paths)
        check_paths_available(held.folder, paths, leaving, held.path)
        if mode == "copy":
            _check_space(held, sum(stamp.size for stamp in stamps.values()), bool(leaving))
        hashes = _copy_or_link_all(selection, stage, stamps, mode, progress)
        for number, content in enumerate(written.values(), len(stamps)):
            stage.write(number, content)
        exported, manifest = described(hashes)
        stage.write(len(paths) - 1, manifest)
        stage.commit(paths, leaving)
    return exported


def _check_space(held: LockedDestination, needed: int, beside: bool) -> None:
    free = shutil.disk_usage(held.folder).free
    if needed > free:
        why = ", beside the earlier selection, which gives way only when they are whole" if beside else ""
        raise OutputError(f"'{held.path}' has {free:,} bytes free, but the chosen images take {needed:,}{why}")


def _linked_label_warnings(left: Sequence[str]) -> tuple[str, ...]:
    """What is to be said of labels that stay behind."""
    said = "label files that are links out of the source stay behind (--follow-labels takes them along): "
    names = ", ".join(f"'{path}'" for path in left[:MAX_LISTED_FILES]) + (
        f" and {len(left) - MAX_LISTED_FILES:,} more" * (len(left) > MAX_LISTED_FILES)
    )
    return (said + names,) if left else ()


def _prepare_label_files(
    selection: Selection, labels: LabelFiles, manifest: str, ranking: str | None
) -> tuple[dict[str, Stamp], dict[str, bytes]]:
    """What goes with the images: the stamps of label files to copy, and the content of files to write, by path.

    manifest  its name; that of the ranking is None if there is to be none
    """
    chosen, source = selection.chosen, selection.source
    copied, written = labels.copied, labels.written
    for name in written:
        if name == manifest:
            raise UsageError(f"a file of labels may not be called '{name}'")
        if name == ranking:
            raise UsageError(f"a file of labels may not be called '{name}' where --ranked writes one")
    if ranking is not None:
        written = written | {ranking: os.fsencode("".join(f"{path}\n" for path in selection.ranked))}
    taken = {manifest, *written}
    for path in (*chosen, *copied):
        if path in taken:
            raise OutputError(f"'{path}' of the source would take the name of a file that is written; rename it there")
    stamps = {}
    for path in copied:
        with convert_read_errors(source.locate(path)):
            stamps[path] = source.stamp(path)
    return stamps, written


def _copy_or_link_all(
    selection: Selection, stage: StagingFolder, stamps: Mapping[str, Stamp], mode: str, progress: Progress
) -> dict[str, str]:
    """Copy or link files of the source to where they wait, several at once. Returns their SHA-256."""
    over = threading.Event()  # set when the rest of the copies is of no use any more

    def place_one(number: int, path: str) -> str:
        return copy_or_link(selection.source, path, stage.folder, str(number), stamps[path], mode, over.is_set)

    executor = ThreadPoolExecutor(N_IO_THREADS)
    hashes = {}
    try:
        for path, digest in zip(stamps, executor.map(place_one, range(len(stamps)), stamps), strict=True):
            hashes[path] = digest
            progress("copy", 1, len(stamps))
    finally:
        over.set()
        executor.shutdown(cancel_futures=True)
    return hashes
