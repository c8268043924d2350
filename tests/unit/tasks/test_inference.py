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


class Returning(nn.Module):
    """The layer's result as logits."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.layer(x)}


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


def resized_by_hand(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(c, h, w) by cv2.resize's INTER_LINEAR: pixel y has its center at (y + 1/2) h / height."""
    for axis, length in ((1, height), (2, width)):
        sides = maps.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * sides / length - 0.5, 0, sides - 1)
        before = np.minimum(place.astype(int), max(sides - 2, 0))
        after = np.minimum(before + 1, sides - 1)
        share = (place - before).reshape((-1, 1) if axis == 1 else (1, -1))
        maps = maps.take(before, axis) * (1 - share) + maps.take(after, axis) * share
    return maps


def scaled_by_hand(
    model: nn.Module, image: Tensor, crop: int, scales: tuple[float, ...], base_size: int | None
) -> np.ndarray:
    """semseg's test: resize the image, pad it to a window, slide, cut, and resize back; in
    float64."""
    _, height, width = image.shape
    total = np.zeros((3, height, width))
    for scale in scales:
        factor = scale if base_size is None else round(scale * base_size) / max(height, width)
        rows, columns = round(height * factor), round(width * factor)
        scaled = resized_by_hand(image.double().numpy(), rows, columns)
        down, across = max(crop - rows, 0), max(crop - columns, 0)
        top, left = down // 2, across // 2
        padded = np.pad(scaled, ((0, 0), (top, down - top), (left, across - left)))
        chances = by_hand(model, torch.from_numpy(padded), crop).numpy()
        inside = chances[:, top : top + rows, left : left + columns]
        total += resized_by_hand(inside, height, width)
    return total / len(scales)


@pytest.mark.parametrize("base_size", [None, 50, 73])
@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
@pytest.mark.parametrize("size", [(45, 60), (60, 45), (31, 62)])
def test_a_scale_is_that_of_an_independent_implementation(
    size: tuple[int, int], scale: float, base_size: int | None
):
    torch.manual_seed(0)
    model = nn.Conv2d(3, 3, 5, padding=2).double()
    network, image = Returning(model), torch.randn(3, *size, dtype=torch.float64)
    with torch.no_grad():
        ours = predict_probabilities(network, image, "sliding", 25, (scale,), base_size)
        theirs = scaled_by_hand(network, image, 25, (scale,), base_size)
    assert np.abs(ours.double().numpy() - theirs).max() < 1e-6


def test_scales_are_averaged_at_the_images_size():
    torch.manual_seed(1)
    image, scales = torch.randn(3, 40, 60), (0.5, 1.0, 1.75)
    network = Returning(nn.Conv2d(3, 3, 5, padding=2))
    with torch.no_grad():
        ours = predict_probabilities(network, image, "sliding", 25, scales)
        theirs = scaled_by_hand(network.double(), image.double(), 25, scales, None)
    assert np.abs(ours.numpy() - theirs).max() < 1e-6
    assert torch.allclose(ours.sum(0), torch.ones(40, 60), atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25, 1.5, 1.75])
def test_nothing_moves_on_the_way_to_a_scale_and_back(scale: float):
    """The log of a probability that grows by the same factor from column to column."""
    ramp = torch.arange(240.0).expand(1, 180, 240) / 40
    image = torch.cat([ramp, -ramp, torch.zeros_like(ramp)])
    chances = predict_probabilities(Returning(nn.Identity()), image, "whole", 16, (scale,))
    columns = 20 * (chances[0] / chances[1]).log()
    assert (columns - torch.arange(240.0))[:, 4:-4].abs().max() < 0.05


@pytest.mark.parametrize(
    ("size", "expected"), [((375, 500), (384, 512)), ((500, 333), (512, 341)), ((2, 900), (1, 512))]
)
def test_the_longer_side_has_the_base_size(size: tuple[int, int], expected: tuple[int, int]):
    seen: list[tuple[int, ...]] = []
    network = Returning(nn.Identity())
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    predict_probabilities(network, torch.zeros(3, *size), "whole", 16, (1.0,), 512)
    assert seen == [expected]
