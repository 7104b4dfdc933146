"""Reports: numbers against their definitions, and a page that stands alone."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graph_runner import run_cut
from PIL import Image
from small_detector import serialize, small_detector

from densepose_engine.calibration.collect.activations import collect
from densepose_engine.calibration.judge.noise import Noise, NoiseMeter
from densepose_engine.calibration.judge.report import Report, analyze, to_dict
from densepose_engine.calibration.judge.report_page import PicturePair, page
from densepose_engine.calibration.place.observers import METHODS, expected_sqnr_db, range_of
from densepose_engine.calibration.place.quantize import TARGETS, activation_scale
from densepose_engine.calibration.place.quantizer import Quantizer
from densepose_engine.calibration.table import CalibrationTable
from densepose_engine.cli import BAD_INPUT, BAD_OUTPUT, OK, USAGE, main
from densepose_engine.errors import CalibrationError
from densepose_engine.pictures.find import find_pictures

MODELS = Path(__file__).resolve().parent.parent / "models"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(6):
        Image.fromarray(rng.integers(90, 256, (64, 96, 3), np.uint8)).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, pictures: list[Path]) -> tuple[bytes, CalibrationTable]:
    path = tmp_path_factory.mktemp("graph") / "small.onnx"
    path.write_bytes(serialize(small_detector()))
    return path.read_bytes(), collect(path, find_pictures(pictures[:4]), min_people=1)


def rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


# ---- quantizer -------------------------------------------------------------------------------------------------------


def test_a_quantizer_gives_what_its_parts_give(small: tuple[bytes, CalibrationTable]) -> None:
    graph, table = small
    for observer in METHODS:
        quantizer = Quantizer(graph, table, TARGETS["openvino"], observer)
        first, placement = quantizer()
        again, _ = quantizer()
        assert serialize(first) == serialize(again)
        for name, scale in placement.scales.items():
            if name not in {one for group in placement.groups for one in group}:
                assert scale == activation_scale(
                    *range_of(table.tensors[name], observer, symmetric=False), TARGETS["openvino"]
                )
    with pytest.raises(CalibrationError, match="another graph"):
        Quantizer(graph + b"\0", table, TARGETS["openvino"])


# ---- noise -----------------------------------------------------------------------------------------------------------


def test_noise_is_that_of_the_definition(small: tuple[bytes, CalibrationTable], pictures: list[Path]) -> None:
    """Against both graphs run piece by piece on the same boxes."""
    graph, table = small
    quantized, _ = Quantizer(graph, table, TARGETS["openvino"], "minmax")()
    meter = NoiseMeter(graph, "small.onnx")
    assert meter.results == ["rpn", "class_logits", "box_deltas", "u"]
    names = {"level": "level/dequantized", "class_logits": "class_logits", "u": "u"}
    found = meter.compare(quantized, names, [rgb(path) for path in pictures[:2]])
    for name, other in names.items():
        signal = noise = 0.0
        for path in pictures[:2]:
            image = rgb(path).transpose(2, 0, 1)[None].astype(np.float32)
            image -= np.array([100, 110, 120], np.float32).reshape(1, 3, 1, 1)
            feeds = {
                "image": image,
                "sizes": np.array([64, 96, 64, 96], np.int32),
                "max_proposals": np.array([50], np.int32),
                "max_detections": np.array([5], np.int32),
                "score_threshold": np.array([0.5], np.float32),
                "nms_threshold": np.array([1], np.float32),
            }
            cuts = ["proposals", "proposal_count", "boxes_network", "count"]
            floats = run_cut(small_detector(), feeds, [*cuts, name])
            given = {"image": image, **{cut: floats[cut] for cut in cuts}}
            needed = {"level": ["image"], "class_logits": ["image", *cuts[:2]], "u": ["image", *cuts[2:]]}[name]
            result = run_cut(quantized, {key: given[key] for key in needed}, [other])[other]
            signal += float((floats[name].astype(np.float64) ** 2).sum())
            noise += float(((floats[name].astype(np.float64) - result) ** 2).sum())
        assert found[name].signal == pytest.approx(signal, rel=1e-4)
        assert found[name].noise == pytest.approx(noise, rel=0.02)
        assert found[name].sqnr_db > 20


def test_a_float_copy_has_no_noise(small: tuple[bytes, CalibrationTable], pictures: list[Path]) -> None:
    graph, table = small
    quantizer = Quantizer(graph, table, TARGETS["openvino"])
    model, _ = quantizer(table.layers)
    meter = NoiseMeter(graph, "small.onnx")
    noise = meter.compare(model, {name: name for name in meter.results}, [rgb(pictures[0])])
    assert all(one.sqnr_db > 100 for one in noise.values())


def test_sqnr_of_extremes() -> None:
    assert Noise(1.0, 0.0).sqnr_db == math.inf and Noise(0.0, 1.0).sqnr_db == -math.inf
    assert math.isnan(Noise(0.0, 0.0).sqnr_db) and Noise(100.0, 1.0).sqnr_db == pytest.approx(20)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(demo_onnx: Path, demo_table: Path) -> Report:
    quantizer = Quantizer(demo_onnx.read_bytes(), CalibrationTable.load(demo_table), TARGETS["openvino"], "percentile")
    kept = ["backbone/conv_stem"]
    return analyze(quantizer, "demo.onnx", keep_float=kept, pictures=[rgb(MODELS / "person.jpg")])


def test_tensors_are_sorted_and_complete(report: Report) -> None:
    assert {one.name for one in report.tensors} == set(report.placement.scales)
    values = [one.sqnr_db for one in report.tensors]
    assert values == sorted(values) and all(5 < value < 80 for value in values)
    assert all(one.measured_sqnr_db is not None for one in report.tensors)
    # Behind others, a tensor has their noise too; that of the first layers is little.
    assert sum(one.measured_sqnr_db < one.estimated_sqnr_db + 1 for one in report.tensors) > 0.9 * len(values)
    by_name = {one.name: one for one in report.tensors}
    assert by_name["backbone/act1.Clip:0"].position < by_name["densepose/head.body_conv_fcn4.Relu:0"].position
    assert by_name["backbone/act1.Clip:0"].stage == "backbone"
    for one in report.tensors:
        statistics = report.quantizer.table.tensors[one.name]
        outside = statistics.counts[(statistics.edges[1:] < one.low) | (statistics.edges[:-1] > one.high)].sum()
        assert abs(one.clipped - outside / statistics.count) < 1e-3
        assert one.low <= 0 <= one.high
    assert any(one.clipped > 0 for one in report.tensors)


def test_sharing_costs_what_the_wider_scale_costs(report: Report) -> None:
    assert report.sharing
    for group in report.sharing:
        shared = report.placement.scales[group[0].name]
        for one in group:
            statistics = report.quantizer.table.tensors[one.name]
            alone = activation_scale(*range_of(statistics, "percentile", symmetric=False), TARGETS["openvino"])
            assert one.alone_sqnr_db == expected_sqnr_db(statistics, alone.scale, alone.zero_point, alone.dtype)
            assert one.shared_sqnr_db == expected_sqnr_db(statistics, shared.scale, shared.zero_point, shared.dtype)
        assert max(one.cost_db for one in group) > 0
    costs = [max(one.cost_db for one in group) for group in report.sharing]
    assert costs == sorted(costs, reverse=True)


def test_weights_of_every_layer(report: Report, demo_onnx: Path) -> None:
    layers = {one.name: one.weight_sqnr_db for one in report.layers}
    assert layers.pop("backbone/conv_stem") is None
    assert len(layers) == len(report.quantizer.table.layers) - 1
    assert all(value is not None and 25 < value < 70 for value in layers.values())
    # By definition, of one layer.
    model, _ = report.quantizer(["backbone/conv_stem"])
    before = ir.load(demo_onnx).graph.initializers
    node = next(node for node in ir.load(demo_onnx).graph if node.name == "neck/l5")
    weight = before[node.inputs[1].name].const_value.numpy().astype(np.float64)
    integers, scale, _ = (
        v.const_value.numpy() for v in next(n for n in model.graph if n.name == "neck/l5").inputs[1].producer().inputs
    )
    error = integers * scale.reshape(-1, 1, 1, 1) - weight
    assert layers["neck/l5"] == pytest.approx(10 * np.log10((weight**2).sum() / (error**2).sum()), abs=1e-3)


def test_a_share_is_never_rounded_to_all_of_it() -> None:
    from densepose_engine.calibration.judge.report_page import _percent
    from densepose_engine.wording import percent

    for write in (percent, _percent):
        assert write(1.0) == "100.0%" and write(0.99999) == "99.9%" and write(0.99999, 0) == "99%"
        assert write(0.5) == "50.0%" and write(0.0) == "0.0%" and write(0.98765, 2) == "98.77%"


def test_nobody_whom_both_find_is_no_agreement(report: Report) -> None:
    moved = {"part_agreement": 0.0, "box_iou": 0.0, "mask_iou": 0.0, "matched": 0, "only_reference": 3, "only_other": 0}
    text = read(page(report, title="x", drift=moved)).text
    assert "there is nobody whom both engines find; 3 people lost and 0 new" in text and "0.0%" not in text[:1500]


def test_json_is_strict(report: Report) -> None:
    content = to_dict(report, 0.5, {"part_agreement": math.nan})
    text = json.dumps(content, allow_nan=False)
    assert json.loads(text) == content
    assert content["drift"] == {"part_agreement": None} and content["keep_float"] == ["backbone/conv_stem"]
    assert [one["name"] for one in content["tensors"]] == [one.name for one in report.tensors]


# ---- the page --------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects tags and text, and checks that every tag is closed."""

    VOID = ("meta", "img", "wbr", "rect", "path", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def test_the_page_stands_alone(report: Report) -> None:
    jpeg = b"\xff\xd8\xff" + b"0" * 10
    pair = PicturePair("a<b>.jpg", jpeg, jpeg, b"\x89PNG" + b"0" * 10, "2 & 3 people")
    drift = {
        "part_agreement": 0.8123,
        "label_agreement": 0.9,
        "box_iou": 0.8,
        "mask_iou": 0.7,
        "matched": 5,
        "only_reference": 1,
        "only_other": 2,
    }
    yardstick = {"part_drift": 0.2, "ratio": 0.94, "low": 0.5, "high": 1.7}
    title = "x <script>alert(1)</script>"
    html = page(report, title=title, pictures=[pair], drift=drift, yardstick=yardstick, int8_mac_share=0.987)
    reader = read(html)
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base"}
    for _, attributes in reader.tags:
        for key, value in attributes.items():
            assert key not in ("href", "srcset") and not key.startswith("on")
            assert key != "src" or str(value).startswith("data:image/")
    assert "http" not in html and "@import" not in html
    assert not [one for one in re.findall(r"url\((.*?)\)", html) if not one.startswith("#clip-")]
    ids = [attributes["id"] for _, attributes in reader.tags if attributes.get("id")]
    assert len(ids) == len(set(ids)) == len(report.tensors)
    assert "81.2% of the pixels that either engine calls one" in reader.text and "90.0%" not in reader.text
    assert "5 people whom both find; 1 person lost and 2 new" in reader.text
    assert "0.94 times (0.50 to 1.70) as far as one grey level of noise moves FP32" in reader.text
    assert "a<b>.jpg" in reader.text and "98.7%" in reader.text and "x <script>" in reader.text
    assert sum(tag == "svg" for tag, _ in reader.tags) == len(report.tensors) + 1
    for one in report.tensors:
        assert one.name in reader.text
    assert "prefers-color-scheme:dark" in html


def test_a_page_without_pictures(small: tuple[bytes, CalibrationTable]) -> None:
    graph, table = small
    report = analyze(Quantizer(graph, table, TARGETS["tensorrt"], "minmax"), "small.onnx")
    assert report.measured_on == 0 and report.results == {}
    assert all(one.measured_sqnr_db is None and one.sqnr_db == one.estimated_sqnr_db for one in report.tensors)
    text = read(page(report, title="small")).text
    assert "Side by side" not in text and "What comes out" not in text and "estimated" in text and "TensorRT" in text


def test_pictures_with_nobody(small: tuple[bytes, CalibrationTable]) -> None:
    graph, table = small
    black = np.zeros((64, 96, 3), np.uint8)
    report = analyze(Quantizer(graph, table, TARGETS["openvino"], "minmax"), "small.onnx", pictures=[black])
    assert math.isnan(report.results["u"]) and list(report.results)[-1] == "u"
    json.dumps(to_dict(report, None, None), allow_nan=False)
    assert "nan" not in read(page(report, title="small")).text.split()


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(demo_onnx: Path, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html, numbers = tmp_path / "new" / "r.html", tmp_path / "r.json"
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    arguments = [
        "report", str(demo_onnx), str(MODELS / "person.jpg"), str(broken), "--calib", str(demo_table),
        "--observer", "minmax", "--keep-float", "backbone/conv_stem", "-o", str(html), "--json", str(numbers),
    ]  # fmt: skip
    assert main(arguments) == OK
    out, err = capsys.readouterr()
    assert f"{html}: " in out and "part agreement" in out and "broken.jpg" in err
    content = json.loads(numbers.read_text())
    assert content["measured_on"] == 1 and content["observer"] == "minmax"
    assert 0.5 < content["drift"]["part_agreement"] < content["drift"]["label_agreement"] < 1
    yardstick = content["yardstick"]
    assert yardstick["part_drift"] > 0 and yardstick["low"] <= yardstick["ratio"] <= yardstick["high"]
    moved = 1 - content["drift"]["part_agreement"]
    assert yardstick["ratio"] == pytest.approx(moved / yardstick["part_drift"], rel=1e-3)
    assert f"yardstick  {yardstick['ratio']:.2f}" in out
    assert content["calibrated_on"] == 1 and "1 (1 calibrated on, by name, which flatters)" in out
    assert 0.97 < content["int8_mac_share"] < 1
    stem = next(one for one in content["layers"] if one["name"] == "backbone/conv_stem")
    assert stem["precision"] == "f32" and stem["reason"] == "kept float"
    text = read(html.read_text()).text
    assert "person.jpg" in text and "efficientnet_lite0-bifpn64-deeplab" in text
    assert main(arguments) == BAD_OUTPUT


def test_bad_input(demo_onnx: Path, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(demo_onnx)]) == USAGE
    assert "--calib names the table" in capsys.readouterr().err
    calib = ["--calib", str(demo_table)]
    assert main(["report", str(demo_onnx), *calib, "-o", str(demo_onnx), "--force"]) == USAGE
    assert main(["report", str(demo_onnx), str(tmp_path / "none.jpg"), *calib]) == BAD_INPUT
    assert "there is no file or folder" in capsys.readouterr().err
    other = tmp_path / "other.onnx"
    other.write_bytes(serialize(small_detector()))
    assert main(["report", str(other), *calib]) == BAD_INPUT
    assert "belongs to another graph" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"other.onnx"}
