"""How good an engine is, on pictures with COCO DensePose annotations, and how much another one differs.

    dataset = Dataset.load("val")
    gps = gps_definition("simple", surface="surface.npz")
    with Engine.load("int8.engine") as engine:
        print(evaluate_engine(engine, dataset, gps).gps.ap)

Three similarities of a found and an annotated person are scored: the IoU of their boxes, GPS and GPSm (see
``evaluation.gps``, with the two definitions of these); each by average precision (``evaluation.average_precision``), in
percent. Boxes go through pycocotools. ``predict`` and ``drift`` need no annotations.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..decoders import DetectionResult
from ..decoders.mesh import read_geodesics
from ..engine import Engine
from ..errors import DensePoseEngineError, ImageError
from ..pictures.read import to_rgb_array
from .annotations import AnnotatedPicture, Dataset
from .average_precision import STATISTICS, Match, Ranking, paired_bootstrap
from .boxes import boxes_xywh, score_boxes
from .drift import Drift, DriftMeter, drift
from .gps import CocoGps, GpsDefinition, SimpleGps
from .ogps import HOW_TO_GET_DISTANCES, Ogps
from .results import EnginePredictor, Predictor, SavedPredictions, best_people, predict
from .rle import coco_tools
from .surfaces import HOW_TO_GET_GEODESICS, GridSurface, SmplSurface
from .yardstick import Ratio, Yardstick

__all__ = [
    "AveragePrecision",
    "Comparison",
    "Dataset",
    "Difference",
    "Drift",
    "EnginePredictor",
    "Evaluation",
    "Evaluator",
    "Failure",
    "GpsDefinition",
    "Predictor",
    "SavedPredictions",
    "compare",
    "default_surface",
    "drift",
    "evaluate",
    "evaluate_engine",
    "evaluate_pair",
    "gps_definition",
    "predict",
]

#: What is scored, in the order of reports.
METRICS = ("box", "gps", "gpsm")
MAX_PEOPLE = 20  # a picture: the DensePose evaluation's
INTERVAL = 95  # percent


@dataclass(frozen=True)
class AveragePrecision:
    """In percent; NaN where nobody was to be found."""

    ap: float
    """Mean over the similarity thresholds 0.50, 0.55 .. 0.95."""
    ap50: float
    ap75: float
    ar: float
    """Average recall, over the same thresholds."""

    @property
    def numbers(self) -> dict[str, float]:
        """ "AP", "AP50", "AP75", "AR" -> percent."""
        return dict(zip(STATISTICS, (self.ap, self.ap50, self.ap75, self.ar), strict=True))


@dataclass(frozen=True)
class Failure:
    """A picture that could not be read; it is left out of the scores."""

    file_name: str
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """How good one engine is."""

    name: str
    definition: str
    """Of GPS: "simple", "coco" or "ogps"."""
    max_people: int
    """The best so many of a picture were scored."""
    pictures: int
    """How many were scored."""
    annotated: int
    """People annotated in them."""
    found: int
    """People found in them."""
    box: AveragePrecision
    gps: AveragePrecision
    gpsm: AveragePrecision
    failures: tuple[Failure, ...] = ()
    rankings: Mapping[str, Ranking] = field(default_factory=dict, repr=False, compare=False)
    """What the scores were made of, for ``compare``."""
    picture_ids: tuple[int, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Difference:
    """Other - reference in points of percent, with the 95% interval of a paired bootstrap over pictures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """How two engines differ on the same pictures."""

    reference: Evaluation
    other: Evaluation
    drift: Drift
    differences: Mapping[str, Mapping[str, Difference]]
    """"box", "gps", "gpsm" -> "AP", "AP50", "AP75", "AR" -> the difference."""
    resamples: int
    seed: int
    yardstick: Ratio | None = None
    """How far ``drift`` is, in units of what one grey level of noise does to the reference; None if not measured."""


