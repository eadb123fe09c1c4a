"""What Python programs hand over: sources of every kind, embeddings and labels in memory; and what comes back."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, create, strict_json

from imgsubset import Embeddings, compare, score, select, select_into, split
from imgsubset.errors import ImgsubsetError, InputError, UsageError
from imgsubset.features.embeddings import read_embeddings
from imgsubset.options import Options
from imgsubset.sources.python_sources import list_source
from imgsubset.tasks import inputs as tasks_given

FAST: dict[str, Any] = {
    **{"candidates": 16, "chains": 1, "steps": 4, "size": 16, "channels": (8,), "networks": 1},
    **{"device": "cpu", "workers": 0},
}
SEARCH: dict[str, Any] = {name: FAST[name] for name in ("candidates", "chains", "steps", "device", "workers")}


@pytest.fixture
def root(pictures: Path, tmp_path: Path) -> Path:
    """Some of the pictures, and one that is none."""
    shutil.copytree(pictures / "class2", tmp_path / "root" / "class2")
    create(tmp_path / "root" / "class1" / "broken.png", b"broken")
    return tmp_path / "root"


@pytest.fixture
def paths(root: Path) -> list[str]:
    """In an order of their own: backwards, one of them twice, the broken one, and one that is absent."""
    listed = [str(path) for path in sorted((root / "class2").iterdir(), reverse=True)]
    return [str(root / "absent.png"), *listed[:7], str(root / "class1" / "broken.png"), listed[3], *listed[7:]]


class ImageFolder:
    """What torchvision's has."""

    def __init__(self, root: object, samples: list[tuple[str, Any]], classes: list[str]) -> None:
        self.root, self.samples, self.imgs, self.classes = root, samples, samples, classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.samples[index]


@pytest.fixture
def dataset(pictures: Path) -> ImageFolder:
    """Backwards, with a class that is not the folder's."""
    listed = sorted(pictures.rglob("*.png"), reverse=True)[:60]
    samples = [(str(path), int(path.stem) % 2) for path in listed]
    return ImageFolder(str(pictures), samples, ["even", "odd"])


# Sources and indices


def test_indices_are_positions_in_the_list_that_was_passed(paths: list[str]) -> None:
    selection = select(paths, 9, **FAST)
    assert selection.indices != selection.rows
    assert [os.path.relpath(paths[index], selection.source.root) for index in selection.indices] == [*selection.chosen]
    assert [os.path.relpath(paths[index], selection.source.root) for index in selection.ranking] == [*selection.ranked]
    assert sorted(selection.ranking) == sorted(selection.indices)
    assert len({*selection.indices}) == 9
    assert {Path(file.path).name for file in selection.rejected} == {"absent.png", "broken.png"}


def test_an_image_that_is_listed_twice_is_at_its_first_place(paths: list[str]) -> None:
    everything = select(paths, "100%", **FAST)
    assert sorted(everything.indices) == [
        *range(1, 8),
        *range(10, 43),
    ]  # not 0, the absent; 8, the broken; 9, the second
    listing, _ = list_source([*paths[1:4], "./" + os.path.relpath(paths[1])])
    assert [listing.places[path] for path in listing.order or ()] == [0, 1, 2, 0]


def test_the_order_of_a_list_changes_its_indices_alone(paths: list[str]) -> None:
    one, other = select(paths, 9, **FAST), select(paths[::-1], 9, **FAST)
    assert one.chosen == other.chosen
    assert one.ranked == other.ranked
    assert {paths[index] for index in one.indices} == {paths[::-1][index] for index in other.indices}


def test_parts_of_a_split_have_indices_of_the_list_too(paths: list[str]) -> None:
    parts = split(paths, {"a": "70%", "b": "30%"}, **FAST)
    assert sorted(index for part in parts.values() for index in part.indices) == [*range(1, 8), *range(10, 43)]


