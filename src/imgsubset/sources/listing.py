"""List the images of a source: a folder is searched; a text file or a list names them; archives hold them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import weakref
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from posixpath import splitext
from typing import TypeAlias

from imgsubset.errors import InputError, UsageError
from imgsubset.files import Stamp, Stamps, read_file
from imgsubset.progress import Progress, no_progress
from imgsubset.sources.archive_members import Member, Members, index_members
from imgsubset.sources.containers import (
    CONTAINER_SUFFIXES,
    detect_container_kind,
    expand_pattern,
    is_shard_list,
    is_shard_pattern,
    iter_members,
    iter_shard_members,
)
from imgsubset.sources.images import (
    HEAD_BYTES,
    IMAGE_SUFFIXES,
    UNREADABLE_FOLDER,
    UNSUPPORTED_IMAGE_SUFFIXES,
    Listing,
    RejectedFile,
    describe_unsupported_content,
    describe_unsupported_name,
    sort_rejected,
)
from imgsubset.sources.remote import download_files, find_remote_files, parse_url

PROGRESS_STEP_IMAGES = 10_000  # images of which progress is told together
MAX_PATHS_FILE_BYTES = 1 << 30  # bytes of paths: what is longer is some other file

PathSource: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Listing"


def list_images(source: PathSource, progress: Progress = no_progress) -> Listing:
    """List the images of a source, in the order of the bytes of their paths.

    source  a folder, searched with the folders in it: extensions match without regard to case, hidden files and
            folders are skipped, symbolic links are followed; each folder is entered once, and a link to a folder
            that contains the source is not entered, so loops end. Or a zip or tar archive, of which the same holds,
            but for links, or a Parquet table of pictures; or several, as `shard-{000..127}.tar`. Or any of these
            behind a URL. Or a text file that names images, as in `parse_paths`; or their paths, as in `list_paths`;
            or a listing, which is returned.
    progress  is told of many images in folders, STEP at a time; nobody knows how many there will be

    Raises InputError if the source is none of these or cannot be read.
    """
    if isinstance(source, Listing):
        return source
    if not isinstance(source, (str, os.PathLike)):
        return list_paths(source, "list of paths")
    root = Path(source)
    if url := parse_url(source):
        return list_url(url)
    if is_shard_pattern(str(source)):
        return list_shards(expand_pattern(str(source)), str(source), root)
    try:
        status = root.stat()
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            os.scandir(root).close()
        else:
            kind = detect_container_kind(root) if stat.S_ISREG(mode) else None
            if kind:
                return list_members(*index_members(iter_members(root, kind)), str(source), root)
            return _list_paths_file(root, str(source), status.st_size)
    except OSError as error:
        raise InputError(f"cannot read source '{source}': {error.strerror or error}") from None
    except UsageError:
        raise
    except ValueError:
        raise InputError(f"source {str(source)!r} is no possible path") from None
    walk = _Walk(root, progress)
    walk.run()
    return Listing(
        str(source),
        root,
        *_sort_paths(walk.found, walk.stamps),
        sort_rejected(walk.rejected),
        walk.ignored,
        ignored_files=sort_rejected(walk.ignored_files),
        hidden=tuple(sorted(walk.hidden, key=os.fsencode)),
    )


def _list_paths_file(file: Path, name: str, size: int) -> Listing:
    """A listing of the images that a file names. Raises OSError, InputError for what is no text of paths."""
    what = describe_unsupported_name(file.name)
    if what is None and (file.suffix.lower() in IMAGE_SUFFIXES or size > MAX_PATHS_FILE_BYTES):
        raise InputError(f"source '{name}' is one file, and not a text file of paths")
    content = b"" if what else read_file(file)
    if what := what or describe_unsupported_content(content[:HEAD_BYTES]):
        raise InputError(f"source '{name}' is {what}")
    return list_paths(parse_paths(content), name)


def list_shards(files: Sequence[str], name: str, root: Path) -> Listing:
    """A listing of what is in several archives. Members of one name up to its first dot are one sample."""
    return list_members(*index_members(iter_shard_members(files, name)), name, root, samples=True)


def list_url(url: str) -> Listing:
    """A listing of what is behind a URL: of a folder, or of archives."""
    urls = expand_pattern(url)
    if len(urls) == 1 and not url.lower().endswith(CONTAINER_SUFFIXES):
        found, lasting = find_remote_files(url)
        return list_members(*index_members(found), url, Path(url), lasting=lasting)
    files, folder = download_files(urls)
    try:
        listing = list_shards(files, url, Path(url)) if len(files) > 1 else replace(list_images(files[0]), name=url)
    except InputError as error:
        shutil.rmtree(folder, ignore_errors=True)
        places = dict(zip(files, urls, strict=True))
        raise InputError(re.sub("|".join(map(re.escape, files)), lambda file: places[file[0]], str(error))) from None
    if listing.members is not None:
        listing.members.is_cacheable = False  # the cache knows an archive by its path
        weakref.finalize(listing.members, shutil.rmtree, folder, ignore_errors=True)
    return replace(listing, root=Path(url))


def list_members(
    files: Mapping[str, Member | str],
    notes: Iterable[tuple[str, str]],
    name: str,
    root: Path,
    samples: bool = False,
    lasting: bool = True,
) -> Listing:
    """A listing of the files that lie in others, or reasons why they cannot be read, by paths that fit in a folder."""
    kept: dict[str, Member] = {}
    images, stamps = list[str](), Stamps()
    rejected, hidden, ignored = [], set(), 0
    passed_over = [RejectedFile(path or root.name, why) for path, why in notes]
    for path, file in files.items():
        parts, suffix = path.split("/"), splitext(path)[1].lower()
        if depth := next((depth for depth, part in enumerate(parts, 1) if part.startswith(".") and part != ".."), 0):
            if depth < len(parts) or suffix in IMAGE_SUFFIXES:
                hidden.add("/".join(parts[:depth]))
            continue
        if not isinstance(file, str):
            kept[path] = file
        image = suffix in IMAGE_SUFFIXES
        what = file if isinstance(file, str) else None if image else describe_unsupported_name(path)
        if image and path in kept:
            images.append(path)
            stamps.append(kept[path].stamp)
        elif what is not None and (image or suffix in UNSUPPORTED_IMAGE_SUFFIXES):
            rejected.append(RejectedFile(path, what))
        else:
            ignored += 1
            if what is not None:
                passed_over.append(RejectedFile(path, what))
    return Listing(
        name,
        root,
        *_sort_paths(images, stamps),
        sort_rejected(rejected),
        ignored,
        ignored_files=sort_rejected(passed_over),
        hidden=tuple(sorted(hidden, key=os.fsencode)),
        members=Members(kept, samples, lasting),
    )


def parse_paths(content: bytes) -> list[str]:
    """The paths in a text: one a line, or ended by NUL bytes if it has any. Empty ones are left out."""
    content = content.removeprefix(BOM_UTF8)
    separator = b"\0" if b"\0" in content else b"\n"
    lines = (line if separator == b"\0" else line.rstrip(b"\r") for line in content.split(separator))
    return [os.fsdecode(line) for line in lines if line]


def list_paths(
    paths: Iterable[str | os.PathLike[str]], name: str, root: str | os.PathLike[str] | None = None
) -> Listing:
    """A listing of images named one by one, whatever their extensions; a path named twice counts once.

    Relative paths start from the current folder and stay as they are in the destination. If any path is absolute or
    leads up by `..`, all are taken relative to the deepest folder that contains all of them; or to the root that is
    given, if it contains all of them. If they are archives, what is in these is listed instead.
    """
    given = [os.fspath(path) for path in paths]
    if is_shard_list(given):
        return list_shards(given, name, Path(name))
    rejected = [RejectedFile(path, "no possible path") for path in given if "\0" in path]
    named = [path for path in given if "\0" not in path]
    base = Path()
    real = cache(os.path.realpath)  # of each folder once
    named = [_remove_parent_parts(path, real) if "/../" in f"/{path}/" else os.path.normpath(path) for path in named]
    if root is not None or any(path.startswith(os.sep) for path in named):
        named = [os.path.abspath(path) for path in named]  # noqa: PTH100 (resolve would follow links)
        base = Path(os.path.abspath(root)) if root is not None else base  # noqa: PTH100
        if root is None or not all(path.startswith(os.path.join(base, "")) for path in named):  # noqa: PTH118
            base = Path(os.path.commonpath([os.path.dirname(path) for path in named]))  # noqa: PTH120 (strings)
        named = [os.path.relpath(path, base) for path in named]
    usable, stamps = list[str](), Stamps()
    names = iter(named)
    order = tuple(path if "\0" in path else next(names) for path in given)
    for path in {*named}:
        try:
            status = os.stat(os.path.join(base, path))  # noqa: PTH116, PTH118 (Path costs 5 us a file)
        except OSError as error:
            rejected.append(RejectedFile(path, error.strerror or str(error)))
            continue
        if stat.S_ISREG(status.st_mode):
            usable.append(path)
            stamps.append(Stamp.of(status))
        else:
            rejected.append(RejectedFile(path, "not a regular file"))
    return Listing(name, base, *_sort_paths(usable, stamps), sort_rejected(rejected), explicit=True, order=order)


def _remove_parent_parts(path: str, real: Callable[[str], str]) -> str:
    """The same file by a path without `..`, relative if it can be. Where `a` is a link, `a/..` is not its folder."""
    folder, _, name = str(Path(path)).rpartition("/")
    folder = folder or ("/" if path.startswith("/") else ".")
    full, here = os.path.join(real(folder), name), os.path.join(real("."), "")  # noqa: PTH118 (Path costs 15 us a file)
    return full if path.startswith("/") else full.removeprefix(here)


def _sort_paths(paths: Sequence[str], stamps: Stamps) -> tuple[tuple[str, ...], Stamps]:
    """Paths in the order of their bytes, and their stamps."""
    order = sorted(range(len(paths)), key=lambda place: os.fsencode(paths[place]))
    return tuple(paths[place] for place in order), stamps.at(order)


class _Walk:
    """The state of one walk over a folder."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root, self.progress = root, progress
        self.found: list[str] = []
        self.stamps = Stamps()  # of these
        self.rejected: list[RejectedFile] = []
        self.ignored_files: list[RejectedFile] = []
        self.hidden: list[str] = []
        self.ignored = 0
        real = Path(os.path.realpath(root))
        self.entered = {_get_device_and_inode(parent) for parent in real.parents}  # a link up there is a loop

    def run(self) -> None:
        # Real folders go before linked ones, so that a picture reachable both ways keeps its real path.
        links = [""]
        while links:
            found: list[str] = []
            for link in sorted(links, key=os.fsencode):
                folders = [link]
                while folders:
                    self._enter(folders.pop(), folders, found)
            links = found

    def _enter(self, prefix: str, folders: list[str], links: list[str]) -> None:
        try:
            identity = _get_device_and_inode(self.root / prefix)
            if identity in self.entered:
                return
            self.entered.add(identity)
            with os.scandir(self.root / prefix) as entries:
                for entry in entries:
                    path = f"{prefix}/{entry.name}" if prefix else entry.name
                    if not entry.name.startswith("."):
                        self._visit(entry, path, folders, links)
                    elif splitext(entry.name)[1].lower() in IMAGE_SUFFIXES or entry.is_dir(follow_symlinks=False):
                        self.hidden.append(path)
        except OSError as error:
            self.rejected.append(RejectedFile(prefix, f"{UNREADABLE_FOLDER}: {error.strerror or error}"))

    def _visit(self, entry: os.DirEntry[str], path: str, folders: list[str], links: list[str]) -> None:
        suffix = splitext(entry.name)[1].lower()
        image = suffix in IMAGE_SUFFIXES
        problem = "not a regular file"
        try:
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
                return
            if image:
                status = entry.stat()
                if stat.S_ISREG(status.st_mode):
                    self.found.append(path)
                    self.stamps.append(Stamp.of(status))
                    if not len(self.found) % PROGRESS_STEP_IMAGES:
                        self.progress("list", PROGRESS_STEP_IMAGES, 0)
                    return
        except FileNotFoundError:
            problem = "dangling link"
        except OSError as error:  # a link to itself, for one
            problem = f"{'cannot follow link: ' if entry.is_symlink() else ''}{error.strerror or error}"
        if image:
            self.rejected.append(RejectedFile(path, problem))
        elif (what := describe_unsupported_name(entry.name)) and suffix in UNSUPPORTED_IMAGE_SUFFIXES:
            self.rejected.append(RejectedFile(path, what))
        else:
            self.ignored += 1
            if what:
                self.ignored_files.append(RejectedFile(path, what))


def _get_device_and_inode(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
