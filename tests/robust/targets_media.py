"""Hostile pictures, videos, saved results and annotations."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from annotated_scenes import made_up_picture, write_annotations
from PIL import Image

from densepose_engine import DensePoseResult
from densepose_engine.errors import DensePoseEngineError, ImageError
from densepose_engine.evaluation.annotations import Dataset
from densepose_engine.pictures.read import to_rgb_array
from densepose_engine.video import VideoReader

from . import material
from .mutation import archived, changed_bytes, changed_tree, paths
from .target import Target

_ORIENTATION = 0x0112
_FORMATS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("JPEG", {"exif": True}, "RGB"),
    ("JPEG", {"progressive": True}, "RGB"),
    ("JPEG", {}, "CMYK"),
    *(("PNG", {}, mode) for mode in ("RGB", "P", "RGBA", "I;16")),
    ("PNG", {"exif": True}, "RGB"),
    ("WEBP", {}, "RGB"),
    ("WEBP", {"lossless": True, "exif": True}, "RGBA"),
    *(("TIFF", {"compression": method}, "RGB") for method in (None, "tiff_lzw", "jpeg", "tiff_deflate")),
    *((name, {}, "RGB") for name in ("BMP", "PPM", "AVIF", "JPEG2000", "TGA", "PCX", "SGI", "DDS", "IM", "MPO")),
    ("GIF", {"save_all": True}, "P"),
    *((name, {}, "RGBA") for name in ("ICO", "ICNS")),
)


class Pictures(Target):
    """Every format that Pillow writes, EXIF, CMYK, palettes and 16 bits among them."""

    name = "picture"
    inputs = 10_000
    allowed = (ImageError,)
    memory = 3 << 29

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._seeds = [seed for seed in (_encoded(*kind) for kind in _FORMATS) if seed]

    def make(self, rng: Random) -> tuple[bytes, str]:
        data = changed_bytes(rng.choice(self._seeds), rng, rng.choice(self._seeds))
        return (_with_checksums(data) if rng.random() < 0.7 else data), ".picture"

    def run(self, path: Path) -> None:
        rgb = to_rgb_array(path)
        assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size


def _encoded(name: str, options: dict[str, Any], mode: str) -> bytes:
    """b"" where this Pillow cannot write the format."""
    rgb = material.picture(40, 48)
    image = Image.fromarray(rgb[..., 0].astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(rgb)
    image = image if mode == "I;16" else image.convert(mode)
    options = {key: value for key, value in options.items() if value is not None}
    if options.get("exif"):
        exif = Image.Exif()
        exif[_ORIENTATION] = 6
        options["exif"] = exif
    if options.get("save_all"):
        options["append_images"] = [image.rotate(30)]
    buffer = io.BytesIO()
    try:
        image.save(buffer, name, **options)
    except (OSError, KeyError, ValueError):
        return b""
    return buffer.getvalue()


def _with_checksums(data: bytes) -> bytes:
    """A PNG's chunks with right checksums, so that decoding goes on to what was changed."""
    if data[:4] != b"\x89PNG":
        return data
    result, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + length > len(data):
            break
        chunk = data[at + 4 : at + 8 + length]
        result += data[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return bytes(result) + data[at:]


class Video(Target):
    """Containers and codecs that FFmpeg writes."""

    name = "video"
    inputs = 2500
    allowed = (ImageError,)
    memory = 4 << 30
    seconds = 20.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import av

        av.logging.set_level(None)
        kinds = (("mp4", "libx264"), ("mkv", "libx264"), ("mov", "mpeg4"), ("avi", "mpeg4"), ("ts", "mpeg2video"))
        frames = [material.picture(48, 64, seed) for seed in range(12)]
        self._seeds = []
        for suffix, codec in (*kinds, ("webm", "libvpx-vp9"), ("flv", "flv"), ("mpg", "mpeg2video"), ("gif", "gif")):
            try:
                path = material.write_video(folder / f"seed.{suffix}", codec, frames)
            except (av.FFmpegError, ValueError):  # no such encoder in this FFmpeg
                continue
            self._seeds.append((path.read_bytes(), path.suffix))
        assert len(self._seeds) > 3

    def make(self, rng: Random) -> tuple[bytes, str]:
        data, suffix = rng.choice(self._seeds)
        return changed_bytes(data, rng, rng.choice(self._seeds)[0]), suffix

    def run(self, path: Path) -> None:
        with VideoReader(path) as video:
            assert video.count >= 0 and video.rate >= 0
            for number, (_, rgb) in enumerate(video.frames()):
                assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3
                if number > 40:
                    break


_ARRAYS: tuple[np.ndarray, ...] = (
    np.full((2, 4), np.nan, np.float32),
    np.array([[0, 0, 1e7, 1e7]] * 2, np.float32),
    np.array([[5, 5, 1, 1]] * 2, np.float32),
    np.zeros((0, 4), np.float32),
    np.array([[-1e7, 0, 1e7, 2]] * 2),
    np.array([2**62, 2**62]),
    np.array([-1, 0]),
    np.array(["boxes", "scores"]),
    np.array(["a" * 100_000]),
    np.array([np.inf, 1], np.float32),
    np.zeros((), np.int64),
)
_TYPES = ("<f4", "|u1", "<i8", "<U99", "|O", "<f8", ">f4", "<U0", "|V0", [("a", "<f4")], "<c8")
_SHAPES = ((), (2,), (2, 4), (2**31, 4), (2**62, 2), (-1,), (0,), (10**20,), (6, 8), (True, 4))


class SavedResult(Target):
    """``.npz`` files: the zip, the arrays' headers, their contents, and arrays that do not fit together."""

    name = "result"
    inputs = 8000
    allowed = (DensePoseEngineError,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        boxes = np.array([[1, 2, 9, 8], [0, 0, 4.5, 6]], np.float32)
        labels = (np.ones((6, 8), np.uint8), np.zeros((6, 4), np.uint8))
        uv = (np.zeros((2, 6, 8), np.float32), np.zeros((2, 6, 4), np.float32))
        confidences = {"sigma_2": (np.zeros((6, 8), np.float32), np.zeros((6, 4), np.float32))}
        path = folder / "seed.npz"
        DensePoseResult(boxes, np.array([0.9, 0.8], np.float32), labels, uv, (20, 30), confidences).save(path)
        self._seed = path.read_bytes()
        with np.load(path) as file:
            self._members = {f"{name}.npy": _npy(file[name]) for name in file.files}

    def make(self, rng: Random) -> tuple[bytes, str]:
        if rng.random() < 0.35:
            return changed_bytes(self._seed, rng), ".npz"
        members, kind = dict(self._members), rng.random()
        name = rng.choice(sorted(members))
        if kind < 0.5:
            members[name] = _with_header(members[name], rng)
        elif kind < 0.7:
            members[name] = changed_bytes(members[name], rng)
        elif kind < 0.8:
            del members[name]
        else:
            members[name] = _npy(rng.choice(_ARRAYS))
        return archived(members, rng.choice([0, 8])), ".npz"

    def run(self, path: Path) -> None:
        result = DensePoseResult.load(path)
        assert repr(result)
        if max(result.image_size) < 5000:
            result.iuv()
            json.dumps(result.to_dict())


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _with_header(data: bytes, rng: Random) -> bytes:
    """A ``.npy`` whose header, which is a Python literal, says something else of the same contents."""
    (length,) = struct.unpack("<H", data[8:10])
    header = changed_bytes(data[10 : 10 + length], rng)
    if rng.random() < 0.5:
        said = {
            "descr": rng.choice(_TYPES),
            "fortran_order": rng.choice([True, False, 0]),
            "shape": rng.choice(_SHAPES),
        }
        text = repr(said).encode()
        header = text + b" " * ((64 - (len(text) + 11) % 64) % 64) + b"\n"
    return data[:8] + struct.pack("<H", len(header) & 0xFFFF) + header + data[10 + length :]


class Annotations(Target):
    """COCO's annotations, as bytes and as JSON."""

    name = "annotations"
    inputs = 4000
    allowed = (DensePoseEngineError,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rng = np.random.default_rng(0)
        scene = folder / "scene"
        scene.mkdir()
        self._tree = write_annotations(scene, [made_up_picture(rng)[0] for _ in range(2)])
        self._raw = json.dumps(self._tree).encode()
        # Of long lists of numbers, a few suffice.
        self._places = [p for p in paths(self._tree) if not (p and isinstance(p[-1], int) and p[-1] > 3)]

    def make(self, rng: Random) -> tuple[bytes, str]:
        if rng.random() < 0.3:
            return changed_bytes(self._raw, rng), ".json"
        return json.dumps(changed_tree(self._tree, rng, self._places)).encode(), ".json"

    def run(self, path: Path) -> None:
        Dataset.load(self.folder, annotations=path, images=self.folder)
