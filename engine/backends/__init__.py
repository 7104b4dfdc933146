"""Vendors' runtimes behind one description. A backend's module is imported when it is used, never before."""

from __future__ import annotations

import importlib

from ..errors import BackendUnavailable
from .base import Backend, Device, LayerTime, Request, Session

__all__ = ["BACKENDS", "Backend", "Device", "LayerTime", "Request", "Session", "find_backend"]

#: Name -> where its ``Backend`` is.
BACKENDS = {
    "openvino": ("openvino", "OPENVINO"),
    "tensorrt": ("tensorrt", "TENSORRT"),
    "tensorrt-rtx": ("tensorrt", "TENSORRT_RTX"),
}


def find_backend(name: str) -> Backend:
    """The backend ``name``; ``BackendUnavailable`` where there is none. Its runtime is asked for when it is used."""
    if name not in BACKENDS:
        raise BackendUnavailable(f"no backend '{name}' in this version; it has: {', '.join(sorted(BACKENDS))}")
    module, attribute = BACKENDS[name]
    backend: Backend = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return backend
