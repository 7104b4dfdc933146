"""``densepose-engine infer``: pictures to overlays, IUV images and result files."""

from __future__ import annotations

import json
import statistics
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, InferenceError
from ..output_files import OutputError, atomic_output, check_outputs
from ..pictures import Picture, find_pictures
from ..progress import ProgressBar, Stages
from ..terminal import printable, say
from ..video import is_video
from .arguments import count, fraction, positive

if TYPE_CHECKING:
    import numpy as np

    from ..engine import Engine
    from ..result import DensePoseResult

NAME = "infer"
HELP = "dense poses of the people in pictures or in a video"
DEFAULT_OUTPUT = Path("out")
DEFAULT_SCORE_THRESHOLD = 0.5
_SETTINGS = ("score_threshold", "nms_threshold", "max_people", "max_proposals")
# Of zlib's levels, what costs a third of the default's time for a tenth more bytes.
_PNG_COMPRESSION = 3
# One frame being resized, one in the network, one whose charts are decoded.
_VIDEO_REQUESTS = 3


# ---- outputs ---------------------------------------------------------------------------------------------------------


def _overlay(*layers: str) -> Callable[[np.ndarray, DensePoseResult, Path], None]:
    def save(rgb: np.ndarray, result: DensePoseResult, path: Path) -> None:
        from ..visualize import draw

        _save_png(draw(rgb, result, layers), path)

    return save


def _save_iuv(rgb: np.ndarray, result: DensePoseResult, path: Path) -> None:
    _save_png(result.iuv(), path)


def _save_npz(rgb: np.ndarray, result: DensePoseResult, path: Path) -> None:
    result.save(path)


def _save_png(rgb: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(rgb).save(path, compress_level=_PNG_COMPRESSION)


@dataclass(frozen=True)
class OutputKind:
    """A file that can be made of every picture: ``save(rgb, result, path)`` writes it."""

    suffix: str
    save: Callable[[np.ndarray, DensePoseResult, Path], None]


OUTPUT_KINDS: Mapping[str, OutputKind] = {
    "parts": OutputKind(".parts.png", _overlay("parts", "boxes")),
    "u": OutputKind(".u.png", _overlay("u")),
    "v": OutputKind(".v.png", _overlay("v")),
    "contours": OutputKind(".contours.png", _overlay("contours")),
    "iuv": OutputKind(".iuv.png", _save_iuv),
    "npz": OutputKind(".npz", _save_npz),
}


def outputs_of(picture: Picture, folder: Path, kinds: Iterable[str]) -> dict[str, Path]:
    """Kind -> the file that it is written to."""
    return {kind: picture.output(folder, OUTPUT_KINDS[kind].suffix) for kind in kinds}


# ---- the work --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of one picture: a result, or an error."""

    picture: Picture
    result: DensePoseResult | None = None
    milliseconds: float = 0.0
    outputs: Mapping[str, Path] = field(default_factory=dict)
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        if self.result is None:
            return {"picture": str(self.picture.path), "error": self.error}
        return {
            "picture": str(self.picture.path),
            **self.result.to_dict(),
            "milliseconds": round(self.milliseconds, 3),
            "outputs": {kind: str(path) for kind, path in self.outputs.items()},
        }


def infer_pictures(
    engine: Engine,
    pictures: Iterable[Picture],
    folder: Path | None = None,
    kinds: Iterable[str] = tuple(OUTPUT_KINDS),
    **settings: float | int | None,
) -> Iterator[Outcome]:
    """Run the engine on one picture after the other and write what is made of each below ``folder``, if there is one.

    A picture that cannot be read, or on which the runtime fails, gives an outcome with an error, and the next follows.
    Every file is complete as soon as it exists. ``settings`` are those of ``Engine.infer``.

    Raises:
        ValueError: a setting is out of range.
        OutputError: an output cannot be written.
    """
    from ..preprocess import to_rgb_array

    for picture in pictures:
        try:
            rgb = to_rgb_array(picture.path)
            start = time.perf_counter()
            result = engine.infer(rgb, **settings)  # type: ignore[arg-type]
            milliseconds = 1000 * (time.perf_counter() - start)
        except OSError as error:
            yield Outcome(picture, error=f"{picture.path} cannot be read: {error.strerror or error}")
            continue
        except MemoryError:
            yield Outcome(picture, error=f"{picture.path} needs more memory than there is")
            continue
        except (ImageError, InferenceError) as error:
            text = str(error)
            yield Outcome(picture, error=text if str(picture.path) in text else f"{picture.path}: {text}")
            continue
        outputs = outputs_of(picture, folder, kinds) if folder is not None else {}
        for kind, path in outputs.items():
            with atomic_output(path) as temporary:
                OUTPUT_KINDS[kind].save(rgb, result, temporary)
        yield Outcome(picture, result, milliseconds, outputs)


# ---- the verb --------------------------------------------------------------------------------------------------------


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
    output = parser.add_argument_group(
        "output",
        "Of every picture NAME.parts.png, NAME.u.png, NAME.v.png and NAME.contours.png (overlays),\n"
        "NAME.iuv.png (part 0..24, U * 255 and V * 255 as red, green and blue; OpenCV reads them in\n"
        "reverse) and NAME.npz (boxes, scores, labels and uv of every person). NAME is the picture's path\n"
        "below the folder that was given, without suffix; pictures that would share a name keep their\n"
        "suffix: a.jpg.npz, a.png.npz. Of a video, a video with one of the overlays (default: parts), without\n"
        "sound; -o may name it.",
    )
    output.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"default: {DEFAULT_OUTPUT}; with --json and no -o, no file is written; of a video also the FILE",
    )
    output.add_argument(
        "--save", type=_kinds, metavar="KIND,...", help=f"which files (default: {','.join(OUTPUT_KINDS)})"
    )
    output.add_argument("--force", action="store_true", help="overwrite outputs")
    output.add_argument(
        "--json", action="store_true", help="one line of JSON per picture or frame on stdout, and nothing else there"
    )

    settings = parser.add_argument_group("people", "Defaults are the model's own, but for the score.")
    settings.add_argument(
        "--score-threshold",
        type=fraction,
        default=DEFAULT_SCORE_THRESHOLD,
        metavar="0..1",
        help="people with a higher score (default: %(default)s)",
    )
    settings.add_argument(
        "--nms-threshold", type=fraction, metavar="0..1", help="of two boxes with a higher IoU, keep the better one"
    )
    settings.add_argument("--max-people", type=count, metavar="N", help="at most so many per picture, best first")
    settings.add_argument(
        "--max-proposals", type=count, metavar="N", help="regions that are looked at; fewer is faster and finds less"
    )

    runtime = parser.add_argument_group("runtime")
    runtime.add_argument("--device", help="default: CPU for openvino, cuda for tensorrt")
    runtime.add_argument("--threads", type=positive, metavar="N", help="default: the runtime decides")
    cache = runtime.add_mutually_exclusive_group()
    cache.add_argument(
        "--cache-dir", type=Path, metavar="FOLDER", help="of compiled graphs (default: the user's cache folder)"
    )
    cache.add_argument("--no-cache", action="store_true", help="compile again at every start")


