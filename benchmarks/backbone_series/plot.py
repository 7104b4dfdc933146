"""The plot: the paper's AP against our latency, circles as large as engine files, the Pareto front joined."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densepose_engine.files.output_files import atomic_output

from .report import Row, pareto_front

_FRONT, _OTHERS, _BASELINE = "#c0392b", "#5b7c99", "#444444"
_AREA = 10.0  # square points of a circle for each megabyte of the engine file
# Where a name may stand beside its circle, in directions; where least is covered is taken.
_DIRECTIONS = [(1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1)]
_DISTANCES = (2, 9, 18, 30)  # points


def plot(rows: Sequence[Row], path: Path, caption: str) -> bool:
    """Draw the rows that have AP and latency, of one series at one size, as SVG or PNG by the suffix of ``path``.

    Returns whether there was anything to draw. Raises ``ModuleNotFoundError`` without matplotlib, ``OutputError`` where
    ``path`` cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.gps_ap is not None and row.milliseconds("int8") is not None]
    if not shown:
        return False
    front = pareto_front(shown)
    # Text stays text; no date and no random names, so that the same rows give the same file.
    style = {"svg.fonttype": "none", "svg.hashsalt": "ablation", "font.family": "sans-serif", "font.size": 9}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
        try:
            _draw(axes, shown, front)
            axes.set_title(caption, fontsize=10, loc="left")
            _label(figure, axes, shown, front)
            metadata = {"Date": None} if path.suffix == ".svg" else {}
            with atomic_output(path) as temporary:
                figure.savefig(temporary, metadata=metadata, dpi=150, facecolor="white")
        finally:
            pyplot.close(figure)
    return True


def _place(row: Row) -> tuple[float, float]:
    time, ap = row.milliseconds("int8"), row.gps_ap
    assert time is not None and ap is not None
    return time, ap


def _area(row: Row) -> float:
    return _AREA * float(row.prepared["engine_bytes"]["int8"]) / 1e6


def _radius(row: Row) -> float:
    """In points."""
    return math.sqrt(_area(row) / math.pi)


def _color(row: Row, front: Sequence[Row]) -> str:
    return _FRONT if row in front else _BASELINE if row.network.is_baseline else _OTHERS


def _draw(axes: Any, rows: Sequence[Row], front: Sequence[Row]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.plot(*zip(*map(_place, front), strict=True), color=_FRONT, linewidth=1, zorder=1, label="Pareto front")
    times, scores = zip(*map(_place, rows), strict=True)
    colors = [_color(row, front) for row in rows]
    axes.scatter(times, scores, s=[_area(r) for r in rows], c=colors, alpha=0.75, edgecolors="white", zorder=2)
    for size in (10, 50):
        axes.scatter([], [], s=_AREA * size, c=_OTHERS, alpha=0.75, edgecolors="white", label=f"{size} MB engine")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(times) * 0.75, max(times) * 1.35)
    axes.margins(y=0.08)
    axes.set_xlabel("a frame in INT8, milliseconds (ours; logarithmic)")
    axes.set_ylabel("DensePose GPS AP (the paper's, as published)")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False, labelspacing=1.5, borderpad=1.2)


def _label(figure: Any, axes: Any, rows: Sequence[Row], front: Sequence[Row]) -> None:
    """Names beside the circles, those of the front first, each where it covers least; far ones get a line."""
    figure.draw_without_rendering()
    taken = _obstacles(figure, axes, rows, front)
    for row in sorted(rows, key=lambda one: one not in front):
        text = axes.annotate(
            row.network.title,
            _place(row),
            (0, 0),
            textcoords="offset points",
            fontsize=7.5,
            color=_color(row, front),
            weight="bold" if row in front else "normal",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": _color(row, front), "shrinkA": 0, "shrinkB": 0},
        )
        text.set_in_layout(False)  # or the axes would shrink and everything would move
        places = []
        for distance in _DISTANCES:
            for direction in _DIRECTIONS:
                box = _move(text, _radius(row) + distance, direction)
                covered = sum(_overlap(box, one) for one in taken) + 1e3 * _outside(box, axes.bbox)
                places.append((covered + distance, distance, direction))
        _, distance, direction = min(places, key=lambda place: place[0])  # of equals the first
        taken.append(_move(text, _radius(row) + distance, direction))
        text.arrow_patch.set_visible(distance > _DISTANCES[0])


def _obstacles(figure: Any, axes: Any, rows: Sequence[Row], front: Sequence[Row]) -> list[Any]:
    """What no name should cover, as boxes in pixels: circles, the legend, and the front's line in pieces."""
    from matplotlib.transforms import Bbox

    def around(point: Sequence[float], reach: float) -> Any:
        x, y = point
        return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)

    pixels = figure.dpi / 72
    found = [axes.get_legend().get_window_extent()]
    found += [around(axes.transData.transform(_place(row)), _radius(row) * pixels) for row in rows]
    joints = [axes.transData.transform(_place(row)) for row in front]
    for (x0, y0), (x1, y1) in itertools.pairwise(joints):
        pieces = max(int(math.hypot(x1 - x0, y1 - y0) / 4), 1)
        found += [around((x0 + (x1 - x0) * k / pieces, y0 + (y1 - y0) * k / pieces), 2) for k in range(pieces)]
    return found


def _move(text: Any, reach: float, direction: tuple[int, int]) -> Any:
    """Put a name so many points away from its circle's center. Returns the box that it covers then, in pixels."""
    dx, dy = direction
    reach *= 0.75 if dx and dy else 1
    text.set_position((dx * reach, dy * reach))
    text.set_ha({1: "left", -1: "right", 0: "center"}[dx])
    text.set_va({1: "bottom", -1: "top", 0: "center"}[dy])
    from matplotlib.text import Text

    text.update_positions(text.figure.canvas.get_renderer())
    return Text.get_window_extent(text)  # an annotation's own has its line in it


def _overlap(one: Any, other: Any) -> float:
    """Square pixels that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(width, 0) * max(height, 0))


def _outside(box: Any, frame: Any) -> float:
    """Pixels by which a box sticks out of the axes."""
    return float(
        max(frame.x0 - box.x0, 0) + max(box.x1 - frame.x1, 0) + max(frame.y0 - box.y0, 0) + max(box.y1 - frame.y1, 0)
    )
