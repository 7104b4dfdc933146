"""The parts of ``densepose_engine.evaluate``: annotations, GPS, average precision, drift.

``import densepose_engine`` imports nothing of this; pycocotools is imported where boxes are scored or polygons drawn.
"""
