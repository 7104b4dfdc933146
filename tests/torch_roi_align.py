"""RoIAlign over a pyramid in torch, as detectron2 computes it: an independent witness for the compiled operator.

Written from the definition (https://arxiv.org/abs/1703.06870, section 3; detectron2 ``modeling/poolers.py`` and
torchvision's ``roi_align`` for the sample grid), box by box and without tricks. Arithmetic is in the dtype of the maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def box_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Index into ``strides`` per box ``(N, 4)`` xyxy: level 4 (stride 16) for 224×224, one more per doubling."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = torch.floor(4 + torch.log2(torch.sqrt(area) / 224 + 1e-8))
    lowest, highest = math.log2(strides[0]), math.log2(strides[-1])
    return level.clamp(lowest, highest).long() - int(lowest)


def multilevel_roi_align(
    levels: Sequence[Tensor],
    boxes: Tensor,
    strides: Sequence[int],
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Pools every box from its level: maps ``(1, C, H, W)`` and boxes ``(N, 4)`` give ``(N, C, P, P)``.

    ``sampling_ratio`` 0 takes as many samples per bin and axis as the bin has pixels, rounded up. With one level
    there is no choice of level, whatever the boxes' sizes.
    """
    chosen = box_levels(boxes, strides)
    pooled = boxes.new_zeros((len(boxes), levels[0].shape[1], resolution, resolution))
    for index, box in enumerate(boxes):
        level = int(chosen[index]) if len(levels) > 1 else 0
        pooled[index] = roi_align(levels[level][0], box, 1.0 / strides[level], resolution, sampling_ratio, aligned)
    return pooled


def roi_align(
    features: Tensor, box: Tensor, scale: float, resolution: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Pools one box of the picture from one map ``(C, H, W)``: ``(C, P, P)``."""
    half_pixel = 0.5 if aligned else 0.0
    x0, y0, x1, y1 = box.to(features.dtype) * scale - half_pixel
    width, height = x1 - x0, y1 - y0
    if not aligned:
        width, height = width.clamp(min=1.0), height.clamp(min=1.0)
    ys = sample_positions(y0, height, resolution, sampling_ratio)
    xs = sample_positions(x0, width, resolution, sampling_ratio)
    if ys.numel() == 0 or xs.numel() == 0:  # a box without area, sampled adaptively
        return features.new_zeros((features.shape[0], resolution, resolution))
    rows = interpolation_matrix(ys.flatten(), features.shape[1])
    columns = interpolation_matrix(xs.flatten(), features.shape[2])
    samples = rows @ features @ columns.T
    return samples.unflatten(2, xs.shape).unflatten(1, ys.shape).mean(dim=(2, 4))


def sample_positions(start: Tensor, length: Tensor, resolution: int, sampling_ratio: int) -> Tensor:
    """Positions along one axis in pixels of the map, ``(bins, samples per bin)``: centers of equal parts of a bin."""
    bin_length = length / resolution
    count = sampling_ratio if sampling_ratio > 0 else max(0, math.ceil(bin_length))
    bins = torch.arange(resolution, dtype=start.dtype)[:, None]
    parts = torch.arange(count, dtype=start.dtype)[None, :] + 0.5
    return start + bins * bin_length + parts * bin_length / max(count, 1)


def interpolation_matrix(positions: Tensor, size: int) -> Tensor:
    """Row i holds the linear weights of the pixels around ``positions[i]``: ``(positions, size)``.

    Positions up to one pixel outside read the border; beyond, the sample is zero. A sample outside on either axis is
    zero, which the product of the two matrices gives by itself.
    """
    outside = (positions < -1.0) | (positions > size)
    clamped = positions.clamp(0.0, size - 1.0)
    low = clamped.floor()
    fraction = clamped - low
    matrix = positions.new_zeros((len(positions), size))
    row = torch.arange(len(positions))
    matrix[row, low.long()] += 1.0 - fraction
    matrix[row, (low.long() + 1).clamp(max=size - 1)] += fraction
    matrix[outside] = 0.0
    return matrix
