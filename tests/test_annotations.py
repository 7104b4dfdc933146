"""COCO DensePose annotation files, and the masks in them."""

from __future__ import annotations

import copy
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import annotated_scenes as scenes
import numpy as np
import pytest

from densepose_engine import DensePoseEngineError
from densepose_engine.evaluation.accuracy import Dataset
from densepose_engine.evaluation.rle import Polygons, RunLengths

# ---- masks -----------------------------------------------------------------------------------------------------------


def test_run_lengths_are_column_major_and_begin_with_background() -> None:
    mask = RunLengths.parse({"size": [2, 3], "counts": [1, 2, 3]}).decode()
    np.testing.assert_array_equal(mask, [[False, True, False], [True, False, False]])


def test_compressed_run_lengths_are_those_of_the_coco_tools() -> None:
    tools = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for n in range(60):
        height, width = rng.integers(1, 300, 2)
        mask = rng.random((height, width)) < (0.5, 0.001, 0.999)[n % 3]
        encoded = tools.encode(np.asfortranarray(mask, np.uint8))
        assert isinstance(encoded["counts"], bytes)
        text = {"size": [int(height), int(width)], "counts": encoded["counts"].decode()}
        np.testing.assert_array_equal(RunLengths.parse(text).decode(), mask)


@pytest.mark.parametrize(
    "rle",
    [
        [],
        {"size": [2, 2]},
        {"size": [2], "counts": [4]},
        {"size": [2, -2], "counts": [4]},
        {"size": [2, 2], "counts": [3]},
        {"size": [2, 2], "counts": [5]},
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2, 2], "counts": [1 << 40]},
        {"size": [2, 2], "counts": [True, 3]},
        {"size": [2, 2], "counts": 4},
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "\x7f"},
        {"size": [2, 2], "counts": "€"},
        {"size": [2, 2], "counts": "P"},  # says that more follows
        {"size": [2, 2], "counts": "oooooooooooo0"},
    ],
)
def test_broken_run_lengths(rle: Any) -> None:
    with pytest.raises(ValueError, match=r"^its? "):
        RunLengths.parse(rle)


def test_polygons() -> None:
    mask = Polygons.parse([[1, 1, 4, 1, 4, 3, 1, 3]], (5, 6)).decode()
    np.testing.assert_array_equal(np.argwhere(mask), [[y, x] for y in (1, 2) for x in (1, 2, 3)])
    assert not Polygons.parse([], (5, 6)).decode().any()
    for bad in ([[1, 2, 3]], [[1, 2, 3, 4, 5, math.nan]], ["123456"], [[1, 2, 3, 4, 5, "6"]]):
        with pytest.raises(ValueError, match="polygons"):
            Polygons.parse(bad, (5, 6))


# ---- annotation files ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    annotations = [scenes.made_up_picture(np.random.default_rng(seed))[0] for seed in range(2)]
    return scenes.write_annotations(tmp_path_factory.mktemp("content"), annotations)


def load(folder: Path, content: Any) -> Dataset:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "annotations.json").write_text(text)
    return Dataset.load(folder)


def test_what_a_dataset_has(tmp_path: Path, content: dict[str, Any]) -> None:
    dataset = load(tmp_path, content)
    assert [p.file_name for p in dataset.pictures] == ["0.png", "1.png"]
    assert dataset.pictures[1].path == tmp_path / "1.png"
    assert dataset.people == 4
    assert len(dataset.first(1).pictures) == 1
    one = dataset.pictures[0].annotations[0]
    assert one.points is not None
    assert len(one.points) == 12
    assert one.masks is not None
    assert len(one.masks) == 2  # empty ones say nothing
    other = Dataset.load("nowhere", annotations=tmp_path / "annotations.json", images="pictures")
    assert other.pictures[0].path == Path("pictures/0.png")


