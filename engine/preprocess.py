"""What happens to a picture before the network: which size it is resized to, and how whatever a user has becomes RGB.

The resize itself, the mean and the padding are compiled (``_core.preprocess``); sizes here are (height, width).
Pillow is imported only where a file or a PIL image comes in.
"""

from __future__ import annotations

import functools
import io
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

from .errors import ImageError
from .files.heif import register_heif
from .files.recognize import PICTURE, content_mismatch, mismatch

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = np.ndarray | str | os.PathLike[str] | bytes | Image

# Pillow's modes whose values may have any range, so that no conversion is right.
_REFUSED_MODES = {"I": "32-bit integers", "F": "floating-point numbers"}
_EXIF_ORIENTATION = 0x0112


# ---- sizes -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def shortest_edge_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """The size at which the shorter side is ``min_size``, or less where the longer one would pass ``max_size``.

    The same numbers as ``ResizeShortestEdge.get_output_shape`` in detectron2's data/transforms/augmentation_impl.py,
    with its order of floating-point operations; ``min_size`` 0 leaves the picture as it is, as there. A side that would
    round to 0, which detectron2 cannot resize to, is 1.

    Raises:
        ValueError: a side of the picture is not positive, or a limit is negative.
    """
    _check_positive(height=height, width=width)
    if min_size < 0 or max_size < 1:
        raise ValueError(f"min_size must be at least 0 and max_size at least 1, not {min_size} and {max_size}")
    if min_size == 0:
        return height, width
    scale = min_size / min(height, width)
    new_height, new_width = (float(min_size), scale * width) if height < width else (scale * height, float(min_size))
    longer = max(new_height, new_width)
    if longer > max_size:
        scale = max_size / longer
        new_height, new_width = new_height * scale, new_width * scale
    return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)


@functools.lru_cache(maxsize=64)
def letterbox_size(height: int, width: int, input_height: int, input_width: int) -> tuple[int, int]:
    """The largest size of the same shape that fits into an input of ``input_height`` x ``input_width``, at least 1 x 1.

    Raises:
        ValueError: a size is not positive.
    """
    _check_positive(height=height, width=width, input_height=input_height, input_width=input_width)
    scale = min(input_height / height, input_width / width)
    new_height, new_width = int(height * scale + 0.5), int(width * scale + 0.5)
    return min(max(new_height, 1), input_height), min(max(new_width, 1), input_width)


@functools.lru_cache(maxsize=64)
def padded_size(height: int, width: int, divisor: int) -> tuple[int, int]:
    """``height`` and ``width`` rounded up to multiples of ``divisor``, the coarsest stride; 0 and 1 pad nothing.

    Raises:
        ValueError: a size is not positive, or the divisor negative.
    """
    _check_positive(height=height, width=width)
    if divisor < 0:
        raise ValueError(f"divisor must be at least 0, not {divisor}")
    divisor = max(divisor, 1)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


# ---- pictures --------------------------------------------------------------------------------------------------------


def to_rgb_array(image: Picture) -> np.ndarray:
    """Whatever picture a user has, as a uint8 array of shape (height, width, 3) in the order R, G, B.

    Args:
        image: one of
            - a uint8 array (height, width, 3), **in RGB order**: nobody can see whether an array is BGR, so a picture
              from OpenCV needs ``image[..., ::-1]``. It is returned as it is, whatever its strides;
            - the path of a picture, or the bytes of an encoded picture (JPEG, PNG, ...);
            - a PIL image.

            Files and PIL images are turned upright as their EXIF orientation says. Grey, palette, 1-bit, CMYK and YCbCr
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
        hint = ""
        if image.dtype.kind == "f":
            hint = ": scale values from 0 .. 1 with (image * 255).round().astype(numpy.uint8)"
        elif image.dtype.kind in "iu":
            hint = ": convert values from 0 .. 255 with image.astype(numpy.uint8)"
        elif image.dtype.kind == "b":
            hint = ": convert it with image.astype(numpy.uint8) * 255"
        raise TypeError(given + hint)
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


def _read(file: str | os.PathLike[str] | io.BytesIO, name: str) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return _to_rgb(image, name)
    except (FileNotFoundError, ImageError):
        raise
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


def _unreadable(name: str, error: Exception) -> ImageError:
    """Decoders of damaged files raise all kinds of exceptions (OSError, SyntaxError, struct.error, ...)."""
    from PIL import Image

    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError(f"{name} is too large ({error}); raise PIL.Image.MAX_IMAGE_PIXELS if it can be trusted")
    if isinstance(error, MemoryError):
        return ImageError(f"{name} is too large for this machine's memory")
    if isinstance(error, OSError) and error.strerror:
        return ImageError(f"{name} cannot be read: {error.strerror}")
    return ImageError(f"{name} cannot be read, it may be truncated or damaged ({error})")


def _to_rgb(image: Image, name: str) -> np.ndarray:
    if image.mode in _REFUSED_MODES:
        raise ImageError(
            f"{name} holds {_REFUSED_MODES[image.mode]} of unknown range; scale them to 0 .. 255 and pass a uint8 array"
        )
    if 0 in image.size:
        raise ImageError(f"{name} is empty ({image.width} x {image.height} pixels)")
    try:
        image.load()
        image = _upright(image)
    except Exception as error:
        raise _unreadable(name, error) from error
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    try:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise ImageError(f"{name} has Pillow's mode {image.mode!r}, which does not convert to RGB") from error


def _upright(image: Image) -> Image:
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # EXIF that cannot be parsed says nothing of the orientation, and the pixels are good
        return image
    # Not ImageOps.exif_transpose: it also writes the EXIF anew, which fails where other tags are damaged.
    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)
