"""A report as one HTML page that needs nothing else: no scripts, no fonts, no pictures from elsewhere."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .report import LayerCost, Report, TensorCost
from .report_plots import histogram, number, through_the_network
from .report_style import STYLE

_WORST = 8  # tensors that are shown before the rest, which is folded away
_WORST_LAYERS = 10


@dataclass(frozen=True)
class PicturePair:
    """A picture with both engines' results drawn on it, as JPEG or PNG files' bytes, and where these differ."""

    name: str
    reference: bytes
    other: bytes
    difference: bytes
    note: str
    """One line on how far they differ."""


def page(
    report: Report,
    *,
    title: str,
    pictures: Sequence[PicturePair] = (),
    drift: Mapping[str, Any] | None = None,
    yardstick: Mapping[str, float] | None = None,
    int8_mac_share: float | None = None,
) -> str:
    """The page.

    Args:
        title: what was quantized.
        drift: of the engines' results on the pictures, as in the JSON.
        yardstick: how far that is, as in the JSON.
        int8_mac_share: 0 .. 1, according to the compiled model.
    """
    sections = [
        _header(report, title, drift, yardstick, int8_mac_share),
        _pictures(pictures),
        _results(report),
        _profile(report),
        _tensors(report),
        _sharing(report),
        _layers(report),
        _provenance(report),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} – INT8 report</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _db(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return ("∞" if value > 0 else "−∞") if math.isinf(value) else f"{value:.1f}".replace("-", "−")


def _percent(value: float, digits: int = 1) -> str:
    """ "100%" is said of all alone, never of what rounds to it."""
    most = 100 if value >= 1 else 100 - 10.0**-digits
    return f"{min(100 * value, most):.{digits}f}%"


def _name(text: str) -> str:
    """A layer's or tensor's name, which may be broken after each of its parts."""
    return escape(text).replace("/", "/<wbr>").replace(".", ".<wbr>")


def _plural(count: int, one: str, more: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"


# ---- the top ---------------------------------------------------------------------------------------------------------


def _header(
    report: Report,
    title: str,
    drift: Mapping[str, Any] | None,
    yardstick: Mapping[str, float] | None,
    share: float | None,
) -> str:
    quantizer, images = report.quantizer, report.quantizer.table.images
    kept = len(report.placement.kept_float)
    vendor = {"openvino": "OpenVINO", "tensorrt": "TensorRT"}.get(quantizer.target.name, quantizer.target.name)
    lead = (
        f"Quantized for {vendor} with the <em>{quantizer.observer}</em> observer, from "
        f"{_plural(images.count, 'calibration picture')} with {_plural(quantizer.table.people, 'person', 'people')}. "
        + (f"{_plural(kept, 'layer')} kept in float. " if kept else "No layer was kept in float. ")
    )
    if drift is not None:
        lead += _moved(report, drift)
    if yardstick is not None and math.isfinite(yardstick["ratio"]):
        ratio, low, high = (yardstick[name] for name in ("ratio", "low", "high"))
        lead += f" That is {ratio:.2f} times ({low:.2f} to {high:.2f}) as far as one grey level of noise moves FP32."
    tiles: list[tuple[str, str, str]] = []
    if share is not None:
        tiles.append((_percent(share), "of the MACs in INT8", "according to the compiled model"))
    worst = report.tensors[0]
    kind = "measured" if worst.measured_sqnr_db is not None else "estimated"
    if report.results:
        lowest = next(iter(report.results))
        tiles.append((f"{_db(report.results[lowest])} dB", "worst result", _name(lowest)))
    tiles.append((f"{_db(worst.sqnr_db)} dB", "worst tensor", f"{_name(worst.name)}, {kind}"))
    if drift is not None and drift["matched"]:
        found = f"{_plural(drift['matched'], 'person', 'people')} in both"
        tiles.append((_percent(drift["part_agreement"]), "same body part", "where either engine has one"))
        tiles.append((f"{drift['box_iou']:.3f}", "mean box IoU", found))
        moved = f"{drift['only_reference']} lost, {drift['only_other']} new"
        tiles.append((f"{drift['mask_iou']:.3f}", "mean mask IoU", moved))
    cells = "".join(
        f"<div><dt>{label}</dt><dd><strong>{value}</strong><span>{note}</span></dd></div>"
        for value, label, note in tiles
    )
    return (
        f'<header><p class="eyebrow">INT8 report</p><h1>{escape(title)}</h1><p class="lead">{lead}</p>'
        f'<dl class="tiles">{cells}</dl></header>'
    )


def _moved(report: Report, drift: Mapping[str, Any]) -> str:
    """How far the results are from FP32's, and what the figure leaves out: people of one engine only."""
    where = f"Against FP32 on {_plural(report.measured_on, 'picture')}"
    if report.calibrated_on:
        where += f" ({report.calibrated_on} calibrated on, by name, which flatters)"
    alone = f"{_plural(drift['only_reference'], 'person', 'people')} lost and {drift['only_other']} new"
    if not drift["matched"]:
        return f"{where}, there is nobody whom both engines find; {alone}."
    share, people = _percent(drift["part_agreement"]), _plural(drift["matched"], "person", "people")
    return (
        f"{where}, the same body part on {share} of the pixels that either engine calls one, on average over the "
        f"{people} whom both find; {alone}."
    )


