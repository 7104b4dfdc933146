"""How whatever picture a user has becomes RGB.

Which size it is resized to, ``model.frame`` says; the resize itself, the mean and the padding are compiled
(``_core.preprocess``).
Pillow is imported only where a file or a PIL image comes in.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError
from ..files.heif import register_heif
from ..files.reading import NotRegularError, open_regular
from ..files.recognize import PICTURE, content_mismatch, mismatch
from ..model.frame import letterbox_size, padded_size, shortest_edge_size

__all__ = ["letterbox_size", "padded_size", "shortest_edge_size", "to_rgb_array"]

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = np.ndarray | str | os.PathLike[str] | bytes | Image

# Pillow's modes whose values may have any range, so that no conversion is right.
_REFUSED_MODES = {"I": "32-bit integers", "F": "floating-point numbers"}
_EXIF_ORIENTATION = 0x0112
# Pillow keeps 4 bytes of each pixel, and the array 3 more. Decoders of other formats hold pictures of their own beside
# these, up to four times as much; for them the limit of pixels is half.
_LEAN_FORMATS = frozenset(["BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF"])
_STRIP = 1 << 20  # pixels that are converted at a time


# ---- pictures --------------------------------------------------------------------------------------------------------


def to_rgb_array(image: Picture) -> np.ndarray:
    """Whatever picture a user has, as a uint8 array of shape (height, width, 3) in the order R, G, B.

    Args:
        image: one of
            - a uint8 array (height, width, 3), **in RGB order**: nobody can see whether an array is BGR, so a picture
              from OpenCV needs ``image[..., ::-1]``. It is returned as it is, whatever its strides;
            - the path of a picture, or the bytes of an encoded picture (JPEG, PNG, ...);
            - a PIL image.

            Files may have twice ``PIL.Image.MAX_IMAGE_PIXELS`` pixels (179 million), WebP, AVIF, JPEG 2000 and rarer
            formats half of that; reading takes 7 bytes per pixel, or in the latter case up to 20. Files and PIL images
            are turned upright as their EXIF orientation says. Grey, palette, 1-bit, CMYK and YCbCr
            pictures are converted to RGB; alpha is dropped, as detectron2 drops it; of 16-bit grey the upper 8 bits are
            kept; 32-bit integer and floating-point pictures are refused. Of an animation the first frame is taken (of a
            PIL image the current one).

    Raises:
        TypeError, ValueError: an argument of another type, or an array of another dtype or shape.
        FileNotFoundError: there is no such file.
        ImageError: the file is no picture, truncated, damaged, too large, or of a refused kind.
    """
    if isinstance(image, np.ndarray):
        _check_array(image)
        return image
    if isinstance(image, (str, os.PathLike)):
        return _read(image, os.fspath(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _read(io.BytesIO(image), f"the picture ({len(image)} bytes)")
    pil = sys.modules.get("PIL.Image")  # nobody holds a PIL image without having imported it
    if pil is not None and isinstance(image, pil.Image):
        return _to_rgb(image, "the PIL image")
    hint = ""
    if hasattr(image, "__array__"):
        hint = "; make it a numpy array of shape (height, width, 3) and dtype uint8, for example with numpy.asarray"
    raise TypeError(
        f"image must be a uint8 RGB array, a path, encoded bytes or a PIL image, not {type(image).__name__}{hint}"
    )


def _check_array(image: np.ndarray) -> None:
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return
    given = f"image is a {image.dtype} array of shape {image.shape}, it must be uint8 of shape (height, width, 3)"
    if image.dtype != np.uint8:
        raise TypeError(given + _dtype_hint(image))
    shape = image.shape
    if image.ndim == 3 and shape[2] == 3:
        raise ValueError(f"{given}: it is empty")
    if image.ndim == 2:
        hint = "a grey picture becomes RGB with numpy.stack([image] * 3, axis=-1)"
    elif image.ndim == 4:
        hint = "pass a list of pictures instead of a batch"
    elif image.ndim == 3 and shape[2] == 4:
        hint = "drop the alpha channel with image[..., :3]"
    elif image.ndim == 3 and shape[2] == 1:
        hint = "a grey picture becomes RGB with image.repeat(3, axis=2)"
    elif image.ndim == 3 and shape[0] == 3:
        hint = "move the channels last with image.transpose(1, 2, 0)"
    else:
        hint = "that is no RGB picture"
    raise ValueError(f"{given}: {hint}")


def _dtype_hint(image: np.ndarray) -> str:
    """How the array becomes uint8, by what its values are: what suits 0 .. 1 would turn 0 .. 255 into noise."""
    if image.dtype.kind == "b":
        return ": convert it with image.astype(numpy.uint8) * 255"
    if image.dtype.kind not in "iuf" or not image.size:
        return ""
    low, high = image.min(), image.max()
    values = f"its values are {low:g} .. {high:g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        return f": {values}; it must not hold NaN or infinity"
    if image.dtype.kind in "iu" and low >= 0 and high <= 255:
        return f": {values}; convert them with image.astype(numpy.uint8)"
    if image.dtype.kind in "iu" and low >= 0 and high <= 65535:
        return f": {values}; if they are 16-bit, keep the upper 8 bits with (image // 256).astype(numpy.uint8)"
    # Resizing overshoots: a little beyond either end is no other range. What has few steps is not 0 .. 255.
    if low >= -0.25 * high and 0 <= high <= 1.5:
        return f": {values}; scale 0 .. 1 to 0 .. 255 with (image.clip(0, 1) * 255).round().astype(numpy.uint8)"
    if low >= -0.25 * high and 16 < high <= 320:
        return f": {values}; convert 0 .. 255 with image.round().clip(0, 255).astype(numpy.uint8)"
    return f": {values}; scale them to 0 .. 255 first, then image.round().clip(0, 255).astype(numpy.uint8)"


def _read(file: str | os.PathLike[str] | io.BytesIO, name: str) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with contextlib.ExitStack() as stack:
            stream = file if isinstance(file, io.BytesIO) else stack.enter_context(open_regular(file))
            image = Image.open(stream)
            _check_pixels(image)
            rgb = _to_rgb(image, name)
            del image  # before an upright copy is made
    except (FileNotFoundError, ImageError):
        raise
    except NotRegularError as error:
        raise ImageError(f"{error}; a picture is a file") from None
    except UnidentifiedImageError as error:
        if register_heif():
            return _read(file, name)
        if isinstance(file, io.BytesIO):
            known = content_mismatch(file.getvalue(), name, PICTURE)
        else:
            known = mismatch(file, PICTURE)
        raise ImageError(known or f"{name} is not a picture of a known format") from error
    except Exception as error:
        raise _unreadable(name, error) from error
    return np.ascontiguousarray(rgb)


def _check_pixels(image: Image) -> None:
    """Pillow's own limit, twice ``MAX_IMAGE_PIXELS``, was kept when the file was opened."""
    from PIL import Image as module

    most, pixels = module.MAX_IMAGE_PIXELS, image.width * image.height
    if most is not None and pixels > most and image.format not in _LEAN_FORMATS:
        raise module.DecompressionBombError(
            f"{image.width} x {image.height} pixels are more than the {most} that are read of a file of format "
            f"{image.format}"
        )


