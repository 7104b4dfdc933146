"""How fast an engine is, where its time goes, and how it stands against others, as one dictionary."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..backends import find_backend
from ..decoders import DetectionResult
from ..engine import Engine
from ..errors import InferenceError
from ..model.engine_file import Manifest, read_manifest
from .agreement import compare_results
from .footprint import footprint
from .machine import Watch, describe_machine
from .stages import profile
from .timing import Effort, Times, drift, interleave, measure, pair_ratios, summarize

FRAME_SIZE = (480, 640)
PEOPLE_SWEEP = (0, 1, 2, 4, 8)


class Contender(Protocol):
    """What is timed against an engine; ``Engine`` is one itself."""

    precision: str

    def infer(self, image: np.ndarray, **settings: Any) -> DetectionResult: ...

    def close(self) -> None: ...


@runtime_checkable
class ByParts(Protocol):
    """A contender that knows where its time goes, and how many regions its box head looks at."""

    def parts_ms(self) -> dict[str, float]: ...

    def proposals(self) -> float: ...


@dataclass(frozen=True)
class BenchOptions:
    """What ``bench`` measures.

    ``people``: this many per picture (score threshold 0, so that there are), None for what the model finds;
    ``max_proposals``: None for the model's own; ``streams``: callers at once, each with a graph of its own;
    ``sweep``: counts of people to measure one after the other, None for 0, 1, 2, 4 and 8 as far as the graph has room;
    ``profile``, ``footprint``: whether to run these parts.
    """

    effort: Effort = field(default_factory=Effort)
    percentiles: tuple[float, ...] = (90, 95, 99)
    people: int | None = 2
    max_proposals: int | None = None
    streams: int = 1
    device: str | None = None
    threads: int | None = None
    cache_dir: Path | str | None = "auto"
    sweep: tuple[int, ...] | None = None
    profile: bool = True
    footprint: bool = True

    def settings(self, people: int | None) -> dict[str, Any]:
        """Keywords of ``infer`` that give this many people."""
        chosen: dict[str, Any] = {} if people is None else {"score_threshold": 0.0, "max_people": people}
        if self.max_proposals is not None:
            chosen["max_proposals"] = self.max_proposals
        return chosen


def noise_frame(size: tuple[int, int] = FRAME_SIZE) -> np.ndarray:
    """The picture that is measured where none is given: uint8 noise, the same in every run."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def bench(
    path: str | os.PathLike[str],
    options: BenchOptions | None = None,
    pictures: Sequence[np.ndarray] = (),
    *,
    compare: str | os.PathLike[str] | None = None,
    peers: Mapping[str, Callable[[], Contender]] | None = None,
    references: Mapping[str, float] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> tuple[dict[str, Any], Times]:
    """Measure the engine at ``path``: whole frames, uint8 array in, result at that size out.

    Args:
        pictures: uint8 RGB arrays, taken in turn; none: a frame of 640 x 480 pixels of noise.
        compare: another engine, which takes turns with this one.
        peers: the same network in other runtimes, by name; each is made when its turn comes, and closed after it.
        references: milliseconds that were measured elsewhere, by name.
        on_stage: told what is being done, for a progress display.

    Returns:
        The report, ready for JSON, and every run of the main measurement.

    Raises:
        ValueError: an option is out of range, or does not go with another.
        InferenceError: a peer of the same precision does not find the same people, or a runtime failed.
        Others: as ``Engine.load``.
    """
    options = options or BenchOptions()
    if options.streams > 1 and (compare is not None or peers):
        raise ValueError("comparing is done one frame at a time; leave out streams, compare or the peers")
    frames = list(pictures) or [noise_frame()]
    stage = on_stage or (lambda name: None)
    manifest = read_manifest(path)
    report: dict[str, Any] = {
        "engine": _describe_engine(Path(path), manifest),
        "machine": describe_machine(),
        "settings": {
            "people": options.people,
            "max_proposals": options.max_proposals or manifest.model.defaults.max_proposals,
            "threads": options.threads,
            "streams": options.streams,
            "pictures": len(frames),
            "picture_sizes": sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames}),
        },
        "warnings": [],
    }
    if options.footprint:
        stage("loading in a process of its own")
        report["load"] = footprint(Path(path), device=options.device, threads=options.threads)
    stage("loading")
    with _load(path, options) as engine:
        if options.sweep is None:
            room = engine.description.capacity.max_people
            options = replace(options, sweep=tuple(count for count in PEOPLE_SWEEP if count <= room))
        report["warnings"] += _people_warnings(engine, frames, options)
        stage("measuring latency")
        times, measured, warnings = _latency(engine, frames, options)
        report |= measured
        report["warnings"] += warnings
        report["people"] = _sweep(engine, frames, options, stage)
        if options.profile and not find_backend(manifest.backend).device.times_layers:
            report["warnings"].append(f"no split by stage: the {manifest.backend} backend does not time layers")
        elif options.profile:
            stage("profiling")
            report["profile"] = _profile(path, frames, options)
        if compare is not None:
            stage(f"comparing with {Path(compare).name}")
            report["compare"] = _compare(engine, compare, frames, options)
        report["vs"] = _against_peers(engine, peers or {}, frames, options, stage)
    median = report["latency_ms"]["median"]
    report["references"] = {
        name: {"median_ms": value, "ratio": value / median} for name, value in (references or {}).items()
    }
    if "torch" in report["vs"]:
        # A time that was measured elsewhere keeps a slow torch from flattering the engine.
        ratios = [report["vs"]["torch"]["ratio"], *(other["ratio"] for other in report["references"].values())]
        report["vs"]["torch"]["claimed_ratio"] = min(ratios)
    return report, times


