"""The functions that write a graph: from files, and from a live model."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
import yaml

from densepose_engine import BackendUnavailable, CheckpointError, ConfigError, ExportError
from densepose_engine.export import export_checkpoint, export_model
from densepose_engine.export.graph import join as graph_module
from densepose_engine.export.model import DensePoseRCNN
from densepose_engine.files.output_files import OutputError

MODELS = Path(__file__).resolve().parent.parent / "models"
CONFIG, WEIGHTS = MODELS / "demo.yaml", MODELS / "demo.pth"


class LiveModel:
    """What a detectron2 model offers: a state dict with more than weights in it."""

    def __init__(self) -> None:
        self.state = dict(torch.load(WEIGHTS, weights_only=True)["model"])
        self.state["pixel_mean"] = torch.zeros(3, 1, 1)
        self.state["pixel_std"] = torch.ones(3, 1, 1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {
            name: torch.nn.Parameter(value) if value.is_floating_point() else value
            for name, value in self.state.items()
        }


class CfgNode(dict):
    """As detectron2's: a dict of dicts with attributes."""

    def __init__(self, tree: dict[str, Any]) -> None:
        super().__init__({key: CfgNode(value) if isinstance(value, dict) else value for key, value in tree.items()})

    __getattr__ = dict.__getitem__


def live_cfg() -> CfgNode:
    return CfgNode(yaml.safe_load(CONFIG.read_text(encoding="utf-8")))


def metadata(path: Path) -> dict[str, Any]:
    return json.loads({p.key: p.value for p in onnx.load(path).metadata_props}[graph_module.METADATA])


def test_a_live_model_is_exported_as_its_checkpoint_is(
    demo_onnx: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = []

    def convert(model: DensePoseRCNN, input_size: object, provenance: dict[str, Any]) -> ir.Model:
        given.append((model, input_size, provenance))
        return ir.load(demo_onnx)

    monkeypatch.setattr(graph_module, "export_graph", convert)
    export_checkpoint(CONFIG, WEIGHTS, tmp_path / "file.onnx", (320, 448))
    description = export_model(LiveModel(), live_cfg(), tmp_path / "live.onnx", (320, 448))  # type: ignore[arg-type]
    (of_file, size, provenance), (of_live, live_size, live_provenance) = given

    assert size == live_size == (320, 448)
    assert of_file.config == of_live.config
    state, live_state = of_file.state_dict(), of_live.state_dict()
    assert list(state) == list(live_state)
    assert all(torch.equal(state[name], live_state[name]) for name in state)
    name = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(state[name], LiveModel().state[name])
    assert provenance["parameters"] == live_provenance["parameters"] > 3_000_000
    assert len(live_provenance["weights"]["sha256"]) == len(live_provenance["config"]["sha256"]) == 64
    assert (tmp_path / "live.onnx").read_bytes() == (tmp_path / "file.onnx").read_bytes()
    assert metadata(tmp_path / "live.onnx") == description


def test_provenance_names_the_files_and_no_machine(demo_onnx: Path) -> None:
    provenance = metadata(demo_onnx)["provenance"]
    assert provenance["weights"] == {"name": "demo.pth", "sha256": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()}
    assert provenance["config"]["name"] == "demo.yaml"
    assert provenance["config"]["sha256"] == hashlib.sha256(CONFIG.read_bytes()).hexdigest()
    assert provenance["versions"]["torch"] == torch.__version__
    assert {"densepose-engine", "torch", "onnx"} == set(provenance["versions"])
    assert "/" not in json.dumps(provenance)


def test_a_live_hash_follows_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def stop(model: object, size: object, provenance: dict[str, Any]) -> None:
        seen.append(provenance["weights"]["sha256"])
        raise ExportError("far enough")

    monkeypatch.setattr(graph_module, "export_graph", stop)
    model = LiveModel()
    name = next(name for name in model.state if name.endswith("box_predictor.cls_score.bias"))
    for change in (0.0, 0.0, 1e-3):
        model.state[name] = model.state[name] + change
        with pytest.raises(ExportError, match="far enough"):
            export_model(model, live_cfg(), tmp_path / "x.onnx", None)  # type: ignore[arg-type]
    assert seen[0] == seen[1] != seen[2]


def test_a_failure_leaves_the_old_file_and_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise ExportError("no")

    monkeypatch.setattr(graph_module, "export_graph", fail)
    out = tmp_path / "demo.onnx"
    out.write_bytes(b"before")
    with pytest.raises(ExportError):
        export_checkpoint(CONFIG, WEIGHTS, out)
    assert out.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["demo.onnx"]


def test_a_graph_that_the_checker_refuses_is_not_written(
    demo_onnx: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> ir.Model:
        model = ir.load(demo_onnx)
        del model.opset_imports[""]
        return model

    monkeypatch.setattr(graph_module, "export_graph", broken)
    with pytest.raises(ExportError, match=r"onnx .* refuses"):
        export_checkpoint(CONFIG, WEIGHTS, tmp_path / "demo.onnx")
    assert not list(tmp_path.iterdir())


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    out = tmp_path / "demo.onnx"
    with pytest.raises(ConfigError, match=r"gone\.yaml"):
        export_checkpoint(tmp_path / "gone.yaml", WEIGHTS, out)
    with pytest.raises((CheckpointError, FileNotFoundError), match=r"gone\.pth"):
        export_checkpoint(CONFIG, tmp_path / "gone.pth", out)
    with pytest.raises(ConfigError, match=r"MODEL\.NOPE"):
        export_checkpoint(CONFIG, WEIGHTS, out, None, ["MODEL.NOPE", "1"])
    with pytest.raises(CheckpointError, match="of another shape"):
        export_checkpoint(CONFIG, WEIGHTS, out, None, ["MODEL.ROI_BOX_HEAD.CONV_DIM", "128"])
    with pytest.raises(ExportError, match="multiples of 32"):
        export_checkpoint(CONFIG, WEIGHTS, out, (320, 450))
    with pytest.raises(TypeError, match="cfg must be a mapping"):
        export_model(LiveModel(), None, out)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written(demo_onnx: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(graph_module, "export_graph", lambda *_: ir.load(demo_onnx))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*demo\.onnx"):
        export_checkpoint(CONFIG, WEIGHTS, tmp_path / "file" / "demo.onnx")


@pytest.mark.parametrize("missing", ["torch", "onnx", "onnx_ir", "onnxscript", "yaml"])
def test_without_a_runtime_the_way_out_is_said(missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BackendUnavailable, match=rf"needs {missing}.*pip install 'densepose-engine\[export\]'"):
        export_checkpoint(CONFIG, WEIGHTS, tmp_path / "demo.onnx")


def test_importing_the_entry_imports_no_runtime(tmp_path: Path) -> None:
    code = (
        "import sys, densepose_engine.export; "
        "print([m for m in ('torch', 'onnx', 'onnx_ir', 'onnxscript', 'yaml') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