class Evaluator:
    """Scores one picture after the other; of a result, a few numbers are kept."""

    def __init__(self, gps: GpsDefinition, max_people: int = MAX_PEOPLE, name: str = "engine") -> None:
        if max_people < 1:
            raise ValueError(f"max_people must be at least 1, not {max_people}")
        self._definition, self._max_people, self._name = gps, max_people, name
        self._pictures: list[AnnotatedPicture] = []
        self._boxes: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        self._gps: list[Match] = []
        self._gpsm: list[Match] = []

    def add(self, picture: AnnotatedPicture, result: DetectionResult) -> None:
        """One more picture. Raises ``DensePoseEngineError`` where the annotations lack what the definition needs."""
        self._definition.check(picture)
        found = best_people(result, self._max_people)
        similarities = self._definition.similarities(picture, found)
        self._pictures.append(picture)
        self._boxes.append(boxes_xywh(found))
        self._scores.append(found.scores)
        self._gps.append(self._definition.match(similarities.gps, picture, found))
        self._gpsm.append(self._definition.match(similarities.gpsm, picture, found))

    def evaluation(self, failures: Sequence[Failure] = ()) -> Evaluation:
        """The scores of the pictures so far. Raises ``BackendUnavailable`` where pycocotools is not installed."""
        box, matches = score_boxes(self._pictures, self._boxes, self._scores, self._max_people)
        rankings = {
            name: Ranking.of(self._scores, each)
            for name, each in zip(METRICS, (matches, self._gps, self._gpsm), strict=True)
        }
        percent = {name: AveragePrecision(*(100 * rankings[name].statistics()[0]).tolist()) for name in ("gps", "gpsm")}
        return Evaluation(
            name=self._name,
            definition=self._definition.name,
            max_people=self._max_people,
            pictures=len(self._pictures),
            annotated=sum(len(picture.annotations) for picture in self._pictures),
            found=sum(map(len, self._scores)),
            box=AveragePrecision(*(100 * box).tolist()),
            gps=percent["gps"],
            gpsm=percent["gpsm"],
            failures=tuple(failures),
            rankings=rankings,
            picture_ids=tuple(picture.id for picture in self._pictures),
        )


def gps_definition(
    name: str,
    *,
    surface: str | os.PathLike[str] | None = None,
    geodesics: str | os.PathLike[str] | None = None,
    meshes: Sequence[str | os.PathLike[str]] = (),
) -> GpsDefinition:
    """A definition of GPS with its table.

    Args:
        name: "simple", which needs ``surface``, "coco", which needs ``geodesics``, or "ogps", which needs ``meshes``.
        surface: an ``.npz`` as ``evaluation.surfaces.GridSurface`` describes it.
        geodesics: an ``.npz`` or ``.mat`` as ``evaluation.surfaces.SmplSurface`` describes it.
        meshes: of each mesh that is annotated, a file that ``decoders.mesh.read_geodesics`` reads.

    Raises:
        FileNotFoundError: there is no such file.
        DensePoseEngineError: the table is missing, or no such table.
    """
    if name == "simple":
        if surface is None:
            raise DensePoseEngineError("--gps simple needs a surface table: --surface names it (surface.npz)")
        return SimpleGps(GridSurface.load(surface))
    if name == "coco":
        if geodesics is None:
            raise DensePoseEngineError(HOW_TO_GET_GEODESICS)
        return CocoGps(SmplSurface.load(geodesics))
    if name == "ogps":
        if not meshes:
            raise DensePoseEngineError(HOW_TO_GET_DISTANCES)
        return Ogps(map(read_geodesics, meshes))
    raise ValueError(f"gps must be 'simple', 'coco' or 'ogps', not {name!r}")


def default_surface(folder: str | os.PathLike[str]) -> Path | None:
    """The ``surface.npz`` in the folder of a data set or beside it, if there is one."""
    path = Path(os.path.abspath(folder))  # noqa: PTH100 (resolve() would follow links)
    return next((table for place in (path, path.parent) if (table := place / "surface.npz").is_file()), None)


def evaluate_engine(
    engine: Engine,
    dataset: Dataset,
    gps: GpsDefinition,
    *,
    name: str = "engine",
    score_threshold: float | None = None,
    max_people: int = MAX_PEOPLE,
    advance: Callable[[], None] | None = None,
) -> Evaluation:
    """Score an engine.

    Args:
        gps: what ``gps_definition`` gives.
        score_threshold: people with a score above this; None is the model's own, which published scores are made with.
        max_people: the best so many of a picture.
        advance: called after each picture.

    Raises:
        DensePoseEngineError: no picture can be read, or an annotation lacks what the definition needs.
        BackendUnavailable: pycocotools is not installed.
        InferenceError: the runtime failed.
    """
    predictor = EnginePredictor(engine, name, score_threshold, max_people)
    return evaluate(predictor, dataset, gps, max_people=max_people, advance=advance)


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    gps: GpsDefinition,
    *,
    max_people: int = MAX_PEOPLE,
    advance: Callable[[], None] | None = None,
) -> Evaluation:
    """The same for any source of results, such as ``SavedPredictions``."""
    return _evaluate([predictor], dataset, gps, max_people, advance)[0][0]


