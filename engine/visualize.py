"""Drawing results, at the address that users know: ``from densepose_engine.visualize import draw``."""

from .outputs.overlays import SCORE_THRESHOLD, draw, people_above

__all__ = ["SCORE_THRESHOLD", "draw", "people_above"]
