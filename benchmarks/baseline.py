"""An engine against the paper's baseline: DensePose R-CNN with ResNet-50-FPN (s1x) in eager torch, at both sizes.

The baseline has random weights (its time does not depend on them) and looks for nobody: its DensePose head, which is
large, does not run, so the ratio is a lower bound. It is the configuration in tests/data/keys, with its default of 1000
proposals; of both, the whole frame is timed, in turns.

    python benchmarks/baseline.py demo_320x448.int8.engine demo_800x1088.int8.engine --threads 2
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densepose_engine import Engine
from densepose_engine.benchmarking.bench import noise_frame
from densepose_engine.benchmarking.machine import Watch, describe_machine, usable_cores
from densepose_engine.benchmarking.timing import Effort, interleave, pair_ratios
from densepose_engine.benchmarking.torch_pipeline import TorchPipeline
from densepose_engine.export.config.model_config import load_config
from densepose_engine.export.model import DensePoseRCNN

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "tests" / "data" / "keys" / "densepose_rcnn_R_50_FPN_s1x.yaml"


def baseline_model(config: Path) -> DensePoseRCNN:
    """With random weights that keep activations in range through fifty layers, so that no kernel meets infinities."""
    torch.manual_seed(0)
    model = DensePoseRCNN(load_config(config, ()))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            parameter.mul_(0.5)
    return model


def measure(path: Path, model: DensePoseRCNN, arguments: argparse.Namespace) -> dict[str, Any]:
    """One engine against the baseline at the engine's input size."""
    frame = noise_frame()
    threads = arguments.threads or usable_cores()
    with Engine.load(path, num_threads=threads) as engine:
        pipeline = TorchPipeline(model, engine.input_size, threads)
        proposals = {} if arguments.max_proposals is None else {"max_proposals": arguments.max_proposals}
        ours: dict[str, Any] = {"score_threshold": 0.0, "max_people": arguments.people, **proposals}
        theirs: dict[str, Any] = {"max_people": 0, **proposals}
        runs: dict[str, Callable[[int], object]] = {
            "engine": lambda _: engine.infer(frame, **ours),
            "baseline": lambda _: pipeline.infer(frame, **theirs),
        }
        with Watch() as watch:
            turns = interleave(runs, Effort(0.2, arguments.duration, arguments.iterations))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    ratios = pair_ratios(turns["engine"], turns["baseline"])
    return {
        "engine": str(path),
        "precision": engine.precision,
        "input_size": engine.input_size,
        "engine_ms": float(np.median(np.concatenate(turns["engine"]))),
        "engine_people": arguments.people,
        "baseline_ms": float(np.median(np.concatenate(turns["baseline"]))),
        "baseline_parts_ms": pipeline.parts_ms(),
        "baseline_proposals": pipeline.proposals(),
        "ratio": float(np.median(ratios)),
        "ratios": [float(ratio) for ratio in ratios],
        "baseline_parameters": parameters,
        "baseline_bytes": 4 * parameters,
        "engine_bytes": path.stat().st_size,
        "size_ratio": 4 * parameters / path.stat().st_size,
        "note": pipeline.note,
        "watch": watch.to_dict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", type=Path, help="of fixed input sizes")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--people", type=int, default=2, help="that the engine finds; the baseline finds none")
    parser.add_argument("--max-proposals", type=int, help="of both (default: each configuration's own)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--duration", type=float, default=3.0)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument(
        "--reference", type=float, nargs="+", default=[], metavar="MS", help="detectron2's own time, for each engine"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    machine = describe_machine()
    print(f"{machine['cpu']}, {machine['cores']} cores, power mode {machine['power_mode']}")
    model = baseline_model(arguments.config)
    reports = [measure(path, model, arguments) for path in arguments.engines]
    for report, reference in itertools.zip_longest(reports, arguments.reference[: len(reports)]):
        size = "x".join(map(str, report["input_size"])) if report["input_size"] else "dynamic"
        parts = ", ".join(f"{name} {value:.0f}" for name, value in report["baseline_parts_ms"].items())
        parts += f"; {report['baseline_proposals']:.0f} proposals"
        parameters = f"{report['baseline_parameters'] / 1e6:.1f} M parameters"
        megabytes = report["baseline_bytes"] / 1e6, report["engine_bytes"] / 1e6
        print(f"\n{report['engine']} ({report['precision']}, {size}) against {arguments.config.stem}")
        print(f"  {report['note']}")
        print(f"  engine, {report['engine_people']} people: {report['engine_ms']:.1f} ms")
        print(f"  baseline, nobody: {report['baseline_ms']:.1f} ms ({parts})")
        print(f"  speed: {report['ratio']:.1f} times as fast (median of {len(report['ratios'])} pairs)")
        if reference is not None:
            print(
                f"  against detectron2's {reference:.0f} ms, measured elsewhere: {reference / report['engine_ms']:.1f}"
            )
        print(
            f"  size: {parameters}, {megabytes[0]:.1f} MB in FP32, over {megabytes[1]:.2f} MB on disk: "
            f"{report['size_ratio']:.1f} times as small"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine, "engines": reports}, indent=1) + "\n")


if __name__ == "__main__":
    main()
