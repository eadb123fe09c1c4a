"""Pixels to what the Inception network of the published FID makes of them, by torch-fidelity."""

from __future__ import annotations

import io
import os
from typing import Any

import torch
from torch import Tensor

from imgsubset.errors import UsageError, one_line
from imgsubset.features.pretrained import read_weights

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
            f"cannot get the weights of the FID's network ({one_line(error)[:200]}); download {url} elsewhere, and name "
            "that file by --weights-file (weights_file)"
        ) from error
