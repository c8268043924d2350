"""Predict the pixel labels of an image with a network that was trained on crops."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOWS_PER_PASS = 8  # of one forward pass, mirrored windows included


def predict_probabilities(
    model: nn.Module,
    image: Tensor,
    mode: str,
    crop: int,
    scales: Sequence[float] = (1.0,),
    base_size: int | None = None,
) -> Tensor:
    """Return the classes' probabilities, averaged over scales of the image.

    Images and probabilities are resized as in semseg's tool/test.py: bilinear between the centers
    of pixels, without a filter.

    Args:
        model: Returns ``{"out": logits}`` of its input's size.
        image: A normalized image (3, h, w).
        mode: A key of EVAL_MODES.
        crop: Side of a window in pixels.
        scales: Factors by which to resize the image.
        base_size: The longer side in pixels at scale 1 (semseg: 512); by default the image's own.

    Returns:
        Probabilities (c, h, w).
    """
    size, predict = tuple(image.shape[-2:]), EVAL_MODES[mode]
    total = torch.zeros((), device=image.device)
    for scale in scales:
        scaled = _resize(image[None], _scaled_size(size, scale, base_size))
        total = total + _resize(predict(model, scaled, crop), size)
    return total[0] / len(scales)


def whole_image(model: nn.Module, image: Tensor, crop: int) -> Tensor:
    """Return probabilities (n, c, h, w) of images (n, 3, h, w), each in one pass."""
    return model(image)["out"].float().softmax(1)


def sliding_windows(model: nn.Module, image: Tensor, crop: int) -> Tensor:
    """Return probabilities (1, c, h, w) of an image (1, 3, h, w), averaged over windows.

    The windows have the side ``crop`` and a stride of 2/3 of it; each is averaged with its mirror
    image (semseg, tool/test.py). An image smaller than a window is padded with the mean.
    """
    height, width = image.shape[-2:]
    up, left = max(crop - height, 0) // 2, max(crop - width, 0) // 2
    below, right = max(crop - height, 0) - up, max(crop - width, 0) - left
    padded = F.pad(image, [left, right, up, below])
    corners = list(window_corners(padded.shape[-2], padded.shape[-1], crop))
    sums: Tensor | None = None
    counts = torch.zeros(padded.shape[-2:], device=image.device)
    step = WINDOWS_PER_PASS // 2
    for first in range(0, len(corners), step):
        chosen = corners[first : first + step]
        found = _with_mirror_images(model, padded, chosen, crop)  # (k, c, crop, crop)
        for (y, x), chances in zip(chosen, found, strict=True):
            if sums is None:
                sums = padded.new_zeros(len(chances), *padded.shape[-2:])
            sums[:, y : y + crop, x : x + crop] += chances
            counts[y : y + crop, x : x + crop] += 1
    assert sums is not None
    return (sums / counts)[None, :, up : up + height, left : left + width]


def window_corners(height: int, width: int, crop: int) -> Iterator[tuple[int, int]]:
    """Yield upper left corners of windows that cover height x width; the last window of a row or
    column ends at the edge."""
    for y in _starts(height, crop):
        for x in _starts(width, crop):
            yield y, x


def _starts(length: int, crop: int) -> list[int]:
    stride = -(-2 * crop // 3)
    count = -(-(length - crop) // stride) + 1
    return [min(i * stride, length - crop) for i in range(count)]


def _with_mirror_images(
    model: nn.Module, image: Tensor, corners: Sequence[tuple[int, int]], crop: int
) -> Tensor:
    """Return probabilities (k, c, crop, crop) of k windows, averaged with their mirror images."""
    cut = torch.cat([image[..., y : y + crop, x : x + crop] for y, x in corners])
    straight, mirrored = whole_image(model, torch.cat([cut, cut.flip(-1)]), crop).chunk(2)
    return (straight + mirrored.flip(-1)) / 2


def _scaled_size(size: tuple[int, ...], scale: float, base_size: int | None) -> tuple[int, ...]:
    """Return the sides of an image of ``size``, scaled."""
    if base_size is None:
        return tuple(max(1, round(side * scale)) for side in size)
    longer = max(1, round(base_size * scale))
    return tuple(max(1, round(longer / max(size) * side)) for side in size)


def _resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return maps (n, c, h, w) at ``size``. With ``align_corners`` in one direction alone, they
    would move by up to half a pixel of the scaled image."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


EVAL_MODES: dict[str, Callable[[nn.Module, Tensor, int], Tensor]] = {
    "whole": whole_image,
    "sliding": sliding_windows,
}
