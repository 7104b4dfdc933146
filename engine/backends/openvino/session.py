"""Running a compiled graph: in sections, where it was cut, or as a whole."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ...errors import InferenceError
from ...model.custom_ops import BOX_DETECTIONS, SETTINGS
from .. import LayerTime
from ..forked import keep_in_child
from ..request_pool import RequestPool
from .sections import ANY_ROWS, Head, Sections, plan_rows


def first_lines(error: Exception, most: int = 6) -> str:
    """OpenVINO's messages are long and end with where in its source they arose."""
    return " / ".join(line.strip() for line in str(error).splitlines()[:most] if line.strip())


class _Model:
    """An infer request, and how often it ran."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()
        self.count = np.zeros(1, np.int32)  # of rows, for a head
        self.runs = 0

    def run(self) -> None:
        self.request.infer(share_outputs=True)  # or else it copies all of them
        self.runs += 1

    def settings(self) -> dict[str, np.ndarray]:
        """The small inputs, by name; asked for once, because each question costs as much as a small layer."""
        return {
            name: self.request.get_tensor(port).data
            for port in self.compiled.inputs
            for name in port.get_names()
            if name != "image"
        }


class _OpenvinoRequest:
    """See ``backends.Request``. ``first``, compiled, takes the image and begins every run."""

    def __init__(self, first: Any, layout: str) -> None:
        self._first = _Model(first)
        self._layout = layout
        self._settings = {name: [array] for name, array in self._first.settings().items()}
        self._last: Mapping[str, float | Sequence[int]] = {}
        self._image = np.zeros(0)

    def image(self, height: int, width: int) -> np.ndarray:
        shape = (1, height, width, 3) if self._layout == "NHWC" else (1, 3, height, width)
        if self._image.shape != shape:
            self._image = np.zeros(0)  # whoever is interrupted here must not leave memory that was given back
            tensor = self._first.request.get_tensor("image")
            tensor.shape = shape
            self._image = tensor.data
        return self._image

    def run(self, inputs: Mapping[str, float | Sequence[int]]) -> dict[str, np.ndarray]:
        if inputs != self._last:  # mostly they are those of the frame before
            self._last = {}  # whoever is interrupted here leaves some of each
            for name, value in inputs.items():
                for array in self._settings[name]:
                    array[:] = value
            self._last = dict(inputs)
        try:
            return self._run()
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO failed on this picture: {first_lines(error)}") from error

    def _run(self) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def models(self) -> list[_Model]:
        return [self._first]

    def profile(self) -> list[LayerTime]:
        frames = self._first.runs
        found: dict[str, LayerTime] = {}
        # OpenVINO tells a layer's mean over all requests of its model; a head has a model for every size.
        requests: dict[int, list[_Model]] = {}
        for model in self.models():
            requests.setdefault(id(model.compiled), []).append(model)
        for models in requests.values():
            runs = sum(model.runs for model in models)
            for layer in models[0].request.profiling_info if runs else ():
                before = found[layer.node_name].milliseconds if layer.node_name in found else 0.0
                mean = 1e3 * layer.real_time.total_seconds() * runs / frames
                found[layer.node_name] = LayerTime(layer.node_name, layer.node_type, layer.exec_type, before + mean)
        return list(found.values())


class _WholeRequest(_OpenvinoRequest):
    def __init__(self, compiled: Any, layout: str) -> None:
        super().__init__(compiled, layout)
        self._names = [port.get_any_name() for port in compiled.outputs]

    def _run(self) -> dict[str, np.ndarray]:
        self._first.run()
        return {name: self._first.request.get_output_tensor(i).data for i, name in enumerate(self._names)}


class _Head:
    """A head's boxes, its outputs' rows in one array each, and a model for each range of rows that was asked for."""

    def __init__(self, head: Head, capacity: int) -> None:
        self._compiled = head.models
        self._sizes = tuple(head.models)
        self._levels = head.levels
        first = next(iter(head.models.values()))
        # Memory is the system's until somebody writes to it, so room for all people costs nothing.
        self.boxes = np.zeros((capacity, 4), np.float32)
        self.outputs = [
            np.empty((capacity, *(side.get_length() for side in list(port.get_partial_shape())[1:])), np.float32)
            for port in first.outputs
        ]
        self._features: list[Any] = []
        self._models: dict[tuple[int, int], _Model] = {}

    def models(self) -> list[_Model]:
        """What has been run."""
        return list(self._models.values())

    def bind(self, levels: Sequence[Any]) -> None:
        """``levels``: the trunk's output tensors."""
        self._features = [levels[number] for number in self._levels]
        for model in self.models():
            self._bind_features(model)

    def run(self, rows: int) -> None:
        """The first ``rows`` of ``outputs``, from those of ``boxes``."""
        for start, size in plan_rows(rows, self._sizes):
            model = self._model(start, size)
            model.count[0] = min(size, rows - start)
            model.run()

    def _model(self, start: int, size: int) -> _Model:
        # What a model reads and writes never changes: to tell it again each time would cost as much as a small layer.
        # Only one for any number of rows has to be told how many.
        any_rows = ANY_ROWS in self._sizes
        key = (0, ANY_ROWS) if any_rows else (start, size)
        known = self._models.get(key)
        if known is not None and not any_rows:
            return known
        model = known or _Model(self._compiled[key[1]])
        if known is None:
            self._bind_features(model)
            model.request.set_input_tensor(len(self._levels) + 1, _share(model.count))
        model.request.set_input_tensor(len(self._levels), _share(self.boxes[start : start + size]))
        for index, output in enumerate(self.outputs):
            model.request.set_output_tensor(index, _share(output[start : start + size]))
        self._models[key] = model  # only now: whoever is interrupted above leaves none that is half bound
        return model

    def _bind_features(self, model: _Model) -> None:
        for index, feature in enumerate(self._features):
            model.request.set_input_tensor(index, feature)


