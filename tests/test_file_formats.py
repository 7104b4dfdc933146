"""docs/engine-file.md and docs/result-file.md: other programs can read what we write, and what is wrong is refused."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from descriptions import description_json

from densepose_engine import Engine
from densepose_engine.files.fields import FieldError
from densepose_engine.model.engine_file import MEMBERS, Manifest, read_manifest

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / "docs/schemas/manifest.schema.json").read_text(encoding="utf-8"))
HOSTILE = sorted((ROOT / "tests/data/hostile").glob("*.json"))


def good_manifest() -> dict[str, Any]:
    entry = {"size": 12, "sha256": "0" * 64}
    return {
        "format": "densepose-engine",
        "format_version": 1,
        "backend": "openvino",
        "precision": "int8",
        "runtime": {"openvino": "2026.4.1"},
        "payload": {"model.xml": dict(entry), "model.bin": dict(entry)},
        "model": description_json(),
    }


def is_described(manifest: object) -> bool:
    return not list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(manifest))


def test_the_schema_describes_what_is_written(demo_engine: Path, demo_int8_engine: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(good_manifest(), SCHEMA)
    for engine in (demo_engine, demo_int8_engine):
        jsonschema.validate(read_manifest(engine).to_json(), SCHEMA)
    with_embeddings = good_manifest()
    tensor = {"name": "vertex_embeddings/0", "dtype": "float32", "shape": [50, 16]}
    with_embeddings["model"]["decoder"] = {"kind": "embeddings", "tensors": [tensor], "settings": {"meshes": ["a"]}}
    jsonschema.validate(with_embeddings, SCHEMA)
    assert Manifest.from_json(with_embeddings).to_json() == with_embeddings


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_hostile_manifests_are_refused_by_the_reader_and_the_schema(path: Path) -> None:
    attack = json.loads(path.read_text(encoding="utf-8"))
    manifest = copy.deepcopy(good_manifest())
    *way, last = attack["path"]
    place = manifest
    for key in way:
        place = place[key]
    if attack["value"] is None:
        del place[last]
    else:
        place[last] = attack["value"]
    with pytest.raises(FieldError, match=re.escape(attack["said"])):
        Manifest.from_json(manifest)
    assert not is_described(manifest)


def test_the_pages_name_what_there_is(demo_engine: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs/engine-file.md").read_text(encoding="utf-8")
    for name in (*{member for members in MEMBERS.values() for member in members}, "decoder.bin", "manifest.json"):
        assert f"`{name}`" in page
    for key in (*good_manifest(), *good_manifest()["model"]):
        assert f"`{key}`" in page, key
    page = (ROOT / "docs/result-file.md").read_text(encoding="utf-8")
    with Engine.load(demo_engine) as engine:
        engine.infer(ROOT / "models/person.jpg").save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        for name in file.files:
            assert f"`{re.sub('_[0-9]+$', '_K', name)}`" in page, name
