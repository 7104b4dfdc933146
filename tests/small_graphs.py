"""Graphs of a few nodes, written down in a few lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


class Sketch:
    """A graph that grows by one node per call; every node is called as its output."""

    def __init__(self, channels: int = 4, side: int = 6) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": 20, "densepose": 1}, name="sketch")
        self.model = ir.Model(self.graph, ir_version=10)
        self.channels, self.side = channels, side
        self.rng = np.random.default_rng(7)

    def input(self, name: str, shape: list[Any] | None = None, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        shape = [1, self.channels, self.side, self.side] if shape is None else shape
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(array.astype(np.float32), name=name))
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(array.shape)
        self.graph.initializers[name] = value
        return value

    def node(
        self,
        op: str,
        inputs: list[ir.Value],
        name: str,
        shape: list[Any] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes, domain=domain, name=name)
        output = node.outputs[0]
        output.name, output.dtype = name, ir.DataType.FLOAT
        output.shape = ir.Shape([1, self.channels, self.side, self.side] if shape is None else shape)
        self.graph.append(node)
        return output

    def conv(self, source: ir.Value, name: str, weight: np.ndarray | None = None, bias: bool = False) -> ir.Value:
        """A 1x1 convolution, unless ``weight`` is a larger one, which is padded."""
        if weight is None:
            weight = self.rng.standard_normal((self.channels, self.channels, 1, 1))
        pad = weight.shape[-1] // 2
        inputs = [source, self.constant(f"{name}.weight", weight)]
        if bias:
            inputs.append(self.constant(f"{name}.bias", self.rng.standard_normal(len(weight))))
        groups = self.channels // weight.shape[1]
        shape = [1, len(weight), self.side, self.side]
        return self.node("Conv", inputs, name, shape, pads=[pad] * 4, group=groups)

    def relu(self, source: ir.Value, name: str) -> ir.Value:
        return self.node("Relu", [source], name)

    def roi_align(self, levels: list[ir.Value], boxes: ir.Value, count: ir.Value, name: str) -> ir.Value:
        attributes = {
            "strides": [4 << k for k in range(len(levels))],
            "pooled_size": 2,
            "sampling_ratio": 2,
            "aligned": 1,
        }
        attributes |= {"canonical_box_size": 224, "canonical_level": 4, "layout": "NCHW", "zero_point": 0}
        shape = ["n", self.channels, 2, 2]
        return self.node("MultilevelRoiAlign", [*levels, boxes, count], name, shape, "densepose", **attributes)

    def boxes(self) -> tuple[ir.Value, ir.Value]:
        return self.input("boxes", ["n", 4]), self.input("count", [1], ir.DataType.INT32)

    def output(self, *values: ir.Value) -> ir.Model:
        self.graph.outputs.extend(values)
        return self.model

    def proto(self) -> bytes:
        return ir.to_proto(self.model).SerializeToString()
