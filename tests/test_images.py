"""Sizes are detectron2's, and whatever picture a user has becomes uint8 RGB or is refused with a sentence."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densepose_engine import ImageError
from densepose_engine.pictures.read import letterbox_size, padded_size, shortest_edge_size, to_rgb_array

# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [  # what detectron2's ResizeShortestEdge.get_output_shape returns
        ((480, 640), (800, 1333), (800, 1067)),
        ((640, 480), (800, 1333), (1067, 800)),
        ((427, 640), (320, 1333), (320, 480)),
        ((1080, 1920), (800, 1333), (750, 1333)),
        ((100, 1000), (800, 1333), (133, 1333)),
        ((800, 800), (800, 1333), (800, 800)),
        ((3, 2000), (800, 1333), (2, 1333)),
        # one factor for both limits would give a pixel more on the shorter side of these
        ((1536, 606), (672, 640), (640, 252)),
        ((1054, 323), (512, 1333), (1333, 408)),
        ((1211, 2422), (800, 1333), (666, 1333)),
        ((754, 377), (800, 1333), (1333, 666)),
        ((2560, 22), (800, 640), (640, 5)),
    ],
)
def test_shortest_edge_size(size: tuple[int, int], limits: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shortest_edge_size(*size, *limits) == expected


def test_shortest_edge_size_at_its_ends() -> None:
    assert shortest_edge_size(123, 45, 0, 10) == (123, 45), "0 leaves the picture as it is"
    assert shortest_edge_size(1, 10_000, 800, 1333) == (1, 1333), "a side is never 0"


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((480, 640), (320, 448), (320, 427)),
        ((640, 480), (320, 448), (320, 240)),
        ((10, 10), (320, 448), (320, 320)),
        ((320, 448), (320, 448), (320, 448)),
        ((1, 5000), (320, 448), (1, 448)),
        ((5000, 1), (320, 448), (320, 1)),
    ],
)
def test_letterbox_size(size: tuple[int, int], target: tuple[int, int], expected: tuple[int, int]) -> None:
    assert letterbox_size(*size, *target) == expected


def test_letterbox_always_fits_and_touches() -> None:
    rng = np.random.default_rng(0)
    for height, width, h, w in rng.integers(1, 900, (2000, 4)).tolist():
        new_height, new_width = letterbox_size(height, width, h, w)
        assert 1 <= new_height <= h and 1 <= new_width <= w
        assert new_height == h or new_width == w


def test_padded_size() -> None:
    assert padded_size(320, 427, 32) == (320, 448)
    assert padded_size(1, 33, 32) == (32, 64)
    assert padded_size(7, 9, 0) == padded_size(7, 9, 1) == (7, 9)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="height must be at least 1, not 0"):
        shortest_edge_size(0, 5, 800, 1333)
    with pytest.raises(ValueError, match="min_size"):
        shortest_edge_size(5, 5, -1, 1333)
    with pytest.raises(ValueError, match="input_width"):
        letterbox_size(5, 5, 5, 0)
    with pytest.raises(ValueError, match="divisor"):
        padded_size(5, 5, -32)


# ---- arrays ----------------------------------------------------------------------------------------------------------


def test_an_array_is_returned_as_it_is() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert to_rgb_array(image) is image
    view = image[::-1, 1:, ::-1]
    assert to_rgb_array(view) is view


ZEROS = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "kind", "words"),
    [
        (ZEROS.astype(np.float32), TypeError, r"float32 array of shape \(4, 6, 3\).*\* 255"),
        (ZEROS.astype(np.int64), TypeError, r"int64.*astype"),
        (ZEROS > 0, TypeError, r"bool.*\* 255"),
        (np.zeros((4, 6, 3), object), TypeError, "object"),
        (ZEROS[..., 0], ValueError, "grey.*numpy.stack"),
        (ZEROS[..., :1], ValueError, "grey.*repeat"),
        (np.zeros((4, 6, 4), np.uint8), ValueError, r"alpha.*\[\.\.\., :3\]"),
        (np.zeros((3, 4, 6), np.uint8), ValueError, "transpose"),
        (ZEROS[None], ValueError, "list of pictures"),
        (ZEROS[0, 0], ValueError, r"shape \(3,\)"),
        (ZEROS[:0], ValueError, "empty"),
        (ZEROS[:, :0], ValueError, "empty"),
        (None, TypeError, "NoneType"),
        (3, TypeError, "int"),
        (ZEROS.tolist(), TypeError, "list"),
        (io.BytesIO(), TypeError, "BytesIO"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(image: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        to_rgb_array(image)


def test_array_likes_are_told_how() -> None:
    class Tensor:
        def __array__(self) -> np.ndarray:
            return ZEROS

    with pytest.raises(TypeError, match=r"not Tensor; .*numpy\.asarray"):
        to_rgb_array(Tensor())


# ---- files and PIL images --------------------------------------------------------------------------------------------


def gradient(mode: str) -> Image.Image:
    """8 x 6 pixels, all different, in a mode of Pillow."""
    rgb = np.stack(np.meshgrid(np.arange(8) * 30, np.arange(6) * 40, [90], indexing="xy"), axis=-1)[:, :, 0]
    return Image.fromarray(rgb.astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "RGBX"])
def test_modes_become_rgb(mode: str) -> None:
    image = gradient(mode)
    array = to_rgb_array(image)
    assert array.dtype == np.uint8 and array.shape == (6, 8, 3)
    assert np.array_equal(array, np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_not_blended() -> None:
    image = gradient("RGB")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert np.array_equal(to_rgb_array(image), np.asarray(gradient("RGB")))


def test_paths_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    gradient("RGB").save(path)
    expected = np.asarray(gradient("RGB"))
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes())):
        assert np.array_equal(to_rgb_array(source), expected)


def test_sixteen_bit_grey_keeps_its_upper_half(tmp_path: Path) -> None:
    values = (np.arange(48, dtype=np.uint32).reshape(6, 8) * 1365).astype(np.uint16)
    path = tmp_path / "grey.tif"
    Image.fromarray(values).save(path)
    assert Image.open(path).mode == "I;16"
    expected = (values >> 8).astype(np.uint8)
    assert np.array_equal(to_rgb_array(path), np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize(("mode", "words"), [("I", "32-bit integers"), ("F", "floating-point")])
def test_modes_without_a_right_conversion_are_refused(mode: str, words: str, tmp_path: Path) -> None:
    image = Image.new(mode, (4, 4))
    with pytest.raises(ImageError, match=f"the PIL image.*{words}"):
        to_rgb_array(image)
    path = tmp_path / "picture.tif"
    image.save(path)
    with pytest.raises(ImageError, match=f"picture.tif.*{words}"):
        to_rgb_array(path)


def test_modes_that_pillow_cannot_convert_are_named() -> None:
    with pytest.raises(ImageError, match="'La'"):
        to_rgb_array(Image.new("La", (4, 4)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient("RGB").save(path, exif=exif)
    stored = np.asarray(gradient("RGB"))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored.transpose(1, 0, 2)[::-1],
    }[orientation]
    assert np.array_equal(to_rgb_array(path), upright)
    with Image.open(path) as image:
        assert np.array_equal(to_rgb_array(image), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_spoil_good_pixels() -> None:
    for damaged in (b"II*\0\xff\xff\xff\xff", b"garbage", b"MM\0*\0\0\0\x08\0\x09"):
        stream = io.BytesIO()
        gradient("RGB").save(stream, "JPEG", exif=b"Exif\0\0" + damaged)
        assert to_rgb_array(stream.getvalue()).shape == (6, 8, 3)


def test_orientation_is_found_between_damaged_tags() -> None:
    """StripOffsets as text: Pillow can read this EXIF, and cannot write it again."""
    tags = b"\0\x02" + b"\x01\x09\0\x02\0\0\0\x15\0\0\0\x26" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + bytes(4)
    stream = io.BytesIO()
    gradient("RGB").save(stream, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + tags + b"x" * 20 + b"\0")
    assert to_rgb_array(stream.getvalue()).shape == (8, 6, 3)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    path = tmp_path / "animation.gif"
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert (to_rgb_array(path) == (255, 0, 0)).all()


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.jpg"):
        to_rgb_array(tmp_path / "nothing.jpg")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=str(tmp_path)):
        to_rgb_array(tmp_path)


def encoded(suffix: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, suffix)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_truncated_files_are_refused(suffix: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{suffix.lower()}"
    data = encoded(suffix)
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=r"cut\."):
        to_rgb_array(path)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_what_is_no_file_of_a_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=rf"the picture \({len(data)} bytes\)"):
        to_rgb_array(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_damage_never_raises_anything_else() -> None:
    rng = np.random.default_rng(0)
    for suffix in ("JPEG", "PNG", "GIF", "TIFF", "WEBP"):
        good = np.frombuffer(encoded(suffix), np.uint8)
        for _ in range(40):
            bad = good.copy()
            bad[rng.integers(0, len(bad), 8)] = rng.integers(0, 256, 8)
            with contextlib.suppress(ImageError):  # some damage leaves a readable picture
                assert to_rgb_array(bad.tobytes()).ndim == 3


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match=r"bomb\.png is too large.*MAX_IMAGE_PIXELS"):
        to_rgb_array(path)


# What an array's hint says is followed to the letter, and must give the picture.

RAMP = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)


@pytest.mark.parametrize(
    "image",
    [
        RAMP.astype(np.float32),
        RAMP.astype(np.float64) / 255,
        (RAMP / 255).astype(np.float16),
        (RAMP / np.float32(255)).astype(np.float32) * np.float32(1.0000001),
        RAMP.astype(np.float32) * 1.02 - 2,  # bicubic overshoot
        RAMP.astype(np.int64),
        RAMP.astype(np.uint16),
        RAMP.astype(np.uint16) * 257,
        RAMP.astype(np.float16),
    ],
    ids=lambda image: f"{image.dtype} {image.min():g} {image.max():g}",
)
def test_a_hint_that_is_followed_gives_the_picture(image: np.ndarray) -> None:
    with pytest.raises(TypeError) as caught:
        to_rgb_array(image)
    text = str(caught.value)
    made = eval(text[text.rindex(" with ") + 6 :], {"numpy": np, "image": image})
    assert np.abs(to_rgb_array(made).astype(int) - RAMP).max() <= 4


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (RAMP / 127.5 - 1, "scale them to 0 .. 255 first"),  # -1 .. 1
        ((RAMP / 255 - 0.45) / 0.225, "scale them to 0 .. 255 first"),  # as ImageNet's networks want it
        (RAMP.astype(np.float32) * 100, "scale them to 0 .. 255 first"),
        (RAMP.astype(np.int32) * 1000, "scale them to 0 .. 255 first"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (RAMP.astype(np.complex64), "complex64"),
        (RAMP > 100, r"astype\(numpy.uint8\) \* 255"),
    ],
)
def test_values_of_an_unknown_range_get_no_recipe(image: np.ndarray, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        to_rgb_array(image)


# Memory.

MEASURE = """
import sys
import numpy as np
from densepose_engine.pictures.read import to_rgb_array
from PIL import Image
Image.init()

