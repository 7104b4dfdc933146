"""GPS of vertices; ``evaluation_reference`` is the independent witness."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import annotated_scenes as scenes
import evaluation_reference as reference
import numpy as np
import pytest

from densepose_engine import DensePoseEngineError, cli
from densepose_engine.decoders import load_result
from densepose_engine.decoders.embeddings import Surface, VertexResult
from densepose_engine.decoders.mesh import Geodesics
from densepose_engine.evaluation.accuracy import Dataset, Evaluator, gps_definition
from densepose_engine.evaluation.annotations import AnnotatedPicture
from densepose_engine.evaluation.ogps import Ogps

COUNT = 60
MESH = "sphere_60"


def distances(rng: np.random.Generator) -> np.ndarray:
    """Along a sphere of 0.3 m, of random points."""
    points = rng.normal(size=(COUNT, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    away = 0.3 * np.arccos(np.clip(points @ points.T, -1, 1))
    np.fill_diagonal(away, 0)
    return away.astype(np.float32)


def vertex_result(found: list[reference.Found], mesh: str = MESH) -> VertexResult:
    """The same people as the package has them; of each the mask and the vertices."""
    return VertexResult(
        np.array([box for box, *_ in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, *_ in found], np.float32),
        np.zeros(len(found), np.int32),
        tuple(vertices.astype(np.uint16) for *_, vertices in found),
        tuple(mask.astype(bool) for *_, mask, _ in found),
        (mesh,) * len(found),
        (scenes.HEIGHT, scenes.WIDTH),
        {mesh: Surface(mesh, np.zeros((COUNT, 3), np.uint8))} if found else {},
    )


def made_up(
    rng: np.random.Generator, distance: np.ndarray, mesh: str = MESH
) -> tuple[list[dict[str, Any]], list[reference.Found]]:
    """``annotated_scenes``' people with vertices: annotated are those that were found, or others near or far."""
    annotations, people = scenes.made_up_picture(rng)
    found = []
    for box, score, labels, _ in people:
        mask = labels > 0
        found.append((box, score, mask, np.where(mask, rng.integers(0, COUNT, mask.shape), 0)))
    for annotation in annotations:
        left, top, width, height = annotation["bbox"]
        near = max(people, key=lambda one: reference.box_iou(annotation["bbox"], one[0], False))
        box, _, _, vertices = found[[one is near for one in people].index(True)]
        annotation["dp_vertex"] = []
        for x, y in zip(annotation["dp_x"], annotation["dp_y"], strict=True):
            row = min(max(int(y * height / 255 + top - box[1]), 0), vertices.shape[0] - 1)
            column = min(max(int(x * width / 255 + left - box[0]), 0), vertices.shape[1] - 1)
            closest = np.argsort(distance[vertices[row, column]])
            annotation["dp_vertex"].append(int(closest[rng.choice([0, 0, 1, 2, 50])]))
        annotation["ref_model"] = mesh
    return annotations, found


def pictures_of(folder: Path, made: list[list[dict[str, Any]]]) -> tuple[AnnotatedPicture, ...]:
    scenes.write_annotations(folder, copy.deepcopy(made))
    return Dataset.load(folder).pictures


@pytest.mark.parametrize("mesh", [MESH, "smpl_27554"])
def test_average_precision_is_detectron2_s(tmp_path: Path, mesh: str) -> None:
    """Of people with points on the mesh alone, with charts beside them, without points, and in a crowd."""
    rng = np.random.default_rng(7)
    distance = distances(rng)
    made = [made_up(rng, distance, mesh) for _ in range(14)]
    for n, (annotated, _) in enumerate(made):
        for annotation in annotated:
            annotation["dp_I"] = [int(part) for part in annotation["dp_I"]]
        if n % 3 == 0:
            del annotated[0]["dp_U"], annotated[0]["dp_V"]
        if n % 3 == 1:
            del annotated[0]["dp_I"]
        if n % 4 == 3:
            for key in ("dp_x", "dp_y", "dp_vertex"):
                del annotated[0][key]
        if n == 5:
            annotated[1]["iscrowd"] = 1
        if n == 6:
            annotated[1]["dp_vertex"][3] = -1
    definition = Ogps([Geodesics(mesh, distance)])
    evaluator = Evaluator(definition)
    for picture, (_, found) in zip(pictures_of(tmp_path, [a for a, _ in made]), made, strict=True):
        evaluator.add(picture, vertex_result(found, mesh))
    evaluation = evaluator.evaluation()
    expected = reference.scores(
        [(scenes.HEIGHT, scenes.WIDTH, *one) for one in made],
        lambda annotation, found: reference.ogps(annotation, found, distance),
    )
    assert evaluation.definition == "ogps" and 0.05 < expected["gps"][0] < 0.95
    for name in ("gps", "gpsm"):
        found_scores = np.array(list(getattr(evaluation, name).numbers.values()))
        np.testing.assert_allclose(found_scores, 100 * np.array(expected[name]), rtol=1e-9)


