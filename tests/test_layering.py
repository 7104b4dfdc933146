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


#: Of the package, which units a unit's modules may import, beside its own; a unit is a folder, or a module beside them.
GROUND = {"errors", "files", "model"}
RUN_TIME = GROUND | {"_core", "backends", "decoders", "pictures"}
MAY_USE: dict[str, set[str]] = {
    "errors": set(),
    "wording": set(),
    "files": {"errors"},
    "model": {"errors", "files"},
    "pictures": GROUND | {"_core"},
    "video": {"pictures"},
    "visualize": {"outputs"},
    "backends": {"errors", "model", "_core"},
    "decoders": GROUND | {"_core"},
    "result": {"decoders", "errors", "files"},
    "stream": RUN_TIME | {"result"},
    "engine": RUN_TIME | {"result", "stream"},
    "export": GROUND | {"decoders"},
    "calibration": GROUND | {"backends", "pictures", "_core"},
    "compile": RUN_TIME | {"calibration", "engine", "evaluation", "result"},
    "outputs": RUN_TIME | {"engine", "result", "wording"},
    "evaluation": RUN_TIME | {"engine", "result"},
    # Peers are what an engine is measured against: the torch network, and the same graph built otherwise.
    "benchmarking": RUN_TIME | {"engine", "result", "evaluation", "wording", "export", "compile"},
    "diagnosis": RUN_TIME | {"engine"},
    # The top: nobody imports it but the entry points.
    "commands": RUN_TIME
    | {"engine", "result", "video", "visualize", "outputs", "evaluation", "benchmarking", "diagnosis", "wording"}
    | {"calibration", "compile", "export"},
    "cli": {"_core", "commands", "errors", "files", "wording"},
    "__main__": {"cli"},
    "__init__": {"engine", "errors", "result"},
}
#: Entry points in a unit's folder.
ENTRIES = {"calibration/__main__.py": {"cli"}}


def unit_of(path: Path) -> str:
    """Of a module, by its path from the root: "engine/model/frame.py" is of "model"."""
    first, *rest = path.parts
    return first if first == "calibration" else rest[0].removesuffix(".py")


def units_used(path: Path, text: str) -> set[str]:
    """The units of the package that a module imports from, beside its own; ``path`` is from the root."""
    package = ("calibration", *path.parts[1:-1]) if path.parts[0] == "calibration" else path.parts[1:-1]
    used = set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            whole = (*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else ()))
        elif (node.module or "").split(".")[0] == "densepose_engine":
            whole = tuple((node.module or "").split(".")[1:])
        else:
            continue
        used |= {whole[0]} if whole else {alias.name for alias in node.names} & set(MAY_USE)
    return used - {unit_of(path)}


def package_modules() -> list[Path]:
    return sorted(p.relative_to(ROOT) for folder in ("engine", "calibration") for p in (ROOT / folder).rglob("*.py"))


def violations(path: Path, text: str) -> set[str]:
    return units_used(path, text) - MAY_USE[unit_of(path)] - ENTRIES.get(path.as_posix(), set())


def test_every_unit_has_a_row() -> None:
    assert {unit_of(path) for path in package_modules()} <= set(MAY_USE)


@pytest.mark.parametrize("path", package_modules(), ids=lambda path: path.as_posix())
def test_a_module_imports_only_from_what_its_unit_stands_on(path: Path) -> None:
    assert not violations(path, (ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "text", "wrong"),
    [
        ("engine/model/frame.py", "from ..backends import Session", "backends"),
        ("engine/model/frame.py", "def f():\n    from ..backends.openvino import load", "backends"),
        ("engine/engine.py", "from .export import network", "export"),
        ("engine/engine.py", "from densepose_engine.calibration.table import CalibrationTable", "calibration"),
        ("engine/result.py", "from . import compile", "compile"),
        ("engine/decoders/charts.py", "from ..outputs.overlays import draw", "outputs"),
        ("engine/backends/openvino/session.py", "from ...calibration.table import CalibrationTable", "calibration"),
        ("engine/backends/openvino/session.py", "from ...export import network", "export"),
        ("engine/compile/build.py", "from ..commands.terminal import say", "commands"),
        ("engine/evaluation/gps.py", "from ..export import network", "export"),
        ("engine/evaluation/gps.py", "from ..commands.progress import ProgressBar", "commands"),
        ("engine/benchmarking/bench.py", "from ..commands.progress import ProgressBar", "commands"),
        ("engine/outputs/kinds.py", "from ..export import network", "export"),
        ("engine/export/__init__.py", "from ..commands.progress import ProgressBar", "commands"),
        ("calibration/judge/keep_float.py", "from ...engine import Engine", "engine"),
        ("calibration/place/points.py", "from ...export.graph import join", "export"),
        ("calibration/table.py", "from ..commands.terminal import say", "commands"),
    ],
)  # fmt: skip
def test_a_violated_row_is_noticed(path: str, text: str, wrong: str) -> None:
    assert violations(Path(path), text) == {wrong}


def included_files(path: Path) -> set[str]:
    return set(re.findall(r'#include\s*[<"]([^>"]+)[>"]', path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", HEAVY)
def test_importing_the_package_imports_no_runtime(module: str) -> None:
    code = f"import sys, densepose_engine, densepose_engine.cli; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, f"{module} was imported"


@pytest.mark.parametrize("unit", ["model", "files"])
def test_the_ground_floor_asks_for_a_runtime_only_in_a_function(unit: str) -> None:
    files = list((ROOT / "engine" / unit).glob("*.py"))
    assert len(files) > 2
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        above = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in above if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in above if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {name.split(".")[0] for name in names} & set(HEAVY), path.name


def test_the_metadata_s_and_the_nodes_names_stand_in_one_place() -> None:
    """Who else writes them down has a second opinion."""
    for path in [*ROOT.glob("engine/**/*.py"), *ROOT.glob("calibration/**/*.py")]:
        if path.parent.name == "model":
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^_?(METADATA|GRAPH_VERSION|_?DOMAIN) *=", text, re.MULTILINE), path.name
        quoted = re.findall(r'"(GenerateProposals|MultilevelRoiAlign|BoxDetections)"', text)
        # What bench prints of an op that it calls itself is a layer's type.
        assert not quoted or path.name in ("session.py", "stages.py"), path.name
        assert not re.search(r"inputs(\(\))?\[:?-", text), f"{path.name} counts inputs from the end"


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
