"""What all augmentations share: the mean pixel, arrays and tensors, normalization."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# Mean and standard deviation of the channels over ImageNet, which torchvision's weights expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN_PIXEL = [round(255 * m) for m in MEAN]


def as_array(image: Tensor) -> np.ndarray:
    """Return an image, uint8 (3, h, w), as a contiguous array (h, w, 3), as OpenCV takes it."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Return an array (h, w, 3) as a contiguous tensor (3, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def normalize(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Return uint8 images (..., 3, h, w) as float32, ``(image / 255 - mean) / std`` per channel."""
    shift, scale = (channel_constants(tuple(v), 255, images.device) for v in (mean, std))
    return images.to(torch.float32, copy=True).sub_(shift).div_(scale)


@lru_cache
def channel_constants(values: tuple[float, ...], factor: float, device: torch.device) -> Tensor:
    """Return ``values`` times ``factor`` as (c, 1, 1) on a device, to which they are copied once: a
    copy from a list waits for a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(-1, 1, 1) * factor
