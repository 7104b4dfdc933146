"""Videos are read as players show them: which stream, which way up, which shape, which colors, which times."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from video_files import difference, encode, ffmpeg, noise, read, turned, yuv

from densepose_engine import ImageError
from densepose_engine.pictures.video.reader import _Times
from densepose_engine.video import VideoReader

pytest.importorskip("av")

SIGNED = [
    (a, b, c, d) for a, b, c, d in product((-1, 0, 1), repeat=4) if abs(a * d - b * c) == 1 and a * b == c * d == 0
]


# ---- which way up ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 x 32, each quarter of another gray."""
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, 32:], picture[16:, :32], picture[16:, 32:] = 80, 160, 240
    return encode(tmp_path_factory.mktemp("corners") / "corners.mp4", [picture] * 3)


@pytest.mark.parametrize("matrix", SIGNED)
def test_all_eight_orientations(corners: Path, tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    assert len(SIGNED) == 8
    path = tmp_path / "turned.mp4"
    path.write_bytes(corners.read_bytes())
    _, frames, remarks = read(turned(path, matrix))
    a, b, c, d = matrix
    height, width = (32, 64) if a else (64, 32)
    assert frames[0].shape == (height, width, 3)
    for x, y in product((-1, 1), repeat=2):  # of the source, from its middle
        value = 80 * (x > 0) + 160 * (y > 0)
        right, down = x * a + y * c, x * b + y * d
        shown = frames[0][height // 2 + down * height // 4, width // 2 + right * width // 4]
        assert difference(shown, np.full(3, value)) <= 6
    assert not remarks
    assert difference(ffmpeg(path, (height, width))[0], frames[0]) <= 6


def test_other_angles_are_said(corners: Path, tmp_path: Path) -> None:
    path = tmp_path / "slanted.mp4"
    data = bytearray(turned(corners.rename(path), (1, 0, 0, 1)).read_bytes())
    at = data.index(b"tkhd") + 44
    for place, value in ((0, 56756), (4, 32768), (12, -32768), (16, 56756)):  # 30 degrees
        data[at + place : at + place + 4] = (value & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(data)
    _, frames, remarks = read(path)
    assert frames[0].shape == (32, 64, 3)
    assert any("slanted.mp4" in remark and "90 degrees" in remark for remark in remarks)


# ---- which stream ----------------------------------------------------------------------------------------------------


def _streams(path: Path, *sizes: tuple[int, int], default: int | None = None, cover: int | None = None) -> Path:
    """A video stream of each (height, width), number k of gray 40 * (k + 1)."""
    import av

    with av.open(str(path), "w") as container:
        streams = []
        for number, (height, width) in enumerate(sizes):
            stream = container.add_stream("mjpeg" if number == cover else "libx264", rate=25)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if number == cover else "yuv420p"
            kinds = av.stream.Disposition
            stream.disposition = kinds.attached_pic.value if number == cover else int(number == default)
            streams.append(stream)
        for number, stream in enumerate(streams):
            picture = np.full((stream.height, stream.width, 3), 40 * (number + 1), np.uint8)
            for _ in range(1 if number == cover else 5):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("sizes", "default", "cover", "chosen"),
    [
        ([(32, 48), (64, 96)], None, None, 1),  # the larger
        ([(32, 48), (64, 96)], 0, None, 0),  # the default one
        ([(32, 48), (32, 48)], 1, None, 1),
        ([(32, 48), (32, 48)], None, None, 0),
        ([(128, 128), (32, 48)], None, 0, 1),  # never the cover picture
    ],
)
def test_the_stream_that_players_show(
    tmp_path: Path, sizes: list[tuple[int, int]], default: int | None, cover: int | None, chosen: int
) -> None:
    path = _streams(tmp_path / "streams.mkv", *sizes, default=default, cover=cover)
    if cover is not None:
        path = _streams(tmp_path / "streams.mp4", *sizes, default=default, cover=cover)
    _, frames, _ = read(path)
    assert len(frames) == 5
    assert frames[0].shape[:2] == sizes[chosen]
    assert difference(frames[0], np.full(3, 40 * (chosen + 1))) <= 4
    if cover is None:
        assert difference(ffmpeg(path, sizes[chosen]), np.stack(frames)) <= 4


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"song\.mp4 has only a cover picture"):
        VideoReader(_streams(tmp_path / "song.mp4", (64, 64), cover=0))


# ---- which shape -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixel", "size"),
    [
        (Fraction(4, 3), (96, 171)),
        (Fraction(2, 1), (96, 256)),
        (Fraction(8, 9), (108, 128)),
        (Fraction(1, 1), (96, 128)),
        (Fraction(20, 1), (96, 128)),  # a mistake in the file
    ],
)
def test_pixels_become_square(tmp_path: Path, pixel: Fraction, size: tuple[int, int]) -> None:
    given = noise(3)
    path = encode(tmp_path / "video.mp4", given, options={"crf": "4"}, pixel=pixel)
    _, frames, remarks = read(path)
    assert [frame.shape[:2] for frame in frames] == [size] * 3
    # The picture fills the frame: its corners are where they were.
    for row, column in product((2, -3), repeat=2):
        assert difference(frames[1][row, column], given[1][row, column]) <= 25
    assert bool(remarks) == (pixel == 20)
    judge = ffmpeg(path, size, f"scale={size[1]}:{size[0]}:flags=bicubic").astype(int)
    assert np.abs(judge - np.stack(frames)).mean() < 4  # at colored edges, FFmpeg's releases differ by more


