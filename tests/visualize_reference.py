"""Overlays drawn the plain way, on whole canvases: what ``densepose_engine.outputs.overlays`` must not differ from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from densepose_engine.pictures.read import to_rgb_array
from densepose_engine.result import PARTS, DensePoseResult

if TYPE_CHECKING:
    from densepose_engine.pictures.read import Picture

# Hues follow the body (torso blue, hands yellow, feet red, upper and lower legs violet and pink, upper and lower arms
# green and cyan, head orange); lightness tells left from right and one face of a limb from the other. Evenly spaced in
# OKLCH. In the order of the labels 1 .. 24.
PART_COLORS = np.frombuffer(
    bytes.fromhex(
        "026fd7 02a9f7 b4cc08 e7e824 fe825c da4433 763ebd a95dda 9270f4 c598ff bd307d e9548d "
        "ed65b9 fd9ac6 029e72 077649 0fd18b 0fa757 1bb3ba 028a9b 1ee6e7 0dc1d0 e19005 fdc010"
    ),
    np.uint8,
).reshape(PARTS, 3)

# Sixteen evenly spaced samples of matplotlib's viridis (CC0); it is close to linear in between.
_VIRIDIS = (
    np.frombuffer(
        bytes.fromhex(
            "440154 481a6c 472f7d 414487 39568c 31688e 2a788e 23888e "
            "1f988b 22a884 35b779 54c568 7ad151 a5db36 d2e21b fde725"
        ),
        np.uint8,
    )
    .reshape(16, 3)
    .astype(np.float32)
)

_FIELD_ALPHA = 0.65
_SHADE = 0.45  # how much a person is darkened under contours
_SMOOTHING = 120  # the reach of a blur is a person's size over this
_FLAT = 1e-3  # levels per pixel

_BOX_COLORS = ("#ffd166", "#06d6a0", "#ef476f", "#4cc9f0", "#f78c6b", "#b8f35d", "#c77dff", "#f1faee")


def draw(
    image: Picture, result: DensePoseResult, what: str | Sequence[str] = "parts", alpha: float | None = None
) -> np.ndarray:
    """The picture with the result drawn over it.

    Args:
        image: what ``to_rgb_array`` takes, of the size that the result is of.
        what: one of these, or several, drawn in the order given:
            "parts" -- every part of the body in a color of its own;
            "u", "v" -- the coordinate on the part's chart, from dark blue (0) to yellow (1);
            "contours" -- lines of equal U and of equal V in the same colors, and the parts' outlines;
            "boxes" -- the boxes and their scores.
        alpha: opacity, 0 .. 1; by default 0.65 of color fields and 1 of lines.

    Where people overlap, the one with the higher score is on top. Lines are scaled with the picture.

    Returns:
        A new uint8 RGB array of the picture's shape.

    Raises:
        TypeError, ValueError, ImageError: as ``to_rgb_array``; an unknown ``what``; a picture of another size.
    """
    names = (what,) if isinstance(what, str) else tuple(what)
    for name in names:
        if name not in LAYERS:
            raise ValueError(f"what must be one of {', '.join(LAYERS)} or several of them, not {name!r}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, not {alpha!r}")
    canvas = to_rgb_array(image).copy()
    if canvas.shape[:2] != tuple(result.image_size):
        raise ValueError(
            f"the picture has {canvas.shape[0]} x {canvas.shape[1]} pixels (height x width), "
            f"the result is of one with {result.image_size[0]} x {result.image_size[1]}"
        )
    for name in names:
        LAYERS[name](canvas, result, alpha)
    return canvas


# ---- color fields ---------------------------------------------------------------------------------------------------


def _blend(canvas: np.ndarray, color: np.ndarray, opacity: np.ndarray) -> None:
    """In place. canvas uint8 [h, w, 3]; color of the same shape, 0 .. 255; opacity [h, w]."""
    inside = opacity > 0  # most of a picture is background
    below, strength = canvas[inside].astype(np.float32), opacity[inside, None].astype(np.float32)
    canvas[inside] = (below + (color[inside] - below) * strength + 0.5).astype(np.uint8)


def _viridis(values: np.ndarray) -> np.ndarray:
    """Values of 0 .. 1, clipped to it, as float32 RGB of 0 .. 255."""
    position = np.clip(values, 0, 1) * (len(_VIRIDIS) - 1)
    low = np.minimum(position.astype(int), len(_VIRIDIS) - 2)
    fraction = (position - low)[..., None].astype(np.float32)
    return _VIRIDIS[low] * (1 - fraction) + _VIRIDIS[low + 1] * fraction


def _draw_parts(canvas: np.ndarray, result: DensePoseResult, alpha: float | None) -> None:
    labels = result.iuv()[..., 0]
    colors = PART_COLORS[np.clip(labels, 1, PARTS) - 1]
    _blend(canvas, colors, (labels > 0) * (_FIELD_ALPHA if alpha is None else alpha))


def _draw_coordinate(channel: int, canvas: np.ndarray, result: DensePoseResult, alpha: float | None) -> None:
    iuv = result.iuv()
    colors = _viridis(np.arange(256) / 255)[iuv[..., channel]]
    _blend(canvas, colors, (iuv[..., 0] > 0) * (_FIELD_ALPHA if alpha is None else alpha))


# ---- contours --------------------------------------------------------------------------------------------------------


def _draw_contours(canvas: np.ndarray, result: DensePoseResult, alpha: float | None) -> None:
    width = 1.25 * _line_width(canvas)
    regions, values, levels = _smooth_charts(canvas.shape[:2], result, width)
    opacity = 1 if alpha is None else alpha
    _blend(canvas, np.zeros_like(canvas), (regions > 0) * (_SHADE * opacity))  # lines stand out from a darker person
    white = np.full_like(canvas, 255)
    _blend(canvas, white, _outlines(regions, width) * (0.6 * opacity))
    for plane in values:
        level = np.round(plane)
        inner = (level > 0) & (level < levels)  # the first and the last are the part's edges
        colors = _viridis(0.15 + 0.85 * level / np.maximum(levels, 1))
        _blend(canvas, colors, _isolines(plane, regions, width) * inner * opacity)


def _smooth_charts(
    size: tuple[int, int], result: DensePoseResult, width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Everybody's charts in one canvas, without the steps that the network's coarse maps leave at a person's size.

    Returns:
        regions: int32 [h, w], a number of its own for every part of every person, 0 for background.
        values: float32 [2, h, w], U and V times the number of levels of that person.
        levels: int32 [h, w], that number. Lines that are too close run into each other: small people get fewer.
    """
    regions, levels = np.zeros(size, np.int32), np.zeros(size, np.int32)
    values = np.zeros((2, *size), np.float32)
    for k in np.argsort(result.scores, kind="stable").tolist():
        person = result.person(k)
        there, here = person.windows(*size)
        labels, uv = person.labels[here], np.nan_to_num(person.uv[(slice(None), *here)])
        extent = max(person.labels.shape)
        count = int(np.clip(extent / (20 * width), 3, 10))
        for part in np.unique(labels[labels > 0]).tolist():
            mask = labels == part
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            mask = mask[crop]
            regions[there][crop][mask] = (k + 1) * (PARTS + 1) + part
            levels[there][crop][mask] = count
            for plane, chart in zip(values, uv, strict=True):
                plane[there][crop][mask] = _blur_inside(chart[crop], mask, extent / _SMOOTHING)[mask] * count
    return regions, values, levels


