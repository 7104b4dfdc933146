"""The seam: results of every kind are saved, read, drawn, compared and scored by what their own module says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from densepose_engine import DensePoseEngineError, DensePoseResult, Engine, EngineFileError
from densepose_engine.decoders import DECODERS, load_result, make_decoder, result_class
from densepose_engine.decoders.charts import ChartDecoder
from densepose_engine.decoders.embeddings import Surface, VertexResult
from densepose_engine.evaluation.drift import drift
from densepose_engine.evaluation.people import compare_patches
from densepose_engine.model.decoder import MEMBER, DecoderDescription, TensorDescription
from densepose_engine.model.engine_file import EngineFile, read_engine_file, write_engine_file
from densepose_engine.outputs.kinds import OUTPUT_KINDS, kinds_of
from densepose_engine.visualize import draw, people_above

TESTS = Path(__file__).resolve().parent


def vertex_result(people: int = 2, shift: int = 0) -> VertexResult:
    """People of 6 x 4 pixels, on two meshes in turn, with one column of background."""
    rng = np.random.default_rng(3)
    surfaces = {
        name: Surface(name, rng.integers(0, 256, (count, 3)).astype(np.uint8))
        for name, count in (("cow_9", 9), ("human_70000", 70_000))
    }
    meshes = tuple(("cow_9", "human_70000")[k % 2] for k in range(people))
    corners = 10.0 * np.arange(people)
    boxes = np.stack([corners, corners, corners + 4.5, corners + 6.5], axis=1).astype(np.float32)
    masks = tuple(np.arange(4)[None].repeat(6, axis=0) > 0 for _ in range(people))
    vertices = tuple(
        np.where(mask, (np.arange(24).reshape(6, 4) + shift) % len(surfaces[mesh]), 0).astype(
            np.uint16 if mesh == "cow_9" else np.int32
        )
        for mask, mesh in zip(masks, meshes, strict=True)
    )
    scores = np.linspace(0.9, 0.6, people).astype(np.float32)
    classes = np.arange(people, dtype=np.int32) % 2
    return VertexResult(boxes, scores, classes, vertices, masks, meshes, (40, 40), surfaces)


# ---- vertices --------------------------------------------------------------------------------------------------------


def test_vertices_are_saved_and_read(tmp_path: Path) -> None:
    result = vertex_result()
    result.save(tmp_path / "a.npz")
    again = load_result(tmp_path / "a.npz")
    assert isinstance(again, VertexResult) and again == result
    assert DensePoseResult.load(tmp_path / "a.npz") == result
    assert [array.dtype for array in again.vertices] == [np.uint16, np.int32] and again.meshes == result.meshes
    with np.load(tmp_path / "a.npz") as file:  # what scorers of vertices read
        assert (file["vertices_1"] == result.vertices[1]).all() and file["mask_1"].dtype == bool
    vertex_result(0).save(tmp_path / "nobody.npz")
    assert isinstance(load_result(tmp_path / "nobody.npz"), VertexResult)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("kind", np.array("shares"), "of kind 'shares', this package reads charts, embeddings"),
        ("kind", np.array("charts"), "no array labels_0"),
        ("format_version", np.array(9), "format version 9"),
        ("mesh_names", np.array(["cow_9", "x"]), "no surface of the mesh 'x'"),
        ("mesh_names", np.array(["cow_9"]), "its shape is"),
        ("surface_names", np.array(["cow_9", "cow_9"]), "not distinct"),
        ("surface_0", np.zeros((3, 3), np.uint8), "beyond the mesh's vertices"),
        ("surface_1", np.zeros((3, 2), np.uint8), "its shape is"),
        ("vertices_0", np.full((6, 4), -1, np.int32), "beyond the mesh's vertices"),
        ("vertices_1", np.zeros((4, 6), np.int32), "its shape is"),
        ("mask_0", np.zeros((6, 4), np.uint8), "not what belongs there"),
        ("class_ids", np.zeros(3, np.int32), "its shape is"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused(tmp_path: Path, name: str, value: np.ndarray, said: str) -> None:
    np.savez(tmp_path / "a.npz", **{**vertex_result().arrays(), name: value})
    with pytest.raises(DensePoseEngineError, match=said):
        load_result(tmp_path / "a.npz")


def test_what_charts_have_is_refused_with_what_to_use() -> None:
    result = vertex_result()
    for name in ("labels", "uv", "iuv"):
        with pytest.raises(AttributeError, match=f"has no {name}: .*vertices.*draw"):
            getattr(result, name)
    with pytest.raises(AttributeError, match=r"has no nonsense$"):
        _ = result.nonsense


def test_constructing_judges() -> None:
    good = vertex_result()
    for change, said in (
        ({"vertices": (good.vertices[0],)}, "vertices has 1 entries"),
        ({"vertices": (good.vertices[0].astype(np.int32), good.vertices[1])}, r"vertices\[0\] is int32"),
        ({"vertices": (good.vertices[0] + np.uint16(9), good.vertices[1])}, "beyond the 9 vertices of cow_9"),
        ({"surfaces": {}}, "surfaces has no 'cow_9'"),
        ({"masks": (good.masks[0], good.masks[1].astype(np.uint8))}, r"masks\[1\] is uint8"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(good, **change)  # type: ignore[arg-type]


def test_people_are_taken_out_with_what_belongs_to_them() -> None:
    result = vertex_result(3)
    assert repr(result) == "VertexResult(3 people (0.90, 0.75, 0.60) in 40 x 40 pixels, on cow_9, human_70000)"
    kept = people_above(result, 0.7)
    assert isinstance(kept, VertexResult) and kept.meshes == ("cow_9", "human_70000")
    only = result.people([1])
    assert (
        list(only.surfaces) == ["human_70000"]
        and only.person(-1).class_id == 1
        and only.person(0).mesh == only.meshes[0]
    )
    assert (only.vertices[0] == result.vertices[1]).all()
    (entry,) = only.to_dict(pixels=True)["people"]
    assert entry["mesh"] == "human_70000" and entry["class_id"] == 1 and entry["patch"]["height"] == 6
    json.dumps(entry)


def test_colors_of_vertices() -> None:
    grey = np.full((40, 40, 3), (200, 100, 50), np.uint8)
    result = vertex_result(1)
    drawn = draw(grey, result, "vertex", alpha=1)
    places = result.surfaces["cow_9"].places
    assert (drawn[0:6, 1:4] == places[result.vertices[0][:, 1:]]).all() and (drawn[0:6, 0] == grey[0, 0]).all()
    upstream = draw(grey, result, "dp_vertex")
    luma = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert (upstream[20, 20] == luma).all()  # grey, where nobody is
    value = places[result.vertices[0][2, 2], 0] / 255
    jet = 255 * np.clip(1.5 - np.abs(4 * value - np.array([3, 2, 1])), 0, 1)
    assert np.abs(upstream[2, 2] - (0.7 * jet + 0.3 * luma)).max() <= 1
    assert (draw(grey, result) == draw(grey, result, "vertex")).all()
    with pytest.raises(ValueError, match="one of vertex, dp_vertex, boxes or several of them, not 'parts'"):
        draw(grey, result, "parts")


def test_neighbors_in_embedding_have_neighboring_colors() -> None:
    turn = np.linspace(0, 1, 500)
    embeddings = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1).astype(np.float32)
    places = Surface.of("line", embeddings).places.astype(int)
    assert places[:, 0].min() == 0 and places[:, 0].max() == 255
    assert np.abs(np.diff(places[:, 0])).max() <= 1
    # Whichever way a decomposition turns its directions.
    assert (Surface.of("line", embeddings[::-1].copy()).places[::-1] == places).all()
    assert (Surface.of("one", embeddings[:1]).places == 0).all()


def test_vertices_are_compared_by_their_numbers() -> None:
    result, moved = vertex_result(2), vertex_result(2, shift=1)
    same = compare_patches(result, 0, result, 0)
    assert same.part_agreement == same.mask_iou == 1 and same.uv_error == 0
    other = compare_patches(result, 1, moved, 1)
    assert other.part_agreement == 0 and other.mask_iou == 1
    # The same numbers on another mesh are other places.
    sheep = {**result.surfaces, "sheep_9": Surface("sheep_9", result.surfaces["cow_9"].places)}
    renamed = replace(result, meshes=("sheep_9", "human_70000"), surfaces=sheep)
    assert compare_patches(result, 0, renamed, 0).part_agreement == 0
    assert drift([result], [moved]).part_agreement < 0.5


# ---- descriptions and engines ----------------------------------------------------------------------------------------


def changed(file: EngineFile, decoder: DecoderDescription, data: bytes = b"") -> EngineFile:
    return replace(file, model=replace(file.model, decoder=decoder), payload={**file.payload, MEMBER: data})


def test_tensors_are_packed_in_order() -> None:
    described = DecoderDescription(
        "x", (TensorDescription("a", "float32", (2, 3)), TensorDescription("b", "int32", (4,))), {}
    )
    arrays = {"b": np.arange(4, dtype=np.int32), "a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    data = described.pack(arrays)
    again = described.unpack(data)
    assert len(data) == 40 and all((again[name] == arrays[name]).all() for name in arrays)
    with pytest.raises(ValueError, match="has 39 bytes, its tensors have 40"):
        described.unpack(data[:-1])
    with pytest.raises(ValueError, match="b is missing"):
        described.pack({"a": arrays["a"]})
    with pytest.raises(ValueError, match="a is float64"):
        described.pack({**arrays, "a": arrays["a"].astype(np.float64)})


def test_an_engine_of_an_unknown_kind_is_refused_at_load(demo_engine: Path, tmp_path: Path) -> None:
    file = read_engine_file(demo_engine)
    write_engine_file(tmp_path / "x.engine", changed(file, DecoderDescription("dreams", (), {})))
    with pytest.raises(EngineFileError, match=r"x\.engine: its manifest is wrong: decoder.kind is 'dreams'"):
        Engine.load(tmp_path / "x.engine")


@pytest.mark.parametrize(
    ("decoder", "data", "said"),
    [
        (DecoderDescription("embeddings", (), {}), b"", "maps lacks embedding"),
        (DecoderDescription("charts", (TensorDescription("a", "uint8", (7,)),), {}), b"123", "has 3 bytes"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(
    demo_engine: Path, tmp_path: Path, decoder: DecoderDescription, data: bytes, said: str
) -> None:
    write_engine_file(tmp_path / "x.engine", changed(read_engine_file(demo_engine), decoder, data))
    with pytest.raises(EngineFileError, match=said):
        Engine.load(tmp_path / "x.engine")


def test_charts_have_no_mesh(demo_engine: Path) -> None:
    with pytest.raises(ValueError, match="no mesh 'smpl'"):
        Engine.load(demo_engine, mesh="smpl")
    file = read_engine_file(demo_engine)
    assert isinstance(make_decoder(file.model, {}), ChartDecoder)
    assert "decoder" not in file.model.to_json()


def test_every_kind_says_what_can_be_made_of_it() -> None:
    assert list(DECODERS) == ["charts", "embeddings"]
    assert list(kinds_of(result_class("charts"))) == ["parts", "u", "v", "contours", "iuv", "npz"]
    assert list(kinds_of(result_class("embeddings"))) == ["vertex", "dp_vertex", "npz"]
    assert {name for kind in DECODERS for name in kinds_of(result_class(kind))} == set(OUTPUT_KINDS)


# ---- a third one -----------------------------------------------------------------------------------------------------

_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import third_decoder
from densepose_engine import cli
raise SystemExit(cli.main(sys.argv[2:]))
"""


