"""``_core.pyi`` says of the compiled core what is in it, no more and no less."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from densepose_engine import _core

STUB = ast.parse((Path(__file__).resolve().parent.parent / "engine/_core.pyi").read_text(encoding="utf-8"))
TOP = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def public(thing: Any) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def members(node: ast.AST) -> set[str]:
    assert isinstance(node, ast.ClassDef)
    names = {one.name for one in node.body if isinstance(one, ast.ClassDef | ast.FunctionDef)}
    return {name for name in names if not name.startswith("_")}


def test_names() -> None:
    assert {name for name in TOP if not name.startswith("_")} == public(_core)
    assert members(TOP["ops"]) == public(_core.ops)
    for name, node in TOP.items():
        if isinstance(node, ast.ClassDef) and name not in ("ops", "_Op"):
            assert members(node) == public(getattr(_core, name)), name


@pytest.mark.parametrize("name", [name for name, node in TOP.items() if isinstance(node, ast.FunctionDef)])
def test_arguments(name: str) -> None:
    """By the signature that the binding writes into its documentation."""
    node = TOP[name]
    assert isinstance(node, ast.FunctionDef)
    signature = getattr(_core, name).__doc__.splitlines()[0]
    assert [one.arg for one in node.args.args] == re.findall(r"(?:\(|, )(\w+): ", signature)
    assert len(node.args.defaults) == signature.count(" = ")
