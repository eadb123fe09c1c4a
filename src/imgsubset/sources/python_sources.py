"""Sources given as Python objects: lists of paths, torchvision and Hugging Face datasets, and their classes.

Each picture is asked for when it is decoded, and once more if it is copied. Nothing tells whether it is the same in
another run, so the cache does not know it.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from posixpath import basename, join, normpath, split, splitext
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias

from PIL import Image

from imgsubset.errors import InputError, UsageError, short_repr
from imgsubset.files import Stamp
from imgsubset.inputs import Labels
from imgsubset.sources.archive_members import Extent, FetchedMember, InMemoryFile, Members, explain_invalid_path
from imgsubset.sources.images import IMAGE_SUFFIXES, Listing, guess_suffix
from imgsubset.sources.listing import list_images, list_paths
from imgsubset.sources.parquet import ParquetRow

UNKNOWN_STAMP = Stamp(0, 0)
MODES_SAVED_AS_RGB = ("CMYK", "YCbCr", "LAB", "HSV", "RGBX")  # modes that a PNG cannot have


class DatasetItem(FetchedMember):
    """A picture of a data set: what `dataset[place]` is, or what that has in a column."""

    __slots__ = ("column", "dataset", "lock", "place")
    stamp = UNKNOWN_STAMP
    key = ""
    sort_key = "", 0

    def __init__(self, dataset: Any, place: int, lock: threading.Lock, column: str | None = None) -> None:
        self.dataset, self.place, self.lock, self.column = dataset, place, lock, column

    def to_sendable(self) -> InMemoryFile:
        """Its content: as it is in the data set, or what is a picture there as a PNG. Raises what the data set does."""
        with self.lock:  # few data sets can be read by several threads at once
            found = self.dataset[self.place]
        found = found[self.column] if self.column is not None else _extract_image(found)
        if isinstance(found, dict):  # of Hugging Face
            content = found.get("bytes")
            if content is None and found.get("path"):
                content = Path(found["path"]).read_bytes()
            if not isinstance(content, bytes):
                raise OSError("no picture")
            return InMemoryFile(content, self.stamp)
        if not isinstance(found, Image.Image):
            raise TypeError(f"a {type(found).__name__}, not a picture of Pillow; leave out the data set's transform")
        made = io.BytesIO()
        if found.mode in ("I", "F"):  # whose numbers no PNG can hold
            found.save(made, "TIFF")
        else:
            (found.convert("RGB") if found.mode in MODES_SAVED_AS_RGB else found).save(made, "PNG", compress_level=1)
        return InMemoryFile(made.getvalue(), self.stamp)


def _extract_image(item: Any) -> Any:
    """The picture in an item: the item, or the first of a pair."""
    return item[0] if isinstance(item, (tuple, list)) and item else item


def is_dataset_subset(source: object) -> bool:
    """Whether a source is some of a data set, as torch.utils.data.Subset is."""
    return hasattr(source, "dataset") and hasattr(source, "indices")


def is_dataset(source: Any) -> bool:
    """Whether a source is one whose items are asked for by their places, and that calls itself a data set."""
    if is_dataset_subset(source):
        return is_dataset(source.dataset)
    return _has_dataset_name(source) and hasattr(source, "__getitem__") and hasattr(source, "__len__")


def check_split(source: object) -> None:
    """Raise UsageError for several data sets by name, as Hugging Face's DatasetDict is."""
    if isinstance(source, Mapping) and source and all(map(_has_dataset_name, source.values())):
        splits = ", ".join(map(str, source))
        raise UsageError(f"source {type(source).__name__} holds several data sets; choose a split: {splits}")


def _has_dataset_name(source: object) -> bool:
    """Whether a source calls itself a data set."""
    return any(base.__name__.endswith("Dataset") for base in type(source).__mro__)