def one_person(tmp_path: Path, points: list[tuple[float, float, int]], **more: Any) -> AnnotatedPicture:
    """In the box 10, 10, 20, 20: x, y, vertex."""
    columns = dict(zip(("dp_x", "dp_y", "dp_vertex"), map(list, zip(*points, strict=True)), strict=True))
    annotation = {"category_id": 1, "bbox": [10, 10, 20, 20], **columns, "ref_model": MESH, **more}
    return pictures_of(tmp_path, [[annotation]])[0]


def a_person(box: list[float], vertex: int) -> reference.Found:
    size = max(int(box[3] - box[1]), 1), max(int(box[2] - box[0]), 1)
    return np.array(box, np.float32), 0.9, np.ones(size, bool), np.full(size, vertex)


def test_a_similarity_by_hand(tmp_path: Path) -> None:
    distance = np.full((COUNT, COUNT), np.inf, np.float32)
    np.fill_diagonal(distance, 0)
    distance[3, 4] = distance[4, 3] = 0.255
    ogps = Ogps([Geodesics(MESH, distance)])
    # The same vertex; one that is 0.255 m off; one that cannot be reached; one below what was found.
    picture = one_person(tmp_path, [(64, 64, 4), (64, 64, 3), (64, 64, 5), (64, 250, 4)])
    people = vertex_result([a_person([10, 10, 30, 25], 4)])
    similar = ogps.similarities(picture, people)
    assert similar.gps[0, 0] == pytest.approx((1 + math.exp(-0.5)) / 4, rel=1e-6)
    # Counted from the box and in 255ths: the point is at 10 + 153 / 255 * 20 = 22.
    picture = one_person(tmp_path, [(153, 153, 4)])
    for left, right, expected in ((22.9, 30, 1.0), (23.0, 30, 0.0), (15.5, 22.6, 1.0), (15.5, 22.4, 0.0)):
        similar = ogps.similarities(picture, vertex_result([a_person([left, 10, right, 30], 4)]))
        assert similar.gps[0, 0] == expected
    nobody = vertex_result([])
    assert ogps.similarities(picture, nobody).gps.shape == (0, 1)


def test_of_the_body_k_is_the_part_s_and_of_no_part_only_the_vertex_counts(tmp_path: Path) -> None:
    distance = np.full((COUNT, COUNT), 0.1, np.float32)
    np.fill_diagonal(distance, 0)
    ogps = Ogps([Geodesics("smpl_27554", distance)])
    found = vertex_result([a_person([10, 10, 30, 30], 4)], "smpl_27554")
    for part, k in reference.K.items():
        picture = one_person(tmp_path, [(64, 64, 9)], ref_model="smpl_27554", dp_I=[part])
        assert ogps.similarities(picture, found).gps[0, 0] == pytest.approx(math.exp(-(0.1**2) / (2 * k**2)), rel=1e-6)
    for vertex, expected in ((4, 1.0), (9, 0.0)):
        picture = one_person(tmp_path, [(64, 64, vertex)], ref_model="smpl_27554", dp_I=[0])
        assert ogps.similarities(picture, found).gps[0, 0] == expected
    picture = one_person(tmp_path, [(64, 64, 9)], ref_model="smpl_27554")
    assert ogps.similarities(picture, found).gps[0, 0] == pytest.approx(math.exp(-(0.1**2) / (2 * 0.255**2)), rel=1e-6)


