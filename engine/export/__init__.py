"""From a detectron2 checkpoint, or a live detectron2 model, to ``graph.onnx``.

Importing this imports neither torch nor onnx; exporting needs both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, ExportError, require
from ..files.output_files import atomic_output
from ..files.recognize import CHECKPOINT, CONFIG, PICKLE, refuse_other

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from .config.model_config import ModelConfig

#: What a graph can be made of.
CUSTOM_OPS, STANDARD_OPS = OPS = ("custom", "standard")
_NEEDED = ("torch", "onnx", "onnx_ir", "onnxscript", "yaml")


def export_checkpoint(
    config: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str],
    input_size: tuple[int, int] | None = None,
    overrides: Sequence[str] = (),
    *,
    ops: str = CUSTOM_OPS,
    on_stage: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write the graph of a detectron2 configuration and its checkpoint.

    Args:
        config: detectron2's YAML; its ``_BASE_`` files are read too.
        weights: the checkpoint, ``.pth`` or detectron2's ``.pkl``.
        output: the ONNX file; replaced in one step, and only if everything succeeded.
        input_size: (height, width) of the network's input, multiples of 32; None for any size.
        overrides: KEY, VALUE, KEY, VALUE ... over the configuration, as on detectron2's command line.
        ops: "custom" for a graph with our operators, which engines are built from; "standard" for the same network in
            plain ONNX operators, which any runtime runs, more slowly.
        on_stage: told what is being done, for a progress display.

    Returns:
        What the graph says of itself: architecture, input, defaults, capacity, provenance.

    Raises:
        ConfigError: the configuration cannot be read, or asks for what cannot be exported; names the key.
        CheckpointError: the checkpoint cannot be read, or does not fit the configuration; names every weight.
        ExportError: torch cannot convert the model, or ``input_size`` is not usable.
        BackendUnavailable: torch or onnx is not installed.
        OutputError: ``output`` cannot be written.
        ValueError: there are no such ``ops``.
    """
    if ops not in OPS:
        raise ValueError(f"ops must be {' or '.join(OPS)}, not {ops!r}")
    refuse_other(config, CONFIG)
    refuse_other(weights, CHECKPOINT, PICKLE)
    _require_runtimes()
    from .checkpoint.load import load_checkpoint
    from .config.model_config import load_config

    stage = on_stage or _ignore
    stage("reading the configuration and the checkpoint")
    model_config = load_config(Path(config), overrides)
    arrays = load_checkpoint(Path(weights))
    provenance = {
        "config": {"name": Path(config).name, "sha256": _sha256_of_file(config), "overrides": list(overrides)},
        "weights": {"name": Path(weights).name, "sha256": _sha256_of_file(weights)},
    }
    return _export(model_config, arrays, Path(output), input_size, provenance, stage, ops)


def network(config: str | os.PathLike[str] | ModelConfig) -> nn.Module:
    """The network of a configuration in torch, in evaluation mode, with random weights and detectron2's names.

    Of a configuration of DensePoseFnL's first generation the names are that generation's. ``network.backbone(x)`` gives
    the levels p2 to p6 by name, each ``(1, C, H / stride, W / stride)``, of a normalized float32 picture
    ``(1, 3, H, W)`` with H and W multiples of 32; the other parts are methods of
    :class:`~densepose_engine.export.model.DensePoseRCNN`. Embeddings of vertices are zeros.

    Args:
        config: path of detectron2's YAML, or what ``export.config.load_config`` made of it.

    Raises:
        ConfigError: the configuration cannot be read, or asks for what cannot be built; names the key.
        BackendUnavailable: torch is not installed.

    >>> import torch
    >>> model = network("demo.yaml")
    >>> model.backbone(torch.zeros(1, 3, 64, 96))["p2"].shape
    torch.Size([1, 64, 16, 24])
    """
    _require("torch", "yaml")
    from .config.model_config import ModelConfig, load_config
    from .model import DensePoseRCNN

    return DensePoseRCNN(config if isinstance(config, ModelConfig) else load_config(Path(config)))


def export_model(
    model: nn.Module,
    cfg: Mapping[str, Any],
    output: str | os.PathLike[str],
    input_size: tuple[int, int] | None = None,
    *,
    on_stage: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The same for a model that lives in detectron2: its ``state_dict()`` and its ``cfg`` (a ``CfgNode``) are read.

    The model itself is neither run nor changed, and may be on any device.
    """
    _require_runtimes()
    from .config.model_config import config_from_mapping

    if not isinstance(cfg, Mapping):
        raise TypeError(f"cfg must be a mapping such as detectron2's CfgNode, not {type(cfg).__name__}")
    stage = on_stage or _ignore
    stage("reading the model")
    model_config = config_from_mapping(cfg)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    provenance = {
        "config": {"name": "live configuration", "sha256": _sha256_of_mapping(cfg), "overrides": []},
        "weights": {"name": "live model", "sha256": _sha256_of_state(state)},
    }
    return _export(model_config, state, Path(output), input_size, provenance, stage)


def _export(
    config: ModelConfig,
    weights: Mapping[str, Tensor | np.ndarray],
    output: Path,
    input_size: tuple[int, int] | None,
    provenance: dict[str, Any],
    stage: Callable[[str], None],
    ops: str = CUSTOM_OPS,
) -> dict[str, Any]:
    import onnx
    import onnx_ir as ir
    import torch

    from ..model.graph_file import read_description
    from .checkpoint.load import load_weights
    from .graph.join import export_graph
    from .model import DensePoseRCNN

    model = DensePoseRCNN(config)
    load_weights(model, weights)
    provenance = {
        **provenance,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": {"densepose-engine": _own_version(), "torch": torch.__version__, "onnx": onnx.__version__},
    }
    stage("converting the model to ONNX")
    exported = export_graph(model, input_size, provenance)
    if ops == STANDARD_OPS:
        from .graph.standard import expand_custom_nodes

        expand_custom_nodes(exported)
    stage("checking and writing the graph")
    proto = ir.to_proto(exported)
    try:
        onnx.checker.check_model(proto)
        data = proto.SerializeToString(deterministic=True)
    except Exception as error:  # onnx and protobuf each have their own, a graph above 2 GB among the reasons
        raise ExportError(f"onnx {onnx.__version__} refuses the graph: {error}") from error
    with atomic_output(output) as temporary:
        temporary.write_bytes(data)
    return read_description(exported.metadata_props).to_json()


def _require_runtimes() -> None:
    _require(*_NEEDED)


def _require(*names: str) -> None:
    for name in names:
        require(name, "export", "exporting")


def _ignore(stage: str) -> None:
    pass


def _own_version() -> str:
    try:
        return version("densepose-engine")
    except PackageNotFoundError:
        return "unknown"


def _sha256_of_file(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sha256_of_mapping(cfg: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(cfg, sort_keys=True, default=str)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the configuration is not made of plain values: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256_of_state(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
