"""The program that imgsubset is measured against: one thread, torchvision's transforms, batches of 64.

python examples/benchmarks/plain.py FOLDER [LIMIT] prints how long it takes to reduce a folder to moments.
"""

import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import Compose, Resize, ToTensor


def plain_moments(paths: list[Path], weights: list[torch.Tensor], size: int = 64) -> torch.Tensor:
    """Mean and mean square (N, 2 C) of a CNN's features over positions, on one thread."""
    transform = Compose([Resize((size, size)), ToTensor()])
    rows = []
    for start in range(0, len(paths), 64):
        batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths[start : start + 64]])
        rows.append(maps_to_rows(plain_cnn(batch * 2 - 1, weights)))
    return torch.cat(rows)


def plain_cnn(images: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    """Feature maps of images (B, 3, H, W)."""
    for weight in weights:
        images = torch.relu(torch.conv2d(images, weight, stride=2, padding=weight.shape[-1] // 2))
    return images


def maps_to_rows(maps: torch.Tensor) -> torch.Tensor:
    """Rows (B, 2 C) of moments."""
    return torch.cat([maps.mean((2, 3)), maps.square().mean((2, 3))], 1)


def plain_weights(channels: tuple[int, ...] = (16, 32, 64)) -> list[torch.Tensor]:
    """He-normal weights of a random CNN."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(outputs, inputs, 3, 3) for inputs, outputs in zip((3, *channels), channels, strict=False)]
    return [torch.randn(shape, generator=generator) * (2 / (9 * shape[1])) ** 0.5 for shape in shapes]


def main() -> None:
    folder, *limit = sys.argv[1:]
    suffixes = {".jpg", ".jpeg", ".png"}
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in suffixes)
    torch.set_num_threads(1)
    start = time.perf_counter()
    with torch.inference_mode():
        rows = plain_moments(paths[: int(limit[0]) if limit else None], plain_weights())
    print(f"{len(rows)} images in {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
