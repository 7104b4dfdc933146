"""From a configuration to two engines, with weights that are made up: times, sizes and MACs need no trained ones."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .networks import PROPOSALS, ROOT, Network
from .state import PRECISIONS, PREPARED, State, digest

if TYPE_CHECKING:
    from torch import Tensor, nn

PICTURES = ROOT / "models" / "calibration"
_WEIGHTS = ROOT / "tests" / "weights.py"
_OBSERVER = "minmax"  # ranges do not change a time, and these are the quickest
#: What decides how an engine comes out. A change there is worth a warning, not hours of work for a comment.
_SOURCES = ("engine/export", "engine/compile", "engine/backends/openvino", "calibration/collect", "calibration/place")

# The last layers before boxes and scores are all but silent, so that proposals are anchors, and the biases of the box
# deltas are beyond their limit: every network finds people as large as the picture. What it costs to pool and to decode
# them would else depend on what made-up weights happen to find.
_SILENT = ("rpn_head.anchor_deltas.", "box_predictor.cls_score.", "box_predictor.bbox_pred.")
_SILENCE, _GROWTH = 1e-6, 25.0

WEIGHTS_NOTE = (
    "Weights are made up, the same on every machine (by parameter name, tests/weights.py), not trained: activations "
    "may grow far beyond a trained network's. They are set so that all networks find the same: people as large as the "
    "picture. Times, sizes and MACs are the architecture's."
)


def calibration_pictures(count: int) -> list[Path]:
    """The first ``count`` pictures of models/calibration, in the order of their names; the first is what is timed.

    Raises ``ValueError`` where there are fewer.
    """
    found = sorted(PICTURES.glob("*.jpg"))[:count]
    if count < 1 or len(found) < count:
        raise ValueError(f"{PICTURES} has {len(found)} pictures, so that {count} cannot be calibrated on")
    return found


@lru_cache(maxsize=1)
def sources() -> str:
    """A digest of the code that makes engines."""
    return digest([path for folder in _SOURCES for path in (ROOT / folder).rglob("*.py")], ROOT)


def inputs(network: Network, pictures: int) -> dict[str, Any]:
    """All that a prepared network depends on, but the code (see :func:`sources`)."""
    return {
        "configuration": digest([network.configuration], ROOT),
        "overrides": list(network.overrides),
        "size": list(network.size),
        "weights": [digest([_WEIGHTS], ROOT), _SILENCE, _GROWTH],
        "pictures": digest(calibration_pictures(pictures), ROOT),
        "observer": _OBSERVER,
        "versions": {name: version(name) for name in ("densepose-engine", "openvino")},
    }


def made_up_weights(model: nn.Module) -> dict[str, Tensor]:
    """A complete state dict for ``model``, the same on every machine."""
    spec = importlib.util.spec_from_file_location("deterministic_weights", _WEIGHTS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state: dict[str, Tensor] = module.state_dict(model)
    for name, values in state.items():
        if any(part in name for part in _SILENT):
            values *= _SILENCE
        if name.endswith("box_predictor.bbox_pred.bias"):
            values.view(-1, 4)[:, 2:] = _GROWTH  # logarithms of width and height
    return state


def prepare(network: Network, state: State, pictures: int) -> None:
    """Export, calibrate, build FP32 and INT8, and write the row; what a failure leaves, the next try replaces."""
    import onnx_ir as ir

    from densepose_engine.calibration.collect.activations import collect
    from densepose_engine.compile.build import Int8Options, build_engine
    from densepose_engine.compile.layer_precision import float_layers, int8_mac_share
    from densepose_engine.export.config.model_config import load_config
    from densepose_engine.export.graph.join import export_graph
    from densepose_engine.export.model import DensePoseRCNN
    from densepose_engine.model.engine_file import write_engine_file
    from densepose_engine.pictures.find import find_pictures

    begin = time.monotonic()
    folder = state.of(network)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{PREPARED}.json").unlink(missing_ok=True)
    model = DensePoseRCNN(load_config(network.configuration, list(network.overrides)))
    model.load_state_dict(made_up_weights(model), strict=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    graph, table = folder / "graph.onnx", folder / "graph.calib.json"
    try:
        ir.save(export_graph(model, network.size, {"weights": "made up, by tests/weights.py"}), graph)
        del model
        found = collect(graph, find_pictures(calibration_pictures(pictures)), count=pictures, min_people=1)
        found.save(table)
        layers, hashes = {}, {}
        for precision in PRECISIONS:
            int8 = Int8Options(table, _OBSERVER, adapt_weights=False) if precision == "int8" else None
            built = build_engine(graph, "openvino", precision, int8=int8)
            path = state.engine(network, precision)
            write_engine_file(path, built)
            hashes[precision] = hashlib.sha256(path.read_bytes()).hexdigest()
            layers[precision] = built.model.layers or ()
    finally:
        graph.unlink(missing_ok=True)
        table.unlink(missing_ok=True)
    remarks = []
    if found.proposals < PROPOSALS * pictures:
        remarks.append(f"only {found.proposals} proposals in {pictures} pictures, where each should have {PROPOSALS}")
    row = {
        "inputs": inputs(network, pictures),
        "sources": sources(),
        "parameters": parameters,
        "gmac": _gmac((layer.stage, layer.macs) for layer in layers["fp32"]),
        "int8_share": int8_mac_share(layers["int8"]),
        "float_gmac": _gmac((str(layer.reason), layer.macs) for layer in float_layers(layers["int8"])),
        "engine_bytes": {name: state.engine(network, name).stat().st_size for name in PRECISIONS},
        "engine_sha256": hashes,
        "remarks": remarks,
        "seconds": round(time.monotonic() - begin, 1),
    }
    state.write(network, PREPARED, row)


def _gmac(parts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Sums of MACs by what they belong to, in units of 1e9."""
    sums: dict[str, float] = {}
    for name, macs in parts:
        sums[name] = sums.get(name, 0.0) + macs / 1e9
    return sums
