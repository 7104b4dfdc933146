"""Overlays of a result on its picture, made with numpy; Pillow draws boxes and writes their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from ..decoders import DetectionResult
from ..decoders.layers import BOXES, ColorField, Contours, Layer
from ..pictures.read import to_rgb_array
from .blending import bands, best_last, line_width, mixture
from .contours import draw_contours

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from ..pictures.read import Picture

_BOX_COLORS = ("#ffd166", "#06d6a0", "#ef476f", "#4cc9f0", "#f78c6b", "#b8f35d", "#c77dff", "#f1faee")


_Result = TypeVar("_Result", bound=DetectionResult)

#: People with a higher score are drawn. A result, which is data, has what the model's configuration asks for, and that
#: are many whom nobody would see in the picture.
SCORE_THRESHOLD = 0.5


def draw(
    image: Picture,
    result: DetectionResult,
    what: str | Layer | Sequence[str | Layer] | None = None,
    alpha: float | None = None,
    score_threshold: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """The picture with the people of the result drawn over it.

    Args:
        image: what ``to_rgb_array`` takes, of the size that the result is of.
        what: one of these, or several, drawn in the order given; None is the first that the result has:
            "parts" -- every part of the body in a color of its own;
            "u", "v" -- the coordinate on the part's chart, from dark blue (0) to yellow (1);
            "contours" -- lines of equal U and of equal V in the same colors, and the parts' outlines;
            "vertex" -- colors that change smoothly along the surface, of networks with embeddings;
            "dp_vertex" -- as detectron2 draws these: blue to red over a grey picture;
            "boxes" -- the boxes and their scores;
            what ``outputs.surface`` makes of a mesh file: positions in space, a texture.
        alpha: opacity, 0 .. 1; by default 0.65 of color fields (0.7 of dp_vertex) and 1 of lines.
        score_threshold: people with a score above this are drawn; 0 draws everybody who was found.

    Where people overlap, the one with the higher score is on top. Lines are scaled with the picture.

    Returns:
        A new uint8 RGB array of the picture's shape.

    Raises:
        TypeError, ValueError, ImageError: as ``to_rgb_array``; an unknown ``what``; a picture of another size; an
            ``alpha`` or ``score_threshold`` that is not from 0 to 1.

    >>> from densepose_engine import Engine
    >>> with Engine.load("demo.engine") as engine:
    ...     overlay = draw("person.jpg", engine.infer("person.jpg"), ["contours", "boxes"])
    >>> overlay.shape, overlay.dtype
    ((342, 512, 3), dtype('uint8'))
    """
    if what is None:
        what = next(iter(result.layers))
    wanted = (what,) if isinstance(what, str | ColorField | Contours) else tuple(what)
    for name in wanted:
        if not isinstance(name, ColorField | Contours) and name not in (known := (*result.layers, BOXES)):
            raise ValueError(f"what must be one of {', '.join(known)} or several of them, not {name!r}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, not {alpha!r}")
    _check_threshold(score_threshold)
    canvas = to_rgb_array(image).copy()
    if canvas.shape[:2] != tuple(result.image_size):
        raise ValueError(
            f"the picture has {canvas.shape[0]} x {canvas.shape[1]} pixels (height x width), "
            f"the result is of one with {result.image_size[0]} x {result.image_size[1]}"
        )
    shown = people_above(result, score_threshold)
    for name in wanted:
        layer = result.layers.get(name) if isinstance(name, str) else name
        if layer is None:
            _draw_boxes(canvas, shown, alpha)
        elif isinstance(layer, Contours):
            draw_contours(canvas, shown, layer, alpha)
        else:
            _draw_field(canvas, shown, layer, alpha)
    return canvas


def people_above(result: _Result, score_threshold: float = SCORE_THRESHOLD) -> _Result:
    """The people of a result with a score above ``score_threshold``; arrays are views, and 0 leaves everybody.

    Raises ValueError where it is not from 0 to 1.
    """
    _check_threshold(score_threshold)
    kept = [k for k, score in enumerate(result.scores.tolist()) if score > score_threshold or score_threshold == 0]
    return result if len(kept) == len(result) else result.people(kept)


def _check_threshold(score_threshold: float) -> None:
    if not 0 <= score_threshold <= 1:  # true of NaN
        raise ValueError(f"score_threshold must be from 0 to 1, not {score_threshold!r}")


# ---- color fields ---------------------------------------------------------------------------------------------------


def _draw_field(canvas: np.ndarray, result: DetectionResult, field: ColorField, alpha: float | None) -> None:
    """Give every pixel of a person that is not background its color."""
    opacity = field.alpha if alpha is None else alpha
    if field.on_grey:
        _make_grey(canvas)
    taken = np.zeros(canvas.shape[:2], bool)  # by somebody with a higher score
    for k in reversed(best_last(result)):
        person = result.person(k)
        there, here = person.windows(*canvas.shape[:2])
        pixels, covered, colors = canvas[there], taken[there], field.palette(person)
        for rows in bands(there):
            window = (slice(here[0].start + rows.start, here[0].start + rows.stop), here[1])
            inside = person.inside(window)
            inside &= ~covered[rows]
            covered[rows] |= inside
            chosen = colors[field.index(person, window)[inside]]
            pixels[rows][inside] = mixture(pixels[rows][inside], chosen[:, :3], opacity * _opacity(chosen))


def _opacity(colors: np.ndarray) -> np.ndarray | float:
    """What colors have of their own, ``[n, 1]``; 1 where they are RGB."""
    return colors[:, 3:] if colors.shape[1] > 3 else 1.0


def _make_grey(canvas: np.ndarray) -> None:
    """Give a picture, in place, its luma (ITU-R BT.601) in all channels."""
    for rows in bands((slice(0, canvas.shape[0]), slice(0, canvas.shape[1]))):
        luma = canvas[rows].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        canvas[rows] = np.rint(luma).astype(np.uint8)[..., None]


# ---- boxes -----------------------------------------------------------------------------------------------------------


def _draw_boxes(canvas: np.ndarray, result: DetectionResult, alpha: float | None) -> None:
    from PIL import ImageColor, ImageFont

    before = None if alpha is None or alpha == 1 else canvas.copy()
    width = round(1.5 * line_width(canvas))
    font = ImageFont.load_default(size=max(11, round(min(canvas.shape[:2]) / 36)))
    for k in best_last(result):
        x0, y0, x1, y1 = result.boxes[k].tolist()
        color = ImageColor.getrgb(_BOX_COLORS[k % len(_BOX_COLORS)])
        _outline(canvas, (int(x0), int(y0), int(max(x1 - 1, x0)), int(max(y1 - 1, y0))), width, color)
        _write_score(canvas, f"{result.scores[k]:.2f}", (x0, y0), font, color)
    if before is not None:
        for rows in bands((slice(0, canvas.shape[0]), slice(0, canvas.shape[1]))):
            drawn = (canvas[rows] != before[rows]).any(axis=-1)
            below = before[rows][drawn]
            canvas[rows][drawn] = mixture(below, canvas[rows][drawn].astype(np.float32), cast("float", alpha))


def _outline(canvas: np.ndarray, corners: tuple[int, int, int, int], width: int, color: tuple[int, ...]) -> None:
    """A rectangle, corners included, whose lines are inside it, but for boxes that are thinner than these."""
    left, top, right, bottom = corners
    start, end = top + width, bottom - width + 1
    upper, lower = (start, end - 1) if end > start else (end + 1, start)
    for y0, y1, x0, x1 in (
        (top, top + width - 1, left, right),
        (bottom - width + 1, bottom, left, right),
        (upper, lower, left, left + width - 1),
        (upper, lower, right - width + 1, right),
    ):
        canvas[max(y0, 0) : max(y1 + 1, 0), max(x0, 0) : max(x1 + 1, 0)] = color


def _write_score(
    canvas: np.ndarray, text: str, corner: tuple[float, float], font: FreeTypeFont | ImageFont, color: tuple[int, ...]
) -> None:
    """A label with its foot on the box's top left corner, or inside the box where there is no room above it."""
    from PIL import Image, ImageDraw

    x, y = corner
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).textbbox((0, 0), text, font=font)
    height, width = bottom - top + 6, right - left + 7
    y = y - height if y >= height else y
    # Drawn on a piece of the canvas: as a Pillow image the whole would need twice its memory. A piece that begins so
    # early that the text's coordinates, which are rounded towards zero, are not negative.
    rows = slice(max(int(y - top), 0), max(min(int(y + height) + 1, canvas.shape[0]), 0))
    columns = slice(max(int(x - left), 0), max(min(int(x + width) + 1, canvas.shape[1]), 0))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    x, y = x - columns.start, y - rows.start
    label = Image.fromarray(canvas[rows, columns])
    pen = ImageDraw.Draw(label)
    pen.rectangle((x, y, x + width, y + height), fill=color)
    pen.text((x + 4 - left, y + 3 - top), text, fill="black", font=font)
    canvas[rows, columns] = np.asarray(label)
