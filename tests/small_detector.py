"""A detector of a few hundred weights with the structure and the metadata of an exported graph.

It takes what is brighter than the mean for people: a bright picture has as many as there is room for, a black one none.
It compiles and runs in milliseconds, so that tests can run whole calibrations.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_ir as ir

MAX_PEOPLE = 5
STRIDE, CHANNELS, SIDE = 8, 6, 4


def small_detector(size: tuple[int, int] | None = (64, 96), stem_scale: float = 1.0) -> ir.Model:
    """``size``: of the input, None for a dynamic one; ``stem_scale``: of the first weights (1e38 overflows)."""
    rng = np.random.default_rng(0)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20, "densepose": 1}, name="small_detector")

    def value(name: str, dtype: ir.DataType, shape: list[Any]) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))

    def constant(name: str, array: np.ndarray) -> ir.Value:
        initializer = ir.Value(name=name, const_value=ir.tensor(array.astype(np.float32), name=name))
        graph.initializers[name] = initializer
        return initializer

    def add(
        op: str, inputs: list[ir.Value], outputs: dict[str, list[Any]], attributes: Any = None, domain: str = ""
    ) -> Any:
        node = ir.node(
            op, inputs, attributes or {}, domain=domain, num_outputs=len(outputs), name=f"node/{op}_{len(graph)}"
        )
        for output, (name, shape) in zip(node.outputs, outputs.items(), strict=True):
            output.name, output.shape = name, ir.Shape(shape)
            output.dtype = ir.DataType.INT32 if name.endswith("count") else ir.DataType.FLOAT
        graph.append(node)
        return node.outputs[0] if len(outputs) == 1 else node.outputs

    def convolve(source: ir.Value, name: str, weight: np.ndarray, shape: list[Any], **attributes: Any) -> ir.Value:
        return add("Conv", [source, constant(f"{name}/weight", weight)], {name: shape}, attributes)

    rows, columns = size or ("rows", "columns")
    image = value("image", ir.DataType.FLOAT, [1, 3, rows, columns])
    sizes, max_proposals, max_detections = (
        value(name, ir.DataType.INT32, [length])
        for name, length in (("sizes", 4), ("max_proposals", 1), ("max_detections", 1))
    )
    thresholds = [value(name, ir.DataType.FLOAT, [1]) for name in ("score_threshold", "nms_threshold")]
    graph.inputs.extend([image, sizes, max_proposals, max_detections, *thresholds])

    levels = [1, CHANNELS, size[0] // STRIDE, size[1] // STRIDE] if size else [1, CHANNELS, "h", "w"]
    # Each channel is brightness with some texture; the shift makes black exactly 0 behind the Relu.
    weight = stem_scale * (0.01 + 0.005 * rng.random((CHANNELS, 3, STRIDE, STRIDE))) / STRIDE
    stem = convolve(image, "stem", weight, levels, strides=[STRIDE, STRIDE])
    level = add("Relu", [stem], {"level": levels})
    rpn = convolve(level, "rpn", 1e-3 * rng.standard_normal((5, CHANNELS, 1, 1)), [1, 5, *levels[2:]])
    boxes, _, count = add(
        "GenerateProposals",
        [rpn, sizes, max_proposals],
        {"proposals": ["n", 4], "proposal_scores": ["n"], "proposal_count": [1]},
        {
            "strides": [STRIDE],
            "anchors": [-12.0, -12.0, 12.0, 12.0],
            "anchor_offset": 0.0,
            "bbox_weights": [1.0] * 4,
            "nms_threshold": 0.7,
            "min_size": 0.0,
            "pre_nms_topk": 50,
            "capacity": 50,
            "layout": "NCHW",
        },
        "densepose",
    )

    def pool(boxes: ir.Value, count: ir.Value, name: str) -> ir.Value:
        attributes = {"strides": [STRIDE], "pooled_size": SIDE, "sampling_ratio": 2, "aligned": 1, "zero_point": 0}
        attributes |= {"canonical_box_size": 224, "canonical_level": 4, "layout": "NCHW"}
        return add(
            "MultilevelRoiAlign", [level, boxes, count], {name: ["n", CHANNELS, SIDE, SIDE]}, attributes, "densepose"
        )

    pooled = pool(boxes, count, "box_pooled")
    flat = add("Flatten", [pooled], {"flat": ["n", CHANNELS * SIDE**2]}, {"axis": 1})
    features = CHANNELS * SIDE**2
    logits = add(
        "Gemm",
        [
            flat,
            constant("logits/weight", np.stack([np.full(features, 0.01), np.zeros(features)])),
            constant("bias", np.array([0, 0.5])),
        ],
        {"class_logits": ["n", 2]},
        {"transB": 1},
    )
    deltas = add(
        "Gemm",
        [flat, constant("deltas/weight", 1e-3 * rng.standard_normal((4, features)))],
        {"box_deltas": ["n", 4]},
        {"transB": 1},
    )
    people, original, scores, people_count = add(
        "BoxDetections",
        [logits, deltas, boxes, count, sizes, *thresholds, max_detections],
        {"boxes_network": ["d", 4], "boxes": ["d", 4], "scores": ["d"], "count": [1]},
        {"bbox_weights": [10.0, 10.0, 5.0, 5.0], "capacity": MAX_PEOPLE},
        "densepose",
    )
    densepose = pool(people, people_count, "densepose_pooled")
    maps = convolve(densepose, "u", rng.standard_normal((4, CHANNELS, 1, 1)), ["d", 4, SIDE, SIDE])
    graph.outputs.extend([original, scores, people_count, maps])
    model = ir.Model(graph, ir_version=10)
    model.metadata_props["densepose_engine"] = json.dumps(
        {
            "architecture": "small",
            "graph_version": 1,
            "maps": ["u"],
            "input": {"size": size, "mean_rgb": [100.0, 110.0, 120.0], "min_size": 64, "max_size": 96, "divisor": 32},
            "defaults": {"score_threshold": 0.5, "nms_threshold": 1.0, "max_people": 20, "max_proposals": 50},
            "capacity": {"max_people": MAX_PEOPLE, "max_proposals": 50},
        }
    )
    return model


def serialize(model: ir.Model) -> bytes:
    """As an ONNX file's bytes."""
    return ir.to_proto(model).SerializeToString()