def test_people_on_another_mesh_are_not_similar(tmp_path: Path) -> None:
    distance = np.zeros((COUNT, COUNT), np.float32)
    ogps = Ogps([Geodesics(MESH, distance), Geodesics("dog_60", distance)])
    picture = one_person(tmp_path, [(64, 64, 4)])
    ogps.check(picture)
    assert ogps.similarities(picture, vertex_result([a_person([10, 10, 30, 30], 4)])).gps[0, 0] == 1
    assert ogps.similarities(picture, vertex_result([a_person([10, 10, 30, 30], 4)], "dog_60")).gps[0, 0] == 0


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    distance = np.zeros((COUNT, COUNT), np.float32)
    ogps = Ogps([Geodesics(MESH, distance)])
    charts = scenes.picture(scenes.person((10, 10, 20, 20), [(1, 1, 1, 0, 0)]))
    with pytest.raises(DensePoseEngineError, match=r"annotation 1 has points on charts and no dp_vertex.*--gps coco"):
        ogps.check(charts)
    with pytest.raises(
        DensePoseEngineError, match=r"is on the mesh 'cow_9' \(ref_model\), and the mesh files are of sph"
    ):
        ogps.check(one_person(tmp_path, [(1, 1, 4)], ref_model="cow_9"))
    with pytest.raises(
        DensePoseEngineError, match="has dp_vertex 60, and the mesh file of sphere_60 has distances of 60"
    ):
        ogps.check(one_person(tmp_path, [(1, 1, 60)]))
    picture = one_person(tmp_path, [(1, 1, 4)])
    with pytest.raises(DensePoseEngineError, match="these results are of charts: take --gps coco or --gps simple"):
        ogps.similarities(picture, scenes.result([scenes.found([10, 10, 30, 30])]))
    person = vertex_result([a_person([10, 10, 30, 30], 4)], "other")
    with pytest.raises(
        DensePoseEngineError, match="the results are on the mesh other, and the mesh files are of sphere"
    ):
        ogps.similarities(picture, person)
    with pytest.raises(DensePoseEngineError, match="has distances of 9 vertices, and the results are on one with 60"):
        Ogps([Geodesics("other", distance[:9, :9])]).similarities(picture, person)
    with pytest.raises(DensePoseEngineError, match="two mesh files are of sphere_60"):
        Ogps([Geodesics(MESH, distance)] * 2)
    for name in ("simple", "coco"):
        definition = scenes.simple_gps()
        if name == "coco":
            table = tmp_path / "smpl.npz"
            part, place = np.arange(1, 25), np.zeros(24)
            np.savez(table, u=place, v=place, part=part, vertex=part - 1, distance=np.zeros((24, 24)))
            definition = gps_definition("coco", geodesics=table)
        with pytest.raises(DensePoseEngineError, match=f"annotation 0 has dp_vertex.*--gps {name}.*take --gps ogps"):
            definition.check(picture)
        with pytest.raises(DensePoseEngineError, match="--gps ogps with --mesh-file"):
            definition.similarities(charts, person)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ref_model": None}, "annotation 0: its ref_model is None, it must be the name"),
        ({"ref_model": 3}, "annotation 0: its ref_model is 3"),
        ({"dp_vertex": [1]}, "annotation 0: its dp_vertex has 1 entries, dp_x has 2"),
        ({"dp_vertex": [1, 2.5]}, "annotation 0: its dp_vertex has values that are no numbers of vertices"),
        ({"dp_vertex": [1, 1 << 60]}, "annotation 0: its dp_vertex has values beyond"),
        ({"dp_vertex": "ab"}, "annotation 0: its dp_vertex is not a list of numbers"),
        ({"dp_I": [25, 1]}, "annotation 0: its dp_I has values other than 1 .. 24"),
        ({"dp_I": [1]}, "annotation 0: its dp_I has 1 entries, dp_x has 2"),
    ],
)
def test_broken_annotations(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DensePoseEngineError) as caught:
        one_person(tmp_path, [(1, 1, 1), (2, 2, 2)], **change)
    assert sentence in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: annotated pictures in ``set``, what was found in ``found``, ``mesh.npz``."""
    rng = np.random.default_rng(1)
    distance = distances(rng)
    made = [made_up(rng, distance) for _ in range(4)]
    scenes.write_annotations(tmp_path / "set", [annotated for annotated, _ in made])
    (tmp_path / "found").mkdir()
    for i, (_, found) in enumerate(made):
        vertex_result(found).save(tmp_path / "found" / f"{i}.npz")
    np.savez(tmp_path / "mesh.npz", name=MESH, vertices=np.zeros((COUNT, 3), np.float32), geodesics=distance)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_evaluate_prints_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluate", "--predictions", "found", "--data", "set"]
    assert cli.main([*common, "--mesh-file", "mesh.npz", "--json", "scores.json"]) == 0
    table = capsys.readouterr().out
    content = json.loads(Path("scores.json").read_text())
    assert content["gps"] == "ogps" and "GPS: ogps" in table
    (one,) = content["evaluations"]
    for metric, name in (("gps", "OGPS"), ("gpsm", "OGPSm")):
        row = next(line for line in table.splitlines() if line.split()[:1] == [name])
        assert row.split()[1:] == [f"{one[metric][key]:.2f}" for key in ("AP", "AP50", "AP75", "AR")]
    assert one["gps"]["AP"] > 0


def test_evaluate_says_how_far_vertices_moved(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same people, all of whose vertices are others."""
    distance = np.load("mesh.npz")["geodesics"]
    Path("moved").mkdir()
    expected = []
    for path in sorted(Path("found").iterdir()):
        result = load_result(path)
        assert isinstance(result, VertexResult)
        order = np.flatnonzero(result.scores >= 0.5)
        vertices = tuple(
            np.where(mask, (v + 7) % COUNT, 0).astype(np.uint16)
            for v, mask in zip(result.vertices, result.masks, strict=True)
        )
        replace(result, vertices=vertices).save(Path("moved") / path.name)
        for k in order:
            mask = result.masks[k]
            if mask.any():
                expected.append(distance[result.vertices[k][mask], vertices[k][mask]].mean())
    arguments = ["evaluate", "--predictions", "found", "--predictions", "moved", "--data", "set"]
    arguments += ["--mesh-file", "mesh.npz", "--resamples", "20"]
    assert cli.main([*arguments, "--json", "-"]) == 0
    drift = json.loads(capsys.readouterr().out)["comparison"]["drift"]
    assert drift["matched"] == len(expected) and drift["mask_iou"] == 1 and drift["part_agreement"] == 0
    assert drift["surface_distance"] == pytest.approx(np.mean(expected), rel=1e-5) and drift["surface_distance"] > 0.1
    assert cli.main(arguments) == 0
    table = capsys.readouterr().out
    assert f"{100 * drift['surface_distance']:.2f} cm along the surface" in table and "same vertex" in table
    assert "OGPSm" in table and "U, V" not in table


