"""Times our ops against what they replace, interleaved in one run: medians, and how many times faster ours are.

- MultilevelRoiAlign against OpenVINO's own ROIAlign as exporters use it: one per level, each over all boxes. Both run
  in an OpenVINO graph with the same number of threads; the stock graph is not charged for picking each box's level.
- GenerateProposals against detectron2's steps in torch, with OpenVINO's NonMaxSuppression in torchvision's place.
- ChartResult against detectron2's steps in torch: every channel resampled to the box, then argmax, then u and v.
- ClosestVertices against DensePose's steps in torch (closest_vertices.py).

The rows "called from Python" include what a call costs: checking shapes, and memory for the outputs. Every pair is
compared before it is timed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import closest_vertices
import numpy as np
import onnx
import openvino
import torch
from openvino import opset9

from densepose_engine import _core
from densepose_engine.backends.openvino import make_core

OURS = "densepose_engine"
STRIDES = [4, 8, 16, 32]
CHANNELS = 64
PICTURES = [(320, 448), (800, 1088)]

Contenders = dict[str, Callable[[], Any]]


# --- timing


def interleave(contenders: Contenders, seconds: float) -> dict[str, float]:
    """Median milliseconds of each; they take turns, so that whatever slows the machine down slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


# --- MultilevelRoiAlign


def pyramid(rng: np.random.Generator, picture: tuple[int, int]) -> list[np.ndarray]:
    """Features of a picture, NCHW."""
    shapes = [(1, CHANNELS, picture[0] // s, picture[1] // s) for s in STRIDES]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def random_boxes(rng: np.random.Generator, count: int, picture: tuple[int, int]) -> np.ndarray:
    """Boxes within a picture, with sides from 16 pixels to the picture's, evenly spread over the octaves."""
    limit = np.array(picture[::-1])
    side = np.minimum(np.exp(rng.uniform(np.log(16), np.log(limit.max()), (count, 2))), limit)
    corner = rng.uniform(0, 1, (count, 2)) * (limit - side)
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def compiled(
    core: openvino.Core, model: openvino.Model, inputs: Sequence[np.ndarray], threads: int
) -> Callable[[], Any]:
    """A function that runs a model, whose inputs are in place and whose outputs stay where they are."""
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    for index, array in enumerate(inputs):
        request.set_input_tensor(index, openvino.Tensor(array.copy()))

    def run() -> list[np.ndarray]:
        request.infer()
        return [tensor.data for tensor in request.output_tensors]

    return run


def stock_roi_align(levels: Sequence[np.ndarray], boxes: np.ndarray, pooled: int, threads: int) -> Callable[[], Any]:
    """One ROIAlign per level, each over all boxes; the outputs are left unmerged."""
    inputs = [opset9.parameter(x.shape, np.float32) for x in [*levels, boxes]]
    batch = opset9.constant(np.zeros(len(boxes), np.int32))
    outputs = [
        opset9.roi_align(level, inputs[-1], batch, pooled, pooled, 0, 1 / stride, "avg", "half_pixel_for_nn")
        for level, stride in zip(inputs[:-1], STRIDES, strict=True)
    ]
    return compiled(openvino.Core(), openvino.Model(outputs, inputs), [*levels, boxes], threads)


def our_roi_align(
    levels: Sequence[np.ndarray], boxes: np.ndarray, pooled: int, layout: str, threads: int
) -> Callable[[], Any]:
    """Our op in an OpenVINO graph of its own."""
    count = np.array([len(boxes)], np.int32)
    arrays = {f"level_{i}": x for i, x in enumerate(levels)} | {"boxes": boxes, "count": count}
    attributes = _core.ops.MultilevelRoiAlign(strides=STRIDES, pooled_size=pooled, layout=layout).attributes
    node = onnx.helper.make_node("MultilevelRoiAlign", list(arrays), ["pooled"], domain="densepose", **attributes)
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in arrays.items()
    ]
    output = onnx.helper.make_tensor_value_info("pooled", onnx.helper.np_dtype_to_tensor_dtype(levels[0].dtype), None)
    graph = onnx.helper.make_graph([node], "roi_align", values, [output])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("densepose", 1)]
    core = make_core()
    model = core.read_model(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return compiled(core, model, list(arrays.values()), threads)


def roi_align_cases(threads: int) -> Iterator[tuple[str, Contenders]]:
    """Box head (7x7) and DensePose head (32x32) on a small and a large picture."""
    for picture, (pooled, count) in itertools.product(PICTURES, [(7, 100), (7, 1000), (32, 8), (32, 100)]):
        rng = np.random.default_rng(0)
        planar, boxes = pyramid(rng, picture), random_boxes(rng, count, picture)
        levels = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)) for x in planar]
        op = _core.ops.MultilevelRoiAlign(strides=STRIDES, pooled_size=pooled, layout="NHWC")
        rows = np.array([count], np.int32)
        contenders: Contenders = {
            OURS: our_roi_align(levels, boxes, pooled, "NHWC", threads),
            "called from Python": lambda op=op, args=(*levels, boxes, rows): op(*args, threads=threads),
            "NCHW": our_roi_align(planar, boxes, pooled, "NCHW", threads),
            "uint8": our_roi_align([quantised(x) for x in levels], boxes, pooled, "NHWC", threads),
            "OpenVINO, ROIAlign per level": stock_roi_align(planar, boxes, pooled, threads),
        }
        check_roi_align(contenders[OURS]()[0], contenders["OpenVINO, ROIAlign per level"](), boxes)
        yield f"MultilevelRoiAlign {pooled}x{pooled}, {count} boxes, {picture[0]}x{picture[1]}", contenders


