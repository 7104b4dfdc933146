"""The ablation over backbones: which networks, what is kept and what is done again, tables, the front, the plot."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from densepose_engine.benchmarking.timing import Effort
from densepose_engine.export.config.model_config import load_config
from densepose_engine.export.model import DensePoseRCNN

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import ablation  # noqa: E402
from backbone_series import measure, prepare, report, work  # noqa: E402
from backbone_series.networks import YARDSTICK, Network, networks, published, yardstick  # noqa: E402
from backbone_series.plot import plot  # noqa: E402
from backbone_series.report import Row, pareto_front, table, to_csv  # noqa: E402
from backbone_series.state import MEASURED, PREPARED, State  # noqa: E402

SMALL = (320, 448)
QUIET = {"other_load": 0.0, "stolen": 0.0}


# ---- the networks ----------------------------------------------------------------------------------------------------


def test_both_series() -> None:
    first, second = networks(["a"]), networks(["b"])
    assert len(first) == 2 * 24 and len(second) == 24
    assert len({one.key for one in first + second}) == 72
    assert all(one.published is not None for one in first) and all(one.published is None for one in second)
    assert not {"efficientnet_lite0", "mobilenetv3_rw"} & {one.name for one in first}
    assert networks(["a"], [(800, 1088)])[0].name == YARDSTICK


def parameters(network: Network) -> int:
    with torch.device("meta"):
        model = DensePoseRCNN(load_config(network.configuration, list(network.overrides)))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("network", networks(["a"], [SMALL]), ids=lambda network: network.name)
def test_series_a_is_what_was_published(network: Network) -> None:
    assert network.published is not None
    assert round(parameters(network) / 1e6, 2) == network.published["parameters_m"]


def test_edge_residuals_are_each_generations_own() -> None:
    for series, in_projection in (("a", True), ("b", False)):
        (network,) = networks([series], [SMALL], ["tf_efficientnet_es"])
        config = load_config(network.configuration, list(network.overrides))
        assert config.backbone.stride_in_projection is in_projection
        assert (config.rpn.max_proposals, config.box.max_detections) == (100, 2)


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"is called resnet18; there are .*spnasnet_100"):
        networks(["a"], None, ["resnet18"])
    with pytest.raises(ValueError, match=r"these sizes; there are 320x448 of series a, .* of series b$"):
        networks(["b"], [(800, 1088)])


# ---- rows ------------------------------------------------------------------------------------------------------------


def prepared_row(name: str, gmac: float = 2.0) -> dict[str, Any]:
    return {
        "inputs": {},
        "sources": prepare.sources(),
        "parameters": 3_350_000,
        "gmac": {"backbone": gmac, "neck": 0.5},
        "int8_share": 0.9876,
        "float_gmac": {},
        "engine_bytes": {"fp32": 4, "int8": 2},
        "engine_sha256": {"fp32": f"{name} fp32", "int8": f"{name} int8"},
        "remarks": [],
    }


def measured_row(milliseconds: float, watch: dict[str, float] = QUIET) -> dict[str, Any]:
    return {
        "inputs": {},
        "latency_ms": {"fp32": {"median": 3 * milliseconds}, "int8": {"median": milliseconds}},
        "int8_over_fp32": 3.0,
        "over_baseline": {"fp32": 5.0, "int8": 6.5},
        "remarks": [],
        "watch": watch,
    }


def row(name: str, milliseconds: float | None, ap: float | None, **changes: Any) -> Row:
    figures = None if ap is None else {"gps_ap": ap, "box_ap": ap + 7, "parameters_m": 3.35, "top1": 70.0}
    network = Network("a", name, SMALL, name, Path("a.yaml"), (), figures)
    return Row(network, prepared_row(name), None if milliseconds is None else measured_row(milliseconds, **changes))


def front(*points: tuple[str, float | None, float | None]) -> list[str]:
    return [one.network.name for one in pareto_front([row(*point) for point in points])]


def test_nothing_beats_the_front() -> None:
    assert front(("slow", 40, 53), ("fast", 10, 40), ("middle", 20, 50), ("worse", 21, 49)) == [
        "fast",
        "middle",
        "slow",
    ]
    assert front(("as fast", 10, 40), ("better", 10, 41)) == ["better"]
    assert front(("as good", 11, 40), ("faster", 10, 40)) == ["faster"]
    assert front(("one", 10, 40), ("twin", 10, 40)) == ["one", "twin"]
    assert front(("not measured", None, 60), ("without AP", 1, None), ("other", 10, 40)) == ["other"]
    assert front() == []


def test_a_table() -> None:
    rows = [row("not_yet", None, 41), row("slow", 40, 53), row("noisy", 50, 52, watch={"other_load": 1, "stolen": 0})]
    lines = table([*rows, row("fast", 10, 40)])
    assert [line.split()[0] for line in lines[1:]] == ["fast*", "slow*", "noisy?", "not_yet"]
    fast, heading = lines[1].split(), lines[0]
    assert fast[1:8] == ["3.35", "2.00", "0.50", "0.00", "0.00", "0.00", "2.5"]
    assert fast[10:] == ["98.8%", "30.0", "10.0", "3.00x", "5.00x", "6.50x", "47.0", "40.0"]
    assert lines[4].split()[11:16] == ["-"] * 5
    assert "paper's" in heading and all(len(line) <= len(heading) for line in lines)
    assert "paper's" not in table([row("of series b", 10, None)])[0]


def test_csv_has_every_row_and_knows_what_is_not_known() -> None:
    rows = list(csv.DictReader(to_csv([row("fast", 10, 40), row("not_yet", None, 41)]).splitlines()))
    assert [one["network"] for one in rows] == ["fast", "not_yet"]
    assert (rows[0]["int8_ms"], rows[0]["papers_gps_ap"], rows[0]["quiet"]) == ("10.0", "40", "True")
    assert (rows[0]["gmac_backbone"], rows[0]["gmac"], rows[0]["int8_share"]) == ("2.0", "2.5", "0.9876")
    assert rows[1]["int8_ms"] == rows[1]["int8_times_as_fast_as_r50_int8"] == rows[1]["quiet"] == ""
    assert to_csv([]) == ""


def test_a_plot_names_everyone_and_is_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    rows = [row("fast", 10, 40), row("slow", 40, 53), row("beaten", 45, 52), row("not_yet", None, 41)]
    assert plot(rows, tmp_path / "a.svg", "caption of all") and plot(rows, tmp_path / "b.svg", "caption of all")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    words = {element.text for element in ElementTree.fromstring(text).iter() if element.tag.endswith("text")}
    assert {"fast", "slow", "beaten", "caption of all"} <= words and "not_yet" not in words
    assert any("the paper's" in (word or "") for word in words)
    assert plot(rows, tmp_path / "a.png", "") and (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not plot([row("not_yet", None, 41)], tmp_path / "none.svg", "") and not (tmp_path / "none.svg").exists()


# ---- what is kept, and what is done again ----------------------------------------------------------------------------


class Bench:
    """``ablation.main`` with engines of a few bytes; ``done`` says what was worked on."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.state = State(folder / "state")
        self.done: list[str] = []
        self.fails: Callable[[Network], None] = lambda network: None
        self.watch: dict[str, float] = QUIET
        self.build = 0
        patch.setattr(prepare, "prepare", self.prepare)
        patch.setattr(measure, "measure", self.measure)
        patch.setattr(ablation, "run_all", partial(work.run_all, run=self.run))
        patch.setattr(ablation, "_busy", lambda: None)

    @staticmethod
    def run(task: Callable[..., None], *arguments: Any) -> str:
        try:
            task(*arguments)
        except ValueError as error:
            return str(error)
        return ""

    def prepare(self, network: Network, state: State, pictures: int) -> None:
        self.done.append(f"prepare {network.key}")
        self.fails(network)
        self.build += 1
        fake = prepared_row(f"{network.key} {self.build}") | {"inputs": prepare.inputs(network, pictures)}
        state.of(network).mkdir(parents=True, exist_ok=True)
        for precision, size in fake["engine_bytes"].items():
            state.engine(network, precision).write_bytes(bytes(size))
        state.write(network, PREPARED, fake)

    def measure(self, network: Network, state: State, effort: Effort, threads: int) -> None:
        self.done.append(f"measure {network.key}")
        self.fails(network)
        wanted = measure.inputs(network, state, effort, threads)
        state.write(network, MEASURED, measured_row(20.0, self.watch) | {"inputs": wanted})

    def __call__(self, *arguments: str, series: str = "b") -> tuple[int, list[str]]:
        self.done = []
        options = ["--state", str(self.state.folder), "--plots", str(self.state.folder / "plots"), "--series", series]
        code = ablation.main([*options, "--sizes", "320x448", "--only", "mixnet_s", "spnasnet_100", *arguments])
        return code, self.done


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