def test_distances_are_of_the_same_pixels() -> None:
    rng = np.random.default_rng(4)
    distance = distances(rng)
    ogps = Ogps([Geodesics(MESH, distance), Geodesics("dog_60", distance)])
    found = []
    for x, y, h, w in ((3, 2, 9, 12), (6, 0, 8, 11)):
        mask = rng.random((h, w)) < 0.7
        found.append((np.array([x, y, x + w, y + h], np.float32), 0.9, mask, rng.integers(0, COUNT, (h, w))))
    one, two = (vertex_result([person]) for person in found)
    values = []
    for y in range(20):
        for x in range(30):
            inside = [0 <= y - int(b[1]) < m.shape[0] and 0 <= x - int(b[0]) < m.shape[1] for b, _, m, _ in found]
            if all(inside) and all(m[y - int(b[1]), x - int(b[0])] for b, _, m, _ in found):
                a, b = (v[y - int(box[1]), x - int(box[0])] for box, _, _, v in found)
                values.append(distance[a, b])
    assert ogps.distance(one, 0, two, 0) == pytest.approx(np.mean(values), rel=1e-6) and len(values) > 10
    assert ogps.distance(two, 0, one, 0) == pytest.approx(np.mean(values), rel=1e-6)
    assert ogps.distance(one, 0, vertex_result([found[1]], "dog_60"), 0) is None
    far = vertex_result([(found[0][0] + 25, *found[0][1:])])
    assert ogps.distance(one, 0, far, 0) is None


def test_evaluate_says_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["evaluate", "--predictions", "found", "--data", "set"]
    np.savez("bare.npz", name=MESH, vertices=np.zeros((COUNT, 3), np.float32))
    for more, said in (
        (["--gps", "ogps"], "--gps ogps needs the geodesic distances of the mesh: --mesh-file"),
        (["--gps", "ogps", "--mesh-file", "bare.npz"], "bare.npz has no geodesic distances"),
        (["--gps", "coco", "--mesh-file", "mesh.npz"], "--mesh-file is for --gps ogps, not for --gps coco"),
        (["--mesh-file", "missing.npz"], "missing.npz"),
    ):
        assert cli.main([*common, *more]) != 0
        assert said in capsys.readouterr().err
