"""Pixels to what a network that was trained on ImageNet makes of them: the models of torchvision, by name."""

from __future__ import annotations

import difflib
import os
import re
from typing import Any

import torch
from torch import Tensor
from torchvision import models

from imgsubset.errors import UsageError, one_line
from imgsubset.reading.quiet import silence_libraries


class Pretrained(torch.nn.Module):
    """A classifier of torchvision without its last layer: what that would have been given, as a vector.

    The weights, and how pixels are made ready for them, are those that torchvision has as its default. Its
    classifiers mostly look at the middle of a square that is resized: (224 / 256)^2 of the area for resnet18.

    name          as in torchvision.models.list_models(module=torchvision.models)
    weights_file  of a state_dict that torch.save wrote, of any number of classes; nothing but tensors is read from
                  it. None: torchvision downloads its own once, and keeps them

    Raises UsageError for a model that is unknown, and for weights that are not there, or another model's.
    """

    def __init__(self, name: str, weights_file: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        known = models.list_models(module=models)
        if name not in known:
            near = difflib.get_close_matches(name, known, 3) or ["resnet18"]
            raise UsageError(f"torchvision has no classifier '{name}'; try one such as {', '.join(near)}")
        weights = models.get_model_weights(name).DEFAULT
        self.transforms = weights.transforms()
        self.model = _download_model(name, weights) if weights_file is None else _build_model(name, weights)
        classes = len(weights.meta["categories"])
        last = [part for part, module in self.model.named_modules() if _output_width(module) == classes][-1]
        self.model.set_submodule(last, torch.nn.Identity())
        if weights_file is not None:
            _load_weights(self.model, name, weights_file, last)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """A vector (B, C, 1, 1) of uint8 pixels (B, H, W, 3), H = W."""
        vectors: Tensor = self.model(self.transforms(pixels.permute(0, 3, 1, 2)))
        return vectors.flatten(1)[:, :, None, None]


def _output_width(module: torch.nn.Module) -> object:
    return getattr(module, "out_features", getattr(module, "out_channels", None))


def _download_model(name: str, weights: Any) -> torch.nn.Module:
    try:
        model: torch.nn.Module = models.get_model(name, weights=weights, progress=False)
    except (OSError, RuntimeError, EOFError) as error:
        raise UsageError(
            f"cannot get the weights of '{name}' ({one_line(error)}); download {weights.url} elsewhere, and name that file "
            "as weights_file"
        ) from error
    return model


def _build_model(name: str, weights: Any) -> torch.nn.Module:
    """A model as its weights want it, which it has not."""
    sizes = {"image_size": weights.meta["min_size"][0]} if name.startswith("vit_") else {}
    with torch.random.fork_rng(devices=()), silence_libraries():  # it draws weights in vain, and warns of how it will
        model: torch.nn.Module = models.get_model(name, weights=None, **sizes)
    if hasattr(model, "transform_input"):
        model.transform_input = True  # type: ignore[assignment]
    return model


def read_weights(file: str | os.PathLike[str]) -> Any:
    """What torch.save wrote, of tensors and plain containers alone. Raises UsageError for anything else."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"cannot read weights_file '{file}': {error.strerror or error}") from None
    except Exception as error:  # torch has many for what is no such file
        raise UsageError(f"weights_file '{file}' is no state_dict that torch.save wrote") from error


def _load_weights(model: torch.nn.Module, name: str, file: str | os.PathLike[str], last: str) -> None:
    """Give a model without its last layer the weights in a file."""
    state = read_weights(file)
    try:
        for key in list(state):
            if key.startswith(f"{last}."):
                del state[key]
            else:  # densenets were stored with dots that a module's name may not have any more
                new = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)
                state[new] = state.pop(key)
        model.load_state_dict(state)
    except (AttributeError, TypeError, RuntimeError) as error:
        raise UsageError(f"weights_file '{file}' is not the state_dict of a '{name}' of torchvision") from error
