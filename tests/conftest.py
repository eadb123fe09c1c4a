"""Folders of small pictures, and ways to run the program on them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import json
import os
import pkgutil
import secrets
import shutil
import signal
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import roughly
from PIL import Image

import imgsubset as package
from imgsubset import Options, Selection, cli, select
from imgsubset.annotations.filters import list_candidates
from imgsubset.cli.signals import FATAL_SIGNALS
from imgsubset.divergence_weights import DIVERGENCE_NAMES
from imgsubset.errors import UsageError
from imgsubset.features.load import SourceFeatures, load_features
from imgsubset.files import Stamp, Stamps
from imgsubset.results.as_json import RECORDED_LIBRARIES
from imgsubset.results.scores import Measured, Score
from imgsubset.sources.listing import Listing, PathSource
from imgsubset.statistics import generative_metrics, permutation

# The tests' tensors are tiny: threads inside an operation would only wait for each other.
torch.set_num_threads(1)

NOBODY = 65534


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of each test's own, so that none finds what another left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / f"cache-{secrets.token_hex(8)}"))


ROUGH = roughly()
THOROUGH = {place: getattr(*place) for place in ROUGH}
MATHEMATICS = ("statistics", "search")


def is_exact(path: Path) -> bool:
    """Whether tests in this file are of losses or searches themselves."""
    return path.stem == "test_score" or (path.parent.name in MATHEMATICS and path.stem != "test_smallest")


@pytest.fixture(scope="module", autouse=True)
def rough(request: pytest.FixtureRequest) -> Iterator[None]:
    """Losses in units of few random subsets, and short searches, but where these themselves are tested."""
    with pytest.MonkeyPatch.context() as patch:
        for place, value in (THOROUGH if is_exact(request.path) else ROUGH).items():
            patch.setattr(*place, value)
        yield


@pytest.fixture
def accurate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and searches as everybody has them."""
    for place, value in THOROUGH.items():
        monkeypatch.setattr(*place, value)


def noise(seed: int, width: int, height: int, channels: int = 3) -> np.ndarray:
    """Random pixels, without structure."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(seed: int, width: int, height: int) -> Image.Image:
    """A random RGB picture whose neighbouring pixels are alike, as a photograph's are."""
    return Image.fromarray(noise(seed, 6, 5)).resize((width, height), Image.Resampling.BICUBIC)


def tree(folder: Path) -> dict[str, tuple[str, int, int]]:
    """SHA-256 (of a link: its target), modification time and mode of everything in a folder that is no folder."""
    found = {}
    for base, folders, names in os.walk(folder):
        for path in (Path(base, name) for name in [*names, *folders]):
            if path.is_symlink():
                found[str(path.relative_to(folder))] = os.readlink(path), 0, 0
            elif path.is_file():
                status = path.stat()
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(folder))] = digest, status.st_mtime_ns, status.st_mode
    return found


def strict_json(text: str | bytes) -> Any:
    """Parse JSON as other languages do: without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints of a selection, without what a manifest leaves out: it differs from run to run."""
    return {
        **{name: value for name, value in record.items() if name != "seconds"},
        "options": {name: value for name, value in record["options"].items() if name not in ("workers", "cache")},
        "counts": {name: value for name, value in record["counts"].items() if name != "cached"},
        "trace": [{name: value for name, value in point.items() if name != "seconds"} for point in record["trace"]],
    }


def create(path: Path, content: bytes = b"") -> Path:
    """Write a file with the folders that lead to it; skip the test where the file system takes no such name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        pytest.skip(f"the file system takes no such name: {error.strerror}")
    return path


def png_bytes(
    width: int, height: int, bits: int, color: int, rows: bytes, extra: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """A PNG file put together by hand: its header, extra chunks, and the compressed rows."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.fixture(scope="session")
def bomb() -> bytes:
    """A valid PNG of 400 million pixels in some 50 kB."""
    content = png_bytes(20_000, 20_000, 1, 0, bytes((1 + 20_000 // 8) * 20_000))
    assert len(content) < 100_000
    return content


def fill(folder: Path) -> Path:
    """Small random pictures of several formats in several folders."""
    for number, (name, mode) in enumerate(
        [
            ("a/1.jpg", "RGB"),
            ("a/2.png", "RGBA"),
            ("a/deep/er/3.webp", "RGB"),
            ("b/1.jpg", "L"),
            ("b/4.gif", "P"),
            ("b/5.TIFF", "RGB"),
            ("6.bmp", "RGB"),
            ("7.png", "1"),
        ]
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number, 20 + number, 18, 4 if mode == "RGBA" else 3)).convert(mode).save(path)
        os.utime(path, ns=(1_500_000_000_123_456_789, 1_500_000_000_000_000_000 + number))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of this test's own, with eight pictures."""
    return fill(tmp_path / "source")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 tiny pictures in three folders, to be read only."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(120):
        path = root / f"class{number % 3}" / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        smooth(number, 12, 12).save(path)
    return root


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to, which tmp_path is not when the tests run as root."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o777)
    yield root
    for base, folders, _ in os.walk(root):
        for name in folders:  # before they are entered, as an unreadable one would not be
            if not os.path.islink(os.path.join(base, name)):
                os.chmod(os.path.join(base, name), 0o700)
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state_dict of the FID's network with random weights. Skips where torch-fidelity is not installed."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = fidelity.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):  # which draws and holds no numbers
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *arguments, **named: {})
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        shapes = network("inception", ["64"]).state_dict()
    generator, state = torch.Generator().manual_seed(0), {}
    for name, weight in shapes.items():
        if weight.dim() > 1:
            of_inputs = (2 / weight[0].numel()) ** 0.5  # so that no layer's output is smaller than its input
            state[name] = (torch.randn(weight.shape, generator=generator) * of_inputs).half()
        else:
            one = name.endswith(("bn.weight", "running_var"))
            state[name] = torch.full(weight.shape, int(one), dtype=weight.dtype)
    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, file)
    return file


