"""Hostile arguments: of ``Engine.infer``, of the command line, and of the compiled ops."""

from __future__ import annotations

import json
import math
import os
import shutil
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from densepose_engine import Engine, _core
from densepose_engine.errors import ImageError

from . import material
from .target import Target
from .targets_engine import LOADING, run_verb

_NUMBERS: tuple[Any, ...] = (
    *(
        None,
        None,
        None,
        0,
        1,
        -1,
        0.5,
        1.0,
        math.nan,
        math.inf,
        -0.0,
        10**400,
        True,
        "0.5",
        2,
        20,
        100,
        101,
        1000,
        1001,
    ),
    *(np.float32(0.3), np.float16(0.3), np.int64(5), np.uint8(200), np.array(3), np.array([0.5]), np.complex64(0.5)),
    *(1e-300, 1j, 5.0, [], {}, b"1"),
)
_SIDES = ((1, 1), (1, 2), (2, 1), (3, 5), (64, 64), (240, 320), (1, 3000), (3000, 1), (1, 20_000), (7, 333))
_MODES = ("RGB", "L", "1", "P", "CMYK", "F", "I", "LAB", "HSV", "LA", "RGBA", "I;16", "YCbCr")


class _Liar:
    """Says that it is an array of more memory than there is."""

    __array_interface__: ClassVar = {"shape": (10**9, 10**9, 3), "typestr": "|u1", "data": (0, False), "version": 3}


def _array(rng: Random) -> Any:
    height, width = rng.choice(_SIDES)
    image = np.random.default_rng(rng.randrange(1000)).integers(0, 256, (height, width, 3), np.uint8)
    views: tuple[Any, ...] = (
        *(lambda: image, lambda: image, lambda: image[::-1], lambda: image[:, ::-1], lambda: image[..., ::-1]),
        *(
            lambda: np.asfortranarray(image),
            lambda: image.transpose(1, 0, 2),
            lambda: image[:0],
            lambda: image[::2, ::2],
        ),
        lambda: np.broadcast_to(image[:1, :1], (height, width, 3)),
        lambda: np.lib.stride_tricks.as_strided(image, (height, width, 3), (0, 3, 1)),
        lambda: image.astype(rng.choice([np.float32, np.int8, np.uint16, bool, np.float64, object])),
        *(lambda: image[..., : rng.choice([0, 1, 2])], lambda: np.concatenate([image, image[..., :1]], 2)),
        *(lambda: np.ma.masked_array(image), lambda: np.matrix(image[..., 0]), lambda: image[None]),
        lambda: image.tolist() if height * width < 100 else image,
    )
    image.flags.writeable = rng.random() < 0.9
    return rng.choice(views)()


def _picture(rng: Random) -> Any:
    others: tuple[Any, ...] = (
        *(None, 5, "", "\0", "/nonexistent", os.devnull, "/", b"", b"xx", memoryview(b"1"), [], [None], _Liar()),
        *(Path("/proc/self/mem"), object(), {"image": 1}, 1j, "x" * 5000, "\ud800", Path(), iter(()), np.array("x")),
    )
    kind = rng.random()
    if kind < 0.6:
        return _array(rng)
    if kind < 0.75:
        return Image.new(rng.choice(_MODES), rng.choice([(1, 1), (30, 20), (0, 5), (5, 0)]))
    if kind < 0.85:
        return rng.choice([list, tuple])(_array(rng) for _ in range(rng.choice([0, 1, 2])))
    return rng.choice(others)


