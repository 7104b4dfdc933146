"""AP of every observer against FP32, with weights rounded to the nearest, with biases corrected, and with both adapted.

Differences are INT8 - FP32 in points of AP, with the 95% interval of a paired bootstrap over pictures. The data set
judges and chooses nothing: the table comes from other pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from densepose_engine import DensePoseResult, Engine
from densepose_engine.calibration.place.observers import METHODS
from densepose_engine.calibration.place.quantize import TARGETS
from densepose_engine.calibration.place.quantizer import Quantizer
from densepose_engine.calibration.table import CalibrationTable
from densepose_engine.compile.build import compile_graph, describe_int8
from densepose_engine.compile.layer_precision import int8_mac_share
from densepose_engine.evaluation.accuracy import (
    Dataset,
    Drift,
    EnginePredictor,
    Evaluation,
    Evaluator,
    GpsDefinition,
    compare,
    default_surface,
    gps_definition,
)
from densepose_engine.evaluation.drift import DriftMeter, drift_percent
from densepose_engine.model.engine_file import EngineFile
from densepose_engine.model.graph_file import read_graph

WEIGHTS: dict[str, bool | Literal["biases"]] = {"nearest": False, "biases": "biases", "adapted": True}


def score(
    file: EngineFile, dataset: Dataset, gps: GpsDefinition, reference: Sequence[DensePoseResult] | None = None
) -> tuple[Evaluation, list[DensePoseResult], Drift]:
    """AP, results (kept of a reference only), and the drift from the ``reference``'s results."""
    evaluator, meter, results = Evaluator(gps), DriftMeter(), []
    with Engine.from_file(file) as engine:
        predictor = EnginePredictor(engine)
        for index, picture in enumerate(dataset.pictures):
            found = predictor(picture)
            evaluator.add(picture, found)
            if reference is None:
                results.append(found)
            else:
                meter.add(reference[index], found)
    return evaluator.evaluation(), results, meter.drift()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path, metavar="ONNX")
    parser.add_argument("--calib", type=Path, required=True, metavar="JSON")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--surface", type=Path, metavar="FILE", help="default: surface.npz beside DIR")
    parser.add_argument("--observers", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()

    dataset = Dataset.load(arguments.data)
    if arguments.limit is not None:
        dataset = dataset.first(arguments.limit)
    gps = gps_definition("simple", surface=arguments.surface or default_surface(arguments.data))
    data, model, description = read_graph(arguments.graph)
    table = CalibrationTable.load(arguments.calib)

    exact, results, _ = score(compile_graph(model, description, "openvino", "fp32"), dataset, gps)
    size = "x".join(map(str, description.input.size or ["dynamic"]))
    print(
        f"{arguments.graph.name}, input {size}, {len(dataset.pictures)} pictures; calibrated on {table.images.count}\n"
        f"FP32: box AP {exact.box.ap:.2f}, GPS AP {exact.gps.ap:.2f}, GPSm AP {exact.gpsm.ap:.2f}\n\n"
        f"{'observer':11}{'weights':9}{'INT8':>7}  "
        f"{'box AP, points':24}{'GPS AP, points':24}{'GPSm AP, points':24}drift",
        flush=True,
    )
    rows: list[dict[str, Any]] = []
    for observer in arguments.observers:
        for weights in arguments.weights:
            quantizer = Quantizer(data, table, TARGETS["openvino"], observer, WEIGHTS[weights])
            quantized, placement = quantizer()
            described = replace(description, int8=describe_int8(quantizer, placement))
            file = compile_graph(quantized, described, "openvino", "int8")
            other, _, moved = score(file, dataset, gps, results)
            differences = compare(exact, other, moved).differences
            share = int8_mac_share(file.model.layers or ())
            cells = [differences[metric]["AP"] for metric in ("box", "gps", "gpsm")]
            texts = "".join(f"{f'{one.value:+.2f} ({one.low:+.2f} .. {one.high:+.2f})':24}" for one in cells)
            print(f"{observer:11}{weights:9}{100 * share:6.1f}%  {texts}{drift_percent(moved):.2f}%", flush=True)
            values = {
                metric: {"value": one.value, "low": one.low, "high": one.high}
                for metric, one in zip(("box", "gps", "gpsm"), cells, strict=True)
            }
            drift = {"drift_percent": drift_percent(moved), "int8_mac_share": share}
            rows.append({"observer": observer, "weights": weights, **values, **drift})
    if arguments.json is not None:
        ap = {metric: getattr(exact, metric).ap for metric in ("box", "gps", "gpsm")}
        arguments.json.write_text(
            json.dumps({"graph": arguments.graph.name, "fp32": ap, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