def quantised(features: np.ndarray) -> np.ndarray:
    """Features as uint8 with zero point 128."""
    return np.clip(np.rint(features * 40) + 128, 0, 255).astype(np.uint8)


def check_roi_align(ours: np.ndarray, per_level: Sequence[np.ndarray], boxes: np.ndarray) -> None:
    """Each box's row must be that of its level in the stock graph."""
    sides = boxes[:, 2:] - boxes[:, :2]
    level = np.clip(np.floor(4 + np.log2(np.sqrt(sides.prod(axis=1)) / 224 + 1e-8)), 2, 5).astype(int) - 2
    expected = np.stack([per_level[i][n] for n, i in enumerate(level)])
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), expected, atol=1e-3)


# --- GenerateProposals


def stock_nms(threads: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """OpenVINO's NonMaxSuppression, for any number of boxes."""
    boxes, scores = opset9.parameter([1, -1, 4], np.float32), opset9.parameter([1, 1, -1], np.float32)
    limits = [opset9.constant(np.int64(10**6)), opset9.constant(np.float32(0.7)), opset9.constant(np.float32(-1e30))]
    nms = opset9.non_max_suppression(boxes, scores, *limits, box_encoding="corner")
    model = openvino.Model([nms.output(0), nms.output(2)], [boxes, scores])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def run(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        selected = request.infer([boxes[None][..., [1, 0, 3, 2]], scores[None, None]])
        return np.array(selected[0][: int(selected[1][0]), 2])

    return run


class TorchProposals:
    """detectron2's predict_proposals in its own steps: all anchors are decoded, then the best of each level chosen."""

    def __init__(self, rpn: Sequence[np.ndarray], anchors: np.ndarray, picture: tuple[int, int], threads: int) -> None:
        self.levels = [(torch.from_numpy(x[:, :3]), torch.from_numpy(x[:, 3:])) for x in rpn]
        self.limits = torch.tensor([*picture[::-1], *picture[::-1]], dtype=torch.float32)
        self.nms = stock_nms(threads)
        self.anchors = []
        for i, (logits, _) in enumerate(self.levels):
            y, x = torch.meshgrid(*(torch.arange(n) * 4 * 2**i for n in logits.shape[2:]), indexing="ij")
            cells = torch.from_numpy(anchors[i])[None]
            self.anchors.append((torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4) + cells).reshape(-1, 4))

    def __call__(self, max_proposals: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes and scores, best first."""
        all_boxes, all_scores = [], []
        for (logits, deltas), anchors in zip(self.levels, self.anchors, strict=True):
            scores = logits.permute(0, 2, 3, 1).flatten()
            moves = deltas.view(1, 3, 4, *deltas.shape[2:]).permute(0, 3, 4, 1, 2).reshape(-1, 4)
            sides = anchors[:, 2:] - anchors[:, :2]
            center = anchors[:, :2] + 0.5 * sides + moves[:, :2] * sides
            sides = moves[:, 2:].clamp(max=4.135166556742356).exp() * sides
            boxes = torch.cat([center - 0.5 * sides, center + 0.5 * sides], dim=1)
            top, index = scores.topk(min(1000, len(scores)))
            boxes = torch.minimum(boxes[index].clamp(min=0), self.limits)
            valid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            boxes, top = boxes[valid], top[valid]
            kept = torch.from_numpy(self.nms(boxes.numpy(), top.numpy()))
            all_boxes.append(boxes[kept])
            all_scores.append(top[kept])
        scores, order = torch.cat(all_scores).sort(descending=True)
        return torch.cat(all_boxes)[order[:max_proposals]].numpy(), scores[:max_proposals].numpy()


def proposal_cases(threads: int) -> Iterator[tuple[str, Contenders]]:
    """Five levels, three anchors, the best 1,000 of each level, as detectron2's FPN configurations have it."""
    strides = [4, 8, 16, 32, 64]
    cells = np.array([[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]], np.float32)
    anchors = np.stack([cells * 2**i for i in range(5)])
    for picture, limit in itertools.product(PICTURES, [100, 1000]):
        rng = np.random.default_rng(0)
        shapes = [(1, 15, -(-picture[0] // s), -(-picture[1] // s)) for s in strides]
        spread = np.array([2] * 3 + [0.2] * 12).reshape(1, 15, 1, 1)  # of logits and of deltas
        rpn = [(rng.standard_normal(shape) * spread).astype(np.float32) for shape in shapes]
        op = _core.ops.GenerateProposals(strides=strides, anchors=anchors.ravel().tolist())
        arguments = (*rpn, np.array([*picture, *picture], np.int32), np.array([limit], np.int32))
        theirs = TorchProposals(rpn, anchors, picture, threads)
        boxes, scores, count = op(*arguments)
        expected_boxes, expected_scores = theirs(limit)
        np.testing.assert_array_equal(scores[: count[0]], expected_scores)
        np.testing.assert_allclose(boxes[: count[0]], expected_boxes, atol=1e-2)
        yield (
            f"GenerateProposals, best {limit}, {picture[0]}x{picture[1]}",
            {
                OURS: lambda op=op, arguments=arguments: op(*arguments, threads=threads),
                "torch + OpenVINO's NMS": lambda theirs=theirs, limit=limit: theirs(limit),
            },
        )


# --- ChartResult


def person_maps(rng: np.random.Generator, people: int) -> list[np.ndarray]:
    """Maps like the head's: smooth, a body-like blob of about 40% of the box, parts in regions."""
    coarse = rng.standard_normal((people, 2, 112, 112)).astype(np.float32) * 0.01
    y, x = np.mgrid[-1:1:112j, -1:1:112j]
    coarse[:, 1] += 1 - (x / 0.6) ** 2 - (y / 0.9) ** 2
    small = torch.from_numpy(rng.standard_normal((people * 75, 1, 7, 7)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(small, (112, 112), mode="bicubic").reshape(people, 75, 112, 112).numpy()
    return [coarse, *(np.ascontiguousarray(part) for part in np.split(smooth, 3, axis=1))]


def detectron2_chart(maps: Sequence[torch.Tensor], boxes: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Labels and uv of each person in the steps of detectron2's converter."""
    results = []
    for k, box in enumerate(boxes):
        size = (max(int(box[3] - box[1]), 1), max(int(box[2] - box[0]), 1))
        coarse, fine, u, v = (
            torch.nn.functional.interpolate(m[k : k + 1], size, mode="bilinear", align_corners=False) for m in maps
        )
        labels = (fine.argmax(dim=1) * (coarse.argmax(dim=1) > 0).long())[0]
        uv = torch.zeros((2, *size))
        for part in range(1, u.shape[1]):
            uv[0][labels == part] = u[0, part][labels == part]
            uv[1][labels == part] = v[0, part][labels == part]
        results.append((labels, uv))
    return results


def chart_cases(threads: int) -> Iterator[tuple[str, Contenders]]:
    """People of several sizes."""
    for people, width, height in [(2, 200, 400), (1, 200, 400), (8, 60, 120), (2, 100, 200), (1, 600, 1000)]:
        maps = person_maps(np.random.default_rng(0), people)
        boxes = np.array([[5, 7, 5 + width, 7 + height]] * people, np.float32)
        tensors = [torch.from_numpy(m) for m in maps]
        swapped = [np.ascontiguousarray(m.transpose(0, 2, 3, 1)) for m in maps]
        ops = {layout: _core.ops.ChartResult(layout=layout) for layout in ("NCHW", "NHWC")}
        labels, uv, _, _ = ops["NCHW"](*maps, boxes, threads=threads)
        expected = detectron2_chart(tensors, boxes)
        same = labels == torch.cat([x.flatten() for x, _ in expected]).numpy()
        assert same.mean() > 0.9999
        differences = np.abs(uv - torch.cat([x.flatten() for _, x in expected]).numpy()).reshape(people, 2, -1)
        assert (differences * same.reshape(people, 1, -1)).max() < 1e-4
        yield (
            f"ChartResult, {people} people of {width}x{height}",
            {
                OURS: lambda maps=maps, boxes=boxes, ops=ops: ops["NCHW"](*maps, boxes, threads=threads),
                "NHWC": lambda maps=swapped, boxes=boxes, ops=ops: ops["NHWC"](*maps, boxes, threads=threads),
                "detectron2's steps in torch": lambda maps=tensors, boxes=boxes: detectron2_chart(maps, boxes),
            },
        )


CASES = {
    "roi_align": roi_align_cases,
    "proposals": proposal_cases,
    "chart": chart_cases,
    "closest_vertices": closest_vertices.cases,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", choices=[[], *CASES], help="which ops; all of them if none is named")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="per case (default: %(default)s)")
    parser.add_argument("--cse", type=Path, metavar="FOLDER", help="a trained CSE network, see closest_vertices.py")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the medians there, too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    results: dict[str, dict[str, float]] = {}
    print(f"{_core.isa()}, {arguments.threads} threads, median milliseconds")
    cases = {**CASES, "closest_vertices": functools.partial(closest_vertices.cases, folder=arguments.cse)}
    for name in arguments.ops or CASES:
        for case, contenders in cases[name](arguments.threads):
            results[case] = interleave(contenders, arguments.seconds)
            print(case)
            ours = results[case][OURS]
            for contender, milliseconds in results[case].items():
                print(f"    {milliseconds:9.3f}  {milliseconds / ours:7.2f} x  {contender}")
    if arguments.json:
        report = {"isa": _core.isa(), "threads": arguments.threads, "median_ms": results}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
