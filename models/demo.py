"""What ``make demo`` runs: checkpoint to overlays, with the same commands that a user would type."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from densepose_engine import Engine

MODELS = Path(__file__).resolve().parent
OUT = MODELS.parent / "out"
PICTURES = [MODELS / "person.jpg", MODELS / "astronaut.jpg"]
RUNS = 30


def step(*arguments: object) -> None:
    """Run one densepose-engine command and show it."""
    words = [str(argument) for argument in arguments]
    print("\n$ densepose-engine " + " ".join(words), flush=True)
    subprocess.run([sys.executable, "-m", "densepose_engine", *words], check=True, cwd=MODELS.parent)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    graph, engine = OUT / "demo.onnx", OUT / "demo.engine"
    step(
        "export",
        "--config",
        MODELS / "demo.yaml",
        "--weights",
        MODELS / "demo.pth",
        "-o",
        graph,
        "--input-size",
        "320x448",
        "--force",
    )
    step("build", graph, "--backend", "openvino", "--precision", "fp32", "-o", engine, "--force")
    step("infer", engine, *PICTURES, "-o", OUT, "--force")

    print(f"\npicture           people  latency (median of {RUNS} runs)")
    with Engine.load(engine) as loaded:
        for picture in PICTURES:
            times = []
            for _ in range(RUNS):
                start = time.perf_counter()
                result = loaded.infer(picture, score_threshold=0.5)
                times.append(time.perf_counter() - start)
            print(
                f"{picture.name:16s}  {len(result):6d}  {1000 * statistics.median(times):.1f} ms, file reading included"
            )
    print(f"\nLook at {OUT}/*.png")


if __name__ == "__main__":
    main()
