"""Files are known by their content, and whoever is given the wrong one is told what takes it."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_detector import serialize, small_detector

from densepose_engine import Engine, EngineFileError, ImageError, cli, video
from densepose_engine.files import heif, recognize
from densepose_engine.files.recognize import mismatch, names_a_file, of_address
from densepose_engine.outputs.kinds import OUTPUT_KINDS
from densepose_engine.pictures.read import to_rgb_array

MODELS = Path(__file__).resolve().parent.parent / "models"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def main(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    return stream.getvalue()


def picture(suffix: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (9, 90, 200)).save(stream, suffix)
    return stream.getvalue()


CONTENTS = {
    "ENGINE": zipped("manifest.json", "model.xml"),
    "GRAPH": serialize(small_detector()),
    "CHECKPOINT": zipped("archive/data.pkl", "archive/data/0"),
    "TORCHSCRIPT": zipped("m/data.pkl", "m/constants.pkl", "m/code/x.py"),
    "PICKLE": pickle.dumps({"model": {}}, 2),
    "CONFIG": (MODELS / "demo.yaml").read_bytes(),
    "TABLE": json.dumps({"format": "densepose-engine calibration"}).encode(),
    "ANNOTATIONS": b'{"images": []}',
    "RESULTS": zipped("boxes.npy", "scores.npy"),
    "ZIP": zipped("a.txt"),
    "HEIC": HEIC,
    "VIDEO": b"\0\0\0\x20ftypisom\0\0\2\0" + bytes(100),
    "PLAN": b"ftrt" + bytes(100),
    "SAFETENSORS": (64).to_bytes(8, "little") + b'{"a":{}}',
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "WEB_PAGE": b"\n<!DOCTYPE html><html><head>",
    "LFS_POINTER": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "ARCHIVE": b"\x1f\x8b\x08" + bytes(20),
    "PDF": b"%PDF-1.7",
    "OPENVINO_IR": b'<?xml version="1.0"?>\n<net name="x" version="11">',
    "TFLITE": b"\x1c\0\0\0TFL3" + bytes(20),
    "EMPTY": b"",
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_content_says_what_a_file_is_whatever_its_name(kind: str, tmp_path: Path) -> None:
    for name in ("model.engine", "x", "photo.jpg"):
        path = tmp_path / name
        path.write_bytes(CONTENTS[kind])
        found = recognize.recognize(path)
        assert found is getattr(recognize, kind), found


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_pictures_are_pictures(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(picture(suffix))
    assert recognize.recognize(path) is recognize.PICTURE
    assert mismatch(path, recognize.PICTURE) is None
    assert mismatch(path, recognize.ENGINE) == (
        f"{path} is a picture, not an engine; 'densepose-engine infer ENGINE PICTURE' takes it, and calibrate"
    )


def test_what_is_not_known_is_not_named(tmp_path: Path) -> None:
    for name, content in (
        ("x.engine", b"\0\x01 nothing"),
        ("x.jpg", b"no picture"),
        ("x.pth", b"text"),
        ("pyproject.toml", b"[build-system]\nrequires = []\n"),
        ("x.bin", bytes(range(256))),
    ):
        (tmp_path / name).write_bytes(content)
        assert recognize.recognize(tmp_path / name) is None, name
    assert recognize.recognize(tmp_path / "gone.onnx") is None
    assert recognize.recognize("nul\0l") is None


def test_truncated_archives_are_told_by_their_first_member(tmp_path: Path) -> None:
    for kind in ("ENGINE", "CHECKPOINT"):
        (tmp_path / "x").write_bytes(CONTENTS[kind][:60])
        assert recognize.recognize(tmp_path / "x") is getattr(recognize, kind)


def test_outputs_that_are_called_like_files(tmp_path: Path) -> None:
    for suffix in (*video.SUFFIXES, *(f".{kind.suffix.rpartition('.')[2]}" for kind in OUTPUT_KINDS.values())):
        assert names_a_file(tmp_path / f"a.b{suffix.upper()}"), suffix
    for name in ("out.gif", "v.mp3", "v.y4m", "people.json", "x" * 300 + ".png"):
        assert names_a_file(name), name
    (tmp_path / "folder.png").mkdir()
    for path in ("out", "results.2", "v1.0", ".mp4", str(tmp_path / "folder.png")):
        assert not names_a_file(path), path


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert recognize.recognize(tmp_path / "pipe.jpg") is recognize.SPECIAL
    assert recognize.recognize("/dev/null") is recognize.SPECIAL
    with pytest.raises(EngineFileError, match="no regular file"):
        Engine.load(tmp_path / "pipe.jpg")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("https://host/x.pth", "ADDRESS"),
        ("http:/host/x.jpg", "ADDRESS"),
        ("s3://bucket/x", "ADDRESS"),
        ("file:///x.jpg", "ADDRESS"),
        ("rtsp://u:p@host:554/s", "STREAM"),
        ("rtmp:/host/s", "STREAM"),
        ("camera:0", "CAMERA"),
        ("/dev/video9", "CAMERA"),
        ("a.jpg", None),
        ("C:x", None),
        ("folder/x:y", None),
    ],
)
def test_addresses_and_cameras(text: str, kind: str | None) -> None:
    assert of_address(text) is (None if kind is None else getattr(recognize, kind))


def test_an_address_is_said_as_it_was_given() -> None:
    for text in ("rtsp://host/live", "https://host/demo.pth"):
        sentence = mismatch(Path(text), recognize.CHECKPOINT)
        assert sentence is not None and sentence.startswith(f"{text} is ")
    assert "name the file itself, /data/x.jpg" in str(mismatch(Path("file:///data/x.jpg"), recognize.PICTURE))


def test_a_file_that_is_called_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("camera:0").write_bytes(picture("PNG"))
    assert recognize.recognize("camera:0") is recognize.PICTURE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("infer", "GRAPH", "p.jpg"), "g.onnx is an ONNX graph, not an engine; 'densepose-engine build'"),
        (("infer", "p.jpg", "e.engine"), "p.jpg is a picture, not an engine"),
        (("infer", "w.pth", "p.jpg"), "w.pth is a PyTorch checkpoint, not an engine"),
        (("infer", "lfs.engine", "p.jpg"), "'git lfs pull'"),
        (("infer", "e.engine", "GRAPH"), "g.onnx is an ONNX graph, not a picture"),
        (("infer", "e.engine", "rtsp://host/s"), "rtsp://host/s is the address of a stream, not a picture"),
        (("infer", "e.engine", "rtsp://host/s.mp4"), "rtsp://host/s.mp4 is the address of a stream, not a video"),
        (("infer", "e.engine", "camera:0"), "camera:0 is a camera"),
        (("infer", "e.engine", "h.heic"), "h.heic is a HEIC picture; Pillow reads it with a plugin alone: pip install"),
        (("infer", "e.engine", "e.engine"), "e.engine is an engine, not a picture"),
        (("infer", "https://host/e.engine", "p.jpg"), "https://host/e.engine is an address"),
        (("build", "e.engine", "-o", "x.engine"), "e.engine is an engine, not an ONNX graph"),
        (("build", "w.pth"), "w.pth is a PyTorch checkpoint, not an ONNX graph; 'densepose-engine export --weights'"),
        (("build", "GRAPH", "--precision", "int8", "--calib", "c.yaml"), "c.yaml is a YAML configuration, not a calib"),
        (("calibrate", "w.pth", "p.jpg"), "w.pth is a PyTorch checkpoint, not an ONNX graph"),
        (("report", "e.engine", "--calib", "c.yaml"), "e.engine is an engine, not an ONNX graph"),
        (("export", "--dynamic", "--config", "GRAPH", "--weights", "w.pth"), "g.onnx is an ONNX graph, not a YAML"),
        (
            ("export", "--dynamic", "--config", "c.yaml", "--weights", "GRAPH", "-o", "x"),
            "g.onnx is an ONNX graph, not a PyTorch",
        ),
        (
            ("export", "--dynamic", "--config", "c.yaml", "--weights", "https://host/w.pth", "-o", "x.onnx"),
            "https://host/w.pth is an address, not a PyTorch checkpoint; download it first",
        ),
        (("bench", "GRAPH"), "g.onnx is an ONNX graph, not an engine"),
        (("evaluate", "w.pth", "--data", "."), "w.pth is a PyTorch checkpoint, not an engine"),
        (("inspect", "GRAPH"), "g.onnx is an ONNX graph, not an engine"),
        (("extract", "w.pth"), "w.pth is a PyTorch checkpoint, not an engine"),
    ],
)
def test_verbs_name_what_they_were_given(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, kind in (("g.onnx", "GRAPH"), ("w.pth", "CHECKPOINT"), ("e.engine", "ENGINE"), ("c.yaml", "CONFIG")):
        Path(name).write_bytes(CONTENTS[kind])
    Path("lfs.engine").write_bytes(CONTENTS["LFS_POINTER"])
    Path("p.jpg").write_bytes(picture("JPEG"))
    Path("h.heic").write_bytes(HEIC)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    before = sorted(tmp_path.iterdir())
    assert main(*("g.onnx" if word == "GRAPH" else word for word in arguments)) == cli.BAD_INPUT
    output = capsys.readouterr()
    assert said in output.err and output.err.count("\n") == 1 and output.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_python_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(CONTENTS["CHECKPOINT"])
    with pytest.raises(EngineFileError, match=r"w\.pth is a PyTorch checkpoint, not an engine; .*export --weights"):
        Engine.load(tmp_path / "w.pth")
    with pytest.raises(EngineFileError, match="https://host/e is an address"):
        Engine.load("https://host/e")
    (tmp_path / "x.jpg").write_bytes(CONTENTS["VIDEO"])
    with pytest.raises(ImageError, match=r"x\.jpg is a video, not a picture; .*infer ENGINE VIDEO"):
        to_rgb_array(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match=r"the picture \(\d+ bytes\) is a video"):
        to_rgb_array(CONTENTS["VIDEO"])


def test_heic_says_what_is_missing_and_is_read_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.heic"
    path.write_bytes(HEIC)
    with monkeypatch.context() as patch:
        patch.setattr(heif, "_registered", False)
        patch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(ImageError, match=r"b\.heic is a HEIC picture; .*pip install pillow-heif"):
            to_rgb_array(path)

    class Plugin:
        """Stands in for pillow-heif, which teaches Pillow a format when it is asked to."""

        @staticmethod
        def register_heif_opener() -> None:
            path.write_bytes(picture("PNG"))

    monkeypatch.setattr(heif, "_registered", False)
    monkeypatch.setitem(sys.modules, "pillow_heif", Plugin)
    assert np.array_equal(to_rgb_array(path)[0, 0], (9, 90, 200))
