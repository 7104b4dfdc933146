"""Contours: lines of equal U and of equal V on every part, and the parts' outlines, over a darkened person."""

from __future__ import annotations

import numpy as np

from ..decoders import DetectionResult
from ..decoders.base import DetectedPerson
from ..decoders.layers import Contours
from ..decoders.palettes import viridis
from .blending import bands, best_last, line_width, mixed, mixture

_SHADE = 0.45  # how much a person is darkened under contours
_SMOOTHING = 120  # the reach of a blur is a person's size over this
_FLAT = 1e-3  # levels per pixel


def draw_contours(canvas: np.ndarray, result: DetectionResult, layer: Contours, alpha: float | None) -> None:
    """Draw ``layer`` of everybody, in place."""
    width = 1.25 * line_width(canvas)
    opacity = 1 if alpha is None else alpha
    regions = _regions(canvas.shape[:2], result, layer)
    for k in range(len(result)):
        there, _ = result.person(k).windows(*canvas.shape[:2])
        mine = (_first_region(k, layer), layer.count)
        _shade_and_outline(canvas[there], regions, there, mine, width, opacity)
    for k in range(len(result)):
        _draw_isolines(canvas, regions, result.person(k), layer, _first_region(k, layer), width, opacity)


def _first_region(k: int, layer: Contours) -> int:
    """Person k's regions have this number plus 1 .. ``layer.count`` in ``_regions``."""
    return (k + 1) * (layer.count + 1)


def _regions(size: tuple[int, int], result: DetectionResult, layer: Contours) -> np.ndarray:
    """A number of its own for every region of every person, 0 for background: unsigned [h, w], narrow as possible."""
    regions = np.zeros(size, np.min_scalar_type(_first_region(len(result), layer)))
    for k in best_last(result):
        person = result.person(k)
        there, here = person.windows(*size)
        target = regions[there]
        for rows in bands(there):
            labels = layer.regions(person)[here][rows]
            np.add(labels, _first_region(k, layer), out=target[rows], where=labels > 0, dtype=regions.dtype)
    return regions


def _shade_and_outline(
    pixels: np.ndarray,
    regions: np.ndarray,
    window: tuple[slice, slice],
    numbers: tuple[int, int],
    width: float,
    opacity: float,
) -> None:
    """Darken a person, whose window of the canvas ``pixels`` is, and draw white lines along the edges of the regions.

    ``numbers``: what the person's regions begin after, and how many there are.

    Lines stand out from a darker person. Only pixels whose region is one of the person's are touched.
    """
    dark, light = mixed(0, _SHADE * opacity), mixed(255, 0.6 * opacity)
    reach = round(width / 2) if width >= 2 else 0
    for rows in bands(window):
        band = (slice(window[0].start + rows.start, window[0].start + rows.stop), window[1])
        # A pixel's edge depends on what is around it.
        wide, inner = _widened(band, regions.shape, reach + 1)
        around = regions[wide]
        mine = around[inner]
        mine = (mine > numbers[0]) & (mine <= sum(numbers))
        target = pixels[rows]
        target[mine] = dark[target[mine]]
        edge = _outlines(around, reach)[inner] & mine
        target[edge] = light[target[edge]]


