"""The exported graph: the torch model's function, named pieces, nothing of the exporting machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from graph_runner import run_cut

from densepose_engine.compile.layout import place_nhwc
from densepose_engine.errors import ExportError
from densepose_engine.export.checkpoint.load import load_checkpoint, load_weights
from densepose_engine.export.config.model_config import load_config
from densepose_engine.export.graph.join import METADATA, export_graph
from densepose_engine.export.model import DensePoseRCNN
from densepose_engine.model.custom_ops import BOX_DETECTIONS
from densepose_engine.model.decoder import PREFIX

MODELS = Path(__file__).resolve().parent.parent / "models"


@pytest.fixture(scope="module")
def model() -> DensePoseRCNN:
    model = DensePoseRCNN(load_config(MODELS / "demo.yaml"))
    load_weights(model, load_checkpoint(MODELS / "demo.pth"))
    return model


@pytest.fixture(scope="module")
def graph(demo_onnx: Path) -> ir.Model:
    return ir.load(demo_onnx)


def test_the_checker_is_content(demo_onnx: Path) -> None:
    onnx.checker.check_model(onnx.load(demo_onnx))


def test_names_say_the_stage(graph: ir.Model) -> None:
    stages = {node.name.split("/")[0] for node in graph.graph}
    assert stages == {"backbone", "neck", "rpn", "proposals", "box", "detections", "densepose"}
    names = [node.name for node in graph.graph]
    assert len(set(names)) == len(names)
    assert "backbone/blocks.1.0.conv_pw" in names
    assert "densepose/predictor/conv" in names


def test_nothing_of_the_exporting_machine_is_left(demo_onnx: Path) -> None:
    raw = demo_onnx.read_bytes()
    for trace in (b"site-packages", b"stack_trace", b".py", str(MODELS.parent).encode()):
        assert trace not in raw


def test_a_graph_of_one_class_says_nothing_of_classes(graph: ir.Model) -> None:
    assert [value.name for value in graph.graph.outputs][:4] == ["boxes", "scores", "count", "coarse_segm"]
    (detections,) = (node for node in graph.graph if BOX_DETECTIONS.matches(node))
    assert [value.name for value in detections.outputs] == ["boxes_network", "boxes", "scores", "count"]
    assert not any(name.startswith(PREFIX) for name in graph.graph.initializers)
    assert "decoder" not in json.loads(graph.metadata_props[METADATA])


def test_rewrites_left_their_mark(graph: ir.Model) -> None:
    types = [node.op_type for node in graph.graph]
    assert not {"BatchNormalization", "ConvTranspose", "Div", "Mul", "Shape"} & set(types)
    assert types.count("DepthToSpace") == 1
    assert types.count("GenerateProposals") == types.count("BoxDetections") == 1
    assert types.count("MultilevelRoiAlign") == 2


def test_cut_points_exist(graph: ir.Model) -> None:
    values = {value.name for node in graph.graph for value in node.outputs}
    cuts = json.loads(graph.metadata_props[METADATA])["cut_points"]
    assert {"neck", "rpn", "box_pooled", "box", "densepose_pooled", "densepose"} <= set(cuts)
    for names in cuts.values():
        assert set(names) <= values


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_heads_take_any_number_of_boxes(demo_onnx: Path, model: DensePoseRCNN, count: int) -> None:
    rng = np.random.default_rng(count)
    pooled = rng.standard_normal((count, 64, 7, 7), dtype=np.float32)
    out = run_cut(demo_onnx, {"box_pooled": pooled}, ["class_logits", "box_deltas"])
    for value, expected in zip(out.values(), model.box(torch.from_numpy(pooled)), strict=True):
        np.testing.assert_allclose(value, expected.numpy(), rtol=1e-4, atol=1e-4)
    pooled = rng.standard_normal((count, 64, 32, 32), dtype=np.float32)
    maps = run_cut(demo_onnx, {"densepose_pooled": pooled}, ["coarse_segm", "fine_segm", "u", "v"])
    assert maps["fine_segm"].shape == (count, 25, 64, 64)
    if count:
        for name, expected in model.densepose(torch.from_numpy(pooled)).items():
            np.testing.assert_allclose(maps[name], expected.numpy(), rtol=1e-3, atol=2e-4)


def test_the_trunk_equals_torch(demo_onnx: Path, model: DensePoseRCNN) -> None:
    rng = np.random.default_rng(3)
    rgb = rng.uniform(-120, 140, (1, 3, 320, 448)).astype(np.float32)  # the mean is already gone
    std = np.asarray(model.config.input.pixel_std, np.float32)[:, None, None]
    levels = model.pyramid(torch.from_numpy(rgb / std))
    names = [*levels, *(f"rpn_{i}" for i in range(5))]
    out = run_cut(demo_onnx, {"image": rgb}, names)
    expected = {name: level.numpy() for name, level in levels.items()}
    expected |= {f"rpn_{i}": torch.cat(pair, 1).numpy() for i, pair in enumerate(model.rpn(levels))}
    for name in names:
        assert np.abs(out[name] - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max(), name


def test_placing_nhwc_changes_no_output(demo_onnx: Path) -> None:
    rng = np.random.default_rng(4)
    feeds = {
        "image": rng.uniform(-120, 140, (1, 3, 320, 448)).astype(np.float32),
        "sizes": np.array([320, 448, 480, 672], np.int32),
        "max_proposals": np.array([50], np.int32),
        "max_detections": np.array([3], np.int32),
        "score_threshold": np.array([0], np.float32),
        "nms_threshold": np.array([0.5], np.float32),
    }
    names = ["proposals", "box_pooled", "boxes", "scores", "densepose_pooled", "fine_segm", "u"]
    plain = run_cut(demo_onnx, feeds, names)
    model = ir.load(demo_onnx)
    place_nhwc(model)
    assert {n.attributes["layout"].as_string() for n in model.graph if "layout" in n.attributes} == {"NHWC"}
    placed = run_cut(model, feeds, names)
    for name in names:
        assert placed[name].shape == plain[name].shape
        np.testing.assert_allclose(placed[name], plain[name], rtol=1e-4, atol=1e-4 * np.abs(plain[name]).max())
    number = len(list(model.graph))
    place_nhwc(model)
    assert len(list(model.graph)) == number, "placing twice must do nothing"


@pytest.mark.parametrize("size", [(320, 450), (16, 32), (0, 0), (-32, 32)])
def test_an_unusable_input_size_is_refused(model: DensePoseRCNN, size: tuple[int, int]) -> None:
    with pytest.raises(ExportError, match="multiples of 32"):
        export_graph(model, size, {})
