"""HEIC pictures, which telephones make: Pillow reads them with the plugin pillow-heif alone."""

from __future__ import annotations

import importlib
import importlib.util
import sys

_registered = False


def can_read_heif() -> bool:
    """Whether pillow-heif is installed; it is not imported."""
    if "pillow_heif" in sys.modules:
        return sys.modules["pillow_heif"] is not None
    return importlib.util.find_spec("pillow_heif") is not None


def register_heif() -> bool:
    """Teach Pillow to read HEIC; True if it could not before and can now."""
    global _registered
    if _registered:
        return False
    try:
        plugin = importlib.import_module("pillow_heif")
    except ImportError:
        return False
    plugin.register_heif_opener()
    _registered = True
    return True
