"""Data sets in memory as sources: indices in their order, classes, and what their items may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import smooth, tree
from PIL import Image

from imgsubset import Selection, estimate, export, score, select
from imgsubset.decoding.workers import decode_chunks
from imgsubset.errors import InputError, UsageError
from imgsubset.sources.python_sources import list_source

FAST: dict[str, Any] = {
    **{"candidates": 32, "chains": 1, "steps": 8, "size": 16, "channels": (8,), "networks": 1, "held_out": False},
    **{"device": "cpu"},
}
CLASSES = ["cat", "dog"]


class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """What torchvision's CIFAR10 is like: arrays in memory, and items that are (picture, class)."""

    classes = CLASSES

    def __init__(self, count: int = 40, mode: str = "RGB") -> None:
        self.data = [smooth(number, 13, 12).convert(mode) for number in range(count)]
        self.targets = [number % 2 for number in range(count)]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        self.asked.append(place)
        return self.data[place], self.targets[place]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    for number, picture in enumerate(Pictures().data):
        picture.save(root / f"{number:02}.png", compress_level=1)  # as pictures in memory are
    return root


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_indices_are_those_of_the_same_pictures_in_a_folder(folder: Path, workers: int) -> None:
    data = Pictures()
    found = select(data, 7, **FAST, workers=workers)
    data.asked.remove(0)  # the first one is looked at beforehand
    assert sorted(data.asked) == list(range(40))
    expected = select(sorted(folder.iterdir()), 7, **FAST, workers=0)
    assert found.indices == expected.indices
    assert found.chosen == tuple(f"{place:02}.png" for place in sorted(found.indices))
    assert found.score == expected.score
    assert found.cached == select(data, 7, **FAST, workers=workers).cached == 0


@pytest.mark.slow
def test_the_classes_of_a_data_set_serve_stratify_in_a_part_of_it_too() -> None:
    data = Pictures()
    assert select(data, 10, stratify=True, **FAST, workers=0).classes == {"cat": (20, 5), "dog": (20, 5)}
    part = torch.utils.data.Subset(data, [*range(39, 9, -1)])
    found = select(part, 6, stratify=True, **FAST, workers=0)
    assert found.classes == {"cat": (15, 3), "dog": (15, 3)}
    again = select(
        torch.utils.data.Subset(data, [39 - place for place in range(30)]), 6, stratify=True, **FAST, workers=0
    )
    assert found.indices == again.indices


@pytest.mark.slow
def test_a_selection_is_exported_scored_and_estimated_from(tmp_path: Path) -> None:
    data = Pictures()
    found = select(data, 7, **FAST, workers=0)
    exported = export(found, tmp_path / "out")
    assert {*tree(tmp_path / "out")} == {*found.chosen, "manifest.json"} == {*exported.hashes, "manifest.json"}
    for place, path in zip(sorted(found.indices), found.chosen, strict=True):
        with Image.open(tmp_path / "out" / path) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(data.data[place]))
    for subset in (tmp_path / "out", torch.utils.data.Subset(data, found.indices)):
        scored = score(data, subset, **FAST, workers=0)
        assert (scored.paths, scored.foreign) == (found.chosen, ())
    results = estimate(data, found, {"x": [float(place) for place in found.indices]}, **FAST, workers=0)
    assert len(results.paths) == 7


def test_a_destination_may_be_called_like_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = select(Pictures(4), 2, **FAST, workers=0)
    assert export(found, "Pictures").hashes.keys() == {*found.chosen}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_pictures_of_every_mode_are_read(mode: str) -> None:
    listing, _ = list_source(Pictures(8, mode))
    with decode_chunks([listing.file(path) for path in listing.paths], [8], 0) as chunks:
        (chunk,) = chunks
    found = [one.numbers for one in chunk.outcomes if not isinstance(one, str)]
    assert [numbers[:2] for numbers in found] == [(13, 12)] * 8
    assert [size for _, _, size in found] == [len(listing.file(path).to_sendable().content) for path in listing.paths]


@pytest.mark.slow
def test_an_item_that_is_no_picture_is_rejected_with_its_reason() -> None:
    class Broken(Pictures):
        def __getitem__(self, place: int) -> tuple[Any, int]:
            if place == 3:
                raise RuntimeError("no such\nsector")
            return (torch.zeros(3, 8, 8), 0) if place == 4 else super().__getitem__(place)

    for workers in (0, 1):
        found = select(Broken(9), 2, **FAST, workers=workers)
        assert {file.path: file.reason for file in found.rejected} == {
            "3.png": "RuntimeError: no such sector",
            "4.png": "TypeError: a Tensor, not a picture of Pillow; leave out the data set's transform",
        }


