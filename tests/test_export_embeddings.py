"""Graphs and engines of models with vertices: several classes, their meshes, and the same numbers wherever they run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import yaml
from embedding_models import CLASS_MESHES, ModelFiles, nine_classes, write_model
from graph_runner import run_cut
from PIL import Image
from stages import with_weights
from weights import state_dict

from densepose_engine import Engine
from densepose_engine.backends import openvino
from densepose_engine.backends.tensorrt.graph import prepare
from densepose_engine.benchmarking.torch_pipeline import TorchPipeline
from densepose_engine.calibration.place.points import layers
from densepose_engine.cli import main
from densepose_engine.compile.layout import PACKED, pack_maps
from densepose_engine.decoders.embeddings import VertexResult
from densepose_engine.errors import CheckpointError
from densepose_engine.export import export_model, network
from densepose_engine.export.checkpoint.load import load_checkpoint, load_weights
from densepose_engine.export.config.model_config import config_from_mapping, load_config
from densepose_engine.export.graph import join
from densepose_engine.export.graph.parts import OPSET, DensePose, convert
from densepose_engine.export.graph.rewrite import rewrite
from densepose_engine.export.graph.standard import expand_custom_nodes
from densepose_engine.export.model import DensePoseRCNN
from densepose_engine.model.decoder import PREFIX
from densepose_engine.model.description import PackedMaps
from densepose_engine.model.engine_file import EngineFile, read_engine_file
from densepose_engine.model.graph_file import read_graph, take_decoder_tensors

SIZE = (64, 96)
MODELS = Path(__file__).resolve().parent.parent / "models"
INPUTS: dict[str, Any] = {"sizes": (60, 90, 120, 180), "max_proposals": 100, "max_detections": 40}
# Few boxes of a class are kept, so that those of several classes are among the best.
THRESHOLDS = {"score_threshold": 0.02, "nms_threshold": 0.1}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return write_model(tmp_path_factory.mktemp("nine"), nine_classes())


@pytest.fixture(scope="module")
def graph(files: ModelFiles) -> Path:
    path = files.config.with_suffix(".onnx")
    assert main([*files.export_arguments(), "--input-size", "64x96", "-o", str(path), "-q"]) == 0
    return path


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """As the graph takes it, with zeros beyond the resized picture's sides."""
    image = np.zeros((1, 3, *SIZE), np.float32)
    image[..., :60, :90] = np.random.default_rng(0).uniform(-120, 140, (1, 3, 60, 90))
    return image


def feeds(picture: np.ndarray) -> dict[str, np.ndarray]:
    integers = {name: np.atleast_1d(np.asarray(value, np.int32)) for name, value in INPUTS.items()}
    return {"image": picture, **integers, **{name: np.array([v], np.float32) for name, v in THRESHOLDS.items()}}


def run_engine(file: EngineFile, picture: np.ndarray) -> dict[str, np.ndarray]:
    session = openvino.load(file, num_requests=1)
    try:
        with session.request() as request:
            image = request.image(*SIZE)
            assert image.dtype == np.float32
            image[:] = picture
            return {name: np.array(value) for name, value in request.run({**INPUTS, **THRESHOLDS}).items()}
    finally:
        session.close()


