"""Where a frame's time goes: each stage of the pipeline, and inside the graph each layer.

It needs a session that counts (``Engine.load(..., profile=True)``), and counting costs time: this is a run of its own,
never the one whose latency is reported.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..backends import LayerTime
from ..engine import Engine

#: In the order in which a frame passes through them; what the decoder calls its own and "result" follow.
STAGES = (
    "preprocess",
    "backbone",
    "neck",
    "rpn",
    "proposals",
    "roi align",
    "box head",
    "detections",
    "densepose head",
    "runtime",
)
# By the first part of a node's name. Who moves or converts a map for the reader's sake is the reader's: pooled maps and
# levels in another layout belong to RoIAlign, the RPN's to the proposals.
_BY_PREFIX = {
    "image": "backbone",
    "backbone": "backbone",
    "neck": "neck",
    "rpn": "rpn",
    "proposals": "proposals",
    "proposal_count": "proposals",
    "proposal_scores": "proposals",
    "box_pooled": "roi align",
    "densepose_pooled": "roi align",
    "box": "box head",
    "class_logits": "box head",
    "box_deltas": "box head",
    "detections": "detections",
    "boxes_network": "detections",
    "boxes": "detections",
    "scores": "detections",
    "count": "detections",
}
_WARM_UP_FRAMES = 3
_MATRIX_TYPES = ("Convolution", "GroupConvolution", "MatMul", "FullyConnected", "Gemm")


def stage_of(layer: LayerTime) -> str:
    """The stage that a layer of the graph belongs to; maps that the graph returns are the DensePose head's."""
    if "MultilevelRoiAlign" in layer.name:
        return "roi align"
    first = layer.name.split("/")[0].split(":")[0]
    if re.match(r"p\d\b", first):
        return "roi align" if "/nhwc" in layer.name else "neck"
    if re.match(r"rpn_\d", first):
        return "proposals" if "/nhwc" in layer.name else "rpn"
    return _BY_PREFIX.get(first, "densepose head")


def is_matrix_layer(layer: LayerTime) -> bool:
    """Whether it is a convolution or a matrix product, whatever the vendor calls it."""
    return layer.type.startswith(_MATRIX_TYPES)


def profile(
    engine: Engine, frames: Sequence[np.ndarray], settings: Mapping[str, Any], seconds: float, least: int
) -> dict[str, Any]:
    """Mean times of stages and layers.

    Args:
        engine: loaded with ``profile=True``, one request and no warm-up, because a vendor's counters count from there.
        frames, settings: what to run, at least ``least`` times and for ``seconds``.

    Returns:
        ``total_ms``, ``stages_ms``, ``matrix_ms`` (convolutions and matrix products), ``outside_matrix_share`` (all
        else, of the total), ``frames`` (how many) and ``layers``.
    """
    outer: dict[str, float] = {}
    for number in range(_WARM_UP_FRAMES):
        engine.infer(frames[number % len(frames)], **settings)
    before = _read_layers(engine, _WARM_UP_FRAMES)
    first, count = time.perf_counter(), 0
    while count < least or time.perf_counter() < first + seconds:
        _, taken = engine.infer_timed(frames[count % len(frames)], **settings)
        for stage, one in taken.items():
            outer[stage] = outer.get(stage, 0.0) + one
        count += 1
    after = _read_layers(engine, _WARM_UP_FRAMES + count)
    return _summarize({name: 1e3 * value / count for name, value in outer.items()}, before, after, count)


def _read_layers(engine: Engine, runs: int) -> list[LayerTime]:
    """Sums over all runs; the vendor gives means."""
    return [replace(layer, milliseconds=layer.milliseconds * runs) for layer in engine.layer_times()]


def _summarize(outer: dict[str, float], before: list[LayerTime], after: list[LayerTime], count: int) -> dict[str, Any]:
    warm = {layer.name: layer.milliseconds for layer in before}
    layers = [replace(layer, milliseconds=max(layer.milliseconds - warm.get(layer.name, 0.0), 0.0)) for layer in after]
    inside = outer.pop("graph")
    stages = dict.fromkeys(STAGES, 0.0) | outer
    for layer in layers:
        stages[stage_of(layer)] += layer.milliseconds / count
    everything = sum(layer.milliseconds for layer in layers)
    stages["runtime"] = inside - everything / count
    total = sum(stages.values())
    matrix = sum(layer.milliseconds for layer in layers if is_matrix_layer(layer)) / count
    return {
        "frames": count,
        "total_ms": total,
        "stages_ms": stages,
        "matrix_ms": matrix,
        "outside_matrix_share": 1 - matrix / total,
        "layers": [
            {
                "name": layer.name,
                "stage": stage_of(layer),
                "type": layer.type,
                "kernel": layer.kernel,
                "timeMs": layer.milliseconds,
                "averageMs": layer.milliseconds / count,
                "percentage": 100 * layer.milliseconds / everything if everything else 0.0,
            }
            for layer in layers
        ],
    }