@pytest.mark.slow
def test_relative_paths_bytes_arrays_and_generators_are_lists_too(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    names = [str(path.relative_to(pictures)) for path in sorted(pictures.rglob("*.png"), reverse=True)[:30]]
    given = [names, tuple(names), np.array(names), map(Path, names), (os.fsencode(name) for name in names)]
    found = [select(one, 5, **FAST) for one in given]  # type: ignore[arg-type]
    assert len({one.indices for one in found}) == 1
    assert [names[index] for index in found[0].indices] == [*found[0].chosen]


def test_the_lines_of_a_text_file_are_a_list(paths: list[str], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(paths))
    assert select(tmp_path / "list.txt", 5, **FAST).indices == select(paths, 5, **FAST).indices


def test_of_a_folder_indices_are_of_the_sorted_paths(pictures: Path) -> None:
    selection = select(pictures, 5, **FAST)
    assert tuple(selection.paths[index] for index in selection.indices) == selection.chosen
    assert selection.indices == selection.rows == tuple(sorted(selection.indices))


@pytest.mark.slow
def test_a_data_set_is_a_source_whose_subset_is_right(dataset: ImageFolder, pictures: Path) -> None:
    selection = select(dataset, 6, **FAST)
    subset = torch.utils.data.Subset(dataset, selection.indices)  # type: ignore[type-var, arg-type]
    assert [os.path.relpath(path, pictures) for path, _ in subset] == [*selection.chosen]  # type: ignore[str-unpack]
    assert selection.source.root == pictures
    assert selection.source.name == str(pictures)
    only_imgs = SimpleNamespace(imgs=dataset.imgs)
    assert select(only_imgs, 6, **FAST).indices == selection.indices  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_part_of_a_data_set_is_a_source_too(dataset: ImageFolder) -> None:
    from torch.utils.data import Subset

    part = Subset(dataset, [*range(59, 9, -1)])
    found = select(part, 9, stratify=True, **FAST)
    assert all(dataset.samples[part.indices[index]][0].endswith(path) for index, path in
               zip(found.indices, found.chosen, strict=True))  # fmt: skip
    assert found.classes.keys() == {"even", "odd"}
    with pytest.raises(UsageError, match="the data set that it is of is not one whose"):
        select(Subset([1, 2, 3], [0]), 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="are not of its data set"):
        select(Subset(dataset, [10**6]), 1)


def test_a_cache_in_the_source_is_refused(pictures: Path) -> None:
    for place in (pictures, pictures / "class0" / "new"):
        with pytest.raises(UsageError, match=r"lies in source .* which is only read"):
            select(pictures, 3, cache=str(place))


@pytest.mark.slow
def test_groups_of_one_image_are_told_of(pictures: Path) -> None:
    found = select(pictures, 9, group_by="(no such name)", **FAST)
    assert any("finds no two images of one group" in note for note in found.warnings)
    grouped = select(pictures, 9, group_by=r"(\d\d)\d\.png", **FAST)
    assert not any("finds no two" in note for note in grouped.warnings)


def test_a_real_image_folder_is_one(pictures: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    dataset = datasets.ImageFolder(pictures)
    selection = select(dataset, 6, stratify=True, **FAST)
    assert [dataset.samples[index][0] for index in selection.indices] == [
        str(pictures / one) for one in selection.chosen
    ]
    assert selection.classes == {f"class{number}": (40, 2) for number in range(3)}


@pytest.mark.slow
def test_the_classes_of_a_data_set_serve_stratify(dataset: ImageFolder) -> None:
    selection = select(dataset, 10, stratify=True, **FAST)
    shares = Counter(label for _, label in dataset.samples)
    assert selection.classes == {"even": (shares[0], 5), "odd": (shares[1], 5)}
    assert Counter(dataset[index][1] for index in selection.indices) == {0: 5, 1: 5}
    by_folder = select(dataset, 10, stratify=True, stratify_by="parent", **FAST)
    assert set(by_folder.classes) == {"class1", "class2"}
    dataset.classes = []
    assert set(select(dataset, 10, stratify=True, **FAST).classes) == {"0", "1"}


def test_the_copies_of_a_data_set_lie_as_those_of_its_folder(dataset: ImageFolder, tmp_path: Path) -> None:
    placed = select_into(dataset, 6, tmp_path / "out", stratify=True, **FAST)
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.png")} <= {"class1", "class2"}
    assert strict_json((tmp_path / "out" / "manifest.json").read_bytes())["options"]["labels"]["images"] == 60
    assert select_into(dataset, 6, tmp_path / "out", stratify=True, **FAST).done
    dataset.samples[0] = (dataset.samples[0][0], 1 - dataset.samples[0][1])
    with pytest.raises(ImgsubsetError, match="is not empty"):
        select_into(dataset, 6, tmp_path / "out", stratify=True, **FAST)
    assert not placed.done


@pytest.mark.slow
def test_data_sets_are_scored_and_compared(dataset: ImageFolder, few_deals: None) -> None:
    selection = select(dataset, 6, **FAST)
    subset = [dataset.samples[index][0] for index in selection.indices]
    assert score(dataset, subset, **FAST).score.loss == pytest.approx(selection.score.loss)
    assert score(dataset, (path for path in subset), **FAST).paths == selection.chosen
    part = SimpleNamespace(samples=[dataset.samples[index] for index in selection.indices])
    assert score(dataset, part, **FAST).paths == selection.chosen  # type: ignore[arg-type]
    assert compare(dataset, part, **FAST).sizes == (60, 6)  # type: ignore[arg-type]


# Embeddings


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(43, 6)).astype(np.float32)


@pytest.mark.slow
def test_embeddings_are_an_array_a_tensor_or_a_file_in_the_order_of_the_list(
    paths: list[str], values: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "values.npy", values)
    usable = [place for place in range(43) if place not in (0, 9)]  # nothing is decoded
    named = Embeddings(values[usable], [paths[place] for place in usable])
    expected = select(paths, 9, embeddings=named, **SEARCH)
    tensor = torch.tensor(values)
    listed = values.tolist()
    for given in (values, tensor, tensor.clone().requires_grad_(), str(tmp_path / "values.npy"), listed,
                  tmp_path / "values.npy", Embeddings(tensor)):  # fmt: skip
        found = select(paths, 9, embeddings=given, **SEARCH)
        assert found.indices == expected.indices, type(given)
        assert not any("embedding" in note for note in found.warnings)


def test_what_the_list_cannot_use_need_not_have_numbers(paths: list[str], values: np.ndarray) -> None:
    values[[0, 9]] = np.nan
    listing, _ = list_source(paths)
    embedded = read_embeddings(Embeddings(values, listing.order), listing, torch.device("cpu"))
    assert embedded.paths == listing.paths
    assert len(embedded.paths) == 41
    row = {path: place for place, path in enumerate(listing.order or ())}
    row[listing.order[9]] = 4  # type: ignore[index]  # listed again there
    assert torch.equal(embedded.images.mean, torch.tensor(values[[row[path] for path in embedded.paths]]))
    values[2] = np.nan
    with pytest.raises(InputError, match="row 2 of the embeddings, 'class2/"):
        read_embeddings(Embeddings(values, listing.order), listing, torch.device("cpu"))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.int32, torch.bool])
