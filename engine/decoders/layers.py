"""What can be drawn of a person, as data: outputs draw it and know no decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

#: The name of the boxes among the layers of every result.
BOXES = "boxes"
#: Rows and columns of a person's patch.
Window = tuple[slice, slice]


@dataclass(frozen=True)
class ColorField:
    """Every pixel of a person that is not background in a color of its own.

    ``index(person, window)``: which color each pixel of the window has, integers ``[h, w]``; ``palette(person)``: the
    colors, float32 RGB of 0 .. 255, ``[n, 3]``, or ``[n, 4]`` with an opacity of their own, 0 .. 1. ``alpha``: opacity
    where the caller asks for none; ``on_grey``: over a picture without colors of its own, and ``boxes``: with boxes and
    scores, where the layer is a picture of its own.
    """

    index: Callable[[Any, Window], np.ndarray]
    palette: Callable[[Any], np.ndarray]
    alpha: float = 0.65
    on_grey: bool = False
    boxes: bool = False


@dataclass(frozen=True)
class Contours:
    """Lines of equal value of two coordinates in every region of a person, and the regions' outlines.

    ``regions(person)``: uint8 ``[h, w]``, 0 for background, 1 .. ``count``; ``coordinates(person)``: float32
    ``[2, h, w]``, each about 0 .. 1.
    """

    regions: Callable[[Any], np.ndarray]
    coordinates: Callable[[Any], np.ndarray]
    count: int
    boxes: bool = False


@dataclass(frozen=True)
class DataImage:
    """A picture that is data: its values are lost in a lossy file.

    ``render(result)``: uint8 ``[height, width, 3]`` of the size of the result's picture.
    """

    render: Callable[[Any], np.ndarray]


Layer = ColorField | Contours
