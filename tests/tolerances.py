"""How far a kernel's output may be from the float64 reference, by op, feature type and backend.

An output passes where |actual - expected| <= absolute + relative * |expected|. Quantized features are compared with the
reference *before* it is rounded: half a step is what rounding costs, the rest is what float32 sums may lose. Outputs
that are decisions (ranks, labels, counts) have no tolerance: they are compared exactly, on inputs that leave a margin.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    """The two terms of the bound."""

    relative: float
    absolute: float


TOLERANCES: dict[tuple[str, str, str], Tolerance] = {
    ("GenerateProposals", "float32", "cpu"): Tolerance(1e-6, 2e-4),  # boxes in pixels: 1e-7 of a picture of 1,000
    ("BoxDetections", "float32", "cpu"): Tolerance(1e-6, 2e-4),
    # float32 places a sample to about 1e-5 pixels; the tests' features and maps are noise of standard deviation 1.
    ("MultilevelRoiAlign", "float32", "cpu"): Tolerance(1e-5, 5e-5),
    ("MultilevelRoiAlign", "float16", "cpu"): Tolerance(5e-4, 5e-5),  # 2**-11, the rounding of the output
    ("MultilevelRoiAlign", "uint8", "cpu"): Tolerance(0, 0.5 + 1e-3),
    ("MultilevelRoiAlign", "int8", "cpu"): Tolerance(0, 0.5 + 1e-3),
    ("ChartResult", "float32", "cpu"): Tolerance(1e-5, 1e-4),
}


def assert_close(
    actual: np.ndarray, expected: np.ndarray, op: str, dtype: str = "float32", backend: str = "cpu"
) -> None:
    """Fails with the worst element if an output is further from the reference than the table allows."""
    tolerance = TOLERANCES[op, dtype, backend]
    assert actual.shape == expected.shape, f"{op}: shape {actual.shape}, expected {expected.shape}"
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    excess = np.abs(actual - expected) - tolerance.absolute - tolerance.relative * np.abs(expected)
    excess = np.where(np.isnan(excess), np.inf, excess)
    if excess.size and excess.max() > 0:
        worst = np.unravel_index(excess.argmax(), excess.shape)
        raise AssertionError(
            f"{op} {dtype} on {backend}: {(excess > 0).sum()} of {excess.size} elements are too far off; "
            f"at {tuple(map(int, worst))} {actual[worst]!r} in place of {expected[worst]!r}"
        )