def test_the_graph_says_who_reads_its_maps(graph: Path, files: ModelFiles) -> None:
    onnx.checker.check_model(onnx.load(graph))
    _, model, description = read_graph(graph)
    assert description.architecture == "tf_mobilenetv3_small_minimal_100-bifpn64-deeplab-cse"
    assert description.maps == ("coarse_segm", "embedding")
    assert [value.name for value in model.graph.outputs] == ["boxes", "scores", "count", "classes", *description.maps]
    decoder = description.decoder
    assert decoder.kind == "embeddings"
    assert decoder.settings["class_meshes"] == CLASS_MESHES
    assert decoder.settings["embedding_size"] == 16
    meshes = decoder.settings["meshes"]
    assert meshes == [
        *("bear_1", "cow_1", "pet_1", "elephant_1", "giraffe_1"),
        *("horse_1", "sheep_1", "zebra_1", "person"),  # no class maps to the last
    ]
    expected = with_weights(load_config(files.config))
    for number, (mesh, tensor) in enumerate(zip(meshes, decoder.tensors, strict=True)):
        assert tensor.name == f"vertex_embeddings/{number}"
        value = model.graph.initializers[PREFIX + tensor.name]
        assert not value.uses()
        assert value.const_value is not None
        array = value.const_value.numpy()
        assert (str(array.dtype), array.shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(array, expected.vertex_embeddings(mesh).numpy())
        np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, atol=1e-6)
    assert not any("embedder" in name or "embedding" in name for name in model.graph.initializers if PREFIX not in name)