def _widened(
    window: tuple[slice, slice], size: tuple[int, ...], margin: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The window with a margin as far as the canvas reaches, and where the window is in it."""
    wide, inner = [], []
    for one, length in zip(window, size, strict=True):
        start = max(one.start - margin, 0)
        wide.append(slice(start, min(one.stop + margin, length)))
        inner.append(slice(one.start - start, one.stop - start))
    return (wide[0], wide[1]), (inner[0], inner[1])


def _outlines(regions: np.ndarray, reach: int) -> np.ndarray:
    """Pixels within ``reach`` of an edge between two regions, or of one to the background: bool [h, w]."""
    edge = np.zeros(regions.shape, bool)
    for axis in (0, 1):
        here, there = _neighbors(axis)
        differs = regions[here] != regions[there]
        edge[here] |= differs
        edge[there] |= differs & (regions[here] == 0)
    for axis in (0, 1):  # wider: the maximum of a square, one axis after the other
        source = edge.copy()
        for step in range(1, reach + 1):
            here, there = _neighbors(axis, step)
            edge[here] |= source[there]
            edge[there] |= source[here]
    return edge


def _neighbors(axis: int, step: int = 1) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Index expressions of all pixels but the last ``step`` along ``axis``, and of those that far behind them."""
    here, there = [slice(None), slice(None)], [slice(None), slice(None)]
    here[axis], there[axis] = slice(None, -step), slice(step, None)
    return tuple(here), tuple(there)


def _draw_isolines(
    canvas: np.ndarray,
    regions: np.ndarray,
    person: DetectedPerson,
    layer: Contours,
    first: int,
    width: float,
    opacity: float,
) -> None:
    """Lines of equal U and of equal V, part by part: charts do not continue into each other."""
    there, here = person.windows(*canvas.shape[:2])
    labels, coordinates = layer.regions(person)[here], layer.coordinates(person)[(slice(None), *here)]
    extent = max(person.size)
    count = int(np.clip(extent / (20 * width), 3, 10))  # lines that are too close run into each other
    colors = viridis(0.15 + 0.85 * np.arange(count + 1) / count)
    for part in range(1, layer.count + 1):
        mask = labels == part
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            continue
        crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # Not a view, which would keep a mask of the whole person.
        mask = mask[crop].copy()
        visible = regions[there][crop] == first + part  # somebody may stand before it
        pixels = canvas[there][crop]
        weights = np.maximum(_box_sum(mask.astype(np.float32), round(extent / _SMOOTHING)), 1e-6)
        for chart in coordinates:
            values = _blur_inside(np.nan_to_num(chart[crop]), mask, weights, round(extent / _SMOOTHING))
            values *= count
            level, coverage = _isolines(values, visible, width)
            # The first and the last level are the part's edges.
            at = np.nonzero((coverage > 0) & (level > 0) & (level < count))
            line = colors[level[at].astype(np.intp)]
            pixels[at] = mixture(pixels[at], line, (coverage[at] * opacity)[:, None])


def _isolines(values: np.ndarray, visible: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """The nearest level of each pixel, and how much of it, 0 .. 1, a line of ``width`` pixels along that level covers.

    A pixel's distance from a line is what its value lacks to the integer, over the slope there; coverage falls off over
    one pixel. Slopes are taken between visible pixels alone.
    """
    squares = np.zeros(values.shape, np.float32)
    for axis in (0, 1):
        here, there = _neighbors(axis)
        step = np.where(visible[here] & visible[there], np.abs(values[there] - values[here]), np.float32(0))
        slope = np.zeros_like(squares)
        slope[here] = step
        slope[there] = np.maximum(slope[there], step)
        slope *= slope
        squares += slope
    slope = np.sqrt(squares, out=squares)
    level = np.round(values)
    coverage = np.abs(values - level)
    coverage /= np.maximum(slope, np.float32(_FLAT))
    coverage = np.clip(np.float32((width + 1) / 2) - coverage, 0, 1)
    # A flat chart has no lines, only blots; where it is steeper than lines can follow there is only noise.
    coverage *= visible & (slope > np.float32(_FLAT)) & (slope < np.float32(0.5 / width))
    return level, coverage


def _blur_inside(values: np.ndarray, mask: np.ndarray, weights: np.ndarray, reach: int) -> np.ndarray:
    """Three running means along each axis, nearly a Gaussian, of the values inside ``mask`` alone; 0 outside.

    The network's coarse maps leave steps at a person's size, which lines would follow.

    Args:
        weights: how much of the mask is within ``reach`` of each pixel.
    """
    for _ in range(3):
        values = _box_sum(np.where(mask, values, np.float32(0)), reach)
        values /= weights
        values *= mask
    return values


def _box_sum(values: np.ndarray, reach: int) -> np.ndarray:
    """float32 [h, w]: the sum over each pixel and its ``reach`` neighbors along both axes."""
    height, width = values.shape
    # Down the columns: a row of sums that gains what enters the window and loses what leaves it. In float64 nothing of
    # what was added is left over when it is taken away.
    total = values[: reach + 1].sum(axis=0, dtype=np.float64)
    sums = np.empty_like(values)
    sums[0] = total
    for row in range(1, height):
        if row + reach < height:
            total += values[row + reach]
        if row - reach > 0:
            total -= values[row - reach - 1]
        sums[row] = total
    # Along the rows the same, as a difference of running totals, which stand still before the first and after the last.
    for rows in bands((slice(0, height), slice(0, width))):
        ends = np.empty((rows.stop - rows.start, width + 2 * reach + 1))
        ends[:, : reach + 1] = 0
        np.cumsum(sums[rows], axis=1, dtype=np.float64, out=ends[:, reach + 1 : reach + 1 + width])
        ends[:, reach + 1 + width :] = ends[:, reach + width, None]
        np.subtract(ends[:, 2 * reach + 1 :], ends[:, :width], out=sums[rows], casting="same_kind")
    return sums
