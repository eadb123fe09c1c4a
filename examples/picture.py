"""Draws demo.png, the picture of the README: some of the demo's images, as many random ones, and the chosen.

imgsubset demo trial && python examples/picture.py trial examples/demo.png
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from imgsubset.writing.manifest import read_manifest

ACROSS, COLOURS = 20, ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")


def sheet(paths: list[Path]) -> Image.Image:
    """Images side by side, twenty in a row."""
    down = -(-len(paths) // ACROSS)
    picture = Image.new("RGB", (34 * ACROSS, 34 * down), "white")
    for place, path in enumerate(paths):
        picture.paste(Image.open(path).convert("RGB").resize((32, 32)), (34 * (place % ACROSS), 34 * (place // ACROSS)))
    return picture


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    manifest = read_manifest(folder / "subset")
    chosen = [folder / "source" / path for path in sorted(manifest.hashes)]
    every = sorted(path for path in (folder / "source").rglob("*") if path.is_file())
    drawn = sorted(random.Random(0).sample(every, len(chosen)))
    size = manifest.record["score"]["effective_size"]
    sets = {f"the whole: {len(every):,} images": every, f"{len(drawn)} at random": drawn,
            f"the {len(chosen)} chosen: like {size:,.0f} at random": chosen}  # fmt: skip
    names = sorted({path.parent.name for path in every})
    figure = Figure(figsize=(9.6, 1.75), layout="constrained")
    axes = figure.subplots(2, 3, height_ratios=[5, 1])
    for column, (title, paths) in enumerate(sets.items()):
        shown = paths if len(paths) <= len(chosen) else sorted(random.Random(1).sample(paths, len(chosen)))
        axes[0, column].imshow(sheet(shown))
        axes[0, column].set_title(title, fontsize=9)
        axes[0, column].axis("off")
        counts, left = Counter(path.parent.name for path in paths), 0.0
        for name, colour in zip(names, COLOURS, strict=False):
            share = counts[name] / len(paths)
            axes[1, column].barh(0, share, left=left, color=colour)
            if share > 0.06:
                axes[1, column].text(left + share / 2, 0, f"{share:.0%}", ha="center", va="center", fontsize=7)
            left += share
        axes[1, column].set_xlim(0, 1)
        axes[1, column].axis("off")
    axes[1, 0].set_title("shares of the five kinds", fontsize=7, loc="left", pad=1)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
