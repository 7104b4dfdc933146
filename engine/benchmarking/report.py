"""A benchmark's report for people, in the order and with the words of trtexec's summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..wording import megabytes, printable

_BAR = 30


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report's lines."""
    engine, machine, settings = report["engine"], report["machine"], report["settings"]
    size = "x".join(map(str, engine["input_size"])) if engine["input_size"] else "dynamic"
    runtime = ", ".join(f"{name} {version}" for name, version in engine["runtime"].items())
    yield "=== Engine ==="
    yield f"{printable(engine['path'])}: {printable(engine['architecture'])}, {engine['precision']}, input {size}"
    yield f"{megabytes(engine['bytes'])} on disk, built with {runtime}"
    yield ""
    yield "=== Machine ==="
    virtual = ", virtual" if machine["virtual"] else ""
    kind = f"{machine['instruction_set']}{virtual}"
    yield f"{machine['cpu']}, {machine['cores']} cores ({kind}), {machine['memory_gb']} GB"
    yield f"power mode: {machine['power_mode']}; {machine['system']}, Python {machine['python']}"
    if "load" in report:
        yield ""
        yield "=== Load (a process of its own each) ==="
        for name, text in (("cold", "nothing compiled before"), ("cached", "graph from the cache")):
            load = report["load"][name]
            yield (
                f"{name + ':':8}{load['load_s']:.2f} s with warm-up ({text}), first frame "
                f"{1e3 * load['first_frame_s']:.1f} ms, memory {load['loaded_mb']:.0f} MB loaded, "
                f"{load['peak_mb']:.0f} MB at peak"
            )
    yield ""
    yield "=== Performance summary ==="
    people = "as found" if settings["people"] is None else settings["people"]
    sizes = ", ".join(settings["picture_sizes"])
    yield (
        f"Frame: {sizes} uint8 in, result at that size out; people: {people}; proposals: {settings['max_proposals']}; "
        f"threads: {settings['threads'] or 'all'}; streams: {settings['streams']}"
    )
    yield f"Throughput: {report['throughput']:.2f} frames per second"
    yield f"Latency: {_latency(report['latency_ms'])}"
    yield (
        f"Total walltime: {report['wall_s']:.2f} s, {report['latency_ms']['iterations']} iterations, coefficient of "
        f"variation {report['latency_ms']['cv']:.1%}"
    )
    if report["people"]:
        yield ""
        yield "=== People per picture ==="
        for row in report["people"]:
            yield f"{row['people']:2d}: {_latency(row)}"
    if "profile" in report:
        yield ""
        yield from _profile(report["profile"])
    if "compare" in report:
        other = report["compare"]
        yield ""
        yield f"=== Compared with {printable(other['engine']['path'])} ({other['engine']['precision']}) ==="
        yield from _versus(other)
    for name, other in report["vs"].items():
        yield ""
        yield f"=== Against {name} ({other['precision']}) ==="
        if other["note"]:
            yield other["note"]
        yield from _versus(other)
    for name, other in report["references"].items():
        yield ""
        yield f"=== Against {printable(name)}, measured elsewhere ==="
        yield f"{other['median_ms']:.1f} ms: this engine is {other['ratio']:.2f} times as fast"
    if report["references"] and "torch" in report["vs"]:
        yield ""
        yield f"To be claimed against torch, the smallest of these: {report['vs']['torch']['claimed_ratio']:.2f}"
    if report["warnings"]:
        yield ""
        for warning in report["warnings"]:
            yield f"[W] {warning}"


def _latency(values: Mapping[str, Any]) -> str:
    parts = [f"{name} = {values[name]:.3f} ms" for name in ("min", "max", "mean", "median")]
    parts += [f"percentile({p}%) = {value:.3f} ms" for p, value in values["percentiles"].items()]
    return ", ".join(parts)


def _profile(profile: Mapping[str, Any]) -> Iterator[str]:
    yield f"=== Stages (a run of its own, {profile['frames']} frames; counting costs time) ==="
    total = profile["total_ms"]
    for stage, value in profile["stages_ms"].items():
        share = value / total
        yield f"{stage:16}{value:9.3f} ms {share:6.1%}  {'#' * round(_BAR * max(share, 0))}"
    yield f"{'frame':16}{total:9.3f} ms"
    yield (
        f"Convolutions and matrix products: {profile['matrix_ms']:.3f} ms; everything else: "
        f"{profile['outside_matrix_share']:.1%} of the frame"
    )


def _versus(other: Mapping[str, Any]) -> Iterator[str]:
    yield f"Agreement: {other['agreement_text']}"
    yield f"Ours:   {_latency(other['ours_ms'])}"
    yield f"Theirs: {_latency(other['theirs_ms'])}"
    if "parts_ms" in other:
        yield "Theirs by part: " + ", ".join(f"{name} {value:.1f} ms" for name, value in other["parts_ms"].items())
        yield f"Proposals that there were: {other['proposals']:.0f}"
    low, high = other["ratio_quartiles"]
    yield (
        f"Ratio: {other['ratio']:.2f} (median of {len(other['ratios'])} pairs taken in turns; half of them "
        f"{low:.2f} to {high:.2f}): above 1, this engine is faster"
    )
    for warning in other["warnings"]:
        yield f"[W] {warning}"


def layer_lines(profile: Mapping[str, Any]) -> Iterator[str]:
    """``--dumpProfile``: every layer of the graph."""
    yield "=== Profile ==="
    yield f"{'Time(ms)':>10} {'Avg(ms)':>9} {'Time(%)':>7}  {'Stage':15} Layer (type, kernel)"
    for layer in profile["layers"]:
        yield (
            f"{layer['timeMs']:10.2f} {layer['averageMs']:9.4f} {layer['percentage']:7.1f}  "
            f"{layer['stage']:15} {printable(layer['name'])} ({layer['type']}, {layer['kernel']})"
        )