def test_tensors_of_every_kind(kind: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(6, 2).to(kind)
    assert np.array_equal(np.asarray(Embeddings(tensor).values, np.float64), tensor.double().numpy())
    assert np.array_equal(np.asarray(Embeddings(tensor.to_sparse()).values, np.float64), tensor.double().numpy())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu() -> None:
    tensor = torch.randn(6, 2, device="cuda", requires_grad=True)
    assert np.array_equal(Embeddings(tensor).values, tensor.detach().cpu().numpy())  # type: ignore[arg-type]


def test_embeddings_without_paths_need_an_order(pictures: Path) -> None:
    with pytest.raises(UsageError, match=r"source '.*' is a folder: give its paths, or Embeddings\(values, paths\)"):
        select(pictures, 3, embeddings=np.zeros((120, 3)), **SEARCH)


@pytest.mark.parametrize("value", [5, None, object(), [[1, 2], [3]], np.float64(3), ["a", "b"], {"a": [1.0]}])
def test_what_are_no_embeddings_is_a_usage_error(value: Any) -> None:
    with pytest.raises(UsageError, match=r"embeddings .* are not an array or a tensor"):
        Embeddings(value)


def test_other_numbers_are_not_taken_for_the_same(paths: list[str], values: np.ndarray, tmp_path: Path) -> None:
    def place(given: np.ndarray, listed: list[str]) -> bool:
        return select_into(listed, 9, tmp_path / "out", embeddings=given, **SEARCH).done

    assert not place(values, paths)
    assert place(values, paths)
    assert place(np.asfortranarray(values), paths)
    for given, listed in ((values + 1, paths), (values, paths[::-1]), (values.astype(np.float64), paths)):
        with pytest.raises(ImgsubsetError, match="is not empty"):
            place(given, listed)


# Labels


@pytest.mark.slow
def test_labels_are_a_dict_by_path_or_a_list_in_order(paths: list[str], root: Path, pictures: Path) -> None:
    usable = [place for place in range(43) if place not in (0, 8)]
    by_place = ["ab"[place % 2] for place in range(43)]
    by_place[9] = by_place[4]  # the same image
    by_path = {paths[place]: by_place[place] for place in usable}
    relative = {os.path.relpath(path, root): label for path, label in by_path.items()}
    numbers = np.array(["ab".index(label) for label in by_place])
    expected = select(paths, 10, stratify=True, labels=by_path, **FAST)
    assert Counter(by_path[paths[index]] for index in expected.indices) == {"a": 5, "b": 5}
    for labels in (relative, by_place, tuple(by_place), np.array(by_place)):
        assert select(paths, 10, stratify=True, labels=labels, **FAST).classes == expected.classes
    for labels in (numbers, torch.tensor(numbers), [*numbers], [*torch.tensor(numbers)], numbers.astype(float)):
        assert [*select(paths, 10, stratify=True, labels=labels, **FAST).classes.values()] == [
            *expected.classes.values()
        ]
    of_folder = {f"class{number % 3}/{number:03d}.png": number % 4 for number in range(120)}
    assert select(pictures, 8, stratify=True, labels=of_folder, **FAST).classes == {str(k): (30, 2) for k in range(4)}


def test_other_labels_are_not_taken_for_the_same(paths: list[str], tmp_path: Path) -> None:
    labels = ["ab"[place % 2] for place in range(43)]
    labels[9] = labels[4]

    def place(given: Any, listed: list[str]) -> bool:
        return select_into(listed, 9, tmp_path / "out", labels=given, stratify=True, **FAST).done

    assert not place(labels, paths)
    assert place(labels, paths)
    assert place(labels[::-1], paths[::-1])
    with pytest.raises(ImgsubsetError, match="is not empty"):
        place(labels, [paths[0], paths[2], paths[1], *paths[3:]])
    with pytest.raises(ImgsubsetError, match="is not empty"):
        place(["b", *labels[1:10], "c", *labels[11:]], paths)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (["a"] * 42, "there are 42 labels for the 43 images of the list"),
        ([*("ab" * 22)[:43]], "the labels of 'class2/110.png' are two: 'a' and 'b'"),
        ({"absent.png": "a"}, "the labels lack 40 images of the source: 'class"),
        ([None] * 43, "labels: that of 0 is None, which is no name or number of a class"),
        ([float("nan")] * 43, "labels: that of 0 is nan"),
        (np.zeros((43, 2)), r"labels: that of 0 is \[0.0, 0.0\]"),
        ({"a.png": ["cat"]}, r"labels: that of 'a.png' is \['cat'\]"),
        ({3: "cat"}, r"paths of labels dict_keys\(\[3\]\) is not a list of texts"),
        (5, "labels 5 are not a CSV file, a dict of classes by path, or a list of them"),
        ({"a", "b"}, "labels {.*} are not"),
    ],
)
def test_labels_that_do_not_fit(paths: list[str], labels: Any, text: str) -> None:
    with pytest.raises(ImgsubsetError, match=text):
        select(paths, 5, stratify=True, labels=labels, **FAST)


