"""The CPU as OpenVINO's device."""

from __future__ import annotations

from ..base import Device

# OpenVINO's own default on CPUs with bf16 units is bf16, so what is called fp32 must say so.
# In an INT8 engine that is the precision of what was kept float.
PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}

CPU = Device(
    name="CPU",
    precisions=tuple(PRECISION_HINTS),
    layout="NHWC",  # a Transpose around a custom node costs nothing here, and planar features would
    quantization="openvino",
    fuses_ends=True,
    host_memory=True,
    times_layers=True,
)