def test_square_pixels_of_a_turned_video(tmp_path: Path) -> None:
    path = turned(encode(tmp_path / "video.mp4", noise(2), pixel=Fraction(2, 1)), (0, 1, -1, 0))
    assert read(path)[1][0].shape == (256, 96, 3)


def test_a_size_that_changes_is_fitted_into_the_first(tmp_path: Path) -> None:
    white = np.full((48, 64, 3), 255, np.uint8)
    parts = [white, white.repeat(2, 0).repeat(2, 1), np.full((64, 32, 3), 255, np.uint8), white]
    joined = tmp_path / "joined.ts"
    for number, part in enumerate(parts):
        path = encode(tmp_path / f"{number}.ts", [part] * 5)
        with joined.open("ab") as stream:
            stream.write(path.read_bytes())
    times, frames, remarks = read(joined)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 20
    assert min(frames[7].min(), frames[17].min()) > 240  # of the same shape: nothing is added
    portrait = frames[12][:, :, 0]
    assert portrait[:, 21:43].min() > 240  # 24 of 64 columns, in the middle
    assert portrait[:, :19].max() < 16
    assert portrait[:, 45:].max() < 16
    assert times == pytest.approx([0.04 * i for i in range(20)], abs=0.002)  # every part's clock begins anew
    (remark,) = remarks
    assert "joined.ts changes its size on the way: from frame 5 on it is 128 x 96" in remark
    assert "64 x 48" in remark


def test_a_pixel_format_that_changes_is_no_matter(tmp_path: Path) -> None:
    joined = tmp_path / "joined.ts"
    with joined.open("wb") as stream:
        for number, form in enumerate(("yuv420p", "yuv444p", "yuv420p10le")):
            part = encode(tmp_path / f"{number}.ts", [np.full((48, 64, 3), 90, np.uint8)] * 4, pix_fmt=form)
            stream.write(part.read_bytes())
    _, frames, _ = read(joined)
    assert len(frames) == 12
    assert difference(np.stack(frames), np.full(3, 90)) <= 3


# ---- which colors ----------------------------------------------------------------------------------------------------

_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def _rgb(color: tuple[int, int, int], matrix: str, full: bool) -> np.ndarray:
    """From the definition, in float64: ITU-R BT.601, BT.709 and BT.2020."""
    red, blue = _WEIGHTS[matrix]
    luma, cb, cr = (color[0] / 255, (color[1] - 128) / 255, (color[2] - 128) / 255)
    if not full:
        luma, cb, cr = (color[0] - 16) / 219, (color[1] - 128) / 224, (color[2] - 128) / 224
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(255 * np.array([r, g, b]), 0, 255)


