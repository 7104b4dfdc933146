"""Hostile inputs of export: checkpoints of every kind, and configurations."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml

from densepose_engine.errors import CheckpointError, ConfigError
from densepose_engine.export.checkpoint.load import load_checkpoint
from densepose_engine.export.config.model_config import load_config

from .counts import ROOT
from .mutation import changed_archive, changed_bytes, changed_tree
from .target import Target


class Checkpoint(Target):
    """Archives and pickles of torch, old and new, and numpy's pickles of every protocol."""

    name = "checkpoint"
    inputs = 8000
    allowed = (CheckpointError,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        weights = {"a.weight": torch.ones(3, 2, 1, 1), "a.bias": torch.arange(3.0), "b.batches": torch.tensor(4)}
        contents: tuple[Any, ...] = (
            {"model": weights, "iteration": 5},
            {"x": torch.nn.Parameter(torch.ones(4, 4).half())},
        )
        self._archives = [_saved(content) for content in contents]
        self._legacy = [_saved(content, _use_new_zipfile_serialization=False) for content in contents]
        arrays = {"model": {"a.weight": np.ones((3, 2), np.float32), "s": np.float32(1.5)}, "__author__": "x"}
        self._pickles = [pickle.dumps(arrays, protocol) for protocol in (2, 3, 4, 5)]

    def make(self, rng: Random) -> tuple[bytes, str]:
        kind = rng.random()
        if kind < 0.3:
            return changed_archive(rng.choice(self._archives), rng), ".pth"
        every = [*self._archives, *self._legacy, *self._pickles]
        data = rng.choice(self._archives if kind < 0.45 else self._legacy if kind < 0.65 else self._pickles)
        return changed_bytes(data, rng, rng.choice(every)), rng.choice([".pth", ".pkl"])

    def run(self, path: Path) -> None:
        load_checkpoint(path)


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


_TOKENS: tuple[bytes, ...] = (
    *(b"&a ", b"*a", b"!!python/object/apply:os.system ['id']", b"!!python/tuple [1,2]", b"!!binary aGk="),
    *(b"!!set {a}", b"<<: *a", b"[[[[[[", b"{a: {b: ", b"- ", b"? ", b": ", b"|\n", b"1e999", b".nan", b".inf"),
    *(b"0x7fffffffffffffff", b"1" * 6000, b"2001-01-01", b"~", b"_BASE_: /dev/zero\n", b"_BASE_: .\n"),
    *(b"_BASE_: ''\n", b"_BASE_: {}\n", b"_BASE_: ~nosuchuser/x\n", b"_BASE_: /dev/stdin\n", b"\xff\xfe", b"\x00"),
    *(b"%YAML 9.9\n---\n", b"---\n", b"!!timestamp 9999-99-99", b"!!float 'x'", b"1:99:99", b"!!omap [a: 1]"),
    *(b"!!int ''", b"!!float", b"!!bool", b"!!timestamp", b"'(1,'", b"'9**9**9'", b"'-'" * 50),
    *(b"'" + b"(" * 900 + b")" * 900 + b"'", b"&id001 [*id001, *id001]", b"[" * 5000, b"? " * 500),
)


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node, deep=True)
)


class Config(Target):
    """detectron2's YAML: other values, other trees, other bytes, and aliases in each other."""

    name = "config"
    inputs = 2000
    allowed = (ConfigError,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        files = [ROOT / "models" / "demo.yaml", *sorted((ROOT / "tests" / "data" / "keys").glob("*.yaml"))]
        self._seeds = [path.read_bytes() for path in files if path.stat().st_size < 20_000]
        self._trees = [yaml.load(seed, _Loader) for seed in self._seeds]

    def make(self, rng: Random) -> tuple[bytes, str]:
        kind = rng.random()
        if kind < 0.45:
            try:
                text = yaml.safe_dump(changed_tree(rng.choice(self._trees), rng))
            except (yaml.YAMLError, RecursionError):  # what PyYAML does not write
                text = "{}"
            return text.encode("utf-8", "surrogatepass"), ".yaml"
        if kind < 0.5:
            return _aliases(rng), ".yaml"
        data = bytearray(rng.choice(self._seeds))
        for _ in range(rng.choice([1, 2, 4])):
            at = rng.randrange(len(data))
            if rng.random() < 0.7:
                data[at : at + rng.choice([0, 0, 5])] = rng.choice(_TOKENS)
            else:
                data = bytearray(changed_bytes(bytes(data), rng, changes=1)) or bytearray(b" ")
        return bytes(data), ".yaml"

    def run(self, path: Path) -> None:
        load_config(path)


def _aliases(rng: Random) -> bytes:
    """A tree of which every level names the one below several times."""
    width, depth = rng.choice([2, 3, 9]), rng.choice([5, 20, 40])
    key = rng.choice(["MODEL", "STEPS", "x"])
    lines = ["a0: &a0 [x]"]
    if rng.random() < 0.5:
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    else:
        pairs = [", ".join(f"k{k}: *a{n - 1}" for k in range(width)) for n in range(1, depth)]
        lines += [f"a{n}: &a{n} {{{pair}}}" for n, pair in enumerate(pairs, 1)]
    return "\n".join([*lines, f"{key}: *a{depth - 1}", ""]).encode()
