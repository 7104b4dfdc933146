"""The parts of ``densepose_engine.evaluation.accuracy``: annotations, GPS, average precision, drift.

``import densepose_engine`` imports nothing of this; pycocotools is imported where boxes are scored or polygons drawn.
"""
