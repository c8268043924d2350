"""What training sees of an image and its labels, by torchvision's v2 transforms."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as v2F

from tasks.voc import VOID

# The channels' mean and deviation over ImageNet, as torchvision's weights want them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN_PIXEL = [round(255 * m) for m in MEAN]


class RandomScale(v2.Transform):
    """Height and width times one factor, drawn uniformly from [low, high]."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2F.get_size(flat_inputs[0])
        factor = torch.empty(1).uniform_(self.low, self.high).item()
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2F.resize, inpt, **params, antialias=True)


class GaussianBlur(v2.GaussianBlur):
    """torchvision's blur of an image (c, h, w) of bytes, to within one level, a direction at a
    time: 10 products a pixel for 5 x 5 instead of 25."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image) or inpt.dtype != torch.uint8:
            return super().transform(inpt, params)
        blurred = inpt.as_subclass(Tensor).float()
        sizes: Any = self.kernel_size
        for axis, size, sigma in zip((-1, -2), sizes, params["sigma"], strict=True):
            blurred = _smooth(blurred, axis, size, sigma)
        return tv_tensors.Image(blurred.round_().to(torch.uint8))


def _smooth(image: Tensor, axis: int, size: int, sigma: float) -> Tensor:
    """A Gaussian of ``size`` pixels along one axis of (c, h, w), mirrored at the edges."""
    half, length = size // 2, image.shape[axis]
    x = torch.linspace(-half, half, size)
    weights = torch.softmax(-(x / sigma).square() / 2, 0).tolist()
    padding = [half, half, 0, 0] if axis == -1 else [0, 0, half, half]
    padded = F.pad(image, padding, mode="reflect")
    total = padded.narrow(axis, 0, length) * weights[0]
    for start, weight in enumerate(weights[1:], 1):
        total.add_(padded.narrow(axis, start, length), alpha=weight)
    return total


def segmentation(crop: int) -> v2.Transform:
    """PSPNet's augmentation (semseg, util/transform.py) of an Image (3, h, w) and a Mask (h, w) of
    bytes: scale 0.5 to 2, rotation by up to 10 degrees and blur half of the time each, flip, and a
    crop, filled with the mean pixel and VOID. The blur comes behind the crop, where it costs less.
    """
    fill: dict[Any, Any] = {tv_tensors.Image: MEAN_PIXEL, tv_tensors.Mask: VOID}
    rotate = v2.RandomRotation([-10, 10], v2.InterpolationMode.BILINEAR, fill=fill)
    return v2.Compose(
        [
            RandomScale(0.5, 2.0),
            v2.RandomApply([rotate], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
            v2.RandomApply([GaussianBlur(5)], p=0.5),
        ]
    )


def detection(size: int) -> v2.Transform:
    """SSD's augmentation (Liu et al., 2016, section 2.2 and 3.6) of an Image (3, h, w) of bytes and
    ``{"boxes", "labels", "difficult"}``: colours distorted, zoomed out by up to 4 half of the time
    onto the mean pixel, cropped so that some object overlaps by at least 0.1 ... 0.9, flipped and
    brought to ``size`` x ``size``; boxes whose centre is cut off go, with their labels."""
    fill: dict[Any, Any] = {tv_tensors.Image: MEAN_PIXEL, "others": 0}
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(p=0.5),
            v2.RandomZoomOut(fill=fill, side_range=(1.0, 4.0), p=0.5),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize([size, size], antialias=True),
            v2.SanitizeBoundingBoxes(labels_getter=_with_boxes),
        ]
    )


def resized(size: int) -> v2.Transform:
    """Image and boxes to ``size`` x ``size``, whatever their shape."""
    return v2.Resize([size, size], antialias=True)


def _with_boxes(inputs: Any) -> tuple[Any, ...]:
    _, objects = inputs
    return objects["labels"], objects["difficult"]


def normalised(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Bytes (..., 3, h, w) to float32 with mean 0 and deviation 1 over ImageNet."""
    shift, scale = (255 * torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (mean, std))
    return (images.float() - shift) / scale