def _unreadable(name: str, error: Exception) -> ImageError:
    """Decoders of damaged files raise all kinds of exceptions (OSError, SyntaxError, struct.error, ...)."""
    from PIL import Image

    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError(f"{name} is too large ({error}); raise PIL.Image.MAX_IMAGE_PIXELS if it can be trusted")
    if isinstance(error, MemoryError):
        return ImageError(f"{name} is too large for this machine's memory")
    if isinstance(error, OSError) and error.strerror:
        return ImageError(f"{name} cannot be read: {error.strerror}")
    return ImageError(f"{name} cannot be read, it may be truncated or damaged ({error!s:.200})")


def _to_rgb(image: Image, name: str) -> np.ndarray:
    if image.mode in _REFUSED_MODES:
        raise ImageError(
            f"{name} holds {_REFUSED_MODES[image.mode]} of unknown range; scale them to 0 .. 255 and pass a uint8 array"
        )
    if 0 in image.size:
        raise ImageError(f"{name} is empty ({image.width} x {image.height} pixels)")
    try:
        turn = _orientation(image)
        image.load()
    except Exception as error:
        raise _unreadable(name, error) from error
    try:
        rgb = np.empty((image.height, image.width, 3), np.uint8)
        # In strips, because whole pictures in between would cost more memory than the picture itself.
        rows = max(1, _STRIP // image.width)
        for top in range(0, image.height, rows):
            bottom = min(top + rows, image.height)
            whole = bottom - top == image.height
            strip = image if whole else image.crop((0, top, image.width, bottom))
            _convert(strip, rgb[top:bottom])
    except ValueError as error:
        raise ImageError(f"{name} has Pillow's mode {image.mode!r}, which does not convert to RGB") from error
    except Exception as error:
        raise _unreadable(name, error) from error
    return rgb if turn is None else turn(rgb)


def _convert(image: Image, rgb: np.ndarray) -> None:
    if image.mode.startswith("I;16"):
        rgb[:] = (np.asarray(image) >> 8).astype(np.uint8)[..., None]
    else:
        rgb[:] = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


# What the values of the EXIF orientation ask for, as views of an array.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: np.rot90(rgb, -1),
    7: lambda rgb: rgb[::-1, ::-1].transpose(1, 0, 2),
    8: lambda rgb: np.rot90(rgb),
}


def _orientation(image: Image) -> Callable[[np.ndarray], np.ndarray] | None:
    # Not ImageOps.exif_transpose: it also writes the EXIF anew, which fails where other tags are damaged.
    try:
        return _TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # EXIF that cannot be parsed says nothing of the orientation, and the pixels are good
        return None
