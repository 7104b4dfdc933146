"""Hostile engines and cache entries: damaged containers, and valid hashes around hostile contents."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from random import Random
from typing import Any

from densepose_engine import Engine, cli
from densepose_engine.errors import BackendUnavailable, EngineFileError, InferenceError
from densepose_engine.model.engine_file import read_engine_file, read_manifest

from . import material
from .mutation import changed_bytes, changed_tree, paths
from .target import Target, check_exit, check_same

LOADING = {"num_threads": 1, "num_requests": 1, "warm_up": 2}
_OPENVINO_MEMORY = 6 << 30


def pack(manifest: Any, payload: dict[str, bytes], largest: bool = False) -> bytes:
    """An engine file whose sizes and hashes are those of ``payload``; ``largest``: all members compressed."""
    described = manifest.get("payload") if isinstance(manifest, dict) else None
    if isinstance(described, dict):
        for name, data in payload.items():
            if isinstance(described.get(name), dict):
                described[name].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        deflated = zipfile.ZIP_DEFLATED
        archive.writestr(zipfile.ZipInfo("manifest.json"), json.dumps(manifest), deflated)
        for name, data in payload.items():
            archive.writestr(zipfile.ZipInfo(name), data, deflated if largest or name.endswith(".xml") else 0)
    return buffer.getvalue()


def unpack(engine: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and payload."""
    with zipfile.ZipFile(engine) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(members.pop("manifest.json")), members


def load_and_infer(path: Path) -> None:
    """What a user does with an engine."""
    with Engine.load(path, cache_dir=None, **LOADING) as engine:
        engine.infer(material.picture(48, 64), score_threshold=0.1)


def run_verb(*words: object) -> None:
    """In this process; raises ``WrongExit`` for an exit code that no user can cause."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main([str(word) for word in words])
    check_exit(code, said.getvalue())


class EngineContainer(Target):
    """The zip itself: any byte may be changed, members may be added, doubled or huge."""

    name = "engine-container"
    inputs = 15_000
    allowed = (EngineFileError,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._manifest, _ = unpack(material.ENGINE)
        self._manifest["model"]["layers"] = []
        self._payload = {"model.xml": b"<net>" * 40, "model.bin": bytes(range(256))}
        self._seed = pack(self._manifest, self._payload)

    def make(self, rng: Random) -> tuple[bytes, str]:
        if rng.random() < 0.998:
            return changed_bytes(self._seed, rng), ".engine"
        size = rng.choice([1 << 20, 64 << 20])
        more = {f"model{number}.xml": b"\0" * size for number in range(rng.choice([1, 4]))}
        manifest = {**self._manifest, "payload": {name: {} for name in {**self._payload, **more}}}
        return pack(manifest, {**self._payload, **more}, largest=True), ".engine"

    def run(self, path: Path) -> None:
        read_manifest(path)
        read_engine_file(path)


class EngineInspect(Target):
    """``inspect`` on manifests that say anything."""

    name = "engine-inspect"
    inputs = 4000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._manifest, self._payload = unpack(material.ENGINE)
        self._payload = {name: data[:8] for name, data in self._payload.items()}
        self._places = _weighed(self._manifest)

    def make(self, rng: Random) -> tuple[bytes, str]:
        return pack(changed_tree(self._manifest, rng, self._places), self._payload), ".engine"

    def run(self, path: Path) -> None:
        run_verb("inspect", path)
        run_verb("inspect", path, "--json")


class EngineManifest(Target):
    """A good graph, and a manifest that says anything of it: refused when loaded, or it runs."""

    name = "engine-manifest"
    inputs = 400
    allowed = (EngineFileError, BackendUnavailable, InferenceError)
    memory = _OPENVINO_MEMORY
    seconds = 20.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._manifest, self._payload = unpack(material.ENGINE)
        self._manifest["model"]["layers"] = self._manifest["model"]["layers"][:2]
        self._places = _weighed(self._manifest)

    def make(self, rng: Random) -> tuple[bytes, str]:
        return pack(changed_tree(self._manifest, rng, self._places), self._payload), ".engine"

    def run(self, path: Path) -> None:
        load_and_infer(path)


def _weighed(manifest: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Where to change; what decides how the engine runs comes up more often than the list of its layers."""
    places = list(paths(manifest))
    weighty = [place for place in places if len(place) > 1 and place[0] == "model" and place[1] != "layers"]
    return places + 4 * weighty


