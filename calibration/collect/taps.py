"""The float graph with taps: every picture gives, beside its people, the values of the tensors that are watched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import _core
from ...backends.openvino import make_core
from ...backends.openvino.device import CPU
from ...errors import BuildError, CalibrationError, InferenceError
from ...model.custom_ops import GENERATE_PROPOSALS, SETTINGS
from ...model.frame import FrameSize
from ...model.graph_file import parse_graph


@dataclass(frozen=True)
class Layer:
    """A layer with weights: its node's name, the tensor that it reads, and which axis of that counts its inputs."""

    name: str
    source: str
    axis: int


class TappedGraph:
    """A graph that ``export`` wrote, compiled in float32, whose inner tensors can be read after each picture.

    ``tensors``: names of what to make histograms of; ``layers``: what to take mean inputs of; ``boxes``: what RoIAligns
    read beside maps; ``results``: what layers give to other nodes than layers, and to the user. All watched tensors of
    one picture are in memory together: some 150 MB at 320x448, in proportion to the number of pixels.
    """

    def __init__(self, graph: bytes, name: str, num_threads: int | None = None) -> None:
        """Read and compile the ONNX file's bytes; ``name`` is what messages call it.

        Raises:
            CalibrationError: it is no graph of ours, or of another version.
            BackendUnavailable: OpenVINO, or what reads the graph, is not installed.
            BuildError: OpenVINO refuses it.
        """
        _, model, description = parse_graph(graph, name, CalibrationError, "calibration")
        import onnx_ir as ir

        from ..place import points

        self._network = description.input
        self._mean = np.asarray(description.input.mean_rgb, np.float32)
        self.score_threshold = description.defaults.score_threshold
        settings = description.defaults.within(description.capacity)
        self._settings = {key: np.asarray([value], SETTINGS[key].dtype) for key, value in settings.graph_inputs.items()}
        self.layers = [
            Layer(str(node.name), str(node.inputs[0].name), 1 if node.op_type == "Conv" else -1)
            for node in points.layers(model)
            if node.inputs[0] is not None
        ]
        self.tensors = points.activations(model)
        self.boxes, self.results = points.boxes(model), points.results(model)
        self._count, self._proposal_count = "count", self._add_taps(model, name)
        self._compile(ir.to_proto(model).SerializeToString(), name, num_threads)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) of a static graph's input, None for a dynamic one."""
        return self._network.size

    def _add_taps(self, model: Any, name: str) -> str:
        """Make what is watched an output of the graph; returns the name of the tensor that counts proposals."""
        graph = model.graph
        inputs = {value.name for value in graph.inputs}
        values = {value.name: value for node in graph for value in node.outputs}
        proposing = next((node for node in graph if GENERATE_PROPOSALS.matches(node)), None)
        if proposing is None:
            raise CalibrationError(f"{name} has no node {GENERATE_PROPOSALS.name}; export it again, with custom ops")
        proposal_count = GENERATE_PROPOSALS.output(proposing.outputs, "count").name
        outputs = {value.name for value in graph.outputs}
        sources = [layer.source for layer in self.layers]
        for tensor in dict.fromkeys([*self.tensors, *sources, proposal_count, *self.boxes, *self.results]):
            if tensor not in inputs | outputs:
                graph.outputs.append(values[tensor])
        return str(proposal_count)

    def _compile(self, graph: bytes, name: str, num_threads: int | None) -> None:
        core = make_core()
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        if num_threads is not None:
            config["INFERENCE_NUM_THREADS"] = num_threads
        try:
            self._request = core.compile_model(core.read_model(graph), CPU.name, config).create_infer_request()
        except RuntimeError as error:
            raise BuildError(f"OpenVINO cannot compile {name}: {error}") from error

    def run(self, rgb: np.ndarray) -> tuple[int, int]:
        """Run one picture, uint8 ``[height, width, 3]``, at the graph's default thresholds.

        Returns how many people and how many proposals there were. ``values`` gives the tensors, until the next run.

        Raises:
            InferenceError: the runtime failed.
        """
        size = FrameSize.of(rgb.shape[0], rgb.shape[1], self._network)
        image = np.empty((1, 3, *size.padded), np.float32)
        _core.preprocess(rgb, *size.resized, self._mean, image, layout="NCHW")
        sizes = np.array(size.graph_input, SETTINGS["sizes"].dtype)
        try:
            self._request.infer({"image": image, "sizes": sizes, **self._settings}, share_inputs=False)
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO failed on this picture: {error}") from error
        return int(self.values(self._count)[0]), int(self.values(self._proposal_count)[0])

    def values(self, name: str) -> np.ndarray:
        """A tensor of the last picture; borrowed until the next run."""
        return self._request.get_tensor(name).data