def test_what_is_no_data_set_of_pictures_is_refused() -> None:
    class Tensors(Pictures):
        def __getitem__(self, place: int) -> tuple[Any, int]:
            return torch.zeros(3, 8, 8), 0

    class Failing(Pictures):
        def __getitem__(self, place: int) -> tuple[Any, int]:
            raise KeyError(place)

    with pytest.raises(UsageError, match="the items of Tensors begin with Tensor, not with a picture"):
        select(Tensors(), 2)
    with pytest.raises(UsageError, match=r"Failing\[0\] raises KeyError: 0"):
        select(Failing(), 2)
    with pytest.raises(InputError, match="no images in source 'Pictures'"):
        select(Pictures(0), 1)


@pytest.mark.slow
def test_torchvisions_own_data_set_is_read() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    found = select(datasets.FakeData(12, (3, 20, 18)), 3, **FAST, workers=0)
    assert len(found.paths) == 12
    assert len({*found.indices}) == 3


class Image_:  # noqa: N801
    """What Hugging Face's feature is."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


Image_.__name__ = "Image"


class ClassLabel(SimpleNamespace):
    pass


class Rows:
    """What Hugging Face's data sets are like, as far as they are used."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self.columns, self.features = columns, features

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def cast_column(self, name: str, feature: Any) -> Rows:
        return Rows(self.columns, self.features | {name: feature})

    def select_columns(self, names: list[str]) -> Rows:
        return Rows({name: self.columns[name] for name in names}, {name: self.features[name] for name in names})

    def with_format(self, kind: None) -> Rows:
        return self

    def flatten(self) -> dict[str, list[Any]]:
        return {f"{name}.{key}": [row[key] for row in rows] for name, rows in self.columns.items() for key in rows[0]}

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        assert not self.features["picture"].decode
        return {name: rows[key] for name, rows in self.columns.items()}


class Dataset(Rows):
    pass


def rows_of(folder: Path, named: bool) -> Dataset:
    files = sorted(folder.iterdir(), reverse=True)
    pictures = [{"bytes": file.read_bytes(), "path": f"x/{file.name}" if named else None} for file in files]
    kinds = [int(file.stem) % 2 for file in files]
    features = {"label": ClassLabel(names=CLASSES), "picture": Image_()}
    return Dataset({"label": kinds, "picture": pictures}, features)


def check_rows(rows: Any, folder: Path, tmp_path: Path, named: bool) -> None:
    found: Selection = select(rows, 8, stratify=True, **FAST, workers=0)
    files = sorted(folder.iterdir(), reverse=True)
    expected = {files[place].name if named else f"{place:02}.png" for place in found.indices}
    assert {*found.chosen} == expected
    assert found.classes == {"cat": (20, 4), "dog": (20, 4)}
    export(found, tmp_path / "out")
    for place in found.indices:
        name = files[place].name if named else f"{place:02}.png"
        assert (tmp_path / "out" / name).read_bytes() == files[place].read_bytes()
    if named:
        labels = {file.name: CLASSES[int(file.stem) % 2] for file in files}
        assert found.chosen == select(folder, 8, stratify=True, labels=labels, **FAST, workers=0).chosen


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_a_data_set_of_hugging_face_is_read_undecoded(folder: Path, tmp_path: Path, named: bool) -> None:
    rows = rows_of(folder, named)
    check_rows(rows, folder, tmp_path, named)


def test_a_data_set_of_hugging_face_without_pictures_is_refused() -> None:
    with pytest.raises(UsageError, match="no column of the data set is of pictures: it has label"):
        list_source(Dataset({"label": [1]}, {"label": ClassLabel(names=CLASSES)}))


def as_tensors(batch: dict[str, Any]) -> dict[str, Any]:
    return {"pixel_values": [torch.zeros(3, 8, 8) for _ in batch["picture"]]}


@pytest.mark.slow
def test_several_data_sets_are_refused_by_their_names(folder: Path) -> None:
    datasets: ModuleType = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"label": [1]})
    for kind in (dict, datasets.DatasetDict, datasets.IterableDatasetDict):
        part = rows.to_iterable_dataset() if kind is datasets.IterableDatasetDict else rows
        made = kind(train=part, test=part)
        what = f"^source {kind.__name__} holds several data sets; choose a split: train, test$"
        with pytest.raises(UsageError, match=what):
            select(made, 2)
        with pytest.raises(UsageError, match=what):
            score(folder, made)


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "formatted",
    [
        lambda rows: rows,
        lambda rows: rows.with_transform(as_tensors),
        lambda rows: rows.with_format("numpy"),
        lambda rows: rows.with_format("numpy", columns=["label"]),
    ],
    ids=["none", "transform", "numpy", "one column"],
)
def test_hugging_faces_own_data_sets_are_read_in_any_format(
    folder: Path, tmp_path: Path, named: bool, formatted: Callable[[Any], Any]
) -> None:
    datasets: ModuleType = pytest.importorskip("datasets")
    rows = rows_of(folder, named)
    features = datasets.Features({"label": datasets.ClassLabel(names=CLASSES), "picture": datasets.Image()})
    made = formatted(datasets.Dataset.from_dict(rows.columns, features=features))
    before = made.format
    check_rows(made, folder, tmp_path, named)
    assert made.format == before
