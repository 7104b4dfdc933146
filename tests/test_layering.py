"""What must never import what (docs/architecture.md has the table)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "openvino", "tensorrt", "pycuda", "PIL", "yaml")


def imported_modules(path: Path) -> set[str]:
    """Absolute and relative imports anywhere in a file; relative ones with their dots."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            found |= {prefix} | {f"{prefix}.{alias.name}".replace("..", ".", 0) for alias in node.names}
    return found


def included_files(path: Path) -> set[str]:
    return set(re.findall(r'#include\s*[<"]([^>"]+)[>"]', path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", HEAVY)
def test_importing_the_package_imports_no_runtime(module: str) -> None:
    code = f"import sys, densepose_engine, densepose_engine.cli; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, f"{module} was imported"


@pytest.mark.parametrize("name", ["engine", "result", "preprocess", "visualize", "model/engine_file"])
def test_run_time_modules_do_not_reach_into_export_or_calibration(name: str) -> None:
    imports = imported_modules(ROOT / "engine" / f"{name}.py")
    assert not [i for i in imports if "export" in i or "calibration" in i]


@pytest.mark.parametrize(("unit", "allowed"), [("model", {"errors", "files", "model"}), ("files", {"errors", "files"})])
def test_the_ground_floor_stands_on_nothing_but_itself(unit: str, allowed: set[str]) -> None:
    files = list((ROOT / "engine" / unit).glob("*.py"))
    assert len(files) > 2
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert unit in allowed, path.name
            elif isinstance(node, ast.ImportFrom) and node.level == 2:
                assert (node.module or node.names[0].name).split(".")[0] in allowed, path.name
        # Nor on a runtime, but where a function asks for it.
        tree = ast.parse(path.read_text(encoding="utf-8"))
        above = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in above if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in above if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {name.split(".")[0] for name in names} & set(HEAVY), path.name


def test_the_metadata_s_and_the_nodes_names_stand_in_one_place() -> None:
    """Who else writes them down has a second opinion."""
    for path in [*ROOT.glob("engine/**/*.py"), *ROOT.glob("calibration/*.py")]:
        if path.parent.name == "model":
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^_?(METADATA|GRAPH_VERSION|_?DOMAIN) *=", text, re.MULTILINE), path.name
        quoted = re.findall(r'"(GenerateProposals|MultilevelRoiAlign|BoxDetections)"', text)
        # What bench prints of an op that it calls itself is a layer's type.
        assert not quoted or path.name in ("openvino_session.py", "stages.py"), path.name
        assert not re.search(r"inputs(\(\))?\[:?-", text), f"{path.name} counts inputs from the end"


def test_backends_do_not_reach_into_export_or_calibration() -> None:
    files = list((ROOT / "engine" / "backends").glob("*.py"))
    assert files
    for path in files:
        assert not [i for i in imported_modules(path) if "export" in i or "calibration" in i], path.name


def test_the_reference_does_not_import_the_compiled_core() -> None:
    imports = imported_modules(ROOT / "tests" / "reference.py")
    assert imports
    assert not [i for i in imports if "densepose_engine" in i or "torch" in i]


CSRC = ROOT / "csrc"
#: Which folders of csrc a folder may include, beside itself.
CSRC_MAY_USE: dict[str, set[str]] = {
    "core": set(),
    "kernels": set(),
    "boxes": {"core", "kernels"},
    "ops": {"core", "kernels", "boxes"},
    "picture": {"core", "kernels"},
    "python": {"core", "kernels", "boxes", "ops", "picture", "."},
    ".": {"ops"},  # ops.h, the list
}


def csrc_files(*suffixes: str) -> list[Path]:
    return [path for path in CSRC.rglob("*") if path.is_file() and path.name.endswith(suffixes)]


def foreign_includes(path: Path) -> set[str]:
    """What a file includes beside our own files and the standard library."""
    own = {str(p.relative_to(CSRC)) for p in csrc_files("")}
    return {i for i in included_files(path) - own if "/" in i or i.endswith((".h", ".hpp", ".cuh"))}


def test_kernels_use_the_standard_library_alone() -> None:
    sources = [path for path in csrc_files("") if path.suffix != ".cu" and path.parent.name != "python"]
    assert len(sources) > 40
    for path in sources:
        foreign = foreign_includes(path) - {"immintrin.h", "pthread.h", "unistd.h"}
        assert not foreign, f"{path.relative_to(CSRC)} includes {foreign}"


def test_folders_of_csrc_include_what_they_stand_on() -> None:
    assert {p.name for p in CSRC.iterdir() if p.is_dir()} == set(CSRC_MAY_USE) - {"."}
    for path in csrc_files(""):
        here = str(path.relative_to(CSRC).parent)
        used = {str(Path(i).parent) for i in included_files(path) if (CSRC / i).is_file()}
        assert used <= CSRC_MAY_USE[here] | {here}, f"{path.relative_to(CSRC)} includes from {used}"


def test_only_bindings_know_pybind11() -> None:
    knowing = {str(p.relative_to(CSRC)) for p in csrc_files("") if any("pybind11" in i for i in included_files(p))}
    assert knowing and all(name.startswith("python/bindings_") for name in knowing), knowing


def test_cuda_kernels_know_no_vendor() -> None:
    sources = csrc_files(".cu", ".cuh", "_grid.h")
    assert len(sources) > 8
    for path in sources:
        foreign = foreign_includes(path)
        assert not foreign, f"{path.relative_to(CSRC)} includes {foreign}"


@pytest.mark.parametrize(("plugin", "other"), [("openvino", "NvInfer"), ("tensorrt", "openvino")])
def test_plugins_know_their_own_vendor_only(plugin: str, other: str) -> None:
    for path in (ROOT / "plugins" / plugin).glob("*.[ch]*"):
        assert not [i for i in included_files(path) if other in i], path.name


def test_nothing_imports_the_folders_by_their_own_names() -> None:
    for path in [
        *ROOT.glob("engine/**/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("*.py"),
        *ROOT.glob("models/*.py"),
    ]:
        roots = {name.split(".")[0] for name in imported_modules(path) if not name.startswith(".")}
        assert not roots & {"engine", "calibration"}, path
