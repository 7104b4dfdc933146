"""The user's own mesh files: what is read of them, and what is made of a result with them."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from surface_files import DISTANCES, FACES, PLACES, VERTICES, make_npz, make_obj, make_pickle, make_ply

from densepose_engine import BackendUnavailable, DensePoseEngineError, DensePoseResult
from densepose_engine.decoders import mesh as mesh_module
from densepose_engine.decoders.embeddings import Surface, VertexResult
from densepose_engine.decoders.mesh import Geodesics, Mesh, read_geodesics
from densepose_engine.visualize import (
    dp_vertex_layer,
    draw,
    position_colors,
    position_layer,
    positions,
    read_mesh,
    texture,
    texture_layer,
)

# ---- readers ---------------------------------------------------------------------------------------------------------


def check(mesh: Mesh, name: str, places: bool = True) -> None:
    assert mesh.name == name and len(mesh) == 12
    assert mesh.vertices.dtype == np.float32 and mesh.faces is not None and mesh.faces.dtype == np.int32
    np.testing.assert_allclose(mesh.vertices, VERTICES, atol=1e-6)
    assert (mesh.faces == FACES).all()
    assert (mesh.texture_coordinates is not None) == places
    if mesh.texture_coordinates is not None:
        np.testing.assert_allclose(mesh.texture_coordinates, PLACES, atol=1e-6)


@pytest.mark.parametrize("key", ["texture_coordinates", "texcoords", "uv"])
def test_npz(tmp_path: Path, key: str) -> None:
    check(read_mesh(make_npz(tmp_path / "a.npz", name="body_12", **{key: PLACES})), "body_12")
    check(read_mesh(make_npz(tmp_path / "b.npz")), "b", places=False)
    check(read_mesh(tmp_path / "b.npz", name="other"), "other", places=False)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_detectron2_s_pickles(tmp_path: Path, protocol: int) -> None:
    content = {"vertices": VERTICES.astype(np.float64), "faces": FACES.astype(np.int64), "note": "a text"}
    path = make_pickle(tmp_path / "body_12.pkl", content, protocol)
    places = make_pickle(tmp_path / "texcoords_body_12.pkl", PLACES, protocol)
    check(read_mesh(path, texture_coordinates=places), "body_12")
    check(read_mesh(path), "body_12", places=False)
    lists = {"vertices": VERTICES.tolist(), "faces": FACES.tolist()}
    check(read_mesh(make_pickle(tmp_path / "l.pkl", lists, protocol)), "l", places=False)
    geodesics = read_geodesics(make_pickle(tmp_path / "geodists_body_12.pkl", DISTANCES, protocol))
    assert geodesics.name == "body_12" and len(geodesics) == 12


@pytest.mark.parametrize("binary", [False, True])
def test_ply(tmp_path: Path, binary: bool) -> None:
    check(read_mesh(make_ply(tmp_path / "body.ply", binary=binary)), "body")


@pytest.mark.parametrize("seam", [False, True])
def test_obj(tmp_path: Path, seam: bool) -> None:
    """Vertices keep their numbers, whatever groups, materials, normals and seams of the texture there are."""
    check(read_mesh(make_obj(tmp_path / "body.obj", seam=seam)), "body")
    check(read_mesh(make_obj(tmp_path / "plain.obj", places=False)), "plain", places=False)


def test_an_obj_s_vertices_without_a_face_stay_and_its_quadrilaterals_become_triangles(tmp_path: Path) -> None:
    path = tmp_path / "a.obj"
    path.write_text(
        "v 9 9 9\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 8 8 8\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        "f 2/1 3/2 4/3 5/4\nf 2/1 \\\n3/2 4/3\n"
    )
    mesh = read_mesh(path)
    assert len(mesh) == 6 and mesh.faces is not None and len(mesh.faces) == 3 and mesh.texture_coordinates is not None
    assert np.isnan(mesh.texture_coordinates[[0, 5]]).all()
    np.testing.assert_array_equal(mesh.texture_coordinates[1:5], [[0, 1], [1, 1], [1, 0], [0, 0]])


def test_without_trimesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("trimesh", "trimesh.exchange.ply", "trimesh.exchange.obj"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    for path in (make_ply(tmp_path / "a.ply", binary=True), make_obj(tmp_path / "a.obj")):
        with pytest.raises(BackendUnavailable, match=r"reading .*a\.(ply|obj) needs trimesh.*densepose-engine\[mesh\]"):
            read_mesh(path)
    read_mesh(make_npz(tmp_path / "a.npz"))


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pkl", pickle.dumps({"vertices": Attack()}), "it asks for builtins.print, which no mesh of plain arrays"),
        ("a.pkl", pickle.dumps(collections.Counter("a")), r"collections\.Counter.*an \.npz with the same"),
        ("a.pkl", pickle.dumps({"vertices": VERTICES})[:-40], "it is truncated"),
        ("a.pkl", pickle.dumps({"faces": FACES}), "mesh: it has no array vertices or points"),
        ("a.pkl", pickle.dumps({"vertices": FACES}), "its vertices are not floating-point numbers"),
        ("a.pkl", pickle.dumps({"vertices": [[1.0, 2.0]] * 3}), r"its vertices are float32 \(3, 2\)"),
        ("a.pkl", pickle.dumps({"vertices": [[1.0, 2.0, 3.0], [1.0, 2.0]]}), "rows of different lengths"),
        ("a.pkl", pickle.dumps({"vertices": [["x"] * 3]}), "something else than rows"),
        ("a.pkl", pickle.dumps({"vertices": VERTICES * np.float32(np.nan)}), "not all finite"),
        ("a.pkl", pickle.dumps({"vertices": np.full((3, 3), 1e300)}), "not all finite"),
        ("a.pkl", pickle.dumps({"vertices": VERTICES, "faces": FACES + 1}), "name vertices beyond its 12"),
        ("a.pkl", pickle.dumps({"vertices": VERTICES, "faces": FACES + 0.5}), "are not numbers of vertices"),
        ("a.pkl", pickle.dumps({"vertices": VERTICES, "faces": FACES - 20}), "are not numbers of vertices"),
        ("a.pkl", pickle.dumps({"vertices": VERTICES, "texcoords": PLACES[:9]}), "of 9 vertices, and 12 .*horse"),
        ("a.npz", b"PK\x03\x04", "it is no zip file"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 9999999999\nproperty float x\nend_header\n1", "cannot read"),
        ("a.ply", b"no ply", "no PLY file"),
        ("a.obj", b"v 1 2 3\nf 1 2 3\n", "beyond its vertices"),
        ("a.obj", b"v 1 2 3\nv 1 2\nv 1 2 3\nf 1 2 3\n", "not as many as others"),
        ("a.obj", b"v 1 2 3\nf -1 -1 -1\n", "counted from 1"),
        ("a.obj", b"v 1 2 3\nf 1 1\n", "three numbers of vertices or more"),
        ("a.obj", b"v 1 2 x\n", "vertices that are not three numbers"),
        ("a.obj", b"\x00\xff" * 50, "no OBJ file"),
        ("a.stl", b"", "by the file's suffix"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(
    tmp_path: Path, name: str, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DensePoseEngineError, match=said) as caught:
        read_mesh(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and capsys.readouterr().out == ""


def test_a_declared_size_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = make_ply(tmp_path / "a.ply", binary=True).read_bytes()
    (tmp_path / "a.ply").write_bytes(good.replace(b"vertex 12", b"vertex 999999999999"))
    with pytest.raises(DensePoseEngineError, match="cannot read it"):
        read_mesh(tmp_path / "a.ply")
    monkeypatch.setattr(mesh_module, "_MOST_BYTES", 100)
    with pytest.raises(DensePoseEngineError, match="bytes, at most 100 are read"):
        read_mesh(make_obj(tmp_path / "a.obj"))
    monkeypatch.setattr(mesh_module, "_MOST_PICKLE_BYTES", 100)
    with pytest.raises(DensePoseEngineError, match="bytes, at most 100 are read"):
        read_mesh(make_pickle(tmp_path / "a.pkl", {"vertices": VERTICES}))
    with pytest.raises(FileNotFoundError):
        read_mesh(tmp_path / "missing.npz")


# ---- geodesics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["geodesic_upper", "geodesics", "geodists"])
def test_geodesics(tmp_path: Path, key: str) -> None:
    upper = np.array([DISTANCES[i, j] for i in range(12) for j in range(i + 1, 12)], np.float16)
    path = make_npz(tmp_path / "a.npz", name="body_12", **{key: upper if key == "geodesic_upper" else DISTANCES})
    geodesics = read_geodesics(path)
    assert geodesics.name == "body_12" and len(geodesics) == 12
    a, b = np.divmod(np.arange(144), 12)
    found = geodesics.distance(a.astype(np.uint16), b)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.reshape(12, 12), DISTANCES, rtol=1e-3)


def test_geodesics_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DensePoseEngineError, match=r"has no geodesic distances.*geodists/geodists_a\.pkl"):
        read_geodesics(make_npz(tmp_path / "a.npz"))
    with pytest.raises(DensePoseEngineError, match="12 vertices, and geodesic distances of 11"):
        read_geodesics(make_npz(tmp_path / "b.npz", geodesics=DISTANCES[:11, :11]))
    for wrong in (DISTANCES[:, :5], DISTANCES[0, :5], DISTANCES - 1, DISTANCES * np.float32(np.nan), FACES):
        with pytest.raises(ValueError, match="geodesic distances"):
            Geodesics("a", wrong)
    infinite = DISTANCES.copy()
    infinite[0, 1] = np.inf
    assert np.isinf(Geodesics("a", infinite).distance(np.array([0]), np.array([1]))).all()


# ---- what is made of a result ----------------------------------------------------------------------------------------


def result_on(*names: str, count: int = 12) -> VertexResult:
    """A person of 4 x 6 pixels per name, the first two columns background; the vertices in turn."""
    people = len(names)
    left = 10.0 * np.arange(people) + 2
    boxes = np.stack([left, 0 * left + 3, left + 6, 0 * left + 7], axis=1).astype(np.float32)
    mask = np.arange(6)[None].repeat(4, axis=0) > 1
    vertices = np.where(mask, np.arange(24).reshape(4, 6) % count, 0).astype(np.uint16)
    places = np.zeros((count, 3), np.uint8)
    return VertexResult(
        boxes,
        np.linspace(0.9, 0.8, people).astype(np.float32),
        np.zeros(people, np.int32),
        (vertices,) * people,
        (mask,) * people,
        names,
        (20, 40),
        {name: Surface(name, places) for name in dict.fromkeys(names)},
    )


MESH = Mesh("body_12", VERTICES, FACES, PLACES)
GREY = np.full((20, 40, 3), (90, 120, 150), np.uint8)


def test_positions() -> None:
    result = result_on("body_12")
    found = positions(result, 0, MESH)
    assert found.dtype == np.float32 and found.shape == (4, 6, 3) and np.isnan(found[:, :2]).all()
    for y in range(4):
        for x in range(2, 6):
            assert (found[y, x] == VERTICES[(6 * y + x) % 12]).all()
    assert (positions(result, -1, Mesh("any name will do", VERTICES)) == found)[:, 2:].all()
    with pytest.raises(IndexError):
        positions(result, 1, MESH)


def test_a_mesh_that_is_not_the_result_s_is_refused() -> None:
    with pytest.raises(
        DensePoseEngineError, match="body_12 has 12 vertices, and the result is on body_13, which has 13"
    ):
        positions(result_on("body_13", count=13), 0, MESH)
    with pytest.raises(DensePoseEngineError, match=r"has 12 vertices.*which has 13"):
        draw(GREY, result_on("body_13", count=13), position_layer(result_on("body_13", count=13), MESH))
    both = result_on("dog_12", "body_12")
    with pytest.raises(DensePoseEngineError, match="person 0 is on dog_12, and the mesh file is of body_12"):
        positions(both, 0, MESH)
    assert positions(both, 1, MESH).shape == (4, 6, 3)
    with pytest.raises(
        DensePoseEngineError, match=r"is of x, and the result is on dog_12, body_12; read_mesh\(path, name"
    ):
        texture_layer(both, GREY, Mesh("x", VERTICES, None, PLACES))
    charts = DensePoseResult(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), (), (), (20, 40))
    with pytest.raises(DensePoseEngineError, match="this one is of charts"):
        position_layer(charts, MESH)


def test_colors_by_position() -> None:
    colors = position_colors(MESH)
    assert colors.min() == 0 and colors.max() == 255
    flat = position_colors(Mesh("flat", VERTICES * np.float32([1, 1, 0.5])))
    assert flat[:, 2].max() == pytest.approx(127.5, abs=0.1)  # half as deep: half the colors
    drawn = draw(GREY, result_on("body_12"), [position_layer(result_on("body_12"), MESH)], alpha=1)
    for y in range(4):
        for x in range(6):
            expected = GREY[0, 0] if x < 2 else np.floor(colors[(6 * y + x) % 12] + 0.5)
            assert (drawn[3 + y, 2 + x] == expected).all()
    assert (drawn[:3] == GREY[:3]).all()


def test_dp_vertex_with_a_mesh_is_detectron2_s() -> None:
    total = VERTICES.astype(np.float64).sum(axis=1)
    value = ((total - total.min()) / (total.max() - total.min())) ** 2
    drawn = draw(GREY, result_on("body_12"), dp_vertex_layer(result_on("body_12"), MESH))
    luma = round(0.299 * 90 + 0.587 * 120 + 0.114 * 150)
    assert (drawn[0, 0] == luma).all()
    for x in range(2, 6):
        jet = 255 * np.clip(1.5 - np.abs(4 * value[x] - np.array([3, 2, 1])), 0, 1)
        assert np.abs(drawn[3, 2 + x] - (0.7 * jet + 0.3 * luma)).max() <= 1


def dp_cse_texture(image: np.ndarray, atlas: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """What detectron2 computes, pixel by pixel, of the first person."""
    out = image.astype(np.float64)
    for y in range(4):
        for x in range(2, 6):
            u, v = PLACES[(6 * y + x) % 12].tolist()
            row, column = int(v * atlas.shape[0]), int(u * atlas.shape[1])
            a = opacity[row, column]
            out[3 + y, 2 + x] = out[3 + y, 2 + x] * (1 - a) + a * atlas[row, column]
    return out


def test_textures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    atlas = rng.integers(1, 256, (30, 50, 3)).astype(np.uint8)
    atlas[:, 25:] = 0  # without opacity of its own, black is transparent
    result = result_on("body_12")
    drawn = texture(GREY, result, atlas, MESH)
    expected = dp_cse_texture(GREY, atlas, (atlas.sum(axis=2) > 0).astype(float))
    assert np.abs(drawn - expected).max() <= 1 and (drawn != GREY).any() and (drawn[3:7, 2:8] == GREY[3:7, 2:8]).any()
    half = texture(GREY, result, atlas, MESH, alpha=0.5)
    assert np.abs(half - (0.5 * expected + 0.5 * GREY)).max() <= 1

    rgba = np.concatenate([atlas, rng.integers(0, 256, (30, 50, 1)).astype(np.uint8)], axis=2)
    expected = dp_cse_texture(GREY, atlas, rgba[..., 3] / 255)
    Image.fromarray(rgba).save(tmp_path / "t.png")
    data = (tmp_path / "t.png").read_bytes()
    for given in (rgba, tmp_path / "t.png", str(tmp_path / "t.png"), data, Image.open(tmp_path / "t.png")):
        assert np.abs(texture(GREY, result, given, MESH) - expected).max() <= 1
    Image.fromarray(atlas).save(tmp_path / "rgb.png")
    assert (texture(GREY, result, tmp_path / "rgb.png", MESH) == drawn).all()


def test_textures_at_the_edges() -> None:
    """Upstream clips to 0 .. 1 and then reads beyond the picture; here 1 is the last pixel. NaN is left out."""
    places = np.array([[np.nan, np.nan], [1, 1], [7, -7], *[[0.5, 0.5]] * 9], np.float32)
    atlas = np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3)
    drawn = texture(GREY, result_on("body_12"), atlas, Mesh("body_12", VERTICES, None, places))
    assert (drawn[5, 2 + 2] == atlas[0, 1]).all()  # vertex 2
    assert (drawn[4, 2 + 5] == atlas[1, 1]).all()  # vertex 11
    with pytest.raises(DensePoseEngineError, match=r"no texture coordinates.*texcoords/texcoords_NAME\.pkl"):
        texture(GREY, result_on("body_12"), atlas, Mesh("body_12", VERTICES))


def test_of_several_meshes_one_is_drawn() -> None:
    result = result_on("dog_12", "body_12")
    drawn = draw(GREY, result, [position_layer(result, MESH), "boxes"], alpha=1)
    only = draw(GREY, result, position_layer(result, MESH), alpha=1)
    assert (only[3:7, 2:8] == GREY[3:7, 2:8]).all() and (only[3:7, 14:18] != GREY[3:7, 14:18]).any()
    assert (drawn != only).any()
    nobody = result.people([])
    assert (draw(GREY, nobody, position_layer(nobody, MESH)) == GREY).all()


def test_the_documentation_s_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "meshes.md").read_text()
    (code,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    make_npz(tmp_path / "mesh.npz", texture_coordinates=PLACES)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "texture.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"image": GREY, "result": result_on("body_12")}
    exec(code, names)
    assert names["xyz"].shape == (4, 6, 3)
    assert (names["dressed"] == [1, 2, 3]).all(axis=-1).sum() == 16
    assert (names["colored"] != GREY).any()


def test_what_is_no_layer_is_refused() -> None:
    result = result_on("body_12")
    for wrong in ([3], [None], ["vertex", MESH]):
        with pytest.raises(ValueError, match="what must be one of vertex, dp_vertex, boxes"):
            draw(GREY, result, wrong)  # type: ignore[arg-type]