def _pictures(pictures: Sequence[PicturePair]) -> str:
    if not pictures:
        return ""
    figures = []
    for pair in pictures:
        columns = "".join(
            f'<div><img src="{_data_url(data)}" alt="{escape(pair.name)}, {label}"><span>{label}</span></div>'
            for data, label in ((pair.reference, "FP32"), (pair.other, "INT8"), (pair.difference, "another part"))
        )
        caption = f"<figcaption><b>{escape(pair.name)}</b> {escape(pair.note)}</figcaption>"
        figures.append(f'<figure><div class="triple">{columns}</div>{caption}</figure>')
    return f'<section><h2>Side by side</h2><div class="pictures">{"".join(figures)}</div></section>'


def _data_url(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _results(report: Report) -> str:
    if not report.results:
        return ""
    finite = [value for value in report.results.values() if math.isfinite(value)]
    longest = max(finite, default=1.0)
    rows = "".join(
        f'<tr><th scope="row">{_name(name)}</th><td class="bar">'
        f'<span style="width:{_share(value, longest):.1f}%"></span></td><td>{_db(value)}</td></tr>'
        for name, value in report.results.items()
    )
    return (
        "<section><h2>What comes out</h2><p>Signal-to-quantization-noise ratio of what the network hands on, measured "
        f"on {_plural(report.measured_on, 'picture')}, with the boxes that FP32 finds. 20 dB is an error of a tenth, "
        "40 dB of a hundredth.</p>"
        '<table class="bars"><thead><tr><th>result</th><th></th><th>dB</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


def _share(value: float, longest: float) -> float:
    if not math.isfinite(value):
        return 100.0 if value > 0 else 0.0  # nothing was lost, or nothing was seen
    return max(min(100 * value / longest, 100.0), 0.5)


def _profile(report: Report) -> str:
    plot = through_the_network(report.tensors)
    measured = (
        '<span class="key-measured"></span> measured, with everything before the tensor in it'
        if report.measured_on
        else ""
    )
    return (
        "<section><h2>Through the network</h2><p>Every tensor that has a scale, in the order of execution, in dB. "
        f'<span class="keys">{measured} <span class="key-estimate"></span> estimated cost of its own scale alone</span>'
        f"</p>{plot}</section>"
    )


def _tensors(report: Report) -> str:
    cards = [_card(one) for one in report.tensors]
    rest = len(cards) - _WORST
    folded = (
        f"<details><summary>{_plural(rest, 'other tensor')}, {_db(report.tensors[_WORST].sqnr_db)} dB and better"
        f'</summary><div class="cards">{"".join(cards[_WORST:])}</div></details>'
        if rest > 0
        else ""
    )
    return (
        "<section><h2>Tensors, worst first</h2><p>Counts are on a logarithmic scale, exact zeros left out. "
        '<span class="keys"><span class="key-inside"></span> values that the integers reach '
        '<span class="key-outside"></span> values that are clipped</span></p>'
        f'<div class="cards">{"".join(cards[:_WORST])}</div>{folded}</section>'
    )


def _card(one: TensorCost) -> str:
    zeros = one.statistics.zeros / max(one.statistics.count, 1)
    facts = [
        f"{one.scale.dtype}, step {number(one.scale.scale)}"
        + (f", zero at {one.scale.zero_point}" if one.scale.zero_point else ""),
        f"{number(one.low)} to {number(one.high)}",
    ]
    if one.clipped:
        facts.append(f"{_percent(one.clipped, 3)} clipped")
    if zeros >= 0.005:
        facts.append(f"{_percent(zeros, 0)} zeros")
    if one.shared:
        facts.append("shared scale")
    values = f"<b>{_db(one.sqnr_db)}</b> dB"
    if one.measured_sqnr_db is not None:
        values += f' <span class="soft">alone {_db(one.estimated_sqnr_db)}</span>'
    return (
        f'<article class="card"><h3>{_name(one.name)}</h3><p class="value">{values}</p>{histogram(one)}'
        f"<p>{' · '.join(facts)}</p></article>"
    )


def _sharing(report: Report) -> str:
    if not report.sharing:
        return ""
    bodies = []
    for group in report.sharing:
        rows = "".join(
            f'<tr><th scope="row">{_name(one.name)}</th><td>{_db(one.alone_sqnr_db)}</td>'
            f"<td>{_db(one.shared_sqnr_db)}</td><td>{_db(one.cost_db)}</td></tr>"
            for one in sorted(group, key=lambda one: -one.cost_db)
        )
        bodies.append(f"<tbody>{rows}</tbody>")
    return (
        "<section><h2>Shared scales</h2><p>Where maps meet, one scale saves a requantization. What that costs each of "
        "them, estimated from its histogram, in dB.</p>"
        '<div class="scroll"><table class="groups"><thead><tr><th>tensor</th><th>alone</th><th>shared</th><th>cost</th>'
        f"</tr></thead>{''.join(bodies)}</table></div></section>"
    )


def _layers(report: Report) -> str:
    compiled = any(one.precision is not None for one in report.layers)
    total = max(sum(one.macs or 0 for one in report.layers), 1)
    in_float = [one for one in report.layers if one.precision not in (None, "int8")]
    remark = ""
    if compiled:
        remark = f"{len(report.layers) - len(in_float)} of {len(report.layers)} layers run in INT8. "
        remark += "; ".join(
            f"<b>{_name(one.name)}</b>, {_percent((one.macs or 0) / total, 2)} of the MACs, runs in "
            f"{escape(str(one.precision))}: {escape(one.reason or 'no reason is known')}"
            for one in in_float
        )
    head = "<tr><th>layer</th><th>weights, dB</th>" + ("<th>precision</th><th>MACs</th>" if compiled else "") + "</tr>"
    rows = [_layer(one, compiled, total) for one in report.layers]
    rest = rows[_WORST_LAYERS:]
    folded = (
        f"<details><summary>{_plural(len(rest), 'other layer')}</summary>"
        f'<div class="scroll"><table class="layers"><thead>{head}</thead><tbody>{"".join(rest)}</tbody></table></div>'
        "</details>"
        if rest
        else ""
    )
    return (
        f"<section><h2>Weights, worst first</h2><p>{remark}</p>"
        f'<div class="scroll"><table class="layers"><thead>{head}</thead><tbody>{"".join(rows[:_WORST_LAYERS])}</tbody>'
        f"</table></div>{folded}</section>"
    )


def _layer(one: LayerCost, compiled: bool, total: int) -> str:
    sqnr = "float" if one.weight_sqnr_db is None else _db(one.weight_sqnr_db)
    row = f'<tr><th scope="row">{_name(one.name)}</th><td>{sqnr}</td>'
    if compiled:
        macs = "–" if one.macs is None else _percent(one.macs / total, 2)
        row += f"<td>{escape(one.precision or '–')}</td><td>{macs}</td>"
    return row + "</tr>"


def _provenance(report: Report) -> str:
    table, quantizer = report.quantizer.table, report.quantizer
    size = "any" if table.input_size is None else "{} × {}".format(*table.input_size)
    rounding = "with the statistics of their inputs, biases corrected" if quantizer.adapt_weights else "to the nearest"
    skipped = f", {len(table.images.skipped)} more could not be read" if table.images.skipped else ""
    facts = {
        "Graph": f"{_name(report.graph)}, SHA-256 <code>{table.graph_sha256[:16]}…</code>",
        "Input": f"{size} pixels (height × width)",
        "Calibration": f"{_plural(table.images.count, 'picture')}{skipped}, {table.people:,} people, "
        f"{table.proposals:,} proposals, seed {table.images.seed}, SHA-256 of the files "
        f"<code>{table.images.sha256[:16]}…</code>",
        "Method": f"{escape(table.method)}; observer {quantizer.observer}; weights rounded {rounding}",
        "Kept in float": ", ".join(map(_name, report.placement.kept_float)) or "nothing",
        "Version": f"densepose-engine {escape(table.package_version)} made the table",
    }
    cells = "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in facts.items())
    return f'<section class="provenance"><h2>Where this comes from</h2><dl>{cells}</dl></section>'