def evaluate_pair(
    reference: Predictor,
    other: Predictor,
    dataset: Dataset,
    gps: GpsDefinition,
    *,
    max_people: int = MAX_PEOPLE,
    resamples: int = 1000,
    seed: int = 0,
    yardstick: bool = False,
    advance: Callable[[], None] | None = None,
) -> Comparison:
    """Score two sources of results on the same pictures, and compare them; a picture's results are not kept.

    Args:
        yardstick: run the reference, which must be an engine, on each picture with noise too: five times more work.
        Others: as ``evaluate`` and ``compare``.

    Raises:
        ValueError: a yardstick is wanted of results that are no engine's.
        Others: as ``evaluate_engine``.
    """
    noise = None
    if yardstick:
        if not isinstance(reference, EnginePredictor):
            raise ValueError("the yardstick runs the reference on pictures with noise: it must be an engine")
        noise = Yardstick(reference.run, max_people=max_people)
    (first, second), meter = _evaluate([reference, other], dataset, gps, max_people, advance, noise)
    found = compare(first, second, meter.drift(), resamples=resamples, seed=seed)
    return found if noise is None else replace(found, yardstick=noise.ratio(meter, resamples=resamples, seed=seed))


def compare(
    reference: Evaluation, other: Evaluation, moved: Drift, *, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """The differences of two evaluations on the same pictures.

    Args:
        moved: the ``drift`` of their results.
        resamples: of the bootstrap, which draws pictures with replacement and looks at both engines on the same draw.

    Raises:
        ValueError: the evaluations are not of the same pictures.
    """
    if reference.picture_ids != other.picture_ids or reference.definition != other.definition:
        raise ValueError("the two evaluations are not of the same pictures and the same definition of GPS")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    spread = paired_bootstrap(reference.rankings, other.rankings, resamples, seed)
    differences = {}
    for metric in METRICS:
        tails = ((100 - INTERVAL) / 2, (100 + INTERVAL) / 2)
        low, high = 100 * np.nanpercentile(spread[metric], tails, axis=0)
        one, two = getattr(reference, metric).numbers, getattr(other, metric).numbers
        differences[metric] = {
            name: Difference(two[name] - one[name], float(low[k]), float(high[k])) for k, name in enumerate(STATISTICS)
        }
    return Comparison(reference, other, moved, differences, resamples, seed)


def _evaluate(
    predictors: Sequence[Predictor],
    dataset: Dataset,
    gps: GpsDefinition,
    max_people: int,
    advance: Callable[[], None] | None,
    noise: Yardstick | None = None,
) -> tuple[list[Evaluation], DriftMeter]:
    coco_tools("cocoeval")  # missing, it would be missed at the end
    for picture in dataset.pictures:  # what is wrong with the annotations is said before the work
        gps.check(picture)
    evaluators = [Evaluator(gps, max_people, predictor.name) for predictor in predictors]
    meter, failures = DriftMeter(max_people, gps.distance), []
    for picture in dataset.pictures:
        try:
            results = [predictor(picture) for predictor in predictors]
        except OSError as error:
            failures.append(Failure(picture.file_name, f"{picture.path} cannot be read: {error.strerror or error}"))
        except ImageError as error:
            failures.append(Failure(picture.file_name, str(error)))
        else:
            for evaluator, result in zip(evaluators, results, strict=True):
                evaluator.add(picture, result)
            if len(results) == 2:
                meter.add(*results)
            if noise is not None:
                noise.add(to_rgb_array(picture.path), results[0])
        if advance is not None:
            advance()
    if len(failures) == len(dataset.pictures):
        reason = f", the first: {failures[0].reason}" if failures else ""
        raise DensePoseEngineError(f"none of the {len(failures)} pictures of {dataset.source} can be read{reason}")
    return [evaluator.evaluation(failures) for evaluator in evaluators], meter
