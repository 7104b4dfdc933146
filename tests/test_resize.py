"""The compiled resize gives Pillow's bytes, and preprocess is exactly resize, minus the mean, padded."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from densepose_engine import _core

PILLOW = int(PIL.__version__.partition(".")[0])
MEAN = (123.675, 116.28, 103.53)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, and every fourth time only black and white: extremes show errors of rounding and clipping."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return (noise // 128 * 255).astype(np.uint8) if seed % 4 == 0 else noise


def pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """What Pillow 13 makes of a picture.

    Earlier ones, which Python 3.10 has to do with, never make the vertical pass first. There two calls make the two
    passes in the order that 13 chooses by itself; that it does choose so is only tested with 13.
    """
    picture = Image.fromarray(image)
    shorter, narrower = image.shape[0] - height, image.shape[1] - width
    if PILLOW < 13 and shorter > max(0, 2 * narrower):
        picture = picture.resize((image.shape[1], height), Image.Resampling.BILINEAR)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def random_sizes(count: int) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(1)
    sizes = []
    for i in range(count):
        height, width, new_height, new_width = (int(n) for n in rng.integers(1, (9, 40, 130, 300)[i % 4], 4))
        if i % 7 == 0:
            new_height = height  # an axis that is left alone
        if i % 11 == 0:
            new_width = width
        sizes.append((height, width, new_height, new_width))
    return sizes


# Where windows of samples are longest, shortest, or cut off on both sides.
EXTREMES = [
    (1, 1, 1, 1),
    (1, 1, 37, 53),
    (37, 53, 1, 1),
    (1, 500, 3, 200),
    (500, 1, 200, 3),
    (3, 20000, 2, 31),
    (20000, 3, 31, 2),
    (20000, 3, 31, 9),
    (2, 3, 2, 1500),
    (3, 2, 1500, 2),
    (480, 640, 320, 427),
    (480, 640, 800, 1067),
    (1080, 1920, 320, 569),
]


@pytest.mark.parametrize("threads", [1, 2])
def test_bytes_are_pillows(threads: int) -> None:
    for seed, (height, width, new_height, new_width) in enumerate(random_sizes(600)):
        image = picture(height, width, seed)
        expected = pillow(image, new_height, new_width)
        got = _core.resize(image, new_height, new_width, threads=threads)
        assert got.dtype == np.uint8 and got.shape == expected.shape
        assert np.array_equal(got, expected), (height, width, new_height, new_width)


@pytest.mark.parametrize("size", EXTREMES)
@pytest.mark.parametrize("value", [None, 0, 255])
def test_bytes_are_pillows_at_the_extremes(size: tuple[int, int, int, int], value: int | None) -> None:
    height, width, new_height, new_width = size
    image = picture(height, width, 1) if value is None else np.full((height, width, 3), value, np.uint8)
    for threads in (1, 3):
        got = _core.resize(image, new_height, new_width, threads=threads)
        assert np.array_equal(got, pillow(image, new_height, new_width))


@pytest.mark.parametrize("ratio", [0.3, 0.7, 1.5, 2.2, 2.8, 3.3, 3.9, 6.1])
def test_every_number_of_taps(ratio: float) -> None:
    """The loops are unrolled for small windows: these ratios meet each of them and the general one, on each axis."""
    image = picture(150, 170, 3)
    for new_height, new_width in ((round(150 / ratio), 170), (150, round(170 / ratio))):
        assert np.array_equal(_core.resize(image, new_height, new_width), pillow(image, new_height, new_width))


def test_pass_order_of_tall_pictures() -> None:
    """On either side of the limit where Pillow 13 changes the order of its passes, which differs in the last bit."""
    image = picture(100, 40, 5)
    for new_height in (60, 61, 59):  # 40 rows lost against twice 20 columns, and one more or less
        assert np.array_equal(_core.resize(image, new_height, 20), pillow(image, new_height, 20))
    one_way = _core.resize(_core.resize(image, 100, 20), 59, 20)
    other_way = _core.resize(_core.resize(image, 59, 40), 59, 20)
    assert not np.array_equal(one_way, other_way)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are instruction sets of x86-64")
@pytest.mark.parametrize("isa", ["avx512vbmi", "avx512", "avx2", "baseline"])
def test_bytes_do_not_depend_on_the_instruction_set(tmp_path: Path, isa: str) -> None:
    """Processors with byte permutations take another horizontal pass; asked for less, this one takes the plain one."""
    sizes = [(480, 640, 320, 427), (61, 100, 61, 700), (90, 333, 40, 37), (30, 64, 30, 63), (40, 22, 20, 21)]
    arrays = {f"image_{i}": picture(size[0], size[1], i) for i, size in enumerate(sizes)}
    np.savez(tmp_path / "in.npz", **arrays)
    code = (
        "import numpy as np\n"
        "from densepose_engine import _core\n"
        "images, out = np.load('in.npz'), {}\n"
        f"for i, (_, _, h, w) in enumerate({sizes}):\n"
        "    out[f'resized_{i}'] = _core.resize(images[f'image_{i}'], h, w, threads=2)\n"
        "    out[f'bytes_{i}'] = np.zeros((1, h, w, 3), np.uint8)\n"
        f"    _core.preprocess_to_bytes(images[f'image_{{i}}'], h, w, {MEAN}, out[f'bytes_{{i}}'], 1.1, 114, 2)\n"
        "np.savez('out.npz', **out)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "DENSEPOSE_ISA": isa}, check=True)
    out = np.load(tmp_path / "out.npz")
    for i, (_, _, height, width) in enumerate(sizes):
        expected = pillow(arrays[f"image_{i}"], height, width)
        assert np.array_equal(out[f"resized_{i}"], expected)
        steps = (expected.astype(np.float32) - np.array(MEAN, np.float32)) / np.float32(1.1)
        assert np.array_equal(out[f"bytes_{i}"][0], np.clip(np.rint(steps) + 114, 0, 255))


VIEWS = {
    "crop": lambda a: a[5:60, 7:90],
    "every other row": lambda a: a[::2],
    "upside down": lambda a: a[::-1],
    "one column": lambda a: a[:, 3:4],
    "one row": lambda a: a[3:4],
    "mirrored": lambda a: a[:, ::-1],
    "BGR": lambda a: a[..., ::-1],
    "transposed": lambda a: a.transpose(1, 0, 2),
    "repeated": lambda a: np.broadcast_to(a[:1], a.shape),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_read_with_their_strides(name: str) -> None:
    view = VIEWS[name](picture(71, 97, 2))
    view.flags.writeable = False
    for size in ((33, 41), (120, 150), view.shape[:2]):
        assert np.array_equal(_core.resize(view, *size), pillow(np.ascontiguousarray(view), *size))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((48, 64), (32, 43), (32, 64)),
        ((48, 64), (48, 64), (64, 64)),
        ((48, 64), (48, 30), (48, 30)),
        ((5, 3), (96, 58), (96, 64)),
        ((90, 7), (31, 7), (32, 32)),
        ((1, 1), (1, 1), (32, 32)),
    ],
)
def test_preprocess_is_resize_minus_mean_padded(
    layout: str, size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]
) -> None:
    image = picture(*size, seed=6)
    expected = np.zeros((*padded, 3), np.float32)
    expected[: resized[0], : resized[1]] = pillow(image, *resized).astype(np.float32) - np.array(MEAN, np.float32)
    expected = expected.transpose(2, 0, 1)[None] if layout == "NCHW" else expected[None]
    for threads in (1, 2, 5):
        guarded = np.full(expected.size + 128, np.nan, np.float32)
        out = guarded[64:-64].reshape(expected.shape)
        assert _core.preprocess(image, *resized, MEAN, out, layout=layout, threads=threads) is None
        assert np.array_equal(out, expected)
        assert np.isnan(guarded[:64]).all() and np.isnan(guarded[-64:]).all()


@pytest.mark.parametrize(("scale", "zero_point"), [(1.0, 116), (0.37, 3), (2.75, 0), (0.5, 255)])
def test_bytes_are_the_quantized_floats(scale: float, zero_point: int) -> None:
    image = picture(48, 64, seed=7)
    floats = np.empty((1, 64, 96, 3), np.float32)
    _core.preprocess(image, 40, 53, MEAN, floats, layout="NHWC")
    expected = np.clip(np.rint(floats / np.float32(scale)) + zero_point, 0, 255)
    for threads in (1, 3):
        guarded = np.full(expected.size + 128, 77, np.uint8)
        out = guarded[64:-64].reshape(expected.shape)
        _core.preprocess_to_bytes(image, 40, 53, MEAN, out, scale, zero_point, threads)
        assert np.array_equal(out, expected)
        assert (guarded[:64] == 77).all() and (guarded[-64:] == 77).all()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"out": np.zeros((1, 8, 8, 3), np.float32)}, TypeError, "uint8"),
        ({"out": np.zeros((1, 3, 8, 8), np.uint8)}, ValueError, "NHWC"),
        ({"out": np.zeros((1, 3, 8, 3), np.uint8)}, ValueError, "does not fit"),
        ({"scale": 0.0}, ValueError, "scale"),
        ({"scale": float("nan")}, ValueError, "scale"),
        ({"zero_point": 256}, ValueError, "zero_point"),
        ({"mean": (1, 2)}, ValueError, "2 values"),
    ],
)
def test_wrong_quantization_is_refused(change: dict[str, object], kind: type[Exception], words: str) -> None:
    good = {"mean": MEAN, "out": np.zeros((1, 8, 8, 3), np.uint8), "scale": 1.0, "zero_point": 9}
    with pytest.raises(kind, match=words):
        _core.preprocess_to_bytes(GOOD, 4, 6, **{**good, **change})


def test_mean_may_be_an_array() -> None:
    image, out = picture(4, 4, 1), np.empty((1, 3, 4, 4), np.float32)
    _core.preprocess(image, 4, 4, np.array([1.5, 2.5, 3.5], np.float32), out)
    assert out[0, 2, 0, 0] == image[0, 0, 2] - 3.5


GOOD = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (GOOD.astype(np.float32), TypeError),
        (GOOD.astype(np.int8), TypeError),
        (GOOD.tolist(), TypeError),
        (None, TypeError),
        (GOOD[..., 0], ValueError),
        (GOOD[..., :2], ValueError),
        (GOOD[None], ValueError),
        (GOOD[:0], ValueError),
        (GOOD[:, :0], ValueError),
    ],
)
def test_wrong_pictures_are_refused(image: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="uint8"):
        _core.resize(image, 4, 4)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-1, 4), (4, 1 << 40)])
def test_wrong_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="from 1 to"):
        _core.resize(GOOD, *size)
    with pytest.raises(ValueError, match=r"from 1 to|does not fit"):
        _core.preprocess(GOOD, *size, MEAN, np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"out": np.zeros((1, 3, 8, 8))}, TypeError, "float32"),
        ({"out": [0.0]}, TypeError, "float32"),
        ({"out": np.zeros((3, 8, 8), np.float32)}, ValueError, "NCHW"),
        ({"out": np.zeros((2, 3, 8, 8), np.float32)}, ValueError, "NCHW"),
        ({"out": np.zeros((1, 8, 8, 3), np.float32)}, ValueError, "NCHW"),
        ({"out": np.zeros((1, 3, 8, 8), np.float32), "layout": "NHWC"}, ValueError, "NHWC"),
        ({"out": np.zeros((1, 3, 8, 16), np.float32)[..., ::2]}, ValueError, "C-contiguous"),
        ({"out": np.broadcast_to(np.zeros((1, 3, 8, 8), np.float32), (1, 3, 8, 8))}, ValueError, "read-only"),
        ({"out": np.zeros((1, 3, 3, 8), np.float32)}, ValueError, "does not fit"),
        ({"layout": "CHW"}, ValueError, "'CHW'"),
        ({"mean": (1, 2)}, ValueError, "2 values"),
        ({"mean": (1, 2, float("nan"))}, ValueError, "finite"),
        ({"threads": 0}, ValueError, "threads"),
        ({"threads": 100000}, ValueError, "threads"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, object], kind: type[Exception], words: str) -> None:
    arguments = {"mean": MEAN, "out": np.zeros((1, 3, 8, 8), np.float32), **change}
    with pytest.raises(kind, match=words):
        _core.preprocess(GOOD, 4, 6, **arguments)