def test_only_people_count_and_points_of_no_part_are_dropped(tmp_path: Path, content: dict[str, Any]) -> None:
    content = copy.deepcopy(content)
    content["categories"] = [{"id": 7, "name": "dog"}, {"id": 1, "name": "person"}]
    content["annotations"][0]["category_id"] = 7
    content["annotations"][1]["dp_I"][:5] = [0] * 5
    dataset = load(tmp_path, content)
    assert [a.id for a in dataset.pictures[0].annotations] == [1]
    points = dataset.pictures[0].annotations[0].points
    assert points is not None
    assert len(points) == 7


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("image_id", 9, "annotation 1: its image_id 9 is none of the images"),
        ("image_id", "0", "annotation 1: its image_id is '0', it must be an integer"),
        ("bbox", None, "annotation 1: its bbox is not a list of numbers"),
        ("bbox", [1, 2, 3], "annotation 1: its bbox has 3 entries, it must have 4"),
        ("bbox", [1, 2, -3, 4], "annotation 1: its bbox has a negative width or height"),
        ("bbox", [1, 2, math.inf, 4], "annotation 1: its bbox has values that are not finite"),
        ("bbox", [1, 2, 10**400, 4], "annotation 1: its bbox has values that are not finite"),
        ("bbox", [1, 2, 1 << 25, 4], "annotation 1: its bbox has values beyond 16777216"),
        ("dp_x", [1e300] * 12, "annotation 1: its dp_x has values beyond 16777216"),
        ("area", ["large"] * 100_000, "annotation 1: its area is ['large', 'large'"),
        ("area", "large", "annotation 1: its area is 'large', it must be a number of at least 0"),
        ("area", 10**400, "annotation 1: its area is 1000"),
        ("dp_y", None, "annotation 1: its dp_y is not a list of numbers"),
        ("dp_U", [0.5], "annotation 1: its dp_U has 1 entries, dp_x has 12"),
        ("dp_V", [math.nan] * 12, "annotation 1: its dp_V has values that are not finite"),
        ("dp_I", [25] * 12, "annotation 1: its dp_I has values other than 1 .. 24"),
        ("dp_I", [1.5] * 12, "annotation 1: its dp_I has values other than 1 .. 24"),
        ("dp_masks", {}, "annotation 1: its dp_masks are not a list of up to 14 masks"),
        ("dp_masks", [[]] * 15, "annotation 1: its dp_masks are not a list of up to 14 masks"),
        (
            "dp_masks",
            [{"size": [256, 256], "counts": [7]}],
            "one of its dp_masks cannot be read: its run lengths",
        ),
        ("dp_masks", [{"size": [2, 2], "counts": [4]}], "its size is 2 x 2, it must be 256 x 256"),
        ("segmentation", {"size": [2, 2], "counts": [4]}, "annotation 1: its segmentation cannot be read: its size"),
        ("segmentation", [[1, 2]], "annotation 1: its segmentation cannot be read"),
        ("segmentation", [[0, 0, 1e6, 0, 0, 1e6]], "an outline of more than 1048576 pixels"),
        ("id", "x", "annotation number 1 of the list: its id is 'x', it must be an integer"),
    ],
)
def test_broken_annotations(tmp_path: Path, content: dict[str, Any], key: str, value: Any, sentence: str) -> None:
    content = copy.deepcopy(content)
    content["annotations"][1][key] = value
    with pytest.raises(DensePoseEngineError) as error:
        load(tmp_path, content)
    assert str(error.value).startswith(f"{tmp_path / 'annotations.json'}: ")
    assert sentence in str(error.value)
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ([], "it is no COCO annotation file"),
        ("{", "is not JSON"),
        ("[" * 100000, "is not readable: it nests too deep"),
        ("[" * 4_000_001, "is not readable: it holds more than 4000000 lists and objects"),
        ({"images": []}, "it has no list annotations"),
        ({"images": [3], "annotations": []}, "image number 0 of the list is no object"),
        ({"images": [{"id": 1, "width": 3}], "annotations": []}, "image 1: its height is None"),
        ({"images": [{"id": 1, "width": 0, "height": 3}], "annotations": []}, "an integer of at least 1"),
        ({"images": [{"id": 1, "width": 10**9, "height": 3}], "annotations": []}, "that is no picture"),
        ({"images": [{"id": 1, "width": 1 << 16, "height": 1 << 16}], "annotations": []}, "that is no picture"),
        ({"images": [{"id": 1, "width": 3, "height": 3}] * 2, "annotations": []}, "its id is taken"),
        ({"images": [], "annotations": []}, "it is no DensePose annotation file"),
        ({"images": [], "annotations": [], "categories": 3}, "its categories are not a list"),
        ({"images": [], "annotations": [], "categories": [{}, {}]}, "none of its categories is named person"),
    ],
)
def test_broken_files(tmp_path: Path, change: Any, sentence: str) -> None:
    with pytest.raises(DensePoseEngineError, match=sentence):
        load(tmp_path, change)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "annotations.json").open("wb") as stream:
        stream.truncate((512 << 20) + 1)
    tracemalloc.start()
    try:
        with pytest.raises(DensePoseEngineError, match="json has 536870913 bytes, at most 536870912 are read"):
            Dataset.load(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_no_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--annotations"):
        Dataset.load(tmp_path)
