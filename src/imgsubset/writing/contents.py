"""The files of a subset, in a folder or in a tar archive that stands for one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from imgsubset.files import Stamps
from imgsubset.reading.containers import detect_container_kind, iter_members
from imgsubset.reading.contents import Listing, RejectedFile
from imgsubset.reading.members import Members
from imgsubset.reading.naming import index_members

TAR_SUFFIX = ".tar"


def has_tar_name(destination: str | os.PathLike[str]) -> bool:
    """Whether a destination is to be a tar archive: it is so called, and no folder."""
    return os.fspath(destination).lower().endswith(TAR_SUFFIX) and not os.path.isdir(destination)  # noqa: PTH112 (never raises)


def is_tar(place: str | os.PathLike[str]) -> bool:
    """Whether a tar archive is there."""
    with contextlib.suppress(OSError, ValueError):
        return detect_container_kind(place) == TAR_SUFFIX
    return False


def open_exported_files(place: str | os.PathLike[str]) -> Listing:
    """All files in a folder or a tar archive, hidden ones too, to be asked for by their paths, images or not.

    `rejected` has what is in the archive that is no file, and what is wrong with it. Raises OSError, and InputError for
    an archive that cannot be read.
    """
    name, root = str(place), Path(place)
    if not is_tar(place):
        return Listing(name, root, (), Stamps())
    found, notes = index_members(iter_members(place, TAR_SUFFIX))
    odd = [(path, why) for path, why in found.items() if isinstance(why, str)] + notes
    members = Members({path: one for path, one in found.items() if not isinstance(one, str)})
    rejected = tuple(RejectedFile(path or name, why) for path, why in odd)
    return Listing(name, root, (), Stamps(), rejected, members=members)