def _latency(
    engine: Engine, frames: Sequence[np.ndarray], options: BenchOptions
) -> tuple[Times, dict[str, Any], list[str]]:
    """Every run of the main measurement, what a report says of them, and warnings."""
    with Watch() as watch:
        times = measure(_runner(engine, frames, options.settings(options.people)), options.effort, options.streams)
    latency = summarize(times.milliseconds, options.percentiles)
    measured = {"throughput": times.throughput, "wall_s": times.wall, "latency_ms": latency, "watch": watch.to_dict()}
    return times, measured, watch.warnings(latency["cv"], drift(times.milliseconds))


def _sweep(
    engine: Engine, frames: Sequence[np.ndarray], options: BenchOptions, stage: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Latency by the number of people."""
    rows = []
    effort = replace(options.effort, duration=options.effort.duration / 3)
    for count in options.sweep or ():
        stage(f"measuring {count} people")
        swept = measure(_runner(engine, frames, options.settings(count)), effort)
        rows.append({"people": count, **summarize(swept.milliseconds, options.percentiles)})
    return rows


def _compare(
    engine: Engine, path: str | os.PathLike[str], frames: Sequence[np.ndarray], options: BenchOptions
) -> dict[str, Any]:
    """Another engine, in turns with this one."""
    with _load(path, options) as other:
        return {
            "engine": _describe_engine(Path(path), read_manifest(path)),
            **_against(engine, other, frames, options, must_agree=False),
        }


def _against_peers(
    engine: Engine,
    peers: Mapping[str, Callable[[], Contender]],
    frames: Sequence[np.ndarray],
    options: BenchOptions,
    stage: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Each peer, in turns with the engine; it is made when its turn comes, and closed after it."""
    found = {}
    for name, make in peers.items():
        stage(f"comparing with {name}")
        peer = make()
        try:
            same = peer.precision == engine.precision == "fp32"
            found[name] = _against(engine, peer, frames, options, must_agree=same, name=name)
            found[name]["note"] = getattr(peer, "note", "")
        finally:
            peer.close()
    return found


def _load(path: str | os.PathLike[str], options: BenchOptions) -> Engine:
    return Engine.load(
        path,
        device=options.device,
        num_threads=options.threads,
        num_requests=options.streams,
        num_streams=options.streams,
        cache_dir=options.cache_dir,
    )


def _describe_engine(path: Path, manifest: Manifest) -> dict[str, Any]:
    model = manifest.model
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "architecture": model.architecture,
        "precision": manifest.precision,
        "backend": manifest.backend,
        "runtime": dict(manifest.runtime),
        "input_size": list(model.input.size) if model.input.size else None,
        "parameters": model.provenance.get("parameters"),
    }


def _runner(
    contender: Contender | Engine, frames: Sequence[np.ndarray], settings: Mapping[str, Any]
) -> Callable[[int], object]:
    return lambda number: contender.infer(frames[number % len(frames)], **settings)


def _people_warnings(engine: Engine, frames: Sequence[np.ndarray], options: BenchOptions) -> list[str]:
    """Whether the pictures give as many people as were asked for; only then are figures of that count."""
    wanted = {options.people, *(options.sweep or ())} - {None}
    most = max((count for count in wanted if count is not None), default=0)
    least = min(len(engine.infer(frame, **options.settings(most))) for frame in frames)
    if least >= most:
        return []
    return [f"a picture has only {least} boxes apart from each other where {most} people were asked for"]


def _profile(path: str | os.PathLike[str], frames: Sequence[np.ndarray], options: BenchOptions) -> dict[str, Any]:
    settings = options.settings(options.people)
    # Not from the cache: it would fill it with a graph that nobody runs again.
    with Engine.load(
        path,
        device=options.device,
        num_threads=options.threads,
        num_requests=1,
        cache_dir=None,
        warm_up=0,
        profile=True,
    ) as engine:
        return profile(engine, frames, settings, options.effort.duration / 2, options.effort.iterations)


def _against(
    engine: Engine,
    other: Contender | Engine,
    frames: Sequence[np.ndarray],
    options: BenchOptions,
    must_agree: bool,
    name: str = "the other",
) -> dict[str, Any]:
    settings = options.settings(options.people)
    agreement = compare_results((engine.infer(f, **settings), other.infer(f, **settings)) for f in frames)
    if must_agree and not agreement.exact:
        raise InferenceError(
            f"{name} does not find what the engine finds, so their times are not compared: {agreement}"
        )
    runners = {"ours": _runner(engine, frames, settings), "theirs": _runner(other, frames, settings)}
    with Watch() as watch:
        turns = interleave(runners, options.effort)
    ratios = pair_ratios(turns["ours"], turns["theirs"])
    sides = {side: summarize(np.concatenate(values), options.percentiles) for side, values in turns.items()}
    result = {
        "precision": other.precision,
        "ratio": float(np.median(ratios)),
        "ratio_quartiles": [float(x) for x in np.percentile(ratios, (25, 75))],
        "ratios": [float(x) for x in ratios],
        "ours_ms": sides["ours"],
        "theirs_ms": sides["theirs"],
        "agreement": agreement.to_dict(),
        "agreement_text": str(agreement),
        "watch": watch.to_dict(),
        "warnings": watch.warnings(0.0, 0.0),
    }
    if isinstance(other, ByParts):
        result["parts_ms"] = other.parts_ms()
        result["proposals"] = other.proposals()
    return result
