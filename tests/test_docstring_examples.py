"""The examples in public docstrings, run as they stand, in a folder with the demo's files."""

from __future__ import annotations

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parent.parent / "models"
#: Modules, and what of them must have an example.
EXAMPLES = {
    "engine": ("Engine.load", "Engine.infer", "Engine.infer_async", "Engine.infer_timed", "Engine.stream"),
    "decoders": ("load_result",),
    "decoders.charts": ("DensePoseResult.iuv",),
    "outputs.overlays": ("draw",),
    "export": ("network",),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str, demo_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "export":
        pytest.importorskip("torch")
    for file in ("person.jpg", "people.jpg", "demo.yaml"):
        shutil.copy(MODELS / file, tmp_path)
    shutil.copy(demo_engine, tmp_path / "demo.engine")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"densepose_engine.{name}")
    found = [one for one in doctest.DocTestFinder(exclude_empty=True).find(module) if one.examples]
    names = {one.name.removeprefix(f"densepose_engine.{name}.") for one in found}
    assert names >= set(EXAMPLES[name])
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for one in found:
        runner.run(one, out=said.append)
    assert runner.failures == 0, "".join(said)
