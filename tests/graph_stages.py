"""Every stage of an exported graph on the stage files' picture and boxes (see ``stages`` for the torch models)."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
from graph_runner import run_cut

from densepose_engine.export.config.model_config import ModelConfig
from densepose_engine.export.graph.join import METADATA
from densepose_engine.model.decoder import PREFIX


def graph_stage_outputs(
    graph: ir.Model, config: ModelConfig, image: np.ndarray, boxes: np.ndarray
) -> dict[str, np.ndarray]:
    """All stages, under the names of the stage files; ``image`` as there: uint8 ``(3, H, W)`` in the model's order."""
    rgb = image[::-1] if config.input.format == "BGR" else image
    description = json.loads(graph.metadata_props[METADATA])
    mean = np.asarray(description["input"]["mean_rgb"], np.float32)[:, None, None]
    count = np.array([len(boxes)], np.int32)
    feeds = {
        "image": (rgb.astype(np.float32) - mean)[None],
        "proposals": boxes,
        "proposal_count": count,
        "boxes_network": boxes,
        "count": count,
    }
    cuts = description["cut_points"]
    names = [*cuts["neck"], *cuts["rpn"], "box_pooled", *cuts["box"], "densepose_pooled", *cuts["densepose"]]
    outputs = run_cut(graph, feeds, names)
    anchors = config.rpn.anchors.per_location
    for index, name in enumerate(cuts["rpn"]):
        merged = outputs.pop(name)
        outputs[f"objectness_{index}"], outputs[f"deltas_{index}"] = merged[:, :anchors], merged[:, anchors:]
    for index, mesh in enumerate(description.get("decoder", {}).get("settings", {}).get("meshes", ())):
        constant = graph.graph.initializers[f"{PREFIX}vertex_embeddings/{index}"].const_value
        outputs[f"vertex_embeddings.{mesh}"] = constant.numpy()
    return outputs | {name: outputs[name][:1] for name in cuts["densepose"]}


def graph_maps(graph: ir.Model, pooled: np.ndarray) -> dict[str, np.ndarray]:
    """The maps of several people, by name, from what the DensePose head pools."""
    names = json.loads(graph.metadata_props[METADATA])["cut_points"]["densepose"]
    return run_cut(graph, {"densepose_pooled": pooled}, names)
