"""Whether a subset still is what its manifest says."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from imgsubset.errors import InputError
from imgsubset.files import N_IO_THREADS, walk_files
from imgsubset.inputs import convert_value
from imgsubset.progress import Progress, as_progress
from imgsubset.results.records import Verification
from imgsubset.sources.images import RejectedFile
from imgsubset.writing.manifest import Manifest, open_exported_files, read_manifest
from imgsubset.writing.ownership import open_folder
from imgsubset.writing.staging import find_staging_folders


def verify(folder: str | os.PathLike[str], progress: Progress | bool = False) -> Verification:
    """Check the files in a folder or a tar archive against the SHA-256 in its manifest. Links are followed.

    The caches of ultralytics beside folders of label files, such as `labels/train.cache`, are not extra files.

    Raises InputError if there is no manifest that can be read.
    """
    tell = as_progress(progress)
    manifest = read_manifest(convert_value("folder", "str", folder, "the path of a folder"))
    root = manifest.path.parent
    there = open_exported_files(root)
    if None in manifest.hashes.values():
        raise InputError(f"manifest '{manifest.path}' is of a selection that was not copied: there is nothing to check")
    expected = {**manifest.hashes, **manifest.extras}
    known = {*expected, *_caches(manifest)}

    def check(path: str) -> tuple[str, str | None]:
        try:
            problem = None if there.sha256(path) == expected[path] else "its content is not what was copied"
        except FileNotFoundError:
            problem = "missing"
        except OSError as error:
            problem = error.strerror or str(error)
        except ValueError:
            problem = "no possible name of a file"
        return path, problem

    problems: dict[str, str] = {}
    with ThreadPoolExecutor(N_IO_THREADS) as readers:
        for path, problem in readers.map(check, expected):
            tell("verify", 1, len(expected))
            if problem:
                problems[path] = problem
    try:
        odd = [file.path for file in there.rejected]
        found = _list_finished_files(root) if there.members is None else [*there.members.found, *odd]
    except OSError as error:
        raise InputError(f"cannot read '{error.filename}': {error.strerror}") from None
    return Verification(
        folder=root,
        checked=len(expected),
        missing=tuple(sorted(path for path, problem in problems.items() if problem == "missing")),
        changed=tuple(RejectedFile(*item) for item in sorted(problems.items()) if item[1] != "missing"),
        extra=tuple(path for path in sorted(found) if path not in known and root / path != manifest.path),
    )


def _caches(manifest: Manifest) -> set[str]:
    """Where ultralytics leaves caches: beside each folder of label files, and of images without these, of its name."""
    folders = {PurePosixPath(path).parent for path in manifest.extras if path.endswith(".txt")}
    for path in manifest.hashes:
        head, images, tail = f"/{path}".rpartition("/images/")
        folders |= {PurePosixPath(f"{head}/labels/{tail}".lstrip("/")).parent} if images else set()
    return {str(folder.with_suffix(".cache")) for folder in folders if folder.name}


def _list_finished_files(root: Path) -> list[str]:
    """The files in a folder, but for what waits there for its name. Raises OSError."""
    with open_folder(root) as folder:
        unfinished = find_staging_folders(folder)
    return [path for path in walk_files(root) if path.split("/", 1)[0] not in unfinished]