@pytest.mark.parametrize(
    ("tag", "color_range", "height", "width", "matrix", "full"),
    [
        (1, 1, 96, 128, "bt709", False),
        (1, 2, 96, 128, "bt709", True),
        (6, 1, 96, 128, "bt601", False),
        (5, 2, 96, 128, "bt601", True),
        (9, 1, 96, 128, "bt2020", False),
        (6, 1, 720, 1280, "bt601", False),  # a tag counts more than the size
        (2, 0, 96, 128, "bt601", False),
        (2, 0, 576, 720, "bt601", False),
        (2, 0, 720, 1280, "bt709", False),
        (2, 0, 1280, 720, "bt709", False),
        (2, 2, 720, 1280, "bt709", True),
    ],
)
@pytest.mark.parametrize("form", ["yuv420p", "yuv420p10le"])
def test_colors_are_those_of_the_tag_or_of_the_size(
    tmp_path: Path, tag: int, color_range: int, height: int, width: int, matrix: str, full: bool, form: str
) -> None:
    color = (90, 100, 190)
    stored = tuple(4 * value for value in color) if "10" in form else color
    frame = yuv(height, width, stored, form)  # type: ignore[arg-type]
    frame.colorspace, frame.color_range = tag, color_range
    path = encode(
        tmp_path / "video.mp4",
        [frame],
        options={"qp": "0", "preset": "ultrafast"},
        pix_fmt=form,
        colorspace=tag,
        color_range=color_range,
    )
    _, (shown,), remarks = read(path)
    assert difference(shown, _rgb(color, matrix, full)) <= 3
    assert not remarks
    if form == "yuv420p":
        filters = f"scale=in_color_matrix={matrix}:in_range={'full' if full else 'limited'}"
        assert difference(ffmpeg(path, (height, width), filters)[0], shown) <= 3


def test_gray_and_rgb_need_no_matrix(tmp_path: Path) -> None:
    picture = np.full((720, 1280, 3), (200, 30, 90), np.uint8)
    _, (shown,), _ = read(encode(tmp_path / "rgb.mkv", [picture], "ffv1", pix_fmt="bgr0"))
    assert difference(shown, picture) == 0
    _, (shown,), _ = read(encode(tmp_path / "gray.mkv", [np.full((48, 64, 3), 77, np.uint8)], "ffv1", pix_fmt="gray"))
    assert difference(shown, np.full(3, 77)) <= 1


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_said(tmp_path: Path, transfer: int, name: str) -> None:
    frame = yuv(96, 128, (400, 512, 512), "yuv420p10le")
    path = encode(tmp_path / "hdr.mp4", [frame], pix_fmt="yuv420p10le", colorspace=9, color_trc=transfer)
    (remark,) = read(path)[2]
    assert "hdr.mp4 is HDR" in remark
    assert name in remark


def test_interlaced_video_is_said(tmp_path: Path) -> None:
    options = {"flags": "+ildct+ilme", "x264-params": "interlaced=1:tff=1"}
    (remark,) = read(encode(tmp_path / "broadcast.mp4", noise(3), options=options))[2]
    assert "broadcast.mp4 is interlaced" in remark


# ---- which times -----------------------------------------------------------------------------------------------------


def _times(*clock: tuple[int | None, int | None]) -> list[int]:
    times = _Times(Fraction(1, 1000), Fraction(25))
    return [times.of(SimpleNamespace(pts=pts, dts=dts)) for pts, dts in clock]


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        ([-80, -40, 0, 200], [0, 40, 80, 280]),  # from the first on, gaps kept
        ([0, 40, 40, 80, 120], [0, 40, 60, 80, 120]),  # one that comes twice goes in between
        ([7, 7, 7, 7], [0, 20, 60, 100]),  # a clock that stands still
        ([None, None, None], [0, 40, 80]),
        ([0, 40, 30, 80], [0, 40, 60, 80]),
    ],
)
def test_times_always_rise(clock: list[int | None], expected: list[int]) -> None:
    assert _times(*[(pts, None) for pts in clock]) == expected


def test_of_two_times_the_one_with_fewer_faults_counts() -> None:
    """H.264 with reordered frames in AVI, where the presentation times are guesses of the demuxer's."""
    clock: Any = [(40, 80), (120, 120), (160, 160), (80, 200), (240, 240), (280, 280), (200, 320)]
    assert _times(*clock) == [0, 80, 120, 160, 200, 240, 280]


def test_reordered_frames_and_a_variable_rate_keep_their_times(tmp_path: Path) -> None:
    given = [0, 4, 7, 50, 51, 52, 120, 124, 128, 200]
    for suffix in (".mp4", ".mkv", ".ts"):
        options = {"bf": "3", "x264-params": "b-adapt=0"}
        times, frames, _ = read(encode(tmp_path / f"video{suffix}", noise(10), times=given, options=options))
        assert times == pytest.approx([t / 100 for t in given], abs=1e-3)
        assert np.all(np.diff([frame.mean() for frame in frames]) > 5), "in the order in which they are shown"


def test_absurd_rates_are_not_believed(tmp_path: Path) -> None:
    with VideoReader(encode(tmp_path / "video.mp4", noise(3), times=[0, 4, 8])) as reader:
        assert reader.rate == 25
        assert reader.count == 3
        assert reader.size == (96, 128)
        assert len(list(reader.frames())) == 3  # also the one that was read for the size
