"""Features computed elsewhere: what is read, what is refused and with which words, and the principal components."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import listing_of

from imgsubset.errors import InputError, UsageError
from imgsubset.features import embeddings as module
from imgsubset.features.embeddings import EmbeddingMoments, Embeddings, read_embeddings
from imgsubset.features.load import load_features
from imgsubset.options import Options
from imgsubset.sources.listing import list_images
from imgsubset.statistics.moments import fit_standardiser

CPU = torch.device("cpu")
COUNT = 40
NAMES = tuple(f"{number:02d}.png" for number in range(COUNT))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, even of few rows."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 7 * 12)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with empty files of all NAMES, and one in a folder in it."""
    folder = tmp_path_factory.mktemp("source")
    for name in NAMES:
        (folder / name).touch()
    (folder / "deep").mkdir()
    (folder / "deep" / "er.png").touch()
    return folder


def features(count: int = COUNT, dimensions: int = 12, seed: int = 0) -> np.ndarray:
    """Correlated float32 columns of different means and scales."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((dimensions, dimensions)) * np.arange(1, dimensions + 1) ** -0.7
    raw = generator.standard_normal((count, dimensions)) @ mixing.T
    return (raw * generator.uniform(0.1, 9, dimensions) + generator.uniform(-9, 9, dimensions)).astype(np.float32)


def read(values: Any, root: Path, pca: int | None = None, paths: Any = NAMES) -> EmbeddingMoments:
    return read_embeddings(Embeddings(values, paths, pca), listing_of(root), CPU)


def refused(values: Any, root: Path, paths: Any = NAMES, pca: int | None = None) -> str:
    """The one line of the error that reading ends in."""
    with pytest.raises(InputError) as caught:
        read(values, root, pca, paths)
    message = str(caught.value)
    assert "\n" not in message
    return message


def saved(path: Path, array: Any) -> str:
    np.save(path, array)
    return str(path)


def standardised(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return (values - values.mean(0)) / values.std(0)


def bits(embedded: EmbeddingMoments) -> str:
    return hashlib.sha256(embedded.images.table.numpy().tobytes()).hexdigest()


# Without PCA


@pytest.mark.parametrize("pca", [None, 0])
def test_few_dimensions_are_kept_as_they_are(root: Path, pca: int | None) -> None:
    values = features()
    found = read(values, root, pca)
    assert (found.dimensions, found.components, found.explained) == (12, 12, 1.0)
    assert found.paths == NAMES
    assert found.images.positions == 1
    assert found.images.table.dtype == torch.float32
    np.testing.assert_array_equal(found.images.mean.numpy(), values)
    np.testing.assert_array_equal(found.images.square.numpy(), values**2)


def test_pca_starts_above_64_dimensions(root: Path) -> None:
    values = features(dimensions=65)
    assert read(values[:, :64], root).components == 64
    found = read(values, root)
    assert (found.dimensions, found.components) == (65, COUNT - 1)
    assert read(values, root, 0).components == 65


@pytest.mark.parametrize(("pca", "searched"), [(None, 64), (0, 90), (16, 16), (70, 70)])
def test_as_many_dimensions_are_searched_as_are_asked_for(tmp_path: Path, pca: int | None, searched: int) -> None:
    names = [f"{number:03d}.png" for number in range(100)]
    for name in names:
        (tmp_path / name).write_bytes(b"never decoded")
    embeddings = Embeddings(features(100, 90), names, pca)
    found = load_features(list_images(tmp_path), Options(), "cpu", embeddings=embeddings)
    (block,) = found.standardise().blocks
    assert block.images.channels == searched
    assert [f"reduced to {searched} principal" in note for note in found.warnings] == [True] * (searched < 90)


@pytest.mark.parametrize("kind", ["?", "u1", "<i2", ">i4", "i8", "u8", "f2", "<f4", ">f4", "f8", "g"])
def test_every_kind_of_real_number_is_read(tmp_path: Path, root: Path, kind: str) -> None:
    values = np.abs(features()).round().astype(kind)
    found = read(saved(tmp_path / "e.npy", values), root)
    np.testing.assert_array_equal(found.images.mean.numpy(), values.astype(np.float32))


def test_fortran_order_is_read_from_the_file(tmp_path: Path, root: Path) -> None:
    values = features()
    found = read(Path(saved(tmp_path / "e.npy", np.asfortranarray(values))), root)
    np.testing.assert_array_equal(found.images.mean.numpy(), values)
    assert bits(read(tmp_path / "e.npy", root, 5)) == bits(read(values, root, 5))
    assert b"'fortran_order': True" in (tmp_path / "e.npy").read_bytes()[:128]


def test_a_file_is_mapped_and_not_written(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "e.npy"
    path_bytes = Path(saved(path, features())).read_bytes()
    path.chmod(0o444)
    array, _ = module._open_array(path)
    assert isinstance(array.base, np.memmap)
    assert not array.flags.writeable
    read(path, root, 3)
    assert path.read_bytes() == path_bytes


# The order of rows


@pytest.mark.parametrize("pca", [0, 5])
def test_rows_follow_their_paths_whatever_their_order(root: Path, pca: int) -> None:
    values = features()
    order = np.random.default_rng(1).permutation(COUNT)
    expected = read(values, root, pca)
    found = read(values[order], root, pca, [NAMES[row] for row in order])
    assert found.paths == NAMES
    assert bits(found) == bits(expected)
    assert bits(read(values[order], root, pca)) != bits(expected)


def test_paths_are_sorted_by_their_bytes(tmp_path: Path) -> None:
    names = ["\uff61.png", "\U00010000.png", "b.png", "B.png"]  # the first two sort the other way round as UTF-16
    for name in names:
        (tmp_path / name).touch()
    found = read(features(4), tmp_path, paths=names)
    assert found.paths == tuple(sorted(names, key=os.fsencode)) == ("B.png", "b.png", *names[:2])


@pytest.mark.parametrize("threads", [2, 3])
def test_no_bit_depends_on_the_number_of_threads(root: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 20)
    values = features(dimensions=300)
    expected = bits(read(values, root, 30))
    before, eigh, seen = torch.get_num_threads(), torch.linalg.eigh, []

    def watched(matrix: torch.Tensor, **options: str) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(torch.get_num_threads())  # rounding to float32 mostly hides the last bits of eigenvectors
        found: tuple[torch.Tensor, torch.Tensor] = eigh(matrix, **options)
        return found

    monkeypatch.setattr(torch.linalg, "eigh", watched)
    torch.set_num_threads(threads)
    try:
        assert bits(read(values, root, 30)) == expected
        assert (seen, torch.get_num_threads()) == ([1], threads)
    finally:
        torch.set_num_threads(before)


# Principal components


@pytest.mark.parametrize("components", [1, 2, 5, 12])
def test_components_are_those_of_the_singular_value_decomposition(root: Path, components: int) -> None:
    values = features()
    left, singular, _ = np.linalg.svd(standardised(values), full_matrices=False)
    scores = left[:, :components] * singular[:components]
    found = read(values, root, components)
    assert found.components == components
    assert found.explained == pytest.approx((singular[:components] ** 2).sum() / (singular**2).sum(), rel=1e-9)
    mean = found.images.mean.double().numpy()
    # No rotation changes inner products, so these are those of the approximation of this rank.
    np.testing.assert_allclose(mean @ mean.T, scores @ scores.T, atol=2e-5)
    np.testing.assert_array_equal(found.images.square.numpy(), found.images.mean.numpy() ** 2)


def test_standardising_hardly_changes_the_spectrum(root: Path) -> None:
    values = features(dimensions=30)
    images = read(values, root, 20).images
    var = images.mean.double().var(0, correction=0)
    cov = np.cov(fit_standardiser(images).apply(images).mean.double().numpy().T, bias=True)
    singular = np.linalg.svd(standardised(values), compute_uv=False)[:20] ** 2
    assert singular[0] > 100 * singular[-1]
    assert float(var.max()) < 10 * float(var.min())
    ratio = np.linalg.eigvalsh(cov)[::-1] / (20 * singular / singular.sum())
    assert 0.5 < ratio.min() <= ratio.max() < 2


def test_the_signs_of_eigenvectors_do_not_matter(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bits(read(features(), root, 5))
    eigh = torch.linalg.eigh

    def other_signs(matrix: torch.Tensor, **options: str) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = eigh(matrix, **options)
        return values, vectors * torch.tensor([1.0, -1.0]).repeat(6)

    monkeypatch.setattr(torch.linalg, "eigh", other_signs)
    assert bits(read(features(), root, 5)) == expected


def test_a_common_scale_and_shift_of_columns_change_nothing(root: Path) -> None:
    values = features().astype(np.float64)
    changed = values * np.geomspace(1e-6, 1e6, 12) + np.geomspace(1e-6, 1e7, 12)
    found, expected = read(changed, root, 4).images.mean, read(values, root, 4).images.mean
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_columns_that_do_not_vary_are_left_out(root: Path) -> None:
    values = features()
    dead = np.insert(values, [0, 5, 12], np.float32([7.3, 0.0, -1e6]), axis=1)
    rounding = 5 + 1e-4 * np.random.default_rng(3).standard_normal((COUNT, 1))  # as that of a mean of many numbers
    dead = np.concatenate([dead, rounding.astype(np.float32)], 1)
    found, expected = read(dead, root, 5), read(values, root, 5)
    assert (found.dimensions, found.components) == (16, 5)
    assert found.explained == pytest.approx(expected.explained, rel=1e-12)
    np.testing.assert_allclose(found.images.mean.numpy(), expected.images.mean.numpy(), atol=1e-5)


def test_there_are_no_more_components_than_directions(root: Path) -> None:
    values = features()
    repeated = np.concatenate([values, 2 * values[:, :8] + 1, np.full((COUNT, 1), 3)], 1)
    found = read(repeated, root, 21)
    assert (found.dimensions, found.components) == (21, 12)
    assert found.explained == pytest.approx(1, abs=1e-9)
    assert found.explained <= 1


def test_more_dimensions_than_images(root: Path) -> None:
    values = features(10, 60)
    found = read(values, root, 50, NAMES[:10])
    assert found.components == 9
    mean, expected = found.images.mean.double().numpy(), standardised(values)
    np.testing.assert_allclose(mean @ mean.T, expected @ expected.T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("count", [1, 6])
def test_equal_rows_have_no_component(root: Path, count: int) -> None:
    found = read(np.ones((count, 5)), root, 3, NAMES[:count])
    assert (found.components, found.explained) == (0, 1.0)
    assert found.images.table.shape == (count, 0)


# What makes no sense


def test_a_negative_number_of_components_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match=r"^pca -1 is not a number of at least 0$"):
        Embeddings("nowhere.npy", "nowhere.txt", -1)


def test_more_components_than_dimensions_are_refused(tmp_path: Path, root: Path) -> None:
    path = saved(tmp_path / "e.npy", features())
    with pytest.raises(
        UsageError, match=r"^pca 13 is more components than the 12 dimensions of embeddings '.*e\.npy'$"
    ):
        read(path, root, 13)


def test_components_of_too_many_dimensions_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PCA_DIMENSIONS", 11)
    assert refused(features(), root, pca=2) == "the embeddings have 12 dimensions; PCA takes 11 at most"
    assert read(features(), root, 0).components == 12


@pytest.mark.parametrize(
    ("dimensions", "pca", "start"),
    [(513, 0, "pca 0 keeps all 513 dimensions of the embeddings, which is"), (600, 513, "pca 513 is")],
)
def test_more_dimensions_than_can_be_searched_are_refused(root: Path, dimensions: int, pca: int, start: str) -> None:
    with pytest.raises(UsageError, match=f"^{start} more than the 512 that can be searched; give a smaller pca$"):
        read(features(dimensions=dimensions), root, pca)
    assert read(features(dimensions=512), root, 0).components == 512


# Files that are no array of numbers


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros(4), "shape (4,) and type float64"),
        (np.array(4.0), "shape () and type float64"),
        (np.zeros((2, 2, 2)), "shape (2, 2, 2)"),
        (np.zeros((0, 3)), "shape (0, 3)"),
        (np.zeros((3, 0)), "shape (3, 0)"),
        (np.zeros((2, 2), complex), "type complex128"),
        (np.array([["a"]]), "type <U1"),
        (np.zeros((2, 2), "M8[s]"), "type datetime64[s]"),
        (np.zeros((2, 2), [("a", "f4")]), "type [('a', '<f4')]"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, root: Path, array: np.ndarray, what: str) -> None:
    path = saved(tmp_path / "e.npy", array)
    for values, name in ((path, f"embeddings '{path}'"), (array, "the embeddings")):
        message = refused(values, root)
        assert message.startswith(f"{name} are an array of shape")
        assert what in message
        assert message.endswith("real numbers of shape (images, dimensions) are needed, at least one of each")


def test_an_array_of_objects_is_refused(root: Path) -> None:
    assert "type object" in refused(np.array([[1, None]], object), root)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_pickled_objects_are_refused_unread(tmp_path: Path, root: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "e.npy"
    np.save(path, np.array([[Malicious(trace)]], object), allow_pickle=True)
    message = refused(path, root)
    assert message.startswith(f"embeddings '{path}' are not a .npy file of numbers: ")
    assert "objects" in message
    assert not trace.exists()
    np.load(path, allow_pickle=True)
    assert trace.exists()  # the file would have done it


def test_a_bare_pickle_is_refused_unread(tmp_path: Path, root: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "e.npy"
    path.write_bytes(pickle.dumps(Malicious(trace)))
    assert "are not a .npy file of numbers" in refused(path, root)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"0.1,0.2\n0.3,0.4\n", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x40\x00{'descr'"])
def test_files_that_are_no_npy_are_refused(tmp_path: Path, root: Path, content: bytes) -> None:
    path = tmp_path / "e.npy"
    path.write_bytes(content)
    assert refused(path, root).startswith(f"embeddings '{path}' are not a .npy file of numbers: ")


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, root: Path) -> None:
    path = Path(saved(tmp_path / "e.npy", features()))
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(path, root).startswith(f"embeddings '{path}' are not a .npy file of numbers: ")


def test_an_archive_is_refused_with_what_to_do(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "e.npz"
    np.savez(path, a=features())
    assert refused(path, root) == f"embeddings '{path}' are a .npz archive; save the one array in it with numpy.save"


def test_files_that_cannot_be_opened_are_named_as_written(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert refused("./e.npy", root) == "cannot read embeddings './e.npy': No such file or directory"
    assert refused("folder/", root) == "cannot read embeddings 'folder/': Is a directory"
    assert refused(features(), root, "./p.txt") == "cannot read paths './p.txt': No such file or directory"
    assert refused(features(), root, Path("folder")) == "cannot read paths 'folder': Is a directory"


# Numbers that cannot be used


@pytest.mark.parametrize("pca", [0, 4])
@pytest.mark.parametrize(
    ("number", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (2e15, "2e+15"), (-1e300, "-1e+300")]
)
def test_numbers_that_cannot_be_used_are_named(tmp_path: Path, root: Path, number: float, shown: str, pca: int) -> None:
    values = features().astype(np.float64)
    values[31, 3] = values[31, 9] = number
    values[17, 11] = number
    names = NAMES[::-1]  # the row of the file is named, not that in the order of paths
    path = saved(tmp_path / "e.npy", values)
    assert refused(path, root, names, pca) == (
        f"row 17 of embeddings '{path}', '{names[17]}', holds {shown}, which is not finite or beyond 1e+15; "
        "rows at fault: 2 of 40"
    )


@pytest.mark.parametrize(
    ("kind", "number"), [("f2", np.inf), ("f4", 1e30), ("g", np.longdouble("1e4000")), ("i8", 2**62)]
)
def test_numbers_of_every_kind_are_checked(root: Path, kind: str, number: Any) -> None:
    values = np.ones((COUNT, 3), kind)
    values[5, 1] = number
    assert refused(values, root).startswith("row 5 of the embeddings, '05.png', holds ")


def test_the_largest_numbers_fit(root: Path) -> None:
    values = features()
    values[:, 0] = np.where(np.arange(COUNT) % 2, 1e15, -1e15)
    for pca in (0, 3):
        found = read(values, root, pca)
        assert found.images.table.isfinite().all()
        assert fit_standardiser(found.images).is_varying.all()


# Paths


def path_file(folder: Path, content: bytes) -> str:
    path = folder / "paths.txt"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    "content",
    [
        b"00.png\n01.png\ndeep/er.png",
        b"00.png\n01.png\ndeep/er.png\n",
        b"00.png\n01.png\ndeep/er.png\n\n\n",
        b"\xef\xbb\xbf00.png\n01.png\ndeep/er.png",
        b"00.png\r\n01.png\r\ndeep/er.png\r\n\r\n",
        b"00.png\x0001.png\x00deep/er.png",
        b"00.png\x0001.png\x00deep/er.png\x00",
        b"./00.png\ndeep/../01.png\ndeep//er.png",
    ],
)
def test_ways_to_write_a_list_of_paths(tmp_path: Path, root: Path, content: bytes) -> None:
    found = read(features(3), root, paths=path_file(tmp_path, content))
    assert found.paths == ("00.png", "01.png", "deep/er.png")


def test_odd_names_survive(tmp_path: Path) -> None:
    names = [b"\xff\xfe.png", b" 1 .png", b"#.png", b"\xc3\xa4.png", b"\xe2\x80\xa8.png", b"a\x0bb.png"]
    for name in names:
        try:
            (tmp_path / os.fsdecode(name)).touch()
        except OSError:
            pytest.skip("the file system takes no such name")
    found = read(features(6), tmp_path, paths=path_file(tmp_path, b"\n".join(names) + b"\n"))
    assert [os.fsencode(path) for path in found.paths] == sorted(names)


def test_a_name_with_line_ends_is_written_between_nuls(tmp_path: Path) -> None:
    for name in ("a\nb.png", "c\r"):
        (tmp_path / name).touch()
    found = read(features(2), tmp_path, paths=path_file(tmp_path, b"c\r\0a\nb.png\0"))
    assert found.paths == ("a\nb.png", "c\r")


def test_absolute_paths_are_found_under_every_name_of_the_source(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    monkeypatch.chdir(tmp_path)
    paths = [f"{root}/01.png", f"{link}/deep/er.png", "00.png"]
    assert read(features(3), Path("link"), paths=paths).paths == ("00.png", "01.png", "deep/er.png")


def test_paths_that_lead_out_of_the_source_are_refused(tmp_path: Path, root: Path) -> None:
    inside = root / "deep"
    for path in ("../00.png", "..", "a/../../00.png", str(root / "00.png"), f"{inside}/../00.png", f"{inside}er.png"):
        message = refused(features(2), inside, ["er.png", path])
        assert message == f"row 1 of the paths: '{path}' is not in source '{inside}'"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("absent.png", "No such file or directory"),
        ("deep", "not a regular file"),
        ("", "not a regular file"),
        ("00.png/a", "Not a directory"),
        ("a\0b", "embedded null"),
    ],
)
def test_paths_that_are_no_file_are_refused(root: Path, path: str, problem: str) -> None:
    message = refused(features(3), root, ["01.png", "02.png", path])
    assert message.startswith(f"row 2 of the paths: '{path}' is no file in source '{root}': ")
    assert problem in message


def test_empty_lines_are_no_rows(tmp_path: Path, root: Path) -> None:
    path = path_file(tmp_path, b"00.png\n\n01.png\n")
    assert read(features(2), root, paths=path).paths == ("00.png", "01.png")
    assert refused(features(3), root, path) == f"the embeddings have 3 rows, but paths '{path}' list 2 images"


@pytest.mark.parametrize("again", ["02.png", "./02.png", "deep/../02.png"])
def test_a_path_listed_twice_is_refused(tmp_path: Path, root: Path, again: str) -> None:
    path = path_file(tmp_path, f"00.png\n02.png\n01.png\n{again}\n".encode())
    assert refused(features(4), root, path) == f"paths '{path}' list '02.png' twice, in row 1 and row 3"


@pytest.mark.parametrize("count", [0, 39, 41])
def test_as_many_paths_as_rows_are_needed(tmp_path: Path, root: Path, count: int) -> None:
    values = saved(tmp_path / "e.npy", features())
    path = path_file(tmp_path, b"".join(b"%d\n" % number for number in range(count)))
    assert refused(values, root, path) == f"embeddings '{values}' have 40 rows, but paths '{path}' list {count} images"