def test_labels_in_a_list_need_an_order(pictures: Path) -> None:
    with pytest.raises(UsageError, match=r"labels in a list are in the order .* is a folder: give a dict"):
        select(pictures, 5, stratify=True, labels=["a"] * 120, **FAST)


def test_what_is_kept_and_dropped_is_a_list_or_a_file_of_one(root: Path, tmp_path: Path) -> None:
    wanted = ("class2/001.png", "class2/002.png")
    listed = create(tmp_path / "list.txt", "\n".join(wanted).encode())
    for name in ("keep", "drop"):
        for value in (wanted, [*wanted], listed, str(listed)):
            assert getattr(tasks_given.resolve_inputs(root, Options(**{name: value}))[1], name) == wanted
        for gone in ("gone.json", "gone.txt", ""):
            with pytest.raises(InputError, match=rf"cannot read .*'{gone}'"):
                tasks_given.resolve_inputs(root, Options(**{name: gone}))


@pytest.mark.slow
def test_a_manifest_that_is_kept_means_what_it_does_on_the_command_line(
    imgsubset: Callable[..., Run], root: Path, tmp_path: Path
) -> None:
    first = select_into(root, 4, tmp_path / "first", **FAST)
    manifest = tmp_path / "first" / "manifest.json"
    grown = select_into(root, 8, tmp_path / "grown", keep=manifest, **FAST)
    assert {*first.chosen} < {*grown.chosen}
    words = [f"--{name.replace('_', '-')}={value[0] if name == 'channels' else value}" for name, value in FAST.items()]
    run = imgsubset("select", root, tmp_path / "grown", "-n", 8, "--keep", manifest, *words)
    assert "nothing to do" in run.out