class InferArguments(Target):
    """Whatever a caller may give ``infer``, ``infer_async`` and ``stream``. The input is a seed."""

    name = "infer-arguments"
    inputs = 8000
    allowed = (TypeError, ValueError, ImageError, OSError)
    memory = 6 << 30

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        loading = {**LOADING, "num_requests": 2, "cache_dir": None}
        self._engines = [Engine.load(path, **loading) for path in (material.ENGINE, material.DYNAMIC_ENGINE)]
        self._picture = material.picture(48, 64)
        self._expected = [engine.infer(self._picture) for engine in self._engines]

    def make(self, rng: Random) -> tuple[bytes, str]:
        return str(rng.getrandbits(60)).encode(), ".seed"

    def run(self, path: Path) -> None:
        rng = Random(path.read_text())
        which = rng.randrange(len(self._engines))
        engine, image = self._engines[which], _picture(rng)
        names = ("score_threshold", "nms_threshold", "max_people", "max_proposals")
        settings = {name: rng.choice(_NUMBERS) for name in names if rng.random() < 0.5}
        kind = rng.random()
        try:
            if kind < 0.2:
                list(engine.stream([image], **settings))
            elif kind < 0.4:
                engine.infer_async(image, **settings).result()
            else:
                engine.infer(image, **settings)
        finally:  # whatever it was, the next caller is served
            assert engine.infer(self._picture) == self._expected[which]


_WORDS: tuple[str, ...] = (
    *("", "-", "--", "-o", "--output", "--force", "--json", "--threads", "--save", "--quiet", "--device", "--count"),
    *("0", "-1", "1", "2", "1e999", "nan", "9" * 5000, "0.5", "5", "1,2", "npz,parts", "npz", "x" * 300, "\ud800", "é"),
    *("/", ".", "..", "/dev/null", "/proc/self/mem", "out", "out.png", "out.mp4", "out.npz", "~", "~nosuchuser/x"),
    *("http://localhost:1/x.jpg", "rtsp://localhost:1/x", "file:///etc/passwd", "320x448", "0x0", "99999999x9999999"),
    *("--score-threshold", "--nms-threshold", "--max-people", "--max-proposals", "--no-cache", "--cache-dir"),
    *("--input-size", "--dynamic", "--config", "--weights", "--precision", "int8", "fp32", "bf16", "--calib"),
    *("--observer", "minmax", "--backend", "openvino", "tensorrt", "abacus", "--keep-float", "", "--min-people"),
    *("--opts", "MODEL.MASK_ON", "True", "TEST.DETECTIONS_PER_IMAGE", "'(1,'", "--ops", "standard", "--help"),
)
_VERBS = ("infer", "inspect", "build", "calibrate", "export", "report", "extract", "evaluate", "nonsense")


class CommandLine(Target):
    """Words in any order after a verb: no traceback, and no exit code that stands for a mistake of ours."""

    name = "command-line"
    inputs = 2500
    memory = None
    seconds = 60.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._given, self._scratch = folder / "given", folder / "scratch"
        shutil.copytree(material.PICTURES, self._given / "pictures")
        for path in (material.GRAPH, material.TABLE, material.ENGINE, material.VIDEO, material.MODELS / "demo.yaml"):
            shutil.copy(path, self._given)
        shutil.copy(min(material.PICTURES.iterdir()), self._given / "picture.png")
        self._names = [*sorted(path.name for path in self._given.iterdir()), "gone"]

    def make(self, rng: Random) -> tuple[bytes, str]:
        verb = rng.choice(_VERBS)
        words = [rng.choice(_WORDS if rng.random() < 0.6 else self._names) for _ in range(rng.randrange(7))]
        if verb == "infer" and rng.random() < 0.6:
            words = [material.ENGINE.name, rng.choice(self._names), *words]
        return json.dumps([verb, *words]).encode(), ".json"

    def run(self, path: Path) -> None:
        words = json.loads(path.read_text())
        for word, after in pairwise(words):
            if word.startswith("-") and after.startswith(("/", "~", "..")):
                return  # nothing outside of this folder is written to
        # Verbs write beside what they read where no output is named: every input begins with the same files.
        shutil.rmtree(self._scratch, ignore_errors=True)
        shutil.copytree(self._given, self._scratch)
        os.chdir(self._scratch)
        try:
            run_verb(*words)
        finally:
            os.chdir(self.folder)


_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 3.4e38, -3.4e38, math.nan, math.inf, -math.inf, 0.5, 100.0)


