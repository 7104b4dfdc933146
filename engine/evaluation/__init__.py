"""The parts of ``densepose_engine.evaluate``: annotations, GPS, average precision, drift.

Nothing here is imported by ``import densepose_engine``; pycocotools is imported only where boxes are scored or polygons drawn.
"""
