"""Chunks through networks: their order, shapes, threads, and the settings of a caller."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import smooth
from torch import Tensor

from imgsubset import Options, select
from imgsubset.decoding.decode import ImageInfo
from imgsubset.decoding.workers import Chunk
from imgsubset.errors import UsageError
from imgsubset.features import ingest
from imgsubset.features.custom import ExternalExtractor
from imgsubset.features.ingest import IngestResult
from imgsubset.features.random_cnn import RandomCNN
from imgsubset.files import Stamp

SIDE, LENGTH = 16, 4
FAST = Options(candidates=8, chains=1, steps=2, size=SIDE, device="cpu", workers=0)


def chunks(count: int, last: int = LENGTH) -> Iterator[Chunk]:
    """Chunks of random images, the last with so many."""
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, LENGTH * SIDE * SIDE * 3, np.uint8)
        filled = LENGTH if number < count - 1 else last
        facts = tuple(ImageInfo(Stamp(number, place), ()) for place in range(filled))
        yield Chunk(number * LENGTH, {SIDE: pixels.tobytes()}, facts)


def table(network: Callable[[Tensor], Tensor], count: int, device: str = "cpu") -> Tensor:
    places = range(count * LENGTH)
    done = ingest.ingest(chunks(count), places, IngestResult.empty(len(places)), [(network, SIDE)],
                         torch.device(device))  # fmt: skip
    return done.images[0].table


class Spy:
    """An extractor that notes the batches and threads that it sees, and can be false."""

    def __init__(self) -> None:
        self.heights: list[int] = []
        self.threads: set[threading.Thread] = set()

    def __len__(self) -> int:
        return 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.heights.append(len(pixels))
        self.threads.add(threading.current_thread())
        return pixels.permute(0, 3, 1, 2).float()


def test_batches_on_a_gpu_have_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    spy, used = Spy(), Spy()

    def run(batch: list[int], height: int) -> list[int]:
        used.heights.append(height)
        return batch

    assert list(ingest._run_in_batches(run, iter(range(37)), 16)) == [[*range(16)], [*range(16, 32)], [*range(32, 37)]]
    assert used.heights == [16] * 3
    alone = table(ExternalExtractor(spy), 5)
    monkeypatch.setattr(ingest, "_run_in_threads", lambda run, chunks: ingest._run_in_batches(run, chunks, 3))
    assert torch.equal(table(spy, 5), alone)
    assert spy.heights == [LENGTH] * 5 + [3 * LENGTH] * 2  # the second is padded


def test_an_extractor_of_the_callers_is_called_by_the_callers_thread_alone() -> None:
    spy = Spy()
    table(ExternalExtractor(spy), 9)
    assert spy.threads == {threading.current_thread()}


def test_networks_on_a_cpu_run_side_by_side_in_order() -> None:
    spy = Spy()
    found = table(spy, 9)
    assert threading.current_thread() not in spy.threads
    pixels = torch.tensor(np.frombuffer(b"".join(chunk.pixels[SIDE] for chunk in chunks(9)), np.uint8))
    expected = pixels.view(-1, SIDE, SIDE, 3).float().mean((1, 2))
    torch.testing.assert_close(found[:, :3], expected)


@pytest.mark.parametrize("network", [RandomCNN((4,)), ExternalExtractor(RandomCNN((4,)))], ids=["ours", "the caller's"])
def test_settings_of_the_caller_are_back_even_while_an_error_is_handled(network: torch.nn.Module) -> None:
    def settings() -> list[object]:
        backends = torch.backends
        return [torch.get_num_threads(), backends.cudnn.deterministic, backends.cudnn.benchmark, backends.cudnn.enabled]

    def fail(images: int) -> None:
        raise OSError("gone")

    before = settings()
    done = IngestResult.empty(99)
    try:
        ingest.ingest(chunks(9), range(99), done, [(network, SIDE)], torch.device("cpu"), fail)
    except OSError:  # whose traceback still holds the frames
        assert settings() == before
    else:
        pytest.fail("no error")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for number in range(20):
        smooth(number, SIDE, SIDE).save(root / f"{number:02d}.png")
    return root


def test_an_extractor_that_is_false_is_used(pictures: Path) -> None:
    spy = Spy()
    assert not spy
    select(pictures, 3, FAST, extractor=spy)
    assert spy.heights


class Net(torch.nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv, self.drop = torch.nn.Conv2d(3, channels, 3, stride=4), torch.nn.Dropout(0.9)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.drop(self.conv(pixels.permute(0, 3, 1, 2).float()))


def test_a_module_is_used_in_evaluation_mode_and_stays_as_it_was(pictures: Path) -> None:
    torch.manual_seed(1)
    net = Net().train()
    first, again = (select(pictures, 3, FAST, extractor=net).chosen for _ in range(2))
    assert first == again  # no dropout
    assert net.training
    foreign = ExternalExtractor(net).to("meta")  # as to a GPU
    assert {one.device.type for one in foreign.parameters()} == {"meta"}
    assert {one.device.type for one in net.parameters()} == {"cpu"}


def test_many_channels_are_reduced_before_the_search(pictures: Path) -> None:
    selection = select(pictures, 3, FAST, extractor=Net(600))
    assert selection.score.loss < 2


@pytest.mark.parametrize("maps", [torch.zeros(3), torch.zeros(2, 3, 1, 1), None, torch.zeros(32, 0, 1, 1)])
def test_what_is_no_maps_is_a_usage_error(pictures: Path, maps: object) -> None:
    with pytest.raises(UsageError, match=r"the extractor gives .* for 32 images, not a tensor \(32, C, h, w\)"):
        select(pictures, 3, FAST, extractor=lambda pixels: maps)
