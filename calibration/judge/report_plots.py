"""Plots of a report as inline SVG; colors are the page's, by class, so that they follow its light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from ..histogram import TensorStatistics
from .report import TensorCost

_WIDTH, _HEIGHT, _AXIS = 420, 96, 18
_COLUMNS = 140  # of a histogram, at most


def number(value: float) -> str:
    """Three digits, without an exponent where that is readable."""
    return "0" if value == 0 else f"{value:.3g}".replace("-", "\u2212")


def histogram(one: TensorCost) -> str:
    """Values on a logarithmic scale, without exact zeros; what the chosen range holds is filled, the rest is marked."""
    statistics = one.statistics
    left, right, heights = _columns(statistics)
    # A bound beyond the extremes, or where they are, holds everything.
    low = left if one.low <= statistics.minimum + statistics.width else one.low
    high = right if one.high >= statistics.maximum - statistics.width else one.high
    span = right - left or 1.0

    def x(value: float) -> float:
        return (value - left) / span * _WIDTH

    edges = np.linspace(0, _WIDTH, len(heights) + 1)
    tops = _HEIGHT * (1 - heights)
    steps = " ".join(f"L{a:.1f} {y:.1f} L{b:.1f} {y:.1f}" for a, b, y in zip(edges, edges[1:], tops, strict=False))
    area = f"M0 {_HEIGHT} {steps} L{_WIDTH} {_HEIGHT} Z"
    clip = f"clip-{one.position + 1}"
    first, last = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
    label = f"Histogram of {one.name}: values {number(statistics.minimum)} to {number(statistics.maximum)}"
    window = f'x="{x(low):.1f}" y="-4" width="{max(x(high) - x(low), 0.8):.1f}" height="{_HEIGHT + 4}"'
    view = f'viewBox="0 -4 {_WIDTH} {_HEIGHT + _AXIS + 6}"'
    parts = [
        f'<svg class="histogram" {view} role="img" aria-label="{escape(label)}">',
        f'<clipPath id="{clip}"><rect {window}/></clipPath>',
        f'<rect class="range" {window}/>',
        f'<path class="outside" d="{area}"/>',
        f'<path class="inside" d="{area}" clip-path="url(#{clip})"/>',
        f'<path class="axis" d="M0 {_HEIGHT} H{_WIDTH}"/>',
    ]
    for value in (low, high):
        parts.append(f'<path class="bound" d="M{x(value):.1f} -4 V{_HEIGHT}"/>')
    if left < 0 < right:
        parts.append(f'<path class="zero" d="M{x(0):.1f} {_HEIGHT} v4"/>')
    parts += [
        f'<text x="0" y="{_HEIGHT + 15}">{number(first)}</text>',
        f'<text x="{_WIDTH}" y="{_HEIGHT + 15}" text-anchor="end">{number(last)}</text>',
    ]
    for value in (low, high):  # bounds are named where that does not run into the ends
        if 0.14 * _WIDTH < x(value) < 0.86 * _WIDTH and not (value == low and high - low < 0.16 * span):
            parts.append(
                f'<text class="bound-name" x="{x(value):.1f}" y="{_HEIGHT + 15}" text-anchor="middle">{number(value)}'
                "</text>"
            )
    return "".join([*parts, "</svg>"])


def _columns(statistics: TensorStatistics) -> tuple[float, float, np.ndarray]:
    """First and last edge of what is occupied (zero included), and heights of 0 .. 1 in between."""
    counts = statistics.counts.copy()
    zero = statistics.bin_of(0.0)
    counts[zero] -= statistics.zeros
    occupied = np.flatnonzero(statistics.counts)
    first, last = min(int(occupied[0]), zero), max(int(occupied[-1]), zero if statistics.minimum < 0 else 0) + 1
    merge = max(1, math.ceil((last - first) / _COLUMNS))
    columns = math.ceil((last - first) / merge)
    last = min(first + columns * merge, len(counts))
    padded = np.zeros(columns * merge)
    padded[: last - first] = counts[first:last]
    logarithms = np.log10(1 + padded.reshape(columns, merge).sum(axis=1))
    edges = statistics.low + statistics.width * np.array([first, first + columns * merge])
    return float(edges[0]), float(edges[1]), logarithms / max(float(logarithms.max()), 1e-9)


def through_the_network(tensors: Sequence[TensorCost]) -> str:
    """SQNR in the order of execution: measured as dots, estimated as ticks, stages as bands."""
    ordered = sorted(tensors, key=lambda one: one.position)
    width, height, left = 960, 240, 36
    values = [
        v
        for one in ordered
        for v in (one.estimated_sqnr_db, one.measured_sqnr_db)
        if v is not None and math.isfinite(v)
    ]
    if not values:
        return ""
    bottom, top = math.floor(min(values) / 5) * 5, math.ceil(max(values) / 5) * 5
    top = max(top, bottom + 5)

    def x(index: float) -> float:
        return left + (index + 0.5) * (width - left) / len(ordered)

    def y(value: float) -> float:
        return height * (top - value) / (top - bottom)

    parts = [
        f'<svg class="profile" viewBox="0 -8 {width} {height + 34}" role="img" '
        'aria-label="Signal-to-quantization-noise ratio of every tensor in the order of execution">'
    ]
    for level in range(bottom, top + 1, 5):
        parts.append(f'<path class="grid" d="M{left} {y(level):.1f} H{width}"/>')
        parts.append(f'<text x="{left - 8}" y="{y(level) + 4:.1f}" text-anchor="end">{level}</text>')
    start = 0
    for index in range(1, len(ordered) + 1):
        if index == len(ordered) or ordered[index].stage != ordered[start].stage:
            middle = (x(start) + x(index - 1)) / 2
            if index < len(ordered):
                parts.append(f'<path class="stage" d="M{x(index - 0.5):.1f} 0 V{height}"/>')
            if index - start >= 4 or index - start >= len(ordered[start].stage) * len(ordered) / 170:
                parts.append(
                    f'<text x="{middle:.1f}" y="{height + 20}" text-anchor="middle">{ordered[start].stage}</text>'
                )
            start = index
    for index, one in enumerate(ordered):
        for kind, value in (("estimated", one.estimated_sqnr_db), ("measured", one.measured_sqnr_db)):
            if value is None or not math.isfinite(value):
                continue
            title = f"<title>{escape(one.name)}: {value:.1f} dB, {kind}</title>"
            if kind == "estimated":
                parts.append(f'<path class="estimate" d="M{x(index) - 3:.1f} {y(value):.1f} h6">{title}</path>')
            else:
                parts.append(f'<circle cx="{x(index):.1f}" cy="{y(value):.1f}" r="3.2">{title}</circle>')
    return "".join([*parts, "</svg>"])
