"""From ``graph.onnx`` to an engine: placement for the target, then the vendor's own compiler."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .backends import backend_module
from .engine_file import EngineFile
from .errors import BackendUnavailable, BuildError


def build_engine(graph: str | os.PathLike[str], backend: str = "openvino", precision: str = "fp32") -> EngineFile:
    """Compile the graph that ``export`` wrote.

    Args:
        graph: path of the ONNX file.
        backend: "openvino".
        precision: "fp32" (exact), or "bf16" where the processor has it (faster, about 3 significant digits).

    Raises:
        FileNotFoundError: there is no such file.
        BuildError: it is no graph of ours, or the vendor's compiler refuses it.
        BackendUnavailable: the vendor's runtime, or what reads the graph, is not installed.
    """
    path = Path(graph)
    module = backend_module(backend)
    if precision not in module.PRECISIONS:
        raise BuildError(f"the {backend} backend builds {', '.join(module.PRECISIONS)}, not {precision}")
    try:
        import onnx
        import onnx_ir as ir
    except ImportError as error:
        raise BackendUnavailable(
            f"building needs onnx ({error}); pip install 'densepose-engine[export]' (running an engine does not)"
        ) from error
    from .export.graph import GRAPH_VERSION, METADATA
    from .export.layout import place_nhwc

    if path.is_dir():
        raise BuildError(f"{path} is a folder; give the ONNX file that 'densepose-engine export' wrote")
    try:
        model = ir.from_proto(onnx.load_model_from_string(path.read_bytes()))
        description: dict[str, Any] = json.loads(model.metadata_props[METADATA])
    except FileNotFoundError:
        raise
    except KeyError:
        raise BuildError(f"{path} was not written by 'densepose-engine export': it lacks our metadata") from None
    except Exception as error:  # protobuf, onnx_ir and json each have their own
        raise BuildError(f"{path} cannot be read as an ONNX graph ({type(error).__name__}: {error})") from error
    if description.get("graph_version") != GRAPH_VERSION:
        raise BuildError(
            f"{path} has graph version {description.get('graph_version')!r}, this package builds {GRAPH_VERSION}: "
            "export it again with this version"
        )
    place_nhwc(model)
    payload, runtime = module.build(ir.to_proto(model).SerializeToString(), precision)
    return EngineFile(backend=backend, precision=precision, model=description, runtime=runtime, payload=payload)
