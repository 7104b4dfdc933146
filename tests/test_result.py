"""DensePoseResult: what it holds, its views, its IUV image, and its file, whole or damaged."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from densepose_engine import DensePoseEngineError, DensePoseResult
from densepose_engine.result import patch_size

BOXES = np.array([[2.5, 1.25, 7.4, 9.9], [4, 3, 12.75, 8.5], [0, 0, 0.5, 0.25]], np.float32)
SIZES = [(8, 4), (5, 8), (1, 1)]
SCORES = np.array([0.6, 0.9, 0.3], np.float32)


def make(people: int = 3, confidences: tuple[str, ...] = ("sigma_2", "kappa_u")) -> DensePoseResult:
    """From flat buffers, as the ChartResult op fills them."""
    rng = np.random.default_rng(0)
    offsets = np.cumsum([0] + [h * w for h, w in SIZES[:people]]).astype(np.int64)
    total = int(offsets[-1])
    labels = rng.integers(0, 25, total).astype(np.uint8)
    uv = rng.random(2 * total, np.float32)
    values = rng.random(len(confidences) * total, np.float32)
    return DensePoseResult.from_flat(
        boxes=BOXES[:people],
        scores=SCORES[:people],
        labels=labels,
        uv=uv,
        offsets=offsets,
        image_size=(10, 13),
        confidence_names=confidences,
        confidences=values,
    )


def test_patches_have_detectron2s_sizes() -> None:
    assert [patch_size(box) for box in BOXES] == SIZES
    # In float32 the difference is 300 exactly, in float64 a little less.
    box = np.array([0, 0.3, 3, 300.3], np.float32)
    assert int(float(box[3]) - float(box[1])) == 299 and patch_size(box) == (300, 3)


def test_from_flat_takes_views_person_after_person() -> None:
    offsets = np.array([0, 32, 72, 73])
    labels = (np.arange(73) % 25).astype(np.uint8)
    uv = np.arange(146, dtype=np.float32)
    confidences = np.arange(146, dtype=np.float32) * 10
    result = DensePoseResult.from_flat(
        boxes=BOXES,
        scores=SCORES,
        labels=labels,
        uv=uv,
        offsets=offsets,
        image_size=(10, 13),
        confidence_names=("sigma_2", "kappa_u"),
        confidences=confidences,
    )
    assert len(result) == 3
    assert np.array_equal(result.labels[1].ravel(), labels[32:72])
    assert np.array_equal(result.uv[1][0].ravel(), np.arange(64, 104)) and result.uv[1][1, 0, 0] == 104
    assert result.confidences["sigma_2"][1][0, 0] == 640 and result.confidences["kappa_u"][1][0, 0] == 1040
    for array, flat in (
        (result.labels[2], labels),
        (result.uv[0], uv),
        (result.confidences["kappa_u"][2], confidences),
    ):
        assert np.shares_memory(array, flat)


def test_nobody() -> None:
    result = make(0)
    assert len(result) == 0 and result.labels == () and result.confidences == {"sigma_2": (), "kappa_u": ()}
    assert not result.iuv().any() and result.iuv().shape == (10, 13, 3)
    assert result.to_dict() == {"image_size": {"height": 10, "width": 13}, "people": []}
    assert repr(result) == "DensePoseResult(0 people in 13 x 10 pixels, with sigma_2, kappa_u)"


def test_repr_is_short() -> None:
    assert repr(make(1, ())) == "DensePoseResult(1 person (0.60) in 13 x 10 pixels)"
    assert repr(make(3, ())) == "DensePoseResult(3 people (0.60, 0.90, 0.30) in 13 x 10 pixels)"


def test_person() -> None:
    result = make()
    person = result.person(0)
    assert (person.x, person.y) == (2, 1) and person.score == pytest.approx(0.6)
    assert person.labels is result.labels[0] and person.uv is result.uv[0]
    assert person.confidences["kappa_u"] is result.confidences["kappa_u"][0]
    assert result.person(-1).labels is result.labels[2]
    for k in (3, -4):
        with pytest.raises(IndexError, match="no person"):
            result.person(k)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": BOXES.astype(np.float64)}, "boxes is float64"),
        ({"boxes": BOXES[:2]}, "boxes is"),
        ({"scores": SCORES[:2]}, "boxes is"),
        ({"boxes": BOXES * np.float32(np.nan)}, "finite"),
        ({"scores": SCORES * np.float32(np.inf)}, "finite"),
        ({"labels": ()}, "labels has 0 arrays, there are 3 people"),
        ({"labels": tuple(np.zeros((h, w + 1), np.uint8) for h, w in SIZES)}, r"labels\[0\]"),
        ({"uv": tuple(np.zeros((2, h, w), np.float16) for h, w in SIZES)}, r"uv\[0\] is float16"),
        ({"uv": tuple(np.zeros((h, w), np.float32) for h, w in SIZES)}, r"uv\[0\]"),
        ({"confidences": {"kappa_u": ()}}, "kappa_u has 0"),
        ({"image_size": (0, 13)}, "image_size"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, object], words: str) -> None:
    good = make()
    fields = {name: getattr(good, name) for name in ("boxes", "scores", "labels", "uv", "image_size", "confidences")}
    with pytest.raises(ValueError, match=words):
        DensePoseResult(**{**fields, **change})


@pytest.mark.parametrize("name", ["labels", "uv", "offsets", "confidences"])
def test_flat_buffers_of_a_wrong_length_are_refused(name: str) -> None:
    buffers = {
        "labels": np.zeros(73, np.uint8),
        "uv": np.zeros(146, np.float32),
        "offsets": np.array([0, 32, 72, 73]),
        "confidences": np.zeros(73, np.float32),
    }
    arguments = {"boxes": BOXES, "scores": SCORES, "image_size": (10, 13), "confidence_names": ["sigma_2"]}
    assert len(DensePoseResult.from_flat(**arguments, **buffers)) == 3
    buffers[name] = buffers[name][1:]
    with pytest.raises(ValueError, match=r"must be|labels"):
        DensePoseResult.from_flat(**arguments, **buffers)


def test_offsets_that_do_not_fit_the_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"8 x 4 pixels has 31 labels"):
        DensePoseResult.from_flat(
            boxes=BOXES,
            scores=SCORES,
            labels=np.zeros(73, np.uint8),
            uv=np.zeros(146, np.float32),
            offsets=np.array([0, 31, 72, 73]),
            image_size=(10, 13),
        )


# ---- IUV -------------------------------------------------------------------------------------------------------------


def two_overlapping(scores: tuple[float, float]) -> DensePoseResult:
    """Both 4 x 4, the second two columns to the right of the first; the second's top row is background."""
    labels = [np.full((4, 4), 3, np.uint8), np.full((4, 4), 7, np.uint8)]
    labels[1][0] = 0
    uv = [np.full((2, 4, 4), 0.25, np.float32), np.full((2, 4, 4), 0.75, np.float32)]
    boxes = np.array([[1, 1, 5, 5], [3, 1, 7, 5]], np.float32)
    return DensePoseResult(boxes, np.array(scores, np.float32), labels, uv, (6, 8))