def most():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) << 10

to_rgb_array(sys.argv[2])  # what loading code costs
with open("/proc/self/clear_refs", "w") as stream:
    stream.write("5")
before = most()
rgb = to_rgb_array(sys.argv[1])
print((most() - before) / (rgb.size / 3))
"""


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_bytes_for_a_pixel(tmp_path: Path, mode: str, orientation: int) -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("needs Linux's /proc/self/clear_refs")
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, size in (("large", (4000, 3000)), ("small", (40, 30))):
        Image.new("RGB", size, (9, 90, 200)).convert(mode).save(tmp_path / f"{name}.png", exif=exif, compress_level=1)
    paths = [str(tmp_path / "large.png"), str(tmp_path / "small.png")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    assert 3 < float(done.stdout) < 9


def test_rarer_formats_may_have_half_as_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    for suffix, good in (("png", True), ("webp", False)):
        Image.new("RGB", (30, 30)).save(tmp_path / f"a.{suffix}")
        if good:
            with pytest.warns(Image.DecompressionBombWarning):
                assert to_rgb_array(tmp_path / "a.png").shape == (30, 30, 3)
        else:
            with pytest.warns(), pytest.raises(ImageError, match=r"too large .*MAX_IMAGE_PIXELS"):
                to_rgb_array(tmp_path / f"a.{suffix}")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(ImageError, match="no regular file"):
            to_rgb_array(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr", "LA", "RGBA", "I;16"])
def test_strips_give_what_the_whole_gives(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (37, 23, 3), np.uint8)
    deep = mode == "I;16"
    image = Image.fromarray(rgb[..., 0].astype(np.uint16) * 255) if deep else Image.fromarray(rgb).convert(mode)
    whole = to_rgb_array(image)
    monkeypatch.setattr("densepose_engine.pictures.read._STRIP", 60)
    np.testing.assert_array_equal(to_rgb_array(image), whole)
