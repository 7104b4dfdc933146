"""The float graph with taps: every picture gives, beside its people, the values of the tensors that are watched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from ..backends.openvino import make_core
from ..errors import BackendUnavailable, BuildError, CalibrationError, InferenceError
from ..preprocess import letterbox_size, padded_size, shortest_edge_size

# As export.graph has them, which cannot be imported without torch.
METADATA = "densepose_engine"
GRAPH_VERSION = 1


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
        try:
            import onnx
            import onnx_ir as ir

            from . import points
        except ImportError as error:
            raise BackendUnavailable(
                f"calibration needs onnx ({error}); pip install 'densepose-engine[export]' (running an engine does not)"
            ) from error
        try:
            model = ir.from_proto(onnx.load_model_from_string(graph))
            description: dict[str, Any] = json.loads(model.metadata_props[METADATA])
        except KeyError:
            raise CalibrationError(
                f"{name} was not written by 'densepose-engine export': it lacks our metadata"
            ) from None
        except Exception as error:  # protobuf, onnx_ir and json each have their own
            raise CalibrationError(
                f"{name} cannot be read as an ONNX graph ({type(error).__name__}: {error})"
            ) from error
        if description.get("graph_version") != GRAPH_VERSION:
            raise CalibrationError(
                f"{name} has graph version {description.get('graph_version')!r}, this package calibrates "
                f"{GRAPH_VERSION}: export it again with this version"
            )
        self._read_description(description, name)
        self.layers = [
            Layer(str(node.name), str(node.inputs[0].name), 1 if node.op_type == "Conv" else -1)
            for node in points.layers(model)
            if node.inputs[0] is not None
        ]
        self.tensors = points.activations(model)
        self.boxes, self.results = points.boxes(model), points.results(model)
        self._count, self._proposal_count = "count", self._add_taps(model)
        self._compile(ir.to_proto(model).SerializeToString(), name, num_threads)

    def _read_description(self, description: Mapping[str, Any], name: str) -> None:
        try:
            data, defaults, capacity = description["input"], description["defaults"], description["capacity"]
            self.input_size: tuple[int, int] | None = tuple(data["size"]) if data["size"] else None
            self._mean = np.asarray(data["mean_rgb"], np.float32).reshape(3)
            self._min_size, self._max_size = int(data["min_size"]), int(data["max_size"])
            self._divisor = int(data["divisor"])
            self.score_threshold = float(defaults["score_threshold"])
            # As Engine: a default may be above what the graph has room for.
            limits = {key: min(int(defaults[key]), int(capacity[key])) for key in ("max_people", "max_proposals")}
            self._settings = {
                "score_threshold": np.array([self.score_threshold], np.float32),
                "nms_threshold": np.array([defaults["nms_threshold"]], np.float32),
                "max_detections": np.array([limits["max_people"]], np.int32),
                "max_proposals": np.array([limits["max_proposals"]], np.int32),
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"{name} does not describe its model ({error!r}); export it again") from error

    def _add_taps(self, model: Any) -> str:
        """Make what is watched an output of the graph; returns the name of the tensor that counts proposals."""
        graph = model.graph
        inputs = {value.name for value in graph.inputs}
        values = {value.name: value for node in graph for value in node.outputs}
        proposal_count = next(node.outputs[2].name for node in graph if node.op_type == "GenerateProposals")
        outputs = {value.name for value in graph.outputs}
        sources = [layer.source for layer in self.layers]
        for name in dict.fromkeys([*self.tensors, *sources, proposal_count, *self.boxes, *self.results]):
            if name not in inputs | outputs:
                graph.outputs.append(values[name])
        return str(proposal_count)

    def _compile(self, graph: bytes, name: str, num_threads: int | None) -> None:
        core = make_core()
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        if num_threads is not None:
            config["INFERENCE_NUM_THREADS"] = num_threads
        try:
            self._request = core.compile_model(core.read_model(graph), "CPU", config).create_infer_request()
        except RuntimeError as error:
            raise BuildError(f"OpenVINO cannot compile {name}: {error}") from error

    def run(self, rgb: np.ndarray) -> tuple[int, int]:
        """Run one picture, uint8 ``[height, width, 3]``, at the graph's default thresholds.

        Returns how many people and how many proposals there were. ``values`` gives the tensors, until the next run.

        Raises:
            InferenceError: the runtime failed.
        """
        height, width = rgb.shape[:2]
        if self.input_size is not None:
            resized, padded = letterbox_size(height, width, *self.input_size), self.input_size
        else:
            resized = shortest_edge_size(height, width, self._min_size, self._max_size)
            padded = padded_size(*resized, self._divisor)
        image = np.empty((1, 3, *padded), np.float32)
        _core.preprocess(rgb, *resized, self._mean, image, layout="NCHW")
        sizes = np.array([*resized, height, width], np.int32)
        try:
            self._request.infer({"image": image, "sizes": sizes, **self._settings}, share_inputs=False)
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO failed on this picture: {error}") from error
        return int(self.values(self._count)[0]), int(self.values(self._proposal_count)[0])

    def values(self, name: str) -> np.ndarray:
        """A tensor of the last picture; borrowed until the next run."""
        return self._request.get_tensor(name).data
