"""ONNX Runtime behind the backends' protocol, for graphs of standard operators: a peer, not a backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..backends import LayerTime
from ..errors import BackendUnavailable, InferenceError, require


class OnnxruntimeRequest:
    """See ``backends.Request``."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]
        self._types = {
            port.name: np.int32 if port.type == "tensor(int32)" else np.float32 for port in session.get_inputs()
        }
        self._image = np.zeros((1, 3, 0, 0), np.float32)

    def image(self, height: int, width: int) -> np.ndarray:
        if self._image.shape[2:] != (height, width):
            self._image = np.zeros((1, 3, height, width), np.float32)
        return self._image

    def run(self, inputs: Mapping[str, float | Sequence[int]]) -> dict[str, np.ndarray]:
        settings = {name: np.atleast_1d(np.asarray(value, self._types[name])) for name, value in inputs.items()}
        try:
            outputs = self._session.run(self._names, {"image": self._image, **settings})
        except Exception as error:  # onnxruntime has a class of its own for every status
            raise InferenceError(f"ONNX Runtime failed on this picture: {str(error).splitlines()[0]}") from error
        return dict(zip(self._names, outputs, strict=True))

    def profile(self) -> list[LayerTime]:
        raise NotImplementedError("layers are timed in engines only")


class OnnxruntimeSession:
    """See ``backends.Session``; one caller at a time."""

    image_layout = "NCHW"

    def __init__(self, graph: bytes, threads: int) -> None:
        runtime = require("onnxruntime", purpose="this peer")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Its threads spin for work, which is fast; they must not go on with it while it is another's turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            message = str(error).splitlines()[0]
            raise BackendUnavailable(f"ONNX Runtime {runtime.__version__} refuses the graph: {message}") from error
        self.version: str = runtime.__version__
        self._request = OnnxruntimeRequest(session)

    @contextmanager
    def request(self) -> Iterator[OnnxruntimeRequest]:
        yield self._request

    def close(self) -> None:
        del self._request
