"""Sizes and settings of one frame."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from descriptions import description

from densepose_engine.model.description import Capacity
from densepose_engine.model.frame import FrameSettings, FrameSize, nominal_size

STATIC = description().input
DYNAMIC = replace(STATIC, size=None)
CAPACITY = Capacity(max_people=10, max_proposals=100)
SETTINGS = FrameSettings(0.05, 0.5, 10, 100)


def test_sizes() -> None:
    size = FrameSize.of(480, 640, STATIC)
    assert (size.original, size.resized, size.padded) == ((480, 640), (64, 85), (64, 96))
    assert size.graph_input == (64, 85, 480, 640)
    size = FrameSize.of(480, 640, DYNAMIC)
    assert (size.resized, size.padded) == ((320, 427), (320, 448))
    with pytest.raises(ValueError, match="height"):
        FrameSize.of(0, 640, DYNAMIC)


def test_nominal_sizes() -> None:
    assert nominal_size(STATIC) == (64, 96)
    assert nominal_size(DYNAMIC) == (320, 448)
    # Configurations may leave pictures as they are, or say how long they may be: it must still be a size.
    assert nominal_size(replace(DYNAMIC, min_size=0)) == (480, 640)
    assert nominal_size(replace(DYNAMIC, min_size=800, max_size=1000)) == (768, 1024)


def test_defaults_stay_within_the_capacity() -> None:
    assert replace(SETTINGS, max_people=20).within(CAPACITY) == SETTINGS
    assert SETTINGS.graph_inputs == {
        "score_threshold": 0.05,
        "nms_threshold": 0.5,
        "max_detections": 10,
        "max_proposals": 100,
    }


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("score_threshold", 0, 0.0),
        ("score_threshold", np.float32(0.5), 0.5),
        ("nms_threshold", np.int64(1), 1.0),
        ("max_people", np.int32(3), 3),
        ("max_proposals", 0, 0),
        ("max_people", None, 10),
    ],
)
def test_what_a_caller_wants(name: str, value: Any, taken: float) -> None:
    found = getattr(SETTINGS.changed(CAPACITY, **{name: value}), name)
    assert found == taken and type(found) in (int, float)


@pytest.mark.parametrize("name", ["score_threshold", "nms_threshold", "max_people", "max_proposals"])
@pytest.mark.parametrize(
    "value",
    [-1, 1.5, "0.5", True, np.bool_(True), float("nan"), 10**400, 10**5000, [1], np.array(0.5), np.ones(2)],
    ids=lambda value: type(value).__name__,
)
def test_what_nobody_can_want(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        SETTINGS.changed(CAPACITY, **{name: value})
    assert len(str(caught.value)) < 300
