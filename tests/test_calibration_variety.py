"""What is said of calibration pictures that are few, or copies of each other."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_detector import serialize, small_detector

from densepose_engine.calibration.collect.activations import collect
from densepose_engine.calibration.collect.variety import FEW, distinct, remarks, thumbnail
from densepose_engine.cli import OK, main
from densepose_engine.pictures.find import find_pictures

MODELS = Path(__file__).resolve().parent.parent / "models"


def rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (16, 16), (17, 31), (300, 200), (1000, 2000)])
def test_a_thumbnail_is_of_any_size(size: tuple[int, int]) -> None:
    assert thumbnail(np.full((*size, 3), 77, np.uint8)).tolist() == [[77] * 16] * 16


def test_a_thumbnail_has_the_means_of_its_cells() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    expected = picture.mean(axis=2).reshape(16, 4, 16, 3).mean(axis=(1, 3))
    assert np.abs(thumbnail(picture) - expected).max() <= 0.5


def test_copies_and_other_pictures() -> None:
    pictures = [rgb(path) for path in sorted((MODELS / "calibration").glob("*.jpg"))]
    small = np.stack([thumbnail(one) for one in pictures])
    assert distinct(small) == len(pictures) == FEW, "pictures that differ are not taken for copies"
    again = np.stack([thumbnail(compressed(one, 60)) for one in pictures[:8]])
    noisy = [thumbnail(np.clip(one + np.random.default_rng(0).integers(-2, 3, one.shape), 0, 255).astype(np.uint8))
             for one in pictures[:8]]  # fmt: skip
    assert distinct(np.concatenate([small[:8], again, noisy])) == 8
    assert distinct(small[:0]) == 0


def test_what_is_said() -> None:
    rng = np.random.default_rng(0)
    many = rng.integers(0, 256, (200, 16, 16), np.uint8)
    assert remarks(many, 500) == remarks(many[:FEW], FEW) == []
    (few,) = remarks(many[: FEW - 1], 500)
    assert f"calibrated on {FEW - 1} pictures, which is few" in few and "raise --count (there are 500 pictures)" in few
    (one,) = remarks(many[:1], 1)
    assert "calibrated on 1 picture, which" in one and "add pictures" in one and str(FEW) in one
    (copies,) = remarks(np.repeat(many[:1], 128, axis=0), 128)
    assert "only 1 of the 128 pictures is different" in copies
    (nearly,) = remarks(np.concatenate([np.repeat(many[:1], 120, axis=0), many[1:8]]), 127)
    assert "only 8 of the 127 pictures are different" in nearly
    assert remarks(np.concatenate([many, many[:3]]), 203) == [], "a few copies among many pictures do no harm"
    assert len(remarks(np.concatenate([many, many]), 400)) == 1


def test_the_command_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, folder = tmp_path / "small.onnx", tmp_path / "pictures"
    graph.write_bytes(serialize(small_detector()))
    folder.mkdir()
    picture = Image.fromarray(np.random.default_rng(1).integers(90, 256, (60, 80, 3), np.uint8))
    for index in range(6):
        picture.save(folder / f"{index}.png")
    assert main(["calibrate", str(graph), str(folder)]) == OK
    assert "only 1 of the 6 pictures is different" in capsys.readouterr().err


def test_resumed_pictures_count(tmp_path: Path) -> None:
    """A run that is interrupted says in the end the same as one that was not."""
    graph, folder, state = tmp_path / "small.onnx", tmp_path / "pictures", tmp_path / "state"
    graph.write_bytes(serialize(small_detector()))
    folder.mkdir()
    rng = np.random.default_rng(1)
    scenes = rng.integers(90, 256, (4, 60, 80, 3), np.uint8)
    for index in range(20):
        Image.fromarray(scenes[index // 5]).save(folder / f"{index:02}.png")

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    whole: list[str] = []
    collect(graph, find_pictures([folder]), min_people=1, notify=whole.append)
    with pytest.raises(KeyboardInterrupt):
        collect(graph, find_pictures([folder]), min_people=1, resume_path=state, progress=stop)
    said: list[str] = []
    collect(graph, find_pictures([folder]), min_people=1, resume_path=state, notify=said.append)
    assert "resuming after" in said[0] and said[1:] == whole
    assert "only 4 of the 20" in whole[0]