def list_dataset(source: Any) -> tuple[Listing, Labels | None]:
    """List the pictures of a data set, and their classes if it has them. `Listing.order` is that of the data set.

    Raises UsageError if its items are no pictures.
    """
    if hasattr(source, "features") and hasattr(source, "cast_column"):
        return _list_hugging_face(source)
    count = len(source)
    if count:
        _check_first_item(source)
    return _make_listing(source, [".png"] * count), _get_classes(source, count)


def _check_first_item(source: Any) -> None:
    try:
        found = _extract_image(source[0])
    except Exception as error:
        raise UsageError(f"{type(source).__name__}[0] raises {type(error).__name__}: {error}") from error
    if not isinstance(found, Image.Image):
        raise UsageError(
            f"the items of {type(source).__name__} begin with {type(found).__name__}, not with a picture of Pillow; "
            "give the data set without a transform"
        )


def _make_listing(source: Any, names: Sequence[str], column: str | None = None) -> Listing:
    """A listing of the items, called by these names, or by numbers where a name is a suffix only."""
    lock, width = threading.Lock(), len(str(max(0, len(names) - 1)))
    order = tuple(f"{place:0{width}}{name}" if name[:1] in ("", ".") else name for place, name in enumerate(names))
    items = {path: DatasetItem(source, place, lock, column) for place, path in enumerate(order)}
    title = type(source).__name__
    paths = tuple(sorted(order))
    members = Members(items, lasting=False)
    return Listing(
        title, Path(title), paths, (UNKNOWN_STAMP,) * len(paths), explicit=True, members=members, order=order
    )


def _get_classes(source: Any, count: int) -> Labels | None:
    """The classes of a data set's items; None if it has none that are known without decoding all of them."""
    if is_dataset_subset(source):
        whole = _get_classes(source.dataset, len(source.dataset))
        return whole and Labels.of([whole.names[index] for index in source.indices])
    found = (getattr(source, name, None) for name in ("targets", "labels"))
    kinds: Any = next((kinds for kinds in found if kinds is not None), ())
    kinds = kinds.tolist() if hasattr(kinds, "tolist") else kinds
    if not isinstance(kinds, Sequence) or len(kinds) != count:
        return None
    if not all(isinstance(kind, (int, str)) for kind in kinds):
        return None
    return _name_classes(kinds, getattr(source, "classes", None))


def _name_classes(kinds: Sequence[Any], names: Any) -> Labels:
    """Classes by name, where they are numbers of some."""
    known = isinstance(names, Sequence) and all(isinstance(kind, int) and 0 <= kind < len(names) for kind in kinds)
    return Labels.of([names[kind] for kind in kinds] if known else list(kinds))


def _list_hugging_face(source: Any) -> tuple[Listing, Labels | None]:
    """The first column of pictures, undecoded, and the first of classes; without a format or transform."""
    source = source.with_format(None)
    kinds = {name: type(feature).__name__ for name, feature in source.features.items()}
    column = next((name for name, kind in kinds.items() if kind == "Image"), None)
    if column is None:
        raise UsageError(f"no column of the data set is of pictures: it has {', '.join(kinds) or 'none'}")
    feature = source.features[column]
    raw = source.cast_column(column, type(feature)(decode=False)).select_columns([column])
    paths = raw.flatten()[f"{column}.path"]
    names = [basename(path or "") for path in paths]
    good = len({*names}) == len(names) and all(splitext(name)[1].lower() in IMAGE_SUFFIXES for name in names)
    if not good or any(name.startswith(".") or explain_invalid_path(name) for name in names):
        names = [guess_suffix(raw[0][column]["bytes"] or b"")] * len(names) if names else []
    listing = _make_listing(raw, names, column)
    label = next((name for name, kind in kinds.items() if kind == "ClassLabel"), None)
    return listing, _name_classes(source[label][:], source.features[label].names) if label else None


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
            f"source {short_repr(source)}: the data set that it is of is not one whose .samples are (path, "
            "class), or whose "
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
