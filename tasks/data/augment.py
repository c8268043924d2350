"""Augmentation of images with masks or boxes, made of torchvision's v2 transforms."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as v2F

from tasks.data.voc import VOID

# Mean and standard deviation of the channels over ImageNet, which torchvision's weights expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN_PIXEL = [round(255 * m) for m in MEAN]


class RandomScale(v2.Transform):
    """Scale height and width by one factor, sampled uniformly from [low, high]."""

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
    """Blur a uint8 image (c, h, w) like torchvision, up to one gray level, one axis at a time.

    A 5 x 5 kernel costs 10 products per pixel instead of 25.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image) or inpt.dtype != torch.uint8:
            return super().transform(inpt, params)
        blurred = inpt.as_subclass(Tensor).float()
        sizes: Any = self.kernel_size
        for axis, size, sigma in zip((-1, -2), sizes, params["sigma"], strict=True):
            blurred = _blur_axis(blurred, axis, size, sigma)
        return tv_tensors.Image(blurred.round_().to(torch.uint8))


def _blur_axis(image: Tensor, axis: int, size: int, sigma: float) -> Tensor:
    """Convolve one axis of (c, h, w) with a Gaussian of ``size`` pixels, mirrored at the edges."""
    half, length = size // 2, image.shape[axis]
    x = torch.linspace(-half, half, size)
    weights = torch.softmax(-(x / sigma).square() / 2, 0).tolist()
    padding = [half, half, 0, 0] if axis == -1 else [0, 0, half, half]
    padded = F.pad(image, padding, mode="reflect")
    total = padded.narrow(axis, 0, length) * weights[0]
    for start, weight in enumerate(weights[1:], 1):
        total.add_(padded.narrow(axis, start, length), alpha=weight)
    return total


def segmentation_transform(crop: int) -> v2.Transform:
    """Return PSPNet's augmentation (semseg, util/transform.py).

    It scales by 0.5 to 2, rotates by up to 10 degrees with probability 0.5, flips, crops, and blurs
    with probability 0.5. Pixels outside the image are the mean pixel and VOID. The blur comes after
    the crop, where it costs less.

    Args:
        crop: Side of the result in pixels.

    Returns:
        A transform of an Image (3, h, w) and a Mask (h, w), both uint8.
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


def detection_transform(size: int) -> v2.Transform:
    """Return SSD's augmentation (Liu et al., 2016, sections 2.2 and 3.6).

    It distorts the colors, zooms out by up to 4 onto the mean pixel with probability 0.5, crops so
    that some object overlaps by at least 0.1 ... 0.9, flips, and resizes. It removes boxes whose
    center is outside the crop, with their labels.

    Args:
        size: Side of the result in pixels.

    Returns:
        A transform of a uint8 Image (3, h, w) and ``{"boxes", "labels", "difficult"}``.
    """
    fill: dict[Any, Any] = {tv_tensors.Image: MEAN_PIXEL, "others": 0}
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(p=0.5),
            v2.RandomZoomOut(fill=fill, side_range=(1.0, 4.0), p=0.5),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            resize_transform(size),
            v2.SanitizeBoundingBoxes(labels_getter=_box_labels),
        ]
    )


def resize_transform(size: int) -> v2.Transform:
    """Return a transform of an image and its boxes to ``size`` x ``size``, whatever their shape."""
    return v2.Resize([size, size], antialias=True)


def _box_labels(inputs: Any) -> tuple[Any, ...]:
    _, objects = inputs
    return objects["labels"], objects["difficult"]


def normalize(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Return uint8 images (..., 3, h, w) as float32, ``(image / 255 - mean) / std`` per channel."""
    shift, scale = (channel_constants(tuple(v), 255, images.device) for v in (mean, std))
    return (images.float() - shift) / scale


@lru_cache
def channel_constants(values: tuple[float, ...], factor: float, device: torch.device) -> Tensor:
    """Return ``values`` times ``factor`` as (c, 1, 1) on a device, to which they are copied once: a
    copy from a list waits for a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(-1, 1, 1) * factor
