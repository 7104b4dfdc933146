"""``densepose-engine evaluate``: how good an engine is on annotated pictures, and how much another one differs."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.output_files import atomic_output, check_outputs
from ..files.recognize import ENGINE, expect
from ..wording import printable
from .arguments import add_runtime, count, fraction, positive
from .progress import ProgressBar, Stages
from .terminal import say

if TYPE_CHECKING:
    from ..evaluation.accuracy import Failure, Predictor
    from ..evaluation.gps import GpsDefinition

NAME = "evaluate"
HELP = "box AP, GPS and GPSm on COCO DensePose annotations; of two engines, how far they differ"
_NAMED = 5  # failures that are named; the rest is counted


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "engines",
        nargs="*",
        type=Path,
        metavar="ENGINE",
        help="one engine, or two to compare: the reference (FP32, say), then the other",
    )
    parser.add_argument(
        "--predictions",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="results that 'infer --save npz' wrote, instead of an engine; beside an engine, they are the reference",
    )

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with annotations.json and its pictures"
    )
    data.add_argument("--annotations", type=Path, metavar="FILE", help="the annotation file, if it is another one")
    data.add_argument("--images", type=Path, metavar="DIR", help="the folder of the pictures, if it is another one")
    data.add_argument("--limit", type=positive, metavar="N", help="only the first N pictures")

    scores = parser.add_argument_group(
        "scores",
        "GPS is exp(-d^2 / 2k^2), averaged over a person's annotated points; d is the\n"
        "distance along the body's surface. 'coco' is the DensePose project's evaluator\n"
        "and needs its table of the SMPL body; 'simple' has one k and a surface table\n"
        "beside the data; 'ogps' is the project's evaluator of vertices (embeddings) and\n"
        "needs the mesh's distances.",
    )
    scores.add_argument(
        "--gps",
        choices=("simple", "coco", "ogps"),
        help="definition (default: ogps with --mesh-file, simple with --surface or a surface.npz in --data or beside "
        "it, else coco)",
    )
    scores.add_argument(
        "--surface", type=Path, metavar="FILE", help="for simple (default: surface.npz in --data or beside it)"
    )
    scores.add_argument(
        "--geodesics",
        type=Path,
        metavar="FILE",
        help="for coco: what 'python -m densepose_engine.evaluation.convert_geodesics' makes of the DensePose "
        "project's files, .npz or .mat",
    )
    scores.add_argument(
        "--mesh-file",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="for ogps, once for each mesh (ref_model) that is annotated: an .npz with geodesic_upper or geodesics, or "
        "detectron2's geodists_NAME.pkl",
    )
    scores.add_argument(
        "--score-threshold",
        type=fraction,
        metavar="0..1",
        help="people with a higher score (default: the model's own, or all of --predictions)",
    )
    scores.add_argument(
        "--max-people", type=positive, default=20, metavar="N", help="the best N of a picture (default: %(default)s)"
    )
    scores.add_argument(
        "--max-proposals", type=count, metavar="N", help="regions that are looked at (default: the model's own)"
    )
    scores.add_argument(
        "--resamples", type=positive, default=1000, metavar="N", help="of the bootstrap (default: %(default)s)"
    )
    scores.add_argument(
        "--yardstick",
        action="store_true",
        help="of two engines: also run the first on every picture with one grey level of noise, five times, and say "
        "how many times as far the other is from it",
    )
    scores.add_argument("--seed", type=count, default=0, metavar="N", help="of the bootstrap (default: %(default)s)")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", metavar="FILE", help="write the numbers as JSON too; '-' is stdout, and then nothing else is there"
    )
    output.add_argument("--force", action="store_true", help="overwrite FILE")

    add_runtime(parser)


def run(arguments: Namespace) -> int:
    # Everything that can be found wrong is found before an engine is loaded.
    if not 1 <= len(arguments.engines) + len(arguments.predictions) <= 2:
        raise ValueError("name one engine or two; each may be replaced by --predictions DIR")
    if arguments.yardstick and len(arguments.engines) != 2:
        raise ValueError("--yardstick is for two engines: the first is run on pictures with noise")
    for path in arguments.engines:
        expect(path, ENGINE)
    for path in arguments.predictions:
        if not path.is_dir():
            raise FileNotFoundError(f"there is no folder {path}")
    output = Path(arguments.json) if arguments.json not in (None, "-") else None
    if output is not None:
        check_outputs([output], arguments.force)

    from ..evaluation import report
    from ..evaluation.accuracy import Dataset, evaluate, evaluate_pair
    from ..evaluation.rle import coco_tools

    coco_tools("coco")  # missing, it would be missed at the end
    dataset = Dataset.load(arguments.data, annotations=arguments.annotations, images=arguments.images)
    gps = gps_of(arguments)
    if arguments.limit is not None:
        dataset = dataset.first(arguments.limit)
    with ExitStack() as stack:
        predictors = _predictors(arguments, stack)
        bar = stack.enter_context(ProgressBar(len(dataset.pictures), "pictures", enabled=not arguments.quiet))
        settings: dict[str, Any] = {"max_people": arguments.max_people, "advance": bar.advance}
        if len(predictors) == 1:
            comparison = None
            evaluations = [evaluate(predictors[0], dataset, gps, **settings)]
        else:
            settings |= {"resamples": arguments.resamples, "seed": arguments.seed, "yardstick": arguments.yardstick}
            comparison = evaluate_pair(predictors[0], predictors[1], dataset, gps, **settings)
            evaluations = [comparison.reference, comparison.other]

    _report_failures(evaluations[0].failures, len(dataset.pictures))
    content = report.to_dict(evaluations, comparison, str(dataset.source), arguments.score_threshold)
    if arguments.json == "-":
        print(json.dumps(content, indent=2))
    elif not arguments.quiet:
        table = report.comparison_lines(comparison) if comparison else report.evaluation_lines(evaluations[0])
        for line in table:
            print(printable(line))
    if output is not None:  # last: what was found is said even where it cannot be written
        with atomic_output(output) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    return 1 if evaluations[0].failures else 0


def gps_of(arguments: Namespace) -> GpsDefinition:
    """The definition of GPS that ``--gps``, ``--mesh-file``, ``--surface``, ``--geodesics`` and ``--data`` mean."""
    from ..evaluation.accuracy import default_surface, gps_definition

    surface = arguments.surface or default_surface(arguments.data)
    without = "coco" if surface is None or arguments.geodesics is not None else "simple"
    name = arguments.gps or ("ogps" if arguments.mesh_file else without)
    if arguments.mesh_file and name != "ogps":
        raise ValueError(f"--mesh-file is for --gps ogps, not for --gps {name}")
    return gps_definition(name, surface=surface, geodesics=arguments.geodesics, meshes=arguments.mesh_file)


def _predictors(arguments: Namespace, stack: ExitStack) -> list[Predictor]:
    """Saved predictions first: they are the reference."""
    from ..engine import Engine
    from ..evaluation.accuracy import EnginePredictor, SavedPredictions

    predictors: list[Predictor] = [
        SavedPredictions(path, score_threshold=arguments.score_threshold) for path in arguments.predictions
    ]
    with Stages(enabled=not arguments.quiet) as stages:
        for path in arguments.engines:
            stages(f"loading {path.name}")
            engine = Engine.load(
                path,
                device=arguments.device,
                num_threads=arguments.threads,
                num_requests=1,
                cache_dir=None if arguments.no_cache else (arguments.cache_dir or "auto"),
            )
            stack.enter_context(engine)
            limits = (arguments.max_people, arguments.max_proposals)
            predictors.append(EnginePredictor(engine, str(path), arguments.score_threshold, *limits))
    return predictors


def _report_failures(failures: Sequence[Failure], pictures: int) -> None:
    for failure in failures[:_NAMED]:
        say(f"error: {printable(failure.reason)}")
    if failures:
        more = f", {len(failures) - _NAMED} of them not named here" if len(failures) > _NAMED else ""
        say(f"{len(failures)} of {pictures} pictures failed and are left out of the scores{more}")