def test_iuv_puts_patches_where_they_belong() -> None:
    iuv = two_overlapping((0.9, 0.1)).iuv()
    expected = np.zeros((6, 8), np.uint8)
    expected[1:5, 1:5] = 3
    expected[2:5, 5:7] = 7
    assert iuv.dtype == np.uint8 and np.array_equal(iuv[..., 0], expected)
    assert iuv[1, 1].tolist() == [3, 63, 63] and iuv[4, 6].tolist() == [7, 191, 191]  # 63.75 and 191.25, truncated


def test_the_higher_score_is_on_top_and_background_hides_nobody() -> None:
    iuv = two_overlapping((0.1, 0.9)).iuv()
    assert (iuv[2:5, 3:5, 0] == 7).all(), "the better one hides the other"
    assert (iuv[1, 3:5, 0] == 3).all(), "where it is background, it does not"


def test_iuv_clips_coordinates_and_patches() -> None:
    uv = np.stack([np.full((4, 4), -0.5), np.full((4, 4), 1.5)]).astype(np.float32)
    boxes = np.array([[-2, -1, 2, 3]], np.float32)
    result = DensePoseResult(boxes, np.ones(1, np.float32), [np.full((4, 4), 5, np.uint8)], [uv], (2, 9))
    iuv = result.iuv()
    assert (iuv[:, :2] == (5, 0, 255)).all() and not iuv[:, 2:].any()


