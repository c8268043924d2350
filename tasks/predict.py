"""Ways to predict an image's labels with a network that was trained on crops."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AT_ONCE = 8  # windows of one forward pass


def probabilities(
    model: nn.Module, image: Tensor, mode: str, crop: int, scales: Sequence[float] = (1.0,)
) -> Tensor:
    """The classes' probabilities (c, h, w) for a normalised image (3, h, w), averaged over
    ``scales`` of the image. ``mode`` is one of MODES, ``crop`` the side of its windows."""
    size, predict = image.shape[-2:], MODES[mode]
    total = torch.zeros((), device=image.device)
    for scale in scales:
        scaled = image[None] if scale == 1 else _scaled(image[None], scale)
        total = total + _to(predict(model, scaled, crop), size)
    return total[0] / len(scales)


def whole(model: nn.Module, image: Tensor, crop: int) -> Tensor:
    """(1, c, h, w) for (1, 3, h, w): the image as it is, in one pass."""
    return model(image)["out"].float().softmax(1)


def sliding(model: nn.Module, image: Tensor, crop: int) -> Tensor:
    """The average over windows of side ``crop``, 2/3 of it apart, and over the image and its mirror
    image (semseg, tool/test.py). What is smaller than a window is padded with the mean."""
    height, width = image.shape[-2:]
    up, left = max(crop - height, 0) // 2, max(crop - width, 0) // 2
    below, right = max(crop - height, 0) - up, max(crop - width, 0) - left
    padded = F.pad(image, [left, right, up, below])
    corners = list(windows(padded.shape[-2], padded.shape[-1], crop))
    sums: Tensor | None = None
    counts = torch.zeros(padded.shape[-2:], device=image.device)
    for first in range(0, len(corners), AT_ONCE // 2):
        chosen = corners[first : first + AT_ONCE // 2]
        for (y, x), chances in zip(chosen, _both_ways(model, padded, chosen, crop), strict=True):
            if sums is None:
                sums = padded.new_zeros(len(chances), *padded.shape[-2:])
            sums[:, y : y + crop, x : x + crop] += chances
            counts[y : y + crop, x : x + crop] += 1
    assert sums is not None
    return (sums / counts)[None, :, up : up + height, left : left + width]


def windows(height: int, width: int, crop: int) -> Iterator[tuple[int, int]]:
    """Upper left corners that cover height x width; the last of a row or column touches its end."""
    for y in _starts(height, crop):
        for x in _starts(width, crop):
            yield y, x


def _starts(length: int, crop: int) -> list[int]:
    stride = -(-2 * crop // 3)
    count = -(-(length - crop) // stride) + 1
    return [min(i * stride, length - crop) for i in range(count)]


def _both_ways(
    model: nn.Module, image: Tensor, corners: Sequence[tuple[int, int]], crop: int
) -> Tensor:
    """Probabilities (k, c, crop, crop) of k windows, averaged with those of their mirror images."""
    cut = torch.cat([image[..., y : y + crop, x : x + crop] for y, x in corners])
    straight, mirrored = whole(model, torch.cat([cut, cut.flip(-1)]), crop).chunk(2)
    return (straight + mirrored.flip(-1)) / 2


def _scaled(image: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=scale < 1)


def _to(chances: Tensor, size: torch.Size) -> Tensor:
    if chances.shape[-2:] == size:
        return chances
    return F.interpolate(chances, size, mode="bilinear", align_corners=True)


MODES: dict[str, Callable[[nn.Module, Tensor, int], Tensor]] = {"whole": whole, "sliding": sliding}
