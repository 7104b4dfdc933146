"""PyAV, imported when a video is at hand and not before, and what it leaves to its users to name."""

from __future__ import annotations

import importlib
import re
from typing import Any

from ...errors import BackendUnavailable

#: The oldest release with all that is used of it, as in pyproject.toml.
OLDEST = (14, 2)


def pyav() -> Any:
    """The module ``av``. Raises ``BackendUnavailable`` where it is not installed, or older than ``OLDEST``."""
    install = "pip install 'densepose-engine[video]'"
    try:
        module = importlib.import_module("av")
    except ImportError as error:
        raise BackendUnavailable(f"videos need PyAV, which cannot be imported ({error}); {install}") from error
    found = re.match(r"(\d+)\.(\d+)", module.__version__)
    if found is not None and tuple(map(int, found.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise BackendUnavailable(f"videos need PyAV {oldest} or newer, and {module.__version__} is here; {install}")
    return module


def reason(error: Exception) -> str:
    """FFmpeg's words for what went wrong, without the name of its function and its number."""
    return str(getattr(error, "strerror", None) or error)
