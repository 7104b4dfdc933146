"""Which layers cost most when they run in INT8: what the results gain if one of them alone is float again."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from ..place.observers import expected_sqnr_db
from ..place.points import layers as layers_of
from ..place.points import source
from ..place.quantizer import Quantizer
from .noise import Noise, NoiseMeter
from .report import weight_sqnr

#: As many layers are tried one by one, those with the noisiest inputs and weights.
CANDIDATES = 24
_MOST_DB = 80.0  # what is better than that counts as that: one exact result must not decide a mean


def worst_layers(
    quantizer: Quantizer,
    meter: NoiseMeter,
    pictures: Sequence[np.ndarray],
    *,
    keep_float: Collection[str] = (),
    candidates: int | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[str, float]]:
    """Layers by how many dB the results' mean SQNR gains where one is float, most first; those without gain are last.

    Args:
        pictures: uint8 RGB arrays to measure on.
        candidates: how many layers to try, ``CANDIDATES`` by default.
        keep_float: who is float already.
        advance: called with how many layers were tried, and of how many.

    Raises:
        CalibrationError, BuildError, InferenceError: as ``quantize`` and ``NoiseMeter``.
    """
    names = {name: name for name in meter.results}

    def quality(kept: Collection[str]) -> float:
        return mean_sqnr(list(meter.compare(quantizer(kept)[0], names, pictures).values()))

    chosen = noisiest(quantizer, keep_float)[: CANDIDATES if candidates is None else candidates]
    advance(0, len(chosen))
    before = quality(keep_float)
    gains = []
    for index, name in enumerate(chosen):
        gains.append((name, quality([*keep_float, name]) - before))
        advance(index + 1, len(chosen))
    return sorted(gains, key=lambda gain: -gain[1])


def noisiest(quantizer: Quantizer, keep_float: Collection[str] = ()) -> list[str]:
    """Quantized layers by the relative noise that their own input and weights bring, most first; nothing is run."""
    model, placement = quantizer(keep_float)
    original = quantizer.model()
    noise = {}
    for name, sqnr in weight_sqnr(original, model).items():
        if sqnr is not None:
            noise[name] = 10 ** (-sqnr / 10)
    for node in layers_of(original):
        name = str(node.name)
        if name not in noise or node.inputs[0] is None:
            continue
        tensor = str(source(node.inputs[0]).name)
        if tensor in placement.scales:
            one = placement.scales[tensor]
            sqnr = expected_sqnr_db(quantizer.table.tensors[tensor], one.scale, one.zero_point, one.dtype)
            noise[name] += 10 ** (-sqnr / 10)
    return sorted(noise, key=lambda name: -noise[name])


def mean_sqnr(noises: Sequence[Noise]) -> float:
    """In dB, of the results that have a signal."""
    values = [min(one.sqnr_db, _MOST_DB) for one in noises if not math.isnan(one.sqnr_db)]
    return float(np.mean(values)) if values else math.nan
