"""TensorRT-RTX: the flavour of TensorRT for GeForce and RTX cards, which builds on machines without a GPU."""

from __future__ import annotations

from .tensorrt import Tensorrt

_FLAVOUR = Tensorrt(
    backend="tensorrt-rtx",
    package="tensorrt_rtx",
    install="pip install tensorrt-rtx-cu13",
    ahead_of_time=True,
)
PRECISIONS, LAYOUT, TARGET = _FLAVOUR.PRECISIONS, _FLAVOUR.LAYOUT, _FLAVOUR.TARGET
FUSES_ENDS = _FLAVOUR.FUSES_ENDS
build, load, versions = _FLAVOUR.build, _FLAVOUR.load, _FLAVOUR.versions
