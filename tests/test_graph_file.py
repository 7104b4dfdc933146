"""Graphs that say one thing and hold another: refused in a sentence, before any compiler sees them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from small_detector import serialize, small_detector

from densepose_engine import CalibrationError
from densepose_engine.compile.build import build_engine
from densepose_engine.errors import BuildError
from densepose_engine.model.graph_file import METADATA, parse_graph, read_graph


def metadata(change: Callable[[Any], Any]) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        (entry,) = model.metadata_props
        content = json.loads(entry.value)
        changed = change(content)
        entry.value = json.dumps(content if changed is None else changed)

    return edit


def attribute(op: str, name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for one in node.attribute:
                if node.op_type == op and one.name == name:
                    one.CopyFrom(onnx.helper.make_attribute(name, value))

    return edit


def without_attribute(op: str, name: str) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == op:
                kept = [one for one in node.attribute if one.name != name]
                node.ClearField("attribute")
                node.attribute.extend(kept)

    return edit


def renamed(domain: bytes) -> Callable[[onnx.ModelProto], None]:
    """The custom nodes' domain becomes this; the library for protobuf lets nobody write such a thing."""

    def edit(model: onnx.ModelProto) -> None:
        data = model.SerializeToString().replace(b"densepose", domain.ljust(9, b"x"), 1)
        model.CopyFrom(onnx.load_model_from_string(data))

    return edit


def axes(op: str) -> Callable[[onnx.ModelProto], None]:
    """The first map that such a node reads has one axis."""

    def edit(model: onnx.ModelProto) -> None:
        (node,) = (node for node in model.graph.node if node.op_type == op)
        for value in [*model.graph.value_info, *model.graph.input]:
            if value.name == node.input[0]:
                model.graph.value_info.remove(value)
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, [3]))

    return edit


def text(value: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: setattr(model.metadata_props[0], "value", value)


CASES: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "no metadata": (lambda m: m.ClearField("metadata_props"), "not written by 'densepose-engine export'"),
    "another version": (metadata(lambda d: d.update(graph_version=2)), "graph version 2, this package reads 1"),
    "no version": (metadata(lambda d: d.pop("graph_version") and None), "graph_version is missing"),
    "no input": (metadata(lambda d: {key: one for key, one in d.items() if key != "input"}), "input is missing"),
    "a list": (metadata(lambda d: [1]), r"it is \[1\], it must be an object"),
    "no JSON": (text("{"), "does not describe its model"),
    "nested": (text("[" * 100_000), "nests too deep"),
    "NaN": (text('{"graph_version": NaN}'), "NaN is no number"),
    "digits": (text("9" * 10_000), "does not describe its model"),
    "size": (metadata(lambda d: d["input"].update(size=[64, 128])), "its image has another size"),
    "dynamic": (metadata(lambda d: d["input"].update(size=None)), "its image has another size"),
    "maps": (metadata(lambda d: d.update(maps=["u", "v"])), "it has no output v"),
    "nothing": (lambda m: m.graph.ClearField("node"), "it has no output boxes, scores, count, u"),
    "settings": (lambda m: m.graph.input.pop(1), "it has no input sizes"),
    "inputs": (lambda m: [n.input.pop() for n in m.graph.node if n.op_type == "BoxDetections"], "has 7 inputs"),
    "a loose end": (lambda m: m.graph.node[-1].input.__setitem__(0, "nowhere"), "reads 'nowhere', which nothing makes"),
    "capacity": (attribute("GenerateProposals", "capacity", 1 << 62), "capacity of its node .* from 1 to 100000"),
    "people": (attribute("BoxDetections", "capacity", 1 << 40), "capacity of its node"),
    "strides": (attribute("GenerateProposals", "strides", [1 << 62]), "strides of its node .* from 1 to 1024"),
    "pooled": (attribute("MultilevelRoiAlign", "pooled_size", 1024), "pooled_size of its node"),
    "layout": (attribute("MultilevelRoiAlign", "layout", "HWC"), "layout of its node .* must be one of NCHW, NHWC"),
    "no UTF-8": (attribute("MultilevelRoiAlign", "layout", b"\xff"), "holds text that is no UTF-8"),
    "no names": (renamed(b"\0\xff"), "holds text that is no UTF-8"),
    "a number": (attribute("GenerateProposals", "layout", 1), "layout of its node .* is 1, it must be one of"),
    "no layout": (without_attribute("GenerateProposals", "layout"), "layout of its node .* is missing"),
    "axes": (axes("GenerateProposals"), "a map of its node .* has not four axes"),
    "a text": (attribute("MultilevelRoiAlign", "pooled_size", "x"), "pooled_size of its node"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named(name: str) -> None:
    change, message = CASES[name]
    model = onnx.load_model_from_string(serialize(small_detector()))
    change(model)
    with pytest.raises(BuildError, match=message) as caught:
        parse_graph(model.SerializeToString(), "g.onnx")
    assert str(caught.value).startswith("g.onnx ") and len(str(caught.value)) < 500


def test_what_cannot_be_laid_out_is_no_mistake_of_ours(demo_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(demo_onnx)
    for node in model.graph.node:
        kept = [one for one in node.attribute if one.name != "blocksize"]
        if node.op_type == "DepthToSpace":
            node.ClearField("attribute")
            node.attribute.extend(kept)
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(BuildError, match=r"no layout can be placed in it \(KeyError: 'blocksize'\); export it again"):
        build_engine(tmp_path / "g.onnx", "openvino", "fp32")


def test_what_is_no_graph(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe.onnx", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
    ):
        with pytest.raises(CalibrationError, match=message):
            read_graph(path, CalibrationError)
    with pytest.raises(FileNotFoundError):
        read_graph(tmp_path / "none.onnx")


def test_a_good_graph() -> None:
    data = serialize(small_detector())
    graph = parse_graph(data, "g.onnx")
    assert graph.data == data and graph.description.maps == ("u",)
    assert graph.description.to_json()["input"] == json.loads(graph.model.metadata_props[METADATA])["input"]
