"""Engines of models with vertices, from a picture to a file: each class on its mesh, and the closest vertices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from embedding_models import ANIMALS, ModelFiles, mesh_of, nine_classes, write_model
from PIL import Image

from densepose_engine import Engine
from densepose_engine.cli import USAGE, main
from densepose_engine.decoders import load_result
from densepose_engine.decoders.embeddings import VertexResult
from densepose_engine.model.engine_file import read_engine_file

MODELS = Path(__file__).resolve().parent.parent / "models"
LEAST: dict[str, Any] = {"score_threshold": 0.0, "nms_threshold": 0.1, "max_people": 40}
#: Of squared distances, relative to the largest: closer ones are ties.
TIE = 1e-5


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files: ModelFiles = write_model(tmp_path_factory.mktemp("nine"), nine_classes())
    path = files.config.with_suffix(".onnx")
    assert main([*files.export_arguments(), "--input-size", "64x96", "-o", str(path), "-q"]) == 0
    return path


@pytest.fixture(scope="module")
def fp32(graph: Path) -> Path:
    path = graph.with_suffix(".fp32.engine")
    assert main(["build", str(graph), "--precision", "fp32", "-o", str(path), "-q"]) == 0
    return path


@pytest.fixture(scope="module")
def int8(graph: Path) -> Path:
    table, path = graph.with_suffix(".calib.json"), graph.with_suffix(".int8.engine")
    pictures = sorted(map(str, (MODELS / "calibration").glob("*.jpg")))[:2]
    assert main(["calibrate", str(graph), *pictures, "--min-people", "1", "-o", str(table), "-q"]) == 0
    options = ["--precision", "int8", "--calib", str(table), "--observer", "minmax"]
    assert main(["build", str(graph), *options, "-o", str(path), "-q"]) == 0
    return path


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """So small that every distance of every pixel fits into memory."""
    with Image.open(MODELS / "person.jpg") as image:
        return np.asarray(image.convert("RGB").resize((60, 90)))


def raw_maps(engine: Engine, picture: np.ndarray) -> dict[str, np.ndarray]:
    """What the engine's graph gives for a picture, its maps taken apart: boxes, classes, coarse_segm and embedding."""
    seen: dict[str, np.ndarray] = {}
    decoder = engine._decoder
    decode = decoder.decode

    def watched(outputs: dict[str, np.ndarray], *others: object) -> object:
        seen.update({name: np.array(value) for name, value in outputs.items()})
        return decode(outputs, *others)  # type: ignore[arg-type]

    decoder.decode = watched  # type: ignore[assignment, method-assign]
    engine.infer(picture, **LEAST)
    decoder.decode = decode  # type: ignore[method-assign]
    people, rows, columns, _ = seen["maps"].shape
    cells = seen["maps"].reshape(people, rows, columns, 18, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    seen["coarse_segm"], seen["embedding"] = np.split(cells.reshape(people, 18, 2 * rows, 2 * columns), [2], axis=1)
    return seen


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_everybody_is_on_the_mesh_of_their_class(
    request: pytest.FixtureRequest, picture: np.ndarray, precision: str
) -> None:
    path = request.getfixturevalue(precision)
    file = read_engine_file(path)
    tensors = file.model.decoder.unpack(file.payload["decoder.bin"])
    meshes = file.model.decoder.settings["meshes"]
    with Engine.load(path, cache_dir=None, warm_up=0) as engine:
        result = engine.infer(picture, **LEAST)
        maps = raw_maps(engine, picture)
    assert isinstance(result, VertexResult) and len(result) > 5
    assert len(set(result.class_ids.tolist())) > 2, "several classes must be found for this to test anything"
    assert list(result.meshes) == [mesh_of(ANIMALS[c]) for c in result.class_ids]
    np.testing.assert_array_equal(result.class_ids, maps["classes"])
    for k, (vertices, mask) in enumerate(zip(result.vertices, result.masks, strict=True)):
        embeddings = tensors[f"vertex_embeddings/{meshes.index(result.meshes[k])}"].astype(np.float64)
        height, width = mask.shape
        assert (height, width) == reference.patch_size(result.boxes[k]) and vertices.dtype == np.uint16
        coarse = reference.resample(maps["coarse_segm"][k], height, width)
        sure = np.abs(coarse[1] - coarse[0]) > 1e-4 * np.abs(coarse).max()
        np.testing.assert_array_equal(mask[sure], (coarse[1] > coarse[0])[sure])
        pixels = reference.resample(maps["embedding"][k], height, width).reshape(16, -1).T
        distances = ((pixels[:, None] - embeddings[None]) ** 2).sum(axis=2).reshape(height, width, -1)
        chosen = np.take_along_axis(distances, vertices[..., None].astype(int), axis=2)[..., 0]
        assert (chosen <= distances.min(axis=2) + TIE * distances.max(axis=2))[mask].all()
        assert (vertices[~mask] == 0).all()


def test_a_mesh_can_be_chosen(fp32: Path, picture: np.ndarray) -> None:
    """One that no class maps to, at load and for one picture; people, boxes and masks stay the same."""
    with Engine.load(fp32, cache_dir=None, warm_up=0) as engine:
        usual = engine.infer(picture, **LEAST)
        chosen = engine.infer(picture, mesh="person", **LEAST)
        again = next(result for _, result in engine.stream([picture], mesh="person", **LEAST))
        assert engine.infer_async(picture, mesh="person", **LEAST).result() == chosen == again
        with pytest.raises(ValueError, match=r"mesh must be one of bear_1, cow_1, .*, person, not 'unicorn'"):
            engine.infer(picture, mesh="unicorn")
    with Engine.load(fp32, cache_dir=None, warm_up=0, mesh="person") as engine:
        assert engine.infer(picture, **LEAST) == chosen
        assert engine.infer(picture, mesh="cow_1", **LEAST).meshes[0] == "cow_1"
    assert set(chosen.meshes) == {"person"} and list(chosen.surfaces) == ["person"]
    np.testing.assert_array_equal(chosen.class_ids, usual.class_ids)
    assert all((a == b).all() for a, b in zip(chosen.masks, usual.masks, strict=True))
    with pytest.raises(ValueError, match="not 'unicorn'"):
        Engine.load(fp32, mesh="unicorn")


def test_the_command_line(fp32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = MODELS / "person.jpg"
    threshold = ("--score-threshold", "0.02")
    assert main(["infer", str(fp32), str(picture), *threshold, "-o", str(tmp_path / "out"), "-q"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"person.vertex.png", "person.dp_vertex.png", "person.npz"}
    saved = load_result(tmp_path / "out/person.npz")
    assert isinstance(saved, VertexResult) and len(saved) > 5
    capsys.readouterr()
    assert main(["infer", str(fp32), str(picture), *threshold, "--json", "--mesh", "person"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert {person["mesh"] for person in line["people"]} == {"person"}
    assert main(["infer", str(fp32), str(picture), "--save", "parts", "-o", str(tmp_path / "x")]) == USAGE
    assert "is a network with embeddings, of whose results there are vertex, dp_vertex, npz" in capsys.readouterr().err
    assert main(["infer", str(fp32), str(picture), "--mesh", "unicorn", "-o", str(tmp_path / "y")]) == USAGE
    assert "mesh must be one of" in capsys.readouterr().err and not (tmp_path / "y").exists()
    assert main(["inspect", str(fp32)]) == 0
    page = capsys.readouterr().out
    assert "embeddings of 16" in page and "pet_1 (56 vertices)" in page
