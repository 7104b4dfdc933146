"""The benchmark: its statistics, its report, and what it refuses. Nothing here asserts how long anything takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_files import rewrite

from densepose_engine import DensePoseResult, Engine, InferenceError, cli
from densepose_engine.backends import LayerTime
from densepose_engine.benchmarking import machine, timing
from densepose_engine.benchmarking.agreement import compare_results
from densepose_engine.benchmarking.bench import BenchOptions, bench, noise_frame
from densepose_engine.benchmarking.footprint import footprint
from densepose_engine.benchmarking.machine import Watch
from densepose_engine.benchmarking.stages import STAGES, is_matrix_layer, profile, stage_of
from densepose_engine.benchmarking.timing import Effort, drift, interleave, measure, pair_ratios, summarize

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
QUICK = Effort(0.0, 0.0, 3)
CHECKPOINT = ["--config", str(MODELS / "demo.yaml"), "--weights", str(MODELS / "demo.pth")]


def main(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


# ---- clocks ----------------------------------------------------------------------------------------------------------


def test_a_summary() -> None:
    summary = summarize(np.array([4.0, 1.0, 2.0, 3.0, 10.0]), (50, 90))
    assert (summary["min"], summary["max"], summary["mean"], summary["median"]) == (1, 10, 4, 3)
    assert summary["percentiles"] == {"50": 3.0, "90": pytest.approx(7.6)}
    assert summary["cv"] == pytest.approx(np.sqrt(10) / 4)
    assert summary["iterations"] == 5


def test_drift_compares_the_last_quarter_with_the_first() -> None:
    assert drift(np.array([10.0] * 10 + [50.0] * 20 + [12.0] * 10)) == pytest.approx(0.2)
    assert drift(np.array([1.0, 9.0])) == 0, "of few runs nobody knows"


def test_at_least_so_many_runs_and_the_warm_up_is_not_among_them() -> None:
    numbers: list[int] = []
    times = measure(numbers.append, Effort(0.0, 0.0, 5))
    assert numbers == [0, 0, 1, 2, 3, 4]
    assert len(times.latencies) == 5
    assert all(latency >= 0 for latency in times.latencies)
    rows = times.to_rows()
    assert [row["startMs"] for row in rows] == sorted(row["startMs"] for row in rows)
    assert all(row["endMs"] - row["startMs"] == pytest.approx(row["latencyMs"]) for row in rows)


def test_streams_run_at_the_same_time() -> None:
    together = threading.Barrier(3)
    seen: set[int] = set()

    def run(number: int) -> None:
        if seen or number:  # not while it warms up, alone
            together.wait(timeout=30)
        seen.add(threading.get_ident())

    run(0)
    times = measure(
        lambda n: run(n) if threading.current_thread() is not threading.main_thread() else None, Effort(0, 0, 6), 3
    )
    assert set(times.streams) == {0, 1, 2}
    assert len(seen) == 4


def test_an_error_in_a_stream_reaches_the_caller() -> None:
    def run(number: int) -> None:
        if number == 1:
            raise RuntimeError("second stream")

    with pytest.raises(RuntimeError, match="second stream"):
        measure(run, Effort(0, 0, 4), 2)


def test_contenders_take_turns_on_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_TURN", 1e-3)
    calls: list[tuple[str, int]] = []
    turns = interleave({name: lambda n, name=name: calls.append((name, n)) for name in "AB"}, Effort(0.0, 0.0, 1))  # type: ignore[misc]
    assert len(turns["A"]) == len(turns["B"]) >= 1
    measured = calls[2:]
    order = [call for i, call in enumerate(measured) if i == 0 or call != measured[i - 1]]
    assert order == [(name, turn) for turn in range(len(turns["A"])) for name in "AB"]
    ratios = pair_ratios([np.array([1.0, 2, 3]), np.array([4.0])], [np.array([4.0]), np.array([2.0])])
    assert ratios.tolist() == [2.0, 0.5]


# ---- the machine -----------------------------------------------------------------------------------------------------


def test_warnings_say_what_was_wrong() -> None:
    with Watch() as watch:
        pass
    watch.other_load = watch.stolen = 0.0
    watch.megahertz, watch.throttled = (2000.0, 2000.0), 0
    quiet = watch.warnings(cv=0.01, drift=0.01)
    assert not [text for text in quiet if "power mode" not in text]
    watch.other_load, watch.stolen, watch.megahertz, watch.throttled = 0.8, 0.4, (2000.0, 1500.0), 3
    text = " ".join(watch.warnings(cv=0.3, drift=0.2))
    for part in ("30%", "0.8 cores", "hypervisor gave 0.4", "20% slower", "throttled 3 times", "2000 to 1500 MHz"):
        assert part in text


def test_a_watch_sees_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter(
        [machine._Reading(0, 100, 5, 50, 2000, 1), machine._Reading(10, 119, 7, 60, 1900, 4)],
    )
    monkeypatch.setattr(machine, "_reading", lambda: next(readings))
    with Watch() as watch:
        pass
    assert watch.to_dict() == {
        "own_load": 1.0,
        "other_load": 0.9,
        "stolen": 0.2,
        "megahertz": (2000, 1900),
        "throttled": 3,
    }


def test_the_power_mode_is_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for core, governor in ((0, "powersave"), (1, "performance")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
    monkeypatch.setattr(machine, "_CPU", tmp_path)
    assert machine.power_mode().startswith("governor performance/powersave")


def test_footprint_is_of_a_process_of_its_own(demo_engine: Path) -> None:
    found = footprint(demo_engine)
    for name in ("cold", "cached"):
        assert 20 < found[name]["loaded_mb"] <= found[name]["peak_mb"] < 4000
        assert found[name]["load_s"] > 0
    with pytest.raises(InferenceError, match="exit"):
        footprint(MODELS / "demo.yaml")


# ---- stages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("image/quantize", "backbone"),
        ("backbone/blocks.3.0/WithoutBiases", "backbone"),
        ("neck/l2/WithoutBiases", "neck"),
        ("p3/quantize", "neck"),
        ("p2/nhwc_abcd_acdb", "roi align"),
        ("rpn/conv_2", "rpn"),
        ("rpn_0", "rpn"),
        ("rpn_0/nhwc", "proposals"),
        ("proposals/GenerateProposals", "proposals"),
        ("box/MultilevelRoiAlign", "roi align"),
        ("box_pooled/nchw", "roi align"),
        ("box/head.conv1/WithoutBiases", "box head"),
        ("count", "detections"),
        ("detections/NonMaxSuppression_4", "detections"),
        ("densepose/MultilevelRoiAlign", "roi align"),
        ("densepose/predictor/conv", "densepose head"),
        ("v", "densepose head"),
    ],
)
def test_layers_belong_to_stages(name: str, stage: str) -> None:
    assert stage_of(LayerTime(name, "Convolution", "", 1.0)) == stage


def test_matrix_layers_are_known_by_type() -> None:
    kinds = {"Convolution": True, "FullyConnectedQuantizedLegacy": True, "MatMul": True, "Reorder": False}
    assert {kind: is_matrix_layer(LayerTime("x", kind, "", 1.0)) for kind in kinds} == kinds


def test_a_profile_adds_up(demo_engine: Path) -> None:
    with Engine.load(demo_engine, cache_dir=None, warm_up=0, num_requests=1, profile=True) as engine:
        settings = {"score_threshold": 0.0, "max_people": 2}
        found = profile(engine, [noise_frame()], settings, 0.0, 5)
    assert found["frames"] == 5
    assert list(found["stages_ms"]) == [*STAGES, "chart decode", "result"]
    assert sum(found["stages_ms"].values()) == pytest.approx(found["total_ms"])
    for stage in ("preprocess", "backbone", "neck", "rpn", "proposals", "roi align", "box head", "densepose head"):
        assert found["stages_ms"][stage] > 0, stage
    assert 0 < found["matrix_ms"] < found["total_ms"]
    assert found["outside_matrix_share"] == pytest.approx(1 - found["matrix_ms"] / found["total_ms"])
    assert sum(layer["percentage"] for layer in found["layers"]) == pytest.approx(100)


# ---- agreement -------------------------------------------------------------------------------------------------------


def result(boxes: list[list[int]], label: int = 3) -> DensePoseResult:
    sizes = [(y1 - y0, x1 - x0) for x0, y0, x1, y1 in boxes]
    return DensePoseResult(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, len(boxes)).astype(np.float32),
        [np.full(size, label, np.uint8) for size in sizes],
        [np.zeros((2, *size), np.float32) for size in sizes],
        (100, 100),
    )


def test_agreement_is_of_people_and_labels() -> None:
    one, two = [10, 10, 50, 50], [60, 20, 90, 95]
    same = compare_results([(result([one, two]), result([one, two]))])
    assert same.exact
    assert same.people == (2, 2)
    swapped = compare_results([(result([one, two]), result([two, one]))])
    assert swapped.matched == 1
    assert swapped.score_difference == pytest.approx(0.4)
    fewer = compare_results([(result([one, two]), result([one]))])
    assert (fewer.matched, fewer.exact) == (0.5, False)
    labels = compare_results([(result([one]), result([one], label=4))])
    assert (labels.matched, labels.labels, labels.exact) == (1, 0, False)
    shifted = compare_results([(result([[10, 10, 50, 50]]), result([[14, 10, 54, 50]]))])
    assert 0.8 < shifted.mean_iou < 0.83
    assert 0.8 < shifted.labels < 0.83
    nobody = compare_results([(result([]), result([]))])
    assert nobody.exact
    assert "nobody" in str(nobody)


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_the_command_reports_everything(demo_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times, layers = tmp_path / "times.json", tmp_path / "layers.json"
    arguments = ["--warmUp", "0", "--duration", "0", "--iterations", "4", "--percentile", "50,99.5", "--sweep", "0,3"]
    outputs = ["--exportTimes", times, "--exportProfile", layers, "--compare", demo_engine, "--reference", "paper=1000"]
    assert main("bench", demo_engine, *arguments, *outputs, "--json", "-", "--max-proposals", 60, "-q") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["latency_ms"]["iterations"] == 4
    assert set(report["latency_ms"]["percentiles"]) == {"50", "99.5"}
    assert [row["people"] for row in report["people"]] == [0, 3]
    assert report["settings"]["max_proposals"] == 60
    assert report["load"]["cold"]["peak_mb"] > 0
    assert report["machine"]["cpu"]
    compared = report["compare"]
    assert compared["agreement"]["matched"] == 1
    assert compared["ratio"] == pytest.approx(np.median(compared["ratios"]))
    assert report["references"]["paper"]["ratio"] == pytest.approx(1000 / report["latency_ms"]["median"])
    assert len(json.loads(times.read_text())) == 4
    count, *rows = json.loads(layers.read_text())
    assert count == {"count": report["profile"]["frames"]}
    assert len(rows) > 50


def test_the_report_for_people(demo_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--warmUp=0", "--duration=0", "--iterations=3", "--noFootprint", "--sweep=1", "--max-proposals=60"]
    assert main("bench", demo_engine, *quick, "--dumpProfile", "-q") == 0
    text = capsys.readouterr().out
    for part in (
        "Throughput:",
        "Latency: min =",
        "percentile(99%)",
        "densepose head",
        "people: 2",
        "Layer (type, kernel)",
    ):
        assert part in text
    assert "=== Load" not in text


def test_pictures_may_be_given(demo_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--warmUp=0", "--duration=0", "--iterations=3", "--noFootprint", "--noProfile", "--sweep="]
    inputs = ["--loadInputs", MODELS / "person.jpg", MODELS / "astronaut.jpg"]
    assert main("bench", demo_engine, *quick, *inputs, "--json", "-", "-q") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["people"] is None
    assert report["settings"]["pictures"] == 2
    assert "profile" not in report


def test_the_sweep_ends_where_the_graph_has_no_more_room(demo_engine: Path, tmp_path: Path) -> None:
    def for_three(manifest: dict[str, Any]) -> None:
        manifest["model"]["capacity"]["max_people"] = 3

    path = rewrite(demo_engine, tmp_path / "small.engine", for_three)
    report, _ = bench(path, BenchOptions(effort=QUICK, profile=False, footprint=False, cache_dir=None))
    assert [row["people"] for row in report["people"]] == [0, 1, 2]


def test_streams_raise_no_question_of_turns(demo_engine: Path) -> None:
    options = BenchOptions(effort=QUICK, streams=2, sweep=(), profile=False, footprint=False, cache_dir=None)
    report, times = bench(demo_engine, options)
    assert set(times.streams) == {0, 1}
    assert report["throughput"] > 0
    with pytest.raises(ValueError, match="one frame at a time"):
        bench(demo_engine, options, compare=demo_engine)


@pytest.mark.parametrize("peer", ["torch", "onnxruntime", "openvino-stock"])
def test_peers_find_the_same_and_are_timed(
    demo_engine: Path, demo_onnx: Path, peer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if peer != "openvino-stock":
        pytest.importorskip(peer)
    quick = ["--warmUp=0", "--duration=0", "--iterations=2", "--noFootprint", "--noProfile", "--sweep="]
    inputs = ["--loadInputs", MODELS / "person.jpg", MODELS / "astronaut.jpg", "--max-proposals", 100]
    inputs += ["--reference", "elsewhere=0.001"]
    sources = [*CHECKPOINT, "--graph", demo_onnx]
    assert main("bench", demo_engine, *quick, *inputs, *sources, "--vs", peer, "--json", "-", "-q") == 0
    report = json.loads(capsys.readouterr().out)
    found = report["vs"][peer]
    if peer == "torch":
        assert found["claimed_ratio"] == report["references"]["elsewhere"]["ratio"]
    assert found["ratio"] == pytest.approx(np.median(found["ratios"]))
    assert found["agreement"]["people"][0] >= 2
    assert found["agreement"]["matched"] == 1
    assert found["precision"] == "fp32"
    assert ("parts_ms" in found) == (peer == "torch")


class Stranger:
    """A peer that finds somebody else."""

    precision = "fp32"
    closed = False

    def infer(self, image: np.ndarray, **settings: Any) -> DensePoseResult:
        return DensePoseResult(
            np.array([[0, 0, 1, 1]], np.float32),
            np.ones(1, np.float32),
            [np.ones((1, 1), np.uint8)],
            [np.zeros((2, 1, 1), np.float32)],
            (image.shape[0], image.shape[1]),
        )

    def close(self) -> None:
        self.closed = True


def test_who_finds_others_is_not_timed(demo_engine: Path) -> None:
    stranger = Stranger()
    options = BenchOptions(effort=QUICK, sweep=(), profile=False, footprint=False, cache_dir=None)
    with pytest.raises(InferenceError, match="stranger does not find what the engine finds"):
        bench(demo_engine, options, peers={"stranger": lambda: stranger})
    assert stranger.closed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--vs", "torch"], "--config and --weights"),
        (["--vs", "torch", "--graph", "{graph}"], "--config and --weights"),
        (["--vs", "onnxruntime"], "--graph"),
        (["--vs", "openvino-stock", "--config", "{yaml}"], "go together"),
        (["--vs", "abacus"], "abacus"),
        (["--percentile", "101"], "101"),
        (["--duration", "-1"], "-1"),
        (["--sweep", "1,x"], "x"),
        (["--reference", "paper"], "NAME=MILLISECONDS"),
        (["--noProfile", "--dumpProfile"], "--noProfile"),
        (["--people", "5000"], "max_people"),
    ],
)
def test_wrong_usage_is_a_sentence(
    demo_engine: Path, demo_onnx: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(graph=demo_onnx, yaml=MODELS / "demo.yaml") for word in arguments]
    assert main("bench", demo_engine, "--noFootprint", "--sweep=", *words, "-q") == cli.USAGE
    printed = capsys.readouterr()
    assert text in printed.err
    assert "Traceback" not in printed.err


def test_missing_files_are_named(demo_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("bench", tmp_path / "no.engine") == cli.BAD_INPUT
    assert "no.engine" in capsys.readouterr().err
    taken = tmp_path / "taken.json"
    taken.write_text("kept")
    assert main("bench", demo_engine, "--json", taken) == cli.BAD_OUTPUT
    assert taken.read_text() == "kept"


@pytest.mark.parametrize("words", [["--loadEngine={engine}"], ["--loadEngine", "{engine}"], ["{engine}"]])
def test_the_script_takes_trtexecs_spelling(demo_engine: Path, words: list[str]) -> None:
    quick = ["--warmUp=0", "--duration=0", "--iterations=2", "--noFootprint", "--noProfile", "--sweep=", "-q"]
    given = [word.format(engine=demo_engine) for word in words]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmark.py", *quick, *given],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "Throughput:" in done.stdout
