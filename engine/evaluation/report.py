"""Evaluations as text for people and as JSON for machines.

The JSON of ``densepose-engine evaluate`` is one object. Scores are in percent, differences in points of percent; a
score is null where nobody was to be found.

    version        1; it is raised when a key changes its meaning or goes
    data           the annotation file
    gps            "simple", "coco" or "ogps"
    max_people     the best so many of a picture were scored
    score_threshold  people with a score above it were, null for the model's own
    pictures       how many were scored
    people         how many people are annotated in them
    failures       [{"file_name", "reason"}], pictures that could not be read and are left out
    evaluations    one per engine, in the order of the command line:
                   {"name", "found", "box", "gps", "gpsm"}; found is a number of people, the last three are
                   {"AP", "AP50", "AP75", "AR"}
    comparison     null, or of two engines
                   {"drift": {"matched", "only_reference", "only_other", "box_iou", "part_agreement", "label_agreement",
                              "mask_iou", "uv_error", "score_difference", "surface_distance"},
                    "differences": {"box", "gps", "gpsm"} of {"AP", "AP50", "AP75", "AR"} of {"value", "low", "high"},
                    "yardstick", "interval": 95, "resamples", "seed"}
                   differences are second - first engine; of the drift, part_agreement counts pixels that at least one
                   of the two calls a part (of vertices: that at least one of the two calls one, with the same vertex),
                   label_agreement background too, which is most of a patch and flatters; surface_distance is the mean
                   distance along the surface in meters, null but with "ogps";
                   yardstick is null, or {"value", "low", "high"}: 1 - part_agreement in units of what one grey level of
                   noise does to the reference, and its interval
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accuracy import Comparison, Difference, Evaluation

VERSION = 1
_NAMES = {"box": "box", "gps": "GPS", "gpsm": "GPSm"}
_DIGITS = 4  # of scores in JSON; two are noise already
_DRIFT = {
    "box_iou": "box IoU",
    "part_agreement": "part agreement",
    "mask_iou": "mask IoU",
    "uv_error": "U, V error",
    "score_difference": "score difference",
}
_DRIFT_OF_VERTICES = {
    "box_iou": "box IoU",
    "part_agreement": "same vertex",
    "mask_iou": "mask IoU",
    "score_difference": "score difference",
}


def to_dict(
    evaluations: Sequence[Evaluation], comparison: Comparison | None, data: str, score_threshold: float | None
) -> dict[str, Any]:
    """For JSON, as the module describes it."""
    first = evaluations[0]
    return {
        "version": VERSION,
        "data": data,
        "gps": first.definition,
        "max_people": first.max_people,
        "score_threshold": score_threshold,
        "pictures": first.pictures,
        "people": first.annotated,
        "failures": [asdict(failure) for failure in first.failures],
        "evaluations": [
            {"name": e.name, "found": e.found, **{metric: _scores(getattr(e, metric).numbers) for metric in _NAMES}}
            for e in evaluations
        ],
        "comparison": None if comparison is None else _comparison(comparison),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    from .accuracy import INTERVAL

    return {
        "drift": {name: _rounded(value, 7) for name, value in asdict(comparison.drift).items()},
        "differences": {
            metric: {name: {k: _rounded(v) for k, v in asdict(d).items()} for name, d in of_metric.items()}
            for metric, of_metric in comparison.differences.items()
        },
        "yardstick": None
        if comparison.yardstick is None
        else {name: _rounded(value) for name, value in asdict(comparison.yardstick).items()},
        "interval": INTERVAL,
        "resamples": comparison.resamples,
        "seed": comparison.seed,
    }


def _scores(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _rounded(value) for name, value in numbers.items()}


def _rounded(value: float | None, digits: int = _DIGITS) -> float | None:
    return None if value is None or math.isnan(value) else round(value, digits) + 0  # not -0.0


# ---- for people ------------------------------------------------------------------------------------------------------


def evaluation_lines(evaluation: Evaluation) -> Iterator[str]:
    """One engine's scores."""
    yield evaluation.name
    yield f"{_basis(evaluation)}, {evaluation.found:,} found"
    yield ""
    yield "      " + "".join(f"{name:>8}" for name in evaluation.box.numbers)
    for metric, name in _names(evaluation.definition).items():
        yield f"{name:6}" + "".join(f"{_number(value):>8}" for value in getattr(evaluation, metric).numbers.values())


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Two engines' scores, their differences and their drift."""
    from .accuracy import INTERVAL

    reference, other = comparison.reference, comparison.other
    width = max(len(reference.name), len(other.name))
    yield f"reference  {reference.name:{width}}  {reference.found:,} people found"
    yield f"other      {other.name:{width}}  {other.found:,} people found"
    yield _basis(reference)
    yield ""
    yield f"{'':10}{'reference':>11}{'other':>9}{'difference':>12}   {INTERVAL}% interval"
    for metric, name in _names(reference.definition).items():
        mine, theirs = getattr(reference, metric).numbers, getattr(other, metric).numbers
        for statistic, difference in comparison.differences[metric].items():
            yield (
                f"{name:6}{statistic:4}{_number(mine[statistic]):>11}{_number(theirs[statistic]):>9}"
                f"{_signed(difference.value):>12}   {_interval(difference)}"
            )
            name = ""  # a metric is named in its first line
    yield f"intervals: paired bootstrap over pictures, {comparison.resamples:,} resamples, seed {comparison.seed}"
    yield ""
    moved = comparison.drift
    yield "drift of people with a score of 0.5 or more; where there is a mean, it is over those whom both find"
    yield f"  {'matched':18}{moved.matched:>9,}"
    yield f"  {'only reference':18}{moved.only_reference:>9,}"
    yield f"  {'only other':18}{moved.only_other:>9,}"
    vertices = reference.definition == "ogps"
    for key, label in (_DRIFT_OF_VERTICES if vertices else _DRIFT).items():
        yield f"  {label:18}{getattr(moved, key):9.5f}"
    if moved.surface_distance is not None:
        yield f"  {'distance':18}{100 * moved.surface_distance:9.2f} cm along the surface, where both have a vertex"
    if comparison.yardstick is not None:
        yield f"  {'other vertex' if vertices else 'part disagreement':18}{comparison.yardstick}"


def _names(definition: str) -> Mapping[str, str]:
    """What the DensePose project calls the metrics."""
    return {**_NAMES, "gps": "OGPS", "gpsm": "OGPSm"} if definition == "ogps" else _NAMES


def _basis(evaluation: Evaluation) -> str:
    pictures = f"{evaluation.pictures:,} {'picture' if evaluation.pictures == 1 else 'pictures'}"
    people = f"{evaluation.annotated:,} {'person' if evaluation.annotated == 1 else 'people'}"
    return f"{pictures}, {people} annotated, GPS: {evaluation.definition}, best {evaluation.max_people} of a picture"


def _interval(difference: Difference) -> str:
    return f"{_signed(difference.low):>6} .. {_signed(difference.high):>6}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{round(value, 2) + 0:+.2f}"
