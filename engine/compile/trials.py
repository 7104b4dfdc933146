"""What INT8 loses against FP32, as the number that ``calibration.judge.keep_float`` brings down.

With labels, points of AP; without, the drift of its results from FP32's (``drift_percent``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends import backend_module
from ..decoders import DetectionResult
from ..engine import Engine
from ..errors import DensePoseEngineError
from ..evaluation.drift import drift, drift_percent
from ..evaluation.yardstick import Yardstick
from .build import compile_graph, describe_int8

if TYPE_CHECKING:
    from ..calibration.place.quantizer import Quantizer
    from ..evaluation.accuracy import Dataset, Evaluation, GpsDefinition
    from ..model.description import ModelDescription
    from ..model.engine_file import EngineFile


def ap_drop(reference: Evaluation, other: Evaluation) -> float:
    """FP32's AP less the other's, in points: of boxes or of GPS, whichever lost more. Raises without annotations."""
    losses = [getattr(reference, name).ap - getattr(other, name).ap for name in ("box", "gps")]
    if np.isnan(losses).any():
        raise DensePoseEngineError("there is nobody annotated whom AP could be measured on; use --pictures instead")
    return max(losses)


class Trials:
    """Builds engines of one graph that differ in who stays float, and measures what each loses against FP32.

    Args:
        score: what a run over the pictures gives, of an engine.
        loss: from FP32's score and another's to a number.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        description: ModelDescription,
        score: Callable[[Engine], Any],
        loss: Callable[[Any, Any], float],
    ) -> None:
        self._quantizer, self._description = quantizer, description
        self._score, self._loss = score, loss
        self._reference: Any = None

    def drop(self, keep_float: Collection[str]) -> float:
        """What the engine with these layers in float loses."""
        if self._reference is None:
            with self.float_engine() as engine:
                self._reference = self._score(engine)
        model, placement = self._quantizer(keep_float)
        description = replace(self._description, int8=describe_int8(self._quantizer, placement))
        with _loaded(compile_graph(model, description, "openvino", "int8")) as engine:
            return self._loss(self._reference, self._score(engine))

    def float_engine(self) -> Engine:
        """The FP32 engine, which is closed by whoever asked for it."""
        return _loaded(compile_graph(self._quantizer.model(), self._description, "openvino", "fp32"))


def _loaded(file: EngineFile) -> Engine:
    return Engine(backend_module(file.backend).load(file, num_requests=1), file)


def trials_with_labels(
    quantizer: Quantizer,
    description: ModelDescription,
    dataset: Dataset,
    gps: GpsDefinition,
    advance: Callable[[int], None] = lambda done: None,
) -> Trials:
    """The drop is ``ap_drop`` on annotated pictures; ``advance`` gets how many of them are done, 0 first."""
    from ..evaluation.accuracy import evaluate_engine

    def score(engine: Engine) -> Evaluation:
        done = itertools.count(1)
        advance(0)
        return evaluate_engine(engine, dataset, gps, advance=lambda: advance(next(done)))

    return Trials(quantizer, description, score, ap_drop)


def trials_without_labels(
    quantizer: Quantizer,
    description: ModelDescription,
    pictures: Sequence[np.ndarray],
    advance: Callable[[int], None] = lambda done: None,
) -> Trials:
    """The drop is ``drift_percent`` on pictures, uint8 RGB arrays; ``advance`` gets how many are done, 0 first."""

    def score(engine: Engine) -> list[DetectionResult]:
        results = []
        advance(0)
        for done, picture in enumerate(pictures, 1):
            results.append(engine.infer(picture))
            advance(done)
        return results

    def loss(reference: list[DetectionResult], other: list[DetectionResult]) -> float:
        return drift_percent(drift(reference, other))

    return Trials(quantizer, description, score, loss)


def grey_level_percent(
    trials: Trials, pictures: Sequence[np.ndarray], advance: Callable[[int], None] = lambda done: None
) -> float:
    """What one grey level of noise in the pictures does to FP32, as ``drift_percent``: the yardstick for INT8's drift.

    Args:
        pictures: uint8 RGB arrays.
        advance: gets how many are done, 0 first.
    """
    advance(0)
    with trials.float_engine() as engine:
        yardstick = Yardstick(engine.infer)
        for done, picture in enumerate(pictures, 1):
            yardstick.add(picture, engine.infer(picture))
            advance(done)
    return yardstick.percent
