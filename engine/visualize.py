"""Drawing results, at the address that users know: ``from densepose_engine.visualize import draw``."""

from .outputs.overlays import SCORE_THRESHOLD, draw, people_above
from .outputs.surface import (
    Mesh,
    dp_vertex_layer,
    position_colors,
    position_layer,
    positions,
    read_mesh,
    texture,
    texture_layer,
)

__all__ = [
    "SCORE_THRESHOLD",
    "Mesh",
    "dp_vertex_layer",
    "draw",
    "people_above",
    "position_colors",
    "position_layer",
    "positions",
    "read_mesh",
    "texture",
    "texture_layer",
]
