"""The one figure of a subset, for a paper or a pull request."""

from __future__ import annotations

import io
from typing import Any

from imgsubset.errors import UsageError
from imgsubset.results.evidence import ReportData
from imgsubset.results.scores import Score

# Of Okabe and Ito (2008), whom most colour-blind readers can tell apart; grey for what is random.
BLUE, GREY = "#0072b2", "#8c959f"
MATPLOTLIB_MISSING = "a plot needs a library that is not installed: pip install 'imgsubset[report]'"


def draw_plot(score: Score, evidence: ReportData, kind: str) -> bytes:
    """The subset's losses among those of random subsets, and the chosen among all images.

    kind  png, svg or pdf

    Raises UsageError where Matplotlib is not installed.
    """
    try:
        import numpy as np
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(MATPLOTLIB_MISSING) from None
    strips = evidence.strip_plots[:2]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    count = 2 if evidence.map else 1
    axes = figure.subplots(1, count, width_ratios=[1.6, 1][:count], squeeze=False)[0]
    _draw_strip_plots(axes[0], [(strip.name, strip.subset, strip.random) for strip in strips])
    size = "" if score.effective_size is None else f"like about {score.effective_size:,.0f} random images"
    axes[0].set_title(size, loc="left", fontsize=11)
    if evidence.map:
        axes[1].imshow(
            np.array(evidence.map.density), cmap="Greys", extent=(0, 1, 1, 0), vmax=1.6, interpolation="bilinear"
        )
        x, y = np.array(evidence.map.points).T
        axes[1].scatter(x, y, s=8, color=BLUE, edgecolor="white", linewidth=0.4)
        axes[1].set(xticks=[], yticks=[], xlabel="first principal component", ylabel="second")
        axes[1].set_title("chosen among all images", loc="left", fontsize=11)
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def _draw_strip_plots(axes: Any, strips: list[tuple[str, float, tuple[float, ...]]]) -> None:
    for row, (_, subset, random) in enumerate(strips):
        height = [row + (place * 7 % 15 - 7) * 0.025 for place in range(len(random))]  # dots would hide each other
        axes.scatter(
            random, height, s=10, color=GREY, alpha=0.5, linewidth=0, label="random subsets" if not row else None
        )
        axes.scatter([subset], [row], s=70, marker="D", color=BLUE, zorder=3, label="this subset" if not row else None)
    axes.axvline(0, color="black", linestyle="--", linewidth=1)
    names = [
        name.removeprefix("Loss in ").replace(" that the search did not see", "\nnot searched") for name, _, _ in strips
    ]
    axes.set_yticks(range(len(strips)), names)
    axes.set(xlabel="loss (1: an average random subset)", ylim=(len(strips) - 0.5, -0.6))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
