"""The engine as its users meet it: results, settings, threads, and what goes wrong."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_files import rewrite
from PIL import Image

from densepose_engine import (
    BackendUnavailable,
    DensePoseResult,
    Engine,
    EngineFileError,
    ImageError,
    InferenceError,
)
from densepose_engine.backends import find_backend, openvino
from densepose_engine.model.engine_file import EngineFile, read_engine_file, write_engine_file

MODELS = Path(__file__).resolve().parent.parent / "models"
PICTURE = MODELS / "person.jpg"


@pytest.fixture(scope="module")
def engine(demo_engine: Path) -> Engine:
    return Engine.load(demo_engine, cache_dir=None)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.asarray(Image.open(PICTURE).convert("RGB"))


def same(a: DensePoseResult, b: DensePoseResult) -> bool:
    return (
        len(a) == len(b)
        and a.image_size == b.image_size
        and np.array_equal(a.boxes, b.boxes)
        and np.array_equal(a.scores, b.scores)
        and all(np.array_equal(x, y) for x, y in zip(a.labels, b.labels, strict=True))
        and all(np.array_equal(x, y) for x, y in zip(a.uv, b.uv, strict=True))
    )


def test_finds_the_person(engine: Engine, rgb: np.ndarray) -> None:
    result = engine.infer(rgb, score_threshold=0.5)
    assert len(result) == 1
    assert result.image_size == rgb.shape[:2]
    assert (np.diff(result.scores) <= 0).all()
    for k in range(len(result)):
        assert len(np.unique(result.labels[k])) > 8, "a person has many parts"
        assert (result.uv[k][:, result.labels[k] == 0] == 0).all()
    x0, y0, x1, y1 = result.boxes.T
    assert ((x0 >= 0) & (y0 >= 0) & (x1 <= rgb.shape[1]) & (y1 <= rgb.shape[0])).all()
    iuv = result.iuv()
    assert iuv.shape == rgb.shape
    assert set(np.unique(iuv[..., 0])) <= set(range(25))


def test_paths_pictures_and_arrays_give_the_same(engine: Engine, rgb: np.ndarray) -> None:
    expected = engine.infer(rgb)
    for given in (PICTURE, str(PICTURE), Image.open(PICTURE)):
        assert same(engine.infer(given), expected)
    several = engine.infer([PICTURE, rgb])
    assert isinstance(several, list)
    assert all(same(one, expected) for one in several)
    assert engine.infer([]) == []


def test_the_same_input_gives_the_same_bytes_and_results_own_their_memory(engine: Engine, rgb: np.ndarray) -> None:
    first = engine.infer(rgb)
    copies = [array.copy() for array in (first.boxes, *first.labels, *first.uv)]
    engine.infer(np.zeros_like(rgb), score_threshold=0)  # runs over the same buffers
    for array, copy in zip((first.boxes, *first.labels, *first.uv), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert same(engine.infer(rgb), first)


def test_settings_do_what_they_say(engine: Engine, rgb: np.ndarray) -> None:
    everything = engine.infer(rgb, score_threshold=0, nms_threshold=1, max_people=40)
    assert len(everything) == 40
    assert len(engine.infer(rgb, score_threshold=0, nms_threshold=1, max_people=3)) == 3
    some = engine.infer(rgb, score_threshold=0, nms_threshold=0.5)
    assert 1 <= len(some) < 40
    assert (engine.infer(rgb, score_threshold=0.3).scores > 0.3).all()
    assert len(engine.infer(rgb, max_people=0)) == 0
    assert len(engine.infer(rgb, score_threshold=0, max_proposals=0)) == 0
    assert len(engine.infer(rgb, score_threshold=0, nms_threshold=1, max_proposals=5)) == 5


def test_nobody_is_a_result_like_any_other(engine: Engine, rgb: np.ndarray, tmp_path: Path) -> None:
    nobody = engine.infer(rgb, score_threshold=1)
    assert len(nobody) == 0
    assert nobody.boxes.shape == (0, 4)
    assert not nobody.iuv().any()
    nobody.save(tmp_path / "nobody.npz")
    assert same(DensePoseResult.load(tmp_path / "nobody.npz"), nobody)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 2), (31, 33), (1500, 40)])
def test_pictures_of_any_size(engine: Engine, dynamic_engine: Path, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    with Engine.load(dynamic_engine, cache_dir=None, warm_up=0) as dynamic:
        for one in (engine, dynamic):
            result = one.infer(picture, score_threshold=0, max_people=5)
            assert result.image_size == size
            assert (result.boxes[:, 2:] <= size[::-1]).all()


def test_threads_with_different_thresholds_equal_the_serial_results(engine: Engine, rgb: np.ndarray) -> None:
    frames, settings = 50, [0.05, 0.3, 0.5, 0.9]
    pictures = [np.ascontiguousarray(np.roll(rgb, 13 * i, axis=1)) for i in range(4)]
    serial = [[engine.infer(p, score_threshold=s, max_proposals=100) for p in pictures] for s in settings]
    wrong: list[str] = []

    def work(index: int) -> None:
        for frame in range(frames):
            which = (frame + index) % len(pictures)
            result = engine.infer(pictures[which], score_threshold=settings[index], max_proposals=100)
            if not same(result, serial[index][which]):
                wrong.append(f"thread {index}, frame {frame}")
                return

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(settings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len({len(results[0]) for results in serial}) > 1, "the thresholds must matter for this to test anything"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("score_threshold", -0.1),
        ("score_threshold", "high"),
        ("score_threshold", float("nan")),
        ("nms_threshold", 1.5),
        ("max_people", -1),
        ("max_people", 2.5),
        ("max_people", 10**6),
        ("max_proposals", True),
    ],
)
def test_wrong_settings_are_named(engine: Engine, rgb: np.ndarray, argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=argument):
        engine.infer(rgb, **{argument: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((0, 10, 3), np.uint8), ValueError),
        (np.zeros((10, 10, 3), np.float32), (TypeError, ValueError)),
        (np.zeros((10, 10), np.uint8), ValueError),
        (np.zeros((3, 10, 10), np.uint8), ValueError),
        (7, TypeError),
        ("no such file.jpg", (FileNotFoundError, ImageError)),
    ],
)
def test_wrong_pictures_are_refused_and_the_engine_goes_on(
    engine: Engine, rgb: np.ndarray, image: object, error: type[Exception]
) -> None:
    before = engine.infer(rgb)
    with pytest.raises(error):
        engine.infer(image)  # type: ignore[call-overload]
    assert same(engine.infer(rgb), before)


def test_a_closed_engine_says_so(demo_engine: Path, rgb: np.ndarray) -> None:
    with Engine.load(demo_engine, cache_dir=None, warm_up=0) as engine:
        assert len(engine.infer(rgb, score_threshold=0.5)) == 1
    with pytest.raises(ValueError, match="closed"):
        engine.infer(rgb)
    engine.close()


def test_repr_and_description(engine: Engine) -> None:
    assert repr(engine) == "Engine(efficientnet_lite0-bifpn64-deeplab, openvino, fp32, input 320x448)"
    assert engine.input_size == (320, 448)
    assert engine.model["defaults"]["max_people"] == 20


def test_the_cache_is_used_and_never_needed(demo_engine: Path, rgb: np.ndarray, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = Engine.load(demo_engine, cache_dir=None, warm_up=0).infer(rgb)
    for _ in range(2):
        assert same(Engine.load(demo_engine, cache_dir=cache, warm_up=0).infer(rgb), expected)
    blobs = list(cache.iterdir())
    assert blobs
    for blob in blobs:
        blob.write_bytes(b"damaged")
    with pytest.warns(RuntimeWarning, match="compiled again"):
        assert same(Engine.load(demo_engine, cache_dir=cache, warm_up=0).infer(rgb), expected)


def test_a_cache_folder_that_cannot_be_made_is_no_error(
    demo_engine: Path, rgb: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(Engine.load(demo_engine, warm_up=0).infer(rgb, score_threshold=0.5)) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert len(Engine.load(demo_engine, warm_up=0).infer(rgb, score_threshold=0.5)) == 1


@pytest.mark.parametrize("device", ["GPU", "NPU", "AUTO", "cuda"])
def test_another_device_is_unavailable_with_a_reason(demo_engine: Path, device: str) -> None:
    with pytest.raises(BackendUnavailable, match="CPU kernels"):
        Engine.load(demo_engine, device=device)


def test_a_missing_backend_says_what_to_install(
    demo_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = read_engine_file(demo_engine)
    other = tmp_path / "other.engine"
    write_engine_file(other, EngineFile("abacus", "fp32", file.model, {}, file.payload))
    with pytest.raises(BackendUnavailable, match="abacus"):
        Engine.load(other)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(BackendUnavailable, match="pip install openvino"):
        Engine.load(demo_engine)


def test_another_openvino_release_is_named(demo_engine: Path, tmp_path: Path) -> None:
    file = read_engine_file(demo_engine)
    other = tmp_path / "other.engine"
    write_engine_file(other, EngineFile("openvino", "fp32", file.model, {"openvino": "2020.1"}, file.payload))
    with pytest.raises(EngineFileError, match=r"other\.engine.*2020\.1"):
        Engine.load(other)


@pytest.mark.parametrize(
    ("member", "content"),
    [("model.xml", b"<net/>"), ("model.xml", b"\x00" * 100), ("model.bin", b""), ("model.bin", b"short")],
)
def test_a_payload_that_openvino_cannot_read_is_an_engine_error(
    demo_engine: Path, tmp_path: Path, member: str, content: bytes
) -> None:
    """The hashes are right here: somebody wrote a broken engine on purpose."""
    file = read_engine_file(demo_engine)
    other = tmp_path / "other.engine"
    write_engine_file(
        other, EngineFile(file.backend, file.precision, file.model, file.runtime, {**file.payload, member: content})
    )
    with pytest.raises(EngineFileError, match=r"other\.engine"):
        Engine.load(other, cache_dir=None)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 141. MiB"),
        EngineFileError("OpenVINO 1.2 cannot load this engine: Exception from core.cpp:117: / std::bad_alloc"),
        InferenceError("OpenVINO failed: [CPU] Convolution node with name 'x' can't alloc"),
    ],
)
def test_want_of_memory_is_no_fault_of_the_engine(
    error: Exception, demo_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(openvino, "OPENVINO", replace(openvino.OPENVINO, load=fail))
    with pytest.raises(EngineFileError, match=r"demo\.engine: there is not enough memory to load it") as raised:
        Engine.load(demo_engine)
    assert "build it again" not in str(raised.value)


@pytest.mark.parametrize("missing", ["input", "defaults", "capacity", "maps"])
def test_a_manifest_without_its_model_is_an_engine_error(demo_engine: Path, tmp_path: Path, missing: str) -> None:
    other = rewrite(demo_engine, tmp_path / "other.engine", lambda manifest: manifest["model"].pop(missing) and None)
    with pytest.raises(EngineFileError, match=r"other\.engine.*manifest"):
        Engine.load(other, cache_dir=None)


@pytest.mark.parametrize(
    ("argument", "value"), [("num_requests", 0), ("num_threads", -1), ("warm_up", 1.5), ("num_requests", True)]
)
def test_wrong_load_arguments_are_named(demo_engine: Path, argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=argument):
        Engine.load(demo_engine, **{argument: value})  # type: ignore[arg-type]


def test_a_failing_runtime_is_an_inference_error_and_the_request_comes_back(demo_engine: Path, rgb: np.ndarray) -> None:
    from densepose_engine import InferenceError

    with Engine.load(demo_engine, cache_dir=None, warm_up=0, num_requests=1) as engine:
        session = engine._session
        assert session is not None
        with session.request() as request, pytest.raises(InferenceError):
            request.image(64, 64)[:] = 0  # the graph is static: the runtime refuses this size
            request.run({})
        assert len(engine.infer(rgb, score_threshold=0.5)) == 1


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(BackendUnavailable, match="openvino"):
        find_backend("os")


def test_moving_the_file_away_after_loading_is_fine(demo_engine: Path, rgb: np.ndarray, tmp_path: Path) -> None:
    copy = tmp_path / "copy.engine"
    shutil.copy(demo_engine, copy)
    engine = Engine.load(copy, cache_dir=None, warm_up=0)
    copy.unlink()
    assert len(engine.infer(rgb, score_threshold=0.5)) == 1


@pytest.mark.parametrize("size", [[1], [-3, 4], ["a", "b"], [320, 449]])
def test_a_manifest_that_does_not_fit_its_graph_is_an_engine_error(
    size: list[object], demo_engine: Path, tmp_path: Path
) -> None:
    rewrite(
        demo_engine, tmp_path / "other.engine", lambda manifest: manifest["model"]["input"].update(size=size) and None
    )
    with pytest.raises(EngineFileError, match=r"other\.engine.*manifest"):
        Engine.load(tmp_path / "other.engine", warm_up=1, cache_dir=None)


def test_an_interrupted_call_leaves_no_settings_behind(demo_engine: Path, rgb: np.ndarray) -> None:
    class Interrupted(dict):  # type: ignore[type-arg]
        def items(self) -> object:
            yield next(iter(super().items()))
            raise KeyboardInterrupt

    with Engine.load(demo_engine, warm_up=0, cache_dir=None, num_requests=1) as engine:
        assert engine._session is not None
        before = engine.infer(rgb)
        with engine._session.request() as request, pytest.raises(KeyboardInterrupt):
            request.run(Interrupted(score_threshold=0.99, max_proposals=1))
        assert engine.infer(rgb) == before
