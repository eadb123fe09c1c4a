"""Figures as inline SVG, coloured by the page's style sheet: light or dark, on a screen or on paper.

Classes: `whole` is all images, `subset` the chosen ones, `random` random subsets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from imgsubset.results.report_data import Histogram, PcaMap, StripPlot
from imgsubset.results.text import format_number

DEFAULT_WIDTH = 460.0


def _svg(height: float, label: str, parts: Sequence[str], width: float = DEFAULT_WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers in a range, at most so many and one more."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= most)
    return [step * number for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def draw_strip_plot(of: StripPlot) -> str:
    """The subset as a diamond among random subsets as dots; what is aimed at is a line."""
    height, left, right, middle = 74.0, 14.0, DEFAULT_WIDTH - 14, 26.0
    values = [*of.random, of.subset, of.whole]
    low, high = min(values), max(values)
    room = (high - low) * 0.03 or abs(high) * 0.03 or 1.0
    low, high = low - room, high + room

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    # Each dot its own height, the same in every drawing: they would hide each other on a line.
    dots = [
        f'<circle cx="{place(value):.1f}" cy="{middle + (number * 7 % 15 - 7) * 1.9:.1f}" r="2.6" class="random dot"/>'
        for number, value in enumerate(of.random)
    ]
    x = place(of.subset)
    diamond = f'<path d="M{x:.1f} {middle - 11} l8 11 l-8 11 l-8 -11 z" class="subset mark"/>'
    aim = [_line(place(of.whole), 4, place(of.whole), 48, "whole aim")]
    axis = [_line(left, 52, right, 52, "axis")]
    for tick in _ticks(low, high):
        axis += [_line(place(tick), 52, place(tick), 56, "axis"), _text(place(tick), 69, format_number(tick), "middle")]
    label = (
        f"{of.name}: {format_number(of.subset)} in the subset; random subsets from {format_number(min(of.random))} to "
        f"{format_number(max(of.random))}; the whole {format_number(of.whole)}"
    )
    return _svg(height, label, [*axis, *aim, *dots, diamond])


def draw_histogram(of: Histogram) -> str:
    """A number's distribution: bars of the whole, lines of the subset and of a random one."""
    height, left, right, top, bottom = 190.0, 42.0, DEFAULT_WIDTH - 22, 10.0, 150.0
    most = max([*of.whole, *of.subset, *of.random]) or 1.0
    width = (right - left) / len(of.whole)

    def y(share: float) -> float:
        return bottom - share / most * (bottom - top)

    bars = [
        f'<rect x="{left + place * width + 0.5:.1f}" y="{y(share):.1f}" width="{width - 1:.1f}" '
        f'height="{bottom - y(share):.1f}" class="whole bar"/>'
        for place, share in enumerate(of.whole)
    ]
    lines = []
    for kind, shares in (("random", of.random), ("subset", of.subset)):
        if not shares:
            continue
        points = [f"{left + (place + end) * width:.1f} {y(s):.1f}" for place, s in enumerate(shares) for end in (0, 1)]
        lines.append(f'<path d="M{" L".join(points)}" class="{kind} step"/>')
    axis = [_line(left, bottom, right, bottom, "axis")]
    axis += [
        _text(left + place * width, bottom + 16, of.names[place], "middle") for place in range(0, len(of.names), 6)
    ]
    axis.append(_text((left + right) / 2, bottom + 34, f"{of.title}{f' ({of.unit})' if of.unit else ''}", "middle"))
    axis += [_text(left - 6, y(share) + 4, f"{share:.0%}", "end") for share in (most, most / 2, 0.0)]
    label = f"{of.title}: shares of images in {len(of.whole)} bins, of the whole, the subset and a random subset"
    return _svg(height, label, [*bars, *lines, *axis])


def draw_class_bars(of: Histogram) -> str:
    """Shares of classes: a row each, a bar of the whole, a diamond of the subset, a dot of a random one."""
    left, right, row = 130.0, DEFAULT_WIDTH - 56, 22.0
    most = max([*of.whole, *of.subset, *of.random]) or 1.0
    parts = []
    for place, name in enumerate(of.names):
        y = 12 + place * row
        x = left + of.subset[place] / most * (right - left)
        dots = [left + share / most * (right - left) for share in of.random[place : place + 1]]
        short = name if len(name) <= 17 else f"{name[:15]}..."
        parts += [
            _text(left - 8, y + 4, short, "end"),
            f'<rect x="{left}" y="{y - 6:.1f}" width="{of.whole[place] / most * (right - left):.1f}" height="12" '
            'class="whole bar"/>',
            *(f'<circle cx="{dot:.1f}" cy="{y:.1f}" r="3.4" class="random dot"/>' for dot in dots),
            f'<path d="M{x:.1f} {y - 8:.1f} l6 8 l-6 8 l-6 -8 z" class="subset mark"/>',
            _text(DEFAULT_WIDTH - 4, y + 4, f"{of.subset[place]:.1%}", "end"),
        ]
    label = f"{of.title}: shares of the whole, the subset and a random subset in {len(of.names)} classes"
    return _svg(12 + len(of.names) * row, label, parts)


