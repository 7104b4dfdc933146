"""An engine that needs no model: what ``infer`` does with results, without waiting for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from densepose_engine import DensePoseResult


class FakeEngine:
    """Finds people of the same ``scores`` in every picture, whose boxes are the picture."""

    def __init__(self) -> None:
        self.settings: list[dict[str, Any]] = []
        self.loaded: list[tuple[Path, dict[str, Any]]] = []
        self.before: Callable[[np.ndarray], object] = lambda image: None
        self.scores = (0.75,)
        self.model = {
            "defaults": {"score_threshold": 0.05, "nms_threshold": 0.5, "max_people": 20, "max_proposals": 1000},
            "capacity": {"max_people": 100, "max_proposals": 1000},
        }

    def infer(self, image: np.ndarray, **settings: Any) -> DensePoseResult:
        self.settings.append(settings)
        self.before(image)
        height, width = image.shape[:2]
        people = len(self.scores)
        return DensePoseResult(
            boxes=np.array([[0, 0, width, height]] * people, np.float32),
            scores=np.array(self.scores, np.float32),
            # Of each one row of people more than of the better one, so that everybody is seen.
            labels=tuple(
                np.where(np.arange(height)[:, None] * people < (people - 1 - k) * height, 0, 7 + k % 18)
                .repeat(width, axis=1)
                .astype(np.uint8)
                for k in range(people)
            ),
            uv=(np.full((2, height, width), 0.5, np.float32),) * people,
            image_size=(height, width),
        )

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass
