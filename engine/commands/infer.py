"""``densepose-engine infer``: pictures to overlays, IUV images and result files."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..decoders import DECODERS, result_class
from ..errors import EngineFileError, ImageError
from ..files.heif import can_read_heif
from ..files.output_files import OutputError, check_outputs
from ..files.recognize import EMPTY, ENGINE, FOLDER, HEIC, PICTURE, VIDEO, expect, mismatch, names_a_file, recognize
from ..model.engine_file import read_manifest
from ..outputs.kinds import IUV_ORDERS, NPZ, OUTPUT_KINDS, Look, OutputKind, kinds_of, outputs_of
from ..pictures.find import Picture, frames_remark
from ..video import is_video
from ..wording import printable
from .arguments import add_runtime, count, fraction, pictures_of
from .infer_pictures import Outcome, Tally, Thresholds, infer_pictures
from .progress import ProgressBar, Stages
from .terminal import say

if TYPE_CHECKING:
    from ..engine import Engine

NAME = "infer"
HELP = "dense poses of the people in pictures or in a video"
DEFAULT_OUTPUT = Path("out")
_SETTINGS = ("score_threshold", "nms_threshold", "max_people", "max_proposals")
# One frame being resized, one in the network, one whose charts are decoded.
_VIDEO_REQUESTS = 3


def _of_each_kind() -> str:
    return "; ".join(f"{decoder.kind} {','.join(kinds_of(decoder.result))}" for decoder in DECODERS.values())


def _kinds(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in OUTPUT_KINDS:
            raise ArgumentTypeError(f"{name!r} is none of {','.join(OUTPUT_KINDS)}")
    return tuple(dict.fromkeys(names))


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="what build wrote")
    parser.add_argument(
        "pictures",
        nargs="+",
        type=Path,
        metavar="PICTURE",
        help="picture, or folder that is searched for pictures (hidden and linked folders inside are left out); or one "
        "video (needs densepose-engine[video])",
    )
    _add_output_arguments(parser)
    settings = parser.add_argument_group("people", "Defaults are the model's own.")
    settings.add_argument(
        "--score-threshold",
        type=fraction,
        metavar="0..1",
        help="people with a higher score, in all outputs (default: the model's own in JSON and npz; in what is drawn, "
        "overlays and the IUV picture, 0.5)",
    )
    settings.add_argument(
        "--nms-threshold", type=fraction, metavar="0..1", help="of two boxes with a higher IoU, keep the better one"
    )
    settings.add_argument("--max-people", type=count, metavar="N", help="at most so many per picture, best first")
    settings.add_argument(
        "--max-proposals", type=count, metavar="N", help="regions that are looked at; fewer is faster and finds less"
    )

    settings.add_argument(
        "--mesh",
        metavar="NAME",
        help="of a network with embeddings: the mesh that everybody is looked for on (default: that of their class)",
    )

    add_runtime(parser)


def _add_output_arguments(parser: ArgumentParser) -> None:
    output = parser.add_argument_group(
        "output",
        "Of every picture NAME.parts.png, NAME.u.png, NAME.v.png and NAME.contours.png (overlays),\n"
        "NAME.iuv.png (part 0..24, U * 255 and V * 255 as red, green and blue; OpenCV reads them in\n"
        "reverse, see --iuv-order) and NAME.npz (boxes, scores, labels and uv of every person). NAME is the\n"
        "picture's path below the folder that was given, without suffix; pictures that would share a name\n"
        "keep their suffix: a.jpg.npz, a.png.npz. Of one picture and one kind, -o may name the file. Of a\n"
        "video, NAME.KIND.mp4 with an overlay (default: parts) and its sound, NAME.iuv.mkv without losses (in\n"
        "a folder that -o names: NAME.000000.iuv.png of every frame), NAME.000000.npz of every frame with\n"
        "NAME.frames.csv of their times. -o may name the video: .mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts\n"
        ".wmv .flv, for iuv .mkv or .avi.",
    )
    output.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"default: {DEFAULT_OUTPUT}; with --json and no -o, no file is written; of a video, or of one picture and "
        "one kind, also the FILE (result.png: parts)",
    )
    output.add_argument(
        "--save",
        type=_kinds,
        metavar="KIND,...",
        help=f"which of {','.join(OUTPUT_KINDS)} (default: all that the network has: {_of_each_kind()})",
    )
    existing = output.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="overwrite outputs")
    existing.add_argument(
        "--skip-existing",
        action="store_true",
        help="go on where a run was interrupted: leave out pictures whose outputs are all there, and make the others'",
    )
    output.add_argument(
        "--iuv-order",
        choices=IUV_ORDERS,
        default=IUV_ORDERS[0],
        help="channels of the IUV picture: iuv has the part in red, vui in blue, which is channel 0 for programs that "
        "read with cv2.imread (default: %(default)s)",
    )
    output.add_argument(
        "--json", action="store_true", help="one line of JSON per picture or frame on stdout, and nothing else there"
    )


def run(arguments: Namespace) -> int:
    # Everything that can be found wrong is found before the engine is loaded and before the first file is written.
    expect(arguments.engine, ENGINE)
    settings = {name: getattr(arguments, name) for name in _SETTINGS}
    if any(is_video(path) and not path.is_dir() for path in arguments.pictures):
        return _run_video(arguments, settings)
    _refuse_other_files(arguments.pictures)
    arguments.kinds = _kinds_of_engine(arguments.engine, arguments.save)
    plan = _plan(arguments)
    engine = _load(arguments, 1)
    with engine:
        thresholds = _thresholds(engine, arguments.score_threshold)
        limit = None if arguments.max_people is not None else _limit(engine)
        tally = Tally(
            len(plan.jobs), plan.skipped, thresholds, limit, draws=plan.draws, keeps=arguments.json or plan.keeps
        )
        gone = None
        try:
            with ProgressBar(len(plan.jobs), "pictures", enabled=not arguments.quiet) as bar:
                look = Look(thresholds.drawn, arguments.iuv_order)
                for outcome in infer_pictures(engine, plan.jobs, look, plan.place, **settings):
                    bar.clear()
                    tally.add(outcome)
                    _report(outcome, arguments, tally)
                    bar.advance()
                    if outcome.place_is_gone:
                        gone = outcome.unwritten
                        break
        finally:  # also after Ctrl-C: what is finished is kept, so it is said how much that is
            if not arguments.quiet and (tally.done or tally.skipped):
                say(tally.summary(plan.place))
    if gone is not None:
        raise OutputError(f"{gone}; nothing more was tried", gone.cause) from gone
    if tally.nothing_written:
        raise OutputError("of no picture could the results be written")
    return 1 if tally.failed else 0


def _kinds_of_engine(engine: Path, chosen: Sequence[str] | None) -> Mapping[str, OutputKind]:
    """What an engine's results can be made into. Raises ``ValueError`` where what was chosen is not among that."""
    model = read_manifest(engine).model
    try:
        kinds = kinds_of(result_class(model.decoder.kind))
    except ValueError as error:
        raise EngineFileError(f"{engine}: its manifest is wrong: {error}; build it again") from error
    if missing := [kind for kind in chosen or () if kind not in kinds]:
        raise ValueError(
            f"--save {','.join(missing)}: {engine} is a network with {model.decoder.kind}, of whose results there are "
            f"{', '.join(kinds)}"
        )
    return kinds


