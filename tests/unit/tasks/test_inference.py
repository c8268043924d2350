"""Inference on whole images and by sliding windows."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.inference import predict_probabilities, window_corners


class Pointwise(nn.Module):
    """Logits of each pixel by itself, so that no window sees more than another."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": torch.stack([x[:, 0], x[:, 1] * 2, -x[:, 2]], 1)}


class Leaning(nn.Module):
    """Logits that grow to the right of whatever it is shown, and show where its corner lies."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        ramp = torch.linspace(0, 1, x.shape[-1]).expand(x.shape[0], 1, *x.shape[-2:])
        first = x[:, :1, :1, :1].expand_as(ramp)
        return {"out": torch.cat([ramp, 0 * ramp, first], 1)}


def test_whole_is_one_pass_over_the_image():
    image = torch.randn(3, 30, 50)
    expected = Pointwise()(image[None])["out"].softmax(1)[0]
    assert torch.equal(predict_probabilities(Pointwise(), image, "whole", 16), expected)


@pytest.mark.parametrize("size", [(30, 50), (16, 16), (10, 40), (9, 7), (33, 16)])
def test_a_pointwise_network_predicts_the_same_by_windows_of_any_image(size: tuple[int, int]):
    image = torch.randn(3, *size)
    whole = predict_probabilities(Pointwise(), image, "whole", 16)
    assert torch.allclose(
        predict_probabilities(Pointwise(), image, "sliding", 16), whole, atol=1e-6
    )


def by_hand(model: nn.Module, image: Tensor, crop: int) -> Tensor:
    """One window at a time: starts 2/3 of a window apart, the last one pushed back to the end."""
    _, height, width = image.shape
    total, count = torch.zeros(3, height, width), torch.zeros(height, width)
    stride = int(np.ceil(crop * 2 / 3))
    grid = [int(np.ceil((side - crop) / stride)) + 1 for side in (height, width)]
    for i in range(grid[0]):
        for j in range(grid[1]):
            bottom, right = min(i * stride + crop, height), min(j * stride + crop, width)
            rows, columns = slice(bottom - crop, bottom), slice(right - crop, right)
            window = image[None, :, rows, columns]
            straight = F.softmax(model(window)["out"], 1)[0]
            mirrored = F.softmax(model(window.flip(3))["out"], 1)[0].flip(2)
            total[:, rows, columns] += (straight + mirrored) / 2
            count[rows, columns] += 1
    return total / count


@pytest.mark.parametrize("size", [(30, 50), (40, 40), (18, 61)])
def test_sliding_windows_are_averaged_with_their_mirror_images(size: tuple[int, int]):
    torch.manual_seed(0)
    image = torch.randn(3, *size)
    ours = predict_probabilities(Leaning(), image, "sliding", 18)
    assert torch.allclose(ours, by_hand(Leaning(), image, 18), atol=1e-6)


def test_windows_of_473_over_a_voc_image():
    assert list(window_corners(375, 500, 375)) == [(0, 0), (0, 125)]
    assert list(window_corners(500, 600, 473)) == [(0, 0), (0, 127), (27, 0), (27, 127)]
    assert list(window_corners(473, 473, 473)) == [(0, 0)]


def test_scales_are_averaged_at_the_images_size():
    image = torch.randn(3, 20, 30)
    ours = predict_probabilities(Pointwise(), image, "whole", 16, (1.0, 0.5))
    half = F.interpolate(image[None], (10, 15), mode="bilinear", antialias=True)
    small = Pointwise()(half)["out"].softmax(1)
    back = F.interpolate(small, (20, 30), mode="bilinear", align_corners=True)[0]
    whole = predict_probabilities(Pointwise(), image, "whole", 16)
    assert torch.allclose(ours, (whole + back) / 2, atol=1e-6)
    assert torch.allclose(ours.sum(0), torch.ones(20, 30), atol=1e-5)
