"""One pass of pictures through the float graph, with a histogram on every tensor that may later get a scale.

Nothing is random here but the choice of pictures: the heads are calibrated on the proposals and the people that the
float graph finds itself, at the thresholds that it was exported with, and pictures are resized as the engine does it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from ...errors import CalibrationError, ImageError, InferenceError
from ...files.npz import NpzReader, write_npz
from ...files.output_files import output_errors
from ...files.recognize import GRAPH, refuse_other
from ...model.graph_file import read_graph_bytes
from ...pictures.find import Picture
from ...pictures.read import to_rgb_array
from ..histogram import BINS, Histogram, TensorStatistics
from ..table import CalibrationTable, ImageProvenance, LayerStatistics, graph_digest
from .images import choose, combined_sha256, file_sha256
from .taps import TappedGraph
from .variety import remarks, thumbnail

METHOD = "post-training, 2048-bin histograms"
DEFAULT_COUNT = 128
# A person gives each map of the DensePose head 65,000 values, but the tails of few people are these people's own.
DEFAULT_MIN_PEOPLE = 8
_SAVE_EVERY, _SAVE_AFTER = 8, 5.0  # pictures, seconds: whichever comes first


def _ignore(*_: object) -> None:
    pass


def collect(
    graph: Path,
    pictures: Sequence[Picture],
    *,
    count: int = DEFAULT_COUNT,
    seed: int = 0,
    min_people: int = DEFAULT_MIN_PEOPLE,
    num_threads: int | None = None,
    resume_path: Path | None = None,
    progress: Callable[[int, int], None] = _ignore,
    notify: Callable[[str], None] = _ignore,
) -> CalibrationTable:
    """The calibration table of a graph.

    Args:
        graph: the float ONNX file that ``export`` wrote.
        pictures: what to choose from.
        count: how many of them to use at most; ``images.choose`` says which.
        min_people: fewer in all pictures together are an error, because the DensePose head has then seen too little.
        resume_path: where the state is kept every few pictures. If a file of the same graph, pictures, count and seed
            is there already, its pictures are not run again, and the table is the same to the last bit. The file
            stays: remove it when the table is saved.
        progress: called with how many pictures are done and how many there are, first with what was resumed.
        notify: called with a sentence about what the user should know: a picture left out, a state not used, pictures
            that are few or copies of each other.

    Raises:
        FileNotFoundError: there is no such graph.
        CalibrationError: the graph is not ours, no picture can be read, too few people, NaN or infinity in a tensor.
        BackendUnavailable: OpenVINO, or what reads the graph, is not installed.
        BuildError, InferenceError: OpenVINO failed.
        OutputError: the state cannot be written.
    """
    if min_people < 1:
        raise ValueError(f"min_people must be at least 1, not {min_people}")
    refuse_other(graph, GRAPH, error=CalibrationError)
    model = read_graph_bytes(graph, CalibrationError)
    chosen = choose(pictures, count, seed)
    if not chosen:
        raise CalibrationError("there are no pictures to calibrate on")
    hashes = [_hash(picture.path) for picture in chosen]
    run = _Run(TappedGraph(model, str(graph), num_threads))
    fingerprint = _fingerprint(graph_digest(model), seed, chosen, hashes, run.graph)
    if resume_path is not None:
        _resume(run, resume_path, fingerprint, len(chosen), notify)
    progress(run.done, len(chosen))
    unsaved, saved_at = 0, time.monotonic()
    for index in range(run.done, len(chosen)):
        if (reason := run.add(chosen[index].path, hashes[index])) is not None:
            notify(f"left out: {reason}")
        unsaved += 1
        last = index + 1 == len(chosen)
        due = unsaved == _SAVE_EVERY or time.monotonic() - saved_at >= _SAVE_AFTER
        if resume_path is not None and (due or last):
            with output_errors(resume_path):
                run.save(resume_path, fingerprint)
            unsaved, saved_at = 0, time.monotonic()
        progress(index + 1, len(chosen))
    _check_enough(run, len(chosen), len(pictures), min_people)
    for remark in remarks(np.array(run.thumbnails), len(pictures)):
        notify(remark)

    used = [index for index in range(len(chosen)) if index not in run.skipped]
    return CalibrationTable(
        graph_sha256=graph_digest(model),
        images=ImageProvenance(
            count=len(used),
            skipped=tuple(chosen[index].path.name for index in run.skipped),
            sha256=combined_sha256(hashes[index] or "" for index in used),
            seed=seed,
            names=tuple(chosen[index].path.name for index in used),
        ),
        method=METHOD,
        package_version=_package_version(),
        input_size=run.graph.input_size,
        people=run.people,
        proposals=run.proposals,
        tensors={histogram.name: histogram.statistics() for histogram in run.histograms},
        layers=run.layer_statistics(),
    )


def _check_enough(run: _Run, chosen: int, available: int, min_people: int) -> None:
    readable = chosen - len(run.skipped)
    if not readable:
        raise CalibrationError(f"none of the {chosen} pictures can be read, the last because: {run.last_reason}")
    if run.people < min_people:
        more = f"raise --count (there are {available} pictures)" if available > chosen else "add pictures with people"
        more += ", or lower --min-people" if run.people else ""  # nobody is too few in any case
        raise CalibrationError(
            f"too few people to calibrate the DensePose head on: the float graph found {run.people} in {readable} "
            f"pictures at its score threshold of {run.graph.score_threshold:g}, and {min_people} are needed; {more}"
        )
    empty = [histogram.name for histogram in run.histograms if not histogram.count]
    if empty:
        raise CalibrationError(f"{readable} pictures gave no value of {', '.join(empty[:5])}; add pictures with people")


def _hash(path: Path) -> str | None:
    """None for what cannot be read; why not is said when it is its turn."""
    try:
        return file_sha256(path) if path.is_file() else None
    except OSError:
        return None


def _fingerprint(
    digest: str, seed: int, pictures: Sequence[Picture], hashes: Sequence[str | None], graph: TappedGraph
) -> str:
    """Of everything that the state depends on."""
    names = [picture.path.name for picture in pictures]
    watched = [graph.tensors, [astuple(layer) for layer in graph.layers]]
    parts = [METHOD, _package_version(), digest, seed, list(zip(names, hashes, strict=True)), watched]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _package_version() -> str:
    from ... import __version__

    return __version__


def _resume(run: _Run, path: Path, fingerprint: str, total: int, notify: Callable[[str], None]) -> None:
    if not path.exists():
        return
    try:
        same = run.load(path, fingerprint, total)
    except (OSError, ValueError) as error:
        notify(f"{path} cannot be resumed from ({error}); starting from the first picture")
        return
    if same:
        notify(f"resuming after {run.done} of {total} pictures, from {path}")
    else:
        notify(f"{path} is of another graph, other pictures or another seed; starting from the first picture")


class _Run:
    """What is known after ``done`` pictures; it can be saved and loaded between two of them."""

    def __init__(self, graph: TappedGraph) -> None:
        self.graph = graph
        self.done, self.people, self.proposals = 0, 0, 0
        self.skipped: list[int] = []
        self.thumbnails: list[np.ndarray] = []  # of the pictures that were read
        self.last_reason = ""
        self.histograms = [Histogram(name) for name in graph.tensors]
        # Layers that read the same tensor share its mean.
        self._sources = list(dict.fromkeys((layer.source, layer.axis) for layer in graph.layers))
        self._sums: list[np.ndarray] = [np.zeros(0) for _ in self._sources]  # float64 [C_in]
        self._summed = [0] * len(self._sources)  # values per channel

    def add(self, path: Path, sha256: str | None) -> str | None:
        """Run one more picture; a sentence if it has to be left out."""
        reason = None
        try:
            if not path.is_file():
                raise ImageError(f"{path} is no file")
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise CalibrationError(f"{path} was changed while calibrating; run it again when nothing writes there")
            rgb = to_rgb_array(content)
        except ImageError as error:
            reason = f"{path}: {error}"
        except OSError as error:
            reason = f"{path} cannot be read: {error.strerror or error}"
        except MemoryError:
            reason = f"{path} needs more memory than there is"
        if reason is None:
            self._observe(path, rgb)
        else:
            self.skipped.append(self.done)
            self.last_reason = reason
        self.done += 1
        return reason

    def _observe(self, path: Path, rgb: np.ndarray) -> None:
        try:
            people, proposals = self.graph.run(rgb)
            for histogram in self.histograms:
                histogram.update(self.graph.values(histogram.name))
        except (CalibrationError, InferenceError) as error:
            raise type(error)(f"{path}: {error}") from error
        self.thumbnails.append(thumbnail(rgb))
        self.people += people
        self.proposals += proposals
        for index, (name, axis) in enumerate(self._sources):
            values = self.graph.values(name)
            if values.size:
                total = _sum_by_channel(values, axis)
                self._sums[index] = self._sums[index] + total if self._summed[index] else total
                self._summed[index] += values.size // len(total)

    def layer_statistics(self) -> dict[str, LayerStatistics]:
        """By the layers' names."""
        means = {
            source: LayerStatistics(total / number)
            for source, total, number in zip(self._sources, self._sums, self._summed, strict=True)
        }
        return {layer.name: means[layer.source, layer.axis] for layer in self.graph.layers}

    def save(self, path: Path, fingerprint: str) -> None:
        """Write the state; the old one stays until the new one is whole."""
        found = [histogram.statistics() for histogram in self.histograms]
        write_npz(
            path,
            {
                "fingerprint": np.array(fingerprint),
                "progress": np.array([self.done, self.people, self.proposals], np.int64),
                "skipped": np.array(self.skipped, np.int64),
                "thumbnails": np.array(self.thumbnails, np.uint8).reshape(-1, 16, 16),
                "extremes": np.array([(one.minimum, one.maximum) for one in found], np.float64),
                "totals": np.array([(one.count, one.zeros) for one in found], np.int64),
                "counts": np.stack([one.counts for one in found]),
                "summed": np.array(self._summed, np.int64),
                "channels": np.array([len(total) for total in self._sums], np.int64),
                "sums": np.concatenate(self._sums),
            },
        )

    def load(self, path: Path, fingerprint: str, total: int) -> bool:
        """Take over a saved state; False if it is of other work. Raises ``OSError``, and ``ValueError`` if damaged."""
        tensors, sources = len(self.histograms), len(self._sources)
        with NpzReader(path) as file:
            if str(file.read("fingerprint", "U", ())) != fingerprint:
                return False
            done, people, proposals = file.read("progress", "i", (3,)).tolist()
            skipped = file.read("skipped", "i", (None,)).tolist()
            thumbnails = file.read("thumbnails", "u", (None, 16, 16))
            extremes = file.read("extremes", "f", (tensors, 2)).tolist()
            totals = file.read("totals", "i", (tensors, 2)).tolist()
            counts = file.read("counts", "i", (tensors, BINS))
            summed = file.read("summed", "i", (sources,)).tolist()
            channels = file.read("channels", "i", (sources,))
            sums = file.read("sums", "f", (None,))
        if len(thumbnails) != done - len(skipped):
            raise ValueError("its numbers contradict each other")
        if not 0 <= done <= total or channels.min() < 0 or channels.sum() != len(sums):
            raise ValueError("its numbers contradict each other")
        histograms = [Histogram(name) for name in self.graph.tensors]
        for histogram, (minimum, maximum), (count, zeros), row in zip(
            histograms, extremes, totals, counts, strict=True
        ):
            if count:
                histogram.merge(TensorStatistics.make(minimum, maximum, count, zeros, row))
        self.histograms = histograms
        self.done, self.people, self.proposals, self.skipped = done, people, proposals, skipped
        self.thumbnails = list(thumbnails)
        self._summed, self._sums = summed, np.split(sums, np.cumsum(channels)[:-1])
        return True


def _sum_by_channel(values: np.ndarray, axis: int) -> np.ndarray:
    """float64 ``[C]``: sums over all axes but ``axis``, which is 1 or -1."""
    if axis == 1:
        # Pairwise float32 sums over each map, which numpy does along the last axis, then float64 over the batch.
        values = values.reshape(*values.shape[:2], -1).sum(axis=2)
    return values.reshape(-1, values.shape[-1]).sum(axis=0, dtype=np.float64)