class Kernels(Target):
    """The compiled ops, whose attributes and inputs come from a graph: any values, shapes and layouts. A seed."""

    name = "kernels"
    inputs = 20_000
    allowed = (ValueError, TypeError, MemoryError)
    memory = 2 << 30

    def make(self, rng: Random) -> tuple[bytes, str]:
        return str(rng.getrandbits(60)).encode(), ".seed"

    def run(self, path: Path) -> None:
        rng = Random(path.read_text())
        name = rng.choice(
            ["GenerateProposals", "MultilevelRoiAlign", "BoxDetections", "ChartResult", "ClosestVertices"]
        )
        attributes, inputs = getattr(self, f"_{name}")(rng)
        for key in rng.sample(sorted(attributes), rng.choice([0, 1, 1])):
            attributes[key] = _another(attributes[key], rng)
        if rng.random() < 0.1:
            number = rng.randrange(len(inputs))
            inputs[number] = rng.choice(inputs)
        operation = getattr(_core.ops, name)(**attributes)
        threads = rng.choice([1, 2, 3])
        outputs = operation(*inputs, guard=True, threads=threads)
        again = operation(*inputs, threads=1)
        for one, other in zip(outputs, again, strict=True):
            np.testing.assert_array_equal(one, other)

    @staticmethod
    def _GenerateProposals(rng: Random) -> tuple[dict[str, Any], list[np.ndarray]]:
        levels, anchors, layout = rng.randint(1, 3), rng.randint(1, 3), rng.choice(["NCHW", "NHWC"])
        strides = [rng.choice([4, 8, 16]) for _ in range(levels)]
        attributes = {
            "strides": strides,
            "anchors": _floats((levels * anchors * 4,), rng).tolist(),
            "bbox_weights": [1.0, 1.0, 1.0, 1.0],
            "anchor_offset": rng.choice([0.0, 0.5]),
            "nms_threshold": rng.choice([0.0, 0.5, 0.7, 1.0]),
            "min_size": rng.choice([0.0, 1.0, 1e30]),
            "pre_nms_topk": rng.choice([1, 50, 1000]),
            "capacity": rng.choice([1, 7, 100]),
            "layout": layout,
        }
        inputs = [_map(5 * anchors, rng.randint(1, 9), rng.randint(1, 9), layout, rng) for _ in range(levels)]
        return attributes, [*inputs, _sizes(rng), _count(rng)]

    @staticmethod
    def _MultilevelRoiAlign(rng: Random) -> tuple[dict[str, Any], list[np.ndarray]]:
        levels, channels, layout = rng.randint(1, 3), rng.choice([1, 4, 17, 64]), rng.choice(["NCHW", "NHWC"])
        attributes = {
            "strides": [4 << level for level in range(levels)],
            "pooled_size": rng.choice([1, 3, 7]),
            "sampling_ratio": rng.choice([0, 1, 2]),
            "aligned": rng.choice([0, 1]),
            "canonical_box_size": rng.choice([1, 224]),
            "canonical_level": rng.choice([0, 2, 4]),
            "zero_point": 0,
            "layout": layout,
        }
        dtype = rng.choice([np.float32, np.float32, np.uint8, np.int8])
        inputs = [_map(channels, rng.randint(1, 20), rng.randint(1, 20), layout, rng, dtype) for _ in range(levels)]
        boxes = _boxes(rng.choice([0, 1, 9]), rng)
        return attributes, [*inputs, boxes, np.array([rng.choice([len(boxes), 0, 1, -1, 2**31 - 1])], np.int32)]

    @staticmethod
    def _BoxDetections(rng: Random) -> tuple[dict[str, Any], list[np.ndarray]]:
        rows, classes = rng.choice([0, 1, 8, 100]), rng.choice([1, 1, 3, 9])
        settings = [np.array([value], np.float32) for value in (rng.choice(_FLOATS), rng.choice(_FLOATS))]
        moves = rng.choice([1, classes])
        inputs = [_floats((rows, classes + 1), rng), _floats((rows, 4 * moves), rng), _boxes(rows, rng)]
        count = np.array([rng.choice([rows, 0, -1, 2**31 - 1])], np.int32)
        attributes = {"bbox_weights": [10.0, 10.0, 5.0, 5.0], "capacity": rng.choice([1, 5, 100])}
        return attributes, [*inputs, count, _sizes(rng), *settings, _count(rng)]

    @staticmethod
    def _ChartResult(rng: Random) -> tuple[dict[str, Any], list[np.ndarray]]:
        people, side, parts = rng.choice([0, 1, 3]), rng.choice([1, 4, 28]), rng.choice([2, 25])
        layout = rng.choice(["NCHW", "NHWC"])
        shapes = [(channels, side) for channels in (rng.choice([1, 2, 15]), parts, parts, parts)]
        maps = [_map(channels, size, size, layout, rng, people=people) for channels, size in shapes]
        return {"layout": layout}, [*maps, _boxes(people, rng)]

    @staticmethod
    def _ClosestVertices(rng: Random) -> tuple[dict[str, Any], list[np.ndarray]]:
        people, side, depth = rng.choice([0, 1, 3]), rng.choice([1, 4, 28]), rng.choice([1, 3, 16])
        layout = rng.choice(["NCHW", "NHWC"])
        maps = [_map(channels, side, side, layout, rng, people=people) for channels in (rng.choice([1, 2, 15]), depth)]
        numbers = np.random.default_rng(rng.getrandbits(32))
        trees = [
            _core.vertex_tree(numbers.standard_normal((rng.choice([1, 15, 16, 300]), depth)).astype(np.float32))
            for _ in range(rng.choice([1, 2]))
        ]
        sheets = np.cumsum([0, *(len(tree[3]) for tree in trees)]).astype(np.int32)
        meshes = np.array([rng.choice([0, 1, -1, 2**31 - 1]) for _ in range(people)], np.int32)
        tree = [np.concatenate([one[part] for one in trees]) for part in range(4)]
        return {"layout": layout}, [*maps, _boxes(people, rng), meshes, *tree, sheets]


