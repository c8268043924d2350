"""Whole images and sliding windows; intersection over union and pixel accuracy."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassJaccardIndex

from tasks.metrics import Overlap
from tasks.predict import probabilities, windows


class Pointwise(nn.Module):
    """Logits of each pixel by itself, so that no window sees more than another."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": torch.stack([x[:, 0], x[:, 1] * 2, -x[:, 2]], 1)}


class Leaning(nn.Module):
    """Logits that grow to the right of whatever it is shown, and tell where its corner lies."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        ramp = torch.linspace(0, 1, x.shape[-1]).expand(x.shape[0], 1, *x.shape[-2:])
        first = x[:, :1, :1, :1].expand_as(ramp)
        return {"out": torch.cat([ramp, 0 * ramp, first], 1)}


def test_whole_is_one_pass_over_the_image():
    image = torch.randn(3, 30, 50)
    expected = Pointwise()(image[None])["out"].softmax(1)[0]
    assert torch.equal(probabilities(Pointwise(), image, "whole", 16), expected)


@pytest.mark.parametrize("size", [(30, 50), (16, 16), (10, 40), (9, 7), (33, 16)])
def test_a_pointwise_network_predicts_the_same_by_windows_of_any_image(size: tuple[int, int]):
    image = torch.randn(3, *size)
    whole = probabilities(Pointwise(), image, "whole", 16)
    assert torch.allclose(probabilities(Pointwise(), image, "sliding", 16), whole, atol=1e-6)


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
    ours = probabilities(Leaning(), image, "sliding", 18)
    assert torch.allclose(ours, by_hand(Leaning(), image, 18), atol=1e-6)


def test_windows_of_473_over_a_voc_image():
    assert list(windows(375, 500, 375)) == [(0, 0), (0, 125)]
    assert list(windows(500, 600, 473)) == [(0, 0), (0, 127), (27, 0), (27, 127)]
    assert list(windows(473, 473, 473)) == [(0, 0)]


def test_scales_are_averaged_at_the_images_size():
    image = torch.randn(3, 20, 30)
    ours = probabilities(Pointwise(), image, "whole", 16, (1.0, 0.5))
    half = F.interpolate(image[None], (10, 15), mode="bilinear", antialias=True)
    small = Pointwise()(half)["out"].softmax(1)
    back = F.interpolate(small, (20, 30), mode="bilinear", align_corners=True)[0]
    whole = probabilities(Pointwise(), image, "whole", 16)
    assert torch.allclose(ours, (whole + back) / 2, atol=1e-6)
    assert torch.allclose(ours.sum(0), torch.ones(20, 30), atol=1e-5)


CLASSES = ("background", "a", "b", "c", "d")


def scores(predicted: Tensor, truth: Tensor, parts: int = 1) -> dict[str, float]:
    overlap = Overlap(CLASSES, "val")
    for p, t in zip(predicted.chunk(parts), truth.chunk(parts), strict=True):
        overlap.update(p, t)
    return {k: float(v) for k, v in overlap.compute().items()}


def test_scores_are_sklearns_with_255_left_out():
    torch.manual_seed(0)
    truth = torch.randint(0, 5, (4000,))
    predicted = torch.where(torch.rand(4000) < 0.6, truth, torch.randint(0, 5, (4000,)))
    truth[torch.rand(4000) < 0.1] = 255
    counted = truth != 255
    t, p = truth[counted].numpy(), predicted[counted].numpy()
    ours = scores(predicted, truth, parts=7)
    per_class = 100 * np.asarray(sklearn.jaccard_score(t, p, average=None))  # type: ignore[arg-type]
    assert [ours[f"val_iou_{c}"] for c in CLASSES] == pytest.approx(list(per_class))
    assert ours["val_miou"] == pytest.approx(per_class.mean())
    assert ours["val_pixel_accuracy"] == pytest.approx(100 * sklearn.accuracy_score(t, p))
    theirs = MulticlassJaccardIndex(5, ignore_index=255)(predicted, truth)
    assert ours["val_miou"] == pytest.approx(100 * float(theirs), rel=1e-5)


def test_a_class_in_neither_is_left_out_and_one_in_either_counts():
    truth = torch.tensor([0, 0, 1, 1, 255])
    predicted = torch.tensor([0, 2, 1, 1, 3])
    ours = scores(predicted, truth)
    assert {k for k in ours if "iou_" in k} == {"val_iou_background", "val_iou_a", "val_iou_b"}
    assert ours["val_miou"] == pytest.approx((50 + 100 + 0) / 3)
    assert ours["val_pixel_accuracy"] == pytest.approx(75)


def test_scores_of_several_images_are_of_one_matrix_and_no_average():
    truth = torch.tensor([0, 0, 0, 0, 1, 1])
    predicted = torch.tensor([0, 0, 0, 1, 1, 0])
    together = scores(predicted, truth, parts=3)
    assert together == scores(predicted, truth)
    assert together["val_miou"] == pytest.approx(100 * (3 / 5 + 1 / 3) / 2)


def test_nothing_labelled_is_0_and_no_division_by_it():
    ours = scores(torch.tensor([0, 1]), torch.tensor([255, 255]))
    assert ours == {"val_miou": 0.0, "val_pixel_accuracy": 0.0}
