"""The whole pipeline in eager torch, step by step as detectron2 takes them: the peer that a user comes from.

Preprocessing is Pillow's, the network is the checkpoint's as it is (no folding, no merging), proposals and detections
are torch. NMS and RoIAlign are torchvision's where it is installed; where not, OpenVINO's operators of that name stand
in for them, on one thread: torchvision's do not use more, and OpenVINO's would fight for cores with torch's.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..decoders.base import DetectionResult
from ..export.checkpoint.load import load_checkpoint, load_weights
from ..export.config.model_config import PoolerConfig, load_config
from ..export.model import DensePoseRCNN
from ..pictures.read import letterbox_size, padded_size, shortest_edge_size
from .torch_decoding import torch_decoding

_LARGEST_LOG = float(np.log(1000.0 / 16))
_DIVISOR = 32


class RegionOps(Protocol):
    """What detectron2 takes from torchvision."""

    name: str

    def nms(self, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        """Indices of the boxes that are kept, best first."""

    def roi_align(
        self, level: Tensor, boxes: Tensor, side: int, scale: float, sampling_ratio: int, aligned: bool
    ) -> Tensor:
        """``(N, C, side, side)`` from a map ``(1, C, H, W)`` and boxes ``(N, 4)``."""


class TorchvisionOps:
    """The originals; ImportError where they are not installed or do not work."""

    name = "torchvision"

    def __init__(self) -> None:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # a build for another torch fails here
        self._ops = torchvision.ops

    def nms(self, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        return self._ops.nms(boxes, scores, threshold)

    def roi_align(
        self, level: Tensor, boxes: Tensor, side: int, scale: float, sampling_ratio: int, aligned: bool
    ) -> Tensor:
        return self._ops.roi_align(level, [boxes], (side, side), scale, sampling_ratio, aligned)


class OpenvinoOps:
    """OpenVINO's operators, each as a graph of its own."""

    name = "OpenVINO on one thread (for torchvision's)"

    def __init__(self) -> None:
        from ..backends.openvino import make_core
        from ..backends.openvino.device import CPU

        self._device = CPU.name
        self._core = make_core()
        self._options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._pooler = lru_cache(maxsize=None)(self._make_pooler)
        self._suppressor = lru_cache(maxsize=None)(self._make_suppressor)

    def _request(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> Any:
        import openvino

        model = openvino.Model(list(outputs), list(inputs))
        return self._core.compile_model(model, self._device, self._options).create_infer_request()

    def _make_suppressor(self, threshold: float) -> Any:
        from openvino import Type, opset9

        boxes, scores = opset9.parameter([1, -1, 4], Type.f32), opset9.parameter([1, 1, -1], Type.f32)
        most, lowest = np.int64(2**31 - 1), np.float32(-1e30)
        kept = opset9.non_max_suppression(
            boxes, scores, most, np.float32(threshold), lowest, sort_result_descending=False, output_type="i64"
        )
        return self._request([kept.output(0), kept.output(2)], [boxes, scores])

    def nms(self, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        if not len(boxes):
            return torch.zeros(0, dtype=torch.long)
        inputs = [boxes[None].contiguous().numpy(), scores[None, None].contiguous().numpy()]
        kept, count = self._suppressor(threshold).infer(inputs, share_inputs=True, share_outputs=True).values()
        return torch.from_numpy(kept[: int(count[0]), 2].copy())

    def _make_pooler(self, channels: int, side: int, scale: float, sampling_ratio: int, aligned: bool) -> Any:
        from openvino import Type, opset9

        level, boxes = opset9.parameter([1, channels, -1, -1], Type.f32), opset9.parameter([-1, 4], Type.f32)
        batch = opset9.parameter([-1], Type.i32)
        mode = "half_pixel_for_nn" if aligned else "asymmetric"
        pooled = opset9.roi_align(level, boxes, batch, side, side, sampling_ratio, scale, "avg", mode)
        return self._request([pooled.output(0)], [level, boxes, batch])

    def roi_align(
        self, level: Tensor, boxes: Tensor, side: int, scale: float, sampling_ratio: int, aligned: bool
    ) -> Tensor:
        if not len(boxes):
            return boxes.new_zeros(0, level.shape[1], side, side)
        request = self._pooler(level.shape[1], side, scale, sampling_ratio, aligned)
        inputs = [level.contiguous().numpy(), boxes.contiguous().numpy(), np.zeros(len(boxes), np.int32)]
        (pooled,) = request.infer(inputs, share_inputs=True, share_outputs=True).values()
        return torch.from_numpy(pooled.copy())


def region_ops() -> RegionOps:
    """torchvision's, or what stands in for them."""
    try:
        return TorchvisionOps()
    except (ImportError, RuntimeError, NotImplementedError):
        return OpenvinoOps()


class TorchPipeline:
    """Pictures to results with a torch model; the same ``infer`` as an engine's.

    Args:
        model: any model of ours, with its weights.
        input_size: (height, width) as of an engine; None: the configuration's sizes.
        threads: of torch.
    """

    precision = "fp32"

    def __init__(self, model: DensePoseRCNN, input_size: tuple[int, int] | None, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model, self.config = model, model.config
        self._input_size = input_size
        self._ops = region_ops()
        self._decoding = torch_decoding(model)
        self._parts: dict[str, list[float]] = defaultdict(list)
        self._proposal_counts: list[int] = []
        self.note = (
            f"torch {torch.__version__} eager, {threads} threads, detectron2's steps; NMS and RoIAlign of "
            f"{self._ops.name}"
        )

    @classmethod
    def from_checkpoint(
        cls, config: Path, weights: Path, input_size: tuple[int, int] | None, threads: int
    ) -> TorchPipeline:
        """Of a detectron2 configuration and its checkpoint; errors as of ``export_checkpoint``."""
        model = DensePoseRCNN(load_config(config, ()))
        load_weights(model, load_checkpoint(weights))
        return cls(model, input_size, threads)

    def close(self) -> None:
        """Nothing has to be freed by hand."""

    def parts_ms(self) -> dict[str, float]:
        """Median milliseconds of each part over all frames since the beginning."""
        return {name: 1e3 * statistics.median(values) for name, values in self._parts.items()}

    def proposals(self) -> float:
        """How many regions the box head looked at: the mean over all frames, at most what was asked for."""
        return statistics.mean(self._proposal_counts)

    @torch.inference_mode()
    def infer(
        self,
        image: np.ndarray,
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_people: int | None = None,
        max_proposals: int | None = None,
    ) -> DetectionResult:
        """As ``Engine.infer``, of a uint8 RGB array."""
        box, rpn = self.config.box, self.config.rpn
        lap = self._laps()
        tensor, resized = self._preprocess(image)
        lap("preprocess")
        levels = self.model.pyramid(tensor)
        lap("backbone, neck")
        proposals = self._proposals(levels, resized, rpn.max_proposals if max_proposals is None else max_proposals)
        lap("rpn, proposals")
        self._proposal_counts.append(len(proposals))
        pooled = self._pool(self.model.box_features(levels), proposals, box.pooler)
        lap("box roi align")
        logits, deltas = self.model.box(pooled)
        lap("box head")
        boxes, scores, classes = self._detections(
            logits,
            deltas,
            proposals,
            resized,
            box.score_threshold if score_threshold is None else score_threshold,
            box.nms_threshold if nms_threshold is None else nms_threshold,
            box.max_detections if max_people is None else max_people,
        )
        lap("detections")
        pooled = self._pool(self.model.densepose_features(levels), boxes, self.config.densepose.pooler)
        maps = self.model.densepose(pooled) if len(boxes) else {}
        lap("densepose")
        result = self._result(boxes, scores, classes, maps, resized, (image.shape[0], image.shape[1]))
        lap(self._decoding.stage)
        return result

    def _laps(self) -> Callable[[str], None]:
        last = time.perf_counter()

        def lap(name: str) -> None:
            nonlocal last
            now = time.perf_counter()
            self._parts[name].append(now - last)
            last = now

        return lap

    def _preprocess(self, image: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        from PIL import Image

        given = self.config.input
        height, width = image.shape[:2]
        if self._input_size is not None:
            resized = letterbox_size(height, width, *self._input_size)
            padded = self._input_size
        else:
            resized = shortest_edge_size(height, width, given.min_size_test, given.max_size_test)
            padded = padded_size(*resized, _DIVISOR)
        if given.format == "BGR":
            image = image[..., ::-1]
        scaled = Image.fromarray(np.ascontiguousarray(image)).resize(resized[::-1], Image.Resampling.BILINEAR)
        tensor = torch.as_tensor(np.asarray(scaled).astype("float32").transpose(2, 0, 1))
        mean, std = torch.tensor(given.pixel_mean).view(-1, 1, 1), torch.tensor(given.pixel_std).view(-1, 1, 1)
        tensor = (tensor - mean) / std
        tensor = F.pad(tensor, (0, padded[1] - resized[1], 0, padded[0] - resized[0]))
        return tensor[None], resized

    def _proposals(self, levels: dict[str, Tensor], resized: tuple[int, int], most: int) -> Tensor:
        rpn = self.config.rpn
        all_boxes, all_scores = [], []
        for (objectness, deltas), stride, cells in zip(
            self.model.rpn(levels), rpn.anchors.strides, rpn.anchors.cell_anchors(), strict=True
        ):
            _, anchors, height, width = objectness.shape
            scores = objectness.permute(0, 2, 3, 1).flatten()
            deltas = deltas.view(anchors, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
            y, x = torch.meshgrid(
                (torch.arange(height) + rpn.anchors.offset) * stride,
                (torch.arange(width) + rpn.anchors.offset) * stride,
                indexing="ij",
            )
            shifts = torch.stack((x, y, x, y), dim=-1).view(-1, 1, 4)
            boxes = (shifts + torch.tensor(cells)).view(-1, 4)
            # detectron2 decodes every anchor before it takes the best.
            boxes = _decode(boxes, deltas, rpn.bbox_reg_weights)
            scores, index = scores.topk(min(rpn.pre_nms_topk, len(scores)))
            boxes = _clip(boxes[index], resized)
            large = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
            large &= ((boxes[:, 2:] - boxes[:, :2]) > rpn.min_box_size).all(dim=1)
            boxes, scores = boxes[large], scores[large]
            kept = self._ops.nms(boxes, scores, rpn.nms_threshold)
            all_boxes.append(boxes[kept])
            all_scores.append(scores[kept])
        boxes, scores = torch.cat(all_boxes), torch.cat(all_scores)
        return boxes[scores.argsort(descending=True, stable=True)[:most]]

    def _pool(self, levels: list[Tensor], boxes: Tensor, pooler: PoolerConfig) -> Tensor:
        options = (pooler.resolution, pooler.sampling_ratio, pooler.aligned)

        def pool(level: Tensor, stride: int, chosen: Tensor) -> Tensor:
            side, sampling_ratio, aligned = options
            return self._ops.roi_align(level, chosen, side, 1.0 / stride, sampling_ratio, aligned)

        if len(levels) == 1:
            return pool(levels[0], pooler.strides[0], boxes)
        size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        lowest, highest = (int(np.log2(stride)) for stride in (pooler.strides[0], pooler.strides[-1]))
        number = torch.floor(4 + torch.log2(size / 224 + 1e-8)).clamp(lowest, highest).long() - lowest
        pooled = boxes.new_zeros(len(boxes), levels[0].shape[1], pooler.resolution, pooler.resolution)
        for index, (level, stride) in enumerate(zip(levels, pooler.strides, strict=True)):
            rows = torch.nonzero(number == index).squeeze(1)
            pooled.index_put_((rows,), pool(level, stride, boxes[rows]))
        return pooled

    def _detections(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Tensor,
        resized: tuple[int, int],
        score_threshold: float,
        nms_threshold: float,
        most: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes in the resized picture, scores and classes, best first."""
        weights = self.config.box.bbox_reg_weights
        # (rows, classes, 4), or one box of each row for all classes
        boxes = torch.stack([_decode(proposals, moves, weights) for moves in deltas.split(4, dim=1)], dim=1)
        scores = F.softmax(logits, dim=-1)[:, :-1]
        valid = torch.isfinite(boxes).all(dim=2).all(dim=1) & torch.isfinite(scores).all(dim=1)
        boxes, scores = boxes[valid], scores[valid]
        rows, classes = torch.nonzero(scores > score_threshold, as_tuple=True)
        scores = scores[rows, classes]
        boxes = _clip(boxes[rows, classes if boxes.shape[1] > 1 else torch.zeros_like(classes)], resized)
        kept = self._suppressed(boxes, scores, classes, nms_threshold)[:most]
        return boxes[kept], scores[kept], classes[kept]

    def _suppressed(self, boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
        """Indices of what NMS within each class keeps, best first."""
        if self.config.box.num_classes == 1:
            return self._ops.nms(boxes, scores, threshold)
        members = [torch.nonzero(classes == one).squeeze(1) for one in range(self.config.box.num_classes)]
        kept = torch.cat(
            [of_class[self._ops.nms(boxes[of_class], scores[of_class], threshold)] for of_class in members]
        )
        return kept[scores[kept].argsort(descending=True, stable=True)]

    def _result(
        self,
        boxes: Tensor,
        scores: Tensor,
        classes: Tensor,
        maps: dict[str, Tensor],
        resized: tuple[int, int],
        size: tuple[int, int],
    ) -> DetectionResult:
        ratio = torch.tensor([size[1] / resized[1], size[0] / resized[0]])
        boxes = _clip(boxes * ratio.repeat(2), size)
        people = torch.nonzero(((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)).squeeze(1)
        if len(people) < len(boxes):
            maps = {name: values[people] for name, values in maps.items()}
        return self._decoding(boxes[people], scores[people], classes[people], maps, (size[0], size[1]))


def _decode(boxes: Tensor, deltas: Tensor, weights: Sequence[float]) -> Tensor:
    """detectron2 ``Box2BoxTransform.apply_deltas``."""
    sides = boxes[:, 2:] - boxes[:, :2]
    centers = boxes[:, :2] + 0.5 * sides
    deltas = deltas / torch.tensor(weights)
    centers = deltas[:, :2] * sides + centers
    half = 0.5 * deltas[:, 2:].clamp(max=_LARGEST_LOG).exp() * sides
    return torch.cat((centers - half, centers + half), dim=1)


def _clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    limited = (x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height))
    return torch.stack(limited, dim=1)