_OURS = re.compile(
    r"\b(?:capacity|strides|anchors|pooled_size|sampling_ratio|aligned|canonical_box_size|canonical_level|zero_point"
    r'|layout|static_rows|pre_nms_topk|nms_threshold|min_size|bbox_weights|anchor_offset)(?:_exact)?="([^"]*)"'
)
_VENDORS = re.compile(
    r"\b(?:offset|size|shape|element_type|pads_begin|pads_end|dilations|axis|auto_broadcast|transpose_a|transpose_b"
    r'|output_type|to-layer|from-layer|to-port|from-port|type|version)="([^"]*)"'
)
_DIMENSIONS = re.compile(r"<dim>([^<]*)</dim>")
_TEXTS = (
    *("0", "-1", "1", "2", "1099511627776", "4611686018427387904", "9223372036854775807", "2147483647", "100000000"),
    *("1e39", "nan", "inf", "", "x", "NHWC", "NCHW", "true", "1,2", "4, 8", "4, 8, 16, 32, 64", "0x1p+200"),
    *("-0x1p+3 " * 80, "1000000", "u8", "i64", "boolean", "f16", "string", "1,2,3,4,5,6,7", "dynamic", "Result"),
    *("Parameter", "opset99", "densepose", "GenerateProposals", "BoxDetections", "MultilevelRoiAlign"),
)


class EngineGraph(Target):
    """A good manifest, valid hashes, and attributes, shapes, edges and weights of the graph that are not so good."""

    name = "engine-graph"
    inputs = 900
    allowed = (EngineFileError, BackendUnavailable, InferenceError)
    memory = _OPENVINO_MEMORY
    seconds = 30.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        engines = [unpack(path) for path in (material.ENGINE, material.INT8_ENGINE, material.DYNAMIC_ENGINE)]
        self._engines = [(manifest, payload, _spots(payload["model.xml"].decode())) for manifest, payload in engines]

    def make(self, rng: Random) -> tuple[bytes, str]:
        manifest, payload, spots = rng.choice(self._engines)
        xml = payload["model.xml"].decode()
        edits = {}
        for _ in range(rng.choice([1, 1, 1, 2])):
            begin, end = rng.choice(rng.choice(spots))
            edits[begin] = (end, _another(xml[begin:end], rng))
        for begin in sorted(edits, reverse=True):
            end, text = edits[begin]
            xml = xml[:begin] + text + xml[end:]
        weights = payload["model.bin"]
        if rng.random() < 0.1:
            weights = changed_bytes(weights, rng, changes=50)
        return pack(manifest, {**payload, "model.xml": xml.encode(), "model.bin": weights}), ".engine"

    def run(self, path: Path) -> None:
        load_and_infer(path)


def _spots(xml: str) -> list[list[tuple[int, int]]]:
    found = [[match.span(1) for match in pattern.finditer(xml)] for pattern in (_OURS, _OURS, _VENDORS, _DIMENSIONS)]
    return [spots for spots in found if spots]


def _another(text: str, rng: Random) -> str:
    if re.fullmatch(r"-?\d{1,18}", text) and rng.random() < 0.4:
        value = int(text)
        return str(rng.choice([value * 2, value + 1, value - 1, -value, value * 1000, value // 2]))
    return rng.choice(_TEXTS)


class CacheEntries(Target):
    """Damaged, exchanged and foreign entries of the folder of compiled graphs: the results stay right."""

    name = "cache-entries"
    inputs = 250
    memory = _OPENVINO_MEMORY
    seconds = 30.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        cache = folder / "pristine"
        self._picture = material.picture(48, 64)
        with Engine.load(material.INT8_ENGINE, cache_dir=None, **LOADING) as engine:
            self._expected = engine.infer(self._picture, score_threshold=0.1)
        Engine.load(material.INT8_ENGINE, cache_dir=cache, **LOADING).close()
        self._entries = {str(p.relative_to(cache)): p.read_bytes() for p in sorted(cache.rglob("*")) if p.is_file()}

    def make(self, rng: Random) -> tuple[bytes, str]:
        entries = dict(self._entries)
        names = sorted(entries)
        for _ in range(rng.choice([1, 1, 2])):
            name, other, kind = rng.choice(names), rng.choice(names), rng.random()
            if kind < 0.35 and entries[name]:  # one bit, anywhere
                flipped = bytearray(entries[name])
                flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
                entries[name] = bytes(flipped)
            elif kind < 0.7:
                entries[name] = changed_bytes(entries[name], rng, entries[other]) or b"\0"
            elif kind < 0.9:
                entries[name], entries[other] = entries[other], entries[name]
            else:
                entries[name] = rng.choice([b"", entries[other], entries[name][: len(entries[name]) // 2]])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in entries.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return buffer.getvalue(), ".zip"

    def run(self, path: Path) -> None:
        cache = self.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(mode=0o700)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(cache)
        for entry in cache.rglob("*"):
            entry.chmod(0o700 if entry.is_dir() else 0o600)
        with Engine.load(material.INT8_ENGINE, cache_dir=cache, **LOADING) as engine:
            check_same(engine.infer(self._picture, score_threshold=0.1), self._expected, "a damaged cache")