def _thresholds(engine: Engine, chosen: float | None) -> Thresholds:
    from ..outputs.overlays import SCORE_THRESHOLD

    if chosen is not None:
        return Thresholds(chosen, chosen, True)
    data = float(engine.model["defaults"]["score_threshold"])
    return Thresholds(data, max(data, SCORE_THRESHOLD), False)


def _limit(engine: Engine) -> int:
    """How many people the model gives at most, where nobody says how many."""
    return int(min(engine.model["defaults"]["max_people"], engine.model["capacity"]["max_people"]))


# ---- what is to be done ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Pictures with their outputs, kind -> file; ``place``: where these are; ``skipped``: pictures that have theirs."""

    jobs: Sequence[tuple[Picture, Mapping[str, Path]]]
    place: Path | None
    skipped: int

    @property
    def draws(self) -> bool:
        """Whether something is drawn."""
        return any(OUTPUT_KINDS[kind].render is not None for _, targets in self.jobs[:1] for kind in targets)

    @property
    def keeps(self) -> bool:
        """Whether results are kept as data."""
        return any(OUTPUT_KINDS[kind].render is None for _, targets in self.jobs[:1] for kind in targets)


def _plan(arguments: Namespace) -> _Plan:
    """Raises ValueError, FileNotFoundError and ``OutputError``: what would go wrong after the work."""
    output: Path | None = arguments.output
    saving = not arguments.json or output is not None or arguments.save is not None
    if output is not None and names_a_file(output):
        pictures = pictures_of(arguments.pictures, arguments.quiet)
        jobs = [_single_job(pictures, output, arguments.save, arguments.kinds)]
        place: Path | None = output.parent
    else:
        place = (output or DEFAULT_OUTPUT) if saving else None
        pictures = pictures_of(arguments.pictures, arguments.quiet, place)
        kinds = arguments.save or tuple(arguments.kinds)
        jobs = [(one, outputs_of(one, place, kinds) if place is not None else {}) for one in pictures]
    found = len(jobs)
    if arguments.skip_existing:
        # Files are whole or not there, and a picture's are complete or made again.
        jobs = [
            (one, targets) for one, targets in jobs if not targets or not all(p.is_file() for p in targets.values())
        ]
    inputs = {picture.path.absolute() for picture in pictures}
    targets = [path for _, outputs in jobs for path in outputs.values()]
    if clash := next((path for path in targets if path.absolute() in inputs), None):
        raise OutputError(f"{clash} is one of the pictures, it would be overwritten; -o names another folder")
    check_outputs(targets, arguments.force or arguments.skip_existing)
    return _Plan(jobs, place, found - len(jobs))


