"""Features of pretrained networks: torchvision's models by name, and the Inception network of the FID."""

from __future__ import annotations

import difflib
import io
import os
import re
from typing import Any

import torch
from torch import Tensor
from torchvision import models

from imgsubset.decoding.decode import silence_libraries
from imgsubset.errors import UsageError, one_line


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
            f"cannot get the weights of '{name}' ({one_line(error)}); download {weights.url} elsewhere, and name "
            "that file "
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


INCEPTION_LAYERS = {
    64: ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    192: ("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    768: ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    2048: ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
}
"""The layers of the network, in order, each after that before it, by how many numbers the last of them gives."""


class Inception(torch.nn.Module):
    """The Inception-v3 network of the FID (Heusel et al., NIPS 2017), as torch-fidelity has it: a vector.

    numbers       how many: 64, 192, 768 or 2048, those of the layers that the FID is known for
    weights_file  the state_dict of torch-fidelity's network, as it is downloaded; nothing but tensors is read from it.
                  None: it is downloaded once, and kept where torch keeps such files

    Raises UsageError where torch-fidelity is not installed, and for weights that are not there, or another network's.
    """

    raw = True

    def __init__(self, numbers: int, weights_file: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        network = _load_inception(numbers, weights_file)
        names = [name for length, part in INCEPTION_LAYERS.items() if length <= numbers for name in part]
        self.layers = torch.nn.Sequential(*(getattr(network, name) for name in names))
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """A vector (B, C, 1, 1) of float32 pixels (B, 299, 299, 3) in [0, 255]: the mean over all positions."""
        maps: Tensor = self.layers((pixels.permute(0, 3, 1, 2).float().contiguous() - 128) / 128)
        return torch.nn.functional.adaptive_avg_pool2d(maps, 1)


def _load_inception(numbers: int, file: str | os.PathLike[str] | None) -> torch.nn.Module:
    """torch-fidelity's, with its weights."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity
    except ImportError:
        raise UsageError(f"feature inception{numbers} needs torch-fidelity: pip install 'imgsubset[fid]'") from None
    state = _download_inception_weights(fidelity.URL_INCEPTION_V3) if file is None else read_weights(file)
    # It would unpickle whatever a file holds: it is given what was read safely.
    safe = io.BytesIO()
    torch.save(state, safe)
    safe.seek(0)
    try:
        with torch.random.fork_rng(devices=()):  # it draws weights in vain
            network: torch.nn.Module = fidelity.FeatureExtractorInceptionV3("inception", [str(numbers)], safe)
    except (AttributeError, TypeError, RuntimeError) as error:
        what = f"weights_file '{file}'" if file is not None else "what was downloaded"
        raise UsageError(f"{what} is not the state_dict of torch-fidelity's Inception network") from error
    return network


def _download_inception_weights(url: str) -> Any:
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, weights_only=True)
    except Exception as error:  # of the network, of the disk, of a file that is cut short
        raise UsageError(
            f"cannot get the weights of the FID's network ({one_line(error)[:200]}); download {url} elsewhere, "
            "and name "
            "that file by --weights-file (weights_file)"
        ) from error
