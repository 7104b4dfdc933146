"""Every stage of every exported architecture, in OpenVINO, against the real detectron2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_stages import graph_maps, graph_stage_outputs
from stages import TOLERANCE, model_with_weights, relative_errors
from test_models_oracle import GENERATION_1, STAGED, check_vertices, stage_count
from vertex_stages import searched

from densepose_engine.export.graph.join import export_graph


@pytest.mark.parametrize("size", [(512, 640), None], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", [*STAGED, *GENERATION_1])
def test_every_stage_of_the_graph(shared: Path, name: str, size: tuple[int, int] | None) -> None:
    folder = shared / "oracle" / ("gen1" if name in GENERATION_1 else "")
    model = model_with_weights(folder / f"keys/{name}.yaml")
    with np.load(folder / f"stages/{name}.npz") as file:
        stages = dict(file)
    graph = export_graph(model, size, {})
    outputs = graph_stage_outputs(graph, model.config, stages["image"], stages["boxes"])
    errors = relative_errors(outputs, stages)
    print(name, size, {stage: f"{error:.1e}" for stage, error in errors.items()})
    assert len(errors) == stage_count(stages)
    assert max(errors.values()) < TOLERANCE, errors
    if searched(stages):
        check_vertices(model, graph_maps(graph, outputs["densepose_pooled"]), stages)
