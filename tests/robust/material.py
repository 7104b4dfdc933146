"""What the attacks begin with: graphs, engines, a table, pictures and a video, made once into build/robust/material."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .counts import BUILD, ROOT, environment
from .small_model import write_small_densepose

FOLDER = BUILD / "material"
MODELS = ROOT / "models"
# A whole network of a few hundred weights (small_model), for what is done thousands of times ...
GRAPH, DYNAMIC_GRAPH = FOLDER / "small.onnx", FOLDER / "dynamic.onnx"
TABLE = FOLDER / "small.calib.json"
ENGINE, DYNAMIC_ENGINE, INT8_ENGINE = (FOLDER / f"{name}.engine" for name in ("small", "dynamic", "int8"))
# ... and the demo checkpoint's, for frames and loads.
DEMO_GRAPH, DEMO_ENGINE = FOLDER / "demo.onnx", FOLDER / "demo.engine"
DEMO_DYNAMIC_GRAPH, DEMO_DYNAMIC_ENGINE = FOLDER / "demo_dynamic.onnx", FOLDER / "demo_dynamic.engine"
PICTURES = FOLDER / "pictures"
VIDEO, VIDEO_FRAMES = FOLDER / "video.mp4", 240
SIZES = ((240, 320), (48, 64), (321, 123), (64, 500), (1, 1))


def make() -> None:
    """Everything that is not there yet."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with _locked():
        _pictures()
        if not VIDEO.exists():
            write_video(VIDEO, "libx264", [picture(96, 128, seed % 24) for seed in range(VIDEO_FRAMES)])
        for graph, size in ((GRAPH, (64, 96)), (DYNAMIC_GRAPH, None)):
            if not graph.exists():
                write_small_densepose(graph, size)
        names = [str(PICTURES / name) for name in sorted(path.name for path in PICTURES.iterdir())]
        _verb(TABLE, "calibrate", GRAPH, *names, "--min-people", 1)
        for engine, graph in ((ENGINE, GRAPH), (DYNAMIC_ENGINE, DYNAMIC_GRAPH)):
            _verb(engine, "build", graph, "--precision", "fp32")
        _verb(INT8_ENGINE, "build", GRAPH, "--precision", "int8", "--calib", TABLE)


def make_demo() -> None:
    """The demo checkpoint's engines, which take a minute."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with _locked():
        for graph, size in ((DEMO_GRAPH, ("--input-size", "320x448")), (DEMO_DYNAMIC_GRAPH, ("--dynamic",))):
            weights = ("--config", MODELS / "demo.yaml", "--weights", MODELS / "demo.pth")
            _verb(graph, "export", *weights, *size)
            _verb(graph.with_suffix(".engine"), "build", graph, "--precision", "fp32")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Bright spots on noise, uint8 RGB: pictures of different seeds have different people."""
    rng = np.random.default_rng((seed, height, width))
    image = rng.integers(0, 90, (height, width, 3), np.uint8)
    for _ in range(3):
        top, left = rng.integers(0, height), rng.integers(0, width)
        image[top : top + height // 3 + 1, left : left + width // 3 + 1] |= 160
    return image


def write_video(path: Path, codec: str, frames: list[np.ndarray], rate: int = 25) -> Path:
    """A video of uint8 RGB frames."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _pictures() -> None:
    from PIL import Image

    if PICTURES.exists():
        return
    partial = PICTURES.with_name("pictures.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for number, size in enumerate(SIZES):
        for seed in range(2):
            Image.fromarray(picture(*size, seed=seed)).save(partial / f"{number}{seed}.png")
    partial.rename(PICTURES)


def _verb(output: Path, *words: object) -> None:
    if output.exists():
        return
    command = [sys.executable, "-m", "densepose_engine", *map(str, words), "-o", str(output), "--quiet"]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")


@contextmanager
def _locked() -> Iterator[None]:
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
