"""Ring (a): only names that TensorRT 10.3, 10.13, 11.1 and TensorRT-RTX 1.7 all have.

data/tensorrt_names.json says which release has which name; it was made from their public headers and bindings. A name
that is missing there has to be looked up in all four before it is used.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RELEASES = ["10.3", "10.13", "11.1", "rtx-1.7"]
NAMES: dict[str, dict[str, list[str]]] = json.loads(
    (ROOT / "tests/data/tensorrt_names.json").read_text(encoding="utf-8")
)
# What objects of TensorRT are called in our modules.
OBJECTS = {"trt", "builder", "network", "parser", "config", "profile", "cache", "engine", "runtime", "deserialised"}
MEMBERS = {"_context"}
# Where a GPU that is not here is built for; TensorRT itself cannot, and is never asked.
RTX_ONLY = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}


def python_names() -> set[str]:
    names: set[str] = set()
    for name in ("__init__", "session"):
        tree = ast.parse((ROOT / "engine/backends/tensorrt" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            base: ast.expr = node.value
            while isinstance(base, (ast.Attribute, ast.Call)) and not (
                isinstance(base, ast.Attribute) and base.attr in MEMBERS
            ):
                base = base.value if isinstance(base, ast.Attribute) else base.func
            if (isinstance(base, ast.Name) and base.id in OBJECTS) or (
                isinstance(base, ast.Attribute) and base.attr in MEMBERS
            ):
                names.add(node.attr)
    ours = {"payload", "get", "to_dict", "push", "serialize", "__name__", "runtime", "precision", "model", "backend"}
    return {name for name in names if name not in ours and not name.startswith("__")}


def cpp_names() -> set[str]:
    sources = [*(ROOT / "plugins/tensorrt").glob("*.[ch]*"), ROOT / "deploy/jetson/deepstream_plugins.cpp"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    names = set(re.findall(r"nvinfer1::(\w+)", text)) | set(re.findall(r"\b(k[A-Z][A-Z0-9_]+)\b", text))
    return names | set(re.findall(r"(\w+)\([^;{]*\)(?: const)? noexcept override", text)) | {"loadLibrary"}


@pytest.mark.parametrize("language", ["python", "cpp"])
def test_every_release_has_every_name(language: str) -> None:
    used = python_names() if language == "python" else cpp_names()
    assert len(used) > 20
    releases = RELEASES if language == "python" else RELEASES[:3]  # RTX ships no headers; its ABI is tested by loading
    lacking = {name: NAMES[language].get(name, []) for name in sorted(used - RTX_ONLY)}
    lacking = {name: has for name, has in lacking.items() if not set(releases) <= set(has)}
    assert lacking == {}


def test_what_the_newest_release_dropped_is_not_used() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "engine/backends").glob("tensorrt*/*.py"))
    for name in ("Calibrator", "BuilderFlag.INT8", "BuilderFlag.FP16", "set_dynamic_range", "execute_v2", "binding"):
        assert name not in text, name