class _SectionedRequest(_OpenvinoRequest):
    def __init__(self, sections: Sections, layout: str) -> None:
        super().__init__(sections.trunk, layout)
        self._detections = sections.detections
        self._detection_settings: dict[str, np.ndarray] = {
            name: np.zeros(one.length, one.dtype) for name, one in _DETECTION_SETTINGS.items()
        }
        for name, array in self._detection_settings.items():
            self._settings.setdefault(name, []).append(array)
        self._detecting = 0.0  # seconds, of all runs
        self._box = _Head(sections.box, sections.capacity)
        self._people = _Head(sections.people, sections.detections.attributes["capacity"])
        self._names, self._detected = sections.maps, sections.detected
        self._proposal_count = np.zeros(1, np.int32)
        for index, array in enumerate((self._box.boxes, self._proposal_count)):
            self._first.request.set_output_tensor(index, _share(array))
        self._fixed = not any(port.get_partial_shape().is_dynamic for port in sections.trunk.outputs)
        if self._fixed:
            self._bind()

    def models(self) -> list[_Model]:
        return [*super().models(), *self._box.models(), *self._people.models()]

    def profile(self) -> list[LayerTime]:
        mean = 1e3 * self._detecting / max(self._first.runs, 1)
        return [*super().profile(), LayerTime("detections/BoxDetections", "BoxDetections", "densepose_engine", mean)]

    def _bind(self) -> None:
        levels = [self._first.request.get_output_tensor(i) for i in range(2, len(self._first.compiled.outputs))]
        for head in (self._box, self._people):
            head.bind(levels)

    def _run(self) -> dict[str, np.ndarray]:
        self._first.run()
        if not self._fixed:  # levels of another size lie elsewhere
            self._bind()
        self._box.run(int(self._proposal_count[0]))
        detected = self._detect()
        people = int(detected["count"][0])
        self._people.run(people)
        outputs = {name: detected[name] if name == "count" else detected[name][:people] for name in self._detected}
        for name, array in zip(self._names, self._people.outputs, strict=True):
            outputs[name] = array[:people]
        return outputs

    def _detect(self) -> dict[str, np.ndarray]:
        """All that BoxDetections says, by its roles."""
        begin = time.perf_counter()
        settings = self._detection_settings.values()
        proposals = (*self._box.outputs, self._box.boxes, self._proposal_count)
        detected = BOX_DETECTIONS.by_role(self._detections(*proposals, *settings))
        self._people.boxes[:] = detected["boxes_network"]
        self._detecting += time.perf_counter() - begin
        return detected


# In the order of the op's inputs.
_DETECTION_SETTINGS = {role: SETTINGS[role] for role in BOX_DETECTIONS.inputs if role in SETTINGS}


def _share(array: np.ndarray) -> Any:
    return importlib.import_module("openvino").Tensor(array, shared_memory=True)


class OpenvinoSession:
    """See ``backends.Session``."""

    def __init__(self, compiled: Any, num_requests: int) -> None:
        """``compiled``: ``Sections`` of compiled models, or the whole graph as one."""
        first = compiled.trunk if isinstance(compiled, Sections) else compiled
        takes_bytes = first.input("image").get_element_type() == importlib.import_module("openvino").Type.u8
        self.image_layout = "NHWC" if takes_bytes else "NCHW"
        make: type[_OpenvinoRequest] = _SectionedRequest if isinstance(compiled, Sections) else _WholeRequest
        self._pool = RequestPool(make(compiled, self.image_layout) for _ in range(num_requests))
        keep_in_child(self)

    def request(self) -> AbstractContextManager[_OpenvinoRequest]:
        return self._pool.request()

    def close(self) -> None:
        self._pool.close()

    def disown(self) -> None:
        """See ``forked.Inherited``."""
        self._pool.disown()