def test_iuv_of_another_size_takes_the_nearest_pixel() -> None:
    result = make()
    iuv = result.iuv()
    assert np.array_equal(result.iuv(30, 39), iuv.repeat(3, axis=0).repeat(3, axis=1))
    assert np.array_equal(result.iuv(height=20), iuv.repeat(2, axis=0))
    assert np.array_equal(result.iuv(30, 39)[1::3, 1::3], iuv)
    assert result.iuv(1, 1).shape == (1, 1, 3)
    with pytest.raises(ValueError, match="at least 1"):
        result.iuv(0, 5)


# ---- equality, JSON, pickle ------------------------------------------------------------------------------------------


def test_equality_looks_at_every_number() -> None:
    assert make() == make()
    for change in (
        lambda r: r.boxes[0].__setitem__(0, 2.75),
        lambda r: r.scores.__setitem__(2, 0.31),
        lambda r: r.labels[1].__setitem__((0, 0), r.labels[1][0, 0] ^ 1),
        lambda r: r.uv[2].__setitem__((1, 0, 0), -1),
        lambda r: r.confidences["kappa_u"][0].__setitem__((0, 0), -1),
    ):
        other = pickle.loads(pickle.dumps(make()))
        assert other == make()
        change(other)
        assert other != make()
    assert make() != make(2) and make() != make(3, ("sigma_2",)) and make() != "a result"


def test_to_dict_is_json() -> None:
    brief = json.loads(json.dumps(make().to_dict()))
    assert brief["image_size"] == {"height": 10, "width": 13}
    assert brief["people"][0]["box"] == BOXES[0].tolist() and set(brief["people"][0]) == {"box", "score", "patch"}
    assert brief["people"][1]["patch"] == {"x": 4, "y": 3, "height": 5, "width": 8}
    full = json.loads(json.dumps(make().to_dict(pixels=True)))["people"][1]
    assert full["labels"] == make().labels[1].tolist()
    assert np.array_equal(np.array(full["uv"], np.float32), make().uv[1])
    assert set(full["confidences"]) == {"sigma_2", "kappa_u"}


# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("people", [0, 1, 3])
@pytest.mark.parametrize("confidences", [(), ("sigma_2", "coarse_segm_confidence")])
def test_what_is_saved_is_loaded(people: int, confidences: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a result"  # no suffix is added
    result = make(people, confidences)
    result.save(path)
    loaded = DensePoseResult.load(path)
    assert loaded == result and loaded.image_size == (10, 13) and tuple(loaded.confidences) == confidences
    assert [p.name for p in tmp_path.iterdir()] == ["a result"]
    loaded.boxes[:] = 0  # its own memory


def test_the_file_is_the_scorers_format(tmp_path: Path) -> None:
    result = make()
    result.save(tmp_path / "picture.npz")
    with np.load(tmp_path / "picture.npz", allow_pickle=False) as file:
        assert file["boxes"].dtype == np.float32 and np.array_equal(file["boxes"], BOXES)
        assert np.array_equal(file["scores"], SCORES)
        for k, (h, w) in enumerate(SIZES):
            assert file[f"labels_{k}"].shape == (h, w) and file[f"labels_{k}"].dtype == np.uint8
            assert file[f"uv_{k}"].shape == (2, h, w)
            assert np.array_equal(file[f"sigma_2_{k}"], result.confidences["sigma_2"][k])


def test_saving_replaces_and_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.npz"
    make(1).save(path)
    make(2).save(path)
    assert len(DensePoseResult.load(path)) == 2
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, "others may read it as they may read any new file"

    def fail(stream: io.BufferedWriter, **arrays: np.ndarray) -> None:
        stream.write(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="no space"):
        make(3).save(path)
    assert len(DensePoseResult.load(path)) == 2 and len(list(tmp_path.iterdir())) == 1


def write(path: Path, **changes: np.ndarray | None) -> Path:
    """A result's file with arrays changed, or left out where None."""
    make().save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= {name: array for name, array in changes.items() if array is not None}
    np.savez(path, **{name: array for name, array in arrays.items() if changes.get(name, array) is not None})
    return path


def test_files_of_others_are_read(tmp_path: Path) -> None:
    """float16 coordinates, other byte orders, column-major arrays, no image_size and no names of confidences."""
    result = make()
    path = write(
        tmp_path / "other.npz",
        boxes=np.asfortranarray(BOXES).astype(">f4"),
        scores=SCORES.astype(np.float64),
        image_size=None,
        confidence_names=None,
        **{f"uv_{k}": np.asfortranarray(uv.astype(np.float16)) for k, uv in enumerate(result.uv)},
    )
    loaded = DensePoseResult.load(path)
    assert np.array_equal(loaded.boxes, BOXES) and np.array_equal(loaded.scores, SCORES)
    assert all(
        np.allclose(a, b, atol=1e-3) and a.dtype == np.float32 for a, b in zip(loaded.uv, result.uv, strict=True)
    )
    assert loaded.image_size == (10, 13) and loaded.confidences == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boxes": None}, "no array boxes"),
        ({"scores": None}, "no array scores"),
        ({"labels_1": None}, "no array labels_1"),
        ({"uv_2": None}, "no array uv_2"),
        ({"kappa_u_0": None}, "no array kappa_u_0"),
        ({"boxes": BOXES[:2]}, r"boxes.*\(2, 4\)"),
        ({"boxes": BOXES.astype(np.int32)}, "boxes.*int32"),
        ({"boxes": BOXES + np.float32(np.nan)}, "boxes are not those of a picture"),
        ({"boxes": BOXES * np.float32(1e30)}, "boxes are not those of a picture"),
        ({"scores": SCORES + np.float32(np.inf)}, "finite"),
        ({"scores": np.array(["a", "b", "c"])}, "scores"),
        ({"labels_0": np.zeros((4, 8), np.uint8)}, r"labels_0.*\(4, 8\)"),
        ({"labels_0": np.full((8, 4), 25, np.uint8)}, "labels above 24"),
        ({"labels_0": np.zeros((8, 4), np.float32)}, "labels_0.*float32"),
        ({"uv_0": np.zeros((2, 4, 8), np.float32)}, "uv_0"),
        ({"image_size": np.array([10, 13, 3])}, "image_size"),
        ({"image_size": np.array([0, 13])}, "image_size"),
        ({"confidence_names": np.array(["kappa_u", "kappa_u"])}, "distinct"),
    ],
)
def test_wrong_contents_are_refused(changes: dict[str, np.ndarray | None], words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "wrong.npz", **changes)
    with pytest.raises(DensePoseEngineError, match=rf"wrong\.npz is not a readable DensePose result: .*{words}"):
        DensePoseResult.load(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    trap = np.empty(3, object)
    trap[:] = [Trap()] * 3
    for name in ("scores", "boxes", "image_size"):
        path = write(tmp_path / "pickle.npz", **{name: trap})
        with pytest.raises(DensePoseEngineError, match=name):
            DensePoseResult.load(path)
    assert not (tmp_path / "sprung").exists()


def npy(shape: str, descr: str = "<f4", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (64 - (10 + len(header) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize(
    "scores",
    [
        npy("(1000000000000,)"),
        npy("(2000000000,)", data=bytes(100)),
        npy("(-1,)"),
        npy("(3,)", data=bytes(11)),
        npy("(3,)", data=bytes(13)),
        npy("(3,)", "|O", bytes(24)),
        npy("(3, __import__('os').getpid(),)"),
        b"",
        b"\x93NUMPY\x09\x00",
        npy("(3,)")[:30],
    ],
)
def test_lying_headers_are_refused_before_anything_is_allocated(scores: bytes, tmp_path: Path) -> None:
    path = tmp_path / "liar.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores.npy", scores)
    with pytest.raises(DensePoseEngineError, match=r"liar\.npz.*scores"):
        DensePoseResult.load(path)


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """A zip whose directory names the same bytes many times could declare far more than it holds."""
    path = tmp_path / "overlap.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores.npy", npy("(100000,)", data=bytes(400000)))
        first = archive.infolist()[0]
        for k in range(50):
            info = zipfile.ZipInfo(f"labels_{k}.npy")
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(info, name, getattr(first, name))
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
    with pytest.raises(DensePoseEngineError, match=r"overlap\.npz"):
        DensePoseResult.load(path)


def test_truncation_anywhere_is_refused(tmp_path: Path) -> None:
    make().save(tmp_path / "good.npz")
    data = (tmp_path / "good.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for length in (*range(0, len(data), 61), len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(DensePoseEngineError, match=r"cut\.npz"):
            DensePoseResult.load(path)


def test_flipped_bits_are_refused_or_harmless(tmp_path: Path) -> None:
    """Checksums cover the arrays, so a file that loads after all has the same contents."""
    good = make()
    good.save(tmp_path / "good.npz")
    data = bytearray((tmp_path / "good.npz").read_bytes())
    path = tmp_path / "flipped.npz"
    refused = 0
    for position in range(0, len(data), 13):
        data[position] ^= 0x10
        path.write_bytes(data)
        data[position] ^= 0x10
        try:
            loaded = DensePoseResult.load(path)
        except DensePoseEngineError:
            refused += 1
        else:
            for name in ("boxes", "scores"):
                assert np.array_equal(getattr(loaded, name), getattr(good, name))
            assert all(np.array_equal(a, b) for a, b in zip(loaded.uv, good.uv, strict=True))
    assert refused > 100


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DensePoseResult.load(tmp_path / "nothing.npz")
    with pytest.raises(OSError):
        DensePoseResult.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        make().save(tmp_path / "no such folder" / "picture.npz")


def bomb(path: Path, shape: tuple[int, ...], name: str = "labels_0") -> Path:
    """A good result beside an array of zeros, which compress to a thousandth."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in {"scores": np.ones(1, np.float32), "boxes": np.zeros((1, 4), np.float32)}.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{key}.npy", content.getvalue())
        with archive.open(f"{name}.npy", "w") as member:
            member.write(stream.getvalue())
            for _ in range(int(np.prod(shape)) >> 20):
                member.write(bytes(1 << 20))
    return path


def test_what_inflates_too_far_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.npz", (300, 1 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(DensePoseEngineError, match="at most 268435456 are read"):
        DensePoseResult.load(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_picture_of_no_picture_s_size(tmp_path: Path) -> None:
    result = DensePoseResult(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), (), (), (1 << 20, 1 << 20))
    result.save(tmp_path / "r.npz")
    with pytest.raises(DensePoseEngineError, match="image_size of 1048576 x 1048576"):
        DensePoseResult.load(tmp_path / "r.npz")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DensePoseEngineError, match="no regular file"):
        DensePoseResult.load(tmp_path / "pipe.npz")
