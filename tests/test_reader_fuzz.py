"""Every reader, on thousands of damaged files: what comes out is a result, or the error that the reader documents.

Seeds are fixed, and the damage knows the structure: archives whose hashes and lengths are right around contents that
are not, JSON that is well formed and says other things.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from descriptions import description, description_json
from engine_files import rewrite
from mutations import mutate_bytes, mutate_data
from PIL import Image
from small_detector import serialize, small_detector
from surface_files import DISTANCES, FACES, PLACES, VERTICES, make_npz, make_obj, make_pickle, make_ply

from densepose_engine import CalibrationError, DensePoseEngineError, DensePoseResult, EngineFileError, ImageError
from densepose_engine.calibration.histogram import Histogram
from densepose_engine.calibration.table import CalibrationTable, ImageProvenance, LayerStatistics
from densepose_engine.decoders.mesh import read_geodesics, read_mesh
from densepose_engine.errors import BuildError, CheckpointError, ConfigError
from densepose_engine.export.checkpoint.load import load_checkpoint
from densepose_engine.export.config.model_config import load_config
from densepose_engine.model.engine_file import EngineFile, read_engine_file, read_manifest, write_engine_file
from densepose_engine.model.graph_file import parse_graph
from densepose_engine.pictures.read import to_rgb_array

MODELS = Path(__file__).resolve().parent.parent / "models"


def fuzz(count: int, make: Callable[[random.Random], Any], read: Callable[[Any], object], *allowed: type) -> None:
    """``read`` what ``make`` makes, ``count`` times; some of it must be refused."""
    refused = 0
    for seed in range(count):
        case = make(random.Random(seed))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(case)
        except allowed as error:
            refused += 1
            assert len(str(error)) < 3000 and str(error)
        except BaseException as error:
            error.add_note(f"seed {seed}") if hasattr(error, "add_note") else None
            raise
    assert count / 10 < refused <= count


# ---- engines ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "a.engine"
    payload = {"model.xml": b"<net/>" * 20, "model.bin": bytes(range(256))}
    write_engine_file(path, EngineFile("openvino", "int8", description(), {"openvino": "1"}, payload))
    return path


def test_engines_whose_bytes_are_damaged(engine: Path, tmp_path: Path) -> None:
    whole, path = engine.read_bytes(), tmp_path / "x.engine"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_engine_file(path)

    fuzz(1500, lambda r: mutate_bytes(r, whole, whole), read, EngineFileError)


def test_engines_whose_manifest_says_something_else(engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"

    def read(seed: random.Random) -> None:
        try:
            rewrite(engine, path, lambda manifest: mutate_data(seed, manifest))
        except UnicodeEncodeError:  # a surrogate, which JSON escapes and a zip's names do not
            return
        json.dumps(read_manifest(path).to_json(), allow_nan=False)
        read_engine_file(path)

    fuzz(800, lambda r: r, read, EngineFileError)


# ---- graphs ----------------------------------------------------------------------------------------------------------


def test_graphs_whose_metadata_say_something_else() -> None:
    model = onnx.load_model_from_string(serialize(small_detector()))
    (entry,) = model.metadata_props
    content = {**description_json(), **json.loads(entry.value)}

    def make(r: random.Random) -> bytes:
        text = json.dumps(mutate_data(r, content)) if r.random() < 0.8 else entry_bytes(r)
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        changed.metadata_props[0].value = text
        return bytes(changed.SerializeToString())

    def entry_bytes(r: random.Random) -> str:
        return mutate_bytes(r, json.dumps(content).encode()).decode("utf-8", "replace")

    fuzz(400, make, lambda data: parse_graph(data, "x.onnx"), BuildError)


def test_graphs_whose_bytes_are_damaged() -> None:
    data = serialize(small_detector())
    fuzz(400, lambda r: mutate_bytes(r, data, data), lambda x: parse_graph(x, "x", CalibrationError), CalibrationError)


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_tables(tmp_path: Path) -> None:
    tensors = {}
    for name in ("image", "p2"):
        histogram = Histogram(name)
        histogram.update(np.random.default_rng(0).standard_normal(500).astype(np.float32))
        tensors[name] = histogram.statistics()
    layers = {"a": LayerStatistics(np.array([0.5, -1.0]))}
    images = ImageProvenance(2, ("c.jpg",), "0" * 64, 0, ("a.jpg", "b.jpg"))
    path = tmp_path / "t.json"
    CalibrationTable("0" * 64, images, "m", "1", (64, 96), 3, 4, tensors, layers).save(path)
    content, raw = json.loads(path.read_text()), path.read_bytes()

    def make(r: random.Random) -> bytes:
        if r.random() < 0.3:
            return mutate_bytes(r, raw)
        return json.dumps(mutate_data(r, content)).encode()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        CalibrationTable.load(path)

    fuzz(500, make, read, CalibrationError)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def archives() -> Iterator[bytes]:
    conv = torch.nn.Conv2d(2, 3, 1)
    for content in ({"model": conv.state_dict(), "iteration": 5}, {"x": torch.nn.Parameter(torch.ones(2).half())}):
        stream = io.BytesIO()
        torch.save(content, stream)
        yield stream.getvalue()
    arrays = {"model": {"a": np.ones((3, 2), np.float32), "s": np.float32(1.5)}, "__author__": "x"}
    for protocol in (2, 4):
        yield pickle.dumps(arrays, protocol)


def with_damaged_member(r: random.Random, archive: bytes) -> bytes:
    """A good zip around a bad pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(stream, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            damaged = info.filename.endswith("data.pkl") or r.random() < 0.1
            target.writestr(info.filename, mutate_bytes(r, data, data) if damaged else data)
    return stream.getvalue()


def test_checkpoints(tmp_path: Path) -> None:
    seeds, path = list(archives()), tmp_path / "m.pth"

    def make(r: random.Random) -> bytes:
        seed = r.choice(seeds)
        if seed.startswith(b"PK") and r.random() < 0.7:
            return with_damaged_member(r, seed)
        return mutate_bytes(r, seed, r.choice(seeds))

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_checkpoint(path)

    fuzz(800, make, read, CheckpointError)


# ---- meshes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".pkl", ".obj", "ascii.ply", "binary.ply"])
def test_meshes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    if suffix == ".npz":
        make_npz(path, texcoords=PLACES, name="body_12", geodesics=DISTANCES)
    elif suffix == ".pkl":
        make_pickle(path, {"vertices": VERTICES, "faces": FACES.tolist(), "texcoords": PLACES, "geodists": DISTANCES})
    elif suffix == ".obj":
        make_obj(path)
    else:
        make_ply(path, binary=suffix == "binary.ply")
    whole = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        mesh = read_mesh(path)
        assert mesh.vertices.dtype == np.float32 and mesh.vertices.ndim == 2
        if suffix in (".npz", ".pkl"):
            read_geodesics(path)

    fuzz(400, lambda r: mutate_bytes(r, whole, whole), read, DensePoseEngineError)


# ---- configurations --------------------------------------------------------------------------------------------------

YAML_TOKENS = (
    *("&a ", "*a", "!!python/tuple [1, 2]", "!!python/object/apply:os.system ['id']", "!!binary aGk=", "!!set {a}"),
    *("<<: *a", "[[[[[[", "{a: {b: ", "- ", "? ", ": ", "|\n", "1e999", ".nan", ".inf", "0x7fffffffffffffff", "~"),
    *("1" * 6000, "2001-01-01", "_BASE_: /dev/zero\n", "_BASE_: .\n", "_BASE_: ''\n", "_BASE_: {}\n", "\ufeff", "\0"),
    *("%YAML 9.9\n---\n", "---\n", "!!timestamp 9999-99-99", "!!float 'x'", "1:99:99", "!!omap [a: 1]", "!!int ''"),
    *("'(1,'", "'9**9**9'", "'" + "-" * 50 + "'", "'" + "(" * 900 + "'", "!!bool ''", "_BASE_: ~nosuchuser/x\n"),
)


def test_configurations(tmp_path: Path) -> None:
    text = (MODELS / "demo.yaml").read_text()
    tree, path = yaml.safe_load(text), tmp_path / "c.yaml"

    def make(r: random.Random) -> bytes:
        if r.random() < 0.5:
            try:
                return yaml.safe_dump(mutate_data(r, tree), allow_unicode=True).encode("utf-8", "surrogatepass")
            except (RecursionError, ValueError):  # PyYAML cannot write it
                return b"[]"
        lines = text.splitlines(keepends=True)
        for _ in range(r.choice((1, 2, 4))):
            at = r.randrange(len(lines))
            head, colon, tail = lines[at].partition(": ")
            token = r.choice(YAML_TOKENS)
            lines[at] = r.choice((token + lines[at], f"{head}{colon}{token}\n", f"{head}{colon}{token} {tail}"))
        return "".join(lines).encode("utf-8", "surrogatepass")

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_config(path)

    fuzz(120, make, read, ConfigError)


# ---- results ---------------------------------------------------------------------------------------------------------

ARRAYS = (
    *(np.zeros((0, 4), np.float32), np.full((2, 4), np.nan, np.float32), np.full((2, 4), 1e7), np.zeros((), np.int64)),
    *(np.array([2**62, 2**62]), np.array([-1, 0]), np.array(["boxes", "scores"]), np.array(["x" * 9999])),
    *(np.array([[0, 0, 16e6, 16e6]] * 2, np.float32), np.array([5.0, np.inf]), np.zeros(2, "c8"), np.zeros(200_000)),
)


def test_results(tmp_path: Path) -> None:
    boxes = np.array([[1, 2, 9, 8], [0, 0, 4.5, 6]], np.float32)
    sizes = [(6, 8), (6, 4)]
    result = DensePoseResult(
        boxes,
        np.array([0.9, 0.8], np.float32),
        tuple(np.ones(size, np.uint8) for size in sizes),
        tuple(np.zeros((2, *size), np.float32) for size in sizes),
        (20, 30),
        {"sigma_2": tuple(np.zeros(size, np.float32) for size in sizes)},
    )
    path = tmp_path / "r.npz"
    result.save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def make(r: random.Random) -> bytes:
        if r.random() < 0.3:
            return mutate_bytes(r, whole, whole)
        members, name = dict(parts), r.choice(list(parts))
        stream = io.BytesIO()
        if r.random() < 0.5:
            np.save(stream, r.choice(ARRAYS))
            members[name] = stream.getvalue()
        else:
            members[name] = mutate_bytes(r, members[name])
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", r.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for key, data in members.items():
                archive.writestr(key, data)
        return stream.getvalue()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        loaded = DensePoseResult.load(path)
        repr(loaded)
        loaded.to_dict()
        if max(loaded.image_size) < 5000:
            loaded.iuv()

    fuzz(1000, make, read, DensePoseEngineError)


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_pictures() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    seeds = []
    for mode, suffix in (
        *(("RGB", "png"), ("RGB", "jpeg"), ("P", "gif"), ("RGB", "tiff"), ("RGB", "webp"), ("RGB", "bmp")),
        *(("L", "ppm"), ("RGBA", "png"), ("P", "png"), ("1", "tiff"), ("CMYK", "jpeg"), ("RGB", "ico")),
    ):
        stream = io.BytesIO()
        options = {"exif": exif} if suffix in ("png", "jpeg", "webp") else {}
        Image.fromarray(rgb).convert(mode).save(stream, suffix.upper(), **options)
        seeds.append(stream.getvalue())

    def read(data: bytes) -> None:
        made = to_rgb_array(data)
        assert made.dtype == np.uint8 and made.ndim == 3 and made.shape[2] == 3

    fuzz(2000, lambda r: mutate_bytes(r, r.choice(seeds), r.choice(seeds)), read, ImageError)