def test_a_third_decoder_touches_its_own_file_and_one_registration(demo_engine: Path, tmp_path: Path) -> None:
    """Through infer with all that it writes, JSON, saved results that are read and compared, and bench's stages."""
    described = DecoderDescription("shares", (TensorDescription("offset", "float32", (1,)),), {"most": 100})
    data = described.pack({"offset": np.zeros(1, np.float32)})
    engine, out, picture = tmp_path / "third.engine", tmp_path / "out", TESTS.parent / "models" / "person.jpg"
    write_engine_file(engine, changed(read_engine_file(demo_engine), described, data))

    def run(*arguments: object) -> str:
        command = [sys.executable, "-c", _RUN, str(TESTS), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("infer", engine, picture, "-o", out)
    assert {path.name for path in out.iterdir()} == {f"{picture.stem}.share.png", f"{picture.stem}.npz"}
    with np.load(out / f"{picture.stem}.npz") as saved:
        assert str(saved["kind"]) == "shares" and saved["share_0"].max() > 50
    (line,) = run("infer", engine, picture, "--json").splitlines()
    assert 0 < json.loads(line)["people"][0]["share"] < 100
    quick = (
        "--duration",
        0.1,
        "--iterations",
        2,
        "--warmUp",
        1,
        "--sweep",
        "",
        "--noFootprint",
        "--loadInputs",
        picture,
    )
    run("bench", engine, *quick, "--loadInputs", picture, "--json", tmp_path / "bench.json", "-q")
    content = json.loads((tmp_path / "bench.json").read_text())
    assert list(content["profile"]["stages_ms"])[-3:] == ["runtime", "shares", "result"]
    code = f"""
import sys; sys.path.insert(0, {str(TESTS)!r}); import third_decoder
from densepose_engine.decoders import load_result
from densepose_engine.evaluation.drift import drift
result = load_result({str(out / f"{picture.stem}.npz")!r})
found = drift([result], [result])
print(type(result).__name__, found.matched > 0, found.part_agreement)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ShareResult", "True", "1.0"]
