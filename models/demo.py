"""What ``make demo`` runs: a checkpoint becomes an INT8 engine, with the commands that a user would type.

It ends with a table of both precisions and a picture, ``out/demo.png``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from densepose_engine import Engine
from densepose_engine.visualize import SCORE_THRESHOLD, draw, people_above

MODELS = Path(__file__).resolve().parent
ROOT = MODELS.parent
OUT = ROOT / "out"
PICTURE = MODELS / "people.jpg"
SECONDS = 5.0
# A tenth of what the configuration asks for: it costs no AP on this set, and takes about half the time.
PROPOSALS = 100


def run(*arguments: object) -> None:
    """Run one densepose-engine command and show it."""
    words = [str(argument) for argument in arguments]
    shown = [str(Path(w).relative_to(ROOT)) if w.startswith(str(ROOT)) else w for w in words]
    print("\n$ densepose-engine " + " ".join(shown), flush=True)
    subprocess.run([sys.executable, "-m", "densepose_engine", *words], check=True, cwd=ROOT)


def latencies(paths: dict[str, Path]) -> dict[str, float]:
    """Median milliseconds per picture; the engines take turns, so that a busy machine slows all of them."""
    picture = np.asarray(Image.open(PICTURE).convert("RGB"))
    engines = {name: Engine.load(path) for name, path in paths.items()}
    times: dict[str, list[float]] = {name: [] for name in engines}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for name, engine in engines.items():
            begin = time.perf_counter()
            engine.infer(picture, max_proposals=PROPOSALS)
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def montage(engine: Path, path: Path) -> int:
    """The picture, and what the engine sees in it, side by side; returns how many people are drawn."""
    picture = np.asarray(Image.open(PICTURE).convert("RGB"))
    with Engine.load(engine) as loaded:
        result = loaded.infer(picture, max_proposals=PROPOSALS)
    panels = [picture, *(draw(picture, result, what) for what in ("parts", "contours", "u"))]
    Image.fromarray(np.concatenate(panels, axis=1)).save(path)
    return len(people_above(result))


def average_precisions(paths: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Box, GPS and GPSm AP on the bundled evaluation set, by precision."""
    report = OUT / "demo.evaluation.json"
    data = ("--data", MODELS / "evaluation", "--max-proposals", PROPOSALS)
    run("evaluate", *paths.values(), *data, "--json", report, "--force")
    evaluations: list[dict[str, Any]] = json.loads(report.read_text())["evaluations"]
    return {
        name: {metric: scores[metric]["AP"] for metric in ("box", "gps", "gpsm")}
        for name, scores in zip(paths, evaluations, strict=True)
    }


def main() -> None:
    OUT.mkdir(exist_ok=True)
    graph, table = OUT / "demo.onnx", OUT / "demo.calib.json"
    engines = {"FP32": OUT / "demo.fp32.engine", "INT8": OUT / "demo.engine"}
    checkpoint = ("--config", MODELS / "demo.yaml", "--weights", MODELS / "demo.pth")
    run("export", *checkpoint, "--input-size", "320x448", "-o", graph, "--force")
    run("calibrate", graph, MODELS / "calibration", "-o", table, "--force")
    run("build", graph, "--precision", "fp32", "-o", engines["FP32"], "--force")
    run("build", graph, "--precision", "int8", "--calib", table, "-o", engines["INT8"], "--force")
    pictures = (PICTURE, MODELS / "person.jpg")
    run("infer", engines["INT8"], *pictures, "--max-proposals", PROPOSALS, "-o", OUT, "--force")
    scores = average_precisions(engines)
    times = latencies(engines)
    people = montage(engines["INT8"], OUT / "demo.png")

    print("\nprecision  engine size  latency*  box AP  GPS AP  GPSm AP")
    for name, path in engines.items():
        ap = scores[name]
        print(
            f"{name:9s}  {path.stat().st_size / 1e6:8.1f} MB  {times[name]:5.1f} ms"
            f"  {ap['box']:6.1f}  {ap['gps']:6.1f}  {ap['gpsm']:7.1f}"
        )
    print(f"\n* median, {PICTURE.name}, {people} people with a score above {SCORE_THRESHOLD:g}, who are drawn")
    print(f"All with --max-proposals {PROPOSALS}; the configuration's 1000 take about twice as long and gain no AP")
    print(f"AP is of 40 pictures: enough to see that all works, not to rank. Look at {OUT / 'demo.png'}")


if __name__ == "__main__":
    main()