def check_detections(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    people = int(expected["count"][0])
    assert int(outputs["count"][0]) == people > 20
    assert len(set(expected["classes"].tolist())) > 3, "several classes must be found for this to test anything"
    np.testing.assert_array_equal(outputs["classes"], expected["classes"])
    assert outputs["classes"].dtype == np.int32
    np.testing.assert_allclose(outputs["scores"], expected["scores"], rtol=1e-4)
    np.testing.assert_allclose(outputs["boxes"], expected["boxes"], atol=0.02)


OUTPUTS = ["boxes", "scores", "count", "classes", "coarse_segm", "embedding"]


@pytest.fixture(scope="module")
def engine_path(graph: Path) -> Path:
    path = graph.with_suffix(".engine")
    assert main(["build", str(graph), "--precision", "fp32", "-o", str(path), "-q"]) == 0
    return path


def test_eager_torch_finds_the_same(files: ModelFiles, engine_path: Path) -> None:
    """The whole way as detectron2 goes it: what an engine's time is measured against."""
    rgb = np.asarray(Image.open(MODELS / "person.jpg").convert("RGB").resize((180, 120)))
    settings: dict[str, Any] = {"score_threshold": 0.02, "nms_threshold": 0.1, "max_people": 30}
    peer = TorchPipeline.from_checkpoint(files.config, files.weights, SIZE, 1)
    with Engine.load(engine_path, cache_dir=None, warm_up=0) as engine:
        ours, theirs = engine.infer(rgb, **settings), peer.infer(rgb, **settings)
        assert len(peer.infer(rgb, score_threshold=1.0)) == len(engine.infer(rgb, score_threshold=1.0)) == 0
    assert isinstance(ours, VertexResult) and isinstance(theirs, VertexResult)
    assert len(ours) == len(theirs) > 10
    assert len(set(ours.class_ids.tolist())) > 3
    np.testing.assert_array_equal(ours.class_ids, theirs.class_ids)
    assert list(ours.meshes) == list(theirs.meshes)
    same = [(a == b).mean() for a, b in zip(ours.vertices, theirs.vertices, strict=True)]
    assert np.mean(same) > 0.99, same
    assert set(peer.parts_ms()) > {"detections", "closest vertices"}


def test_the_engine_gives_what_the_graph_gives(graph: Path, engine_path: Path, picture: np.ndarray) -> None:
    file = read_engine_file(engine_path)
    expected = run_cut(graph, feeds(picture), OUTPUTS)
    outputs = run_engine(file, picture)
    assert list(outputs) == ["boxes", "scores", "count", "classes", PACKED]
    check_detections(outputs, expected)
    assert file.model.packed_maps == PackedMaps((2, 16), 2, "NHWC")
    check_packed(outputs[PACKED], expected)
    _, model, description = read_graph(graph)
    assert file.model.decoder == description.decoder
    for name, array in file.model.decoder.unpack(file.payload["decoder.bin"]).items():
        np.testing.assert_array_equal(array, model.graph.initializers[PREFIX + name].const_value.numpy())
    names = b"".join(file.payload[name] for name in ("model.xml", "model.bin"))
    assert PREFIX.encode() not in names, "no vendor's compiler needs them"


def check_packed(packed: np.ndarray, maps: Mapping[str, np.ndarray]) -> None:
    """Cells of 2x2 pixels, channels last, coarse segmentation before the embedding."""
    people, rows, columns, _ = packed.shape
    cells = packed.reshape(people, rows, columns, 18, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    both = cells.reshape(people, 18, 2 * rows, 2 * columns)
    expected = np.concatenate([maps["coarse_segm"], maps["embedding"]], axis=1)
    np.testing.assert_allclose(both, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_classes_are_those_of_torch(files: ModelFiles, graph: Path, picture: np.ndarray) -> None:
    """By definition: softmax, boxes of each class, what overlaps within a class dropped, the best of all classes."""
    cuts = run_cut(graph, feeds(picture), ["proposals", "box_pooled", "boxes", "scores", "count", "classes"])
    model = with_weights(load_config(files.config))
    logits, deltas = model.box(torch.from_numpy(cuts["box_pooled"]))
    assert logits.shape[1] == 10 and deltas.shape[1] == 36
    scores = torch.softmax(logits, dim=1)[:, :-1].numpy()
    boxes = np.stack([decoded(cuts["proposals"], deltas.numpy()[:, 4 * c : 4 * c + 4]) for c in range(9)])
    kept: list[tuple[float, int, int]] = []
    for number in range(9):
        mine: list[int] = []
        for row in np.argsort(-scores[:, number], kind="stable"):
            if scores[row, number] > THRESHOLDS["score_threshold"] and all(
                overlap(boxes[number, row], boxes[number, other]) <= THRESHOLDS["nms_threshold"] for other in mine
            ):
                mine.append(row)
        kept += [(float(scores[row, number]), number, row) for row in mine]
    best = sorted(kept, key=lambda one: -one[0])[: INPUTS["max_detections"]]
    expected = {
        "classes": np.array([number for _, number, _ in best], np.int32),
        "scores": np.array([score for score, _, _ in best], np.float32),
        "boxes": np.stack([boxes[number, row] * 2 for _, number, row in best]),  # 120x180 is twice 60x90
        "count": np.array([len(best)]),
    }
    check_detections(cuts, expected)


def decoded(proposals: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    sides = proposals[:, 2:] - proposals[:, :2]
    centers = (proposals[:, :2] + proposals[:, 2:]) / 2 + deltas[:, :2] / 10 * sides
    half = np.exp(np.minimum(deltas[:, 2:] / 5, np.log(1000 / 16))) * sides / 2
    return np.concatenate([centers - half, centers + half], axis=1).clip(0, [90, 60, 90, 60])


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    inner = np.prod(np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0))
    return float(inner / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - inner))


def test_standard_operators_find_the_same(graph: Path, picture: np.ndarray) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = ir.load(graph)
    expand_custom_nodes(model)
    proto = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(proto, providers=["CPUExecutionProvider"])
    found = dict(zip(OUTPUTS, session.run(OUTPUTS, feeds(picture)), strict=True))
    expected = run_cut(graph, feeds(picture), OUTPUTS)
    check_detections(found, expected)
    for name in ("coarse_segm", "embedding"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-3 * np.abs(expected[name]).max())


def test_int8(graph: Path, tmp_path: Path) -> None:
    table, path = tmp_path / "nine.calib.json", tmp_path / "nine.int8.engine"
    pictures = [str(MODELS / name) for name in ("person.jpg", "astronaut.jpg")]
    assert main(["calibrate", str(graph), *pictures, "--min-people", "1", "-o", str(table), "-q"]) == 0
    options = ["--precision", "int8", "--calib", str(table), "--observer", "minmax"]
    assert main(["build", str(graph), *options, "-o", str(path), "-q"]) == 0
    file = read_engine_file(path)
    assert file.model.layers is not None
    precisions = {layer.name: layer.precision for layer in file.model.layers}
    assert precisions["densepose/predictor/conv"] == "int8"
    assert file.model.packed_maps == PackedMaps((2, 16), 2, "NHWC")
    session = openvino.load(file, num_requests=1)
    with session.request() as request:
        image = request.image(*SIZE)
        image[:] = np.random.default_rng(1).integers(0, 255, image.shape, np.uint8)
        outputs = request.run({**INPUTS, **THRESHOLDS})
        people = int(outputs["count"][0])
        assert people > 0
        assert {name: len(value) for name, value in outputs.items() if name != "count"} == dict.fromkeys(
            ["boxes", "scores", "classes", PACKED], people
        )
        assert set(outputs["classes"].tolist()) <= set(range(9))
    session.close()


def for_tensorrt(graph: Path, **options: Any) -> ir.Model:
    """As ``build`` gives the graph to TensorRT: without the decoder's tensors."""
    _, model, description = read_graph(graph)
    assert len(take_decoder_tensors(model, description)) == 9
    data = ir.to_proto(model).SerializeToString()
    return ir.from_proto(onnx.load_model_from_string(prepare(data, "fp16", **options)))


def test_what_tensorrt_gets(graph: Path, picture: np.ndarray) -> None:
    dynamic, batched = for_tensorrt(graph, max_people=None), for_tensorrt(graph, max_people=7, deepstream=True)
    onnx.checker.check_model(ir.to_proto(dynamic))
    for model in (dynamic, batched):
        assert [value.name for value in model.graph.outputs] == OUTPUTS
        assert model.graph.outputs[3].dtype == ir.DataType.INT32
    assert {value.producer().op_type for value in batched.graph.outputs} == {"Unsqueeze"}
    expected = run_cut(graph, feeds(picture), OUTPUTS)
    found = run_cut(for_tensorrt(graph, max_people=100), feeds(picture), OUTPUTS)
    # Near ties of these weights' scores fall otherwise in float16: whoever is found by both is compared.
    assert abs(np.bincount(found["classes"], minlength=9) - np.bincount(expected["classes"], minlength=9)).sum() <= 6
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0.01)


def one_class(**head: Any) -> dict[str, Any]:
    tree = nine_classes()
    tree["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] = 1
    tree["MODEL"]["ROI_DENSEPOSE_HEAD"] |= head
    return tree


@pytest.mark.parametrize("confidence", [False, True])
def test_maps_are_packed_where_nothing_follows_them(confidence: bool) -> None:
    """At a scale of 2, where bilinear interpolation follows the cells; and with confidences, which scale the logits."""
    kind = "WithConfidence" if confidence else ""
    segm = {"ENABLED": confidence, "EPSILON": 0.01}
    tree = one_class(UP_SCALE=2, PREDICTOR_NAME=f"DensePoseEmbedding{kind}Predictor", SEGM_CONFIDENCE=segm)
    model = with_weights(config_from_mapping(tree))
    pooled = np.random.default_rng(2).standard_normal((2, 64, 32, 32)).astype(np.float32)
    plain = model.densepose(torch.from_numpy(pooled))
    names = ["coarse_segm", "embedding", *["coarse_segm_confidence"] * confidence]
    assert list(plain) == names
    people = {0: torch.export.Dim("people", min=1)}
    part = convert(DensePose(rewrite(model)), torch.zeros(3, 64, 32, 32), people, names)
    outputs = list(part.outputs.values())
    graph = ir.Model(
        ir.Graph([part.input], outputs, nodes=part.nodes, initializers=part.initializers, opset_imports={"": OPSET}),
        ir_version=10,
    )
    assert "densepose/predictor/conv" in {node.name for node in layers(graph)}
    maps = run_cut(graph, {str(part.input.name): pooled}, names)
    for name, expected in plain.items():
        scale = float(expected.abs().max())
        np.testing.assert_allclose(maps[name], expected.numpy(), rtol=1e-4, atol=1e-5 * scale, err_msg=name)
    packed = pack_maps(graph, names)
    assert packed == (None if confidence else PackedMaps((2, 16), 1, "NHWC"))


def test_a_live_model_is_its_checkpoint(
    files: ModelFiles, graph: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[DensePoseRCNN] = []

    def convert(model: DensePoseRCNN, *_: object) -> ir.Model:
        given.append(model)
        return ir.load(graph)

    monkeypatch.setattr(join, "export_graph", convert)

    class Live:
        def state_dict(self) -> dict[str, torch.Tensor]:
            return dict(torch.load(files.weights, weights_only=True)["model"])

    cfg = yaml.safe_load(files.config.read_text())
    description = export_model(Live(), cfg, tmp_path / "live.onnx", SIZE)  # type: ignore[arg-type]
    assert description["decoder"]["settings"]["class_meshes"] == CLASS_MESHES
    expected, (model,) = with_weights(load_config(files.config)), given
    assert model.config == expected.config
    state = expected.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_network_in_torch(files: ModelFiles) -> None:
    model = network(files.config)
    assert isinstance(model, DensePoseRCNN)
    assert model.vertex_embeddings("person").shape[1] == 16
    with pytest.raises(AttributeError):
        model.vertex_embeddings("nobody")
    with pytest.raises(ValueError, match="charts"):
        network(MODELS / "demo.yaml").vertex_embeddings("person")


def state_of(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    model = DensePoseRCNN(config_from_mapping(tree))
    return {name: value.numpy() for name, value in state_dict(model).items()}


CHARTS = MODELS / "demo.yaml"
OTHERS: dict[str, tuple[Any, Any, str]] = {
    "classes": (nine_classes, one_class, "It has 1 class, and MODEL.ROI_HEADS.NUM_CLASSES is 9"),
    "charts": (nine_classes, lambda: yaml.safe_load(CHARTS.read_text()), "It is of a model with charts"),
    "vertices": (lambda: yaml.safe_load(CHARTS.read_text()), nine_classes, "continuous surface embeddings"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_model_says_of_which(name: str) -> None:
    configured, given, words = OTHERS[name]
    with pytest.raises(CheckpointError, match=words):
        load_weights(DensePoseRCNN(config_from_mapping(configured())), state_of(given()))


def test_a_checkpoint_with_other_meshes() -> None:
    model, state = DensePoseRCNN(config_from_mapping(nine_classes())), state_of(nine_classes())
    key = "roi_heads.embedder.embedder_bear_1.embeddings"
    assert state[key].shape == (50, 16)
    with pytest.raises(CheckpointError, match=r"bear_1 has 40 vertices, and .*EMBEDDERS.bear_1.NUM_VERTICES is 50"):
        load_weights(model, {**state, key: state[key][:40]})
    other = {name.replace("embedder_zebra_1", "embedder_okapi"): array for name, array in state.items()}
    with pytest.raises(CheckpointError, match=r"It has the meshes bear_1, .*okapi.*, and .*CSE.EMBEDDERS .*zebra_1"):
        load_weights(model, other)
    del state[key]
    with pytest.raises(
        CheckpointError, match=r"missing in the checkpoint \(1\):\n  roi_heads.embedder.embedder_bear_1.embeddings"
    ):
        load_weights(model, state)


def test_published_checkpoints_are_pickles_of_arrays(files: ModelFiles, tmp_path: Path) -> None:
    import pickle

    state = {name: value.numpy() for name, value in torch.load(files.weights, weights_only=True)["model"].items()}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": state, "__author__": "nobody"}))
    model = DensePoseRCNN(load_config(files.config))
    load_weights(model, load_checkpoint(path))
    expected = with_weights(load_config(files.config)).vertex_embeddings("cow_1")
    torch.testing.assert_close(model.vertex_embeddings("cow_1"), expected, rtol=0, atol=0)
