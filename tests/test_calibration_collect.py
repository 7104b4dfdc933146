"""Calibration runs: what is seen is what the graph computes, bad input is answered, interrupted runs lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graph_runner import run_cut
from PIL import Image
from small_detector import CHANNELS, MAX_PEOPLE, SIDE, serialize, small_detector

from densepose_engine import _core
from densepose_engine.calibration.collect import activations as collecting
from densepose_engine.calibration.collect.activations import collect
from densepose_engine.calibration.collect.images import choose
from densepose_engine.calibration.place import points
from densepose_engine.calibration.table import CalibrationTable, graph_digest
from densepose_engine.errors import CalibrationError
from densepose_engine.pictures.find import Picture, find_pictures
from densepose_engine.pictures.read import letterbox_size, padded_size, shortest_edge_size

MEAN = np.array([100, 110, 120], np.float32)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    path.write_bytes(serialize(small_detector()))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures of several sizes, brighter than the mean."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(12):
        height, width = 40 + 7 * index, 120 - 5 * index
        rgb = rng.integers(90, 256, (height, width, 3), np.uint8)
        Image.fromarray(rgb).save(folder / f"{index:02}.png")
    return folder


def expected_values(model: ir.Model, folder: Path, size: tuple[int, int] | None) -> dict[str, list[np.ndarray]]:
    """By another way: each picture through cuts of the graph, one tensor at a time, in the order of the file names."""
    names = ["level", "box_pooled", "flat", "densepose_pooled"]
    found: dict[str, list[np.ndarray]] = {name: [] for name in ["image", *names]}
    for path in sorted(folder.iterdir()):
        rgb = np.asarray(Image.open(path))
        height, width = rgb.shape[:2]
        resized = letterbox_size(height, width, *size) if size else shortest_edge_size(height, width, 64, 96)
        image = np.zeros((1, 3, *(size or padded_size(*resized, 32))), np.float32)
        _core.preprocess(rgb, *resized, MEAN, image, layout="NCHW")
        feeds = {
            "image": image,
            "sizes": np.array([*resized, height, width], np.int32),
            "max_proposals": np.array([50], np.int32),
            "max_detections": np.array([MAX_PEOPLE], np.int32),
            "score_threshold": np.array([0.5], np.float32),
            "nms_threshold": np.array([1], np.float32),
        }
        found["image"].append(image)
        for name, value in run_cut(model, feeds, names).items():
            found[name].append(value)
    return found


@pytest.mark.parametrize("size", [(64, 96), None], ids=["static", "dynamic"])
def test_what_is_counted_is_what_the_graph_computes(tmp_path: Path, folder: Path, size: tuple[int, int] | None) -> None:
    for path in sorted(folder.iterdir())[4:]:
        path.unlink()
    model = small_detector(size)
    path = tmp_path / "graph.onnx"
    path.write_bytes(serialize(model))
    table = collect(path, find_pictures([folder]), min_people=1)
    assert table.input_size == size
    assert table.graph_sha256 == graph_digest(path.read_bytes())
    assert list(table.tensors) == points.activations(model)
    assert table.people == 4 * MAX_PEOPLE and table.images.count == 4

    expected = expected_values(small_detector(size), folder, size)
    for name in ("image", "level", "box_pooled", "densepose_pooled"):
        values = np.concatenate([value.ravel() for value in expected[name]])
        one = table.tensors[name]
        assert one.count == values.size and one.zeros == (values == 0).sum()
        np.testing.assert_allclose([one.minimum, one.maximum], [values.min(), values.max()], rtol=1e-5, atol=1e-6)
        counts = np.histogram(values.astype(np.float64), one.edges)[0]
        # Compiled apart, sums round differently, and a value at an edge then falls on its other side.
        assert np.abs(counts - one.counts).sum() <= max(4, 0.005 * values.size)

    layers = {node.name: node for node in points.layers(model)}
    assert set(table.layers) == set(layers) and len(layers) == 5
    for name, node in layers.items():
        values = expected[node.inputs[0].name]
        axes = (0, 2, 3) if values[0].ndim == 4 else (0,)
        total = sum(value.sum(axis=axes, dtype=np.float64) for value in values)
        number = sum(value.size for value in values) / len(total)
        np.testing.assert_allclose(table.layers[name].input_mean, total / number, rtol=1e-5, atol=1e-5)
    sizes = [CHANNELS if node.inputs[0].name != "flat" else CHANNELS * SIDE**2 for node in layers.values()]
    assert [len(one.input_mean) for one in table.layers.values()] == [3, *sizes[1:]]


def test_provenance(graph: Path, folder: Path) -> None:
    pictures = find_pictures([folder])
    table = collect(graph, pictures, count=5, seed=3, min_people=1)
    names = [picture.path.name for picture in choose(pictures, 5, 3)]
    assert list(table.images.names) == names and table.images.seed == 3 and table.images.skipped == ()
    (folder / "00.png").rename(folder / "other.png")  # neither names nor order are in the hash of all
    renamed = collect(graph, find_pictures([folder]), min_people=1)
    (folder / "other.png").rename(folder / "00.png")
    assert renamed.images.sha256 == collect(graph, find_pictures([folder]), min_people=1).images.sha256
    assert renamed.images.sha256 != table.images.sha256


def test_unreadable_pictures_are_left_out_and_named(graph: Path, folder: Path) -> None:
    whole = collect(graph, find_pictures([folder]), min_people=1)
    (folder / "broken.png").write_bytes(b"no picture")
    content = (folder / "03.png").read_bytes()
    (folder / "short.png").write_bytes(content[: len(content) // 2])
    (folder / "pipe.png").symlink_to("/dev/null")
    said: list[str] = []
    table = collect(graph, find_pictures([folder]), min_people=1, notify=said.append)
    assert sorted(table.images.skipped) == ["broken.png", "pipe.png", "short.png"]
    assert table.images.count == 12 and table.images.sha256 == whole.images.sha256
    assert len(said) == 4 and any("broken.png" in text and "not a picture" in text for text in said)
    assert said[-1].startswith("calibrated on 12 pictures, which is few")
    for name, one in whole.tensors.items():
        np.testing.assert_array_equal(table.tensors[name].counts, one.counts)


def test_black_pictures_have_no_people(graph: Path, tmp_path: Path) -> None:
    folder = tmp_path / "black"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (80, 60)).save(folder / f"{index}.png")
    with pytest.raises(CalibrationError, match=r"found 0 in 3 pictures .* 8 are needed; add pictures with people"):
        collect(graph, find_pictures([folder]))


def test_a_picture_without_people_counts_for_what_is_before_the_head(graph: Path, folder: Path) -> None:
    people = collect(graph, find_pictures([folder])).tensors["densepose_pooled"]
    Image.new("RGB", (80, 60)).save(folder / "black.png")
    table = collect(graph, find_pictures([folder]))
    assert table.images.count == 13 and table.tensors["image"].count == 13 * 3 * 64 * 96
    np.testing.assert_array_equal(table.tensors["densepose_pooled"].counts, people.counts)


def test_too_few_people_says_how_many_and_the_way_out(graph: Path, folder: Path) -> None:
    pictures = find_pictures([folder])
    with pytest.raises(CalibrationError, match=r"found 15 in 3 pictures .*raise --count \(there are 12 pictures\)"):
        collect(graph, pictures, count=3, min_people=16)
    assert collect(graph, pictures, count=3, min_people=15).people == 15


def test_no_readable_picture(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(CalibrationError, match=r"none of the 1 pictures can be read.*a\.jpg"):
        collect(graph, find_pictures([tmp_path / "a.jpg"]))
    with pytest.raises(CalibrationError, match="no pictures"):
        collect(graph, [])


def test_overflow_names_the_tensor_and_the_picture(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "overflow.onnx"
    path.write_bytes(serialize(small_detector(stem_scale=1e38)))
    with pytest.raises(CalibrationError, match=r"\d\d\.png: tensor level holds NaN or infinity"):
        collect(path, find_pictures([folder]))


def test_what_is_no_graph_of_ours(tmp_path: Path, folder: Path) -> None:
    pictures = find_pictures([folder])
    bad = tmp_path / "bad.onnx"
    with pytest.raises(FileNotFoundError):
        collect(bad, pictures)
    with pytest.raises(CalibrationError, match="is a folder"):
        collect(tmp_path, pictures)
    bad.write_bytes(b"\x00\x01 nothing")
    with pytest.raises(CalibrationError, match="cannot be read as an ONNX graph"):
        collect(bad, pictures)
    model = small_detector()
    description = model.metadata_props["densepose_engine"]
    for text, message in (
        (None, "not written by"),
        (description.replace('"graph_version": 1', '"graph_version": 99'), "version 99"),
        (description.replace("mean_rgb", "mean"), "does not describe its model"),
    ):
        model.metadata_props.pop("densepose_engine", None)
        if text is not None:
            model.metadata_props["densepose_engine"] = text
        bad.write_bytes(serialize(model))
        with pytest.raises(CalibrationError, match=message):
            collect(bad, pictures)


def interrupt_at(number: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == number:
            raise KeyboardInterrupt

    return progress


def saved(table: CalibrationTable, path: Path) -> bytes:
    table.save(path)
    return path.read_bytes()


def test_an_interrupted_run_resumes_to_the_same_bits(
    graph: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "_SAVE_EVERY", 3)
    (folder / "broken.png").write_bytes(b"no picture")
    pictures, partial = find_pictures([folder]), tmp_path / "x.partial"
    whole = saved(collect(graph, pictures), tmp_path / "whole.json")
    steps: list[tuple[int, int]] = []
    said: list[str] = []
    for stop in (5, 10):
        with pytest.raises(KeyboardInterrupt):
            collect(graph, pictures, resume_path=partial, progress=interrupt_at(stop))
    table = collect(graph, pictures, resume_path=partial, progress=lambda *step: steps.append(step), notify=said.append)
    assert steps[0] == (9, 13) and steps[-1] == (13, 13)
    assert any("resuming after 9 of 13" in text for text in said)
    assert saved(table, tmp_path / "resumed.json") == whole
    assert partial.exists()  # the caller removes it when the table is safe


@pytest.mark.parametrize("change", ["graph", "picture", "seed", "damage", "truncate"])
def test_a_state_of_other_work_is_not_resumed(graph: Path, folder: Path, tmp_path: Path, change: str) -> None:
    pictures, partial, seed = find_pictures([folder]), tmp_path / "x.partial", 0
    collect(graph, pictures, resume_path=partial)
    if change == "graph":
        graph.write_bytes(serialize(small_detector(stem_scale=1.5)))
    elif change == "picture":
        Image.new("RGB", (50, 50), "white").save(folder / "03.png")
    elif change == "seed":
        seed = 1
    else:
        content = partial.read_bytes()
        middle = len(content) // 2
        partial.write_bytes(content[:middle] + (b"????" + content[middle + 4 :] if change == "damage" else b""))
    steps: list[tuple[int, int]] = []
    said: list[str] = []
    resumed = collect(
        graph, pictures, seed=seed, resume_path=partial, progress=lambda *step: steps.append(step), notify=said.append
    )
    assert steps[0] == (0, 12)
    assert len(said) == 2 and "starting from the first picture" in said[0]
    fresh = collect(graph, pictures, seed=seed)
    assert saved(resumed, tmp_path / "a.json") == saved(fresh, tmp_path / "b.json")


def test_fewer_people_can_be_accepted_without_running_again(graph: Path, folder: Path, tmp_path: Path) -> None:
    pictures, partial = find_pictures([folder]), tmp_path / "x.partial"
    with pytest.raises(CalibrationError, match="--min-people"):
        collect(graph, pictures, count=3, min_people=99, resume_path=partial)
    steps: list[tuple[int, int]] = []
    collect(graph, pictures, count=3, min_people=1, resume_path=partial, progress=lambda *step: steps.append(step))
    assert steps == [(3, 3)]


def test_a_picture_that_changes_under_way_is_an_error(graph: Path, folder: Path) -> None:
    pictures = find_pictures([folder])

    def overwrite(done: int, total: int) -> None:
        if done == 2:
            for path in folder.iterdir():
                Image.new("RGB", (50, 50), "white").save(path)

    with pytest.raises(CalibrationError, match="changed while calibrating"):
        collect(graph, pictures, progress=overwrite)


def test_wrong_arguments(graph: Path, folder: Path) -> None:
    pictures = find_pictures([folder])
    with pytest.raises(ValueError, match="count"):
        collect(graph, pictures, count=0)
    with pytest.raises(ValueError, match="min_people"):
        collect(graph, pictures, min_people=0)


def test_the_choice_of_pictures(tmp_path: Path) -> None:
    def pictures(root: str) -> list[Picture]:
        return [Picture(Path(root) / f"{index}.jpg", Path(f"{index}")) for index in range(100)]

    names = [picture.name for picture in choose(pictures("/a"), 20, seed=5)]
    assert names == [picture.name for picture in choose(pictures("/b")[::-1], 20, seed=5)]
    assert names[:7] == [picture.name for picture in choose(pictures("/a"), 7, seed=5)]
    assert names != [picture.name for picture in choose(pictures("/a"), 20, seed=6)]
    assert len(set(choose(pictures("/a"), 1000))) == 100
    # The same on every machine and in every version: a table says with which seed it was made.
    assert [str(name) for name in names[:3]] == ["67", "50", "49"]


def test_defaults_of_the_command_are_those_of_the_function() -> None:
    from densepose_engine.commands import calibrate

    assert calibrate.DEFAULT_COUNT == collecting.DEFAULT_COUNT
    assert calibrate.DEFAULT_MIN_PEOPLE == collecting.DEFAULT_MIN_PEOPLE


def test_slow_pictures_are_saved_one_by_one(
    graph: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption costs what was done since the last save: less than eight pictures, where each takes long."""
    monkeypatch.setattr(collecting, "_SAVE_AFTER", 0.0)
    state, done = tmp_path / "state", 0
    add = collecting._Run.add

    def interrupted(run: collecting._Run, path: Path, sha256: str | None) -> str | None:
        nonlocal done
        done += 1
        if done == 4:
            raise KeyboardInterrupt
        return add(run, path, sha256)

    monkeypatch.setattr(collecting._Run, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(graph, find_pictures([folder]), min_people=1, resume_path=state)
    said: list[str] = []
    collect(graph, find_pictures([folder]), min_people=1, resume_path=state, notify=said.append)
    assert said[:-1] == [f"resuming after 3 of 12 pictures, from {state}"]


def test_black_pictures_have_nobody(graph: Path, tmp_path: Path) -> None:
    Image.new("RGB", (96, 64)).save(tmp_path / "black.png")
    with pytest.raises(CalibrationError, match=r"found 0 in 1 pictures .* add pictures with people$"):
        collect(graph, find_pictures([tmp_path / "black.png"]), min_people=1)
