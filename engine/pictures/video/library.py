"""PyAV, imported when a video is at hand and not before, and what it leaves to its users to name."""

from __future__ import annotations

import importlib
from typing import Any

from ...errors import BackendUnavailable


def pyav() -> Any:
    """The module ``av``. Raises ``BackendUnavailable`` where it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise BackendUnavailable(
            f"videos need PyAV, which cannot be imported ({error}); pip install 'densepose-engine[video]'"
        ) from error


def reason(error: Exception) -> str:
    """FFmpeg's words for what went wrong, without the name of its function and its number."""
    return str(getattr(error, "strerror", None) or error)
