"""What a small model says of itself, for files whose contents do not matter."""

from __future__ import annotations

from typing import Any

from densepose_engine.model.description import ModelDescription


def description_json() -> dict[str, Any]:
    """With every key that an engine may have."""
    return {
        "architecture": "test",
        "capacity": {"max_people": 10, "max_proposals": 100},
        "cut_points": {"neck": ["p2", "p3"], "box": ["class_logits", "box_deltas"]},
        "defaults": {"max_people": 20, "max_proposals": 100, "nms_threshold": 0.5, "score_threshold": 0.05},
        "graph_version": 1,
        "input": {
            "divisor": 32,
            "max_size": 1333,
            "mean_rgb": [123.675, 116.28, 103.53],
            "min_size": 320,
            "size": [64, 96],
            "quantization": {"scale": 1.07, "zero_point": 115},
        },
        "maps": ["coarse_segm", "fine_segm", "u", "v"],
        "provenance": {"config": {"name": "a.yaml", "overrides": ["A", 1, None]}, "parameters": 123},
        "int8": {
            "observer": "mse",
            "adapted_weights": True,
            "keep_float": ["a"],
            "shared_scales": [["p2", "p3"]],
            "calibration": {"pictures": 3, "sha256": "0" * 64, "people": 5},
            "auto": {"bound": 0.3, "steps": []},
        },
        "packed_maps": {"channels": [15, 25, 25, 25], "block": 2, "layout": "NHWC"},
        "layers": [
            {"name": "backbone/a", "type": "Convolution", "precision": "int8", "kernel": "jit", "macs": 10},
            {"name": "a", "type": "u", "precision": "f32", "kernel": "", "macs": 0, "reason": "kept float"},
        ],
        "layers_counted_for": {"image": [64, 96], "box": 100, "densepose": 2},
    }


def description() -> ModelDescription:
    return ModelDescription.from_json(description_json())