BOTH = [f"b/320x448/{name}" for name in ("spnasnet_100", "mixnet_s")]
R50 = f"a/320x448/{YARDSTICK}"


def test_finished_work_is_not_done_again(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    everything = [f"prepare {key}" for key in (R50, *BOTH)] + [f"measure {key}" for key in BOTH]
    assert bench() == (0, everything)
    out = capsys.readouterr().out
    assert "Series b" in out and "2 of 24 prepared, 2 measured" in out and "Weights are made up" in out
    assert bench() == (0, [])
    assert bench("--phase", "report") == (0, [])
    assert bench("--force", "--phase", "prepare")[1] == everything[:3]


def test_what_depends_on_something_else_now_is_done_again(bench: Bench) -> None:
    bench()
    # Other pictures make other engines, and other engines have other latencies.
    assert bench("--pictures", "3")[1] == [f"prepare {key}" for key in (R50, *BOTH)] + [f"measure {k}" for k in BOTH]
    assert bench("--pictures", "3", "--threads", "1")[1] == [f"measure {key}" for key in BOTH]
    bench.state.engine(networks(["b"], None, ["mixnet_s"])[0], "int8").unlink()
    redone = [f"{phase} {BOTH[1]}" for phase in ("prepare", "measure")]
    assert bench("--pictures", "3", "--threads", "1")[1] == redone
    (bench.state.folder / BOTH[1] / "prepared.json").write_text('{"inputs": {')
    assert bench("--pictures", "3", "--threads", "1")[1] == redone
    # A new yardstick changes everybody's ratio.
    (bench.state.folder / R50 / "prepared.json").unlink()
    assert bench("--pictures", "3", "--threads", "1")[1] == [f"prepare {R50}"] + [f"measure {key}" for key in BOTH]


def test_a_busy_machine_spoils_a_row_but_does_not_hide_it(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.watch = {"other_load": 1.5, "stolen": 0.0}
    bench()
    assert "spnasnet_100?" in capsys.readouterr().out
    bench.watch = QUIET
    assert bench()[1] == [f"measure {key}" for key in BOTH]
    assert bench()[1] == []


def test_a_failure_costs_one_network(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(network: Network) -> None:
        if network.name == "spnasnet_100":
            raise ValueError("no room for it")

    bench.fails = fail
    code, done = bench()
    assert code == 1 and done[-1] == f"measure {BOTH[1]}"
    streams = capsys.readouterr()
    assert "spnasnet_100 (series b, 320x448): no room for it" in streams.err
    assert "spnasnet_100 (series b, 320x448) is left out" in streams.err and "mixnet_s" in streams.out
    bench.fails = lambda network: None
    assert bench() == (0, [f"prepare {BOTH[0]}", f"measure {BOTH[0]}"])


def test_an_interruption_keeps_what_is_finished(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(network: Network) -> None:
        if network.name == "mixnet_s":
            raise KeyboardInterrupt

    bench.fails = interrupt
    assert bench()[0] == 130
    assert f"kept in {bench.state.folder}" in capsys.readouterr().err
    bench.fails = lambda network: None
    assert bench()[1] == [f"prepare {BOTH[1]}"] + [f"measure {key}" for key in BOTH]


def test_rows_of_other_settings_are_not_mixed_in(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench("--only", "mixnet_s", "spnasnet_100", "mnasnet_a1")
    bench("--only", "mixnet_s", "--threads", "1")
    out = capsys.readouterr().out.rpartition("Series b")[2]
    assert "3 of 24 prepared, 2 measured" in out and "1 networks were measured on another machine or with other" in out


def test_other_sources_are_said(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench()
    path = bench.state.folder / BOTH[0] / "prepared.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sources": "of yesterday"}))
    capsys.readouterr()
    assert bench() == (0, [])
    assert "1 networks were prepared by other sources than today's" in capsys.readouterr().out


def test_a_plot_in_the_documentation_is_of_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    bench(series="a")
    name = "ablation_a_320x448.svg"
    assert (bench.state.folder / name).exists() and not (bench.state.folder / "plots").exists()
    bench("--only", *published()["networks"], series="a")
    assert (bench.state.folder / "plots" / name).exists()


def test_what_cannot_be_written_is_said(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench()
    table_file = bench.state.folder / "ablation_b_320x448.csv"
    table_file.unlink()
    table_file.mkdir()
    capsys.readouterr()
    assert bench() == (1, [])
    streams = capsys.readouterr()
    assert f"error: cannot write {table_file}" in streams.err and "mixnet_s" in streams.out


def test_wrong_arguments(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--only", "resnet18") == (2, [])
    assert "error: no network is called resnet18" in capsys.readouterr().err
    assert bench("--pictures", "9999") == (2, [])
    assert "so that 9999 cannot be calibrated on" in capsys.readouterr().err
    for wrong in (["--sizes", "320"], ["--iterations", "0"]):
        with pytest.raises(SystemExit):
            bench(*wrong)


# ---- processes, and a real one ---------------------------------------------------------------------------------------


def test_what_brings_a_process_down_is_said() -> None:
    programs = {
        "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "left": "import os; os._exit(3)",
        "failed": "raise ValueError('of no use')",
        "done": "",
    }
    said: list[str] = []
    jobs = {replace(yardstick(SMALL), name=how): (program, {}) for how, program in programs.items()}
    failed = work.run_all(jobs, exec, "jobs", say=said.append, quiet=True)
    problems = {network.name: problem for network, problem in failed.items()}
    assert set(problems) == {"killed", "left", "failed"} and len(said) == 3
    assert "ended by SIGKILL; the machine may have run out of memory" in problems["killed"]
    assert "ended without an answer, with status 3" in problems["left"]
    assert problems["failed"].startswith("ValueError: of no use (")


@pytest.mark.skipif(os.environ.get("DENSEPOSE_TEST_BACKBONES") != "all", reason="make test-backbones runs it")
def test_a_real_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(tmp_path)
    (small,) = networks(["b"], None, ["tf_mobilenetv3_small_minimal_100"])
    small, reference = replace(small, size=(64, 96)), replace(small, size=(64, 96), name="yardstick")
    prepare.prepare(small, state, 1)
    assert sorted(path.name for path in state.of(small).iterdir()) == ["fp32.engine", "int8.engine", "prepared.json"]
    row = state.current(small, PREPARED, prepare.inputs(small, 1))
    assert row is not None and row["int8_share"] > 0.97 and set(row["gmac"]) == set(report.STAGES)
    assert row["engine_bytes"]["int8"] < row["engine_bytes"]["fp32"] / 2

    shutil.copytree(state.of(small), state.of(reference))
    monkeypatch.setattr(measure, "yardstick", lambda size: reference)
    effort = Effort(0.0, 0.0, 2)
    for one in (small, reference):
        measure.measure(one, state, effort, 1)
        measured = state.current(one, MEASURED, measure.inputs(one, state, effort, 1) or {})
        assert measured is not None and measured["latency_ms"]["int8"]["iterations"] >= 2
        names = ["fp32", "int8", "baseline fp32", "baseline int8"] if one is small else ["fp32", "int8"]
        # What is made up finds the same in every network, or times would depend on it.
        assert measured["people"] == dict.fromkeys(names, 2) and not measured["remarks"] and not row["remarks"]
    assert measured["over_baseline"] == {"fp32": 1.0, "int8": 1.0}
    assert measure.inputs(one, state, effort, 2) != measured["inputs"]
