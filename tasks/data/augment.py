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


class PhotometricDistort(v2.Transform):
    """Distort the colors of an image (3, h, w) of 0 ... 255 as SSD does (Liu et al., 2016, section
    2.2, with the numbers of the authors' Caffe code).

    Each with probability 0.5: add up to 32 to all pixels, multiply all by 0.5 to 1.5 (contrast),
    multiply HSV's saturation by 0.5 to 1.5, turn its hue by up to 36 degrees (18 of 180), and
    reorder the channels. The contrast changes before or after saturation and hue. Values are cut to
    0 ... 255 after each. torchvision's RandomPhotometricDistort multiplies the brightness and keeps
    it in a change of contrast: an image's mean moves a fifth as much.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        def draw(low: float, high: float, neutral: float) -> float:
            value = torch.empty(()).uniform_(low, high).item()
            return value if torch.rand(()) < 0.5 else neutral

        return {
            "brightness": draw(-32, 32, 0),
            "contrast": draw(0.5, 1.5, 1),
            "saturation": draw(0.5, 1.5, 1),
            "hue": draw(-0.6, 0.6, 0),  # in sextants of the circle
            "contrast_first": bool(torch.rand(()) < 0.5),
            "order": torch.randperm(3).tolist() if torch.rand(()) < 0.5 else [0, 1, 2],
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        image = inpt.as_subclass(Tensor).to(torch.float32, copy=True)
        if params["brightness"]:
            image.add_(params["brightness"]).clamp_(0, 255)
        if params["contrast_first"]:
            image.mul_(params["contrast"]).clamp_(0, 255)
        if params["saturation"] != 1 or params["hue"]:
            image = _change_hsv(image, params["saturation"], params["hue"])
        if not params["contrast_first"]:
            image.mul_(params["contrast"]).clamp_(0, 255)
        if params["order"] != [0, 1, 2]:
            image = image[params["order"]]
        return tv_tensors.Image(image.round_().to(torch.uint8))


def _change_hsv(image: Tensor, saturation: float, turn: float) -> Tensor:
    """Multiply the saturation of (3, h, w) in HSV and turn its hue by sextants of the circle.

    A channel falls from value to value - chroma where the hue is 1 to 2 sextants away from its own.
    """
    red, green, blue = image
    value = image.amax(0)
    chroma = value - image.amin(0)
    if not turn:
        below = value - image
        if saturation > 1:  # at most 1 after it
            return value - below * (value / chroma.clamp(min=1e-3)).clamp_(max=saturation)
        return value - below.mul_(saturation)
    is_red, is_green = value == red, value == green
    rest = torch.where(is_green, blue - red, red - green)
    hue = torch.where(is_red, green - blue, rest).div_(chroma.clamp(min=1e-3))
    hue.add_(torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))).add_(turn)  # -1.6 ... 5.6
    chroma = torch.minimum(chroma.mul_(saturation), value)
    away = (hue - torch.tensor([0.0, 2.0, 4.0]).view(3, 1, 1)).abs_().sub_(3).abs_().neg_().add_(3)
    return torch.sub(value, away.sub_(1).clamp_(0, 1).mul_(chroma))


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
    center is outside the crop, with their labels. Where it does not zoom out, it distorts what the
    crop left: the same pixels, at less cost.

    Args:
        size: Side of the result in pixels.

    Returns:
        A transform of a uint8 Image (3, h, w) and ``{"boxes", "labels", "difficult"}``.
    """
    fill: dict[Any, Any] = {tv_tensors.Image: MEAN_PIXEL, "others": 0}
    distort, crop = PhotometricDistort(), v2.RandomIoUCrop()
    zoom_out = v2.RandomZoomOut(fill=fill, side_range=(1.0, 4.0), p=1)
    ways = [v2.Compose([distort, zoom_out, crop]), v2.Compose([crop, distort])]
    return v2.Compose(
        [
            v2.RandomChoice(ways, p=[0.5, 0.5]),
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
