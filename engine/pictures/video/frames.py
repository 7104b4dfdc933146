"""Decoded frames as players show them: the right colors, square pixels, upright, all of one size."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from .library import pyav

# FFmpeg's numbers (libavutil/pixfmt.h, libswscale/swscale.h): PyAV has no name for most of them in its older releases.
_BT709, _BT601, _BT2020 = 1, 5, 9
_UNSPECIFIED = 2
_SWSCALE_MATRIX = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: _BT2020, 10: _BT2020}
_LIMITED, _FULL = 1, 2
_BICUBIC = 4
_TRANSFERS_OF_HDR = {16: "PQ", 18: "HLG"}
_MATRIX_ROWS = 3
#: A pixel that is longer than this is a mistake in the file; believed, it would cost any amount of memory.
_LONGEST_PIXEL = 8


def is_high_definition(height: int, width: int) -> bool:
    """Whether players take BT.709 for a video of this size that does not say what it is."""
    return width >= 1280 or height > 576


def square_size(height: int, width: int, pixel: Fraction | None) -> tuple[int, int]:
    """Height and width in square pixels: the shorter side of a pixel is stretched, so that nothing is lost."""
    if not pixel or not Fraction(1, _LONGEST_PIXEL) <= pixel <= _LONGEST_PIXEL:
        return height, width
    return (height, max(round(width * pixel), 1)) if pixel > 1 else (max(round(height / pixel), 1), width)


def orientation(frame: Any) -> tuple[bool, bool, bool, bool]:
    """How to put a frame upright: (transpose, then mirror left to right, then top to bottom, and is that exact).

    Cameras store what the sensor reads and note beside it, as a matrix, how to show it.
    """
    data = _side_data(frame, "DISPLAYMATRIX")
    if data is None or len(data) < 36:
        return False, False, False, True
    matrix = np.frombuffer(data, np.int32, 9).reshape(_MATRIX_ROWS, _MATRIX_ROWS)[:2, :2].astype(np.float64)
    straight, across = np.abs([matrix[0, 0], matrix[1, 1]]).sum(), np.abs([matrix[0, 1], matrix[1, 0]]).sum()
    transposed = bool(across > straight)
    # A source pixel (x, y) is shown at x * row 0 + y * row 1.
    to_x, to_y = (matrix[1, 0], matrix[0, 1]) if transposed else (matrix[0, 0], matrix[1, 1])
    return transposed, bool(to_x < 0), bool(to_y < 0), bool(min(straight, across) <= 0.02 * max(straight, across))


def _side_data(frame: Any, name: str) -> bytes | None:
    kinds = pyav().sidedata.sidedata.Type
    data = frame.side_data.get(getattr(kinds, name))
    return bytes(data) if data is not None else None


class FrameConverter:
    """Turns decoded frames into upright uint8 RGB arrays in square pixels, all as large as the first.

    ``remarks`` collects a sentence for each thing about the video that a viewer should know.
    """

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = None
        """(height, width) of all arrays, once there is one."""
        self.remarks: list[str] = []
        self._coded: tuple[int, int] | None = None
        self._count = 0
        self._conversion: tuple[Any, ...] = ()
        self._reformatter: Any = None

    def __call__(self, frame: Any, pixel: Fraction | None, transfer: int | None) -> np.ndarray:
        """The array of a frame. ``pixel``: its pixels' width over their height; ``transfer``: FFmpeg's number of it."""
        self._notice(frame, transfer)
        transposed, mirrored, overturned, exact = orientation(frame)
        if not exact:
            self._remark("is turned by an angle that is no multiple of 90 degrees; the nearest is taken")
        height, width = square_size(frame.height, frame.width, pixel)
        if pixel and pixel != 1 and (height, width) == (frame.height, frame.width):
            self._remark(f"states pixels of {pixel.numerator}:{pixel.denominator}, which is not believed")
        upright = (width, height) if transposed else (height, width)
        if self.size is None:
            self.size = upright
        inner = _inside(upright, self.size)
        if upright != self.size:
            self._remark(
                f"changes its size on the way: from frame {self._count} on it is {upright[1]} x {upright[0]}, "
                f"fitted into the first frame's {self.size[1]} x {self.size[0]}"
            )
        rgb = self._rgb(frame, *(inner[::-1] if transposed else inner))
        if transposed:
            rgb = rgb.transpose(1, 0, 2)
        rgb = rgb[:: -1 if overturned else 1, :: -1 if mirrored else 1]
        self._count += 1
        return np.ascontiguousarray(rgb) if inner == self.size else _framed(rgb, self.size)

    def _notice(self, frame: Any, transfer: int | None) -> None:
        if name := _TRANSFERS_OF_HDR.get(transfer or 0):
            self._remark(
                f"is HDR video ({name}), whose brightness is taken as that of ordinary video: its pictures are paler "
                "than a player shows them, and people may be missed; convert it to SDR first"
            )
        if frame.interlaced_frame:
            self._remark("is interlaced and is not deinterlaced: what moves has combed edges")

    def _remark(self, text: str) -> None:
        if text.split(":")[0] not in {known.split(":")[0] for known in self.remarks}:
            self.remarks.append(text)

    def _rgb(self, frame: Any, height: int, width: int) -> np.ndarray:
        matrix, color_range = self._colors(frame)
        conversion = (frame.format.name, frame.height, frame.width, height, width, matrix, color_range)
        if conversion != self._conversion:  # one that is used again keeps the colors that it was made with
            self._conversion, self._reformatter = conversion, pyav().video.reformatter.VideoReformatter()
        options: dict[str, int] = {}
        if matrix is not None:
            options = {"src_colorspace": matrix, "dst_colorspace": _BT601}
        if color_range is not None:
            options["src_color_range"] = color_range
        converted = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=_BICUBIC, **options
        )
        array: np.ndarray = converted.to_ndarray()
        return array

    def _colors(self, frame: Any) -> tuple[int | None, int | None]:
        """swscale's number of the matrix, and the range; None where FFmpeg's own choice is right."""
        name = frame.format.name
        if frame.format.is_rgb or frame.format.has_palette or name.startswith(("bayer", "xyz", "mono")):
            return None, None
        tagged = frame.color_range if frame.color_range in (_LIMITED, _FULL) else None
        if name.startswith(("gray", "ya")):
            return None, tagged
        matrix = _SWSCALE_MATRIX.get(frame.colorspace)
        if matrix is None:
            if frame.colorspace != _UNSPECIFIED and frame.colorspace != 0:
                self._remark("has colors of a kind that FFmpeg cannot convert; they are taken for ordinary video's")
            matrix = _BT709 if is_high_definition(frame.height, frame.width) else _BT601
        return matrix, _FULL if name.startswith("yuvj") else tagged or _LIMITED


def _inside(size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same shape within ``room``."""
    if size == room:
        return room
    scale = min(Fraction(room[0], size[0]), Fraction(room[1], size[1]))
    return max(min(round(size[0] * scale), room[0]), 1), max(min(round(size[1] * scale), room[1]), 1)


def _framed(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """In the middle of a black picture of this size."""
    picture = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - rgb.shape[0]) // 2, (size[1] - rgb.shape[1]) // 2
    picture[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb
    return picture
