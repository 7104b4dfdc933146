"""The torch RoIAlign is a witness for the compiled one, so it is itself checked against what can be said by hand."""

from __future__ import annotations

import pytest
import torch
from torch_roi_align import box_levels, multilevel_roi_align, roi_align

HEIGHT, WIDTH = 12, 16


def ramp() -> torch.Tensor:
    """Channel 0 is the pixel's column, channel 1 its row: pooling gives the sample positions themselves."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return torch.stack([columns, rows]).float()


@pytest.mark.parametrize(
    ("size", "level"), [(1, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (447, 2), (448, 3), (5000, 3)]
)
def test_levels_by_box_size(size: float, level: int) -> None:
    assert box_levels(torch.tensor([[3.0, 5.0, 3.0 + size, 5.0 + size]]), (4, 8, 16, 32)).tolist() == [level]


def test_levels_of_boxes_without_area_and_of_a_cut_pyramid() -> None:
    assert box_levels(torch.zeros(1, 4), (4, 8, 16, 32)).tolist() == [0]
    assert box_levels(torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 9e3, 9e3]]), (8, 16)).tolist() == [0, 1]


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize(("aligned", "shift"), [(True, 0.5), (False, 0.0)])
def test_bins_are_sampled_around_their_centres(sampling_ratio: int, aligned: bool, shift: float) -> None:
    # Inside of the picture the mean over a bin of a ramp is the ramp at the bin's center, however it is sampled.
    pooled = roi_align(ramp(), torch.tensor([8.0, 6.0, 40.0, 30.0]), 0.25, 4, sampling_ratio, aligned)
    centers = torch.arange(4) + 0.5
    torch.testing.assert_close(pooled[0], (2 + centers * 8 / 4 - shift).expand(4, 4))
    torch.testing.assert_close(pooled[1], (1.5 + centers * 6 / 4 - shift)[:, None].expand(4, 4))


def test_unaligned_boxes_have_at_least_one_pixel() -> None:
    box = torch.tensor([4.0, 3.0, 4.0, 3.0])
    torch.testing.assert_close(roi_align(ramp(), box, 1.0, 1, 1, False)[:, 0, 0], torch.tensor([4.5, 3.5]))
    torch.testing.assert_close(roi_align(ramp(), box, 1.0, 1, 1, True)[:, 0, 0], torch.tensor([3.5, 2.5]))
    assert roi_align(ramp(), box, 1.0, 1, 0, True).abs().max() == 0  # no samples at all


def test_adaptive_sampling_takes_as_many_samples_as_the_bin_has_pixels() -> None:
    spike = torch.zeros(1, HEIGHT, WIDTH)
    spike[0, 5, 7] = 1.0
    # 3.2 pixels per bin: four samples per axis, 0.8 apart, at 4.9, 5.7, 6.5, 7.3 and 3.9, 4.7, 5.5, 6.3.
    box = torch.tensor([4.5, 3.5, 7.7, 6.7])
    expected = (0.5 + 0.7) * (0.7 + 0.5) / 16
    torch.testing.assert_close(roi_align(spike, box, 1.0, 1, 0, False)[0, 0, 0].item(), expected, rtol=1e-5, atol=0)


def test_border_is_repeated_for_one_pixel_and_zero_beyond() -> None:
    ones = torch.ones(1, HEIGHT, WIDTH)

    def sample(x: float, y: float) -> float:
        return roi_align(ones, torch.tensor([x - 0.5, y - 0.5, x + 0.5, y + 0.5]), 1.0, 1, 1, False).item()

    assert sample(-0.99, 3) == 1
    assert sample(-1.01, 3) == 0
    assert sample(3, HEIGHT) == 1
    assert sample(3, HEIGHT + 0.01) == 0
    assert sample(WIDTH, HEIGHT) == 1
    assert sample(WIDTH + 0.01, 3) == 0


def test_each_box_reads_its_own_level() -> None:
    levels = [torch.full((1, 2, 256 // s, 256 // s), float(s)) for s in (4, 8, 16, 32)]
    boxes = torch.tensor([[0.0, 0.0, 60.0, 60.0], [0.0, 0.0, 120.0, 120.0], [0.0, 0.0, 250.0, 250.0]])
    pooled = multilevel_roi_align(levels, boxes, (4, 8, 16, 32), 3, 2, True)
    assert pooled.shape == (3, 2, 3, 3)
    torch.testing.assert_close(pooled[:, 0, 1, 1], torch.tensor([4.0, 8.0, 16.0]))
    single = multilevel_roi_align(levels[:1], boxes, (4,), 3, 2, True)
    torch.testing.assert_close(single[:, 0, 1, 1], torch.tensor([4.0, 4.0, 4.0]))


def test_no_boxes() -> None:
    assert multilevel_roi_align([ramp()[None]], torch.zeros(0, 4), (4,), 7, 0, True).shape == (0, 2, 7, 7)
