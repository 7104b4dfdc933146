"""Rounding weights to integers so that what a layer gives stays, rather than the weights themselves.

Nearest rounding treats the errors of a kernel's weights as independent, but what they multiply is not: neighboring
pixels are alike, and so are the channels behind a ReLU when a picture is bright. The errors of one output channel
should therefore cancel over the taps of each kernel, and over the channels weighted with their mean. Starting from
nearest, single weights are moved to their other neighbor as long as that lowers

    J(d) = a (sum_ct m_c d_ct)^2 + sum_c v ( r (sum_t d_ct)^2 + (1 - r) sum_t d_ct^2 )

with d the rounding errors in steps, m_c the mean of input channel c, v the variance of the input, r the correlation of
neighboring pixels and a how much the channels move together. The second term alone is SQuant's (arXiv 2202.07471),
which needs no data; the first uses the means that calibration stores anyway. No labels, no training, milliseconds.
"""

from __future__ import annotations

import numpy as np

#: Of neighboring pixels, and of channels through their means; chosen on calibration pictures.
SPATIAL_CORRELATION = 0.9
COMMON_MODE = 0.3
_LIMIT = 127
_MOST_MOVES = 2000


def round_weights(steps: np.ndarray, mean: np.ndarray, variance: float) -> np.ndarray:
    """Integers for weights.

    Args:
        steps: ``[O, C, T]`` weights divided by their scale, float64, |.| <= 127: output channels, input channels, taps.
        mean: ``[C]`` of each input channel, or ``[O, C]`` where each output channel reads other ones (depthwise).
        variance: of the input around the channels' means.

    Returns:
        ``[O, C, T]`` integers in -127 .. 127, as float64; each is one of the two neighbors of its weight.
    """
    outputs = steps.shape[0]
    result = np.rint(steps)
    error = result - steps
    weight = np.broadcast_to(np.atleast_2d(mean)[:, :, None], steps.shape)
    busy = np.arange(outputs)
    for _ in range(_MOST_MOVES):
        moved, gain, place = _best_move(result[busy], error[busy], weight[busy], variance)
        useful = gain < 0
        busy, place, moved = busy[useful], place[useful], moved[useful]
        if busy.size == 0:
            break
        channel, tap = np.divmod(place, steps.shape[2])
        result[busy, channel, tap] += moved
        error[busy, channel, tap] += moved
    return result


def _best_move(
    result: np.ndarray, error: np.ndarray, weight: np.ndarray, variance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per output channel: the step (+1 or -1) of the best move, the change of J, the flat index of the weight."""
    step = np.where(error > 0, -1.0, 1.0)
    kernel = error.sum(axis=2, keepdims=True)
    common = (error * weight).sum(axis=(1, 2), keepdims=True)
    change = COMMON_MODE * (2 * common * weight * step + weight**2)
    change += variance * SPATIAL_CORRELATION * (2 * kernel * step + 1)
    change += variance * (1 - SPATIAL_CORRELATION) * (2 * error * step + 1)
    # A weight may go to its other neighbor and back, and no further.
    change[(np.abs(error + step) > 1) | (np.abs(result + step) > _LIMIT)] = np.inf
    flat = change.reshape(len(change), -1)
    place = flat.argmin(axis=1)
    rows = np.arange(len(flat))
    return step.reshape(len(step), -1)[rows, place], flat[rows, place] + 1e-12, place