def _another(value: Any, rng: Random) -> Any:
    integers = (0, -1, 1, 3, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63), 2**64)
    if isinstance(value, list):
        item = _another(value[0] if value else 1, rng)
        return rng.choice([[], value * 2, value[:-1], [item] * len(value), [item] * len(value), [item, *value[1:]]])
    if isinstance(value, float):
        return rng.choice(_FLOATS)
    return rng.choice(integers) if isinstance(value, int) else rng.choice(["", "NHWC", "NCHW", "x", None, 5])


def _floats(shape: tuple[int, ...], rng: Random) -> np.ndarray:
    """Ordinary numbers, among which a few that are not."""
    numpy_rng = np.random.default_rng(rng.getrandbits(32))
    array = (numpy_rng.standard_normal(shape) * rng.choice([1, 10])).astype(np.float32)
    odd = numpy_rng.random(shape) < rng.choice([0, 0, 0.05, 0.5])
    array[odd] = numpy_rng.choice(np.array(_FLOATS, np.float32), int(odd.sum()))
    return array


def _map(
    channels: int, height: int, width: int, layout: str, rng: Random, dtype: Any = np.float32, people: int = 1
) -> np.ndarray:
    shape = (people, channels, height, width) if layout == "NCHW" else (people, height, width, channels)
    if dtype != np.float32:
        return np.random.default_rng(rng.getrandbits(32)).integers(0, 100, shape).astype(dtype)
    return _floats(shape, rng)


def _boxes(count: int, rng: Random) -> np.ndarray:
    boxes = np.abs(_floats((count, 4), rng)) * 10
    boxes[:, 2:] += boxes[:, :2]
    # No patch of gigabytes: charts of large boxes are right to need much memory.
    return np.where(np.isfinite(boxes) & (np.abs(boxes) > 2000), np.float32(2000), boxes)


def _sizes(rng: Random) -> np.ndarray:
    return np.array([rng.choice([1, 64, 333, 0, -5, 2**31 - 1]) for _ in range(4)], np.int32)


def _count(rng: Random) -> np.ndarray:
    return np.array([rng.choice([0, 1, 7, 100, -1, 2**31 - 1, -(2**31)])], np.int32)
