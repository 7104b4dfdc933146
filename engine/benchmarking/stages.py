"""Where a frame's time goes: each stage of the pipeline, and inside the graph each layer.

It needs a session that counts (``Engine.load(..., profile=True)``), and counting costs time: this is a run of its own,
never the one whose latency is reported.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..backends import LayerTime, Request, Session
from ..engine import Engine

#: In the order in which a frame passes through them.
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
    "chart decode",
    "result",
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


class _Clock:
    """Seconds of the parts of one frame, noted from outside while the engine runs it."""

    def __init__(self) -> None:
        self.run = self.ran = self.charts = 0.0


class _TimedRequest:
    """A request that notes when the graph starts and ends."""

    def __init__(self, request: Request, clock: _Clock) -> None:
        self._request, self._clock = request, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def run(self, *arguments: Any, **keywords: Any) -> Any:
        self._clock.run = time.perf_counter()
        outputs = self._request.run(*arguments, **keywords)
        self._clock.ran = time.perf_counter()
        return outputs


class _TimedSession:
    def __init__(self, session: Any, clock: _Clock) -> None:
        self._session, self._clock = session, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    @contextmanager
    def request(self) -> Iterator[_TimedRequest]:
        with self._session.request() as request:
            yield _TimedRequest(request, self._clock)


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
    clock = _Clock()
    session, chart = engine._session, engine._chart
    assert session is not None

    def timed_chart(*arguments: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        result = chart(*arguments, **keywords)
        clock.charts = time.perf_counter() - start
        return result

    outer = dict.fromkeys(("preprocess", "inside", "chart decode", "result"), 0.0)
    engine._session, engine._chart = _TimedSession(session, clock), timed_chart
    try:
        for number in range(_WARM_UP_FRAMES):
            engine.infer(frames[number % len(frames)], **settings)
        before = _read_layers(session, _WARM_UP_FRAMES)
        first, count = time.perf_counter(), 0
        while count < least or time.perf_counter() < first + seconds:
            begin = time.perf_counter()
            engine.infer(frames[count % len(frames)], **settings)
            end = time.perf_counter()
            outer["preprocess"] += clock.run - begin
            outer["inside"] += clock.ran - clock.run
            outer["chart decode"] += clock.charts
            outer["result"] += end - clock.ran - clock.charts
            count += 1
        after = _read_layers(session, _WARM_UP_FRAMES + count)
    finally:
        engine._session, engine._chart = session, chart
    return _summarize({name: 1e3 * value / count for name, value in outer.items()}, before, after, count)


def _read_layers(session: Session, runs: int) -> list[LayerTime]:
    """Sums over all runs; the vendor gives means."""
    with session.request() as request:
        return [replace(layer, milliseconds=layer.milliseconds * runs) for layer in request.profile()]


def _summarize(outer: dict[str, float], before: list[LayerTime], after: list[LayerTime], count: int) -> dict[str, Any]:
    warm = {layer.name: layer.milliseconds for layer in before}
    layers = [replace(layer, milliseconds=max(layer.milliseconds - warm.get(layer.name, 0.0), 0.0)) for layer in after]
    inside = outer.pop("inside")
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
