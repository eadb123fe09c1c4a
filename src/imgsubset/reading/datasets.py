"""Data sets in memory as sources: torchvision's, whose items are (picture, class), and Hugging Face's.

Each picture is asked for when it is decoded, and once more if it is copied. Nothing tells whether it is the same in
another run, so the cache does not know it.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from posixpath import basename, splitext
from typing import Any

from PIL import Image

from imgsubset.errors import UsageError
from imgsubset.files import Stamp
from imgsubset.inputs import Labels
from imgsubset.reading.contents import IMAGE_SUFFIXES, Listing
from imgsubset.reading.formats import guess_suffix
from imgsubset.reading.members import FetchedMember, InMemoryFile, Members
from imgsubset.reading.naming import explain_invalid_path

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
