"""Finished rows as a table for the terminal, as CSV and as JSON, and which of them nothing beats."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .measure import is_quiet
from .networks import Network

STAGES = ("backbone", "neck", "rpn", "box", "densepose")


@dataclass(frozen=True)
class Row:
    """One network: ``prepared`` and ``measured`` are its rows of the state, None where there is none yet."""

    network: Network
    prepared: dict[str, Any]
    measured: dict[str, Any] | None

    @property
    def gps_ap(self) -> float | None:
        """The paper's, not ours."""
        return None if self.network.published is None else self.network.published["gps_ap"]

    @property
    def box_ap(self) -> float | None:
        return None if self.network.published is None else self.network.published["box_ap"]

    @property
    def gmac(self) -> float:
        return float(sum(self.prepared["gmac"].values()))

    def milliseconds(self, precision: str) -> float | None:
        """Median latency of a frame."""
        return None if self.measured is None else float(self.measured["latency_ms"][precision]["median"])

    @property
    def quiet(self) -> bool:
        return self.measured is None or is_quiet(self.measured)

    @property
    def remarks(self) -> list[str]:
        return [*self.prepared["remarks"], *([] if self.measured is None else self.measured["remarks"])]


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Of rows with AP and latency those that no other is at least as fast and as good as; the fastest first.

    Of two that are equal in both, both stay.
    """
    points = [(row, row.milliseconds("int8"), row.gps_ap) for row in rows]
    known = [(row, time, ap) for row, time, ap in points if time is not None and ap is not None]
    front = [
        (time, row)
        for row, time, ap in known
        if not any(t <= time and a >= ap and (t < time or a > ap) for _, t, a in known)
    ]
    return [row for _, row in sorted(front, key=lambda one: one[0])]


def columns(row: Row) -> dict[str, Any]:
    """All of a row as flat columns; None where it is not known."""
    prepared, measured, network = row.prepared, row.measured, row.network
    over = {} if measured is None else measured["over_baseline"]
    return {
        "series": network.series,
        "network": network.name,
        "height": network.size[0],
        "width": network.size[1],
        "parameters": prepared["parameters"],
        **{f"gmac_{stage}": round(prepared["gmac"].get(stage, 0.0), 4) for stage in STAGES},
        "gmac": round(row.gmac, 4),
        "int8_share": round(prepared["int8_share"], 5),
        "fp32_engine_bytes": prepared["engine_bytes"]["fp32"],
        "int8_engine_bytes": prepared["engine_bytes"]["int8"],
        "fp32_ms": _rounded(row.milliseconds("fp32")),
        "int8_ms": _rounded(row.milliseconds("int8")),
        "int8_times_as_fast_as_fp32": _rounded(None if measured is None else measured["int8_over_fp32"]),
        "fp32_times_as_fast_as_r50_fp32": _rounded(over.get("fp32")),
        "int8_times_as_fast_as_r50_int8": _rounded(over.get("int8")),
        "papers_box_ap": row.box_ap,
        "papers_gps_ap": row.gps_ap,
        "quiet": None if measured is None else row.quiet,
        "remarks": "; ".join(row.remarks),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def to_csv(rows: Sequence[Row]) -> str:
    """One line per row; an empty field is not known."""
    text = io.StringIO()
    if rows:
        lines = [columns(row) for row in rows]
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()


def table(rows: Sequence[Row]) -> list[str]:
    """Lines for a terminal, of one series at one size: what was measured by its INT8 latency, then the others."""
    front = pareto_front(rows)
    with_ap = any(row.gps_ap is not None for row in rows)
    heading = ["network", "M par."] + [f"{name} " for name in ("trunk", "neck", "rpn", "box", "dp")]
    heading += ["GMAC", "FP32 MB", "INT8 MB", "in INT8", "FP32 ms", "INT8 ms", "faster", "R50 FP32", "R50 INT8"]
    heading += ["paper's box", "and GPS AP"] if with_ap else []
    lines = [heading]
    for row in sorted(rows, key=lambda one: (one.milliseconds("int8") or float("inf"), one.network.title)):
        prepared, measured = row.prepared, row.measured
        over = {} if measured is None else measured["over_baseline"]
        cells = [f"{row.network.title}{'*' if row in front else ''}{'' if row.quiet else '?'}"]
        cells.append(f"{prepared['parameters'] / 1e6:.2f}")
        cells += [f"{prepared['gmac'].get(stage, 0.0):.2f}" for stage in STAGES]
        cells.append(f"{row.gmac:.1f}")
        cells += [f"{prepared['engine_bytes'][precision] / 1e6:.1f}" for precision in ("fp32", "int8")]
        cells.append(f"{100 * prepared['int8_share']:.1f}%")
        cells += [_text(row.milliseconds(precision), ".1f") for precision in ("fp32", "int8")]
        cells.append(_text(None if measured is None else measured["int8_over_fp32"], ".2f", "x"))
        cells += [_text(over.get(precision), ".2f", "x") for precision in ("fp32", "int8")]
        cells += [_text(row.box_ap, ".1f"), _text(row.gps_ap, ".1f")] if with_ap else []
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    return [
        "  ".join([line[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]).rstrip()
        for line in lines
    ]


def _text(value: float | None, layout: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{layout}}{unit}"
