"""Our scores of the reference predictions against those of the scorer that came with the data, which shares no code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from densepose_engine.evaluation.accuracy import Dataset, Evaluation, SavedPredictions, drift, evaluate, gps_definition
from densepose_engine.result import DensePoseResult, patch_size


@pytest.fixture(scope="module")
def scorer(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("score", shared / "eval/score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def evaluation(shared: Path) -> Evaluation:
    dataset = Dataset.load(shared / "data/val")
    gps = gps_definition("simple", surface=shared / "data/surface.npz")
    return evaluate(SavedPredictions(shared / "oracle/demo/predictions"), dataset, gps)


def test_all_scores(shared: Path, scorer: ModuleType, evaluation: Evaluation) -> None:
    """300 pictures; equal as printed, to 0.01."""
    expected = scorer.score(shared / "data/val", shared / "oracle/demo/predictions")
    found = {
        metric: {name: round(value, 2) for name, value in getattr(evaluation, metric).numbers.items()}
        for metric in ("box", "gps", "gpsm")
    }
    assert found == expected
    assert (evaluation.pictures, evaluation.annotated, evaluation.found) == (300, 463, 1282)


def test_the_ranking_gives_what_pycocotools_gives(evaluation: Evaluation) -> None:
    """The bootstrap works on rankings; for boxes, the score is the evaluator's own."""
    numbers = 100 * evaluation.rankings["box"].statistics()[0]
    np.testing.assert_allclose(numbers, list(evaluation.box.numbers.values()), atol=1e-9)


def test_drift(shared: Path, scorer: ModuleType, tmp_path: Path) -> None:
    """Of 30 pictures, where each side lacks people, and one is moved and relabelled."""
    rng = np.random.default_rng(0)
    sides: tuple[list[DensePoseResult], list[DensePoseResult]] = [], []
    folders = tmp_path / "reference", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
    for i in range(30):
        result = DensePoseResult.load(shared / f"oracle/demo/predictions/{i:06d}.npz")
        sides[0].append(_moved(result, rng, 0))
        sides[1].append(_moved(result, rng, 1))
        for folder, side in zip(folders, sides, strict=True):
            side[-1].save(folder / f"{i:06d}.npz")
    expected = scorer.drift(*folders)
    found = drift(*sides)
    assert {name: round(getattr(found, name), 5) for name in expected} == expected
    assert found.matched > 50
    assert found.only_reference > 0
    assert found.only_other > 0


def _moved(result: DensePoseResult, rng: np.random.Generator, far: float) -> DensePoseResult:
    """A tenth of the people gone; boxes moved by some 3 pixels, labels, U, V and scores by a little, times ``far``."""
    kept = np.flatnonzero(rng.random(len(result)) < 0.9)
    boxes = (result.boxes + rng.normal(0, 3 * far, result.boxes.shape).astype(np.float32))[kept]
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels, uv = [], []
    for k, box in zip(kept.tolist(), boxes, strict=True):
        height, width = patch_size(box)
        rows = np.minimum(np.arange(height), result.labels[k].shape[0] - 1)[:, None]
        columns = np.minimum(np.arange(width), result.labels[k].shape[1] - 1)
        other = rng.random((height, width)) < 0.1 * far
        labels.append(np.where(other, np.uint8(3), result.labels[k][rows, columns]))
        uv.append(result.uv[k][:, rows, columns] + rng.normal(0, 0.01 * far, (2, height, width)).astype(np.float32))
    scores = np.clip(result.scores[kept] + rng.normal(0, 0.1 * far, len(kept)), 0, 1).astype(np.float32)
    return DensePoseResult(boxes, scores, tuple(labels), tuple(uv), result.image_size)