def draw_pca_map(of: PcaMap) -> str:
    """All images as a density, the chosen as dots."""
    side = 420.0
    count = len(of.density)
    cell = side / count
    cells = [
        f'<rect x="{x * cell:.1f}" y="{y * cell:.1f}" width="{cell + 0.3:.1f}" height="{cell + 0.3:.1f}" '
        f'class="whole cell" fill-opacity="{value:.2f}"/>'
        for y, row in enumerate(of.density)
        for x, value in enumerate(row)
        if value
    ]
    radius = 2.8 if len(of.points) < 500 else 1.9
    dots = [f'<circle cx="{x * side:.1f}" cy="{y * side:.1f}" r="{radius}" class="subset dot"/>' for x, y in of.points]
    label = "all images as a density and the chosen ones as dots, in the two directions in which they vary most"
    return _svg(side, label, [*cells, *dots], side)


def draw_intervals(rows: Sequence[tuple[str, float, float, float, float]], aim: float | None = None) -> str:
    """Values with the ends of their intervals, a row each: (name, low, value, high, plain mean); the latter a dot.

    aim  where there is a line to hold them against
    """
    left, right, row = 130.0, DEFAULT_WIDTH - 14, 30.0
    every = [number for _, *numbers in rows for number in numbers] + ([] if aim is None else [aim])
    low, high = min(every), max(every)
    room = (high - low) * 0.06 or abs(high) * 0.06 or 1.0
    low, high, bottom = low - room, high + room, 6 + len(rows) * row

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = [] if aim is None else [_line(place(aim), 2, place(aim), bottom, "whole aim")]
    for number, (name, start, value, end, plain_mean) in enumerate(rows):
        y = 18 + number * row
        short = name if len(name) <= 17 else f"{name[:15]}..."
        parts += [
            _text(left - 8, y + 4, short, "end"),
            _line(place(start), y, place(end), y, "subset interval"),
            f'<circle cx="{place(plain_mean):.1f}" cy="{y:.1f}" r="3.4" class="random dot"/>',
            f'<path d="M{place(value):.1f} {y - 9:.1f} l6 9 l-6 9 l-6 -9 z" class="subset mark"/>',
        ]
    parts += [_line(left, bottom, right, bottom, "axis")]
    for tick in _ticks(low, high):
        parts += [_line(place(tick), bottom, place(tick), bottom + 4, "axis")]
        parts += [_text(place(tick), bottom + 18, format_number(tick), "middle")]
    told = "; ".join(
        f"{name} {format_number(value)}, {format_number(start)} to {format_number(end)}"
        for name, start, value, end, _ in rows
    )
    return _svg(bottom + 24, f"estimates with intervals: {told}", parts)


def draw_curve(points: Sequence[tuple[float, float]], across: str, up: str) -> str:
    """A line through points, with axes."""
    height, left, right, top, bottom = 210.0, 60.0, DEFAULT_WIDTH - 12, 12.0, 160.0
    xs, ys = zip(*points, strict=True)
    low, high, most = min(xs), max(xs), max(ys) or 1.0
    spread_of = (high - low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x - low) / spread_of * (right - left), bottom - y / most * (bottom - top)

    drawn = " L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in points))
    axis = [_line(left, bottom, right, bottom, "axis"), _line(left, top, left, bottom, "axis")]
    axis += [_text(place(tick, 0)[0], bottom + 16, f"{tick:,.4g}", "middle") for tick in _ticks(low, high)]
    axis += [_text(left - 6, place(low, tick)[1] + 4, f"{tick:.3g}", "end") for tick in _ticks(0, most, 4)]
    axis += [_text((left + right) / 2, bottom + 36, across, "middle"), _text(left, top - 2, up, "middle")]
    marks = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" class="subset dot"/>' for x, y in (place(*p) for p in points)]
    return _svg(height, f"{up} against {across}", [*axis, f'<path d="M{drawn}" class="subset step"/>', *marks[:40]])
