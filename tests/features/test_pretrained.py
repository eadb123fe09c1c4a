from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import check_no_weights
from torchvision import models

from imgsubset.errors import UsageError
from imgsubset.features.pretrained import Pretrained

SMALL = "shufflenet_v2_x0_5"


def model_of(name: str, **sizes: Any) -> torch.nn.Module:
    """A classifier with random weights, and running means as if it had been trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: torch.nn.Module = models.get_model(name, weights=None, **sizes)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    return model.eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(model_of(SMALL).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def before_the_last(model: torch.nn.Module, last: torch.nn.Module, name: str, pixels: torch.Tensor) -> torch.Tensor:
    """What the last layer is given, one image at a time."""
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    with torch.inference_mode():
        for image in pixels:
            model(transforms(image.permute(2, 0, 1))[None])
    hook.remove()
    return torch.cat(seen)


def random_pixels(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [256, 64])
def test_the_vector_is_what_the_last_layer_is_given(file: Path, size: int) -> None:
    extractor, model, pixels = Pretrained(SMALL, file), model_of(SMALL), random_pixels(3, size)
    found = extractor(pixels)
    assert found.shape == (3, 1024, 1, 1)
    torch.testing.assert_close(found[:, :, 0, 0], before_the_last(model, model.fc, SMALL, pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "length"), [("squeezenet1_1", 512), ("mobilenet_v3_small", 1024), ("regnet_y_400mf", 440)]
)
def test_models_end_in_many_ways(name: str, length: int, tmp_path: Path) -> None:
    torch.save(model_of(name).state_dict(), tmp_path / "weights.pth")
    extractor = Pretrained(name, tmp_path / "weights.pth")
    assert extractor(random_pixels(1, 32)).shape == (1, length, 1, 1)
    assert not any(weight.requires_grad for weight in extractor.parameters())


def test_neither_a_model_nor_its_random_weights_disturb_the_global_generator(file: Path) -> None:
    before = torch.get_rng_state()
    Pretrained(SMALL, file)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_number_of_classes_do(file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)
    state["fc.weight"], state["fc.bias"] = torch.zeros(7, 1024), torch.zeros(7)
    torch.save(state, tmp_path / "seven.pth")
    seven, all_of_them = Pretrained(SMALL, tmp_path / "seven.pth"), Pretrained(SMALL, file)
    for one, other in zip(seven.parameters(), all_of_them.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_the_old_names_of_densenets_weights_are_known(tmp_path: Path) -> None:
    state = model_of("densenet121").state_dict()
    parts = ("norm", "relu", "conv")
    old = {}
    for key, value in state.items():
        for part in parts:
            for number in "12":
                if "denselayer" in key:
                    key = key.replace(f".{part}{number}.", f".{part}.{number}.")
        old[key] = value
    assert set(old) != set(state)
    torch.save(old, tmp_path / "old.pth")
    loaded = Pretrained("densenet121", tmp_path / "old.pth").model.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_models_that_turn_their_input_do_so_with_weights_from_a_file(name: str, tmp_path: Path) -> None:
    torch.save(model_of(name, init_weights=False).state_dict(), tmp_path / "weights.pth")
    assert Pretrained(name, tmp_path / "weights.pth").model.transform_input is True


def test_an_unknown_model_is_named_with_others() -> None:
    with pytest.raises(UsageError, match="no classifier 'resnet19'; try one such as resnet18"):
        Pretrained("resnet19")
    with pytest.raises(UsageError, match="no classifier 'fasterrcnn_resnet50_fpn'"):
        Pretrained("fasterrcnn_resnet50_fpn")


@pytest.mark.parametrize("error", [urllib.error.URLError("no network"), RuntimeError("invalid hash value")])
def test_a_download_that_fails_says_what_to_do(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(models._api, "load_state_dict_from_url", fail)
    with pytest.raises(UsageError, match=r"cannot get the weights of '.*' \(.*\); download https://.* weights_file$"):
        Pretrained(SMALL)


def test_weights_that_are_downloaded_are_those_of_the_library(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(url: str, **named: object) -> dict[str, torch.Tensor]:
        asked.append(url)
        state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
        return state

    monkeypatch.setattr(models._api, "load_state_dict_from_url", download)
    pixels = random_pixels(1, 64)
    assert torch.equal(Pretrained(SMALL)(pixels), Pretrained(SMALL, file)(pixels))
    assert asked == [models.get_model_weights(SMALL).DEFAULT.url]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot read weights_file '.*': No such file"),
        (b"", "is no state_dict"),
        (b"<html>", "is no state_dict"),
        ({}, "is not the state_dict of a 'shufflenet"),
        ([1], "is not the state_dict"),
        (torch.zeros(3), "is not the state_dict"),
        ({1: 2}, "is not the state_dict"),
        ({"model": {}}, "is not the state_dict"),
        (models.squeezenet1_1, "is no state_dict"),
        (Path, "is no state_dict"),
    ],
)
def test_what_holds_no_weights_of_the_model_is_refused(content: Any, complaint: str, tmp_path: Path) -> None:
    check_no_weights(lambda file: Pretrained(SMALL, file), content, complaint, tmp_path / "weights.pth")