def run(arguments: Namespace) -> int:
    saving = not arguments.json or arguments.output is not None or arguments.save is not None
    folder: Path | None = (arguments.output or DEFAULT_OUTPUT) if saving else None
    kinds: Sequence[str] = arguments.save or tuple(OUTPUT_KINDS)
    # Everything that can be found wrong is found before the engine is loaded and before the first file is written.
    if not arguments.engine.exists():
        raise FileNotFoundError(f"there is no engine {arguments.engine}")
    settings = {name: getattr(arguments, name) for name in _SETTINGS}
    if any(is_video(path) for path in arguments.pictures):
        from . import infer_video

        return infer_video.run(arguments, DEFAULT_OUTPUT, lambda: _load(arguments, _VIDEO_REQUESTS), settings)
    pictures = find_pictures(arguments.pictures, folder)
    if folder is not None:
        _check(pictures, folder, kinds, arguments.force)

    engine = _load(arguments, 1)
    tally = _Tally(len(pictures))
    try:
        with engine, ProgressBar(len(pictures), "pictures", enabled=not arguments.quiet) as bar:
            for outcome in infer_pictures(engine, pictures, folder, kinds, **settings):
                bar.clear()
                _report(outcome, arguments)
                tally.add(outcome)
                bar.advance()
    finally:  # also after Ctrl-C: what is finished is kept, so it is said how much that is
        if not arguments.quiet and tally.done:
            say(tally.summary(folder))
    return 1 if tally.failed else 0


def _load(arguments: Namespace, num_requests: int) -> Engine:
    from ..engine import Engine

    with Stages(enabled=not arguments.quiet) as stages:
        stages(f"loading {arguments.engine.name}")
        return Engine.load(
            arguments.engine,
            device=arguments.device,
            num_threads=arguments.threads,
            num_requests=num_requests,
            cache_dir=None if arguments.no_cache else (arguments.cache_dir or "auto"),
        )


def _check(pictures: Sequence[Picture], folder: Path, kinds: Sequence[str], force: bool) -> None:
    targets = [path for picture in pictures for path in outputs_of(picture, folder, kinds).values()]
    inputs = {picture.path.absolute() for picture in pictures}
    if clash := next((path for path in targets if path.absolute() in inputs), None):
        raise OutputError(f"{clash} is one of the pictures, it would be overwritten; -o names another folder")
    check_outputs(targets, force)


def _report(outcome: Outcome, arguments: Namespace) -> None:
    if outcome.error is not None:
        say(f"error: {printable(outcome.error)}")
    if arguments.json:
        print(json.dumps(outcome.to_dict()), flush=True)
    elif outcome.result is not None and not arguments.quiet:
        people = len(outcome.result)
        print(
            f"{printable(outcome.picture.path)}: {people} {'person' if people == 1 else 'people'}, "
            f"{outcome.milliseconds:.1f} ms",
            flush=True,
        )


class _Tally:
    def __init__(self, total: int) -> None:
        self.total, self.failed, self.people = total, 0, 0
        self._milliseconds: list[float] = []

    @property
    def done(self) -> int:
        return self.failed + len(self._milliseconds)

    def add(self, outcome: Outcome) -> None:
        if outcome.result is None:
            self.failed += 1
        else:
            self.people += len(outcome.result)
            self._milliseconds.append(outcome.milliseconds)

    def summary(self, folder: Path | None) -> str:
        parts = [f"{self.done} of {self.total} pictures", f"people found: {self.people}"]
        if self._milliseconds:
            parts.append(f"median {statistics.median(self._milliseconds):.1f} ms (resize, network and charts)")
        if self.failed:
            parts.append(f"failed: {self.failed}")
        if folder is not None and self._milliseconds:
            parts.append(f"results in {printable(folder)}")
        return ", ".join(parts)
