"""What a graph says of itself: the same JSON comes back, and whatever is wrong is named by its key."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from descriptions import description, description_json

from densepose_engine.files.fields import FieldError
from densepose_engine.model.description import FusedEnds, ModelDescription


def test_the_same_json_comes_back_to_the_last_byte() -> None:
    content = description_json()
    assert json.dumps(ModelDescription.from_json(content).to_json()) == json.dumps(content)


@pytest.mark.parametrize("missing", ["int8", "layers", "layers_counted_for"])
def test_what_build_adds_may_be_missing(missing: str) -> None:
    content = description_json()
    del content[missing]
    read = ModelDescription.from_json(content)
    assert getattr(read, missing) is None and read.to_json() == content


def test_a_graph_whose_ends_were_left_alone() -> None:
    content = description_json()
    del content["packed_maps"], content["input"]["quantization"]
    assert ModelDescription.from_json(content).ends is None
    assert ModelDescription.from_json(content).to_json() == content
    content["packed_maps"] = content["input"]["quantization"] = None
    assert ModelDescription.from_json(content).ends == FusedEnds(None, None)
    assert ModelDescription.from_json(content).to_json() == content


def test_keys_of_a_later_version_are_kept() -> None:
    content = {**description_json(), "surprise": {"a": [1, 2.5, None, True]}}
    assert ModelDescription.from_json(content).to_json() == content


def test_what_is_given_out_is_a_copy() -> None:
    read = description()
    read.to_json()["provenance"]["config"]["name"] = "another"
    read.to_json()["cut_points"]["neck"].append("another")
    assert read.to_json() == description_json()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture", 3),
        ("architecture", ""),
        ("graph_version", 0),
        ("graph_version", True),
        ("input", [1]),
        ("input.size", "ab"),
        ("input.size", [320]),
        ("input.size", [32000000, 32000000]),
        ("input.size", [320, 449]),
        ("input.size", [-32, 32]),
        ("input.size", [10**400, 32]),
        ("input.size", [32.0, 32]),
        ("input.mean_rgb", [1, 2]),
        ("input.mean_rgb", [1, 2, float("inf")]),
        ("input.mean_rgb", [1, 2, 10**400]),
        ("input.mean_rgb", [1, 2, "3"]),
        ("input.min_size", -1),
        ("input.max_size", 0),
        ("input.divisor", 0),
        ("input.divisor", 1e9),
        ("input.quantization", 1),
        ("input.quantization.scale", 0),
        ("input.quantization.scale", 10**400),
        ("input.quantization.zero_point", 256),
        ("defaults.score_threshold", 1.5),
        ("defaults.score_threshold", None),
        ("defaults.nms_threshold", "0.5"),
        ("defaults.max_people", 2.5),
        ("defaults.max_proposals", 10**400),
        ("capacity.max_people", 0),
        ("capacity.max_proposals", False),
        ("maps", []),
        ("maps", "u"),
        ("maps", ["u", "u"]),
        ("maps", ["u", 3]),
        ("cut_points", []),
        ("cut_points.neck", "p2"),
        ("provenance", [1]),
        ("provenance.parameters", float("inf")),
        ("provenance.parameters", 10**400),
        ("provenance.config", nested(100)),
        ("int8.observer", None),
        ("int8.shared_scales", "ab"),
        ("int8.shared_scales", ["ab"]),
        ("int8.keep_float", [1]),
        ("int8.calibration", None),
        ("int8.calibration.sha256", "g" * 64),
        ("int8.auto", 10**400),
        ("packed_maps.channels", [1, 2]),
        ("packed_maps.channels", [1, 2, 3, 0]),
        ("packed_maps.block", 0),
        ("packed_maps.layout", "NCWH"),
        ("layers", {}),
        ("layers", [1]),
        ("layers_counted_for.image", [1]),
        ("layers_counted_for.box", -1),
        ("layers_counted_for.box", "many"),
    ],
)
def test_what_is_wrong_is_named(key: str, value: Any) -> None:
    content = description_json()
    *path, last = key.split(".")
    place = content
    for name in path:
        place = place[name]
    place[last] = value
    with pytest.raises(FieldError) as caught:
        ModelDescription.from_json(content)
    text = str(caught.value)
    assert key in text and len(text) < 500


def put(value: Any, place: Any, key: Any) -> None:
    place[key] = value


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [path, *(found for key, one in inner for found in paths(one, (*path, key)))]


def changed(content: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    change(place, path[-1])
    return content


VALUES = (
    None,
    True,
    -1,
    0,
    1 << 62,
    10**400,
    0.5,
    1e308,
    float("inf"),
    "",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": 1},
    nested(40),
)


def test_whatever_stands_anywhere_is_read_or_refused() -> None:
    """Every key taken away, and every value replaced by each of many others."""
    refused = 0
    for path in paths(description_json())[1:]:
        trials = [changed(description_json(), path, lambda place, key: place.pop(key))]
        for value in VALUES:
            trials.append(changed(description_json(), path, partial(put, value)))
        for content in trials:
            try:
                json.dumps(ModelDescription.from_json(content).to_json(), allow_nan=False)
            except FieldError as error:
                refused += 1
                assert len(str(error)) < 600
    assert refused > 900