def _blur_inside(values: np.ndarray, mask: np.ndarray, reach: float) -> np.ndarray:
    """Three running means along each axis, nearly a Gaussian, of the values inside ``mask`` alone; 0 outside."""
    inside = mask.astype(np.float32)
    weights = np.maximum(_box_sum(inside, round(reach)), 1e-6)
    for _ in range(3):
        values = _box_sum(np.where(mask, values, 0), round(reach)) / weights * inside
    return values


def _box_sum(values: np.ndarray, reach: int) -> np.ndarray:
    for axis in (0, 1):
        values = _running_sum(values, reach, axis)
    return values


def _running_sum(values: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """The sum over each element and its ``reach`` neighbors on either side."""
    length = values.shape[axis]
    ends = np.cumsum(values, axis=axis, dtype=np.float64)
    ends = np.concatenate([np.zeros_like(ends.take([0], axis)), ends], axis)
    index = np.arange(length)
    total = ends.take(np.minimum(index + reach + 1, length), axis) - ends.take(np.maximum(index - reach, 0), axis)
    return total.astype(np.float32)


def _isolines(values: np.ndarray, regions: np.ndarray, width: float) -> np.ndarray:
    """How much of each pixel, 0 .. 1, is covered by lines of ``width`` pixels where ``values`` is an integer.

    A pixel's distance from a line is what its value lacks to the integer, over the slope there; coverage falls off over
    one pixel. Slopes are taken inside a region alone: charts do not continue into each other.
    """
    squares = np.zeros(values.shape, np.float32)
    for axis in (0, 1):
        here, there = _neighbors(axis)
        step = np.where(regions[here] == regions[there], np.abs(values[there] - values[here]), 0)
        slope = np.zeros_like(squares)
        slope[here] = step
        slope[there] = np.maximum(slope[there], step)
        squares += slope**2
    slope = np.sqrt(squares)
    lack = np.abs(values - np.round(values))
    coverage = np.clip((width + 1) / 2 - lack / np.maximum(slope, _FLAT), 0, 1)
    # A flat chart has no lines, only blots; where it is steeper than lines can follow there is only noise.
    return coverage * ((regions > 0) & (slope > _FLAT) & (slope < 0.5 / width))


def _outlines(regions: np.ndarray, width: float) -> np.ndarray:
    """Pixels of a region within about ``width`` of another region or of the background: bool [h, w]."""
    edge = np.zeros(regions.shape, bool)
    for axis in (0, 1):
        here, there = _neighbors(axis)
        differs = regions[here] != regions[there]
        edge[here] |= differs
        edge[there] |= differs & (regions[here] == 0)
    if width >= 2:
        edge = _box_sum(edge.astype(np.float32), round(width / 2)) > 0
    return edge & (regions > 0)


def _neighbors(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Index expressions of all pixels but the last ones along ``axis``, and of their successors."""
    here, there = [slice(None), slice(None)], [slice(None), slice(None)]
    here[axis], there[axis] = slice(None, -1), slice(1, None)
    return tuple(here), tuple(there)


# ---- boxes -----------------------------------------------------------------------------------------------------------


def _line_width(canvas: np.ndarray) -> float:
    return max(1.0, min(canvas.shape[:2]) / 480)


def _draw_boxes(canvas: np.ndarray, result: DensePoseResult, alpha: float | None) -> None:
    from PIL import Image, ImageDraw, ImageFont

    layer = Image.fromarray(canvas)
    pen = ImageDraw.Draw(layer)
    width = round(1.5 * _line_width(canvas))
    font = ImageFont.load_default(size=max(11, round(min(canvas.shape[:2]) / 36)))
    for k in np.argsort(result.scores, kind="stable").tolist():
        x0, y0, x1, y1 = result.boxes[k].tolist()
        color = _BOX_COLORS[k % len(_BOX_COLORS)]
        pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=color, width=width)
        text = f"{result.scores[k]:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        height = bottom - top + 6
        y = y0 - height if y0 >= height else y0  # inside the box where there is no room above it
        pen.rectangle((x0, y, x0 + right - left + 7, y + height), fill=color)
        pen.text((x0 + 4 - left, y + 3 - top), text, fill="black", font=font)
    drawn = np.asarray(layer)
    _blend(canvas, drawn, (drawn != canvas).any(axis=-1) * (1 if alpha is None else alpha))


LAYERS: dict[str, Callable[[np.ndarray, DensePoseResult, float | None], None]] = {
    "parts": _draw_parts,
    "u": partial(_draw_coordinate, 1),
    "v": partial(_draw_coordinate, 2),
    "contours": _draw_contours,
    "boxes": _draw_boxes,
}
"""What ``draw`` can draw."""
