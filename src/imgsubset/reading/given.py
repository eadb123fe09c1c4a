"""What Python programs have at hand, made what a source is: lists of paths, data sets; and the classes of these."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from posixpath import join, normpath, split
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias

from imgsubset.errors import InputError, UsageError, short_repr
from imgsubset.inputs import Labels
from imgsubset.reading.contents import Listing
from imgsubset.reading.datasets import check_split, is_dataset, is_dataset_subset, list_dataset
from imgsubset.reading.listing import list_images, list_paths
from imgsubset.reading.members import Extent, Members
from imgsubset.reading.parquet import ParquetRow


class ImageFolderLike(Protocol):
    """What torchvision's ImageFolder and its like have: pairs of a path and the number of a class."""

    @property
    def samples(self) -> Sequence[tuple[str, Any]]: ...


AnySource: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | ImageFolderLike | Listing"
CLASS_SUFFIX, MAX_CLASS_BYTES = ".cls", 1000  # the member of a sample that is its class, and its bytes at most
SOURCE_KINDS = "a folder, an archive, a text file of paths, a list of paths, or a data set of (path or picture, class)"


def list_source(source: AnySource) -> tuple[Listing, Labels | None]:
    """List the images of a source; of a data set also its classes. `Listing.order` is that of a list or data set.

    Raises UsageError for what is no source, InputError for one that cannot be read.
    """
    if isinstance(source, (str, os.PathLike, Listing)):
        return list_images(source), None
    check_split(source)
    part = is_dataset_subset(source)
    if part and _get_samples(source.dataset) is not None:  # type: ignore[union-attr]
        return _list_dataset_subset(source)
    samples = _get_samples(source)
    if samples is None and is_dataset(source):
        return list_dataset(source)
    if samples is None and part:
        raise UsageError(
            f"source {short_repr(source)}: the data set that it is of is not one whose .samples are (path, class), or whose "
            "items are (picture, class)"
        )
    if samples is None:
        return list_paths(_as_paths(source), "list of paths"), None
    try:
        pairs = [(sample[0], sample[1]) for sample in samples]
    except (TypeError, IndexError, KeyError):
        raise UsageError(f"the samples of {type(source).__name__} are no pairs of a path and a class") from None
    root = getattr(source, "root", None)
    root = root if isinstance(root, (str, os.PathLike)) else None
    listing = list_paths(_as_paths([path for path, _ in pairs]), str(root or type(source).__name__), root)
    names: Any = getattr(source, "classes", None)
    named = isinstance(names, Sequence) and all(isinstance(kind, int) and 0 <= kind < len(names) for _, kind in pairs)
    return listing, Labels.of([names[kind] if named else kind for _, kind in pairs])


def _get_samples(source: object) -> Any:
    """The pairs of a path and a class in a data set; None if it is none."""
    return next((found for name in ("samples", "imgs") if (found := getattr(source, name, None)) is not None), None)


def _list_dataset_subset(source: Any) -> tuple[Listing, Labels | None]:
    """Some of the images of a data set, by `dataset` and `indices`."""
    whole = _get_samples(source.dataset)
    try:
        samples = [whole[index] for index in source.indices]
    except (TypeError, IndexError, KeyError):
        raise UsageError(f"the indices of {type(source).__name__} are not of its data set") from None
    names = getattr(source.dataset, "classes", ())
    root = getattr(source.dataset, "root", type(source).__name__)
    return list_source(SimpleNamespace(samples=samples, classes=names, root=root))


def _as_paths(source: object) -> list[str]:
    """The paths in a list."""
    try:
        listed = iter(source)  # type: ignore[call-overload]
    except TypeError:  # what cannot be gone through, such as a tensor without dimensions
        raise UsageError(f"source {short_repr(source)} is not {SOURCE_KINDS}") from None
    paths = []
    for place, path in enumerate(listed):
        if not isinstance(path, (str, bytes, os.PathLike)):
            raise UsageError(f"source: element {place} is {short_repr(path)}, not a path; a source is {SOURCE_KINDS}")
        paths.append(os.fsdecode(path))
        try:
            os.fsencode(paths[-1])
        except UnicodeError:
            raise UsageError(f"source: element {place} is {short_repr(path)}, which is no possible path") from None
    return paths


def read_stored_classes(listing: Listing) -> Labels | None:
    """The classes that archives and tables have beside their images: `.cls` members, or a column; None without them.

    Raises InputError for images without a class where others have one, and for what cannot be read.
    """
    members, found = listing.members, dict[str, str | int]()
    for path in listing.paths if members is not None else ():
        try:
            kind = _read_stored_class(members, path)  # type: ignore[arg-type]
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"cannot read the class of '{path}' in source '{listing.name}': {why}") from None
        if kind is not None:
            found[path] = kind
    if lone := [path for path in listing.paths if found and path not in found]:
        raise InputError(
            f"source '{listing.name}' has no class for {len(lone):,} of its {len(listing.paths):,} images, such as "
            f"'{lone[0]}'; leave them out by --exclude, or give all classes by --labels or --stratify-by"
        )
    return Labels.of(found) if found else None


def _read_stored_class(members: Members, path: str) -> str | int | None:
    """The class that is stored beside an image. Raises OSError."""
    image = members[path]
    if isinstance(image, ParquetRow):
        return image.label
    folder, name = split(path)
    member = members.found.get(join(folder, members.stem(name) + CLASS_SUFFIX))
    if not isinstance(member, Extent) or member.size > MAX_CLASS_BYTES:
        return None
    return os.fsdecode(member.open().read()).strip() or None


def resolve_labels(labels: Labels, listing: Listing) -> Labels:
    """Labels by the paths of a source, of its images alone.

    Raises UsageError for labels in order where the source has none, too many or too few of them, or two of one image.
    """
    known = frozenset(listing.paths)
    if labels.paths is None:
        if listing.order is None:
            raise UsageError(
                f"labels in a list are in the order of a list or data set, but source '{listing.name}' is a folder: "
                "give a dict of labels by path"
            )
        if len(labels.names) != len(listing.order):
            raise UsageError(
                f"there are {len(labels.names):,} labels for the {len(listing.order):,} images of the list"
            )
        pairs = zip(listing.order, labels.names, strict=True)
    else:
        pairs = zip((make_relative(path, listing, known) for path in labels.paths), labels.names, strict=True)
    found: dict[str, str] = {}
    for path, name in pairs:
        if path in known and found.setdefault(path, name) != name:
            raise UsageError(f"the labels of '{path}' are two: '{found[path]}' and '{name}'")
    return Labels.of(found)


def make_relative(path: str, listing: Listing, known: frozenset[str] | set[str]) -> str:
    """A path, from a source or from the current folder, relative to the source whose images are `known`."""
    plain = normpath(path)
    return plain if plain in known else os.path.relpath(plain, listing.root)


def look_up_labels(paths: Sequence[str], labels: Labels) -> list[str]:
    """The class of each image. Raises InputError if one has none."""
    known = labels.by_path()
    if unlabelled := [path for path in paths if path not in known]:
        raise InputError(f"the labels lack {len(unlabelled):,} images of the source: '{unlabelled[0]}'")
    return [known[path] for path in paths]
