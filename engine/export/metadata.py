"""The name and version under which a graph says what it is; without torch, because building reads them, too."""

from __future__ import annotations

METADATA = "densepose_engine"
GRAPH_VERSION = 1
