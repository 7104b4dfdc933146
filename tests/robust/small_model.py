"""A whole DensePose network of a few hundred weights: ``small_detector`` with a charts head, as ``export`` writes it.

It compiles in milliseconds, so that thousands of damaged engines can be loaded and whole verbs killed and run again.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
from small_detector import CHANNELS, SIDE, serialize, small_detector

PARTS = 25
MAPS = {"coarse_segm": 2, "fine_segm": PARTS, "u": PARTS, "v": PARTS}


def small_densepose(size: tuple[int, int] | None = (64, 96)) -> ir.Model:
    """``size``: of the input, None for a dynamic one. Bright pictures have up to five people, black ones none."""
    model = small_detector(size)
    graph = model.graph
    rng = np.random.default_rng(1)
    (only,) = (value for value in graph.outputs if value.name == "u")
    convolution = only.producer()
    assert convolution is not None
    pooled = convolution.inputs[0]
    graph.outputs.remove(only)
    graph.remove(convolution, safe=True)
    graph.initializers.pop("u/weight")
    for name, channels in MAPS.items():
        weight = rng.standard_normal((channels, CHANNELS, 1, 1)).astype(np.float32)
        if name == "coarse_segm":  # all of a box is person, so that every pixel has a label to compare
            weight = np.abs(weight) * np.array([-1, 1], np.float32).reshape(2, 1, 1, 1)
        initializer = ir.Value(name=f"{name}/weight", const_value=ir.tensor(weight, name=f"{name}/weight"))
        graph.initializers[f"{name}/weight"] = initializer
        node = ir.node("Conv", [pooled, initializer], {}, name=f"densepose/{name}")
        output = node.outputs[0]
        output.name, output.dtype = name, ir.DataType.FLOAT
        output.shape = ir.Shape(["d", channels, SIDE, SIDE])
        graph.append(node)
        graph.outputs.append(output)
    description = json.loads(model.metadata_props["densepose_engine"])
    description |= {"architecture": "small", "maps": list(MAPS), "provenance": {"parameters": 1}}
    description["defaults"] |= {"score_threshold": 0.3, "max_people": 3}
    model.metadata_props["densepose_engine"] = json.dumps(description)
    return model


def write_small_densepose(path: Path, size: tuple[int, int] | None = (64, 96)) -> Path:
    """The graph as an ONNX file."""
    path.write_bytes(serialize(small_densepose(size)))
    return path