@pytest.fixture
def few_deals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons with a rough noise floor, in a fiftieth of the time."""
    deal(monkeypatch, 20)


def deal(patch: pytest.MonkeyPatch, draws: int) -> None:
    """Have comparisons deal so often, in place of a thousand times."""
    patch.setattr(permutation, "run_two_sample_test", functools.partial(permutation.run_two_sample_test, draws=draws))
    patch.setattr(generative_metrics, "compare_prdc", functools.partial(generative_metrics.compare_prdc, draws=draws))


class Installed:
    """What is installed under a name. Its version, which every result of the program tells, is read only once."""

    def __init__(self, name: str) -> None:
        self.found = DISTRIBUTION(name)
        self.version = self.found.version

    def __getattr__(self, name: str) -> Any:
        return getattr(self.found, name)


DISTRIBUTION = importlib.metadata.distribution
importlib.metadata.distribution = functools.cache(Installed)  # type: ignore[assignment, arg-type]


@functools.cache
def import_everything() -> None:
    """Import what is imported only when it is needed, by the package and by torch, and read the versions."""
    for name in ("imgsubset", *RECORDED_LIBRARIES):
        importlib.metadata.version(name)
    for module in pkgutil.walk_packages(package.__path__, "imgsubset."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(3):
            smooth(number, 9, 9).save(Path(folder, f"{number}.png"))
        select(folder, 1, Options(candidates=2, chains=1, steps=1, size=16, device="cpu", workers=0))


@contextlib.contextmanager
def normal_user(folder: Path) -> Iterator[None]:
    """Act as somebody whom permissions bind."""
    if os.geteuid() != 0:
        yield
        return
    import_everything()  # which another user may not reach
    os.seteuid(NOBODY)
    try:
        try:
            os.listdir(folder)
        except OSError:
            pytest.skip("no other user can reach the temporary folder")
        yield
    finally:
        os.seteuid(0)


def listing_of(root: Path, paths: Iterable[str] = (), name: str | None = None, **fields: Any) -> Listing:
    """A listing of these paths as they are now, whether they are images or not; of absent ones with a stamp of 0."""
    paths = tuple(paths)
    files = [root / path for path in paths]
    stamps = Stamps(Stamp.of(file.stat()) if file.is_file() else Stamp(0, 0) for file in files)
    return Listing(name or str(root), root, paths, stamps, **fields)


def read(source: PathSource, options: Options, seen: Sequence[str] = ()) -> SourceFeatures:
    """The moments of the images of a source, from its name."""
    return load_features(list_candidates(source, options), options, seen=seen)


def watched_files(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The temporary files that are made from now on."""
    made, real = list[Any](), tempfile.TemporaryFile

    def watch(*words: Any, **named: Any) -> Any:
        made.append(real(*words, **named))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", watch)
    return made


def score_like(loss: float, size: float) -> Score:
    """A score that is the same in one searched space and in three that only measure."""
    values = dict.fromkeys(DIVERGENCE_NAMES, 0.25)
    spaces = [Measured(name, 1.0, values, values, values, loss, 50.0, size) for name in ("random-cnn", "a", "b", "c")]
    held_out = tuple(replace(one, weight=1 / 3) for one in spaces[1:])
    return Score((spaces[0],), held_out, loss, size)


def selection_of(source: Path, chosen: Sequence[str]) -> Selection:
    """A selection of these files, made up without a search."""
    usable = sorted((str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()), key=os.fsencode)
    status = [(source / path).stat() for path in usable]
    return Selection(
        source=Listing(str(source), source, tuple(usable), tuple(map(Stamp.of, status))),
        paths=tuple(usable),
        stamps=tuple(map(Stamp.of, status)),
        rows=tuple(sorted(usable.index(path) for path in chosen)),
        ranked_rows=tuple(usable.index(path) for path in chosen),
        score=score_like(1.0, float(len(chosen))),
        size=64,
        rejected=(),
        warnings=(),
        classes={},
        copies=0,
        trace=(),
        interrupted=False,
        asked=str(len(chosen)),
        options=Options(),
        embeddings=None,
        device="cpu",
        cached=0,
        seconds={},
    )


@dataclass(frozen=True)
class Run:
    """What a run of the program came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def imgsubset(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run the program's entry point in this process."""

    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["imgsubset", *map(str, arguments)])
        capsys.readouterr()
        handlers = {number: signal.getsignal(number) for number in FATAL_SIGNALS}
        with pytest.raises(SystemExit) as ended:
            cli.main()
        for number, handler in handlers.items():  # which the program leaves as they are by default
            signal.signal(number, handler)
        streams = capsys.readouterr()
        return Run(int(ended.value.code or 0), streams.out, streams.err)

    return run


def check_no_weights(load: Callable[[Path], object], content: Any, complaint: str, file: Path) -> None:
    """What is loaded from a file with this content, or none, is refused in one line."""
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(UsageError, match=complaint) as caught:
        load(file)
    assert "\n" not in str(caught.value)