def _single_job(
    pictures: Sequence[Picture], output: Path, kinds: Sequence[str] | None, known: Mapping[str, OutputKind]
) -> tuple[Picture, dict[str, Path]]:
    """The one picture and the one file that it becomes. Raises ValueError where that is not what was asked for."""
    way_out = f"-o {output.with_suffix('')} names a folder"
    suffixes = {kind: f".{made.suffix.rpartition('.')[2]}" for kind, made in known.items()}
    if kinds is None:  # as of a video: the first kind that is such a file
        kinds = [kind for kind, suffix in suffixes.items() if suffix == output.suffix.lower()][:1]
    if not kinds or any(suffixes[kind] != output.suffix.lower() for kind in kinds):
        made = ", ".join(f"{kind} ({suffixes[kind]})" for kind in kinds or known)
        raise ValueError(
            f"-o {output} is the name of a file, and no {output.suffix} is made here, but {made}; {way_out}"
        )
    if len(kinds) > 1:
        raise ValueError(
            f"-o {output} names one file, and --save makes {len(kinds)}: --save {kinds[0]} makes one; {way_out}"
        )
    if len(pictures) > 1:
        raise ValueError(f"-o {output} names one file, and there are {len(pictures)} pictures; {way_out}")
    return pictures[0], {kinds[0]: output}


def _refuse_other_files(paths: Sequence[Path]) -> None:
    """Where no argument can be a picture, say so at once; one among others is an error of its own, later."""
    readable = (PICTURE, HEIC) if can_read_heif() else (PICTURE,)
    sentences = [mismatch(path, *readable, FOLDER, EMPTY) for path in paths]
    if all(sentences):
        kinds = [recognize(path) for path in paths]
        hint = "; infer takes the engine first, then pictures" if ENGINE in kinds else ""
        raise ImageError(f"{sentences[0]}{hint}")


# ---- running ---------------------------------------------------------------------------------------------------------


def _run_video(arguments: Namespace, settings: dict[str, float | int | None]) -> int:
    from ..outputs.overlays import SCORE_THRESHOLD
    from . import infer_video

    if arguments.skip_existing:
        raise ValueError("--skip-existing is for pictures; a video is worked on from its beginning, with --force anew")
    for path in arguments.pictures:
        if (sentence := mismatch(path, VIDEO, PICTURE)) is not None:
            raise ImageError(sentence)
    arguments.kinds = _kinds_of_engine(arguments.engine, arguments.save)
    chosen = arguments.score_threshold
    if chosen is None and not arguments.json and NPZ not in (arguments.save or ()):
        settings["score_threshold"] = SCORE_THRESHOLD  # nobody sees the others, and each costs time
    arguments.look = Look(SCORE_THRESHOLD if chosen is None else chosen, arguments.iuv_order)
    return infer_video.run(arguments, DEFAULT_OUTPUT, lambda: _load(arguments, _VIDEO_REQUESTS), settings)


def _load(arguments: Namespace, num_requests: int) -> Engine:
    from ..engine import Engine

    with Stages(enabled=not arguments.quiet) as stages:
        stages(f"loading {arguments.engine.name}")
        mesh = {} if arguments.mesh is None else {"mesh": arguments.mesh}
        return Engine.load(
            arguments.engine,
            **mesh,
            device=arguments.device,
            num_threads=arguments.threads,
            num_requests=num_requests,
            cache_dir=None if arguments.no_cache else (arguments.cache_dir or "auto"),
        )


def _report(outcome: Outcome, arguments: Namespace, tally: Tally) -> None:
    if outcome.error is not None and not outcome.place_is_gone:
        say(f"error: {printable(outcome.error)}")
    if outcome.result is not None and not arguments.quiet:
        if (remark := frames_remark(outcome.picture.path)) is not None:
            say(printable(remark))
        if not arguments.json and outcome.error is None:
            print(tally.line(outcome), flush=True)
    if arguments.json:
        print(json.dumps(outcome.to_dict()), flush=True)
